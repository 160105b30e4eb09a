"""Pair normalization: the squared distances between the nodes of a graph stay the same in total."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula
from normzoo.passes.formulas import reciprocal
from normzoo.passes.graphs import GraphPass
from normzoo.passes.numbers import check_number
from normzoo.zoo.graph.by_graph import AFFINE, GRADIENT, SHIFTED, TERMS, TOTAL, ByGraph, Pull


def _squares(o: Any) -> tuple[Any, ...]:
    return (o * o,)


def _products(d: Any, o: Any) -> tuple[Any, ...]:
    return d * o, o * o


def _joined(d: Any, o: Any, slope: Any, more: Any) -> tuple[Any, ...]:
    return (d * slope + o * more,)


def _scaled(o: Any, slope: Any) -> tuple[Any, ...]:
    return (o * slope,)


OF_NODES, SCALED = Formula(_squares, 1, 0, ("b",), wide=True), Formula(_scaled, 1, 1)
PRODUCTS, JOINED = Formula(_products, 2, 0, ("b", "b"), wide=True), Formula(_joined, 2, 1)


class PairNorm(ByGraph):
    """Pair normalization: the squared distances between the nodes of a graph stay the same in total.

    Formula:
        y = scale * o / sqrt(mean(norm(o)^2) + eps), o = x - mean(x), with means over the nodes of one graph, and norm
        over the channels of a node. With scale_individually, y = scale * o / (norm(o) + eps).

    Shapes:
        x, y: (nodes, C).

    Args:
        scale: the factor s of the paper.
        scale_individually: whether every node gets the same norm (the paper's PairNorm-SI).
        eps: added to the mean of squared norms, or to the norm, in the units of x squared, or of x.

    Raises:
        ValueError: x is not of rank 2, or segments not of shape (nodes,). TypeError: x is not a float array, or
            segments not integers.

    norm(x, segments=ids) says which graph each node belongs to, see `GraphNorm`.

    Source:
        L. Zhao and L. Akoglu, "PairNorm: Tackling Oversmoothing in GNNs", 2019, arXiv:1909.12223; eps 1e-5 is that of
        PyTorch Geometric.

    >>> import numpy as np, normzoo as nz
    >>> nz.PairNorm()(np.array([[1, 1], [3, 1]], np.float32)).round(2)
    array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)
    """

    def __init__(self, scale: float = 1.0, scale_individually: bool = False, eps: float = 1e-5) -> None:
        super().__init__(eps=eps, weight=False, bias=False)
        self.scale = check_number(self, "scale", scale)
        self.scale_individually = bool(scale_individually)

    def by_graph(self, nodes: GraphPass, params: Mapping[str, Array]) -> Pull:
        if self.scale_individually:
            return self._by_node(nodes)
        mean, var = nodes.mean_and_var()
        rstd = reciprocal(np.sqrt(var.sum(axis=1, keepdims=True) + self.eps))
        slope, sizes = self.scale * rstd, nodes.sizes
        nodes(AFFINE, *nodes.split(mean), slope, 0.0)

        def pull(nodes: GraphPass) -> dict[str, Array]:
            along, total = nodes(TERMS, *nodes.split(mean))
            more = -slope * rstd * rstd * along.sum(axis=1, keepdims=True) / sizes
            nodes(GRADIENT, *nodes.split(mean), *nodes.split(total / sizes), slope, more)
            return {}

        return pull

    def _by_node(self, nodes: GraphPass) -> Pull:
        mean, _ = nodes.mean_and_var()
        apart = nodes.array()
        nodes.of((nodes.read(0),), apart)(SHIFTED, *nodes.split(mean))
        (squares,) = nodes.of((apart,), apart).nodes()(OF_NODES)
        rest = nodes.of((apart,), apart).nodes()
        rest(SCALED, self.scale * reciprocal(np.sqrt(squares) + self.eps))
        nodes.result[...] = apart

        def pull(nodes: GraphPass) -> dict[str, Array]:
            apart, found = nodes.array(), nodes.array()
            nodes.of((nodes.read(1),), apart)(SHIFTED, *nodes.split(mean))
            both = nodes.of((nodes.read(0), apart), found).nodes()
            along, squares = both(PRODUCTS)
            size = np.sqrt(squares)
            factor = reciprocal(size + self.eps)
            both(JOINED, self.scale * factor, -self.scale * factor * factor * along * reciprocal(size))
            (total,) = nodes.of((found,), found)(TOTAL)
            nodes.of((found,), found)(SHIFTED, *nodes.split(total / nodes.sizes))
            nodes.result[...] = found
            return {}

        return pull

    def _options(self) -> dict[str, Any]:
        return {"scale": self.scale, "scale_individually": self.scale_individually} | super()._options()
