"""Puts a call before each access to memory of an optimized kernel: it records the access and keeps it in bounds.

Done on the text, after optimization: what is counted is what a compiler leaves over. `nz.check` answers with the
address to use, which is the address itself, or that of a scratch page where the access is in no buffer, so that a
wrong kernel cannot bring the process down. Accesses to a thread's own stack and to constants of the module are left
alone.
"""

import re
from dataclasses import dataclass

from . import runtime_ir as rt
from .lowering import Lines, Unsupported, _size

READ, WRITE, UPDATE, VOLATILE_READ, VOLATILE_WRITE = range(5)  # of the last three, none races with another
SCRATCH = 4096


@dataclass(frozen=True)
class Access:
    """A load or a store of the kernel."""

    kind: int
    type: str
    size: int
    align: int
    place: str = ""

    def __str__(self):
        name = ("load", "store", "atomic update", "volatile load", "volatile store")[self.kind]
        return f"{name} of {self.type}, align {self.align}{self.place}"


_LOAD = re.compile(r"^(\s+%\S+ = load )(atomic |volatile )*(?P<type>[^,]+), ptr (?P<ptr>%[^,\s]+)(?P<rest>.*)$")
_STORE = re.compile(
    r"^(\s+store )(?P<v>atomic |volatile )*(?P<value>.*), ptr (?P<ptr>%[^,\s]+)(?P<rest>(?: monotonic| seq_cst| release)?, align .*)$"
)
_RMW = re.compile(r"^(\s+%\S+ = atomicrmw (?:volatile )?\w+ )ptr (?P<ptr>%[^,\s]+), (?P<type>\w+) (?P<rest>.*)$")
_XCHG = re.compile(r"^(\s+%\S+ = cmpxchg (?:weak )?(?:volatile )?)ptr (?P<ptr>%[^,\s]+), (?P<type>\w+) (?P<rest>.*)$")
_OWN = re.compile(r"^\s+(%\S+) = (?:alloca|(?:getelementptr|bitcast)\b.*?ptr (%[^,\s]+|@[^,\s]+))")
_ALIGN = re.compile(r", align (\d+)")
_TYPE = re.compile(r"^(<[^>]*>|\[[^\]]*\]|\w+) ")


def instrument(text: str, lines: Lines) -> tuple[str, list[Access]]:
    """The text with checks, and the accesses that they number."""
    accesses: list[Access] = []
    own: set[str] = set()
    out: list[str] = []
    for line in text.splitlines():
        if line.startswith("define"):
            own = set()
        match = _OWN.match(line)
        if match and (match[2] is None or match[2].startswith("@") or match[2] in own):
            own.add(match[1])
        if re.search(r"@llvm\.mem(cpy|move|set)\.", line) and line.startswith("  "):
            pointers = re.findall(r"ptr (?:[a-z]\S*(?: \d+)? )*(%[\w.\"]+)", line)
            if any(p not in own for p in pointers):
                raise Unsupported(f"checked mode does not follow: {line.strip()}")
        kind = type_ = None
        if match := _LOAD.match(line):
            kind, type_ = (VOLATILE_READ if match[2] else READ), match["type"]
        elif match := _STORE.match(line):
            kind, type_ = (VOLATILE_WRITE if match["v"] else WRITE), _TYPE.match(match["value"])[1]
        elif match := _RMW.match(line) or _XCHG.match(line):
            kind, type_ = UPDATE, match["type"]
        if kind is None or match["ptr"] in own:
            out.append(line)
            continue
        size = _size(type_)
        align = _ALIGN.search(line)
        site = len(accesses)
        accesses.append(Access(kind, type_, size, int(align[1]) if align else size, lines.of(line)))
        packed = site << 24 | size << 8 | kind
        out.append(f'  %nz.p{site} = call ptr @"nz.check"(ptr {match["ptr"]}, i64 {packed})')
        start, end = match.span("ptr")
        checked = line[:start] + f"%nz.p{site}" + line[end:]
        out.append(_ALIGN.sub(", align 1", checked, count=1) if kind in (READ, WRITE) else checked)
    return "\n".join(out), accesses


def _check() -> str:
    load = lambda name, i: f"  %{name} = load i64, {rt.word(i)}"  # noqa: E731
    reads = (
        ("lo", rt.STACK_LO), ("hi", rt.STACK_HI), ("n", rt.COUNT), ("cap", rt.CAPACITY), ("trace", rt.TRACE),
        ("block", rt.BLOCK), ("thread", rt.THREAD), ("epoch", rt.EPOCH), ("wepoch", rt.WARP_EPOCH), ("slo", rt.SHARED),
        ("shi", rt.SHARED_END), ("nbuf", rt.N_BUFFERS), ("table", rt.BUFFERS), ("dummy", rt.DUMMY),
    )  # fmt: skip
    loads = "\n".join(load(*r) for r in reads)
    return f"""define ptr @"nz.check"(ptr %p, i64 %packed) nounwind noinline {{
entry:
  %a = ptrtoint ptr %p to i64
  %s0 = lshr i64 %packed, 8
  %size = and i64 %s0, 65535
  %end = add i64 %a, %size
{loads}
  %c0 = icmp uge i64 %a, %lo
  %c1 = icmp ult i64 %a, %hi
  %stack = and i1 %c0, %c1
  br i1 %stack, label %good, label %record
record:
  %n1 = add i64 %n, 1
  store i64 %n1, {rt.word(rt.COUNT)}
  %room = icmp ult i64 %n, %cap
  br i1 %room, label %keep, label %full
full:
  %never = call i64 @"nz.yield"(i64 {rt.ABORT}, i64 0, i64 0, i64 0, i64 0, i64 0)
  br label %where
keep:
  %o = shl i64 %n, 5
  %e = add i64 %trace, %o
  %e0 = inttoptr i64 %e to ptr
  %e1 = getelementptr i8, ptr %e0, i64 8
  %e2 = getelementptr i8, ptr %e0, i64 16
  %e3 = getelementptr i8, ptr %e0, i64 24
  %b10 = shl i64 %block, 10
  %who = or i64 %b10, %thread
  %ep = shl i64 %epoch, 32
  %when = or i64 %ep, %wepoch
  store i64 %a, ptr %e0
  store i64 %who, ptr %e1
  store i64 %packed, ptr %e2
  store i64 %when, ptr %e3
  br label %where
where:
  %d0 = icmp uge i64 %a, %slo
  %d1 = icmp ule i64 %end, %shi
  %inshared = and i1 %d0, %d1
  br i1 %inshared, label %good, label %loop
loop:
  %i = phi i64 [ 0, %where ], [ %i1, %next ]
  %more = icmp ult i64 %i, %nbuf
  br i1 %more, label %look, label %bad
look:
  %q = shl i64 %i, 4
  %t = add i64 %table, %q
  %t0 = inttoptr i64 %t to ptr
  %t1 = getelementptr i8, ptr %t0, i64 8
  %l = load i64, ptr %t0
  %h = load i64, ptr %t1
  %f0 = icmp uge i64 %a, %l
  %f1 = icmp ule i64 %end, %h
  %in = and i1 %f0, %f1
  br i1 %in, label %good, label %next
next:
  %i1 = add i64 %i, 1
  br label %loop
good:
  ret ptr %p
bad:
  %d = inttoptr i64 %dummy to ptr
  ret ptr %d
}}
"""


CHECK = _check()
