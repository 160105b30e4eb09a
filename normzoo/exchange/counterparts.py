"""Norms by the names, arguments and defaults of Flax and Keras: `create(..., dialect=)` and its inverse, `describe`.

| here | flax | keras | onnx |
|---|---|---|---|
| momentum m, of the new value | momentum = 1 - m | momentum = 1 - m | momentum = 1 - m |
| eps | epsilon, 1e-5 for BatchNorm, else 1e-6 | epsilon, 1e-3, 1e-6 for RMS | epsilon, 1e-5 |
| channel_axis, 1 | axis, -1 | axis, -1 | 1, always |
| affine, bias | use_scale, use_bias | scale, center | inputs |
"""

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from normzoo.exchange.dialects import TORCH, counterpart
from normzoo.exchange.torch_names import as_module
from normzoo.norm import Norm
from normzoo.passes.numbers import check_number, check_size
from normzoo.zoo.batch.batch_norm import BatchNorm
from normzoo.zoo.instance.instance_norm import InstanceNorm
from normzoo.zoo.layer.group_norm import GroupNorm
from normzoo.zoo.layer.layer_norm import LayerNorm
from normzoo.zoo.layer.mean_variance_norm import MeanVarianceNorm
from normzoo.zoo.layer.rms_norm import RMSNorm
from normzoo.zoo.layer.unit_norm import UnitNorm
from normzoo.zoo.local.local_response_norm import LocalResponseNorm


class Described(NamedTuple):
    """The name of a norm in another framework, and the arguments that create it there."""

    name: str
    arguments: dict[str, Any]


class Words(NamedTuple):
    """A framework's names of the options that switch parameters on and off."""

    scale: str
    shift: str


WORDS = {"flax": Words("use_scale", "use_bias"), "keras": Words("scale", "center")}


