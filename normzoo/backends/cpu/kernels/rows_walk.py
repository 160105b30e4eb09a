"""How rows are walked over: sets, the chunks that they are cut into, and the parameters of their runs."""

from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.schedule import ROW_CHUNK, SHORT_SET
from normzoo.backends.cpu.vector.access import at, itemsize, put
from normzoo.backends.cpu.vector.arithmetic import smaller
from normzoo.backends.cpu.vector.workspaces import workspace

ONE, EACH, RUNS = range(3)  # `spans`: a run has one parameter; each value has; short runs are worked on as one


SHORT = 3  # more than these: each set is one run, also of RUNS, of at most SHORT_SET values


def parts_of(spans):
    """Of `spans`: whether parameters vary along n, whether runs are worked on as one, and whether a set is SHORT."""
    short, spans = divmod(spans, SHORT)
    return spans != ONE, spans == RUNS, short == 1


@helper
def as_short(dims, parameter_dims):
    """What the compiler then knows of sets of one short run: it leaves out a third of what is done once for a set."""
    b, _, c, n = dims
    pb, _, pc, pn = parameter_dims
    return (b, 1, c, smaller(n, SHORT_SET)), (pb, 1, pc, pn)


@helper
def unrolled(dims, parameter_dims):
    """Short runs that lie side by side as one, whose values have each its own parameter."""
    b, m, _, n = dims
    return (b, 1, 1, m * n), (parameter_dims[0], 1, 1, m * n)


@helper
def spread(dims, parameter_dims, weight):
    """The parameters of runs, or of their values, repeated for each value of a set."""
    _, m, _, n = dims
    room = workspace(parameter_dims[0] * m * n, weight)
    for o in range(parameter_dims[0] * m):
        for i in range(n):
            put(room, o * n + i, at(weight, unspread(parameter_dims, m, o, i)))
    return room


@helper
def unspread(parameter_dims, m, o, i):
    """Where the parameter of value i of run o stands, of all runs of sets that do not share their parameters."""
    _, pm, _, pn = parameter_dims
    return (o if pm > 1 else o // m) * pn + (i if pn > 1 else 0)


@helper
def chunking(m, n):
    """runs in a chunk, pieces of a run, chunks in a set. Of small sets without a division, which takes as long as the
    rest of what is done once for a set; so do the functions behind."""
    if m * n <= ROW_CHUNK:
        return m, 1, 1
    if n > ROW_CHUNK:
        pieces = (n + ROW_CHUNK - 1) // ROW_CHUNK
        return 1, pieces, m * pieces
    group = smaller(m, ROW_CHUNK // n)
    return group, 1, (m + group - 1) // group


@helper
def chunk_of(j, m, n):
    """first run, runs, first value in the run, values in the run: the extent of chunk j."""
    group, pieces, chunks = chunking(m, n)
    if chunks == 1:
        return 0, m, 0, n
    run = j // pieces * group
    i = j % pieces * ROW_CHUNK
    return run, smaller(group, m - run), i, smaller(ROW_CHUNK, n - i) if pieces > 1 else n


@helper
def parameter_at(parameter_dims, b, c):
    """Flat position in the parameter view of the value for (b, 0, c, 0); that of run 1 is `parameter_step` away."""
    pb, pm, pc, pn = parameter_dims
    place = (0 if pb == 1 else b if pb > b else b % pb) * pm
    return (place * pc + (c if pc > 1 else 0)) * pn


@helper
def parameter_step(parameter_dims):
    """How far the parameters of a run are from those of the run before."""
    _, pm, pc, pn = parameter_dims
    return pc * pn if pm > 1 else 0


@helper
def set_at(dims, s):
    """b, c and the flat position of set s."""
    _, m, c, n = dims
    if c == 1:
        return s, 0, s * m * n
    i, j = s // c, s % c
    return i, j, (i * m * c + j) * n


@helper
def stats_of(dims, stats, s):
    """mean and rstd of set s."""
    sets = dims[0] * dims[2]
    return at(stats, s), at(stats, 2 * sets + s)


@helper
def next_set(dims, x, most):
    """How far ahead of a set the next one lies, where sets are of at most `most` bytes; else 0: it is not fetched."""
    _, m, c, n = dims
    return 0 if m * n * itemsize(x) > most else n if c > 1 else m * n
