"""The kernels of the forward operators, as C calls them: entry(stack, arguments, results).

Each takes the arguments from the stack, which owns them, asks for a plan, and leaves the results on the stack. What no
plan is for, the checks of PyTorch included, is done by PyTorch's own kernel.
"""

from functools import cache
from typing import Any

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.fastcall.objects import needed, number, place_of, put_word, word
from normzoo.backends.cpu.vector.arithmetic import larger
from normzoo.backends.cpu.vector.workspaces import workspace
from normzoo.torch.dispatch import interface
from normzoo.torch.dispatch.handles import (
    BYTE,
    FLOAT32,
    FLOAT64,
    data_of,
    delete_tensor,
    dropped,
    from_doubles,
    is_dense,
    is_last,
    is_short,
    kind_of,
    new_row,
    new_tensor,
    opened,
    opened_list,
    owned,
    product,
    rank_of,
    ready,
    same_sizes,
    sizes_in,
)
from normzoo.torch.dispatch.interface import check, doubles, free, own, room
from normzoo.torch.dispatch.passes import apply, forward, running_stats, update
from normzoo.torch.dispatch.plans import AFFINE, BATCH, CODE, GIVEN, GROUP, KIND, LAYER, LAYOUT, NORM, RMS, SETS, SIZES
from normzoo.torch.dispatch.plans import field, plan_at

no_memory = interface.symbol("normzoo_torch_no_memory")
EPS32, EPS64 = 2.0**-23, 2.0**-52  # of rms_norm, where none is given


@helper
def parameters_kind(x_kind, a, b, c, d):
    """The dtype of those parameters that there are; that of x if there are none; -1 if kernels take them not."""
    kind = x_kind
    for tensor in (d, c, b, a):
        if tensor != 0:
            kind = kind_of(tensor)
    for tensor in (a, b, c, d):
        if tensor != 0 and kind_of(tensor) != kind:
            kind = -1
    if x_kind == FLOAT32 or x_kind == FLOAT64:
        return kind if kind == x_kind else -1
    return kind if is_short(x_kind) and (kind == x_kind or kind == FLOAT32) else -1


@helper
def spans(parameter, rank, sizes):
    """Is it absent, or a contiguous tensor of these sizes?"""
    return parameter == 0 or (same_sizes(parameter, rank, sizes) and is_dense(parameter, rank, 0))


@helper
def write_key(key, norm, layout, kind, affine):
    put_word(key + 8 * NORM, norm)
    put_word(key + 8 * LAYOUT, layout)
    put_word(key + 8 * KIND, kind)
    put_word(key + 8 * AFFINE, affine)
    for i in range(4):
        put_word(key + 8 * (SIZES + i), 1)


@helper
def optional(tensor, place):
    """C++'s optional tensor, at this address."""
    put_word(place, word(tensor) if tensor != 0 else 0)
    put_word(place + 8, 1 if tensor != 0 else 0)
    return place


@helper
def taken_over(stack, found, count):
    """The results of PyTorch's own kernel, a tuple in memory."""
    for i in range(count):
        put_word(stack + 8 * i, owned(word(found + 8 * (count - 1 - i))))


@helper
def refuse(message):
    """Raise, in C++."""
    check(0, message, message, 0, message)


@helper
def give_up(stack, results):
    """Raise because there was no memory."""
    for i in range(results):
        delete_tensor(word(stack + 8 * i))
    refuse(no_memory())


