"""Host definitions, in LLVM IR, of what NVVM and libdevice provide to a kernel.

Two kinds. *Early* functions (math, atomics, conversions) are linked and inlined before optimization, so that the
accesses inside them are instrumented like the kernel's own. *Late* functions (thread indices, barriers, warp
operations) stay opaque during optimization: an index reads no memory as far as LLVM knows and is computed once, and a
barrier may change anything. They read the state of the running thread from `STATE`, a block of words at an address
fixed for the process.

Everything that must wait for other threads goes through one function, `nz.yield`: it leaves a request in the state
and switches to the scheduler's stack; when the scheduler switches back the result is in the state.
"""

import ctypes
import mmap
import re

import numpy as np

from .lowering import Unsupported

# words of the state -----------------------------------------------------------------------------------------------
SCHED_SP, FIBER_SP, KIND, SITE, MASK, VALUE, B, C, RESULT, KEEP = range(10)
TID, CTAID, NTID, NCTAID = 10, 13, 16, 19  # three words each
THREAD, BLOCK, ALIVE, SHARED, SHARED_END, DYNAMIC, DYNAMIC_BYTES, ENTRY, ARGS = range(22, 31)
TRACE, COUNT, CAPACITY, EPOCH, WARP_EPOCH, STACK_LO, STACK_HI, BUFFERS, N_BUFFERS, DUMMY, LIMIT = range(31, 42)
STATE_WORDS = 64
HOME = 0x6E7A00000000  # where it lies if that is free, so that compiled code can be kept (`kept`)