def create_like(dialect: str, name: str, *arguments: Any, **options: Any) -> Norm:
    """See `registry.create`."""
    layers = {"flax": _FLAX, "keras": _KERAS, "onnx": _ONNX}.get(dialect)
    if layers is None:
        raise ValueError(f"create: expected dialect to be 'torch', 'flax', 'keras' or 'onnx', got {dialect!r}")
    if name not in layers:
        near = difflib.get_close_matches(str(name), layers, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(sorted(layers))
        raise ValueError(f"create: expected a layer of {dialect}, one of {known}, got {name!r}{hint}")
    scale, shift = (bool(options.pop(word, True)) for word in WORDS.get(dialect, ()) or ("", ""))
    training = not options.pop("use_running_average", False) if dialect == "flax" else None
    try:
        inspect.signature(layers[name]).bind(*arguments, **options)
    except TypeError as error:
        raise TypeError(f"create: {dialect}'s {name}: {error}") from None
    norm = layers[name](*arguments, **options)
    for parameter, wanted in (("weight", scale), ("bias", shift)):
        if not wanted:
            norm.params.pop(parameter, None)
    return norm if training is None else norm.train(training)


def describe(norm: Norm, dialect: str, *, rank: int = 4) -> Described:
    """The name of a norm in PyTorch, Flax, Keras or ONNX, and the arguments (for ONNX, the node's attributes) that
    create it there.

    Args:
        dialect: "torch", "flax", "keras" or "onnx".
        rank: of x: PyTorch's batch and instance norms have a class for each, "BatchNorm2d" for rank 4.

    Raises:
        ValueError: the framework has no such norm.

    >>> import normzoo as nz
    >>> nz.describe(nz.BatchNorm(8), "keras")[1]["momentum"]
    0.9
    """
    if dialect == TORCH:
        norm._check_alone("describe", "describe it as a norm without, and add what torch calls it")
        return Described(*as_module(norm, rank))
    found, _ = counterpart(norm, dialect)
    norm._check_alone("describe", f"describe it as a norm without, and add what {dialect} calls it")
    if isinstance(norm, UnitNorm | LocalResponseNorm | MeanVarianceNorm):
        return Described(found, _plain(norm, dialect))
    arguments: dict[str, Any] = {"epsilon": 2.0**-23 if norm.eps is None else norm.eps}
    if dialect == "onnx":
        return Described(found, arguments | _attributes(norm))
    words = WORDS[dialect]
    held = norm.params | norm.buffers
    if found != "RMSNormalization":  # Keras's RMSNormalization always has a scale
        arguments[words.scale] = "weight" in held
    if not isinstance(norm, RMSNorm):
        arguments[words.shift] = "bias" in held
    if isinstance(norm, BatchNorm):
        arguments["momentum"] = 1 - _momentum(norm, dialect)
    if isinstance(norm, LayerNorm | RMSNorm):
        arguments |= _layer_axes(norm, dialect)
    else:
        channel_axis = getattr(norm, "channel_axis", 1)
        if dialect == "keras" or isinstance(norm, BatchNorm):
            arguments["axis"] = channel_axis
        elif channel_axis != -1:
            raise ValueError(f"{norm}: expected channel_axis=-1, as Flax's {found} has, got {channel_axis}")
    if isinstance(norm, GroupNorm):
        arguments["num_groups" if dialect == "flax" else "groups"] = norm.num_groups
    if isinstance(norm, InstanceNorm) and dialect == "keras":
        arguments["groups"] = -1
    return Described(found, arguments)


def _momentum(norm: Any, dialect: str) -> float:
    if norm.momentum is None:
        raise ValueError(f"{norm}: expected a momentum, got None: an average of all batches is unknown to {dialect}")
    return norm.momentum


def _layer_axes(norm: Any, dialect: str) -> dict[str, Any]:
    axis = norm.axis
    if getattr(norm, "parameter_axis", None) is not None and dialect == "keras":
        raise ValueError(f"{norm}: expected parameters of the normalized axes, as Keras has, got others")
    rank = len(norm.normalized_shape)
    axes = tuple(range(-rank, 0)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if dialect == "keras":
        return {"axis": axes[0] if len(axes) == 1 else list(axes)}
    spans = getattr(norm, "parameter_axis", None)
    spans = axes if spans is None else spans if isinstance(spans, tuple) else (spans,)
    return {"reduction_axes": axes, "feature_axes": spans}


def _attributes(norm: Any) -> dict[str, Any]:
    """Attributes of the node besides epsilon."""
    if getattr(norm, "channel_axis", 1) != 1:
        raise ValueError(f"{norm}: expected channel_axis=1, as ONNX has, got {norm.channel_axis}")
    if isinstance(norm, BatchNorm):
        # Without running statistics, evaluation uses batch statistics, too; then there is no momentum to describe.
        tracked = "running_mean" in norm.buffers
        momentum = {"momentum": 1 - _momentum(norm, "onnx")} if norm.training and tracked else {}
        return momentum | {"training_mode": int(norm.training or not tracked)}
    if isinstance(norm, GroupNorm):
        return {"num_groups": norm.num_groups}
    if isinstance(norm, LayerNorm | RMSNorm):
        if norm.axis is not None:
            raise ValueError(f"{norm}: expected the last axes, as ONNX's {type(norm).__name__} has, got {norm.axis=}")
        return {"axis": -len(norm.normalized_shape)}
    return {}


def _plain(norm: Any, dialect: str) -> dict[str, Any]:
    """Arguments of norms without parameters, whose counterparts have no epsilon."""
    if isinstance(norm, LocalResponseNorm):
        if norm.channel_axis != 1:
            raise ValueError(f"{norm}: expected channel_axis=1, as ONNX has, got {norm.channel_axis}")
        if norm.size % 2 == 0 and norm.even != "after":
            raise ValueError(f"{norm}: expected even='after' of an even size, as ONNX has, got {norm.even!r}")
        return {"size": norm.size, "alpha": norm.alpha, "beta": norm.beta, "bias": norm.k}
    # Other frameworks have no eps here: 1e-12, PyTorch's default, only affects vectors shorter than 1e-12.
    most = 1e-12 if isinstance(norm, UnitNorm) else 0.0
    if norm.eps > most:
        raise ValueError(f"{norm}: expected eps={most:g}, as {dialect} has none, got {norm.eps}")
    if isinstance(norm, MeanVarianceNorm):
        return {"axes": list(norm.axis)}
    if dialect == "keras":
        return {"axis": norm.axis[0] if len(norm.axis) == 1 else list(norm.axis), "order": norm.order}
    if len(norm.axis) != 1:
        raise ValueError(f"{norm}: expected one axis, as ONNX's LpNormalization has, got {norm.axis}")
    return {"axis": norm.axis[0], "p": norm.order}


def _old(momentum: Any) -> float:
    """Momentum as the weight of the new value, from a momentum that is the weight of the old value."""
    return 1.0 - check_number("create", "momentum", momentum)


def _axis(axis: Any) -> int | tuple[int, ...]:
    """One axis, or several in increasing order, as norms require."""
    if isinstance(axis, Sequence):
        return tuple(sorted(check_size("create", "axis", a, least=-(2**31)) for a in axis))
    return check_size("create", "axis", axis, least=-(2**31))


def _sizes(shape: Any, axis: Any) -> dict[str, Any]:
    """Arguments of a LayerNorm over `axis`; "axis" is left out if these are the last axes."""
    found = _axis(axis)
    axes = found if isinstance(found, tuple) else (found,)
    return {"normalized_shape": shape} | ({} if axes == tuple(range(-len(axes), 0)) else {"axis": found})


def _last_sizes(shape: Any, axis: int) -> dict[str, Any]:
    """Arguments of a norm over all axes from `axis` on, which ONNX names by the first of them."""
    sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if axis != -len(sizes):
        raise ValueError(f"create: expected axis={-len(sizes)}, the first of the axes of sizes {sizes}, got {axis}")
    return {"normalized_shape": sizes}


def _flax_sizes(shape: Any, reduction_axes: Any, feature_axes: Any) -> dict[str, Any]:
    reduced, spans = _sizes(shape, reduction_axes), _sizes(shape, feature_axes)
    if reduced != spans:
        raise ValueError(
            f"create: expected feature_axes of {reduction_axes} as reduction_axes, got {feature_axes}; write "
            "nz.LayerNorm(..., parameter_axis=, parameter_shape=)"
        )
    return reduced


def _flax_group(
    features: int, *, num_groups: int | None = 32, group_size: int | None = None, epsilon: float = 1e-6,
    dtype: Any = "float32",
) -> Norm:  # fmt: skip
    if (num_groups is None) == (group_size is None):
        raise ValueError(
            f"create: expected num_groups or group_size, and None for the other, got {num_groups=}, {group_size=}"
        )
    groups = num_groups if group_size is None else features // check_size("create", "group_size", group_size, least=1)
    return GroupNorm(groups, features, epsilon, channel_axis=-1, dtype=dtype)  # type: ignore[arg-type]


def _keras_group(
    features: int, *, groups: int = 32, axis: int = -1, epsilon: float = 1e-3, dtype: Any = "float32"
) -> Norm:
    if groups == -1:
        return InstanceNorm(features, epsilon, affine=True, channel_axis=axis, dtype=dtype)
    return GroupNorm(groups, features, epsilon, channel_axis=axis, dtype=dtype)


_FLAX: dict[str, Callable[..., Norm]] = {
    "BatchNorm": lambda features, *, axis=-1, momentum=0.99, epsilon=1e-5, dtype="float32": BatchNorm(
        features, epsilon, _old(momentum), channel_axis=axis, dtype=dtype
    ),
    "InstanceNorm": lambda features, *, epsilon=1e-6, dtype="float32": InstanceNorm(
        features, epsilon, affine=True, channel_axis=-1, dtype=dtype
    ),
    "LayerNorm": lambda shape, *, epsilon=1e-6, reduction_axes=-1, feature_axes=-1, dtype="float32": LayerNorm(
        **_flax_sizes(shape, reduction_axes, feature_axes), eps=epsilon, dtype=dtype
    ),
    "GroupNorm": _flax_group,
    "RMSNorm": lambda shape, *, epsilon=1e-6, reduction_axes=-1, feature_axes=-1, dtype="float32": RMSNorm(
        **_flax_sizes(shape, reduction_axes, feature_axes), eps=epsilon, dtype=dtype
    ),
}
_KERAS: dict[str, Callable[..., Norm]] = {
    "BatchNormalization": lambda features, *, axis=-1, momentum=0.99, epsilon=1e-3, dtype="float32": BatchNorm(
        features, epsilon, _old(momentum), channel_axis=axis, dtype=dtype
    ),
    "LayerNormalization": lambda shape, *, axis=-1, epsilon=1e-3, dtype="float32": LayerNorm(
        **_sizes(shape, axis), eps=epsilon, dtype=dtype
    ),
    "GroupNormalization": _keras_group,
    "RMSNormalization": lambda shape, *, axis=-1, epsilon=1e-6, dtype="float32": RMSNorm(
        **_sizes(shape, axis), eps=epsilon, dtype=dtype
    ),
    "UnitNormalization": lambda *, axis=-1, order=2: UnitNorm(_axis(axis), order=order),
}
_ONNX: dict[str, Callable[..., Norm]] = {
    "BatchNormalization": lambda features, *, epsilon=1e-5, momentum=0.9, training_mode=0: BatchNorm(
        features, epsilon, _old(momentum)
    ).train(bool(training_mode)),
    "InstanceNormalization": lambda features, *, epsilon=1e-5: InstanceNorm(features, epsilon, affine=True),
    "LayerNormalization": lambda shape, *, axis=-1, epsilon=1e-5: LayerNorm(**_last_sizes(shape, axis), eps=epsilon),
    "GroupNormalization": lambda features, *, num_groups, epsilon=1e-5: GroupNorm(num_groups, features, epsilon),
    "RMSNormalization": lambda shape, *, axis=-1, epsilon=1e-5: RMSNorm(**_last_sizes(shape, axis), eps=epsilon),
    "LRN": lambda *, size, alpha=1e-4, beta=0.75, bias=1.0: LocalResponseNorm(size, alpha, beta, bias, even="after"),
    "LpNormalization": lambda *, axis=-1, p=2: UnitNorm(axis, order=p),
    "MeanVarianceNormalization": lambda *, axes=(0, 2, 3): MeanVarianceNorm(tuple(axes)),
}
