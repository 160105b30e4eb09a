"""Lines of values, each by its own past, which is forgotten little by little; and the gradients, from the last step to
the first. Lanes run over sixteen lines, all in float64.

x is (b, t, n), or (b, n, t) with time last, where blocks of sixteen steps of sixteen lines are turned in workspace. The
state before each block is kept; going back, what a block needs is found again from there.
"""

from functools import cache

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.kernels.making_of_series import follow_back_kernel, follow_kernel
from normzoo.backends.cpu.kernels.moments import put_lanes
from normzoo.backends.cpu.kernels.windows import part_of
from normzoo.backends.cpu.parallel.sharing import share
from normzoo.backends.cpu.vector import transcendental  # noqa: F401  (it teaches lanes exp and log)
from normzoo.backends.cpu.vector.access import load, load_n, prefetch, store
from normzoo.backends.cpu.vector.arithmetic import fma, inverse, larger, narrow, root, smaller, splat, wide
from normzoo.backends.cpu.vector.lanes import LANES
from normzoo.backends.cpu.vector.strided import load_apart
from normzoo.backends.cpu.vector.workspaces import clear, workspace
from normzoo.backends.lanes import exp, log

BLOCK = LANES * LANES  # values of sixteen steps of sixteen lines
NEAR_ZERO = 1e-300  # in place of 0 where a logarithm is multiplied by 0


@helper
def blocks_of(given):
    return (given.dims[1] + LANES - 1) // LANES


@helper
def groups_of(dims):
    """Of sixteen lines."""
    return (dims[2] + LANES - 1) // LANES


@helper
def rate_at(given, steps):
    """With this many steps before."""
    return larger(given.rate, 1.0 / float(steps + 1))


@helper
def number(given, k, i):
    """Numbers of sixteen lines."""
    n = given.dims[2]
    return load_n(given.numbers, k * n + i, n - i)


@cache
def reading(time_last):
    """(given, a, b, i, t, block, room): sixteen steps of sixteen lines, from `a`; those of a step are neighbours in
    `block`."""

    @helper
    def read(given, a, b, i, t, block, room):
        _, steps, n = given.dims
        if time_last:
            for line in range(smaller(LANES, n - i)):
                place = (b * n + i + line) * steps + t
                prefetch(a, place + LANES)
                store(room, line * LANES, wide(part_of(a, place, steps - t)))
            for k in range(LANES):
                store(block, k * LANES, load_apart(room, k, LANES, LANES))
        else:
            for k in range(smaller(LANES, steps - t)):
                store(block, k * LANES, wide(part_of(a, (b * steps + t + k) * n + i, n - i)))

    return read


@cache
def writing(time_last):
    """The way back of `reading`, into the result."""

    @helper
    def write(given, b, i, t, block):
        _, steps, n = given.dims
        if time_last:
            for line in range(smaller(LANES, n - i)):
                v = narrow(load_apart(block, line, LANES, LANES), given.result)
                put_lanes(given.result, (b * n + i + line) * steps + t, v, steps - t)
        else:
            for k in range(smaller(LANES, steps - t)):
                v = narrow(load(block, k * LANES), given.result)
                put_lanes(given.result, (b * steps + t + k) * n + i, v, n - i)

    return write


@cache
def moving(center):
    """(a, v, mean, var) -> mean and var with v, taken in at rate a; and what v is from the mean before."""

    @helper
    def moved(a, v, mean, var):
        if center:
            d = v - mean
            return fma(a, d, mean), (1.0 - a) * fma(a * d, d, var), d
        return mean, fma(a, fma(v, v, -var), var), v

    return moved


@cache
def forward(kind, time_last):
    """y, the state after all steps, and those before each block."""
    read, write, gains, moved = reading(time_last), writing(time_last), kind == "gain", moving(kind == "center")

    @helper
    def one(given, v, mean, var, steps, numbers):
        """y of a step, and the state behind it."""
        if gains:
            gain, bias, power = numbers
            mean = fma(given.rate, v - mean, mean)
            u = fma(v, exp(-gain * log(mean + given.eps)), bias)
            return exp(power * log(u)) - exp(power * log(bias)), mean, var
        mean, var, _ = moved(rate_at(given, steps), v, mean, var)
        weight, bias, _ = numbers
        return fma((v - mean) * inverse(root(var + given.eps)), weight, bias), mean, var

    @helper
    def some_lines(turn, given, state, before):
        batch, steps, n = given.dims
        b, i = turn // groups_of(given.dims), turn % groups_of(given.dims) * LANES
        block, room = workspace(BLOCK, state), workspace(BLOCK, state)
        clear(room, 0, BLOCK)
        numbers = number(given, 0, i), number(given, 1, i), number(given, 2, i)
        place = b * n + i
        mean, var = load_n(state, place, n - i), load_n(state, batch * n + place, n - i)
        for number_of_block in range(blocks_of(given)):
            t, kept = number_of_block * LANES, (turn * blocks_of(given) + number_of_block) * 2 * LANES
            store(given.states, kept, mean)
            store(given.states, kept + LANES, var)
            read(given, given.x, b, i, t, block, room)
            for k in range(smaller(LANES, steps - t)):
                y, mean, var = one(given, load(block, k * LANES), mean, var, before + t + k, numbers)
                store(block, k * LANES, y)
            write(given, b, i, t, block)
        put_lanes(state, place, mean, n - i)
        put_lanes(state, batch * n + place, var, n - i)

    @helper
    def work(pool, given, state, before):
        share(pool, given.dims[0] * groups_of(given.dims), some_lines, (given, state, before))

    return follow_kernel(f"follow({kind}, {time_last})", work)


