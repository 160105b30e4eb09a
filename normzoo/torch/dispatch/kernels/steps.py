"""What the kernels of all operators have in common: arguments, keys of plans, results, errors, and gradients."""

# mypy: disallow-untyped-defs=False

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.fastcall.objects import needed, place_of, put_word, word
from normzoo.backends.cpu.vector.workspaces import workspace
from normzoo.torch.dispatch.handles import (
    FLOAT32,
    FLOAT64,
    delete_tensor,
    dropped,
    is_dense,
    is_one_of,
    is_short,
    kind_of,
    new_tensor,
    no_tensor,
    owned,
    product,
    rank_of,
    ready,
    same_sizes,
    sizes_in,
)
from normzoo.torch.dispatch.interface import check, doubles, symbol
from normzoo.torch.dispatch.passes import backward, known_stats, running_stats
from normzoo.torch.dispatch.plans import (
    AFFINE,
    KIND,
    LAYOUT,
    MOMENTS,
    NORM,
    SETS,
    SIZES,
    field,
)

no_memory = symbol("normzoo_torch_no_memory")


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
    if is_short(x_kind) and kind == FLOAT32:
        return kind
    is_known = is_short(x_kind) or is_one_of(x_kind, FLOAT32, FLOAT64)
    return kind if is_known and kind == x_kind else -1


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
def is_normal(x, rank, n, c, positions):
    """Has x the sizes (n, c, ...), with so many positions behind them?"""
    sizes = sizes_in(x)
    if rank < 2 or word(sizes) != n or word(sizes + 8) != c:
        return False
    return product(sizes, 2, rank) == positions and n * c * positions > 0


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


# -- gradients


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
def go_back(stack, plan, tensors, kept, kind, last, flags, eps):
    """Leave dx, dweight and dbias on the stack. `tensors` are dy, x and weight; `kept` are mean, rstd and their dtype
    or, in an evaluation, running mean and variance, of which eps makes rstd; `flags` say what is wanted, by bytes. 1 if
    memory is short."""
    dy, x, weight = tensors
    mean, second, kept_kind = kept
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
        if field(plan, MOMENTS) == 0:  # statistics do not depend on x
            running_stats(mean, second, kept_kind, eps, stats, sets)
        else:
            failed = known_stats(plan, mean, second, kept_kind, own_x, dx, stats)
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
