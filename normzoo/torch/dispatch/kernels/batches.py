"""The kernels of batch norm's operators and their backward passes; see `last_axes.py`. Instance norm is one of them."""

# mypy: disallow-untyped-defs=False
# ruff: noqa: PLR0912, PLR0915 (kernels are as long as they are)

from functools import cache
from typing import Any

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.fastcall.objects import needed, number, place_of, put_word, word
from normzoo.backends.cpu.vector.arithmetic import larger
from normzoo.backends.cpu.vector.workspaces import workspace
from normzoo.torch.dispatch.handles import (
    BYTE,
    data_of,
    delete_tensor,
    dropped,
    from_doubles,
    is_dense,
    is_last,
    kind_of,
    new_row,
    new_tensor,
    opened,
    opened_mask,
    product,
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
    is_wanted,
    optional,
    parameters_kind,
    spans,
    taken_over,
    write_key,
)
from normzoo.torch.dispatch.passes import apply, forward, running_stats, update
from normzoo.torch.dispatch.plans import (
    BACK,
    BATCH,
    CODE,
    GIVEN,
    SIZES,
    field,
    plan_at,
)


@helper
def batch_layout(x, rank):
    """`is_last`, for batch norm: where strides fit both, PyTorch takes x as contiguous."""
    return 0 if is_dense(x, rank, 0) else is_last(x, rank)


@helper
def batch_key(key, norm, x, layout, affine):
    """The key of a pass of batch norm over x."""
    rank, sizes = rank_of(x), sizes_in(x)
    n, c, positions = word(sizes), word(sizes + 8), product(sizes, 2, rank)
    write_key(key, norm, layout, kind_of(x), affine)
    put_word(key + 8 * SIZES, n * positions if layout != 0 else n)
    put_word(key + 8 * (SIZES + 1), c)
    put_word(key + 8 * (SIZES + 2), 1 if layout != 0 else positions)


@cache
def batch_norm(name: str) -> Any:
    """native_batch_norm and the operators that differ in what they take and return."""
    has_running, has_flag = name != "_native_batch_norm_legit.no_stats", name != "_batch_norm_with_update"
    optional_running, results = name == "native_batch_norm", 3 if has_flag else 4
    at_flag = 40 if has_running else 24
    at_momentum = at_flag + 8 if has_flag else at_flag
    own_kernel = own(name, 4 + 2 * has_running + has_flag, 2, 5)

    @kernel(from_c=True)
    def batches_forward(stack, arguments, returned):
        x, weight, bias, mean, var = word(stack), opened(word(stack + 8)), opened(word(stack + 16)), 0, 0
        if has_running:
            mean = opened(word(stack + 24)) if optional_running else word(stack + 24)
            var = opened(word(stack + 32)) if optional_running else word(stack + 32)
        training = word(stack + at_flag) & 1 if has_flag else 1
        momentum, eps = number(stack + at_momentum), number(stack + at_momentum + 8)
        x_kind, rank, sizes = kind_of(x), rank_of(x), sizes_in(x)
        kind, last, plan, failed = parameters_kind(x_kind, weight, bias, mean, var), batch_layout(x, rank), 0, 0
        values = 0
        fits = kind >= 0 and eps > 0.0 and rank >= 2 and (mean != 0) == (var != 0) and (training != 0 or mean != 0)
        if fits:
            c = word(sizes + 8)
            values = product(sizes, 0, rank) // larger(c, 1)
            fits = values > (1 if training != 0 else 0)
            for tensor in (weight, bias, mean, var):
                fits = fits and spans(tensor, 1, sizes + 8)
        if fits:
            key = room()
            batch_key(key, BATCH if training != 0 else GIVEN, x, last, 1 if weight != 0 or bias != 0 else 0)
            plan = plan_at(key)
        if plan == 0 or field(plan, CODE) == 0:
            found = room()
            w, b = optional(weight, room()), optional(bias, room())
            if optional_running:
                m, v = optional(mean, room()), optional(var, room())
                own_kernel(found, x, w, b, m, v, training, momentum, eps, x, weight, bias, mean, var)
            elif has_running and has_flag:
                own_kernel(found, x, w, b, mean, var, training, momentum, eps, x, weight, bias, mean, var)
            elif has_running:
                own_kernel(found, x, w, b, mean, var, momentum, eps, x, weight, bias, mean, var)
            else:
                own_kernel(found, x, w, b, training, momentum, eps, x, weight, bias, mean, var)
            taken_over(stack, found, results)
        else:
            sets = word(sizes + 8)
            kept = sets if training != 0 else 0
            y, dense = new_tensor(rank, sizes, last, x_kind), ready(x, rank, last, x_kind)
            save_mean, save_rstd = new_row(kept, kind), new_row(kept, kind)
            reserve = 0 if has_flag else new_row(0, BYTE)
            failed = 1 if y == 0 or dense == 0 or save_mean == 0 or save_rstd == 0 else 0
            if failed == 0:
                space = workspace(3 * sets, doubles(stack))
                stats = place_of(space)
                if training != 0:
                    failed = forward(plan, dense, (weight, bias), kind, y, stats, eps)
                    from_doubles(kind, data_of(save_mean), stats, sets)
                    from_doubles(kind, data_of(save_rstd), stats + 16 * sets, sets)
                    if mean != 0 and failed == 0:
                        unbiased = momentum * float(values) / float(values - 1)
                        update(mean, kind, stats, sets, momentum, momentum)
                        update(var, kind, stats + 8 * sets, sets, momentum, unbiased)
                else:
                    running_stats(mean, var, kind, eps, stats, sets)
                    failed = apply(plan, dense, (weight, bias), kind, y, stats)
                needed(space)
            dropped(dense, x)
            put_word(stack, y)
            put_word(stack + 8, save_mean)
            put_word(stack + 16, save_rstd)
            if not has_flag:
                put_word(stack + 24, reserve)
        for tensor in (x, weight, bias, mean, var):
            delete_tensor(tensor)
        if failed != 0:
            give_up(stack, results)

    return batches_forward


