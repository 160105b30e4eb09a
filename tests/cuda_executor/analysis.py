"""Reads the trace of accesses: bounds, alignment, races, first reads, sectors.

One pass in execution order over shadow memory, one cell for two bytes (the smallest element is a half; byte arrays
are checked as if written in pairs). A cell remembers its last writer, its last reader and one reader of another warp,
with their times. Two accesses of one block race if one writes, their threads differ, no barrier lies between them,
and within one warp no `syncwarp` either. (A shuffle orders no memory, as CUDA says.) Updates and volatile accesses do
not race with one another. Between blocks of a launch nothing is ordered.
"""

import numpy as np
from numba import njit

from .instrument import READ, UPDATE, VOLATILE_READ, VOLATILE_WRITE, WRITE
from .scheduler import helper

OUTSIDE, OUTSIDE_SHARED, MISALIGNED, RACE, RACE_SHARED, BLOCKS, UNWRITTEN, UNWRITTEN_SHARED = np.arange(20, 28)
NONE = np.int64(0)  # not a literal: see `scheduler`
N_CODES = 32
PER_SITE = 4  # findings of one kind at one place that are kept

WHO, WHEN, READER, READ_AT, READER2, READ2_AT, BLOCK_READ = range(7)  # of a cell; WHO and READERs are 0 where empty
CELL = 7
ATOMIC = 1 << 62

# columns of the counters, per buffer
READ_REQUESTS, WRITE_REQUESTS, READ_SECTORS, WRITE_SECTORS, BYTES_READ, BYTES_WRITTEN, BLOCK_SECTORS = range(7)
COUNTERS = 7


@helper
def _insert(table, key, value):
    """Add a pair to the hash set; whether it is new."""
    mask = np.uint64(table.shape[0] - 1)
    h = (np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(value) * np.uint64(0xC2B2AE3D27D4EB4F))
    i = (h ^ (h >> np.uint64(29))) & mask
    while True:
        if table[i, 0] == key + 1 and table[i, 1] == value:
            return False
        if table[i, 0] == 0:
            table[i, 0], table[i, 1] = key + 1, value
            return True
        i = (i + np.uint64(1)) & mask


@helper
def _note(findings, n, seen, code, who, site, detail, other):
    if seen[code, site] < PER_SITE:
        seen[code, site] += 1
        if n[0] < findings.shape[0]:
            row = findings[n[0]]
            row[0], row[1], row[2], row[3], row[4], row[5] = code, who >> 10, who & 1023, site, detail, other
            n[0] += 1


@helper
def _unordered(who, when, other, other_when):
    """Whether two accesses of one block have nothing between them. `other` carries +1 and the atomic bit."""
    them = (other & ~ATOMIC) - 1
    if them >> 10 != who >> 10 or them == who or other_when >> 32 != when >> 32:
        return False
    return (them & 1023) >> 5 != (who & 1023) >> 5 or other_when == when


@helper
def _cell(cell, who, when, kind):
    """Update a cell; 0, or 1 with the thread it races with, or 2 with a thread of another block."""
    block = who >> 10
    atomic = kind >= UPDATE
    writes = kind in (WRITE, UPDATE, VOLATILE_WRITE)
    verdict, other = 0, 0
    w = cell[WHO]
    if w and not (atomic and w & ATOMIC):
        if ((w & ~ATOMIC) - 1) >> 10 != block:
            verdict, other = 2, (w & ~ATOMIC) - 1
        elif _unordered(who, when, w, cell[WHEN]):
            verdict, other = 1, (w & ~ATOMIC) - 1
    if writes:
        for slot in (READER, READER2):
            r = cell[slot]
            if r and not (atomic and r & ATOMIC) and _unordered(who, when, r, cell[slot + 1]):
                verdict, other = 1, (r & ~ATOMIC) - 1
        read = cell[BLOCK_READ]
        if read and read - 1 != block and not verdict:
            verdict, other = 2, max(read - 1, 0) << 10
        cell[WHO] = (who + 1) | (ATOMIC if atomic else 0)
        cell[WHEN] = when
    if kind in (READ, VOLATILE_READ):
        mark = (who + 1) | (ATOMIC if atomic else 0)
        r = cell[READER]
        them = (r & ~ATOMIC) - 1
        if r == 0 or them >> 10 != block or cell[READ_AT] >> 32 != when >> 32:
            cell[READER2] = 0
        elif them != who:
            second = (cell[READER2] & ~ATOMIC) - 1
            if them >> 5 != who >> 5 or cell[READER2] == 0 or second >> 5 == them >> 5:
                cell[READER2], cell[READ2_AT] = r, cell[READ_AT]
        cell[READER], cell[READ_AT] = mark, when
        if not atomic:
            read = cell[BLOCK_READ]
            if read == 0:
                cell[BLOCK_READ] = block + 1
            elif read != block + 1:
                cell[BLOCK_READ] = -1
    return verdict, other


