"""Folding: the computation of trained norms is moved into the weights before or after them, and then costs nothing.

Every function takes plain arrays, in any layout, and returns new arrays as `Folded(weight, bias, error)`. A layout has
one letter per axis of the weight: O for outputs, I for inputs, any others for positions.

| layer | layout |
|---|---|
| Linear, Conv1d, Conv2d, Conv3d of PyTorch, Conv of ONNX | "OI", "OIL", "OIHW", "OIDHW" |
| ConvTranspose2d of PyTorch, with groups= | "IOHW" |
| Dense, Conv of Keras and Flax | "IO", "HWIO" |
| Conv2DTranspose of Keras | "HWOI" |
| DepthwiseConv2D of Keras, with groups= the channels | "HWIO" |
| a table of embeddings | "IO" |

A depthwise convolution of PyTorch is one with groups. What follows the norm, such as the SiLU of a detection network,
stays as it is: a norm that has it as its `activation` is refused.

The error is a bound for every output, float64. With x the input of the layer (or of its norm's weight), the results of
exact arithmetic with folded and with unfolded arrays differ by at most error * max(1, max|x|). The bound covers
rounding the folded arrays to their dtype, u * (sum|weight| + |bias|) with u = 2^-24 for float32, and the float64
rounding before that. The rounding of the sums in the layer itself comes on top of it, folded or not.
"""

from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import Array
from normzoo.distributed.sync_batch_norm import SyncBatchNorm
from normzoo.norm import Norm
from normzoo.passes.arrays import check_array, check_parameter, check_spread
from normzoo.passes.formulas import reciprocal
from normzoo.passes.numbers import check_size
from normzoo.zoo.batch.batch_norm import BatchNorm
from normzoo.zoo.batch.frozen_batch_norm import FrozenBatchNorm
from normzoo.zoo.batch.ghost_batch_norm import GhostBatchNorm
from normzoo.zoo.instance.instance_norm import InstanceNorm
from normzoo.zoo.layer.group_norm import GroupNorm
from normzoo.zoo.layer.layer_norm import LayerNorm
from normzoo.zoo.layer.rms_norm import RMSNorm

__all__ = ["Folded", "affine_into", "batch_norm_into", "batch_norms", "center_into"]

CONSTANT = (BatchNorm, FrozenBatchNorm, GhostBatchNorm, SyncBatchNorm)  # in evaluation: a scale and a shift
SCALED = (LayerNorm, RMSNorm, GroupNorm, InstanceNorm)  # end in a scale and a shift
BEHIND = "fold it with norm.activation = None, and compute that behind what it is folded into"
BEFORE = "what stands between a norm and the layer behind it keeps them apart"
STEPS = 8 * 2.0**-53  # roundings of float64 on the way to a folded value, and some to spare


class Folded(NamedTuple):
    """New arrays, and a bound of the difference that they cause."""

    weight: Array  # of the old weight's shape and dtype
    bias: Array  # (outputs,)
    error: Array  # (outputs,) float64; see the docstring of the module


class Axes(NamedTuple):
    """Which axes of a weight are its outputs and inputs."""

    output: int
    input: int
    groups: int
    outputs: int  # in total
    output_size: int  # along the output axis

    @property
    def grouped_inputs(self) -> bool:
        """Does the output axis have the outputs of one group only, and the input axis decide which group that is?"""
        return self.output_size != self.outputs


