"""Images of whole numbers become normalized floats, in one pass over memory, also in the other layout."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Pixels
from normzoo.backends.memory import empty
from normzoo.backends.subnormals import in_any_mode
from normzoo.functional.images.arguments import (
    JOINED,
    OWNER,
    Layout,
    bounds_of,
    channel_of,
    check_choices,
    given_of,
    layout_of,
    mask_of,
    native,
    number_of,
    result_dtype,
)
from normzoo.functional.images.sums import histograms, percentiles_of, sums_of, sums_of_histograms
from normzoo.passes.formulas import reciprocal
from normzoo.passes.overlaps import check_out
from normzoo.passes.whole import now


@in_any_mode
def normalize_image(
    x: Array,
    mean: str | float | Sequence[float] | Array | None = None,
    std: float | Sequence[float] | Array | None = None,
    *,
    max_value: float | None = None,
    per: str = "image",
    scale: str = "std",
    clip: tuple[float, float] | None = None,
    percentiles: tuple[float, float] | None = None,
    mask: Array | str | None = None,
    limit: float | None = None,
    eps: float = 1e-4,
    channel_axis: int | None = -1,
    out_channel_axis: int | None = None,
    dtype: Any = np.float32,
    out: Array | None = None,
) -> Array:
    """Images of whole numbers, normalized, as floats: in one pass, also to the other layout.

    Formula:
        with mean and std:  y = (x / max_value - mean) / std
        scale="std":        y = (x - m) / (s + eps), with the mean m and the (biased) deviation s of x
        scale="min_max":    y = (x - least) / (most - least + eps)
        Statistics are found in integers, without rounding; y is within one unit in the last place of float32.

    Shapes:
        x: (N, H, W, C) or (N, C, H, W), one image (H, W, C) or (C, H, W), or (H, W); more axes of positions are those
            of volumes. y: the same or, with out_channel_axis, the other of the two.

    Args:
        x: uint8, uint16 or int16, of either byte order.
        mean, std: a number, or one for each channel, in units of x / max_value; or mean alone, a name: "imagenet",
            "clip", or "half" (0.5 and 0.5: results from -1 to 1). None: statistics of x itself.
        max_value: what x is divided by, where a mean is given: 255 for uint8, 65535 for uint16, 1 for int16.
        per: which values share statistics: "image", "image_channel" (a channel of an image), "channel" (of all
            images) or "all".
        scale: "std" or "min_max".
        clip: least and largest value, in units of x, that is taken of it, before all else.
        percentiles: the same as percentages of all values that count, such as (0.5, 99.5).
        mask: which values count, booleans of x's shape, or of this without channels; or "nonzero". Others have no
            part in the statistics, and become 0.
        limit: y is between -limit and limit; Albumentations has 20.
        eps: added to the deviation or the range, in units of x. Where that is 0, y is 0.
        channel_axis: of x: -1, or -3 (of images), which is 1 of a batch; None: there are no channels, and x, of any
            rank, is one image.
        out_channel_axis: the same of y; None: that of x.
        dtype: of y: float32, float16 or bfloat16.
        out: an array for y.

    Raises:
        TypeError: x is not of these dtypes, or an argument not of its type.
        ValueError: a shape, an axis, a name or a number does not fit. Nothing has been written then.

    Source:
        torchvision, "Normalize", https://docs.pytorch.org/vision/main/generated/torchvision.transforms.v2.Normalize.html;
        A. Buslaev, V. I. Iglovikov, E. Khvedchenya, A. Parinov, M. Druzhinin and A. A. Kalinin, "Albumentations: Fast
        and Flexible Image Augmentations", 2020, doi:10.3390/info11020125 (per, min_max, eps and limit).

    >>> import numpy as np, normzoo as nz
    >>> x = np.array([[[124, 117, 104], [255, 0, 104]]], np.uint8)
    >>> nz.normalize_image(x, "imagenet").round(2)
    array([[[ 0.01,  0.01,  0.01],
            [ 2.25, -2.04,  0.01]]], dtype=float32)
    >>> nz.normalize_image(x, scale="min_max", out_channel_axis=-3).shape
    (3, 1, 2)
    """
    x = native(x)
    layout = layout_of(x, channel_axis)
    result = result_dtype(dtype)
    there = layout.moved(None if out_channel_axis is None else channel_of(x, out_channel_axis, "out_channel_axis"))
    if out is not None:
        check_out(OWNER, out, there.shape, result, (), (x,))
    check_choices(per, scale)
    counted = mask_of(mask, x, layout)
    low, high = bounds_of("clip", clip, -np.inf, np.inf)
    percents = None if percentiles is None else bounds_of("percentiles", percentiles, 0.0, 100.0)
    given = given_of(x, mean, std, max_value, layout.dims[2])
    eps, most = number_of("eps", eps), np.inf if limit is None else number_of("limit", limit)
    y = empty(there.shape, result) if out is None else out
    if not x.size:
        return y
    v, last = layout.read(x)
    b, n, c = layout.dims
    dims = Pixels(b, n, c, last, False)
    if counted is not None:
        counted = np.ascontiguousarray(layout.placed(counted, last))
    counts = histograms(v, dims, counted) if percents or (counted is not None and given is None) else None
    first = int(np.iinfo(x.dtype).min)
    if percents and counts is not None:
        bounds = percentiles_of(counts, first, percents)
        low, high = max(low, bounds[0]), min(high, bounds[1])
    if given is None and counts is None and per in ("image", "image_channel"):
        how = scale == "min_max", per == "image"
        if _at_once(v, dims, (low, high, most), how, eps, there, y):
            return y
    if given is None:
        given = _own(v, dims, counts, (low, high), JOINED[per], scale, eps)
    _convert(v, dims, given, (low, high, most), there, y)
    if counted is not None:
        there.placed(y, last)[~counted] = 0
    return y


def _own(
    v: Array,
    dims: Pixels,
    counts: Array | None,
    clip: tuple[float, float],
    joined: tuple[int, ...],
    scale: str,
    eps: float,
) -> tuple[Array, Array]:
    """Mean and slope of x's own statistics: bounds that are not whole are those of the values within them, and of
    the values that they replace."""
    first, whole = int(np.iinfo(v.dtype).min), _whole(clip, v.dtype)
    if whole is not None:
        found = (
            sums_of(v, dims, *whole, scale == "min_max")
            if counts is None
            else sums_of_histograms(counts, first, *whole)
        ).over(joined)
        start, width = found.moments() if scale == "std" else _range(found.least.astype(float), found.most)
    else:
        counts = histograms(v, dims, None) if counts is None else counts
        mean, std, least, largest = _of_fractions(counts, first, clip, joined)
        start, width = (mean, std) if scale == "std" else _range(least, largest)
    return start, reciprocal(width + eps)


def _at_once(
    v: Array,
    dims: Pixels,
    bounds: tuple[float, float, float],
    how: tuple[bool, bool],
    eps: float,
    there: Layout,
    y: Array,
) -> bool:
    """Write y where statistics of images and y are had in one go; returns whether they are."""
    last, whole = _last_in(y, there), _whole(bounds[:2], v.dtype)
    if last is None or whole is None:
        return False
    run = now().pixels_of_own(dims._replace(last_out=last), v.dtype, y.dtype, *how)
    if run is not None:
        run(v, (*whole, bounds[2]), eps, y)
    return run is not None


def _whole(clip: tuple[float, float], dtype: np.dtype) -> tuple[float, float] | None:
    """Least and largest value that is taken of x; None where they are no whole numbers."""
    limits = np.iinfo(dtype)
    low, high = max(clip[0], float(limits.min)), min(clip[1], float(limits.max))
    return (low, high) if low == int(low) and high == int(high) and low <= high else None


def _last_in(y: Array, there: Layout) -> bool | None:
    """Do channels of y come last? None where kernels cannot write it as it lies in memory."""
    return there.is_last(y) if y.flags.aligned else None


def _range(least: Array, largest: Array) -> tuple[Array, Array]:
    """The least value and the width, 0 where there are no values."""
    there = largest >= least
    return np.where(there, least, 0.0), np.where(there, largest - least, 0.0)


def _of_fractions(
    counts: Array, first: int, clip: tuple[float, float], joined: tuple[int, ...]
) -> tuple[Array, Array, Array, Array]:
    """Mean, deviation, least and largest where clipped values are no whole numbers."""
    value = np.clip(np.arange(first, first + counts.shape[2], dtype=np.float64), *clip)
    counts = counts.sum(axis=joined, keepdims=True)
    size = np.maximum(counts.sum(axis=2), 1)
    mean = counts @ value / size
    apart = value - mean[:, :, None]
    std = np.sqrt((counts * apart * apart).sum(axis=2) / size)
    there = counts > 0
    return mean, std, np.where(there, value, np.inf).min(axis=2), np.where(there, value, -np.inf).max(axis=2)


def _convert(
    v: Array,
    dims: Pixels,
    given: tuple[Array, Array],
    bounds: tuple[float, float, float],
    there: Layout,
    y: Array,
) -> None:
    """Write y, where it lies in memory if it can be."""
    mean, slope = (np.ascontiguousarray(np.broadcast_to(a, (len(a), dims.c)), np.float64) for a in given)
    target, last = y, _last_in(y, there)
    if last is None:
        target = empty(there.shape, y.dtype)
        last = bool(there.is_last(target))
    now().pixels(dims._replace(last_out=last), v.dtype, y.dtype)(v, mean, slope, bounds, target)
    if target is not y:
        y[...] = target