@njit(cache=True)
def analyse(
    trace, count, sites, buffers, cells, written, touched, starts, shared, shared_cells, shared_written, shared_valid,
    executions, table, counters, widths, findings, n, seen, grain,
):  # fmt: skip
    """One pass over the trace of whole blocks. `starts`: first byte of each buffer in the joined arrays."""
    block = np.int64(-1)
    lo, hi = shared
    for e in range(count):
        address, who, packed, when = trace[e]
        site, size, kind = packed >> 24, (packed >> 8) & 65535, packed & 255
        if who >> 10 != block:
            block = who >> 10
            shared_cells[:] = 0
            shared_written[:] = 0
            executions[:] = 0
        if address % sites[site] != 0:
            _note(findings, n, seen, MISALIGNED, who, site, address, sites[site])
        reads = kind in (READ, UPDATE, VOLATILE_READ)
        writes = kind in (WRITE, UPDATE, VOLATILE_WRITE)
        if lo <= address and address + size <= hi:
            at = address - lo
            for i in range(at, at + size):
                if not shared_valid[i]:
                    _note(findings, n, seen, OUTSIDE_SHARED, who, site, at, NONE)
                    break
            if reads:
                for i in range(at, at + size):
                    if not shared_written[i]:
                        _note(findings, n, seen, UNWRITTEN_SHARED, who, site, at, NONE)
                        break
            if writes:
                shared_written[at : at + size] = 1
            for c in range(at >> grain, ((at + size - 1) >> grain) + 1):
                verdict, other = _cell(shared_cells[c], who, when, kind)
                if verdict:
                    _note(findings, n, seen, RACE_SHARED, who, site, other, at)
                    break
            continue
        b = -1
        for i in range(buffers.shape[0]):
            if buffers[i, 0] <= address and address + size <= buffers[i, 1]:
                b = i
                break
        if b < 0:
            near = lo - 65536 <= address < hi + 65536
            _note(
                findings, n, seen, OUTSIDE_SHARED if near else OUTSIDE, who, site, address - lo if near else address, 1
            )
            continue
        at = address - buffers[b, 0]
        byte = starts[b] + at
        if reads:
            for i in range(byte, byte + size):
                if not written[i]:
                    _note(findings, n, seen, UNWRITTEN, who, site, b, at)
                    break
        for i in range(byte, byte + size):
            touched[i] |= (1 if reads else 0) | (2 if writes else 0)
        if writes:
            written[byte : byte + size] = 1
        for c in range(byte >> grain, ((byte + size - 1) >> grain) + 1):
            verdict, other = _cell(cells[c], who, when, kind)
            if verdict:
                _note(findings, n, seen, RACE if verdict == 1 else BLOCKS, who, site, other, b << 40 | at)
                break
        # the i-th execution of an instruction by the lanes of a warp is one request
        thread = who & 1023
        turn = executions[site, thread]
        executions[site, thread] += 1
        key = ((block * 32 + (thread >> 5)) * sites.shape[0] + site) << 20 | (turn & 0xFFFFF)
        request = _insert(table, key, NONE - 1)
        first, last = address >> 5, (address + size - 1) >> 5
        sectors = _insert(table, key, first)
        if last != first:
            sectors += _insert(table, key, last)
        # and what its block has not touched before; keys below those of requests, one for each block and direction
        for direction in (READ, WRITE):
            if reads if direction == READ else writes:
                key = NONE - 2 - 2 * block - direction
                fresh = _insert(table, key, first)
                if last != first:
                    fresh += _insert(table, key, last)
                counters[b, BLOCK_SECTORS] += fresh
        if reads:
            counters[b, READ_REQUESTS] += request
            counters[b, READ_SECTORS] += sectors
            counters[b, BYTES_READ] += size
            widths[0, size] += 1
        if writes:
            counters[b, WRITE_REQUESTS] += request
            counters[b, WRITE_SECTORS] += sectors
            counters[b, BYTES_WRITTEN] += size
            widths[1, size] += 1
