"""LayerScale: a small learned factor for every channel of a residual branch."""

from typing import Any, Unpack

import numpy as np

from normzoo.backends.contract import CONSTANT, Array
from normzoo.norm import Norm
from normzoo.passes.around import Behind
from normzoo.passes.arrays import once
from normzoo.passes.numbers import check_number, check_size
from normzoo.passes.view import Axes
from normzoo.statistics.tracked import check_channels


class LayerScale(Norm):
    """LayerScale: a small learned factor for every channel of a residual branch.

    Formula:
        y = x * weight.

    Shapes:
        x, y: (..., C); with channel_axis=1, (N, C, ...).
        weight: (C,).

    Args:
        dim: C.
        init_values: initial value of the weight. The paper takes 0.1 for up to 18 blocks, 1e-5 up to 24, and 1e-6 for
            more; defaults also differ: 1e-5 in timm, 1e-6 in torchvision's ConvNeXt.
        channel_axis: the axis of the channels, -1 (or any other).
        dtype: of the weight: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x has another number of channels. TypeError: x is not a float array.

    A residual block is x + LayerScale(branch(x)). With init_values=1, LayerScale starts as the identity.

    Source:
        H. Touvron, M. Cord, A. Sablayrolles, G. Synnaeve and H. Jegou, "Going deeper with Image Transformers", 2021,
        arXiv:2103.17239.

    >>> import numpy as np, normzoo as nz
    >>> nz.LayerScale(2, 0.5)(np.array([[2, 4]], np.float32))
    array([[1., 2.]], dtype=float32)
    """

    moments = CONSTANT

    def __init__(
        self,
        dim: int,
        init_values: float = 1e-5,
        *,
        channel_axis: int = -1,
        dtype: Any = np.float32,
        **behind: Unpack[Behind],
    ) -> None:
        self.dim = check_size("LayerScale", "dim", dim)
        super().__init__(dim, shape=(dim,), eps=0.0, bias=False, dtype=dtype, **behind)
        self.init_values = check_number(self, "init_values", init_values)
        self.params["weight"][...] = init_values
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def axes(self, x: Array) -> Axes:
        return letters(self, x, self.channel_axis, self.dim)

    def _options(self) -> dict[str, Any]:
        return {"init_values": self.init_values, "channel_axis": self.channel_axis}


@once
def letters(owner: object, x: Array, channel_axis: int, features: int) -> Axes:
    channel = check_channels(owner, x, channel_axis, 1, features)
    return Axes(x.shape, "r" * channel + "K" + "r" * (x.ndim - channel - 1))
