"""All constants that were found by measuring: mostly sizes from which on one method is faster than another.

Most of them only decide which thread does the work. Those marked "order" also determine the order in which values are
added, so that changing them changes results within their accuracy. Measured on AMD EPYC with two cores, vectors of 32
bytes, a level-1 cache of 32 KB and a level-2 cache of 512 KB; FACTS.md has the measurements. "Set", b, m, c and n are
those of `contract.py`.
"""

# -- the choice of the kernel for a view: code.py -----------------------------------------------------------------

SMALL = 16384  # values up to which a pass keeps the interpreter's lock, for some microseconds
SERIAL = 65536  # values up to which starting threads costs more than it saves, or hardly less
SPLIT_SETS = 16  # fewer sets than this, each of several chunks, are shared by all threads;
SETS_PER_THREAD = 2  # and, in forward passes, fewer than this per thread
FOLDED_RUN = 256  # values of a run, below which several runs are processed as columns (order)
FOLDED_RUNS = 4  # most values of a run per run of the set: with fewer runs, the work per column costs too much
FOLDED_TILE = 1536  # columns of a tile, from which on x and dy of many runs exceed a level-2 cache (order)
HIGH_COLUMNS = 1 << 20  # values of high columns that one thread reads twice, sample by sample; larger ones are shared
STREAMED = 1 << 24  # bytes of a result, from which on it is written past the caches, which could not hold it
STREAM_ALIGNMENT = 16  # bytes of the narrowest vectors: arrays aligned to this, as NumPy's are, can bypass the caches
LINE = 64  # bytes
PAGE = 4096  # bytes, of which all can be read if one can: at least, on every processor
APART_BYTES = 1 << 20  # bytes of a set whose runs lie apart, from which on threads share it
NEIGHBOUR_RUN = 40  # values of a run, below which neighbours go back as one run of at most (order)
NEIGHBOUR_SET = 32768  # values, for whose parameters' gradients a level-2 cache has room; of runs below LANES all do
NEIGHBOUR_SHARED = 48  # times the sets that share parameters: the largest square of a run's values. In fewer sets, what
# repeats the parameters and adds up their gradients takes longer than it saves (order)
SHORT_SET = 1024  # values up to which a set that is one run has a kernel of its own: a fifth less time, the same bits

# -- sets of few values: few.py (order: all other sets are summed in float32) -------------------------------------

FEW_FORWARD = 48  # most values of a set in forward passes, if its runs are not columns
FEW_EACH = 32  # in forward passes, if each value has its own parameters: larger tables would fill the level-1 cache
FEW_GIVEN = 32  # in passes by given statistics
FEW_BACK = 31  # in backward passes
FEW_EACH_BACK = 24  # in backward passes, if each value has its own parameters
FEW_APART = 56  # in both passes, if runs are shorter than a vector and not adjacent
FEW_COLUMN = 2  # most values of a column: few, because the kernels of columns also run lanes along columns
FEW_SAMPLE_COLUMN = 64  # most values of a column, if its sample is small:
FEW_SAMPLE = 256  # most values of such a sample
FEW_TASK = 4096  # values of a task, or more if there are many parameters: each task has their gradients
FEW_TASKS = 64  # most tasks

# -- rows ---------------------------------------------------------------------------------------------------------

ROW_CHUNK = 2048  # values: two float32 arrays fill half a level-1 cache; at most 64 additions per lane (order)
SETS_TOGETHER = 4  # sets of one chunk each that are summed before the first of them is normalized
FAR_MEAN = 2.0  # chunk variances: the most that (chunk mean - reference value)^2 may be (order)
FETCHED_SET = 1 << 18  # bytes of a set, up to which the next is prefetched while y is written: a level-2 cache holds
# two;
FETCHED_SET_BACK = 1 << 15  # in backward passes: larger x and dy would fill the level-1 cache when they are read again;
FETCHED_SET_WIDE = 1 << 18  # in backward passes, on processors with vectors of 64 bytes
ROW_SAMPLES = 4  # vectors of a chunk that determine the reference value for sums of dy (order)
SUMMED_VECTORS = 64  # vectors of dy summed in float32: a sum of that many equal values is accurate to 1e-6 (order);
SETS_PER_BLOCK = 48  # sets, whose parameters' gradients are summed likewise: accurate to 8e-7 (order)
TURN_PLANES = 1 << 14  # values of all gradients of parameters, up to which a level-2 cache holds them beside x and dy;
TURN_SETS = 64  # sets per row of parameters, from which on a task adds the gradients of all parameters

