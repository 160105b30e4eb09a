"""Graph size normalization: values are divided by the root of the number of nodes of their graph."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula
from normzoo.passes.graphs import GraphPass
from normzoo.zoo.graph.by_graph import SCALED, ByGraph, Pull


def _back(dy: Any, _x: Any, slope: Any) -> tuple[Any, ...]:
    return (dy * slope,)


BACK = Formula(_back, 2, 1)


class GraphSizeNorm(ByGraph):
    """Graph size normalization: values are divided by the root of the number of nodes of their graph.

    Formula:
        y = x / sqrt(n), with n nodes in the graph of x.

    Shapes:
        x, y: (nodes, C).

    Args:
        none: it has no parameters.

    Raises:
        ValueError: x is not of rank 2, or segments not of shape (nodes,). TypeError: x is not a float array, or
            segments not integers.

    norm(x, segments=ids) says which graph each node belongs to, see `GraphNorm`.

    Source:
        V. P. Dwivedi, C. K. Joshi, A. T. Luu, T. Laurent, Y. Bengio and X. Bresson, "Benchmarking Graph Neural
        Networks", 2020, arXiv:2003.00982.

    >>> import numpy as np, normzoo as nz
    >>> nz.GraphSizeNorm()(np.array([[2], [4], [6], [8]], np.float32)).ravel()
    array([1., 2., 3., 4.], dtype=float32)
    """

    def __init__(self) -> None:
        super().__init__(eps=0.0, weight=False, bias=False)

    def by_graph(self, nodes: GraphPass, params: Mapping[str, Array]) -> Pull:
        slope = 1 / np.sqrt(nodes.sizes)
        nodes(SCALED, slope)

        def pull(nodes: GraphPass) -> dict[str, Array]:
            nodes(BACK, slope)
            return {}

        return pull

    def _options(self) -> dict[str, Any]:
        return {}
