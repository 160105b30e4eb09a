"""Mean subtraction: every graph's mean is taken from its nodes."""

from collections.abc import Mapping
from typing import Any

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula
from normzoo.passes.graphs import GraphPass
from normzoo.zoo.graph.by_graph import SHIFTED, ByGraph, Pull


def _back(dy: Any, _x: Any, high: Any, low: Any) -> tuple[Any, ...]:
    return ((dy - high) - low,)


def _total_of_dy(dy: Any, _x: Any) -> tuple[Any, ...]:
    return (dy,)


BACK, OF_DY = Formula(_back, 2, 1), Formula(_total_of_dy, 2, 0, ("bc",), wide=True)


class MeanSubtraction(ByGraph):
    """Mean subtraction: every graph's mean is taken from its nodes.

    Formula:
        y = x - mean(x), with the mean over the nodes of one graph.

    Shapes:
        x, y: (nodes, C).

    Args:
        none: it has no parameters.

    Raises:
        ValueError: x is not of rank 2, or segments not of shape (nodes,). TypeError: x is not a float array, or
            segments not integers.

    norm(x, segments=ids) says which graph each node belongs to, see `GraphNorm`.

    Source:
        C. Yang, R. Wang, S. Yao, S. Liu and T. Abdelzaher, "Revisiting Over-smoothing in Deep GCNs", 2020,
        arXiv:2003.13663.

    >>> import numpy as np, normzoo as nz
    >>> nz.MeanSubtraction()(np.array([[1], [3], [5]], np.float32), segments=np.array([7, 0, 7])).ravel()
    array([-2.,  0.,  2.], dtype=float32)
    """

    def __init__(self) -> None:
        super().__init__(eps=0.0, weight=False, bias=False)

    def by_graph(self, nodes: GraphPass, params: Mapping[str, Array]) -> Pull:
        mean, _ = nodes.mean_and_var()
        nodes(SHIFTED, *nodes.split(mean))

        def pull(nodes: GraphPass) -> dict[str, Array]:
            (total,) = nodes(OF_DY)
            nodes(BACK, *nodes.split(total / nodes.sizes))
            return {}

        return pull

    def _options(self) -> dict[str, Any]:
        return {}
