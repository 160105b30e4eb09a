"""Runs blocks: one fiber per thread, barriers and warp operations resolved between the fibers.

Compiled by Numba, because it switches fibers some hundred thousand times for a small kernel. A thread runs until it
asks for something that needs others (`runtime_ir`); when nobody of the block can run, the barrier opens. Requests of
a warp are resolved as soon as every living lane of the mask has made the same one.
"""

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from . import runtime_ir as rt

# columns of the table of threads
SP, STATUS, KIND, SITE, MASK, VALUE, B, C, RESULT, WARP_EPOCH = range(10)
COLUMNS = 10
READY, AT_BARRIER, IN_WARP, EXITED = range(4)

# findings: (code, block, thread, site, detail, other detail)
# NumPy scalars: Numba compiles a function anew for each literal that it is called with
SITES_DIFFER, EXITED_EARLY, NOT_IN_MASK, LANE_MISSING, READS_INACTIVE, OTHER_OPERATION = np.arange(1, 7)
NONE = np.int64(0)
FINDING_COLUMNS = 6
PER_CODE = 64  # rows of one kind that are kept
POISON = 0x7FC0DEAD  # a quiet NaN: what a shuffle yields where hardware leaves the value undefined

helper = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)  # called by compiled code only: half the time


@intrinsic
def _switch(typingctx, function, save, stack):
    """Call `nz_switch(save, stack)` by its address."""

    def codegen(context, builder, signature, args):
        from llvmlite import ir  # noqa: PLC0415

        function_type = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, ir.IntType(64)])
        function = builder.inttoptr(args[0], function_type.as_pointer())
        builder.call(function, [builder.inttoptr(args[1], cgutils.voidptr_t), args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def _poke(typingctx, address, value):
    """Store a word at an address: the first frame of a fiber."""

    def codegen(context, builder, signature, args):
        from llvmlite import ir  # noqa: PLC0415

        builder.store(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@helper
def _report(findings, n, code, block, thread, site, detail, other):
    n[code] += 1
    if n[code] <= PER_CODE and n[0] < findings.shape[0]:
        row = findings[n[0]]
        row[0], row[1], row[2], row[3], row[4], row[5] = code, block, thread, site, detail, other
        n[0] += 1


@helper
def _next(rng):
    """xorshift64*, 31 bits."""
    x = rng[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    rng[0] = x
    return np.int64((x * np.uint64(2685821657736338717)) >> np.uint64(33))


@njit(cache=True)
def shuffle(order, rng):
    """Fisher and Yates."""
    for i in range(order.shape[0] - 1, 0, -1):
        j = _next(rng) % (i + 1)
        order[i], order[j] = order[j], order[i]


@helper
def _source(lane, mode, b, c):
    """Source lane of PTX `shfl.sync` and whether it is in range."""
    b, clamp, segment = b & 31, c & 31, (c >> 8) & 31
    low = lane & segment
    high = low | (clamp & ~segment & 31)
    if mode == 0:
        j = low | (b & ~segment & 31)
        inside = j <= high
    elif mode == 1:
        j = lane - b
        inside = j >= high
    elif mode == 2:
        j = lane + b
        inside = j <= high
    else:
        j = lane ^ b
        inside = j <= high
    return (j, True) if inside else (lane, False)


@helper
def _operate(threads, first, group, block, findings, n):
    """Give the lanes in `group` (bits of one warp, all waiting with one kind and mask) their results."""
    leader = first
    while not (group >> (leader - first)) & 1:
        leader += 1
    kind, mask, site = threads[leader, KIND], threads[leader, MASK], threads[leader, SITE]
    votes = 0
    for lane in range(32):
        if (group >> lane) & 1 and threads[first + lane, VALUE]:
            votes |= 1 << lane
    for lane in range(32):
        if not (group >> lane) & 1:
            continue
        t = first + lane
        row = threads[t]
        if row[SITE] != site:
            _report(findings, n, OTHER_OPERATION, block, t, row[SITE], site, NONE)
        if not (mask >> lane) & 1:
            _report(findings, n, NOT_IN_MASK, block, t, row[SITE], mask, NONE)
        mode = row[C] >> 16
        if kind == rt.WARP_SYNC:
            row[WARP_EPOCH] += 1
        elif kind == rt.SHUFFLE:
            j, inside = _source(lane, mode, row[B], row[C] & 0xFFFF)
            if (group >> j) & 1 and (mask >> j) & 1:
                row[RESULT] = threads[first + j, VALUE] & 0xFFFFFFFF
            else:
                row[RESULT] = POISON
                _report(findings, n, READS_INACTIVE, block, t, row[SITE], j, mask)
            if inside:
                row[RESULT] |= 1 << 32
        elif kind == rt.VOTE:
            seen = votes & mask
            here = group & mask
            flag = (seen == here, seen != 0, seen == here or seen == 0, False)[mode]
            row[RESULT] = (seen & 0xFFFFFFFF if mode == 3 else 0) | (np.int64(flag) << 32)
        else:
            same = 0
            for other in range(32):
                if (group >> other) & 1 and threads[first + other, VALUE] == row[VALUE]:
                    same |= 1 << other
            row[RESULT] = same
    for lane in range(32):
        if (group >> lane) & 1:
            threads[first + lane, STATUS] = READY


@helper
def _warps(threads, count, block, force, findings, n):
    """Resolve what can be resolved of the warps' requests; with `force`, also the first that lacks lanes."""
    progress = False
    for first in range(0, count, 32):
        lanes = min(32, count - first)
        done = 0
        for lane in range(lanes):
            row = threads[first + lane]
            if row[STATUS] != IN_WARP or (done >> lane) & 1:
                continue
            group, missing, gone = 0, 0, 0
            for other in range(32):
                if other < lanes:
                    o = threads[first + other]
                    if o[STATUS] == IN_WARP and o[KIND] == row[KIND] and o[MASK] == row[MASK]:
                        group |= 1 << other
                    elif (row[MASK] >> other) & 1:
                        if o[STATUS] == EXITED:
                            gone |= 1 << other
                        else:
                            missing |= 1 << other
                elif (row[MASK] >> other) & 1:
                    gone |= 1 << other
            done |= group
            if missing and not force:
                continue
            if missing or gone:
                _report(findings, n, LANE_MISSING, block, first + lane, row[SITE], missing, gone)
            _operate(threads, first, group, block, findings, n)
            progress = True
            if force:
                return True
    return progress


@helper
def _barrier(threads, count, block, findings, n):
    """Open the barrier: every thread that has not exited is there. False where nobody waits."""
    leader, exited = -1, -1
    for t in range(count):
        if threads[t, STATUS] == AT_BARRIER and leader < 0:
            leader = t
        elif threads[t, STATUS] == EXITED and exited < 0:
            exited = t
    if leader < 0:
        return False
    votes, waiting = 0, 0
    site = threads[leader, SITE]
    reported = False
    for t in range(count):
        if threads[t, STATUS] == AT_BARRIER:
            votes += threads[t, VALUE] != 0
            waiting += 1
            if threads[t, SITE] != site and not reported:
                _report(findings, n, SITES_DIFFER, block, t, threads[t, SITE], site, leader)
                reported = True
    if exited >= 0:
        _report(findings, n, EXITED_EARLY, block, exited, site, leader, NONE)
    for t in range(count):
        row = threads[t]
        if row[STATUS] == AT_BARRIER:
            mode = row[B]
            row[RESULT] = (0, votes, int(votes == waiting), int(votes > 0))[mode]
            row[STATUS] = READY
    return True


@njit(cache=True)
def run_blocks(
    state, blocks, grid, dims, schedule, rng, threads, shared, stacks, stack_size, switch, start, findings, n
):
    """Run blocks in the order given until done or the trace is full; how many were run; -1: stuck, -2: no end."""
    count = dims[0] * dims[1] * dims[2]
    order = np.arange(count)
    if schedule == 1:
        order = order[::-1].copy()
    for i in range(3):
        state[rt.NTID + i], state[rt.NCTAID + i] = dims[i], grid[i]
    here = state.ctypes.data
    for done in range(blocks.shape[0]):
        block = blocks[done]
        state[rt.BLOCK] = block
        state[rt.CTAID] = block % grid[0]
        state[rt.CTAID + 1] = block // grid[0] % grid[1]
        state[rt.CTAID + 2] = block // (grid[0] * grid[1])
        state[rt.EPOCH] = 0
        shared[:] = -1  # not zero, as on hardware: NaN as a float
        threads[:count] = 0
        for t in range(count):
            top = stacks + (t + 1) * stack_size - 64
            _poke(top - 8, 0)  # where nz_start would return to
            _poke(top - 16, start)
            threads[t, SP] = top - 16 - 48  # six registers to pop
        alive = count
        while alive:
            if schedule == 2:
                shuffle(order, rng)
            for index in range(count):
                t = order[index]
                row = threads[t]
                if row[STATUS] != READY:
                    continue
                first = t & ~31
                bits = 0
                for lane in range(min(32, count - first)):
                    if threads[first + lane, STATUS] != EXITED:
                        bits |= 1 << lane
                state[rt.ALIVE] = bits
                state[rt.THREAD] = t
                state[rt.TID] = t % dims[0]
                state[rt.TID + 1] = t // dims[0] % dims[1]
                state[rt.TID + 2] = t // (dims[0] * dims[1])
                state[rt.WARP_EPOCH] = row[WARP_EPOCH]
                state[rt.STACK_LO] = stacks + t * stack_size
                state[rt.STACK_HI] = stacks + (t + 1) * stack_size
                state[rt.RESULT] = row[RESULT]
                _switch(switch, here + 8 * rt.SCHED_SP, row[SP])
                row[SP] = state[rt.FIBER_SP]
                kind = state[rt.KIND]
                row[KIND], row[SITE], row[MASK] = kind, state[rt.SITE], state[rt.MASK]
                row[VALUE], row[B], row[C] = state[rt.VALUE], state[rt.B], state[rt.C]
                if kind == rt.DONE:
                    row[STATUS] = EXITED
                    alive -= 1
                elif kind == rt.ABORT:
                    return -2
                elif kind == rt.BARRIER:
                    row[STATUS] = AT_BARRIER
                else:
                    row[STATUS] = IN_WARP
            if not alive:
                break
            resolved = False
            for force in range(2):  # 1: hardware would hang or worse, for lanes of a mask wait elsewhere
                if not resolved:
                    resolved = _warps(threads, count, block, force, findings, n)
            if resolved:
                continue
            if _barrier(threads, count, block, findings, n):
                state[rt.EPOCH] += 1
            else:
                return -1
        if state[rt.COUNT] > state[rt.LIMIT]:
            return done + 1
    return blocks.shape[0]
