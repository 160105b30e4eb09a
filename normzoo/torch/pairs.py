"""Which layer's result a norm takes, and whether anybody else does: from a graph, or from a run that is watched."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Modules = dict[str, torch.nn.Module]


class Pairs(NamedTuple):
    feeds: dict[str, str]  # path of a norm -> path of the layer that alone feeds it
    left: dict[str, str]  # path of a norm -> why there is none


def traced(model: torch.nn.Module, layers: Modules, norms: Modules) -> Pairs:
    """From the graph of torch.fx, which holds for every input."""
    whole = {id(module) for module in (*layers.values(), *norms.values())}

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module: torch.nn.Module, name: str) -> bool:
            return id(module) in whole or super().is_leaf_module(module, name)

    if any(module is model for module in (*layers.values(), *norms.values())):
        return Pairs({}, dict.fromkeys(norms, "it is the whole model"))
    try:
        graph = Tracer().trace(model)
    except Exception as error:
        raise ValueError(
            f"fold: expected a model that torch.fx can trace, got {type(error).__name__}: {error}; write fold(model, x)"
            " with an input of the model"
        ) from error
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(id(model.get_submodule(node.target)) for node in calls)
    direct = {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    paths = {id(module): path for path, module in (layers | norms).items()}
    feeds, left = {}, dict.fromkeys(norms, "the graph does not call it")
    for node in calls:
        path = paths.get(id(model.get_submodule(node.target)))
        if path not in norms:
            continue
        before = node.args[0] if node.args else next(iter(node.kwargs.values()))
        source = paths.get(id(model.get_submodule(before.target))) if before.op == "call_module" else None
        if source not in layers:
            left[path] = "what it takes is not the result of a convolution or linear layer"
        elif isinstance(layers[source], torch.nn.Linear):
            left[path] = "the rank of a linear layer's result is not known; write fold(model, x) with an input"
        elif len(before.users) > 1:
            left[path] = f"the result of {source} is used elsewhere, too"
        elif times[id(norms[path])] > 1 or times[id(layers[source])] > 1 or {source, path} & direct:
            left[path] = f"it or {source} is called more than once"
        else:
            feeds[path] = source
            del left[path]
    return Pairs(feeds, left)


class _Held:
    """A tensor of a layer, what it gave in one call or its weight, and who reads its memory. It is kept alive, so that
    the memory is nobody else's."""

    def __init__(self, layer: str, tensor: torch.Tensor) -> None:
        self.layer, self.tensor = layer, tensor
        self.readers: set[str] = set()


class _Watch(TorchDispatchMode):
    """Notes which layer or norm, or "" for anything else, reads the memory of a tensor that is watched."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, _Held] = {}
        self.inside = ""

    def hold(self, layer: str, tensor: torch.Tensor) -> None:
        self.held[_memory(tensor)] = _Held(layer, tensor)

    def read(self, tensors: Any, reader: str) -> None:
        for t in _tensors(tensors):
            found = self.held.get(_memory(t))
            if found is not None:
                found.readers.add(reader)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.read((args, kwargs), self.inside)
        return function(*args, **kwargs or {})


def _memory(t: torch.Tensor) -> int:
    return t.untyped_storage()._cdata


def _tensors(found: Any) -> Iterator[torch.Tensor]:
    for leaf in tree_leaves(found):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, type | torch.nn.Module):  # what a model returns
            yield from (t for t in tree_leaves(vars(leaf)) if isinstance(t, torch.Tensor))


def observed(model: torch.nn.Module, layers: Modules, norms: Modules, example: tuple) -> Pairs:
    """From a run on an example: every operation is seen, also on views of a result, and what the model returns."""
    watch = _Watch()
    results: list[_Held] = []
    taken: dict[str, list[_Held | None]] = {path: [] for path in norms}

    def enters(path: str) -> Any:
        def hook(module: Any, inputs: Any, named: Any) -> None:
            watch.inside = path
            if path in norms:
                x = (*inputs, *named.values())[0]
                found = watch.held.get(_memory(x))
                same = found is not None and found.tensor.shape == x.shape and found.tensor.stride() == x.stride()
                taken[path].append(found if same else None)

        return hook

    def leaves(path: str) -> Any:
        def hook(module: Any, inputs: Any, y: torch.Tensor) -> None:
            watch.inside = ""
            if path in layers:
                watch.hold(path, y)
                results.append(watch.held[_memory(y)])

        return hook

    handles = []
    weights = {}
    for path, module in layers.items():
        watch.hold(path, module.weight)
        weights[path] = watch.held[_memory(module.weight)]
    try:
        for path, module in (layers | norms).items():
            handles.append(module.register_forward_pre_hook(enters(path), with_kwargs=True))
            handles.append(module.register_forward_hook(leaves(path)))
        with torch.no_grad(), watch:
            y = model(*example)
    finally:
        for handle in handles:
            handle.remove()
    watch.read(y, "")
    feeds, left = {}, {}
    for path, given in taken.items():
        why, source = _judged(path, given, results, weights)
        if not why and isinstance(layers[source], torch.nn.Linear) != (given[0].tensor.dim() == 2):  # type: ignore[union-attr]
            why = f"{source} gives its outputs on another axis than the norm is over; is there a batch axis?"
        if why:
            left[path] = why
        else:
            feeds[path] = source
    return Pairs(feeds, left)


def _judged(path: str, given: list[Any], results: list[_Held], weights: dict[str, _Held]) -> tuple[str, str]:
    """Why a norm that took these is left, or "" and the layer that feeds it."""
    if not given:
        return "the example did not reach it", ""
    sources = {result.layer for result in given if result is not None}
    if None in given or len(sources) > 1:
        return "what it takes is not the result of one convolution or linear layer", ""
    (source,) = sources
    of_source = [result for result in results if result.layer == source]
    if len(of_source) != len(given) or any(result.readers != {path} for result in of_source):
        return f"the result of {source} is used elsewhere, too", ""
    if weights[source].readers - {source}:
        return f"the weight of {source} is used elsewhere, too", ""
    return "", source
