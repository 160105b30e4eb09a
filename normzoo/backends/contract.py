"""What a backend does: three functions over the view (b, m, c, n). Everything else in the library is bookkeeping.

    x[b, m, c, n]  ->  mean[b, c], rstd[b, c]            b and c are kept; m and n are reduced

With k = m*n (or 1 for totals):

    mean = mean of x over (m, n), or 0 without `center`
    spread = sum |x - mean|^power / k
    rstd = (spread + eps)^(-1/power), or 1 / max(spread^(1/power), eps) with `clamp`; 0 where that divides by 0
    xhat = (x - mean) * rstd

    forward    y = xhat * weight + bias
    backward   g = dy * weight
               dx = rstd * (g - [center] mean(g) - q * sum(g * xhat) / k)
               dweight = sum(dy * xhat)     dbias = sum(dy)          over what the parameters do not span

where q is xhat (power 2), sign(x - mean) - [center] mean(sign(x - mean)) (power 1) or 0 (power 0, and in a set that
`clamp` holds at rstd = 1/eps). Power 0 means rstd = 1 going forward; without `center` it makes the statistics
constants going backward, which is BatchNorm in evaluation mode. Its spread is 0.

A parameter view is (pb, pm, pc, pn): pm, pc, pn are 1 or full, pb divides b and repeats along it: weight[b % pb].
`weight` and `bias` have one and the same view; an absent one is an array of ones or zeros.

All four arrays x, y, dy, dx are C-contiguous, of one dtype with weight and bias, float32 or float64; or of float16 or
bfloat16, with float32 weight and bias, and computed in float32. y may be x, and dx may be dy or x. No size is 0. Every
result is a function of the values and the shape: not of the threads.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
Dims = tuple[int, int, int, int]


@dataclass(frozen=True)
class Moments:
    """Which statistics a norm uses."""

    center: bool = True
    power: int = 2  # 2, 1 or 0
    total: bool = False  # sums instead of means
    clamp: bool = False  # max(., eps) instead of . + eps


CONSTANT = Moments(center=False, power=0)  # statistics that do not depend on x


class Backend(Protocol):
    """The functions of a backend module."""

    def forward(
        self,
        x: Array,  # (b, m, c, n)
        weight: Array,  # (pb, pm, pc, pn)
        bias: Array,  # (pb, pm, pc, pn)
        moments: Moments,
        eps: float,
        y: Array,  # (b, m, c, n), written
    ) -> Array:  # (3, b, c) float64: mean, spread, rstd
        ...

    def apply(
        self,
        x: Array,  # (b, m, c, n)
        stats: Array,  # (3, b, c) float64: mean, (unused), rstd
        weight: Array,  # (pb, pm, pc, pn)
        bias: Array,  # (pb, pm, pc, pn)
        y: Array,  # (b, m, c, n), written
    ) -> None: ...

    def backward(
        self,
        dy: Array,  # (b, m, c, n)
        x: Array,  # (b, m, c, n)
        stats: Array,  # (3, b, c) float64
        weight: Array,  # (pb, pm, pc, pn)
        moments: Moments,
        eps: float,
        dx: Array,  # (b, m, c, n), written
    ) -> tuple[Array, Array]:  # dweight, dbias: (pb, pm, pc, pn) float64
        ...