def batch_norm_into(weight: Array, bias: Array | None, norm: Norm, *, layout: str = "OIHW", groups: int = 1) -> Folded:
    """Fold batch normalization in evaluation mode into the convolution or linear layer before it.

    Formula:
        s = gamma / sqrt(running_var + eps)
        weight' = weight * s for each output, bias' = (bias - running_mean) * s + beta

    Args:
        weight: weight of the layer, whose axes `layout` describes.
        bias: (outputs,), or None.
        norm: BatchNorm with running statistics, FrozenBatchNorm, GhostBatchNorm or SyncBatchNorm, with or without
            weight and bias.
        groups: groups of the layer; needed if its output axis has the outputs of one group only: a transposed
            convolution of PyTorch or a depthwise convolution of Keras.

    Raises:
        ValueError: shapes, layout and groups do not fit, or a folded value is too large for the dtype. TypeError:
            another kind of norm, or an array that is not of floats.

    Source:
        S. Ioffe and C. Szegedy, arXiv:1502.03167, section 3.1; B. Jacob et al., "Quantization and Training of Neural
        Networks for Efficient Integer-Arithmetic-Only Inference", 2017, arXiv:1712.05877.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.BatchNorm(2).eval()
    >>> norm.running_var[...] = 4
    >>> nz.fold.batch_norm_into(np.ones((2, 1, 1, 1), np.float32), None, norm).weight.ravel().round(3)
    array([0.5, 0.5], dtype=float32)
    """
    owner = "fold.batch_norm_into"
    if type(norm) not in CONSTANT:
        raise TypeError(f"{owner}: expected a BatchNorm, as it is in evaluation, got {type(norm).__name__}")
    scale, mean, shift = _scale(owner, norm)
    axes = _axes(owner, weight, layout, groups, len(scale))
    check_parameter(owner, "bias", bias, scale.shape)
    old = np.zeros(len(scale)) if bias is None else bias.astype(np.float64)
    exact = weight.astype(np.float64) * _along_outputs(scale, weight, axes)
    new = (old - mean) * scale + shift
    return _rounded(owner, weight, bias, exact, new, axes, (np.abs(old) + np.abs(mean)) * np.abs(scale) + np.abs(shift))


def batch_norms(first: Norm, second: Norm) -> Folded:
    """Fold a batch normalization into the one directly before it, both in evaluation mode. Returns weight and bias of
    the first that do the work of both; its running statistics stay unchanged.

    Formula:
        s = gamma2 / sqrt(running_var2 + eps2), weight' = gamma1 * s, bias' = (beta1 - running_mean2) * s + beta2

    For the error, x is (x - running_mean) / sqrt(running_var + eps) of the first.

    Raises:
        TypeError: another kind of norm. ValueError: the norms have different numbers of channels, or no running
            statistics.

    >>> import numpy as np, normzoo as nz
    >>> first, second = nz.BatchNorm(1).eval(), nz.BatchNorm(1).eval()
    >>> second.running_mean[...] = 3
    >>> nz.fold.batch_norms(first, second).bias.round(3)
    array([-3.], dtype=float32)
    """
    owner = "fold.batch_norms"
    for norm in (first, second):
        if type(norm) not in CONSTANT:
            raise TypeError(f"{owner}: expected two BatchNorms, as they are in evaluation, got {type(norm).__name__}")
    _scale(owner, first)
    held = first.params | first.buffers
    features = len(held["running_mean"])
    weight = held.get("weight", np.ones(features, held["running_mean"].dtype))
    found = batch_norm_into(weight[:, None], held.get("bias"), second, layout="OI")
    return found._replace(weight=found.weight[:, 0])


