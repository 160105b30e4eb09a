"""Weight normalization: every row of a weight array is the product of a length and a direction."""

from typing import Any, Unpack

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.around import Behind
from normzoo.passes.arrays import check_array, check_parameter, quiet
from normzoo.passes.form import Form
from normzoo.passes.formulas import root
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_axis, check_shape
from normzoo.passes.view import Axes


class WeightNorm(Norm):
    """Weight normalization: every row of a weight array is the product of a length and a direction.

    Formula:
        y = x / sqrt(sum(x^2) + eps) * weight, with the sum over all axes but `dim`. A row of zeros gives zeros, and its
        gradient is 0.

    Shapes:
        x, y: `shape`. x is the direction v of the paper and y the weight that the layer uses.
        weight: the lengths, g in the paper, of x's rank with size 1 for every axis but `dim`; () if dim is None.

    Args:
        shape: shape of x, an integer or a tuple.
        dim: the axis of x with one length per index, usually that of the outputs; None means a single length.
        eps: added to the sum of squares.
        dtype: of the lengths: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x has another shape. TypeError: x is not a float array.

    Lengths start at 1; after `match(v)`, norm(v) is v, which is how PyTorch starts. In a PyTorch state, `weight` is
    parametrizations.weight.original0 (formerly weight_g) and x is original1 (weight_v). PyTorch, like the paper, has no
    eps, a row of zeros gives NaN, and dim=-1 means None; Flax adds 1e-12 and has its outputs on the last axis.

    Source:
        T. Salimans and D. P. Kingma, "Weight Normalization: A Simple Reparameterization to Accelerate Training of Deep
        Neural Networks", 2016, arXiv:1602.07868; semantics of torch.nn.utils.parametrizations.weight_norm.

    >>> import numpy as np, normzoo as nz
    >>> nz.WeightNorm((2, 2))(np.array([[3, 4], [0, 0]], np.float32)).round(2)
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """

    moments = Moments(center=False, power=2, total=True)

    def __init__(
        self,
        shape: int | tuple[int, ...],
        dim: int | None = 0,
        *,
        eps: float = 0.0,
        dtype: Any = np.float32,
        **behind: Unpack[Behind],
    ) -> None:
        self.shape = check_shape("WeightNorm", "shape", shape)
        self.dim = None if dim is None else check_axis("WeightNorm", dim, len(self.shape), "dim")
        lengths = tuple(size if i == self.dim else 1 for i, size in enumerate(self.shape))
        sizes = () if dim is None else lengths
        super().__init__(self.shape, self.dim, shape=sizes, eps=eps, bias=False, dtype=dtype, **behind)

    def axes(self, x: Array) -> Axes:
        check_parameter(self, "x", x, self.shape)
        return Axes(x.shape, "".join("K" if i == self.dim else "r" for i in range(x.ndim)))

    @quiet
    def match(self, x: Array) -> None:
        """Set the lengths to those of x, so that norm(x) is x."""
        check_array(self, "x", x)
        _, stats, _ = normalize(Form(self, self.axes(x), self.moments, self.eps or 0.0), x, None, None, keep=False)
        self.params["weight"][...] = root(stats, self.eps or 0.0).reshape(self._shape)
