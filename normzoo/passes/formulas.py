"""Steps shared by norms in NumPy: moments without loss of digits, and the core of every backward pass. All float64."""

from types import ModuleType

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.definitions import FAR, Axis, reciprocal, unit
from normzoo.passes.numpy_threads import on_threads

__all__ = ["FAR", "Axis", "reciprocal", "unit"]  # and what follows

ON_ONE_THREAD = 1 << 18  # multiplications: OpenBLAS wakes threads for more
ON_THREADS = 1 << 23  # multiplications that take much longer than to start threads for them
SHORT = 128  # products that are summed in float32: rounding is a few units of the sum of their sizes
BLOCK = 64  # rows and columns of a block, where there are as many


def unit_of_samples(x: Array, least: float = 0.0) -> Array:
    """The unit of each sample of x, (N,); found without an array of x's size. float32 is squared in float64."""
    if x.dtype.itemsize < 8 or not x.size:
        return np.ones(len(x))
    axes = tuple(range(1, x.ndim))
    return unit(np.stack([x.max(axis=axes), x.min(axis=axes)], axis=1), 1, least)[:, 0]


def check_range(owner: object, v: Array, axis: Axis, each: Axis) -> None:
    """Check the range of overlapping sets. They are computed in one unit, see `unit`, that of all values over `axis`;
    so no part of them, over `each`, may be so small that its squares vanish."""
    largest = np.abs(v).max(axis=each, keepdims=True, initial=0.0)
    most = largest.max(axis=axis, keepdims=True, initial=0.0)
    lost = np.isfinite(most) & (most > FAR) & (largest > 0) & (largest < most / FAR)
    if lost.any():
        small, large = float(largest[lost].min()), float(most.max())
        raise ValueError(
            f"{owner}: expected values within a factor of 2^500 of each other where one is beyond it, got {small:.3g} "
            f"and {large:.3g}; write np.clip(x, -1e150, 1e150)"
        )


def centered(v: Array, axis: Axis) -> tuple[Array, Array]:
    """(mean, v - mean) over `axis` (kept with size 1), without the rounding error of the mean: the mean of the
    deviations is subtracted again."""
    mean = v.mean(axis=axis, keepdims=True)
    deviation = v - mean
    rounding = deviation.mean(axis=axis, keepdims=True)
    return mean + rounding, deviation - rounding


def standardized(v: Array, axis: Axis, eps: float) -> tuple[Array, Array, Array, Array]:
    """(xhat, mean, var, rstd) over `axis` (kept with size 1): rstd = 1 / sqrt(var + eps), or 0 where that divides by 0.
    xhat and rstd are correct even where the variance exceeds float64 and var is inf."""
    one = unit(v, axis, eps**0.5)
    mean, deviation = centered(v * one, axis)
    var = (deviation * deviation).mean(axis=axis, keepdims=True)
    rstd = reciprocal(np.sqrt(var + eps * one * one))
    return deviation * rstd, mean / one, var / one / one, rstd * one


def root(stats: Array, eps: float) -> Array:
    """sqrt(spread + eps) from the statistics (3, b, c) of a pass. Where spread is out of the range of float64, it is
    computed from rstd."""
    _, spread, rstd = stats
    found = np.sqrt(spread + eps)
    beyond = (rstd > 0) & np.isfinite(rstd) & ~((found > 1 / FAR) & (found < FAR))
    return np.where(beyond, reciprocal(rstd), found)


def product(a: Array, b: Array) -> Array:
    """Matrix products along the last two axes by BLAS; in blocks that it multiplies on one thread, and that threads
    share where there are many, so that they are bit-identical for any number of threads.

    The result is float64. Of two float32 arrays, up to `SHORT` products are summed in float32 before they are added in
    float64, and where there are no more the result is float32.
    """
    (rows, inner), columns = a.shape[-2:], b.shape[-1]
    narrow = a.dtype == b.dtype == np.float32
    if 0 < rows * inner * columns <= ON_ONE_THREAD and (inner <= SHORT or not narrow):
        return a @ b
    height, width = min(rows, BLOCK), min(columns, BLOCK // 2 if narrow else BLOCK)
    depth = max(1, min(inner, SHORT if narrow else inner, ON_ONE_THREAD // max(1, height * width)))
    width = min(columns, max(width, ON_ONE_THREAD // max(1, height * depth)))
    shape = *np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), rows, columns
    found = np.zeros(shape, np.float32 if narrow and inner <= depth else np.float64)
    if not found.size:
        return found
    whole = columns - columns % width

    def add(left: Array, right: Array, to: Array) -> None:
        """In blocks of columns, as a stack of matrices."""
        wide = min(width, to.shape[-1])
        stack, places = (v.reshape(*v.shape[:-1], -1, wide).swapaxes(-2, -3) for v in (right, to))  # both are views
        if inner <= depth:
            np.matmul(left[..., None, :, :], stack, out=places)
        else:
            places += left[..., None, :, :] @ stack

    def some_rows(i: int) -> None:
        for start in range(0, inner, depth):
            left, right = a[..., i : i + height, start : start + depth], b[..., start : start + depth, :]
            for part in (slice(whole), slice(whole, columns)):
                if part.start != columns:
                    add(left, right[..., part], found[..., i : i + height, part])

    firsts = range(0, rows, height)
    if found.size * inner >= ON_THREADS:
        on_threads(some_rows, firsts)
    else:
        for i in firsts:
            some_rows(i)
    return found


def summed(d: Array, shape: tuple[int, ...]) -> Array:
    """d summed over the axes along which an array of `shape` was broadcast to d's shape: the gradient of that array."""
    lead = d.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, size in enumerate(shape) if size == 1 != d.shape[lead + i])
    return d.sum(axis=axes).reshape(shape)


def special() -> ModuleType:
    """scipy.special, imported at first use: the import takes nine times as long as that of this whole package."""
    from scipy import special  # noqa: PLC0415

    return special
