"""Norms of the operators that ONNX Runtime contributes (domain com.microsoft), with what stands around them."""

import numpy as np

from normzoo.exchange.onnx_reading import Kind, Node
from normzoo.norm import Norm
from normzoo.zoo.layer.group_norm import GroupNorm
from normzoo.zoo.layer.group_rms_norm import GroupRMSNorm
from normzoo.zoo.layer.layer_norm import LayerNorm
from normzoo.zoo.layer.rms_norm import RMSNorm

SWISH = {"silu": "silu", "swish": "silu", "sigmoid": "sigmoid"}  # what the operator calls activations


def _skip_layer(node: Node, opset: int | None) -> Norm:
    _check_no_bias(node, 4)
    gamma, beta = node.vector(2, "gamma"), node.constant(3, "beta")
    norm = LayerNorm(len(gamma), node.attributes["epsilon"], bias=beta is not None, dtype=gamma.dtype)
    return node.filled(norm, weight=gamma, bias=beta)


def _skip_rms(node: Node, opset: int | None) -> Norm:
    _check_no_bias(node, 3)
    gamma = node.vector(2, "gamma")
    return node.filled(RMSNorm(len(gamma), node.attributes["epsilon"], dtype=gamma.dtype), weight=gamma)


def _check_no_bias(node: Node, i: int) -> None:
    """There is none that is added to x before: a norm has no place for it."""
    name = node.inputs[i] if i < len(node.inputs) else ""
    if name:
        raise node.error(
            "no input bias, which is added to x before",
            repr(name),
            "leave it out, and write norm(x + bias, residual=skip)",
        )


def _gated_rms(node: Node, opset: int | None) -> Norm:
    scale, name = node.vector(1, "scale"), node.attributes["activation"].decode()
    if name not in SWISH:
        raise node.error(f"activation {', '.join(map(repr, SWISH))}", repr(name))
    eps, size = node.attributes["epsilon"], len(scale)
    features = node.shape[-1] if node.shape else None
    if features in (None, size):
        return node.filled(RMSNorm(size, eps, activation=SWISH[name], dtype=scale.dtype), weight=scale)
    if features % size:
        raise node.error(f"x whose last axis is a multiple of {size}, as the scale has", node.shape)
    node.repeated(features, scale, "scale")
    heads = features // size
    norm = GroupRMSNorm(
        heads,
        features,
        eps,
        per_position=True,
        channel_axis=-1,
        activation=SWISH[name],
        dtype=scale.dtype,
    )
    return node.filled(norm, weight=np.tile(scale, heads))


def _group(node: Node, opset: int | None) -> Norm:
    gamma, o = node.vector(1, "gamma"), node.attributes
    if o["activation"] not in (0, 1):
        raise node.error("activation of 0 or 1", o["activation"])
    axis, act = -1 if o["channels_last"] else 1, "silu" if o["activation"] else None
    norm = GroupNorm(o["groups"], len(gamma), o["epsilon"], channel_axis=axis, activation=act, dtype=gamma.dtype)
    return node.filled(norm, weight=gamma, bias=node.vector(2, "beta"))


CONTRIBUTED: dict[str, Kind] = {
    "SkipLayerNormalization": (_skip_layer, {"epsilon": 1e-12}, (3, 5)),
    "SkipSimplifiedLayerNormalization": (_skip_rms, {"epsilon": 1e-12}, (3, 4)),
    "GatedRMSNorm": (_gated_rms, {"epsilon": 1e-5, "activation": b"silu"}, (3, 3)),
    "GroupNorm": (_group, {"epsilon": 1e-5, "groups": int, "activation": int, "channels_last": 1}, (3, 3)),
}
