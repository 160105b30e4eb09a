"""State dicts with the names and conventions of other frameworks, as `state_dict` and `load_state_dict` convert them.

| here, torch  | flax  | keras           | onnx (LayerNormalization; GroupNormalization) |
|---|---|---|---|
| weight       | scale | gamma           | scale (Scale) |
| bias         | bias  | beta            | B (bias) |
| running_mean | mean  | moving_mean     | input_mean |
| running_var  | var   | moving_variance | input_var |

Only torch has `num_batches_tracked`. By default a running variance is copied unchanged, so that evaluation gives the
same y. But torch tracks the unbiased variance of each batch, and the other frameworks the biased one. With `values`,
the number n of values per channel in every batch, the variance is converted to what the other framework would have
tracked: it is multiplied by (n - 1) / n, except for the remainder of the initial value 1, which is (1 -
momentum)^num_batches_tracked. When a state without num_batches_tracked is read, that remainder is taken as 0.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import base_array
from normzoo.passes.numbers import check_counts, check_size

TORCH = "torch"
_FLAX = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_KERAS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_BATCH = {"weight": "scale", "bias": "B", "running_mean": "input_mean", "running_var": "input_var"}

# The layer or operator that corresponds to a norm, and the names of its state there. The lookup is by exact class: the
# other framework's layer does not know what a subclass changes.
COUNTERPARTS: dict[str, dict[str, tuple[str, dict[str, str]]]] = {
    "flax": {
        "BatchNorm": ("BatchNorm", _FLAX),
        "FrozenBatchNorm": ("BatchNorm", _FLAX),
        "SyncBatchNorm": ("BatchNorm", _FLAX),
        "InstanceNorm": ("InstanceNorm", {"weight": "scale", "bias": "bias"}),
        "LayerNorm": ("LayerNorm", {"weight": "scale", "bias": "bias"}),
        "GroupNorm": ("GroupNorm", {"weight": "scale", "bias": "bias"}),
        "RMSNorm": ("RMSNorm", {"weight": "scale"}),
    },
    "keras": {
        "BatchNorm": ("BatchNormalization", _KERAS),
        "FrozenBatchNorm": ("BatchNormalization", _KERAS),
        "SyncBatchNorm": ("BatchNormalization", _KERAS),
        "InstanceNorm": ("GroupNormalization", {"weight": "gamma", "bias": "beta"}),
        "LayerNorm": ("LayerNormalization", {"weight": "gamma", "bias": "beta"}),
        "GroupNorm": ("GroupNormalization", {"weight": "gamma", "bias": "beta"}),
        "RMSNorm": ("RMSNormalization", {"weight": "scale"}),
        "UnitNorm": ("UnitNormalization", {}),
    },
    "onnx": {
        "BatchNorm": ("BatchNormalization", _BATCH),
        "FrozenBatchNorm": ("BatchNormalization", _BATCH),
        "SyncBatchNorm": ("BatchNormalization", _BATCH),
        "InstanceNorm": ("InstanceNormalization", {"weight": "scale", "bias": "B"}),
        "LayerNorm": ("LayerNormalization", {"weight": "Scale", "bias": "B"}),
        "GroupNorm": ("GroupNormalization", {"weight": "scale", "bias": "bias"}),
        "RMSNorm": ("RMSNormalization", {"weight": "scale"}),
        "LocalResponseNorm": ("LRN", {}),
        "MeanVarianceNorm": ("MeanVarianceNormalization", {}),
        "UnitNorm": ("LpNormalization", {}),
    },
}
# Inputs that ONNX requires of these operators; if the norm has none, a neutral value is written.
_NEEDED = {
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
    "InstanceNormalization": ("weight", "bias"),
    "GroupNormalization": ("weight", "bias"),
    "LayerNormalization": ("weight",),
    "RMSNormalization": ("weight",),
}
_NEUTRAL = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def counterpart(norm: Any, dialect: str) -> tuple[str, dict[str, str]]:
    """The name of the norm in a dialect, and the names of its state there.

    Raises:
        ValueError: there is no such dialect, or it has no such norm.
    """
    if dialect not in COUNTERPARTS:
        known = ", ".join(map(repr, (TORCH, *COUNTERPARTS)))
        raise ValueError(f"{norm}: expected dialect to be one of {known}, got {dialect!r}")
    known_norms = COUNTERPARTS[dialect]
    kind = type(norm).__name__
    if kind not in known_norms or not type(norm).__module__.startswith("normzoo."):
        raise ValueError(
            f"{norm}: expected a norm that {dialect} has ({', '.join(known_norms)}), got {type(norm).__name__}; "
            "write state_dict()"
        )
    found, names = known_norms[kind]
    held = [*norm.params, *norm.buffers]
    others = [name for name in held if name not in names and name != "num_batches_tracked"]
    if others:
        raise ValueError(f"{norm}: expected a state that {dialect}'s {found} has, got {others} too; write state_dict()")
    return found, names


def _check_divides(norm: Any, dialect: str, variance: Array) -> None:
    """Check that variance + eps > 0: other frameworks divide by its square root in any case."""
    none = variance.astype(np.float64) + (norm.eps or 0.0) <= 0
    if none.any():
        first = int(np.argmax(none))
        raise ValueError(
            f"{norm}: expected running_var + eps > 0, by whose root {dialect} divides, got "
            f"{float(variance.reshape(-1)[first]):g} + {norm.eps or 0.0:g} in channel {first}; write "
            f"norm.weight[{first}], norm.running_var[{first}] = 0, 1 where it is 0: y is the same"
        )


def written(norm: Any, state: Mapping[str, Array], dialect: str, values: int | None, opset: int) -> dict[str, Array]:
    """The state of the norm, a dict of arrays with torch's names, converted to a dialect."""
    found, names = counterpart(norm, dialect)
    count = state.get("num_batches_tracked")
    state = {name: a for name, a in state.items() if name != "num_batches_tracked"}
    if "running_var" in state:
        _check_divides(norm, dialect, state["running_var"])
        state["running_var"] = _corrected(norm, state["running_var"], values, count, to_biased=True)
    if "weight" in state and hasattr(norm, "offset"):  # RMSNorm; other frameworks store the sum
        state["weight"] = (state["weight"].astype(np.float64) + norm.offset).astype(state["weight"].dtype)
    if dialect == "onnx":
        state = _for_onnx(norm, found, state, opset)
    return {names[name]: a for name, a in state.items()}


