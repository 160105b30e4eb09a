"""Graph normalization: standardize every channel over the nodes of a graph, with a learned share of the mean."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.attributes import entry
from normzoo.passes.formulas import reciprocal
from normzoo.passes.graphs import GraphPass
from normzoo.passes.numbers import check_features
from normzoo.zoo.graph.by_graph import AFFINE, GRADIENT, TERMS, ByGraph, Pull


class GraphNorm(ByGraph):
    """Graph normalization: standardize every channel over the nodes of a graph, with a learned share of the mean.

    Formula:
        y = o / sqrt(mean(o^2) + eps) * weight + bias, o = x - mean(x) * mean_scale, with means over the nodes of one
        graph.

    Shapes:
        x, y: (nodes, C).
        weight, bias, mean_scale: (C,).

    Args:
        in_channels: C.
        eps: added to the variance, in the units of x squared.
        dtype: of the parameters: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x has another shape, or segments another than (nodes,). TypeError: x is not a float array, or
            segments not integers.

    norm(x, segments=ids) says which graph each node belongs to: the batch vector of PyTorch Geometric, but for that the
    numbers may be any, in any order. Without segments all nodes are of one graph.

    Source:
        T. Cai, S. Luo, K. Xu, D. He, T.-Y. Liu and L. Wang, "GraphNorm: A Principled Approach to Accelerating Graph
        Neural Network Training", 2020, arXiv:2009.03294. With mean_scale 1 it is InstanceNorm of the graph.

    >>> import numpy as np, normzoo as nz
    >>> x = np.array([[1], [3], [10], [30]], np.float32)
    >>> nz.GraphNorm(1)(x, segments=np.array([0, 0, 1, 1])).round(2).ravel()
    array([-1.,  1., -1.,  1.], dtype=float32)
    """

    mean_scale = entry("params", "mean_scale")
    channels = "in_channels"

    def __init__(self, in_channels: int, eps: float = 1e-5, *, dtype: Any = np.float32) -> None:
        self.in_channels = check_features("GraphNorm", in_channels, "in_channels")
        super().__init__(in_channels, shape=(in_channels,), eps=eps, dtype=dtype)
        self.params["mean_scale"] = np.ones(in_channels, self._dtype)

    def by_graph(self, nodes: GraphPass, params: Mapping[str, Array]) -> Pull:
        weight, share = params["weight"], params["mean_scale"]
        mean, var = nodes.mean_and_var()
        middle, rest = mean * share, mean * (1 - share)
        rstd = reciprocal(np.sqrt(var + rest * rest + self.eps))
        slope = rstd * weight
        nodes(AFFINE, *nodes.split(middle), slope, params["bias"])
        sizes = nodes.sizes

        def pull(nodes: GraphPass) -> dict[str, Array]:
            center = nodes.split(middle)
            along, total = nodes(TERMS, *center)
            mean_of_dy = (total - rstd * rstd * rest * along) * share / sizes  # that of o's gradient, over slope
            nodes(GRADIENT, *center, *nodes.split(mean_of_dy), slope, -slope * rstd * rstd * along / sizes)
            of_mean = -slope * (total - rstd * rstd * rest * along)
            return {
                "weight": (along * rstd).sum(axis=0),
                "bias": total.sum(axis=0),
                "mean_scale": (mean * of_mean).sum(axis=0),
            }

        return pull
