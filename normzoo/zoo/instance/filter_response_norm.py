"""Filter response normalization with its activation, the thresholded linear unit."""

from typing import Any

import numpy as np

from normzoo.backends.around import NOTHING, Beside
from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.around import learned_alone
from normzoo.passes.arrays import base_array
from normzoo.passes.attributes import entry
from normzoo.passes.form import Form
from normzoo.passes.formulas import reciprocal
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_features, check_size
from normzoo.passes.saved import Chained, Grads, Saved, grads_by_name
from normzoo.passes.view import Axes
from normzoo.zoo.instance.instance_norm import axes


class FilterResponseNorm(Norm):
    """Filter response normalization: divide every channel by its root mean square, then apply a learned threshold.

    Formula:
        y = max(x / sqrt(mean(x^2) + eps) * weight + bias, tau), with the mean over the positions of one channel of one
        sample. With learn_eps, eps + |eps_l| replaces eps.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias, tau: (C,). eps_l: (1,).

    Args:
        num_features: C.
        eps: added to the mean square, in the units of x squared.
        learn_eps: True: eps_l is a parameter, 1e-4 at first: for layers with few positions, 1 at worst.
        tlu: True: the thresholded linear unit max(., tau) is applied; without it, another activation may follow.
        channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: x has another number of channels, or the samples are not on axis 0. TypeError: x is not a float
            array.

    Where a value is at or below the threshold, tau gets its gradient.

    Source:
        S. Singh and S. Krishnan, "Filter Response Normalization Layer: Eliminating Batch Dependence in the Training of
        Deep Neural Networks", 2019, arXiv:1911.09737. eps 1e-6 is the paper's, timm has 1e-5. tau begins at 0, as in
        TensorFlow Addons and timm, which makes the unit a ReLU. Without tlu it is InstanceNorm by the root mean square.

    >>> import numpy as np, normzoo as nz
    >>> nz.FilterResponseNorm(1)(np.array([[[3, -4]]], np.float32)).round(2)
    array([[[0.85, 0.  ]]], dtype=float32)
    """

    masks = True
    moments = Moments(center=False, power=2)
    eps: float

    eps_l = entry("params", "eps_l")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-6,
        learn_eps: bool = False,
        *,
        tlu: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        self.num_features = check_features("FilterResponseNorm", num_features)
        super().__init__(num_features, shape=(num_features,), eps=eps, dtype=dtype)
        if tlu:
            self.params["tau"] = np.zeros(num_features, self._dtype)
        if learn_eps:
            self.params["eps_l"] = np.full((1,), 1e-4, self._dtype)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def axes(self, x: Array) -> Axes:
        return axes(self, x, self.channel_axis, self.num_features)

    def forward(self, x: Array, out: Array | None = None) -> tuple[Array, Saved]:
        x, params = base_array(self, "x", x), dict(self.params)
        letters = self.axes(x)
        eps, weight, bias = self.eps, params["weight"], params["bias"]
        if "eps_l" in params:  # its gradient is computed from those of one weight per sample
            eps = self.eps + abs(float(params["eps_l"][0]))
            letters = Axes(x.shape, "K" + letters.letters[1:])
            weight, bias = (np.repeat(p[None], x.shape[0], axis=0) for p in (weight, bias))
        around, beside = None, NOTHING
        if "tau" in params:
            tau = params["tau"]
            if "eps_l" in params:
                tau = np.repeat(tau[None], x.shape[0], axis=0)
            around, beside = learned_alone("threshold"), Beside(other=tau)
        form = Form(self, letters, self.moments, eps, None, around, beside)
        y, stats, inner = normalize(form, x, weight, bias, out, apart=tuple(params.values()))
        # rstd squared; a selection has its moments by name
        square = stats[2] ** 2 if isinstance(stats, np.ndarray) else reciprocal(stats.var + eps)

        def pull(dy: Array, out: Array | None) -> Grads:
            grads = inner.backward(dy, out)
            dx, dweight, dbias = grads
            found = {"x": dx, "weight": dweight, "bias": dbias} | dict(grads.others)
            if "eps_l" in params:
                sign = np.sign(params["eps_l"].astype(np.float64))
                along = (dweight * weight).astype(np.float64) * square.reshape(weight.shape)  # (N, C)
                found |= {name: d.sum(axis=0) for name, d in found.items() if name != "x"}
                found["eps_l"] = (-0.5 * sign * along.sum()).astype(params["eps_l"].dtype)
            return grads_by_name(found)

        return y, Chained(self, x, pull, (inner,))

    def _options(self) -> dict[str, Any]:
        given = {"learn_eps": "eps_l" in self.params, "tlu": "tau" in self.params}
        return super()._options() | given | {"channel_axis": self.channel_axis}
