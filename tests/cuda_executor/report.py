"""What a launch reports: findings in words, and counts of the traffic."""

from dataclasses import dataclass, field

from . import analysis, scheduler


class ExecutorError(AssertionError):
    """A launch with findings, or one that cannot go on. `findings` has them."""

    def __init__(self, message: str, findings=()):
        super().__init__(message)
        self.findings = list(findings)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its kind (one of `KINDS`), what, who did it and where."""

    kind: str
    message: str
    block: int
    thread: int
    site: str

    def __str__(self):
        return f"{self.kind}: {self.message} (block {self.block}, thread {self.thread}, at {self.site})"


@dataclass
class Traffic:
    """Global memory of one buffer, or of all: requests are instructions of warps, sectors pieces of 32 bytes.

    A sector is counted three ways, for reads and for writes apart. Once a request: what warps ask the first-level cache
    for. Once a block: what blocks ask the rest of the device for, where a block's own cache answers it a second time.
    Once a launch: the least that memory has to move, where the second-level cache answers a second block too. A row
    that begins within a sector shares that one with the row before, and a warp whose 128 bytes begin there asks for
    five sectors instead of four: such requests cost the first-level cache more, and memory nothing. Only bytes say
    whether a kernel reads twice what it needs once.
    """

    read_requests: int = 0
    write_requests: int = 0
    read_sectors: int = 0
    write_sectors: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    block_sectors: int = 0
    unique_read: int = 0  # bytes, each counted once
    unique_written: int = 0
    launch_sectors: int = 0

    @property
    def requests(self) -> int:
        """Instructions, counted once a warp."""
        return self.read_requests + self.write_requests

    @property
    def sectors(self) -> int:
        """Of 32 bytes, counted once a request."""
        return self.read_sectors + self.write_sectors

    def ratio(self, ideal_bytes: int | None = None, once_a: str = "request") -> float:
        """Bytes moved, in whole sectors, over the ideal: by default every byte that was touched moved once.

        Args:
            once_a: "request", "block" or "launch", in which a sector counts once.
        """
        sectors = {"request": self.sectors, "block": self.block_sectors, "launch": self.launch_sectors}[once_a]
        return 32 * sectors / (ideal_bytes or self.unique_read + self.unique_written)

    def repeats(self) -> float:
        """Bytes that threads asked for over bytes touched: 1.00 where nothing is read or written twice."""
        return (self.bytes_read + self.bytes_written) / (self.unique_read + self.unique_written)


@dataclass
class Report(Traffic):
    """What a launch did; all but the findings of barriers and warps needs checked mode."""

    findings: list[Finding] = field(default_factory=list)
    buffers: dict[int, Traffic] = field(default_factory=dict)  # by the address of `alloc`
    widths_read: dict[int, int] = field(default_factory=dict)  # bytes of an access: how many (one a thread)
    widths_written: dict[int, int] = field(default_factory=dict)

    def of(self, *addresses: int) -> Traffic:
        """The traffic of some buffers: weights, say, are read again for each row, and from a cache."""
        total = Traffic()
        for address in addresses:
            for name, value in vars(self.buffers[address]).items():
                setattr(total, name, getattr(total, name) + value)
        return total

    def kinds(self) -> set[str]:
        """The kinds of the findings."""
        return {f.kind for f in self.findings}


KINDS = {
    scheduler.SITES_DIFFER: "divergent barrier",
    scheduler.EXITED_EARLY: "divergent barrier",
    scheduler.NOT_IN_MASK: "lane not in mask",
    scheduler.LANE_MISSING: "missing lanes",
    scheduler.READS_INACTIVE: "inactive lane",
    scheduler.OTHER_OPERATION: "divergent warp",
    analysis.OUTSIDE: "out of bounds",
    analysis.OUTSIDE_SHARED: "out of bounds shared",
    analysis.MISALIGNED: "misaligned",
    analysis.RACE: "race",
    analysis.RACE_SHARED: "race shared",
    analysis.BLOCKS: "blocks",
    analysis.UNWRITTEN: "uninitialized",
    analysis.UNWRITTEN_SHARED: "uninitialized shared",
}


def _lanes(mask: int) -> str:
    return ", ".join(str(i) for i in range(32) if mask >> i & 1) or "none"


def describe(row, sites, accesses, buffers) -> Finding:
    """The words for a row of the findings' table; `buffers` are in the order of the table."""
    code, block, thread, site, x, y = (int(v) for v in row)
    where = str(accesses[site]) if code >= analysis.OUTSIDE else sites[site]
    other = f"block {x >> 10}, thread {x & 1023}"

    def place(packed):
        return f"byte {packed & (1 << 40) - 1} of the buffer at {buffers[packed >> 40].address:#x}"

    def outside():
        near = [b for b in buffers if -65536 < x - b.address < b.nbytes + 65536]
        at = [f"byte {x - b.address} of the buffer of {b.nbytes} bytes at {b.address:#x}" for b in near]
        return f"address {x:#x} is in no buffer" + (", it would be " + " or ".join(at) if at else "")

    message = {
        scheduler.SITES_DIFFER: lambda: f"thread {y} waits at another: {sites[x]}",
        scheduler.EXITED_EARLY: lambda: f"the thread has exited, thread {x} and others wait",
        scheduler.NOT_IN_MASK: lambda: f"the lane calls with mask {x & 0xFFFFFFFF:#010x}, which lacks it",
        scheduler.LANE_MISSING: lambda: (
            f"lanes of the mask that do not come: {_lanes(x)}; that exited or do not exist: {_lanes(y)}"
        ),
        scheduler.READS_INACTIVE: lambda: f"reads lane {x}, which takes no part (mask {y & 0xFFFFFFFF:#010x})",
        scheduler.OTHER_OPERATION: lambda: f"other lanes of the mask are at {sites[x]}",
        analysis.OUTSIDE: outside,
        analysis.OUTSIDE_SHARED: lambda: f"byte {x} of shared memory is in no array",
        analysis.MISALIGNED: lambda: f"address {x:#x} is no multiple of {y}",
        analysis.RACE: lambda: f"{place(y)}: no barrier after the access of thread {x & 1023}",
        analysis.RACE_SHARED: lambda: f"byte {y} of shared memory: no barrier after the access of thread {x & 1023}",
        analysis.BLOCKS: lambda: f"{place(y)}: {other} accesses it in the same launch",
        analysis.UNWRITTEN: lambda: f"byte {y} of the buffer at {buffers[x].address:#x} was never written",
        analysis.UNWRITTEN_SHARED: lambda: f"byte {x} of shared memory was not written by this block",
    }[code]()
    return Finding(KINDS[code], message, block, thread, where)
