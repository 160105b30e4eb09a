"""Functions without running statistics."""

from collections.abc import Sequence
from typing import Any, Unpack

from numpy import ndarray

from normzoo.backends.around import NOTHING
from normzoo.backends.contract import Array
from normzoo.passes.around import Surroundings
from normzoo.passes.arrays import check_array, eps_for
from normzoo.passes.form import UNTRACKED, Form
from normzoo.passes.normalize import normalize as normalize_view
from normzoo.passes.numbers import check_eps, check_shape, check_size
from normzoo.passes.site import Site
from normzoo.zoo.layer import group_norm as _group_norm
from normzoo.zoo.layer import layer_norm as _layer_norm
from normzoo.zoo.layer import lp_norm as _lp_norm
from normzoo.zoo.layer import rms_norm as _rms_norm
from normzoo.zoo.local import local_response_norm as _local_response_norm

CENTERED, UNCENTERED = _layer_norm.LayerNorm.moments, _rms_norm.RMSNorm.moments
LAYER, GROUP, RMS = (Site(name) for name in ("layer_norm", "group_norm", "rms_norm"))
FIRST = 1  # the usual axis of channels


def layer_norm(
    x: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    axis: int | tuple[int, ...] | None = None,
    out: Array | None = None,
    return_saved: bool = False,
    **beside: Unpack[Surroundings],
) -> Any:
    """Layer normalization: normalize every sample, or every position, by the mean and variance of its last axes.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, as `LayerNorm`.

    Shapes:
        x, y: (..., *normalized_shape), any rank. weight, bias: normalized_shape, or None.

    Args:
        normalized_shape: sizes of the last axes of x, which are normalized; an integer for one axis.
        weight, bias: scale and shift.
        eps: added to the variance, in the units of x squared.
        axis: other axes than the last ones, of the sizes normalized_shape.
        out: takes y; an array like x, which may be x itself.
        return_saved: return (y, saved); `saved.backward(dy)` is the backward pass.
        beside: residual=, add=, gate= and activation= with their options; see `Norm.forward`.

    Raises:
        ValueError: a shape or value does not fit. TypeError: x or another is not a float array.

    Source:
        J. L. Ba, J. R. Kiros and G. E. Hinton, 2016, arXiv:1607.06450; torch.nn.functional.layer_norm.

    >>> import numpy as np, normzoo as nz
    >>> nz.functional.layer_norm(np.float32([[0, 2]]), (2,)).round(2)
    array([[-1.,  1.]], dtype=float32)
    """
    arrays = x, weight, bias, out
    site, around, others = LAYER, None, NOTHING
    if beside:
        site, around, others = LAYER.stands(beside)
    found = site.recall(normalized_shape, arrays, eps, UNTRACKED, return_saved, others) if axis is None else None
    if found is not None:
        return found if return_saved else found[0]
    shape = check_shape("layer_norm", "normalized_shape", normalized_shape)
    if axis is not None:
        axis = _layer_norm.check_axes("layer_norm", axis)
    form = Form("layer_norm", _layer_norm.axes("layer_norm", x, shape, axis), CENTERED, eps, None, around, others)
    y, _, saved = normalize_view(form, x, weight, bias, out, keep=return_saved)
    if axis is None:
        site.remember(normalized_shape, form, arrays)
    return (y, saved) if return_saved else y