@cache
def backward(kind, time_last):
    """dx, and sums over time: of dy, and of what `numbers` are multiplied by."""
    read, write, center, gains = reading(time_last), writing(time_last), kind == "center", kind == "gain"
    moved = moving(center)

    @helper
    def found_again(given, v, mean, var, t):
        """What the way back needs of a step, and the state behind it."""
        if gains:
            mean = fma(given.rate, v - mean, mean)
            return mean, mean, mean, var
        mean, var, d = moved(rate_at(given, t), v, mean, var)
        return d, v - mean, mean, var

    @helper
    def one(given, d, v, kept, later, t, numbers):
        """dx of a step, the gradients of the state before it, and terms of the sums."""
        of_mean, of_var = later
        if gains:
            gain, bias, power = numbers
            level, a = kept[0] + given.eps, given.rate
            s = exp(-gain * log(level))
            u = fma(v, s, bias)
            up, logarithm = exp(power * log(u)), log(larger(u, NEAR_ZERO))
            du = d * power * up * inverse(u)
            ds = du * v * s
            of_mean -= ds * gain * inverse(level)
            return fma(du, s, a * of_mean), ((1.0 - a) * of_mean, of_var), (-ds * log(level), du, d * up * logarithm)
        a, weight = rate_at(given, t), numbers[0]
        apart, z, rstd = kept
        g, xhat = d * weight * rstd, z * rstd
        of_var -= 0.5 * g * xhat * rstd
        if center:
            of_mean -= g
            more = a * fma(2.0 * (1.0 - a) * apart, of_var, of_mean)
            return g + more, (of_mean - more, (1.0 - a) * of_var), (d * xhat, d, d)
        return fma(2.0 * a * v, of_var, g), (of_mean, (1.0 - a) * of_var), (d * xhat, d, d)

    @helper
    def some_lines(turn, given, dy, sums):
        batch, steps, n = given.dims
        b, i = turn // groups_of(given.dims), turn % groups_of(given.dims) * LANES
        space, room = workspace(5 * BLOCK, given.states), workspace(BLOCK, given.states)
        values, gradients = workspace(BLOCK, given.states), workspace(BLOCK, given.states)
        clear(room, 0, BLOCK)
        numbers = number(given, 0, i), number(given, 1, i), number(given, 2, i)
        later = splat(0.0), splat(0.0)
        first, second, third, total = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        blocks = blocks_of(given)
        for passed in range(blocks):
            number_of_block = blocks - 1 - passed
            t, kept = number_of_block * LANES, (turn * blocks + number_of_block) * 2 * LANES
            read(given, given.x, b, i, t, values, room)
            read(given, dy, b, i, t, gradients, room)
            mean, var = load(given.states, kept), load(given.states, kept + LANES)
            count = smaller(LANES, steps - t)
            for k in range(count):
                apart, z, mean, var = found_again(given, load(values, k * LANES), mean, var, t + k)
                store(space, k * LANES, apart)
                store(space, BLOCK + k * LANES, z)
                store(space, 2 * BLOCK + k * LANES, inverse(root(var + given.eps)))
            for step in range(count):
                j = (count - 1 - step) * LANES
                what = load(space, j), load(space, BLOCK + j), load(space, 2 * BLOCK + j)
                d = load(gradients, j)
                dx, later, terms = one(given, d, load(values, j), what, later, t + count - 1 - step, numbers)
                store(gradients, j, dx)
                first += terms[0]
                second += terms[1]
                third += terms[2]
                total += d
            write(given, b, i, t, gradients)
        place, size = b * n + i, batch * n
        put_lanes(sums, place, first, n - i)
        put_lanes(sums, size + place, second, n - i)
        put_lanes(sums, 2 * size + place, third, n - i)
        put_lanes(sums, 3 * size + place, total, n - i)

    @helper
    def work(pool, given, dy, sums):
        share(pool, given.dims[0] * groups_of(given.dims), some_lines, (given, dy, sums))

    return follow_back_kernel(f"follow_back({kind}, {time_last})", work)
