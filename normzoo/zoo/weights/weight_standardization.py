"""Weight standardization: normalize every filter of a weight array by its mean and variance; and a scaled form."""

from typing import Any, Unpack

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.around import Behind
from normzoo.passes.arrays import check_array, compute_dtype, once
from normzoo.passes.form import Form
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_axis, check_features, check_number, check_size
from normzoo.passes.saved import Chained, Grads, Saved
from normzoo.passes.view import Axes


class WeightStandardization(Norm):
    """Weight standardization: normalize every filter of a weight array by its mean and variance.

    Formula:
        y = (x - mean) / sqrt(var + eps), with mean and (biased) var over all axes but `dim`.

    Shapes:
        x, y: any rank from 1; (outputs, inputs, height, width) for a convolution.

    Args:
        dim: the axis of the outputs; every index along it has its own mean and variance.
        eps: added to the variance, in the units of x squared.

    Raises:
        ValueError: x has no axis `dim`. TypeError: x is not a float array.

    The authors' code adds 1e-5 to an unbiased standard deviation; timm adds 1e-6 and Big Transfer 1e-10 to the biased
    variance, as is done here.

    Source:
        S. Qiao, H. Wang, C. Liu, W. Shen and A. Yuille, "Micro-Batch Training with Batch-Channel Normalization and
        Weight Standardization", 2019, arXiv:1903.10520. Equals LayerNorm over all axes but `dim`, without parameters.

    >>> import numpy as np, normzoo as nz
    >>> nz.WeightStandardization()(np.array([[0, 2], [10, 30]], np.float32)).round(2)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    moments = Moments(center=True, power=2)

    def __init__(self, dim: int = 0, eps: float = 1e-5, **behind: Unpack[Behind]) -> None:
        self.dim = check_size("WeightStandardization", "dim", dim, least=-(2**31))
        super().__init__(dim, eps=eps, weight=False, bias=False, **behind)

    def axes(self, x: Array) -> Axes:
        return axes(self, x, self.dim, None)


class ScaledWeightStandardization(Norm):
    """Scaled weight standardization: every filter gets mean 0 and length 1, times a gain, for networks without norms.

    Formula:
        y = (x - mean) / sqrt(max(var * fan_in, eps)) * gamma * weight, with mean and (biased) var over all axes but
        `dim`, and fan_in the number of values in each filter.

    Shapes:
        x, y: (num_features, ...), for a convolution (outputs, inputs, height, width).
        weight: (num_features,), the gain.

    Args:
        num_features: number of outputs.
        eps: the smallest var * fan_in, in the units of x squared.
        gain: whether there is a weight.
        gamma: a fixed factor for the activation that follows, 1.7139588594436646 for ReLU.
        dim: the axis of the outputs.
        dtype: of the gain: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x has another size along `dim`. TypeError: x is not a float array.

    The NFNets' code, whose eps of 1e-4 is the default, has gamma in the activations; timm has it in the weights, as
    here, and adds an eps of 1e-6 to the variance.

    Source:
        A. Brock, S. De and S. L. Smith, "Characterizing signal propagation to close the performance gap in unnormalized
        ResNets", 2021, arXiv:2101.08692; eps and gain as in A. Brock et al., "High-Performance Large-Scale Image
        Recognition Without Normalization", 2021, arXiv:2102.06171.

    >>> import numpy as np, normzoo as nz
    >>> nz.ScaledWeightStandardization(1)(np.array([[0, 2, 0, 2]], np.float32)).round(2)
    array([[-0.5,  0.5, -0.5,  0.5]], dtype=float32)
    """

    masks = True
    moments = Moments(center=True, power=2, total=True, clamp=True)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-4,
        *,
        gain: bool = True,
        gamma: float = 1.0,
        dim: int = 0,
        dtype: Any = np.float32,
    ) -> None:
        self.num_features = check_features("ScaledWeightStandardization", num_features)
        super().__init__(num_features, shape=(num_features,), eps=eps, weight=gain, bias=False, dtype=dtype)
        self.gamma = check_number(self, "gamma", gamma)
        self.dim = check_size(self, "dim", dim, least=-(2**31))

    def axes(self, x: Array) -> Axes:
        return axes(self, x, self.dim, self.num_features)

    def forward(self, x: Array, out: Array | None = None) -> tuple[Array, Saved]:
        gain = self.params.get("weight")
        weight, least = gain, float(self.eps or 0.0) ** 0.5
        if self.gamma != 1.0:
            check_array(self, "x", x)
            dtype = compute_dtype(x.dtype, None if gain is None else gain.dtype)
            weight = np.full(self.num_features, self.gamma, dtype)
            if gain is not None:
                weight *= gain
        y, _, saved = normalize(
            Form(self, self.axes(x), self.moments, least), x, weight, None, out, apart=() if gain is None else (gain,)
        )
        if weight is gain:
            return y, saved
        gamma = self.gamma

        def pull(dy: Array, out: Array | None) -> Grads:
            found = saved.backward(dy, out)
            return Grads(found.x, None if gain is None else (gamma * found.weight).astype(gain.dtype))

        return y, Chained(self, x, pull, (saved,))

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"gain": "weight" in self.params, "gamma": self.gamma, "dim": self.dim}


@once
def axes(owner: object, x: Array, dim: int, features: int | None) -> Axes:
    check_array(owner, "x", x)
    dim = check_axis(owner, dim, x.ndim, "dim")
    if features is not None and x.shape[dim] != features:
        raise ValueError(f"{owner}: expected x of size {features} along dim={dim}, got {x.shape}")
    return Axes(x.shape, "".join("K" if i == dim else "r" for i in range(x.ndim)))