# -- columns ------------------------------------------------------------------------------------------------------

COLUMN_CHUNK = 64  # rows between two merges (order)
FIRST_ROWS = 16  # rows whose mean is the first chunk's reference: at most sqrt(3) deviations from its mean (order)
GROUP = 512  # consecutive rows that one task sums (order)
STRIP = 4  # rows between two updates of a column's sums (order)
HEIGHT = 4  # rows of a tile that are normalized with the values loaded for one vector of columns;
HEIGHT_BACK = 2  # in backward passes: for more rows the registers could not hold the loaded values
AT_ONCE = 1 << 23  # bytes of an array, up to which threads that process whole rows take several at once;
LONG_ROW = 1600  # columns, above which they always do so, as their factors come from the level-2 cache; so they do
# for 16-bit arrays, whose conversions take most of the time
FETCHED_ROW = 2048  # values by which prefetching is ahead of a row-wise pass
TILE = 65536  # values of a tile that is read twice: a quarter of a megabyte of float32
WIDEST = 1024  # most columns of a tile
NARROW = 128  # columns, up to which rows are processed side by side: a tile has room for that many (order);
NARROW_HALVES = 256  # for 16-bit values, whose conversions take most of the time
SIDE_ROWS = 8  # least number of rows side by side;
SIDE_ROWS_FULL = 64  # if columns fill the lanes anyway: rows side by side then only save loop iterations
COLUMN_SAMPLES = 16  # rows that determine the reference for sums of dy: with a mean near 0 their signs differ (order);
COLUMN_SAMPLES_SPANNED = 4  # if the weights vary along m: those sums are not gradients, so the reference need not be 0
SUMMED_ROWS = 256  # rows that are summed in float32, STRIP at a time, before they are added in float64 (order)
SUMMED_COLUMNS = 512  # columns, of one sample or several, whose gradients a task sums in float32 (order)

# -- windows and scans --------------------------------------------------------------------------------------------

WINDOW_TILE = 8192  # values of a piece, whose sums stay in a level-2 cache;
WINDOW_ROWS = 4  # times what is worked on again beside it, at least
WINDOW_LINE = 1024  # values of a row that are not cut;
WINDOW_STRIP = 512  # of longer ones: runs that are fetched as they are read
POSITIONS = 256  # of a task, over whose channels there is a sum; parameters' gradients of as many are added up in
# float32 (order)
SCAN_SUMMED = 16  # steps, or vectors of them, whose parameters' gradients are added up in float32 (order)

# -- cells --------------------------------------------------------------------------------------------------------

CELL_PIECE = 32768  # values of a piece of a cell, and of a turn; of a whole number of lanes (order)
CELL_TURNS = 64  # most turns over rows, each of which has sums of its own for every column;
CELL_ROWS = 64  # least rows of a turn, beside which those sums take little time (order)

LARGEST_TURNS = 8  # turns that look for the largest deviations: in each, the first values of a channel are large; and
LARGEST_PART = 65536  # least values of a turn, beside which those take little time
LEVEL_VALUES = 1 << 17  # of a tile of columns that is read twice: half a level-2 cache of float32;
LEVEL_WIDTH = 128  # its columns, at least
LEVEL_STRIP = 4096  # values that are added up together, while as many are fetched: a third of a level-1 cache;
LEVEL_ROWS = 6  # their rows, at least

# -- tables of data -----------------------------------------------------------------------------------------------

TABLE_ROWS = 64  # rows of a strip that is read twice: a hundred float32 columns fit into a level-1 cache (order)
TABLE_COLUMNS = 512  # of a turn
TABLE_TURNS = 128  # of rescaling, some megabytes, that a thread takes one behind the other

# -- images -------------------------------------------------------------------------------------------------------

PIXEL_ROWS = 256  # vectors of a piece, beside each other's channels; no more, or sums of squares of bytes are inexact
OWN_IMAGES = 2  # images per thread, from which on each is summed and written by one thread

# -- threads and memory -------------------------------------------------------------------------------------------

ASSUMED_SPEED = 2e9  # values per second that a thread normalizes, as assumed until calls of the kernel were timed
TIMED_CALLS = 3  # calls that are timed
ALWAYS_SHARED = 1 << 20  # values, from which on threads are woken however long that takes
FOLDED_ON_THREADS = 1 << 17  # partial sums: adding fewer takes less time than waking threads, which takes up to 50 us
STACK_BYTES = 4096  # bytes of a workspace on the stack: allocating and freeing memory takes 40 ns
GATHERED_ROWS = 64  # rows per gathering task