@cache
def batch_norm_back(name: str) -> Any:
    """native_batch_norm_backward, or batch_norm_backward, whose weight is a tensor and which has a reserve."""
    has_reserve = name == "batch_norm_backward"
    own_kernel = own(name, 10 + has_reserve, 1, 8)

    @kernel(from_c=True)
    def batches_backward(stack, arguments, returned):
        dy, x, weight = word(stack), word(stack + 8), word(stack + 16)
        if not has_reserve:
            weight = opened(weight)
        mean, var = opened(word(stack + 24)), opened(word(stack + 32))
        save_mean, save_rstd = opened(word(stack + 40)), opened(word(stack + 48))
        training, eps = word(stack + 56) & 1, number(stack + 64)
        flags, reserve = opened_mask(word(stack + 72)), word(stack + 80) if has_reserve else 0
        rank, x_kind = rank_of(x), kind_of(x)
        first, second = (save_mean, save_rstd) if training != 0 else (mean, var)
        kind = parameters_kind(x_kind, weight, first, second, 0)
        last, plan, failed = batch_layout(x, rank), 0, 0
        sizes = sizes_in(x)
        if kind >= 0 and rank >= 2 and is_wanted(flags, weight) and is_gradient(dy, x):
            c = word(sizes + 8)
            fits = product(sizes, 0, rank) > larger(c, 1) if training != 0 else product(sizes, 0, rank) > 0
            if fits and spans(weight, 1, sizes + 8) and is_kept(first, kind, c) and is_kept(second, kind, c):
                key = room()
                batch_key(key, (BATCH if training != 0 else GIVEN) + BACK, x, last, 1 if weight != 0 else 0)
                plan = plan_at(key)
        if plan == 0 or field(plan, CODE) == 0:
            found, m, v = room(), optional(mean, room()), optional(var, room())
            s, t = optional(save_mean, room()), optional(save_rstd, room())
            if has_reserve:
                own_kernel(
                    found, dy, x, weight, m, v, s, t, training, flags, reserve, eps,
                    dy, x, weight, mean, var, save_mean, save_rstd, reserve,
                )  # fmt: skip
            else:
                own_kernel(
                    found, dy, x, optional(weight, room()), m, v, s, t, training, flags, eps,
                    dy, x, weight, mean, var, save_mean, save_rstd, reserve,
                )  # fmt: skip
            taken_over(stack, found, 3)
        else:
            failed = go_back(stack, plan, (dy, x, weight), (first, second, kind), kind, last, flags, eps)
        for tensor in (dy, x, weight, mean, var, save_mean, save_rstd, reserve):
            delete_tensor(tensor)
        if failed != 0:
            give_up(stack, 3)

    return batches_backward
