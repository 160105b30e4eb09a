"""The kernels of the backward operators, like those of `forwards.py`.

They return PyTorch's gradients from what PyTorch kept; statistics whose digits were rounded away are found anew.
"""

from functools import cache
from typing import Any

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.fastcall.objects import needed, number, place_of, put_word, word
from normzoo.backends.cpu.vector.arithmetic import larger
from normzoo.backends.cpu.vector.workspaces import workspace
from normzoo.torch.dispatch.forwards import (
    batch_key,
    batch_layout,
    give_up,
    is_normal,
    optional,
    parameters_kind,
    refuse,
    spans,
    taken_over,
    write_key,
)
from normzoo.torch.dispatch.handles import (
    FLOAT32,
    FLOAT64,
    delete_tensor,
    dropped,
    is_dense,
    is_last,
    is_short,
    kind_of,
    new_tensor,
    no_tensor,
    opened,
    opened_list,
    opened_mask,
    product,
    rank_of,
    ready,
    same_sizes,
    sizes_in,
)
from normzoo.torch.dispatch.interface import doubles, own, room, symbol, zero
from normzoo.torch.dispatch.passes import backward, known_stats, running_stats
from normzoo.torch.dispatch.plans import (
    BACK,
    BATCH,
    CODE,
    GIVEN,
    GROUP,
    LAYER,
    RMS,
    SETS,
    SIZES,
    field,
    plan_at,
)

no_kernel = symbol("normzoo_torch_no_kernel")


@helper
def is_gradient(dy, x):
    """Has dy the dtype and sizes of x?"""
    return kind_of(dy) == kind_of(x) and same_sizes(dy, rank_of(x), sizes_in(x))


@helper
def is_kept(tensor, kind, count):
    """Is it a statistic that a forward pass returned, for so many sets?"""
    if tensor == 0 or kind_of(tensor) != kind:
        return False
    rank = rank_of(tensor)
    return product(sizes_in(tensor), 0, rank) == count and is_dense(tensor, rank, 0)


@helper
def gradient_of(weight, wanted, kind):
    """A new tensor for a gradient of the weight's sizes; 0 if nobody wants it."""
    return new_tensor(rank_of(weight), sizes_in(weight), 0, kind) if wanted != 0 else 0


@helper
def left(stack, place, tensor, wanted):
    """Leave a gradient on the stack, or an undefined tensor."""
    if wanted == 0:
        delete_tensor(tensor)
        put_word(stack + place, no_tensor())
    else:
        put_word(stack + place, tensor)


@helper
def go_back(stack, plan, tensors, kept, kind, last, flags):
    """Leave dx, dweight and dbias on the stack. `tensors` are dy, x and weight; `kept` are mean, rstd and their dtype;
    `flags` say what is wanted, by bytes. 1 if memory is short."""
    dy, x, weight = tensors
    mean, rstd, kept_kind = kept
    rank, x_kind, sets = rank_of(x), kind_of(x), field(plan, SETS)
    dx = new_tensor(rank, sizes_in(x), last, x_kind)
    dweight, dbias = gradient_of(weight, flags & 0x100, kind), gradient_of(weight, flags & 0x10000, kind)
    own_dy, own_x = ready(dy, rank, last, x_kind), ready(x, rank, last, x_kind)
    failed = 1 if dx == 0 or own_dy == 0 or own_x == 0 else 0
    if (flags & 0x100 != 0 and dweight == 0) or (flags & 0x10000 != 0 and dbias == 0):
        failed = 1
    if failed == 0:
        space = workspace(3 * sets, doubles(stack))
        stats = place_of(space)
        failed = known_stats(plan, mean, rstd, kept_kind, own_x, dx, stats)
        if failed == 0:
            failed = backward(plan, own_dy, own_x, weight, kind, stats, (dx, dweight, dbias))
        needed(space)
    dropped(own_dy, dy)
    dropped(own_x, x)
    left(stack, 0, dx, flags & 1)
    left(stack, 8, dweight, flags & 0x100)
    left(stack, 16, dbias, flags & 0x10000)
    return failed