def _words_at_home() -> np.ndarray:
    """A page of zeros at `HOME`, or wherever the system has one."""
    map_ = ctypes.CDLL(None, use_errno=True).mmap
    map_.restype, map_.argtypes = ctypes.c_void_p, [ctypes.c_void_p, *(ctypes.c_long,) * 5]
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = map_(HOME, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, kind, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap")
    return np.frombuffer((ctypes.c_int64 * STATE_WORDS).from_address(address), np.int64)


STATE = _words_at_home()

# kinds of request
DONE, BARRIER, WARP_SYNC, SHUFFLE, VOTE, MATCH, ABORT = range(7)


def word(i: int) -> str:
    """The address of a word of the state, as an IR constant."""
    return f"ptr inttoptr (i64 {STATE.ctypes.data + 8 * i} to ptr)"


SWITCH = "\n".join(
    ['target triple = "x86_64-unknown-linux-gnu"', 'module asm ".text"', 'module asm ".globl nz_switch"']
    + [
        f'module asm "{line}"'
        for line in (
            "nz_switch:  # (rdi: where to keep the stack pointer, rsi: stack to go to)",
            *(f"  pushq %{r}" for r in ("rbp", "rbx", "r12", "r13", "r14", "r15")),
            "  movq %rsp, (%rdi)",
            "  movq %rsi, %rsp",
            *(f"  popq %{r}" for r in ("r15", "r14", "r13", "r12", "rbx", "rbp")),
            "  retq",
        )
    ]
    + ["declare void @nz_switch(ptr, i64)", "define ptr @nz_switch_address() { ret ptr @nz_switch }"]
)


def _yield(kind, site, mask="-1", value="0", b="0", c="0") -> str:
    return f'call i64 @"nz.yield"(i64 {kind}, i64 {site}, i64 {mask}, i64 {value}, i64 {b}, i64 {c})'


def _late() -> str:
    out = ["declare void @nz_switch(ptr, i64)"]
    words = ("i64 %kind", "i64 %site", "i64 %mask", "i64 %value", "i64 %b", "i64 %c")
    stores = "\n".join(f"  store {w}, {word(KIND + i)}" for i, w in enumerate(words))
    out.append(f"""define i64 @"nz.yield"({", ".join(words)}) #1 {{
{stores}
  %sp = load i64, {word(SCHED_SP)}
  call void @nz_switch({word(FIBER_SP)}, i64 %sp)
  %r = load i64, {word(RESULT)}
  ret i64 %r
}}""")
    for axis, letter in enumerate("xyz"):
        for name, base in (("tid", TID), ("ctaid", CTAID), ("ntid", NTID), ("nctaid", NCTAID)):
            out.append(_register(f"read.ptx.sreg.{name}.{letter}", f"%r = load i32, {word(base + axis)}"))
    out.append(_register("read.ptx.sreg.warpsize", "%r = add i32 32, 0"))
    lane = f"%t = load i32, {word(THREAD)}\n  %lane = and i32 %t, 31\n  "
    out.append(_register("read.ptx.sreg.laneid", lane + "%r = add i32 %lane, 0"))
    bit = lane + "%eq = shl i32 1, %lane\n  %lt = sub i32 %eq, 1\n  %le = or i32 %lt, %eq\n  "
    for name, body in (
        ("eq", "%r = or i32 %eq, 0"),
        ("lt", "%r = or i32 %lt, 0"),
        ("le", "%r = or i32 %le, 0"),
        ("gt", "%r = xor i32 %le, -1"),
        ("ge", "%r = xor i32 %lt, -1"),
    ):
        out.append(_register(f"lanemask.{name}", bit + body))
    out.append(_register("dynamic.size", f"%r = load i32, {word(DYNAMIC_BYTES)}"))
    out.append(f"""define i32 @"nz.activemask"() #1 {{
  %r = load i32, {word(ALIVE)}
  ret i32 %r
}}
define ptr @"nz.shared.dynamic"() #2 {{
  %r = load ptr, {word(DYNAMIC)}
  ret ptr %r
}}
define ptr @"nz.shared.static"(i64 %offset) #2 {{
  %base = load ptr, {word(SHARED)}
  %r = getelementptr i8, ptr %base, i64 %offset
  ret ptr %r
}}""")
    for fence in ("gl", "cta", "sys"):
        out.append(f'define void @"nz.membar.{fence}"() #1 {{\n  ret void\n}}')
    out.append(f"""define void @"nz.barrier0"(i32 %site) #1 {{
  %s = zext i32 %site to i64
  %r = {_yield(BARRIER, "%s")}
  ret void
}}
define void @"nz.bar.warp.sync"(i32 %mask, i32 %site) #1 {{
  %s = zext i32 %site to i64
  %m = zext i32 %mask to i64
  %r = {_yield(WARP_SYNC, "%s", "%m")}
  ret void
}}""")
    for mode, name in enumerate(("popc", "and", "or"), 1):
        out.append(f"""define i32 @"nz.barrier0.{name}"(i32 %p, i32 %site) #1 {{
  %s = zext i32 %site to i64
  %c = icmp ne i32 %p, 0
  %v = zext i1 %c to i64
  %r = {_yield(BARRIER, "%s", "-1", "%v", str(mode))}
  %t = trunc i64 %r to i32
  ret i32 %t
}}""")
    out.append(_warp("shfl.sync.i32", "i32 %mask, i32 %mode, i32 %value, i32 %b, i32 %c", SHUFFLE, "pair"))
    for mode, name in enumerate(("idx", "up", "down", "bfly")):
        for type_ in ("i32", "f32"):
            value = "i32 %value" if type_ == "i32" else "float %fvalue"
            args = f"i32 %mask, {value}, i32 %b, i32 %c"
            out.append(_warp(f"shfl.sync.{name}.{type_}", args, SHUFFLE, type_, mode))
    out.append(_warp("vote.sync", "i32 %mask, i32 %mode, i1 %p", VOTE, "pair"))
    for mode, name in enumerate(("all", "any", "uni", "ballot")):
        out.append(_warp(f"vote.{name}.sync", "i32 %mask, i1 %p", VOTE, "i32" if mode == 3 else "i1", mode))
    out.append(_warp("match.any.sync.i32", "i32 %mask, i32 %value", MATCH, "i32", 0))
    # first function of every fiber: run the kernel, then say so for ever
    out.append(f"""declare void @nz_thread(ptr)
define void @nz_start() #1 {{
  %args = load ptr, {word(ARGS)}
  call void @nz_thread(ptr %args)
  br label %again
again:
  %r = {_yield(DONE, "0")}
  br label %again
}}
define i64 @nz_start_address() {{
  ret i64 ptrtoint (ptr @nz_start to i64)
}}""")
    out.append('attributes #1 = { convergent nounwind noinline "no-builtins" }')
    out.append('attributes #2 = { nounwind noinline willreturn memory(none) "no-builtins" }')
    return "\n".join(out)


def _register(name: str, body: str) -> str:
    return f'define i32 @"nz.{name}"() #2 {{\n  {body}\n  ret i32 %r\n}}'


def _warp(name: str, args: str, kind: int, result: str, mode: int | None = None) -> str:
    """A warp operation: arguments to 64 bits, one yield, low word and predicate of the result."""
    lines = ["%s = zext i32 %site to i64", "%m = zext i32 %mask to i64"]
    if "%fvalue" in args:
        lines.append("%value = bitcast float %fvalue to i32")
    if "%p" in args:
        lines.append("%v = zext i1 %p to i64")
    else:
        lines.append("%v = zext i32 %value to i64")
    lines.append("%bb = zext i32 %b to i64" if "%b," in args else "%bb = add i64 0, 0")
    lines.append("%c0 = zext i32 %c to i64" if "%c" in args else "%c0 = add i64 0, 0")
    lines.append("%mm = zext i32 %mode to i64" if mode is None else f"%mm = add i64 {mode}, 0")
    lines += ["%ms = shl i64 %mm, 16", "%cc = or i64 %c0, %ms"]
    lines.append(f"%r = {_yield(kind, '%s', '%m', '%v', '%bb', '%cc')}")
    lines += ["%lo = trunc i64 %r to i32", "%h = lshr i64 %r, 32", "%hi = trunc i64 %h to i1"]
    if result == "pair":
        type_ = "{i32, i1}"
        lines += ["%x = insertvalue {i32, i1} undef, i32 %lo, 0", "%y = insertvalue {i32, i1} %x, i1 %hi, 1"]
        lines.append("ret {i32, i1} %y")
    elif result == "f32":
        type_ = "float"
        lines += ["%f = bitcast i32 %lo to float", "ret float %f"]
    else:
        type_ = result
        lines.append("ret i32 %lo" if result == "i32" else "ret i1 %hi")
    body = "\n  ".join(lines)
    return f'define {type_} @"nz.{name}"({args}, i32 %site) #1 {{\n  {body}\n}}'


LATE = _late()
LATE_NAMES = set(re.findall(r'^define .*?@"?([\w.]+)"?\(', LATE, re.M))


def declarations() -> dict[str, str]:
    """`declare` line of each late function that kernels call, with the attributes that optimization needs."""
    out = {}
    for match in re.finditer(r'^define (.*?) @"(nz\.[\w.]+)"\((.*?)\) #(\d) ', LATE, re.M):
        attributes = "convergent nounwind" if match[4] == "1" else "nounwind willreturn memory(none)"
        out[match[2]] = f'declare {match[1]} @"{match[2]}"({match[3]}) {attributes}'
    return out


# early functions --------------------------------------------------------------------------------------------------
_INTRINSICS = {  # libdevice's name without its suffix: LLVM's intrinsic, number of arguments
    **{
        n: (n, 1)
        for n in (
            "sqrt",
            "fabs",
            "floor",
            "ceil",
            "trunc",
            "rint",
            "exp",
            "exp2",
            "log",
            "log2",
            "log10",
            "sin",
            "cos",
            "round",
        )
    },
    "fmax": ("maxnum", 2),
    "fmin": ("minnum", 2),
    "pow": ("pow", 2),
    "copysign": ("copysign", 2),
    "fma": ("fma", 3),
}
_LIBM = {
    **dict.fromkeys(
        ("exp10", "expm1", "log1p", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "erf", "erfc", "cbrt"), 1
    ),
    "atan2": 2,
    "fmod": 2,
}
_ROUNDED = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}


