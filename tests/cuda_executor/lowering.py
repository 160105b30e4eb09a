"""From a Python kernel to LLVM IR that an x86-64 JIT accepts.

numba-cuda writes IR for NVVM's old LLVM: typed pointers, address spaces, `llvm.nvvm.*` intrinsics and PTX in inline
assembly. Everything here is a rewrite of that text, because llvmlite parses only the new syntax and cannot edit an IR
module. The rewrite is total or it fails: an intrinsic or an instruction of PTX that is not known raises `Unsupported`
with its name, for a kernel must never run with a silent hole in it.
"""

import contextlib
import re
import threading
import types as pytypes
import warnings
from dataclasses import dataclass

CC = (9, 0)  # the architecture that numba-cuda lowers for; nothing that we support differs between them
_compile_lock = threading.Lock()
_calls: dict = {}  # (function, types of arguments) -> signature
_typed: dict = {}  # numba-cuda takes most of the time, and checked mode or a dropped barrier change nothing for it


class Unsupported(NotImplementedError):
    """The kernel uses a piece of NVVM that the executor does not define."""


@dataclass
class Lowered:
    """IR of one kernel in opaque-pointer syntax, one text per module, with what the launcher has to know."""

    modules: list[str]
    entry: str  # name of the kernel's function
    static_shared: int  # bytes
    shared_arrays: list[tuple[int, int]]  # (offset, bytes) of each static shared array
    sites: list[str]  # the text of each barrier and warp operation; its index is the site number
    barriers: list[int]  # sites of the droppable barriers, in the order of the texts


@contextlib.contextmanager
def nothing_found_twice():
    """Numba looks at every overload of an operator or intrinsic wherever it is called: a quarter of its time with inlined
    kernels. What it finds depends on the types alone. And it analyses a function anew behind each pass that may change
    it, a seventh of the time, though those that need the analysis make their own."""
    from numba.core.types.functions import BaseFunction  # noqa: PLC0415
    from numba.cuda.core.compiler_machinery import PassManager  # noqa: PLC0415

    look, enforcing = BaseFunction.get_call_type, PassManager._ENFORCING

    def get_call_type(self, context, args, kws):
        key = self, args, tuple(kws.items())
        if key not in _calls:
            _calls[key] = look(self, context, args, kws)
        return _calls[key]

    BaseFunction.get_call_type, PassManager._ENFORCING = get_call_type, False
    try:
        yield
    finally:
        BaseFunction.get_call_type, PassManager._ENFORCING = look, enforcing


