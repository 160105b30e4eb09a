"""The kernels of native_group_norm and its backward pass; see `last_axes.py`."""

# mypy: disallow-untyped-defs=False

from functools import cache
from typing import Any

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.fastcall.objects import needed, number, place_of, put_word, word
from normzoo.backends.cpu.vector.workspaces import workspace
from normzoo.torch.dispatch.handles import (
    data_of,
    delete_tensor,
    dropped,
    from_doubles,
    is_last,
    kind_of,
    new_tensor,
    opened,
    opened_mask,
    rank_of,
    ready,
    sizes_in,
)
from normzoo.torch.dispatch.interface import doubles, own, room
from normzoo.torch.dispatch.kernels.steps import (
    give_up,
    go_back,
    is_gradient,
    is_kept,
    is_normal,
    is_wanted,
    optional,
    parameters_kind,
    spans,
    taken_over,
    write_key,
)
from normzoo.torch.dispatch.passes import forward
from normzoo.torch.dispatch.plans import (
    BACK,
    CODE,
    GROUP,
    SIZES,
    field,
    plan_at,
)


@helper
def write_groups(key, last, n, groups, channels, positions):
    """The sizes of a key, in the order of memory; `channels` are those of a group."""
    put_word(key + 8 * SIZES, n)
    put_word(key + 8 * (SIZES + 1), positions if last != 0 else groups)
    put_word(key + 8 * (SIZES + 2), groups if last != 0 else channels)
    put_word(key + 8 * (SIZES + 3), channels if last != 0 else positions)


@cache
def group_norm() -> Any:
    """native_group_norm."""
    own_kernel = own("native_group_norm", 8, 1, 3)

    @kernel(from_c=True)
    def groups_forward(stack, arguments, returned):
        x, weight, bias = word(stack), opened(word(stack + 8)), opened(word(stack + 16))
        n, c, positions, groups = word(stack + 24), word(stack + 32), word(stack + 40), word(stack + 48)
        eps = number(stack + 56)
        x_kind, rank, sizes = kind_of(x), rank_of(x), sizes_in(x)
        kind, last, plan, failed = parameters_kind(x_kind, weight, bias, 0, 0), is_last(x, rank), 0, 0
        fits = kind >= 0 and eps > 0.0 and groups > 0 and is_normal(x, rank, n, c, positions) and c % groups == 0
        if fits and spans(weight, 1, sizes + 8) and spans(bias, 1, sizes + 8):
            key = room()
            write_key(key, GROUP, last, x_kind, 1 if weight != 0 or bias != 0 else 0)
            write_groups(key, last, n, groups, c // groups, positions)
            plan = plan_at(key)
        if plan == 0 or field(plan, CODE) == 0:
            found = room()
            w, b = optional(weight, room()), optional(bias, room())
            own_kernel(found, x, w, b, n, c, positions, groups, eps, x, weight, bias)
            taken_over(stack, found, 3)
        else:
            kept = room()
            put_word(kept, n)
            put_word(kept + 8, groups)
            y, dense, sets = new_tensor(rank, sizes, last, x_kind), ready(x, rank, last, x_kind), n * groups
            mean, rstd = new_tensor(2, kept, 0, kind), new_tensor(2, kept, 0, kind)
            failed = 1 if y == 0 or mean == 0 or rstd == 0 or dense == 0 else 0
            if failed == 0:
                space = workspace(3 * sets, doubles(stack))
                stats = place_of(space)
                failed = forward(plan, dense, (weight, bias), kind, y, stats, eps)
                from_doubles(kind, data_of(mean), stats, sets)
                from_doubles(kind, data_of(rstd), stats + 16 * sets, sets)
                needed(space)
            dropped(dense, x)
            put_word(stack, y)
            put_word(stack + 8, mean)
            put_word(stack + 16, rstd)
        delete_tensor(x)
        delete_tensor(weight)
        delete_tensor(bias)
        if failed != 0:
            give_up(stack, 3)

    return groups_forward


@cache
def group_norm_back() -> Any:
    """native_group_norm_backward."""
    own_kernel = own("native_group_norm_backward", 11, 0, 5)

    @kernel(from_c=True)
    def groups_backward(stack, arguments, returned):
        dy, x, mean, rstd, weight = (
            word(stack), word(stack + 8), word(stack + 16), word(stack + 24), opened(word(stack + 32)),
        )  # fmt: skip
        n, c, positions, groups = word(stack + 40), word(stack + 48), word(stack + 56), word(stack + 64)
        flags, rank, x_kind = opened_mask(word(stack + 72)), rank_of(x), kind_of(x)
        # statistics are of the parameters' dtype
        kind, last, plan, failed = parameters_kind(x_kind, weight, mean, rstd, 0), is_last(x, rank), 0, 0
        known = kind >= 0 and groups > 0 and is_wanted(flags, weight) and is_gradient(dy, x)
        known = known and is_normal(x, rank, n, c, positions) and c % groups == 0 and spans(weight, 1, sizes_in(x) + 8)
        if known and is_kept(mean, kind, n * groups) and is_kept(rstd, kind, n * groups):
            key = room()
            write_key(key, GROUP + BACK, last, x_kind, 1 if weight != 0 else 0)
            write_groups(key, last, n, groups, c // groups, positions)
            plan = plan_at(key)
        if plan == 0 or field(plan, CODE) == 0:
            found, w = room(), optional(weight, room())
            own_kernel(
                found, dy, x, mean, rstd, w, n, c, positions, groups, flags, dy, x, mean, rstd, weight
            )  # fmt: skip
            taken_over(stack, found, 3)
        else:
            failed = go_back(stack, plan, (dy, x, weight), (mean, rstd, kind), kind, last, flags, 0.0)
        for tensor in (dy, x, mean, rstd, weight):
            delete_tensor(tensor)
        if failed != 0:
            give_up(stack, 3)

    return groups_backward