def read(norm: Any, state: Any, dialect: str, values: int | None) -> dict[str, Array]:
    """The state from `written`, or Flax's {"params": ..., "batch_stats": ...}, converted to torch's names."""
    found, names = counterpart(norm, dialect)
    if not isinstance(state, Mapping):
        raise TypeError(f"{norm}: expected state to be a dict of arrays, got {type(state).__name__}")
    if dialect == "flax" and state.keys() <= {"params", "batch_stats"}:
        state = {name: a for part in state.values() for name, a in part.items()}
    count = {name: a for name, a in state.items() if name == "num_batches_tracked"}
    state = {name: a for name, a in state.items() if name not in count}
    back = {there: here for here, there in names.items()}
    unexpected = [name for name in state if name not in back]
    held = [name for name in (*norm.params, *norm.buffers) if name != "num_batches_tracked"]
    given = {back[name]: base_array(norm, name, a) for name, a in state.items() if name in back}
    given = {name: a for name, a in given.items() if name in held or not _is_neutral(norm, dialect, name, a)}
    missing = [names[name] for name in held if name not in given]
    unexpected += [names[name] for name in given if name not in held]
    if missing or unexpected:
        wanted = [names[name] for name in held]
        raise ValueError(f"{norm}: expected state of {dialect}'s {found} with {wanted}, got {missing=}, {unexpected=}")
    if "running_var" in given:
        tracked = count.get("num_batches_tracked")
        given["running_var"] = _corrected(norm, given["running_var"], values, tracked, to_biased=False)
    if dialect == "onnx" and found == "GroupNormalization":
        each = norm.num_channels // norm.num_groups
        given = {name: np.repeat(a, each) if a.shape == (norm.num_groups,) else a for name, a in given.items()}
    if dialect == "onnx" and found in ("LayerNormalization", "RMSNormalization"):
        wide = _broadcast_shape(norm, found)
        given = {name: a.reshape(norm._shape) if a.shape == wide else a for name, a in given.items()}
    if "weight" in given and hasattr(norm, "offset"):
        given["weight"] = given["weight"].astype(np.float64) - norm.offset
    return given | count