def _function(type_: str, name: str, args: list[str], body: str, extra: str = "") -> str:
    joined = ", ".join(f"{t} %a{i}" for i, t in enumerate(args))
    head = f'define linkonce_odr {type_} @"{name}"({joined}) alwaysinline nounwind'
    return f"{extra}\n{head} {{\n  {body}\n  ret {type_}{' %r' if type_ != 'void' else ''}\n}}"


def _math(name: str, base: str, type_: str) -> str | None:
    """A float function of one to three arguments of one type."""
    suffix = {"float": "f32", "double": "f64", "half": "f16"}[type_]
    args = lambda n: ", ".join(f"{type_} %a{i}" for i in range(n))  # noqa: E731
    if base in _INTRINSICS:
        llvm, n = _INTRINSICS[base]
        declare = f"declare {type_} @llvm.{llvm}.{suffix}({', '.join([type_] * n)})"
        return _function(type_, name, [type_] * n, f"%r = call {type_} @llvm.{llvm}.{suffix}({args(n)})", declare)
    if base in _LIBM:
        n, symbol = _LIBM[base], base + ("f" if type_ == "float" else "")
        declare = f"declare {type_} @{symbol}({', '.join([type_] * n)}) nounwind memory(none)"
        return _function(type_, name, [type_] * n, f"%r = call {type_} @{symbol}({args(n)})", declare)
    if base in _ROUNDED:
        return _function(type_, name, [type_] * 2, f"%r = {_ROUNDED[base]} {type_} %a0, %a1")
    if base == "rcp":
        return _function(type_, name, [type_], f"%r = fdiv {type_} 1.0, %a0")
    if base == "rsqrt":
        declare = f"declare {type_} @llvm.sqrt.{suffix}({type_})"
        body = f"%q = call {type_} @llvm.sqrt.{suffix}({type_} %a0)\n  %r = fdiv {type_} 1.0, %q"
        return _function(type_, name, [type_], body, declare)
    return None