@cache
def over_last_axes(center: bool) -> Any:
    """native_layer_norm, or _fused_rms_norm without `center`."""
    norm = LAYER if center else RMS
    name = "native_layer_norm" if center else "_fused_rms_norm"
    results = 3 if center else 2
    own_kernel = own(name, 6, 1, 3 if center else 2)

    @kernel(from_c=True)
    def last_axes_forward(stack, arguments, returned):
        x, weight = word(stack), opened(word(stack + 16))
        shape = room()
        count = opened_list(word(stack + 8), shape)
        x_kind, rank, sizes = kind_of(x), rank_of(x), sizes_in(x)
        if center:
            bias, eps, given = opened(word(stack + 24)), number(stack + 32), 1
        else:
            cell = word(stack + 24)
            bias, eps, given = 0, EPS64 if x_kind == FLOAT64 else EPS32, 0
            if cell != 0:
                eps, given = number(cell), 1
                free(cell)
        kind, first, i = parameters_kind(x_kind, weight, bias, 0, 0), rank - count, 0
        plan = 0
        if count >= 1 and first >= 0 and kind >= 0 and eps > 0.0:
            while i < count and word(sizes + 8 * (first + i)) == word(shape + 8 * i):
                i += 1
            rows, values = product(sizes, 0, first), product(shape, 0, count)
            fits = i == count and rows * values > 0 and spans(weight, count, shape) and spans(bias, count, shape)
            if not center:
                fits = fits and (weight == 0 or kind == x_kind) and is_last(x, rank) == 0
            if fits:
                key = room()
                write_key(key, norm, 0, x_kind, 1 if weight != 0 or bias != 0 else 0)
                put_word(key + 8 * SIZES, rows)
                put_word(key + 8 * (SIZES + 1), values)
                plan = plan_at(key)
        if plan == 0 or field(plan, CODE) == 0:
            found = room()
            w, b = optional(weight, room()), optional(bias, room())
            if center:
                own_kernel(found, x, shape, count, w, b, eps, x, weight, bias)
            else:
                own_kernel(found, x, shape, count, w, given, eps, x, weight)
            taken_over(stack, found, results)
            failed = 0
        else:
            stats_kind = kind if center else (FLOAT64 if x_kind == FLOAT64 else FLOAT32)
            kept = room()
            for i in range(rank):
                put_word(kept + 8 * i, word(sizes + 8 * i) if i < first else 1)
            y, rstd = new_tensor(rank, sizes, 0, x_kind), new_tensor(rank, kept, 0, stats_kind)
            mean = new_tensor(rank, kept, 0, stats_kind) if center else 0
            dense, sets = ready(x, rank, 0, x_kind), field(plan, SETS)
            failed = 1 if y == 0 or rstd == 0 or dense == 0 or (center and mean == 0) else 0
            if failed == 0:
                space = workspace(3 * sets, doubles(stack))
                stats = place_of(space)
                failed = forward(plan, dense, (weight, bias), kind, y, stats, eps)
                if center:
                    from_doubles(stats_kind, data_of(mean), stats, sets)
                from_doubles(stats_kind, data_of(rstd), stats + 16 * sets, sets)
                needed(space)
            dropped(dense, x)
            put_word(stack, y)
            if center:
                put_word(stack + 8, mean)
                put_word(stack + 16, rstd)
            else:
                put_word(stack + 8, rstd)
        delete_tensor(x)
        delete_tensor(weight)
        delete_tensor(bias)
        if failed != 0:
            give_up(stack, results)

    return last_axes_forward


@helper
def is_normal(x, rank, n, c, positions):
    """Has x the sizes (n, c, ...), with so many positions behind them?"""
    sizes = sizes_in(x)
    if rank < 2 or word(sizes) != n or word(sizes + 8) != c:
        return False
    return product(sizes, 2, rank) == positions and n * c * positions > 0


@cache
def in_groups() -> Any:
    """native_group_norm."""
    own_kernel = own("native_group_norm", 8, 1, 3)

    @kernel(from_c=True)
    def groups_forward(stack, arguments, returned):
        x, weight, bias = word(stack), opened(word(stack + 8)), opened(word(stack + 16))
        n, c, positions, groups = word(stack + 24), word(stack + 32), word(stack + 40), word(stack + 48)
        eps = number(stack + 56)
        x_kind, rank, sizes = kind_of(x), rank_of(x), sizes_in(x)
        kind, last, plan, failed = parameters_kind(x_kind, weight, bias, 0, 0), is_last(x, rank), 0, 0
        if kind >= 0 and eps > 0.0 and groups > 0 and is_normal(x, rank, n, c, positions) and c % groups == 0:
            if spans(weight, 1, sizes + 8) and spans(bias, 1, sizes + 8):
                key = room()
                write_key(key, GROUP, last, x_kind, 1 if weight != 0 or bias != 0 else 0)
                put_word(key + 8 * SIZES, n)
                put_word(key + 8 * (SIZES + 1), positions if last != 0 else groups)
                put_word(key + 8 * (SIZES + 2), groups if last != 0 else c // groups)
                put_word(key + 8 * (SIZES + 3), c // groups if last != 0 else positions)
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
def over_batches(name: str) -> Any:
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
