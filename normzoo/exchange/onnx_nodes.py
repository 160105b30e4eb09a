"""Norms from ONNX nodes, without importing ONNX: a node is any object with op_type, input and attribute, as a NodeProto
has."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.exchange.onnx_contributed import CONTRIBUTED
from normzoo.exchange.onnx_reading import Kind, Node, value_of
from normzoo.norm import Norm
from normzoo.zoo.batch.batch_norm import BatchNorm
from normzoo.zoo.instance.instance_norm import InstanceNorm
from normzoo.zoo.layer.group_norm import GroupNorm
from normzoo.zoo.layer.layer_norm import LayerNorm
from normzoo.zoo.layer.mean_variance_norm import MeanVarianceNorm
from normzoo.zoo.layer.rms_norm import RMSNorm
from normzoo.zoo.layer.unit_norm import UnitNorm
from normzoo.zoo.local.local_response_norm import LocalResponseNorm

_IGNORED = {"stash_type", "consumed_inputs"}  # arithmetic is never narrower than float32; memory is not shared


def from_onnx(
    node: Any,
    initializers: Mapping[str, Any] | Sequence[Any] = (),
    *,
    opset: int | None = None,
    shape: Sequence[int | None] | None = None,
) -> Norm:
    """The norm of an ONNX node, such that y = norm(x) is the node's first output for its first input.

    | node | norm |
    |---|---|
    | BatchNormalization | BatchNorm, in the mode that training_mode, is_test or, from opset 7 to 13, its outputs tell |
    | InstanceNormalization | InstanceNorm |
    | LayerNormalization | LayerNorm |
    | GroupNormalization, opset 18 and 21 | GroupNorm |
    | RMSNormalization | RMSNorm |
    | LRN | LocalResponseNorm with even="after" |
    | LpNormalization | UnitNorm without eps; a zero vector stays zero |
    | MeanVarianceNormalization | MeanVarianceNorm |
    | of com.microsoft: SkipLayerNormalization | LayerNorm: y, s = norm(x, residual=skip) |
    | SkipSimplifiedLayerNormalization | RMSNorm, the same |
    | GatedRMSNorm | RMSNorm or, for several heads on the last axis, GroupRMSNorm: y = norm(x, gate=gate) |
    | GroupNorm | GroupNorm with its activation |

    Args:
        node: a NodeProto, or anything with op_type, input and attribute (and name, output and domain).
        initializers: what the node's other inputs are: a dict name -> array, or the graph's initializers.
        opset: of the model. GroupNormalization has parameters of the groups before 21 and of the channels from then
            on; None tells by their number. BatchNormalization of opset 6 and before is in training unless is_test says
            otherwise; None takes a node without is_test for one of a later opset.
        shape: of x, None for a size that is not known; wanted where the node alone does not say how many channels
            (GroupNormalization of opset 18), heads (GatedRMSNorm) or which axes (an axis counted from the front, a
            scale that repeats) there are.

    In training mode ONNX tracks the biased variance of a batch, see `state_dict(dialect=...)`; BatchNorm, like PyTorch,
    the unbiased one.

    Raises:
        ValueError: another kind of node, or the node has attributes or inputs that its operator does not have, or lacks
            some; the message names them. TypeError: an initializer is not a float array.

    Source:
        ONNX operators, https://onnx.ai/onnx/operators/; those of ONNX Runtime,
        https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.

    >>> import numpy as np, normzoo as nz
    >>> from types import SimpleNamespace
    >>> node = SimpleNamespace(op_type="RMSNormalization", input=["x", "scale"], attribute=[])
    >>> nz.from_onnx(node, {"scale": np.ones(8, np.float32)})
    RMSNorm((8,), eps=1e-05, elementwise_affine=True)
    """
    kind = getattr(node, "op_type", None)
    if not isinstance(kind, str):
        raise TypeError(f"from_onnx: expected a node with an op_type, got {type(node).__name__}")
    named = getattr(node, "name", "") or next(iter(getattr(node, "output", ())), "")
    owner = f"from_onnx: {kind} node {named!r}"
    domain = getattr(node, "domain", "") or "ai.onnx"
    kinds = {"ai.onnx": _KINDS, "com.microsoft": CONTRIBUTED}.get(domain, {})
    if kind not in kinds:
        known_kinds = f"{', '.join(_KINDS)}, or of com.microsoft {', '.join(CONTRIBUTED)}"
        raise ValueError(f"{owner}: expected one of {known_kinds}, got {kind} of domain {domain}")
    make, known, inputs = kinds[kind]
    named_arrays = initializers if isinstance(initializers, Mapping) else {a.name: a for a in initializers}
    outputs = [name for name in getattr(node, "output", ()) if name]
    found = Node(owner, {}, list(node.input), outputs, named_arrays, None if shape is None else tuple(shape))
    for attribute in node.attribute:
        if attribute.name in known:
            default = known[attribute.name]
            found.attributes[attribute.name] = value_of(found, attribute, int if default is None else default)
        elif attribute.name not in _IGNORED:
            raise found.error(f"attributes {sorted(known)}", repr(attribute.name))
    if opset is None and any(a.name == "consumed_inputs" for a in node.attribute):
        opset = 1  # opsets 1 to 4 have it
    for name, default in known.items():
        if name not in found.attributes:
            if isinstance(default, type):
                raise found.error(f"an attribute {name}", sorted(found.attributes))
            found.attributes[name] = default
    if not inputs[0] <= len(found.inputs) <= inputs[1] or not all(found.inputs[: inputs[0]]):
        wanted = str(inputs[0]) if inputs[0] == inputs[1] else f"{inputs[0]} or {inputs[1]}"
        raise found.error(f"{wanted} inputs", found.inputs)
    try:
        return make(found, opset)
    except (TypeError, ValueError) as error:
        if str(error).startswith(owner):
            raise
        raise type(error)(f"{owner}: {error}") from None


def _batch(node: Node, opset: int | None) -> Norm:
    options = node.attributes
    if not options["spatial"]:
        raise node.error("statistics of the channels (spatial=1)", "spatial=0")
    scale, mean, var = (node.vector(i, what) for i, what in ((1, "scale"), (3, "input_mean"), (4, "input_var")))
    norm = BatchNorm(len(scale), options["epsilon"], 1 - options["momentum"], dtype=_widest(scale, mean, var))
    node.filled(norm, weight=scale, bias=node.vector(2, "B"), running_mean=mean, running_var=var)
    return norm.train(_trains(node, opset))


def _trains(node: Node, opset: int | None) -> bool:
    """Is this BatchNormalization in training? Every version of the operator indicates it differently."""
    mode, tested, more = node.attributes["training_mode"], node.attributes["is_test"], len(node.outputs) > 1
    if mode is None and (tested is not None or (opset is not None and opset < 7)):
        return not tested  # opset 1 to 6, where is_test is 0 if absent
    if mode is None and (opset is None or opset < 14):
        return more  # in opset 7 to 13 only a node in training outputs statistics
    if more and not mode:
        raise node.error("one output where training_mode is 0", node.outputs, "write training_mode=1")
    return mode == 1


def _instance(node: Node, opset: int | None) -> Norm:
    scale = node.vector(1, "scale")
    norm = InstanceNorm(len(scale), node.attributes["epsilon"], affine=True, dtype=scale.dtype)
    return node.filled(norm, weight=scale, bias=node.vector(2, "B"))


def _layer(node: Node, opset: int | None) -> Norm:
    scale, bias = node.constant(1, "Scale"), node.constant(2, "B")
    if scale is None:
        raise node.error("an input Scale", f"inputs {node.inputs}")
    sizes, spans, arrays = _spread(node, {"Scale": scale} | ({} if bias is None else {"B": bias}))
    norm = LayerNorm(sizes, node.attributes["epsilon"], bias=bias is not None, dtype=scale.dtype, **spans)
    return node.filled(norm, weight=arrays["Scale"], bias=arrays.get("B"))


def _rms(node: Node, opset: int | None) -> Norm:
    scale = node.constant(1, "scale")
    if scale is None:
        raise node.error("an input scale", f"inputs {node.inputs}")
    sizes, spans, arrays = _spread(node, {"scale": scale})
    norm = RMSNorm(sizes, node.attributes["epsilon"], dtype=scale.dtype, **spans)
    return node.filled(norm, weight=arrays["scale"])


def _spread(node: Node, arrays: dict[str, Array]) -> tuple[tuple[int, ...], dict[str, Any], dict[str, Array]]:
    """Sizes of the normalized axes (those from `axis` on); the axes that the parameters span, if those are more; and
    the parameters expanded to these axes. In the standard, parameters broadcast to x."""
    axis, known = node.attributes["axis"], node.shape
    what, most = max(arrays.items(), key=lambda item: item[1].ndim)
    if known is None:
        if axis >= 0:  # a parameter may repeat along leading axes: its rank may differ from that of x
            raise node.error(
                f"the rank of x, of which axis={axis} counts from the front", "none", "write shape=x.shape"
            )
        if most.ndim < -axis:
            raise node.error(f"{what} of the {-axis} axes from axis={axis} on", most.shape, "write shape=x.shape")
    rank = most.ndim if known is None else len(known)
    if not -rank <= axis < rank:
        raise node.error(f"axis in [-{rank}, {rank})", axis)
    sizes: list[int | None] = [None] * rank if known is None else list(known)
    padded = {}
    for name, a in arrays.items():
        shape = (1,) * (rank - a.ndim) + a.shape
        while len(shape) > rank and shape[0] == 1:
            shape = shape[1:]
        fits = len(shape) == rank and all(n in (1, size) or size is None for n, size in zip(shape, sizes, strict=True))
        if not fits:
            raise node.error(f"{name} that fits x of shape {known or tuple(sizes)}", a.shape)
        sizes = [n if size is None and n != 1 else size for n, size in zip(shape, sizes, strict=True)]
        padded[name] = a.reshape(shape)
    normalized = list(range(axis % rank, rank))
    if known is None:  # size 1 in all parameters; the norm refuses an x with more
        sizes = [1 if size is None else size for size in sizes]
    if any(sizes[i] is None for i in normalized):
        raise node.error(f"sizes of the axes from axis={axis} on", known, "write shape=x.shape")
    spanned = [i for i in range(rank) if i in normalized or any(a.shape[i] != 1 for a in padded.values())]
    full = [sizes[i] if i in spanned else 1 for i in range(rank)]
    node.repeated(math.prod(full), most, what)  # type: ignore[arg-type]
    shape = tuple(full[i] for i in spanned)
    spans = {"parameter_axis": tuple(i - rank for i in spanned), "parameter_shape": shape}
    written = {name: np.broadcast_to(a, full).reshape(shape) for name, a in padded.items()}  # type: ignore[arg-type]
    return tuple(full[i] for i in normalized), {} if spanned == normalized else spans, written  # type: ignore[misc]


def _group(node: Node, opset: int | None) -> Norm:
    scale, bias, groups = node.vector(1, "scale"), node.vector(2, "bias"), node.attributes["num_groups"]
    channels = node.shape[1] if node.shape is not None and len(node.shape) > 1 else None
    per_group = len(scale) == groups and channels != groups if opset is None else opset < 21
    if channels is None and not per_group:
        channels = len(scale)
    if channels is None:
        raise node.error(
            "the number of channels, which parameters of the groups do not tell",
            f"{groups} values for {groups} groups",
            "write shape=x.shape, or opset=21 if these are the channels",
        )
    wanted = groups if per_group else channels
    for what, a in (("scale", scale), ("bias", bias)):
        if len(a) != wanted:
            raise node.error(f"{what} of shape ({wanted},)", a.shape)
    if channels % groups:
        raise node.error("num_groups that divides the channels", f"{groups} groups of {channels} channels")
    node.repeated(channels, scale, "scale")
    norm = GroupNorm(groups, channels, node.attributes["epsilon"], dtype=scale.dtype)
    if per_group:
        scale, bias = (np.repeat(a, channels // groups) for a in (scale, bias))
    return node.filled(norm, weight=scale, bias=bias)


def _response(node: Node, opset: int | None) -> Norm:
    o = node.attributes
    return LocalResponseNorm(o["size"], o["alpha"], o["beta"], o["bias"], even="after")


def _lp(node: Node, opset: int | None) -> Norm:
    if node.attributes["p"] not in (1, 2):
        raise node.error("p of 1 or 2", node.attributes["p"])
    return UnitNorm(node.attributes["axis"], 0.0, order=node.attributes["p"])


def _mean_variance(node: Node, opset: int | None) -> Norm:
    return MeanVarianceNorm(node.attributes["axes"])


def _widest(*arrays: Array) -> np.dtype:
    """The widest of the dtypes."""
    return max((a.dtype for a in arrays), key=lambda dtype: dtype.itemsize)


_MODES = {"training_mode": None, "is_test": None}  # integers, which say something by their absence too
_KINDS: dict[str, Kind] = {
    "BatchNormalization": (_batch, _MODES | {"epsilon": 1e-5, "momentum": 0.9, "spatial": 1}, (5, 5)),
    "InstanceNormalization": (_instance, {"epsilon": 1e-5}, (3, 3)),
    "LayerNormalization": (_layer, {"epsilon": 1e-5, "axis": -1}, (2, 3)),
    "GroupNormalization": (_group, {"epsilon": 1e-5, "num_groups": int}, (3, 3)),
    "RMSNormalization": (_rms, {"epsilon": 1e-5, "axis": -1}, (2, 2)),
    "LRN": (_response, {"alpha": 1e-4, "beta": 0.75, "bias": 1.0, "size": int}, (1, 1)),
    "LpNormalization": (_lp, {"axis": -1, "p": 2}, (1, 1)),
    "MeanVarianceNormalization": (_mean_variance, {"axes": (0, 2, 3)}, (1, 1)),
}