def _libdevice(name: str) -> str | None:  # noqa: PLR0911
    base = name.removeprefix("__nv_")
    rounded = re.fullmatch(r"([fd]?)(add|sub|mul|div|rcp|sqrt|rsqrt|fma|fmaf)_rn", base)
    if rounded:
        single = rounded[1] == "f" or rounded[2] == "fmaf"
        return _math(name, rounded[2].replace("fmaf", "fma"), "float" if single else "double")
    if fast := re.fullmatch(r"fast_(exp|log|log2|log10|pow|sin|cos|exp10|tan)f", base):
        return _math(name, fast[1], "float")
    if base == "fast_fdividef":
        return _math(name, "div", "float")
    checks = {"isnanf": ("float", "uno"), "isnand": ("double", "uno")}
    if base in checks:
        type_, op = checks[base]
        return _function("i32", name, [type_], f"%c = fcmp {op} {type_} %a0, 0.0\n  %r = zext i1 %c to i32")
    if base in ("isinff", "isinfd", "finitef", "isfinited"):
        type_, s = ("float", "f32") if base in ("isinff", "finitef") else ("double", "f64")
        infinity = "0x7FF0000000000000"
        test = "oeq" if "inf" in base[:5] else "olt"
        body = f"%m = call {type_} @llvm.fabs.{s}({type_} %a0)\n  %c = fcmp {test} {type_} %m, {infinity}\n  %r = zext i1 %c to i32"
        return _function("i32", name, [type_], body, f"declare {type_} @llvm.fabs.{s}({type_})")
    casts = {
        "float_as_int": ("i32", "float"), "float_as_uint": ("i32", "float"), "int_as_float": ("float", "i32"),
        "uint_as_float": ("float", "i32"), "double_as_longlong": ("i64", "double"), "longlong_as_double": ("double", "i64"),
    }  # fmt: skip
    if base in casts:
        to, from_ = casts[base]
        return _function(to, name, [from_], f"%r = bitcast {from_} %a0 to {to}")
    if base in ("half2float", "float2half_rn"):
        return early("nz.cvt.f32.f16" if base == "half2float" else "nz.cvt.f16.f32", name)
    if base in ("min", "max", "umin", "umax", "llmin", "llmax", "ullmin", "ullmax"):
        type_ = "i64" if "ll" in base else "i32"
        llvm = ("u" if base.startswith("u") else "s") + base[-3:]
        body = f"%r = call {type_} @llvm.{llvm}.{type_}({type_} %a0, {type_} %a1)"
        return _function(type_, name, [type_] * 2, body, f"declare {type_} @llvm.{llvm}.{type_}({type_}, {type_})")
    if base in ("popc", "popcll", "brev", "brevll"):
        type_ = "i64" if base.endswith("ll") else "i32"
        llvm = "ctpop" if "popc" in base else "bitreverse"
        body = f"%q = call {type_} @llvm.{llvm}.{type_}({type_} %a0)\n  "
        result = "i32" if llvm == "ctpop" else type_
        body += "%r = trunc i64 %q to i32" if (type_, result) == ("i64", "i32") else f"%r = add {type_} %q, 0"
        return _function(result, name, [type_], body, f"declare {type_} @llvm.{llvm}.{type_}({type_})")
    return (base.endswith("f") and _math(name, base[:-1], "float")) or _math(name, base, "double")


