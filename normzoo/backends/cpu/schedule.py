"""Every number that was found by measuring: sizes from which on one way of working is faster than another.

Most only say who does the work. Those marked "order" say in which order values are added up, too, so that a change of
them changes results within their accuracy. Measured on AMD EPYC with two cores and vectors of 32 bytes, a level-1 cache
of 32 KB and a level-2 cache of 512 KB; FACTS.md has the measurements. "Set", b, m, c and n are those of `contract.py`.
"""

# -- which kernel works on a view: code.py -----------------------------------------------------------------------

SMALL = 16384  # values up to which a pass keeps Python's lock, for some microseconds
SERIAL = 65536  # values up to which starting the threads costs more than they save, or hardly less
SPLIT_SETS = 16  # fewer sets than this, each of several chunks, are worked on by all threads together;
SETS_PER_THREAD = 2  # going forward, fewer than this for each thread
FOLDED_RUN = 256  # values of a run, below which several are columns (order)
FOLDED_RUNS = 4  # where there is a run for every so many values of one: else what is done once a column is too much
FOLDED_TILE = 1536  # columns of a tile from which on x and dy, of many runs, are too large for a level-2 cache (order)
HIGH_COLUMNS = 1 << 20  # values of high columns that a thread reads twice, one sample after the other; more are shared
STREAMED = 1 << 24  # bytes of a result, from which on it is written past the caches: they would not hold it
STREAM_ALIGNMENT = 16  # bytes of the narrowest vectors: where NumPy's arrays begin, they can be written past the caches
LINE = 64  # bytes
PAGE = 4096  # bytes, of which all can be read if one can: at least, on every processor
APART_BYTES = 1 << 20  # bytes of a set whose runs lie apart, from which on threads share it
NEIGHBOUR_RUN = 40  # values of a run, below which neighbours go back as one run of at most (order)
NEIGHBOUR_SET = 32768  # values, for whose parameters' gradients a level-2 cache has room; of runs below LANES all do
NEIGHBOUR_SHARED = 48  # times the sets that share parameters: the largest square of a run's values. In fewer sets, what
# repeats the parameters and adds up their gradients takes longer than it saves (order)
SHORT_SET = 1024  # values up to which a set that is one run has a kernel of its own: a fifth less time, the same bits

# -- sets of few values: few.py (order: what they do not take is summed in float32) -------------------------------

FEW_FORWARD = 48  # values of a set that go forward there, in runs that are no columns;
FEW_EACH = 32  # where each value has its own parameters, whose tables would fill the level-1 cache;
FEW_GIVEN = 32  # where the statistics are given;
FEW_BACK = 31  # going back;
FEW_EACH_BACK = 24  # going back where each value has its own parameters;
FEW_APART = 56  # either way, where runs shorter than a vector lie apart
FEW_COLUMN = 2  # values of a column, which lanes run over anyway,
FEW_SAMPLE_COLUMN = 64  # or up to this, where a sample
FEW_SAMPLE = 256  # has no more values than this
FEW_TASK = 4096  # values of a task, or more where parameters are many: each task has their gradients
FEW_TASKS = 64  # at most

# -- rows ---------------------------------------------------------------------------------------------------------

ROW_CHUNK = 2048  # values: two arrays of float32 fill half a level-1 cache; at most 64 additions a lane (order)
SETS_TOGETHER = 4  # sets of one chunk that are summed before the first is normalized
FAR_MEAN = 2.0  # of a chunk's variance is the square by which its mean may lie from what it is summed around (order)
FETCHED_SET = 1 << 18  # bytes of a set, up to which the next ones are fetched while y is written: two fit a level-2
# cache;
FETCHED_SET_BACK = 1 << 15  # going back: x and dy of more would fill the level-1 cache while they are read again,
FETCHED_SET_WIDE = 1 << 18  # but for processors with vectors of 64 bytes
ROW_SAMPLES = 4  # vectors of a chunk that say what sums of dy are around (order)
SUMMED_VECTORS = 64  # of dy that are added up in float32: a sum of so many equal values is right to 1e-6 (order);
SETS_PER_BLOCK = 48  # sets, whose parameters' gradients are added up likewise: to 8e-7 (order)
TURN_PLANES = 1 << 14  # gradients of all parameters that a level-2 cache holds beside x and dy: a task takes their sets
TURN_SETS = 64  # in turn, if there are so many to each: else there are too few tasks, and too many planes

# -- columns ------------------------------------------------------------------------------------------------------

COLUMN_CHUNK = 64  # rows between two merges (order)
FIRST_ROWS = 16  # whose mean the first chunk is summed around: at most sqrt(3) deviations from its own mean (order)
GROUP = 512  # rows that one task sums in a row (order)
STRIP = 4  # rows between two visits to a column's sums (order)
HEIGHT = 4  # rows of a tile that are normalized with what was loaded for a vector of columns;
HEIGHT_BACK = 2  # going back: of more rows the registers would not hold what was loaded
AT_ONCE = 1 << 23  # bytes of an array, up to which threads that walk over whole rows take several at once; always those
# of sixteen bits, whose conversions take the time,
LONG_ROW = 1600  # and of more columns than this, whose forms and factors come from the level-2 cache
FETCHED_ROW = 2048  # values of a row-wise walk, by which fetching is ahead of the work
TILE = 65536  # values of a tile that is read twice: a quarter of a megabyte of float32
WIDEST = 1024  # columns of a tile
NARROW = 128  # columns, up to which rows are worked on side by side: a tile has room for as many (order);
NARROW_HALVES = 256  # of sixteen bits, whose conversions take the time
SIDE_ROWS = 8  # rows of those, at least;
SIDE_ROWS_FULL = 64  # where columns fill the lanes without, they only save turns of loops
COLUMN_SAMPLES = 16  # rows that say what sums of dy are around: of a mean near 0 they hardly have one sign (order);
COLUMN_SAMPLES_SPANNED = 4  # where the weights vary along m: the sums are no gradients, and need not be around 0
SUMMED_ROWS = 256  # rows that are added up in float32, STRIP at a time, before they go on in float64 (order)
SUMMED_COLUMNS = 512  # columns, of one sample or several, whose gradients a task adds up in float32 (order)

# -- windows and scans --------------------------------------------------------------------------------------------

WINDOW_TILE = 8192  # values of a piece, whose sums stay in a level-2 cache;
WINDOW_ROWS = 4  # times what is worked on again beside it, at least
WINDOW_LINE = 1024  # values of a row that are not cut;
WINDOW_STRIP = 512  # of longer ones: runs that are fetched as they are read
POSITIONS = 256  # of a task, over whose channels there is a sum; parameters' gradients of as many are added up in
# float32 (order)
SCAN_SUMMED = 16  # steps, or vectors of them, whose parameters' gradients are added up in float32 (order)

# -- threads and memory -------------------------------------------------------------------------------------------

ASSUMED_SPEED = 2e9  # values a second that a thread normalizes, until a kernel's own calls were timed,
TIMED_CALLS = 3  # which is done so often
ALWAYS_SHARED = 1 << 20  # values from which on threads are woken however long it takes
FOLDED_ON_THREADS = 1 << 17  # partial sums: of fewer, adding them up takes less than to wake the threads, up to 50 us
STACK_BYTES = 4096  # of a workspace that lies on the stack: to get and free memory takes 40 ns
GATHERED_ROWS = 64  # rows that a task gathers