def _corrected(norm: Any, var: Array, values: int | None, count: Any, to_biased: bool) -> Array:
    """A running variance in the other convention, for batches of `values` values per channel; unchanged if None."""
    if values is None:
        return var
    n = check_size(norm, "values", values, least=2)
    first = 0.0  # the weight that is left of the initial value
    if count is not None:
        batches, momentum = check_counts(norm, "num_batches_tracked", count, ()).item(), norm.momentum
        first = float(batches == 0) if momentum is None else (1 - momentum) ** batches
    return (first + (var.astype(np.float64) - first) * ((n - 1) / n if to_biased else n / (n - 1))).astype(var.dtype)


def _for_onnx(norm: Any, found: str, state: dict[str, Array], opset: int) -> dict[str, Array]:
    """The state with all inputs that the operator requires, one value per group for GroupNormalization of opset 18."""
    like = next(iter(state.values()), np.zeros((), np.float32)).dtype
    for name in _NEEDED.get(found, ()):
        # required in training, too, where the operator does not read the running statistics
        state.setdefault(name, np.full(norm._shape, _NEUTRAL[name], like))
    if found in ("LayerNormalization", "RMSNormalization"):
        shape = _broadcast_shape(norm, found)
        state = {name: a.reshape(shape) for name, a in state.items()}
    if found == "GroupNormalization" and check_size(norm, "opset", opset, least=18) < 21:
        return {name: _per_group(norm, name, a, opset) for name, a in state.items()}
    return {name: state[name] for name in ("weight", "bias", "running_mean", "running_var") if name in state}


def _broadcast_shape(norm: Any, found: str) -> tuple[int, ...]:
    """The shape in which parameters along some of the last axes broadcast to x."""
    if norm.axis is not None:
        raise ValueError(f"{norm}: expected the last axes, as ONNX's {found}, got axis={norm.axis}")
    spans = norm.parameter_axis
    if spans is None:
        return norm._shape
    spans = spans if isinstance(spans, tuple) else (spans,)
    if max(spans) >= 0:
        raise ValueError(
            f"{norm}: expected parameters of axes that are counted from the last, as ONNX's {found} has, got "
            f"parameter_axis={norm.parameter_axis}; write them as negative numbers"
        )
    sizes = dict(zip(spans, norm._shape, strict=True))
    return tuple(sizes.get(i, 1) for i in range(min(spans), 0))


def _per_group(norm: Any, name: str, a: Array, opset: int) -> Array:
    """One value per group, after checking that all channels of a group have the same value."""
    groups = a.reshape(norm.num_groups, -1)
    if not (groups == groups[:, :1]).all():
        raise ValueError(
            f"{norm}: expected one {name} for each group, as GroupNormalization of opset {opset} has, got different "
            "ones for its channels; write opset=21"
        )
    return groups[:, 0].copy()


def _is_neutral(norm: Any, dialect: str, name: str, a: Array) -> bool:
    """Is this an input that ONNX requires and the norm does not have, with a value that changes nothing?"""
    return dialect == "onnx" and name in _NEUTRAL and bool((a == _NEUTRAL[name]).all())