def affine_into(
    norm: Norm, weight: Array, bias: Array | None, *, layout: str = "OI", groups: int = 1, padded: bool = True
) -> Folded:
    """Fold weight and bias of a norm into the linear layer or convolution after it; the norm then needs none.

    Formula:
        weight'[o, i] = weight[o, i] * gamma[i], bias'[o] = bias[o] + sum over i of weight[o, i] * beta[i]

    Args:
        norm: LayerNorm, RMSNorm, GroupNorm or InstanceNorm, whose weight has one value per input of the layer.
        weight, bias, layout, groups: of the layer; see `batch_norm_into`.
        padded: False: a convolution with more than one position has no padding. With padding a bias cannot be folded,
            because the padded values are 0 and not beta.

    For the error, x is the norm's xhat.

    Raises:
        ValueError, TypeError: as in `batch_norm_into`; also if a bias would be folded into a convolution with padding.

    Source:
        S. Ashkboos et al., "SliceGPT: Compress Large Language Models by Deleting Rows and Columns", 2024,
        arXiv:2401.15024.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.LayerNorm(2)
    >>> norm.weight[...] = 2, 3
    >>> nz.fold.affine_into(norm, np.ones((1, 2), np.float32), None).weight
    array([[2., 3.]], dtype=float32)
    """
    owner = "fold.affine_into"
    if type(norm) not in SCALED:
        raise TypeError(f"{owner}: expected one of {', '.join(c.__name__ for c in SCALED)}, got {type(norm).__name__}")
    norm._check_alone(owner, BEFORE)
    axes = _axes(owner, weight, layout, groups, None)
    if axes.grouped_inputs:
        raise ValueError(f"{owner}: expected all outputs on axis O, got groups of them; write groups=1")
    inputs = weight.shape[axes.input] * groups
    gamma, beta = (norm.params.get(name) for name in ("weight", "bias"))
    for name, a in (("weight", gamma), ("bias", beta)):
        if a is not None and a.size != inputs:
            raise ValueError(
                f"{owner}: expected {norm}'s {name} of {inputs} values, as the layer has inputs, got {a.shape}"
            )
    check_parameter(owner, "bias", bias, (axes.outputs,))
    positions = weight.size // max(1, weight.shape[axes.input] * axes.outputs)
    if beta is not None and beta.any() and positions > 1 and padded:
        raise ValueError(f"{owner}: expected no bias before a convolution with padding, got {norm}; write padded=False")
    w = weight.astype(np.float64)
    scale = np.ones(inputs) if gamma is None else gamma.reshape(-1).astype(np.float64) + getattr(norm, "offset", 0.0)
    exact = w * _along_inputs(scale, weight, axes)
    old = np.zeros(axes.outputs) if bias is None else bias.astype(np.float64)
    moved = np.zeros_like(w) if beta is None else w * _along_inputs(beta.reshape(-1).astype(np.float64), weight, axes)
    terms = weight.size // max(1, axes.outputs)
    size = np.abs(old) + _summed(np.abs(moved), axes) * max(1, terms / 8)  # rounding of a sum of this many terms
    return _rounded(owner, weight, bias, exact, old + _summed(moved, axes), axes, size)


def center_into(weight: Array, bias: Array | None, *, layout: str = "OI") -> Folded:
    """Fold the centring of LayerNorm into the linear layer before it: LayerNorm over the outputs is then RMSNorm with
    the same eps and weight. `affine_into` folds a bias of the LayerNorm.

    Formula:
        weight'[o] = weight[o] - mean over o of weight, and bias' likewise

    On a residual stream, all layers that add to it must be centred, and the embedding table, too.

    Raises:
        ValueError, TypeError: as `batch_norm_into`.

    Source:
        S. Ashkboos et al., arXiv:2401.15024, section 3; Z. Jiang et al., "Pre-RMSNorm and Pre-CRMSNorm Transformers",
        2023, arXiv:2305.14858.

    >>> import numpy as np, normzoo as nz
    >>> nz.fold.center_into(np.array([[1], [3]], np.float32), None).weight.ravel()
    array([-1.,  1.], dtype=float32)
    """
    owner = "fold.center_into"
    axes = _axes(owner, weight, layout, 1, None)
    check_parameter(owner, "bias", bias, (axes.outputs,))
    w = weight.astype(np.float64)
    old = np.zeros(axes.outputs) if bias is None else bias.astype(np.float64)
    mean = w.mean(axis=axes.output, keepdims=True)
    sizes = (
        np.abs(old) + np.abs(old).mean() + _summed(np.abs(w) + np.abs(w).mean(axis=axes.output, keepdims=True), axes)
    )
    return _rounded(owner, weight, bias, w - mean, old - old.mean(), axes, sizes * max(1, axes.outputs / 8))


def _scale(owner: str, norm: Norm) -> tuple[Array, Array, Array]:
    """Scale, mean and shift of a batch normalization in evaluation: y = (x - mean) * scale + shift; float64."""
    norm._check_alone(owner, BEHIND)
    held = {name: a.astype(np.float64) for name, a in (norm.params | norm.buffers).items()}
    if "running_mean" not in held:
        raise ValueError(f"{owner}: expected {norm} with running statistics, got none; write track_running_stats=True")
    mean = held["running_mean"]
    variance = held["running_var"]
    check_spread(f"{owner}: {norm}", "running_var", variance)
    scale = reciprocal(np.sqrt(variance + (norm.eps or 0.0))) * held.get("weight", 1.0)
    return scale, mean, held.get("bias", np.zeros_like(mean))