# by way of a float rounded to odd: x86 has no such instruction, and rounding twice to nearest is not rounding once
_F64_TO_F16 = """%f = fptrunc double %a0 to float
  %d = fpext float %f to double
  %inexact = fcmp one double %d, %a0
  %m0 = call double @llvm.fabs.f64(double %a0)
  %m1 = call double @llvm.fabs.f64(double %d)
  %away = fcmp ogt double %m1, %m0
  %bits = bitcast float %f to i32
  %down = zext i1 %away to i32
  %toward = sub i32 %bits, %down
  %odd = zext i1 %inexact to i32
  %sticky = or i32 %toward, %odd
  %g = bitcast i32 %sticky to float
  %h = fptrunc float %g to half
  %r = bitcast half %h to i16"""


def early(pattern: str, name: str | None = None) -> str:
    """The definition of an early function; `name` defines it under another one."""
    name = name or pattern
    found = _libdevice(pattern) if pattern.startswith("__nv_") else None
    base = pattern.removeprefix("nz.")
    if m := re.fullmatch(r"cvt\.(f32|f64)\.f16", base):
        to = {"f32": "float", "f64": "double"}[m[1]]
        found = _function(to, name, ["i16"], f"%h = bitcast i16 %a0 to half\n  %r = fpext half %h to {to}")
    elif base == "cvt.f16.f32":
        found = _function("i16", name, ["float"], "%h = fptrunc float %a0 to half\n  %r = bitcast half %h to i16")
    elif base == "cvt.f16.f64":
        found = _function("i16", name, ["double"], _F64_TO_F16, "declare double @llvm.fabs.f64(double)")
    elif m := re.fullmatch(r"atomic\.load\.add\.f(32|64)\.p0f\d+", base):
        t = {"32": "float", "64": "double"}[m[1]]
        found = _function(t, name, ["ptr", t], f"%r = atomicrmw fadd ptr %a0, {t} %a1 monotonic")
    elif m := re.fullmatch(r"atomic\.load\.(inc|dec)\.32\.p0i32", base):
        op = {"inc": "uinc_wrap", "dec": "udec_wrap"}[m[1]]
        found = _function("i32", name, ["ptr", "i32"], f"%r = atomicrmw {op} ptr %a0, i32 %a1 monotonic")
    elif m := re.fullmatch(r"ld\.\d+\.(\w+)", base):
        found = _function(m[1], name, ["ptr"], f"%r = load {m[1]}, ptr %a0")
    elif m := re.fullmatch(r"st\.\d+\.(\w+)", base):
        found = _function("void", name, ["ptr", m[1]], f"store {m[1]} %a1, ptr %a0")
    elif m := re.fullmatch(r"(\w+?)(?:\.rn|\.approx)?(?:\.ftz)?\.(f|d)", base):
        found = _math(name, {"ex2": "exp2", "lg2": "log2"}.get(m[1], m[1]), {"f": "float", "d": "double"}[m[2]])
    if not found:
        raise Unsupported(f"no host definition of {pattern}")
    return found
