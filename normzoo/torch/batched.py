"""The rules of the operators for `torch.vmap`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Dims = tuple[int | None, ...]
NORMS_OF_SAMPLES = "layer_norm", "rms_norm", "group_norm", "instance_norm"  # where they have statistics of their own


def by_items(operator: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Any]:
    """A rule by which an operator is called for each item of the batch. It is right for every operator."""

    def rule(info: Any, in_dims: Dims, *given: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        def item(i: int) -> tuple[Any, ...]:
            return tuple(
                a.select(dim, i) if isinstance(dim, int) and isinstance(a, Tensor) else a
                for a, dim in zip(given, in_dims, strict=True)
            )

        if info.batch_size == 0:
            one = operator(*(
                a.new_zeros([n for i, n in enumerate(a.shape) if i != dim]) if isinstance(dim, int) else a
                for a, dim in zip(given, in_dims, strict=True)
            ))  # fmt: skip
            return tuple(t.new_empty((0, *t.shape)) for t in one), (0,) * len(one)
        found = [operator(*item(i)) for i in range(info.batch_size)]
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True)), (0,) * len(found[0])

    return rule


def in_one_call(operator: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Any]:
    """The rule of `normalize`: one call where the batch can be an axis of x, else one for each item."""
    items = by_items(operator)

    def rule(info: Any, in_dims: Dims, x: Tensor, *rest: Any) -> tuple[tuple[Tensor, ...], Any]:
        (dim, *others), (*_, name, _, own, _, _) = in_dims, rest
        shared = not any(isinstance(other, int) for other in others) and info.batch_size > 0
        if not shared or not own or name not in NORMS_OF_SAMPLES or dim is None:
            return items(info, in_dims, x, *rest)
        x = x.movedim(dim, 0)
        if name in ("layer_norm", "rms_norm"):
            y, stats = operator(x, *rest)
        else:
            y, stats = operator(x.flatten(0, 1), *rest)
            y = y.reshape(x.shape)
        return (y, stats.reshape(3, info.batch_size, -1)), (0, 1)

    return rule