def _axes(owner: str, weight: Array, layout: Any, groups: Any, outputs: int | None) -> Axes:
    """The axes of `weight`, and its number of outputs: `outputs` or, if that is None, the size of axis O."""
    check_array(owner, "weight", weight)
    groups = check_size(owner, "groups", groups, least=1)
    if not isinstance(layout, str) or len(layout) != weight.ndim or layout.count("O") != 1 or layout.count("I") != 1:
        raise ValueError(
            f"{owner}: expected layout with a letter for each of {weight.ndim} axes, one of them O and one I, got "
            f"{layout!r}; write layout='OIHW', 'HWIO', 'OI' or 'IO'"
        )
    output, inputs = layout.index("O"), layout.index("I")
    size = weight.shape[output]
    if outputs is not None and size != outputs and (size * groups != outputs or weight.shape[inputs] % groups):
        raise ValueError(
            f"{owner}: expected {outputs} outputs on axis O of weight, or {outputs} / groups, got weight of shape "
            f"{weight.shape} with layout={layout!r} and {groups=}"
        )
    if (size if outputs is None else outputs) % groups:
        raise ValueError(f"{owner}: expected groups that divide the outputs, got {groups=} and {size} outputs")
    return Axes(output, inputs, groups, size if outputs is None else outputs, size)


def _along_outputs(values: Array, weight: Array, axes: Axes) -> Array:
    """One value per output, shaped to be multiplied with `weight`."""
    shape = [1] * weight.ndim
    if not axes.grouped_inputs:
        shape[axes.output] = axes.outputs
        return values.reshape(shape)
    # Consecutive inputs belong to the same group, and lead to its outputs.
    table = np.repeat(values.reshape(axes.groups, -1), weight.shape[axes.input] // axes.groups, axis=0)
    shape[axes.input], shape[axes.output] = table.shape
    return (table if axes.input < axes.output else table.T).reshape(shape)


def _along_inputs(values: Array, weight: Array, axes: Axes) -> Array:
    """One value per input, shaped to be multiplied with `weight`, whose axis I has the inputs of one group."""
    table = np.repeat(values.reshape(axes.groups, -1), axes.outputs // axes.groups, axis=0)  # (outputs, inputs of one)
    shape = [1] * weight.ndim
    shape[axes.output], shape[axes.input] = table.shape
    return (table if axes.output < axes.input else table.T).reshape(shape)


def _summed(w: Array, axes: Axes) -> Array:
    """The sum of w for each output."""
    if not axes.grouped_inputs:
        return w.sum(axis=tuple(i for i in range(w.ndim) if i != axes.output))
    others = tuple(i for i in range(w.ndim) if i not in (axes.input, axes.output))
    table = w.sum(axis=others)
    table = table if axes.input < axes.output else table.T  # (inputs, outputs of a group)
    return table.reshape(axes.groups, -1, axes.output_size).sum(axis=1).reshape(-1)


def _rounded(owner: str, weight: Array, bias: Array | None, w: Array, b: Array, axes: Axes, size: Array) -> Folded:
    """The folded arrays in the dtypes of the old ones, and the bound. `size` bounds the terms that float64 rounds for
    the bias."""
    dtype = weight.dtype if bias is None else bias.dtype
    with np.errstate(all="ignore"):
        new = np.ascontiguousarray(w.astype(weight.dtype)), b.astype(dtype)
    if not all(np.isfinite(a).all() for a in new) and np.isfinite(w).all() and np.isfinite(b).all():
        raise ValueError(
            f"{owner}: expected folded values that {weight.dtype} holds, got larger ones; widen the weight"
        )
    error = _unit(weight.dtype)[0] * _summed(np.abs(w), axes) + _unit(dtype)[0] * np.abs(b)
    error += STEPS * (_summed(np.abs(w), axes) + size)
    least = _unit(weight.dtype)[1] * _summed(np.ones_like(w), axes) + _unit(dtype)[1]  # underflow
    return Folded(*new, error * (1 + 2.0**-40) + least)


def _unit(dtype: np.dtype) -> tuple[float, float]:
    """Half the spacing of the floats at 1, and of the smallest floats."""
    bits, least = {"float16": (11, 2.0**-25), "bfloat16": (8, 2.0**-134), "float32": (24, 2.0**-150)}.get(
        dtype.name, (53, 0.0)
    )
    return 2.0**-bits, least