@contextlib.contextmanager
def on_device(compute_capability):
    """A device function asks the driver for the current device, of which numba-cuda wants to know this alone."""
    from numba.cuda import dispatcher  # noqa: PLC0415

    current = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: pytypes.SimpleNamespace(compute_capability=compute_capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = current


def kernel_ir(kernel, signature) -> tuple[list[str], str]:
    """The typed IR that numba-cuda would hand to NVVM, and the kernel's mangled name. Private names of numba-cuda 0.30."""
    from numba.cuda import compiler  # noqa: PLC0415  (optional at import time)
    from numba.cuda.cudadrv import nvvm  # noqa: PLC0415

    function = getattr(kernel, "py_func", kernel)
    if (function, str(signature)) in _typed:
        return _typed[function, str(signature)]
    options = getattr(kernel, "targetoptions", None) or {}
    with _compile_lock, on_device(CC), nothing_found_twice(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lines of a function without a source file
        library, _ = compiler._compile_pyfunc_with_fixup(
            function,
            signature,
            debug=False,
            lineinfo=True,
            device=False,
            fastmath=options.get("fastmath", False) or False,
            cc=CC,
            opt=True,
            abi="numba",
            abi_info=None,
            forceinline=False,
            launch_bounds=None,
            lto=False,
        )
        texts = _in_order(*library.llvm_strs)
    # the templates of numba-cuda's own atomics (compare-and-swap loops) come in through its replacement step
    found = [nvvm.llvm_replace(text) for text in texts], library._entry_name
    _typed[function, str(signature)] = found
    return found


def _in_order(own, *called):
    """The kernel's module, and each other behind what calls it first: numba-cuda has them in a set."""
    defines = {name: text for text in called for name in re.findall(r'^define .*?@"([^"]+)"', text, re.M)}
    order = [own]
    for text in order:  # it grows meanwhile
        for name in re.findall(r'@"([^"]+)"', text):
            if (found := defines.get(name, own)) not in order:
                order.append(found)
    return order


class Lines:
    """Names source lines by the `!dbg` of an instruction.

    Numba inlines functions before it lowers, and their lines then look as if they were the kernel's file's: a line out
    of the kernel's range is called inlined, for its file is unknown.
    """

    def __init__(self, text: str, function):
        self.lines = {n: int(line) for n, line in re.findall(r"^!(\d+) = .*!DILocation\(.*?\bline: (\d+)", text, re.M)}
        code = function.__code__
        self.first, self.last = code.co_firstlineno, max(line or 0 for _, _, line in code.co_lines())
        self.file = code.co_filename.rpartition("/")[2]

    def of(self, instruction: str) -> str:
        """` in file.py:12`, or nothing where the line is unknown."""
        match = re.search(r"!dbg !(\d+)", instruction)
        line = self.lines.get(match[1]) if match else None
        if not line:
            return ""
        inside = self.first <= line <= self.last
        return f" in {self.file}:{line}" if inside else f" in line {line} of an inlined function"


def opaque(line: str) -> str:
    """Replace every pointer type of a line by `ptr`.

    >>> opaque('%"a" = load {i8*, [2 x i64]*}, {i8*, [2 x i64]*}* %"b"')
    '%"a" = load {ptr, ptr}, ptr %"b"'
    >>> opaque('bitcast (void (i8*, {i32, i1}*)* @"f*" to i8*)')
    'bitcast (ptr @"f*" to ptr)'
    """
    if "*" not in line:
        return line
    quoted: list[str] = []

    def hide(match):
        quoted.append(match.group())
        return f"\0{len(quoted) - 1}\0"

    text = re.sub(r'"[^"]*"', hide, line)
    while (star := text.find("*")) >= 0:
        start = _type_start(text, star)
        text = text[:start] + "ptr" + text[star + 1 :]
    return re.sub("\0(\\d+)\0", lambda m: quoted[int(m.group(1))], text)


def _type_start(text: str, end: int) -> int:
    """Where the type that ends before `end` begins."""
    space = re.search(r" addrspace\(\d+\)$", text[:end])
    if space:
        end = space.start()
    last = text[end - 1]
    if last in "]}>)":
        opening = {"]": "[", "}": "{", ">": "<", ")": "("}[last]
        depth, i = 0, end
        while True:
            i -= 1
            depth += (text[i] == last) - (text[i] == opening)
            if depth == 0:
                break
        return _type_start(text, i - 1) if last == ")" else i  # a function type starts at its result
    i = end
    while i and (text[i - 1].isalnum() or text[i - 1] in '_.%"\0'):
        i -= 1
    return i


# PTX in inline assembly: pattern of its text, name of the host function
_ASM = [
    (r"cvt\.(f32|f64)\.f16 ", r"nz.cvt.\1.f16"),
    (r"cvt\.rn\.f16\.(f32|f64) ", r"nz.cvt.f16.\1"),
    (r"activemask\.b32", "nz.activemask"),
    (r"mov\.u32 \$0, %dynamic_smem_size", "nz.dynamic.size"),
    (r"mov\.u32 \$0, %lanemask_(lt|le|gt|ge|eq)", r"nz.lanemask.\1"),
    (r"ld\.global\.(?:ca|cg|cs|lu|cv|nc)\.[bfu](\d+)", r"nz.ld.\1"),
    (r"st\.global\.(?:cg|cs|wb|wt)\.[bfu](\d+)", r"nz.st.\1"),
]

_SYNC = re.compile(
    r'call (?P<ret>[^@]+?) @"?llvm\.nvvm\.(?P<name>barrier0(?:\.\w+)?|barrier\.sync|barrier\.cta\.sync[\w.]*|'
    r'bar\.warp\.sync|vote[\w.]*|shfl[\w.]*|match[\w.]*|redux[\w.]*)"?\((?P<args>.*)\)'
)
_SMEM = re.compile(
    r'^@"?(?P<name>[\w.$]+)"? = .*addrspace\(3\) global (?P<type>\[.*?\]|\w+)(?P<init> [^,]*)?(?:, align (?P<align>\d+))?'
)


_SMEM_USE = re.compile(r'addrspacecast .*? addrspace\(3\)\s*\* @"?(?P<name>[\w.$]+)"? to [^,)]*\*')


def _asm(line: str) -> str:
    match = re.search(r'asm\s+(?:sideeffect\s+)?"(?P<text>[^"]*)",\s*"[^"]*"', line)
    if match is None:
        return line
    for pattern, template in _ASM:
        found = re.match(pattern, match["text"])
        if found:
            name = found.expand(template)
            result = re.search(r"call (\w+) asm", line)
            if name.startswith("nz.ld.") and result:
                name += "." + result[1]
            if name.startswith("nz.st."):
                name += "." + re.search(r", (\w+) [^,]*\)", line[match.end() :])[1]
            return line[: match.start()] + f'@"{name}"' + line[match.end() :]
    raise Unsupported(f"inline assembly: {match['text']}")


def _size(type_: str) -> int:
    """Bytes of an LLVM type without padding rules: scalars and arrays of them, as shared arrays have."""
    array = re.fullmatch(r"\[(\d+) x (.*)\]", type_)
    if array:
        return int(array[1]) * _size(array[2])
    vector = re.fullmatch(r"<(\d+) x (.*)>", type_)
    if vector:
        return int(vector[1]) * _size(vector[2])
    if type_.startswith("i"):
        return (int(type_[1:]) + 7) // 8
    return {"half": 2, "bfloat": 2, "float": 4, "double": 8, "ptr": 8}[type_]


def lower(kernel, signature, drop_barrier=None) -> Lowered:
    """Rewrite a kernel's IR for the host; `drop_barrier=k` leaves its k-th `syncthreads` out."""
    texts, entry = kernel_ir(kernel, signature)
    sites: list[str] = []
    barriers: list[int] = []
    shared: dict[str, int] = {}
    arrays: list[tuple[int, int]] = []
    top = 0
    modules = []
    for text in texts:  # shared arrays first: uses come before definitions
        for line in text.splitlines():
            match = _SMEM.match(line)
            if match and match["name"] not in shared:
                type_ = opaque(match["type"])
                size = _size(type_)
                if size == 0:
                    shared[match["name"]] = -1  # dynamic
                    continue
                align = max(int(match["align"] or 1), 16)
                top = -(-top // align) * align
                shared[match["name"]] = top
                arrays.append((top, size))
                top += size + 64  # a gap, so that an index past one array does not land in the next unseen

    def smem(match):
        offset = shared[match["name"]]
        return 'call ptr @"nz.shared.dynamic"()' if offset < 0 else f'call ptr @"nz.shared.static"(i64 {offset})'

    for text in texts:
        lines = Lines(text, getattr(kernel, "py_func", kernel))
        out = []
        for raw in text.splitlines():
            if raw.startswith(("target ", "!nvvm", '@"llvm.used"', "attributes", "@llvm.used")) or _SMEM.match(raw):
                continue
            line = _SMEM_USE.sub(smem, raw) if "addrspace(3)" in raw else raw
            line = opaque(line)
            line = re.sub(r" addrspace\(\d+\)", "", line).replace("addrspacecast ptr", "bitcast ptr")
            if " asm " in line:
                line = _asm(line)
            match = _SYNC.search(line)
            if match:
                name = match["name"]
                if name in ("barrier0", "barrier.sync") or name.startswith("barrier.cta.sync"):
                    if drop_barrier != len(barriers):
                        out.append(line[: match.start()] + f'call void @"nz.barrier0"(i32 {len(sites)})')
                    barriers.append(len(sites))
                    sites.append(f"barrier {len(barriers) - 1}{lines.of(line)}")
                    continue
                sites.append(f"{name} #{len(sites)}{lines.of(line)}")
                args = f"{match['args']}, i32 {len(sites) - 1}" if match["args"] else f"i32 {len(sites) - 1}"
                line = line[: match.start()] + f'call {match["ret"]} @"nz.{name}"({args})' + line[match.end() :]
            line = re.sub(r'@"?llvm\.nvvm\.([\w.]+)"?', r'@"nz.\1"', line)
            if line.startswith("declare") and ('@"nz.' in line or '@"__nv_' in line):
                continue  # the runtime defines or declares them
            if line.startswith("define"):
                line = re.sub(r"\)\s*(?:#\d+|alwaysinline|noinline|\s)*((?:!dbg !\d+\s*)?\{?)\s*$", r") #0 \1", line)
            out.append(re.sub(r"\) #[1-9]\d*$", ")", line))
        out.append('attributes #0 = { convergent nounwind alwaysinline "no-builtins" }')
        modules.append("\n".join(out))
    if drop_barrier is not None and drop_barrier >= len(barriers):
        raise ValueError(f"drop_barrier={drop_barrier}: the kernel has {len(barriers)} barriers")
    return Lowered(modules, entry, top, arrays, sites, barriers)