@helper
def is_wanted(flags, weight):
    """Are there gradients to compute, of parameters that there are?"""
    return flags != 0 and (weight != 0 or flags & 0x10100 == 0)


@cache
def over_last_axes() -> Any:
    """native_layer_norm_backward."""
    own_kernel = own("native_layer_norm_backward", 10, 0, 6)

    @kernel(from_c=True)
    def last_axes_backward(stack, arguments, returned):
        dy, x, mean, rstd = word(stack), word(stack + 8), word(stack + 24), word(stack + 32)
        shape = room()
        count = opened_list(word(stack + 16), shape)
        weight, bias, flags = opened(word(stack + 40)), opened(word(stack + 48)), opened_mask(word(stack + 56))
        kind, plan, failed = parameters_kind(kind_of(x), weight, bias, 0, 0), 0, 0
        rank, sizes = rank_of(x), sizes_in(x)
        first, i = rank - count, 0
        if kind >= 0 and count >= 1 and first >= 0 and is_wanted(flags, weight) and is_gradient(dy, x):
            while i < count and word(sizes + 8 * (first + i)) == word(shape + 8 * i):
                i += 1
            rows, values = product(sizes, 0, first), product(shape, 0, count)
            fits = i == count and rows * values > 0 and spans(weight, count, shape)
            if fits and is_kept(mean, kind, rows) and is_kept(rstd, kind, rows):
                key = room()
                write_key(key, LAYER + BACK, 0, kind_of(x), 1 if weight != 0 else 0)
                put_word(key + 8 * SIZES, rows)
                put_word(key + 8 * (SIZES + 1), values)
                plan = plan_at(key)
        if plan == 0 or field(plan, CODE) == 0:
            found, w, b = room(), optional(weight, room()), optional(bias, room())
            own_kernel(found, dy, x, shape, count, mean, rstd, w, b, flags, dy, x, mean, rstd, weight, bias)
            taken_over(stack, found, 3)
        else:
            failed = go_back(stack, plan, (dy, x, weight), (mean, rstd, kind), kind, 0, flags)
        for tensor in (dy, x, mean, rstd, weight, bias):
            delete_tensor(tensor)
        if failed != 0:
            give_up(stack, 3)

    return last_axes_backward


@cache
def of_rms() -> Any:
    """_fused_rms_norm_backward, which PyTorch has no kernel of for the CPU."""

    @kernel(from_c=True)
    def rms_backward(stack, arguments, returned):
        dy, x, rstd = word(stack), word(stack + 8), word(stack + 24)
        shape = room()
        count = opened_list(word(stack + 16), shape)
        weight, flags = opened(word(stack + 32)), opened_mask(word(stack + 40))
        x_kind, rank = kind_of(x), rank_of(x)
        kind, plan, failed = parameters_kind(x_kind, weight, 0, 0, 0), 0, 2
        kept_kind = FLOAT64 if x_kind == FLOAT64 else FLOAT32
        rows, values = product(sizes_in(x), 0, rank - count), product(shape, 0, count)
        same = kind == x_kind and rank >= count and is_gradient(dy, x) and is_kept(rstd, kept_kind, rows)
        if same and rows * values > 0 and is_wanted(flags, weight) and spans(weight, count, shape):
            key = room()
            write_key(key, RMS + BACK, 0, x_kind, 1 if weight != 0 else 0)
            put_word(key + 8 * SIZES, rows)
            put_word(key + 8 * (SIZES + 1), values)
            plan = plan_at(key)
        if plan != 0 and field(plan, CODE) != 0:
            failed = go_back(stack, plan, (dy, x, weight), (0, rstd, kept_kind), kind, 0, flags)
            delete_tensor(word(stack + 16))
        elif rows * values == 0 and is_wanted(flags, weight):
            dx, dweight = new_tensor(rank, sizes_in(x), 0, x_kind), gradient_of(weight, flags & 0x100, kind)
            if dweight != 0:
                zero(dweight)
            left(stack, 0, dx, flags & 1)
            left(stack, 8, dweight, flags & 0x100)
            failed = 0
        for tensor in (dy, x, rstd, weight):
            delete_tensor(tensor)
        if failed == 1:
            give_up(stack, 2)
        if failed == 2:
            refuse(no_kernel())

    return rms_backward


