"""Power normalization: divide every channel by its running root mean square, with a running gradient."""

from typing import Any

import numpy as np

from normzoo.backends.contract import CONSTANT, Array, Moments
from normzoo.norm import Norm
from normzoo.passes.affine import affine
from normzoo.passes.arrays import check_spread, read_only
from normzoo.passes.attributes import entry
from normzoo.passes.form import Form
from normzoo.passes.numbers import check_features, check_number, check_size
from normzoo.passes.saved import Saved
from normzoo.passes.view import Axes
from normzoo.statistics.running import normalize_by
from normzoo.statistics.running_state import RunningState
from normzoo.zoo.batch import batch_norm


class PowerNorm(Norm):
    """Power normalization: divide every channel by its running root mean square, with a running gradient.

    Formula:
        xhat = x / psi, y = xhat * weight + bias, psi = sqrt(running_phi + eps), with running_phi as it was before this
        batch; then running_phi = alpha_fwd * running_phi + (1 - alpha_fwd) * mean(x^2), over all axes but the
        channels'. Backward, with g = dy * weight and nu as it was in the forward pass,
            dx = (g - nu * xhat) / psi,    dweight = sum(dy * xhat),    dbias = sum(dy),
            nu = nu * (1 - (1 - alpha_bkw) * mean(xhat^2)) + (1 - alpha_bkw) * mean(g * xhat).
        This is not the gradient of y: it replaces the gradient through the batch's own mean square. In the first
        warmup_iters batches, mean(x^2) is used instead of running_phi, and dx is the exact gradient. In evaluation psi
        is the running one and dx = g / psi.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C), as (batch, time, features) is.
        weight, bias, running_phi, nu: (C,).

    Args:
        num_features: C.
        eps: added to the mean square, in the units of x squared.
        alpha_fwd, alpha_bkw: the weights of the old running values, 0 to 1: 1 - momentum elsewhere.
        affine: whether there are a weight and a bias.
        warmup_iters: number of warm-up batches; the code's 10000. The paper has none: 0.
        bias, channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: x has another number of channels or rank below 2, or float64 values so large (2^500) that a mean
            square overflows; an alpha is not in [0, 1]. TypeError: x is not a float array. Nothing has changed then.

    Every forward pass updates nu once, in its first backward pass. The authors' code keeps ema_gz = nu / (1 -
    alpha_bkw), divides dx by the batch's psi although y was divided by the running one, uses nu in the warm-up, too,
    and scales groups of channels before (group_num). The paper, followed here, does none of these.

    Source:
        S. Shen, Z. Yao, A. Gholami, M. W. Mahoney and K. Keutzer, "PowerNorm: Rethinking Batch Normalization in
        Transformers", 2020, arXiv:2003.07845; warm-up of https://github.com/sIncerass/powernorm.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.PowerNorm(1, warmup_iters=1)
    >>> x = np.array([[3], [4]], np.float32)
    >>> norm(x).round(2).ravel()  # by the root of 12.5
    array([0.85, 1.13], dtype=float32)
    >>> norm(x).round(2).ravel()  # by that of 0.9 * 1 + 0.1 * 12.5
    array([2.05, 2.73], dtype=float32)
    """

    moments = Moments(center=False, power=2)
    eps: float
    running_phi = entry("buffers", "running_phi")
    nu = entry("buffers", "nu")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        alpha_fwd: float = 0.9,
        alpha_bkw: float = 0.9,
        affine: bool = True,
        warmup_iters: int = 10000,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        self.num_features = check_features("PowerNorm", num_features)
        super().__init__(num_features, shape=(num_features,), eps=eps, weight=affine, bias=affine and bias, dtype=dtype)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))
        self.warmup_iters = check_size(self, "warmup_iters", warmup_iters)
        self.alpha_fwd = check_number(self, "alpha_fwd", alpha_fwd)
        self.alpha_bkw = check_number(self, "alpha_bkw", alpha_bkw)
        for name in ("alpha_fwd", "alpha_bkw"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{self}: expected {name} in [0, 1], got {getattr(self, name)}")
        self.buffers["running_phi"] = np.ones(num_features, self._dtype)
        self.buffers["nu"] = np.zeros(num_features, self._dtype)
        self.buffers["num_batches_tracked"] = np.array(0, np.int64)

    @property
    def num_batches_tracked(self) -> Array:
        """Number of training batches seen, int64 of shape ()."""
        return self.buffers["num_batches_tracked"]

    def axes(self, x: Array) -> Axes:
        return batch_norm.axes(self, x, self.channel_axis, self.num_features)

    def forward(self, x: Array, out: Array | None = None, *, update_stats: bool = True) -> tuple[Array, Saved]:
        """See `Norm.forward`.

        Args:
            update_stats: False leaves running_phi, num_batches_tracked and, in the backward pass, nu unchanged.
        """
        axes, held = self.axes(x), (self.buffers["running_phi"], self.buffers["nu"])
        state = RunningState(*held, self.num_batches_tracked)
        phi, nu, batches = (a.astype(np.float64) for a in state.read())
        check_spread(self, "running_phi", phi)
        if not self.training:
            rstd = _reciprocal(np.sqrt(phi + self.eps))
            return normalize_by(
                Form(self, axes, CONSTANT, 0.0), x, (np.zeros_like(phi), rstd), self.weight, self.bias, out, held
            )
        if not all(a.flags.writeable for a in held):
            raise ValueError(f"{self}: expected running values that can be written, {read_only(self)}")
        weight = np.ones(()) if self.weight is None else self.weight.astype(np.float64)
        bias = np.zeros(()) if self.bias is None else self.bias.astype(np.float64)
        count, warm = max(axes.values, 1), batches.item() < self.warmup_iters
        keep, pending = self.alpha_bkw, [update_stats and x.size > 0]

        def find(_: Array, square: Array) -> tuple[Array, Array, Any]:
            rstd = _reciprocal(np.sqrt((square if warm else phi) + self.eps))

            def back(dslope: Array, dshift: Array) -> tuple[Array, Array, dict[str, Array]]:
                along = rstd * dslope  # sum(dy * xhat)
                dsquare = -0.5 * rstd**2 * (weight * along if warm else nu * count)
                if pending[0]:
                    kept = 1 - (1 - keep) * square * rstd**2

                    def taken(now: Array) -> list[Array]:
                        return [now.astype(np.float64) * kept + (1 - keep) * weight * along / count]

                    RunningState(held[1]).replace(taken, [(pending, 0, False)])
                return np.zeros_like(square), dsquare, {"weight": along, "bias": dshift}

            return weight * rstd, bias, back

        y, stats, saved = affine(Form(self, axes, self.moments, self.eps), x, self.params, find, out, held)
        if not update_stats:
            return y, saved
        new, share = stats[1].reshape(-1), self.alpha_fwd

        def joined(phi: Array, _: Array, batches: Array) -> tuple[Any, ...]:
            return share * phi.astype(np.float64) + (1 - share) * new if x.size else None, None, batches + 1

        state.replace(joined)
        return y, saved

    def _options(self) -> dict[str, Any]:
        options = {
            "alpha_fwd": self.alpha_fwd,
            "alpha_bkw": self.alpha_bkw,
            "affine": "weight" in self.params,
            "bias": "bias" in self.params,
            "warmup_iters": self.warmup_iters,
        }
        end = {} if self.channel_axis == 1 else {"channel_axis": self.channel_axis}
        return super()._options() | options | end


def _reciprocal(v: Array) -> Array:
    """1 / v, or 0 where v is 0."""
    return np.divide(1.0, v, out=np.zeros_like(v), where=v != 0)
