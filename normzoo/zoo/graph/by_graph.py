"""Base class of norms whose statistics are those of the nodes of a graph."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, ClassVar

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula
from normzoo.backends.lanes import fma
from normzoo.norm import Norm
from normzoo.passes.attributes import Last
from normzoo.passes.graphs import GraphPass, by_graph, nodes_of
from normzoo.passes.overlaps import check_out
from normzoo.passes.saved import Saved
from normzoo.selection.select import SELECTS

Pull = Callable[[GraphPass], Mapping[str, Array]]


def _shifted(x: Any, high: Any, low: Any) -> tuple[Any, ...]:
    return ((x - high) - low,)


def _scaled(x: Any, slope: Any) -> tuple[Any, ...]:
    return (x * slope,)


def _affine(x: Any, high: Any, low: Any, slope: Any, bias: Any) -> tuple[Any, ...]:
    return (fma((x - high) - low, slope, bias),)


def _terms(dy: Any, x: Any, high: Any, low: Any) -> tuple[Any, ...]:
    return dy * ((x - high) - low), dy


def _total(x: Any) -> tuple[Any, ...]:
    return (x,)


def _gradient(
    dy: Any, x: Any, high: Any, low: Any, of_dy: Any, rest_of_dy: Any, slope: Any, more: Any
) -> tuple[Any, ...]:
    """dy's mean is subtracted before the slope: in a graph of one node nothing is left, however large that is."""
    return (fma((dy - of_dy) - rest_of_dy, slope, ((x - high) - low) * more),)


SHIFTED, SCALED, AFFINE = Formula(_shifted, 1, 1), Formula(_scaled, 1, 1), Formula(_affine, 1, 1)
TERMS, TOTAL = Formula(_terms, 2, 0, ("bc", "bc")), Formula(_total, 1, 0, ("bc",))
GRADIENT = Formula(_gradient, 2, 1)


class ByGraph(Norm):
    """A norm that defines `by_graph`; x is (nodes, channels)."""

    eps: float
    selects: ClassVar[frozenset[str]] = SELECTS - {"segments"}  # `forward` takes these
    channels: ClassVar[str] = ""  # the attribute that says how many channels x has; "": any number

    @abstractmethod
    def by_graph(self, nodes: GraphPass, params: Mapping[str, Array]) -> Pull:
        """Write y, by formulas that `nodes` is called with; returns the function from a pass that holds dy, too, which
        writes dx, to the gradients of all else. `params` are float64."""

    def forward(self, x: Array, out: Array | None = None, *, segments: Array | None = None) -> tuple[Array, Saved]:
        """y and what backward needs: see `Norm.forward`.

        Args:
            segments: integers (nodes,), one for each node: those of one graph are equal, in any order. None: all nodes
                are of one graph.
        """
        x, ids = nodes_of(self, x, segments, getattr(self, self.channels) if self.channels else None)
        if out is not None:
            check_out(self, out, x.shape, x.dtype, (x,), tuple(self.params.values()))
        return by_graph(self, x, out, ids, self._pass, self.params)

    @property
    def _pass(self) -> Callable[[GraphPass, Mapping[str, Array]], Pull]:
        """With the settings of now: they may be others when a pass goes back."""
        norm = copy(self)
        norm._last = Last(
            self.label
        )  # or what a pass leaves would hold itself, and wait for Python's garbage collection
        return norm.by_graph
