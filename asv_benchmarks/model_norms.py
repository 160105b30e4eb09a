"""The norms of a model alone: the calls that a step makes of them, made again.

Every call gets inputs with the values, sizes, dtypes and strides that it has in the model. In a training step all calls
go forward, and one backward pass goes through all of them.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

SLICE = 5e-3  # seconds of a slice of time, at least


class Call(NamedTuple):
    path: str  # of the module
    inputs: tuple[Any, ...]
    named: dict[str, Any]
    dy: torch.Tensor


def outermost(paths: Any) -> list[str]:
    """The paths that are not inside another one."""
    return [p for p in paths if not any(q != p and (q == "" or p.startswith(f"{q}.")) for q in paths)]


def copied(a: Any) -> Any:
    """A tensor of the same values and strides, in memory of its own; anything else as it is."""
    if not isinstance(a, torch.Tensor):
        return a
    overlaps = any(size > 1 and stride == 0 for size, stride in zip(a.shape, a.stride(), strict=True))
    made = torch.empty_like(a) if overlaps else torch.empty_strided(a.shape, a.stride(), dtype=a.dtype)
    return made.copy_(a.detach()).requires_grad_(a.requires_grad)


def calls_of(model: Any, paths: list[str], step: Callable[[Any, Any], Any], inputs: Any) -> list[Call]:
    """The calls of the modules at these paths in a step, in their order."""
    found: list[Call] = []

    def watching(path: str) -> Any:
        def watch(module: Any, given: tuple, named: dict, y: Any) -> None:
            dy = torch.empty_like(y.detach()).normal_()
            found.append(Call(path, tuple(map(copied, given)), {k: copied(a) for k, a in named.items()}, dy))

        return watch

    hooks = [model.get_submodule(path).register_forward_hook(watching(path), with_kwargs=True) for path in paths]
    try:
        step(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def again(model: Any, calls: list[Call], training: bool) -> Callable[[int], None]:
    """What makes the calls, so many times, of the modules of a model."""
    modules = [model.get_submodule(call.path) for call in calls]

    def infer(times: int) -> None:
        with torch.inference_mode():
            for _ in range(times):
                for module, call in zip(modules, calls, strict=True):
                    module(*call.inputs, **call.named)

    leaves = [a for call in calls for a in (*call.inputs, *call.named.values())]
    leaves += [p for module in modules for p in module.parameters()]
    wanted = list({id(t): t for t in leaves if isinstance(t, torch.Tensor) and t.requires_grad}.values())

    def train(times: int) -> None:
        for _ in range(times):
            ys = [module(*call.inputs, **call.named) for module, call in zip(modules, calls, strict=True)]
            torch.autograd.grad(ys, wanted, [call.dy for call in calls], allow_unused=True)

    return train if training else infer


def times_of(run: Callable[[int], None]) -> int:
    """How many times fill a slice."""
    run(2)
    start = time.perf_counter()
    run(1)
    return max(1, round(SLICE / (time.perf_counter() - start)))


def alone(compared: dict[str, Any], calls: list[Call], training: bool, timed: Any, rounds: int) -> dict[str, Any]:
    """`timed` of the norms alone: milliseconds of each way for one step, and quartiles of the ratios."""
    runs = {name: (again(model, calls, training), context) for name, (model, context) in compared.items()}
    times = times_of(next(iter(runs.values()))[0])
    # once before: to install moves the end of the heap, whose pages the next call would fetch
    found = timed(lambda run, count: run(count), runs, times, rounds, before=lambda run: run(1))
    return {name: cell | {"ms": cell["ms"] / times} for name, cell in found.items()}


def kind_of(model: Any, call: Call) -> tuple[Any, ...]:
    """The class of a call's module, and size, dtype and strides of what it takes."""
    tensors = [a for a in (*call.inputs, *call.named.values()) if isinstance(a, torch.Tensor)]
    module = model.get_submodule(call.path)
    return type(module).__name__, *((tuple(t.shape), str(t.dtype)[6:], t.stride()) for t in tensors)


def by_kind(compared: dict[str, Any], calls: list[Call], training: bool, timed: Any, rounds: int) -> list[str]:
    """A line for each kind of call: microseconds of the first way, and how many times as fast the others are."""
    kinds: dict[Any, list[Call]] = {}
    model = next(iter(compared.values()))[0]
    for call in calls:
        kinds.setdefault(kind_of(model, call), []).append(call)
    lines = []
    for kind, same in kinds.items():
        found = alone(compared, same[:1], training, timed, rounds)
        first, *others = found.items()
        rest = ", ".join(f"{way} {cell['quartiles'][1]:.2f}" for way, cell in others)
        lines.append(f"{len(same):3} x {1e3 * first[1]['ms']:8.1f} us  {rest}  {kind}")
    return lines
