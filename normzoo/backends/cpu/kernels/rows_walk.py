"""The order in which rows are processed: sets, the chunks that they are split into, and the parameters of their
runs."""

from typing import Any, NamedTuple

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.schedule import ROW_CHUNK, SHORT_SET
from normzoo.backends.cpu.vector.access import at, itemsize
from normzoo.backends.cpu.vector.arithmetic import smaller
from normzoo.backends.cpu.vector.lanes import LANES

ONE, EACH, RUNS = range(3)  # `spans`: a run has one parameter; each value has its own; short runs are processed as one


SHORT = 3  # added to these: each set, also of RUNS, is one run of at most SHORT_SET values
OWN = 6  # added to EACH, going back: each value of x has parameters of its own


class Set(NamedTuple):
    """Set `index`, (b, c), whose values begin at index `start`."""

    index: Any
    b: Any
    c: Any
    start: Any


def parts_of(spans):
    """From `spans`: do parameters vary along n, are runs processed as one, and is a set SHORT?"""
    short, spans = divmod(spans % OWN, SHORT)
    return spans != ONE, spans == RUNS, short == 1


@helper
def as_short(given):
    """The fields of a record, for sets of one short run: what the compiler then knows saves a third of the work per
    set."""
    b, _, c, n = given.dims
    pb, _, pc, pn = given.parameter_dims
    return (b, 1, c, smaller(n, SHORT_SET)), (pb, 1, pc, pn), *given[2:]


@helper
def chunking(m, n):
    """Runs per chunk, pieces per run, chunks per set. For small sets without a division, which would take as long as
    the rest of the work per set; the same holds for the functions below."""
    if m * n <= ROW_CHUNK:
        return m, 1, 1
    if n > ROW_CHUNK:
        pieces = (n + ROW_CHUNK - 1) // ROW_CHUNK
        return 1, pieces, m * pieces
    group = smaller(m, ROW_CHUNK // n)
    return group, 1, (m + group - 1) // group


@helper
def chunk_of(j, m, n):
    """First run, number of runs, first value in the run, number of values in the run: the extent of chunk j."""
    group, pieces, chunks = chunking(m, n)
    if chunks == 1:
        return 0, m, 0, n
    run = j // pieces * group
    i = j % pieces * ROW_CHUNK
    return run, smaller(group, m - run), i, smaller(ROW_CHUNK, n - i) if pieces > 1 else n


@helper
def parameter_at(parameter_dims, here):
    """Flat index in the parameter view of the first value of a set; that of run 1 is `parameter_step` away."""
    pb, pm, pc, pn = parameter_dims
    place = (0 if pb == 1 else here.b if pb > here.b else here.b % pb) * pm
    return (place * pc + (here.c if pc > 1 else 0)) * pn


@helper
def parameter_step(parameter_dims):
    """Distance between the parameters of consecutive runs."""
    _, pm, pc, pn = parameter_dims
    return pc * pn if pm > 1 else 0


@helper
def set_at(dims, s):
    """Set s."""
    _, m, c, n = dims
    b, column, start = s, 0, s * m * n
    if c != 1:
        b, column = s // c, s % c
        start = (b * m * c + column) * n
    return Set(s, b, column, start)


@helper
def stats_of(given, s):
    """mean and rstd of set s."""
    sets = given.dims[0] * given.dims[2]
    return at(given.stats, s), at(given.stats, 2 * sets + s)


@helper
def next_set(dims, x, most):
    """Distance from a set to the next, if sets have at most `most` bytes; else 0: the next is not prefetched."""
    _, m, c, n = dims
    return 0 if m * n * itemsize(x) > most else n if c > 1 else m * n


@helper
def over_run(put, reads, given, run, form, flags, ahead):
    """put(given, terms, i, p, form, flags, left, full) on the values of a run, from i to `end`; their parameters, where
    each has its own, are at p. `ahead`: of what is fetched meanwhile.

    The last LANES values, where whole vectors leave some of them, are read before the run is written, which may be in
    place, and written once more with the rest. A masked store takes ten times as long."""
    i, end, p = run
    length = end - i
    is_ragged = length > LANES and length % LANES != 0
    last = reads.take(0, given, end - LANES, LANES, True) if is_ragged else reads.blank(given)
    while i + LANES <= end:
        if ahead > 0:
            flags.steps.fetch(given, i + ahead)
        put(given, reads.take(0, given, i, LANES, True), i, p, form, flags, LANES, True)
        i += LANES
        p += LANES
    if ahead > 0 and i < end:  # what is masked reads as far as a vector, too
        flags.steps.fetch(given, i + LANES - 1 + ahead)
    if i < end and length > LANES:
        put(given, last, end - LANES, p - (LANES - (end - i)), form, flags, LANES, True)
    elif i < end:
        put(given, reads.take(0, given, i, end - i, False), i, p, form, flags, end - i, False)