@cache
def in_groups() -> Any:
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
        if known and is_normal(x, rank, n, c, positions) and c % groups == 0 and spans(weight, 1, sizes_in(x) + 8):
            if is_kept(mean, kind, n * groups) and is_kept(rstd, kind, n * groups):
                key = room()
                write_key(key, GROUP + BACK, last, x_kind, 1 if weight != 0 else 0)
                put_word(key + 8 * SIZES, n)
                put_word(key + 8 * (SIZES + 1), positions if last != 0 else groups)
                put_word(key + 8 * (SIZES + 2), groups if last != 0 else c // groups)
                put_word(key + 8 * (SIZES + 3), c // groups if last != 0 else positions)
                plan = plan_at(key)
        if plan == 0 or field(plan, CODE) == 0:
            found, w = room(), optional(weight, room())
            own_kernel(
                found, dy, x, mean, rstd, w, n, c, positions, groups, flags, dy, x, mean, rstd, weight
            )  # fmt: skip
            taken_over(stack, found, 3)
        else:
            failed = go_back(stack, plan, (dy, x, weight), (mean, rstd, kind), kind, last, flags)
        for tensor in (dy, x, mean, rstd, weight):
            delete_tensor(tensor)
        if failed != 0:
            give_up(stack, 3)

    return groups_backward


@helper
def go_back_constant(stack, plan, tensors, running, kind, last, flags, eps):
    """`go_back` by running statistics."""
    dy, x, weight = tensors
    mean, var = running
    rank, x_kind, sets = rank_of(x), kind_of(x), word(sizes_in(x) + 8)
    dx = new_tensor(rank, sizes_in(x), last, x_kind)
    dweight, dbias = gradient_of(weight, flags & 0x100, kind), gradient_of(weight, flags & 0x10000, kind)
    own_dy, own_x = ready(dy, rank, last, x_kind), ready(x, rank, last, x_kind)
    failed = 1 if dx == 0 or own_dy == 0 or own_x == 0 else 0
    if failed == 0:
        space = workspace(3 * sets, doubles(stack))
        stats = place_of(space)
        running_stats(mean, var, kind, eps, stats, sets)
        failed = backward(plan, own_dy, own_x, weight, kind, stats, (dx, dweight, dbias))
        needed(space)
    dropped(own_dy, dy)
    dropped(own_x, x)
    left(stack, 0, dx, flags & 1)
    left(stack, 8, dweight, flags & 0x100)
    left(stack, 16, dbias, flags & 0x10000)
    return failed


@cache
def over_batches(name: str) -> Any:
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
        if training != 0:
            kind = parameters_kind(x_kind, weight, save_mean, save_rstd, 0)
        else:
            kind = parameters_kind(x_kind, weight, mean, var, 0)
        last, plan, failed = batch_layout(x, rank), 0, 0
        sizes = sizes_in(x)
        if kind >= 0 and rank >= 2 and is_wanted(flags, weight) and is_gradient(dy, x):
            c = word(sizes + 8)
            first, second = (save_mean, save_rstd) if training != 0 else (mean, var)
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
        elif training != 0:
            failed = go_back(stack, plan, (dy, x, weight), (save_mean, save_rstd, kind), kind, last, flags)
        else:
            failed = go_back_constant(stack, plan, (dy, x, weight), (mean, var), kind, last, flags, eps)
        for tensor in (dy, x, weight, mean, var, save_mean, save_rstd, reserve):
            delete_tensor(tensor)
        if failed != 0:
            give_up(stack, 3)

    return batches_backward