def group_norm(
    x: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
    return_saved: bool = False,
    **beside: Unpack[Surroundings],
) -> Any:
    """Group normalization: normalize every group of channels of every sample by its mean and variance.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, as `GroupNorm`.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C). weight, bias: (C,), or None.

    Args:
        num_groups: number of groups; divides C.
        channel_axis: 1 or -1, or any other axis but 0.
        weight, bias, eps, out, return_saved, beside: see `layer_norm`.

    Raises:
        ValueError: num_groups does not divide C, or another shape or value does not fit. TypeError: x or another is not
            a float array.

    Source:
        Y. Wu and K. He, 2018, arXiv:1803.08494; torch.nn.functional.group_norm.

    >>> import numpy as np, normzoo as nz
    >>> nz.functional.group_norm(np.float32([[0, 2, 10, 30]]), 2).round(2)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    arrays, plain = (x, weight, bias, out), channel_axis is FIRST
    site, around, others = GROUP, None, NOTHING
    if beside:
        site, around, others = GROUP.stands(beside)
    if plain and (found := site.recall(num_groups, arrays, eps, UNTRACKED, return_saved, others)) is not None:
        return found if return_saved else found[0]
    num_groups = check_size("group_norm", "num_groups", num_groups, least=1)
    if type(channel_axis) is not int:
        channel_axis = check_size("group_norm", "channel_axis", channel_axis, least=-(2**31))
    axes = _group_norm.axes("group_norm", x, num_groups, channel_axis)
    form = Form("group_norm", axes, CENTERED, eps, None, around, others)
    y, _, saved = normalize_view(form, x, weight, bias, out, keep=return_saved)
    if plain:
        site.remember(num_groups, form, arrays)
    return (y, saved) if return_saved else y


def rms_norm(
    x: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    eps: float | None = None,
    *,
    axis: int | tuple[int, ...] | None = None,
    out: Array | None = None,
    return_saved: bool = False,
    **beside: Unpack[Surroundings],
) -> Any:
    """Root mean square normalization: divide every sample, or every position, by the root mean square of its last axes.

    Formula:
        y = x / sqrt(mean(x^2) + eps) * weight, as `RMSNorm`.

    Shapes:
        x, y: (..., *normalized_shape), any rank. weight: normalized_shape, or None.

    Args:
        eps: added to the mean of the squares; None is the spacing at 1 of the floats x is computed in, as in PyTorch.
        normalized_shape, weight, axis, out, return_saved, beside: see `layer_norm`.

    Raises:
        ValueError: a shape or value does not fit. TypeError: x or another is not a float array.

    Source:
        B. Zhang and R. Sennrich, 2019, arXiv:1910.07467; torch.nn.functional.rms_norm.

    >>> import numpy as np, normzoo as nz
    >>> nz.functional.rms_norm(np.float32([[3, 4]]), 2).round(2)
    array([[0.85, 1.13]], dtype=float32)
    """
    arrays = x, weight, None, out
    site, around, others = RMS, None, NOTHING
    if beside:
        site, around, others = RMS.stands(beside)
    if axis is None and type(x) is ndarray:
        eps = eps_for(x) if eps is None else eps
        if (found := site.recall(normalized_shape, arrays, eps, UNTRACKED, return_saved, others)) is not None:
            return found if return_saved else found[0]
    shape = check_shape("rms_norm", "normalized_shape", normalized_shape)
    if axis is not None:
        axis = _layer_norm.check_axes("rms_norm", axis)
    axes = _layer_norm.axes("rms_norm", x, shape, axis)
    form = Form("rms_norm", axes, UNCENTERED, eps_for(x) if eps is None else eps, None, around, others)
    y, _, saved = normalize_view(form, x, weight, None, out, keep=return_saved)
    if axis is None:
        site.remember(normalized_shape, form, arrays)
    return (y, saved) if return_saved else y


def local_response_norm(
    x: Array,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
    return_saved: bool = False,
) -> Any:
    """Local response normalization: every value by the squares of its neighbours along the channels.

    Formula:
        y[c] = x[c] / (k + alpha / size * sum(x[c']^2))^beta, c' from c - size//2 to c + (size-1)//2; zeros outside.

    Shapes:
        x, y: (N, C, ...), rank 3 or more.

    Args:
        size: channels in the window, 1 or more.
        alpha, beta, k: scale of the squares, exponent, and offset.

    Raises:
        ValueError: x has rank below 3 or values of float64 beyond 2^500, or size is below 1. TypeError: x is not a
            float array.

    Source:
        A. Krizhevsky, I. Sutskever and G. E. Hinton, "ImageNet Classification with Deep Convolutional Neural
        Networks", 2012; torch.nn.functional.local_response_norm.

    >>> import numpy as np, normzoo as nz
    >>> float(nz.functional.local_response_norm(np.full((1, 1, 1), 2, np.float32), 1, alpha=1.0, beta=1.0)[0, 0, 0])
    0.4000000059604645
    """
    result = _local_response_norm.local_response_norm(x, size, alpha, beta, k, channel_axis, out)
    return result if return_saved else result[0]


def normalize(
    x: Array,
    p: float = 2.0,
    dim: int | tuple[int, ...] = 1,
    eps: float = 1e-12,
    out: Array | None = None,
    *,
    return_saved: bool = False,
) -> Any:
    """Scale x to unit p-norm along an axis.

    Formula:
        y = x / max(||x||_p, eps), the norm over `dim`.

    Shapes:
        x, y: any with the axes `dim`.

    Args:
        p: order of the norm: any number, or inf.
        dim: an axis or a tuple of axes; () is all of them.
        eps: least norm; below it, it is a constant of the gradient. A norm of 0 with eps 0 gives 0.

    Raises:
        ValueError: `dim` is not an axis of x. TypeError: x is not a float array.

    Source:
        torch.nn.functional.normalize.

    >>> import numpy as np, normzoo as nz
    >>> nz.functional.normalize(np.float32([[3, 4]])).round(2)
    array([[0.6, 0.8]], dtype=float32)
    """
    check_array("normalize", "x", x)
    result = _lp_norm.lp_normalize(x, p, dim, check_eps("normalize", eps), out, return_saved)
    return result if return_saved else result[0]
