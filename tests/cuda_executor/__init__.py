"""Runs numba-cuda kernels on the CPU, on a machine with neither device nor driver, and says what is wrong with them.

    ex = Executor(schedule=("random", 7), checked=True)
    x, y = ex.alloc(4096), ex.alloc(4096)                 # addresses, as a driver gives them
    ex.write(x, values)
    report = ex.launch(kernel, void(CPointer(float32), CPointer(float32), int32), grid=4, block=64, args=(x, y, 1024))
    result = ex.array(y, 1024, np.float32)

How it works
------------
`lowering` asks numba-cuda for the typed LLVM IR that it would hand to NVVM, so what runs is what a device would
compile, not the Python source. The text is rewritten for the LLVM of llvmlite: typed pointers become opaque, address
spaces go, NVVM's intrinsics, libdevice's functions and PTX in inline assembly become calls of host functions
(`runtime_ir`). What has no host definition raises `Unsupported`. `build` optimizes without vectorization and compiles
for x86-64, once a process and kernel.

Each CUDA thread is a fiber with a stack of its own; `scheduler`, compiled by Numba, runs the threads of a block one
after another, each until it needs others: a barrier opens when all threads that have not exited are there, a shuffle
or vote when the lanes of its mask are. Blocks run one after another. The schedule orders blocks, and threads between
barriers: in order, reversed, or random, anew whenever all have run. Shared memory starts as NaN, device memory too.

Checked mode (`instrument`, `analysis`) calls a function before each load, store and atomic update that is left after
optimization. It turns an access outside of every buffer away to a scratch page, and writes a trace, which is read
against shadow memory. Findings raise `ExecutorError`, or, with `ex.collect = True`, are in the report:

    out of bounds, out of bounds shared     in no buffer of `alloc`; in no shared array (there are gaps between them)
    misaligned                              for the width that the IR states
    race, race shared                       of two threads of a block: no barrier (in a warp, no `syncwarp`) between
    blocks                                  of two blocks on one word, where one at least writes
    uninitialized, uninitialized shared     neither a kernel nor `ex.write` (or `mark_written`) has written there
    divergent barrier                       threads at different barriers, or some have exited
    missing lanes, lane not in mask         lanes of the mask that wait elsewhere, have exited or do not exist
    inactive lane                           a shuffle reads a lane that takes no part; it gets a NaN
    divergent warp                          one mask, two operations

The findings on barriers and warps are made, and raise, without checked mode too; so does a write into the guard zones
around buffers.

The counters: a *request* is one execution of one memory instruction by a warp (the i-th execution of each lane), a
*sector* one of the 32-byte pieces that it touches. `Report.ratio()` is bytes moved in sectors over bytes touched,
`repeats()` is bytes asked for over bytes touched; both are 1.00 where each value is read or written once, in whole
sectors. `ratio(once_a="block")` and `ratio(once_a="launch")` count a sector again only where another block, or
nobody, asks for it: what is left for the second-level cache, and for memory, to move (see `Traffic`).

`drop_barrier=k` leaves the k-th `syncthreads` of the program's text out: what a test finds then shows that it could.

What it does not model
----------------------
Time, occupancy and caches: whether a sector is still there when another request or block wants it. Weak memory: a thread sees what others
wrote at once, so a missing fence is not seen (a missing barrier is). Threads that wait for others in a loop, blocks
that wait for blocks, clusters and grid-wide barriers: they hang. NVVM's own decisions: it contracts a*b + c to fma
and may order loads otherwise; libdevice's approximations are exact here, and registers, spills and widths of
instructions have to be looked up in machine code. Local arrays are not checked. `activemask` is every lane that has
not exited. Races are looked for by pairs of bytes
at least, so that neighbouring bytes of a byte array count as one. A lane
that skips a turn of a loop shifts its later requests by one. An index that goes astray by more than the guard zone
(64 KiB) can land in another buffer unseen.
"""

from .executor import Executor, unavailable
from .lowering import Unsupported
from .report import ExecutorError, Finding, Report, Traffic

__all__ = ["Executor", "ExecutorError", "Finding", "Report", "Traffic", "Unsupported", "unavailable"]
