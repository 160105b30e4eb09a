"""Passes over the nodes of a batch of graphs: x is (nodes, channels), and a cell is a channel of one graph. Nodes that
are not in the order of their graphs are put into it, and their results back."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends import backend, chosen
from normzoo.backends.contract import Array, Backend
from normzoo.backends.forms import Cells, Formula
from normzoo.backends.memory import empty
from normzoo.passes.arrays import base_array
from normzoo.passes.cells import Beyond, Pass
from normzoo.passes.saved import Saved
from normzoo.passes.whole import Back, whole
from normzoo.selection.select import Selected, select


class Graphs(NamedTuple):
    """Which nodes belong together."""

    starts: Array  # int64: where each graph begins, in order, and the end
    order: Array | None  # nodes by graph; None: they are so already

    @property
    def sizes(self) -> Array:
        """Nodes of each graph, (graphs, 1) float64."""
        return np.diff(self.starts)[:, None].astype(np.float64)

    def take(self, v: Array) -> Array:
        """A copy of v's rows by graph, or v itself."""
        return v if self.order is None else np.ascontiguousarray(v[self.order])

    def space(self, v: Array) -> Array:
        """Where results by graph are written that go to v."""
        return v if self.order is None else empty(v.shape, v.dtype)

    def put(self, found: Array, v: Array) -> None:
        """Results by graph into v."""
        if self.order is not None:
            v[self.order] = found


def graphs_of(ids: Array | None, nodes: int) -> Graphs:
    """By one number for each node, in any order, and any numbers; None: all are one graph's."""
    if ids is None:
        return Graphs(np.array([0, nodes]), None)
    order = None
    if not (ids[1:] >= ids[:-1]).all():
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
    return Graphs(np.concatenate([[0], np.flatnonzero(ids[1:] != ids[:-1]) + 1, [nodes]]), order)


def nodes_of(owner: object, x: Any, segments: Any, channels: int | None = None) -> tuple[Array, Array | None]:
    """x and the numbers of its nodes' graphs, checked.

    Args:
        channels: how many x has; None: any number.
    """
    if isinstance(x, Selected):
        if segments is not None or x.segments is None or x.mask is not None or x.sample_weight is not None:
            raise TypeError(f"{owner}: takes no mask, lengths or weights, got x with some; write norm(x, segments=ids)")
        if x.segment_axis != 0:
            raise ValueError(
                f"{owner}: expected segments along axis 0, got {x.segment_axis}; write norm(x, segments=ids)"
            )
        x, segments = x.x, x.segments
    x = base_array(owner, "x", x)
    wanted = "C" if channels is None else str(channels)
    if x.ndim != 2 or (channels is not None and x.shape[1] != channels):
        raise ValueError(f"{owner}: expected x of shape (nodes, {wanted}), got {x.shape}")
    try:
        return x, None if segments is None else select(x, segments=segments).segments
    except (TypeError, ValueError) as error:  # which names the function, not the norm
        raise type(error)(str(error).replace("select", str(owner), 1)) from None


class GraphPass(Pass):
    """A `Pass` whose cells have different sizes."""

    def __init__(
        self, run_on: Backend, graphs: Graphs, arrays: tuple[Array, ...], result: Array, exact: bool = False
    ) -> None:
        nodes, channels = arrays[0].shape
        super().__init__(run_on, Cells(len(graphs.starts) - 1, channels, nodes, True), arrays, result)
        self.graphs, self.exact = graphs, exact

    @property
    def sizes(self) -> Any:
        return self.graphs.sizes

    def _run(self, formula: Formula, spans: tuple[str, ...], store: np.dtype) -> Callable[..., list[Array]]:
        return self._backend.groups(self.graphs.starts, self.dims.c, formula, self.dtype, store)

    def at_position(self, i: int) -> Array:
        found: Array = self._arrays[-1][self.graphs.starts[:-1] + i].astype(np.float64)
        return found

    def split(self, a: Array) -> tuple[Array, Array]:
        return (a, np.zeros_like(a)) if self.exact else super().split(a)

    def of(self, arrays: tuple[Array, ...], result: Array) -> "GraphPass":
        """Of other arrays of the same nodes."""
        return GraphPass(self._backend, self.graphs, arrays, result, self.exact)

    def nodes(self) -> Pass:
        """Of the same arrays, where a cell is a node."""
        rows, columns = self.result.shape
        found = Pass(self._backend, Cells(rows, 1, columns, False), self._arrays, self.result)
        found.exact = self.exact
        return found

    def array(self) -> Array:
        """What takes a result between two passes: of x's shape, in the type that is computed in."""
        return empty(self.result.shape, self.dtype)

    def read(self, i: int) -> Array:
        """An array, in the type that is computed in."""
        return self._arrays[i].astype(self.dtype, copy=False)


Forward = Callable[[GraphPass, Mapping[str, Array]], Callable[[GraphPass], Mapping[str, Array]]]


def by_graph(
    norm: Any, x: Array, out: Array | None, ids: Array | None, forward: Forward, given: Mapping[str, Array]
) -> tuple[Array, Saved]:
    """y and the `Saved` of a norm of graphs: forward(pass, parameters) writes y and returns what writes dx, of a pass
    that holds dy too, and returns the gradients of the parameters."""
    params = {name: p.astype(np.float64) for name, p in given.items()}
    graphs = graphs_of(ids, len(x)) if x.size else None

    def run(backend_: Backend, v: Array, y: Array) -> Back:
        if graphs is None:
            return lambda backend_, d, v, dx: {name: np.zeros(p.shape) for name, p in params.items()}
        there = graphs
        seen, result = there.take(v), there.space(y)
        try:
            pull = forward(GraphPass(backend_, there, (seen,), result), params)
        except Beyond:
            pull = exactly(there, forward, params, (seen,), result)[0]
        there.put(result, y)

        def back(backend_: Backend, d: Array, v: Array, dx: Array) -> Mapping[str, Array]:
            arrays, result = (there.take(d), there.take(v)), there.space(dx)
            try:
                found = pull(GraphPass(backend_, there, arrays, result, chosen() == "reference"))
            except Beyond:
                _, found = exactly(there, forward, params, arrays, result)
            there.put(result, dx)
            return {name: np.reshape(found[name], p.shape) for name, p in params.items()}

        return back

    return whole(norm, x, out, (0, 1), run, given)


def exactly(
    graphs: Graphs, forward: Forward, params: Mapping[str, Array], arrays: tuple[Array, ...], result: Array
) -> tuple[Any, Mapping[str, Array]]:
    """What goes back, and its gradients where dy is among the arrays: by the definition, in float64."""
    wide = tuple(a.astype(np.float64) for a in arrays)
    found = np.empty(result.shape)
    pull = forward(GraphPass(backend("reference"), graphs, wide[-1:], found, True), params)

    def back(given: GraphPass) -> Mapping[str, Array]:
        raise Beyond

    if len(arrays) == 1:
        result[...] = found
        return back, {}
    grads = pull(GraphPass(backend("reference"), graphs, wide, found, True))
    result[...] = found
    return back, grads
