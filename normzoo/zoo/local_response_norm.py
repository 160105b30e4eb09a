"""Local response normalization: every value by the squares of its neighbours along the channels. Documented in
`normzoo.functional`. Its windows overlap, so it is outside the algebra: NumPy, float64 inside, on every backend."""

import numpy as np

from normzoo.arrays import check_array, check_number, check_out, check_size
from normzoo.backends.contract import Array
from normzoo.passes import PulledBack, Saved, empty_in_layout, layout_of
from normzoo.running import check_channels

OWNER = "local_response_norm"


def local_response_norm(
    x: Array, size: int, alpha: float, beta: float, k: float, channel_axis: int, out: Array | None
) -> tuple[Array, Saved]:
    channel_axis = check_size(OWNER, "channel_axis", channel_axis, least=-(2**31))
    axis = check_channels(OWNER, x, channel_axis, 3, None)
    size = check_size(OWNER, "size", size, least=1)
    alpha, beta, k = (check_number(OWNER, n, v) for n, v in (("alpha", alpha), ("beta", beta), ("k", k)))
    check_array(OWNER, "x", x)
    if out is not None:
        check_out(OWNER, out, x.shape, x.dtype, (x,))
    before, after = size // 2, (size - 1) // 2
    v = np.ascontiguousarray(np.moveaxis(x, axis, -1), np.float64)
    with np.errstate(all="ignore"):
        base = k + alpha / size * window_sum(v * v, before, after)
        factor = base**-beta
        y = empty_in_layout(x.shape, x.dtype, layout_of(x)) if out is None else out
        y[...] = np.moveaxis(v * factor, -1, axis)

    def pull(dy: Array) -> dict[str, Array]:
        d = np.moveaxis(dy, axis, -1)
        # x[c] is in the windows of c - after ... c + before
        shared = window_sum(d * v * factor / base, after, before)
        return {"x": np.moveaxis(d * factor - 2 * beta * alpha / size * v * shared, -1, axis)}

    return y, PulledBack(OWNER, x, pull)


def window_sum(v: Array, before: int, after: int) -> Array:
    """Sum of v over i - before ... i + after along the last axis, zeros outside."""
    length = v.shape[-1]
    total = v.copy()
    for shift in range(1, min(max(before, after), length - 1) + 1):
        if shift <= before:
            total[..., shift:] += v[..., :-shift]
        if shift <= after:
            total[..., :-shift] += v[..., shift:]
    return total
