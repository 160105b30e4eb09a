"""The kernels of native_layer_norm and _fused_rms_norm and of their backward passes, as C calls them.

They are entry(stack, arguments, results): they take the arguments from the stack, which owns them, ask for a plan, and
leave the results there. What no plan is for, and what PyTorch raises an error for, is done by PyTorch's own kernel.
"""

# mypy: disallow-untyped-defs=False
# ruff: noqa: PLR0912, PLR0915 (kernels are as long as they are)

from functools import cache
from typing import Any

from normzoo.backends.cpu.compiling.jit import helper, kernel
from normzoo.backends.cpu.fastcall.objects import needed, number, place_of, put_word, word
from normzoo.backends.cpu.vector.workspaces import workspace
from normzoo.torch.dispatch.handles import (
    FLOAT32,
    FLOAT64,
    data_of,
    delete_tensor,
    dropped,
    equal_words,
    from_doubles,
    is_last,
    kind_of,
    new_tensor,
    opened,
    opened_list,
    opened_mask,
    product,
    rank_of,
    ready,
    sizes_in,
)
from normzoo.torch.dispatch.interface import doubles, free, own, room, symbol, zero
from normzoo.torch.dispatch.kernels.steps import (
    give_up,
    go_back,
    gradient_of,
    is_gradient,
    is_kept,
    is_wanted,
    left,
    optional,
    parameters_kind,
    refuse,
    spans,
    taken_over,
    write_key,
)
from normzoo.torch.dispatch.passes import forward
from normzoo.torch.dispatch.plans import (
    BACK,
    CODE,
    LAYER,
    RMS,
    SETS,
    SIZES,
    field,
    plan_at,
)

no_kernel = symbol("normzoo_torch_no_kernel")
EPS32, EPS64 = 2.0**-23, 2.0**-52  # of rms_norm, where none is given


@helper
def write_rows(key, norm, kind, affine, rows, values):
    """The key of a pass over so many rows."""
    write_key(key, norm, 0, kind, affine)
    put_word(key + 8 * SIZES, rows)
    put_word(key + 8 * (SIZES + 1), values)


@cache
def forward_over_last_axes(center: bool) -> Any:
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
        kind, first = parameters_kind(x_kind, weight, bias, 0, 0), rank - count
        plan = 0
        if count >= 1 and first >= 0 and kind >= 0 and eps > 0.0:
            rows, values = product(sizes, 0, first), product(shape, 0, count)
            fits = equal_words(sizes + 8 * first, shape, count) and rows * values > 0
            fits = fits and spans(weight, count, shape) and spans(bias, count, shape)
            if not center:
                fits = fits and (weight == 0 or kind == x_kind) and is_last(x, rank) == 0
            if fits:
                key = room()
                write_rows(key, norm, x_kind, 1 if weight != 0 or bias != 0 else 0, rows, values)
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


@cache
def layer_norm_back() -> Any:
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
        first = rank - count
        if kind >= 0 and count >= 1 and first >= 0 and is_wanted(flags, weight) and is_gradient(dy, x):
            rows, values = product(sizes, 0, first), product(shape, 0, count)
            fits = equal_words(sizes + 8 * first, shape, count) and rows * values > 0 and spans(weight, count, shape)
            if fits and is_kept(mean, kind, rows) and is_kept(rstd, kind, rows):
                key = room()
                write_rows(key, LAYER + BACK, kind_of(x), 1 if weight != 0 else 0, rows, values)
                plan = plan_at(key)
        if plan == 0 or field(plan, CODE) == 0:
            found, w, b = room(), optional(weight, room()), optional(bias, room())
            own_kernel(found, dy, x, shape, count, mean, rstd, w, b, flags, dy, x, mean, rstd, weight, bias)
            taken_over(stack, found, 3)
        else:
            failed = go_back(stack, plan, (dy, x, weight), (mean, rstd, kind), kind, 0, flags, 0.0)
        for tensor in (dy, x, mean, rstd, weight, bias):
            delete_tensor(tensor)
        if failed != 0:
            give_up(stack, 3)

    return last_axes_backward


@cache
def rms_norm_back() -> Any:
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
            write_rows(key, RMS + BACK, x_kind, 1 if weight != 0 else 0, rows, values)
            plan = plan_at(key)
        if plan != 0 and field(plan, CODE) != 0:
            failed = go_back(stack, plan, (dy, x, weight), (0, rstd, kept_kind), kind, 0, flags, 0.0)
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
