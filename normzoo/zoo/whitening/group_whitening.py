"""Group whitening: decorrelate the groups of channels of every sample from each other."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.cell_layout import letters_by_channel
from normzoo.passes.cells import Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import product
from normzoo.passes.numbers import check_features, check_size
from normzoo.passes.saved import Pull
from normzoo.statistics.tracked import check_channels
from normzoo.zoo.exact import ExactNorm
from normzoo.zoo.layer.group_norm import check_groups
from normzoo.zoo.whitening.tiles import (
    LEAST_POSITIONS,
    MOST_VARIABLES,
    Tile,
    Whitened,
    check_finite,
    factors_of,
    merged,
    samples_of,
    whiten,
)
from normzoo.zoo.whitening.whitening import affine, of_sets, whitened


class GroupWhitening(ExactNorm):
    """Group whitening: decorrelate the groups of channels of every sample from each other.

    Formula:
        y = W @ (x - mean) * weight + bias, where each sample x is a matrix with one row per group of C / num_groups
        neighbouring channels, with their values at all positions. Mean and (biased) covariance are those of the rows,
        and W = (covariance + eps * I)^(-1/2), by T of `IterNorm`'s iterations or by eigenvectors.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias: (C,).

    Args:
        num_features: C.
        num_groups: number of groups; divides C. It should be below the number of values in a group, or the rows are
            linearly dependent.
        T: number of iterations, 0 or more; None uses eigenvectors (ZCA).
        eps: added to the variances, in the units of x squared; above 0.
        affine, bias, channel_axis, dtype: see `BatchNorm`.

    Raises:
        ValueError: x has another number of channels or one value per group; eps is 0. TypeError: x is not a float
            array.

    Defaults are those of the authors' code, which ignores its eps with iterations, and uses fewer groups if there are
    fewer channels.

    Source:
        L. Huang, Y. Zhou, L. Liu, F. Zhu and L. Shao, "Group Whitening: Balancing Learning Efficiency and
        Representational Capacity", 2021, arXiv:2009.13333. With one group it is GroupNorm with one group.

    >>> import numpy as np, normzoo as nz
    >>> y = nz.GroupWhitening(4, 2, T=None)(np.array([[[1, -1], [1, -1], [0, 0], [1, -1]]], np.float32))
    >>> (y.reshape(2, 4) @ y.reshape(2, 4).T / 4).round(2) + 0.0
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """

    def __init__(
        self,
        num_features: int,
        num_groups: int = 32,
        T: int | None = 5,  # the paper's name
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        self.num_features = check_features("GroupWhitening", num_features)
        self.num_groups = check_size("GroupWhitening", "num_groups", num_groups, least=1)
        super().__init__(
            num_features, num_groups, shape=(num_features,), eps=eps, weight=affine, bias=affine and bias, dtype=dtype
        )
        check_groups(self, num_groups, num_features)
        self.T = None if T is None else check_size(self, "T", T)
        if self.eps == 0:
            raise ValueError(f"{self}: expected eps > 0, got 0; write eps=1e-5")
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))

    def check(self, x: Array, **inputs: Array) -> None:
        channel = check_channels(self, x, self.channel_axis, 2, self.num_features)
        if channel == 0:
            raise ValueError(f"{self}: expected the samples on axis 0 of x, got channel_axis={self.channel_axis}")
        if x.size == len(x) * self.num_groups > 0:
            raise ValueError(f"{self}: expected more than 1 value per group, got x of shape {x.shape}")

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        axis = self.channel_axis % x.ndim
        second = np.moveaxis(x, axis, 1)
        v = second.reshape(len(x), self.num_groups, x.size // max(len(x) * self.num_groups, 1))
        xhat, _, _, back = whitened(v, self.eps or 0.0, self.T)

        def placed(d: Array) -> Array:
            return np.moveaxis(d.reshape(second.shape), 1, axis)

        return affine(placed(xhat), params, axis, lambda d: placed(back(np.moveaxis(d, axis, 1).reshape(v.shape))))

    def letters(self, x: Array) -> str:
        few = x.size < LEAST_POSITIONS * len(x) * self.num_features
        return "" if few or self.num_groups > MOST_VARIABLES else letters_by_channel(x, self.channel_axis)

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        d, eps = self.num_groups, self.eps or 0.0
        weight, bias = (  # (channels of a group, d)
            params.get(name, np.full(self.num_features, value)).reshape(d, -1).T
            for name, value in (("weight", 1.0), ("bias", 0.0))
        )
        x, y = (samples_of(cells.channels_first(i), d) for i in (-1, None))
        with np.errstate(all="ignore"):
            found = whiten(x, eps, False, lambda a: of_sets(a, eps, self.T))
            for one in found:
                moved = (one.matrix * one.low[:, None]).sum(axis=2)

                def factors(tile: Tile, one: Whitened = one, moved: Array = moved) -> Array:
                    by, matrix = weight[tile[1]], one.matrix[tile[0], None]
                    made = np.empty((len(matrix), len(by), d, d + 1))
                    np.multiply(by[:, :, None], matrix, out=made[..., :d])
                    np.subtract(bias[tile[1]], by * moved[tile[0], None], out=made[..., d])
                    return made

                one.write(one.tiled(x, False), y, factors)

        def pull(cells: Pass) -> dict[str, Array]:
            x, dy, dx = (samples_of(cells.channels_first(i), d) for i in (-1, 0, None))
            with np.errstate(all="ignore"):
                each = [_back(one, x, dy, dx, weight) for one in found]
            grads = {"weight": np.sum([g[0] for g in each], axis=0), "bias": np.sum([g[1] for g in each], axis=0)}
            return {name: grads[name].T.reshape(-1) for name in params}

        return pull

    def _options(self) -> dict[str, Any]:
        return (
            {"T": self.T}
            | super()._options()
            | {
                "affine": bool(self.params),
                "bias": "bias" in self.params,
                "channel_axis": self.channel_axis,
            }
        )


def _back(one: Whitened, x: Array, dy: Array, dx: Array, weight: Array) -> tuple[Array, Array]:
    """Writes dx of some samples, (samples, channels of a group, d, n), and returns what they add to the gradients of
    weight and bias, (channels of a group, d)."""
    sets, own = one.tiled(x, False), one.of(dy)

    def take(tile: Tile, along: Array, total: Array) -> tuple[Array, ...]:
        by = weight[tile[1]]
        of_weight = (one.matrix[tile[0], None] * along).sum(axis=(0, 3))
        return (by[..., None] * along).sum(axis=1), (by * total).sum(axis=1), of_weight, total.sum(axis=0)

    taken = list(zip(*sets.along(own, take), strict=True))
    along, total = (merged(sets.tiles, 0, len(one.matrix), a) for a in taken[:2])
    of_weight, of_bias = (merged(sets.tiles, 1, len(weight), a) for a in taken[2:])
    check_finite(along, total)
    d_covariance = one.back(along) if one.back else along
    both, transposed = (d_covariance + d_covariance.swapaxes(1, 2)) / sets.count, one.matrix.swapaxes(1, 2)
    of_x = factors_of(both, one.low, -product(transposed, total[..., None])[..., 0] / sets.count)

    def factors(tile: Tile) -> Array:
        of_dy = transposed[tile[0], None] * weight[tile[1], None]
        others = np.broadcast_to(of_x[tile[0], None], (*of_dy.shape[:3], of_x.shape[2]))
        return np.concatenate([of_dy, others], axis=3)

    one.write(sets, dx, factors, own)
    return of_weight, of_bias
