"""Links a lowered kernel with the runtime, optimizes, and compiles it; one build per kernel, signature and mode."""

import ctypes
import re
from dataclasses import dataclass, field

import llvmlite.binding as llvm

from . import kept
from . import runtime_ir as rt
from .instrument import CHECK, Access, instrument
from .lowering import Lines, Lowered, Unsupported, lower

_engines = []  # MCJIT frees the code with its engine


@dataclass
class Build:
    """A compiled kernel: the address of its fiber's first function, and what the launcher needs."""

    code: bytes
    params: list[str]
    static_shared: int
    shared_arrays: list[tuple[int, int]]
    sites: list[str]
    barriers: int
    accesses: list[Access] = field(default_factory=list)
    start: int = 0


_setup: dict[str, int] = {}


def switch_address() -> int:
    """Compile the fiber switch once a process and make it known to the kernels' linker."""
    if not _setup:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()
        engine = _compile(llvm.parse_assembly(rt.SWITCH))
        address = ctypes.CFUNCTYPE(ctypes.c_uint64)(engine.get_function_address("nz_switch_address"))()
        llvm.add_symbol("nz_switch", address)
        _setup["switch"] = address
    return _setup["switch"]


def _machine():
    features = llvm.get_host_cpu_features()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    # 512-bit registers are nothing to us, and half-precision arithmetic in hardware would differ between machines
    features["avx512fp16"] = False
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=2, jit=True)


def _compile(module):
    """An engine with this module."""
    _check_symbols(module)
    engine = llvm.create_mcjit_compiler(module, _machine())
    engine.finalize_object()
    _engines.append(engine)
    return engine


def _load(code: bytes) -> int:
    """The address of `nz_start_address` of compiled code."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return ctypes.CFUNCTYPE(ctypes.c_uint64)(engine.get_function_address("nz_start_address"))()


def _check_symbols(module):
    module.verify()
    for function in module.functions:  # MCJIT would call address 0
        own = function.name == "nz_switch" and not _setup
        if (
            function.is_declaration
            and not function.name.startswith("llvm.")
            and not own
            and not llvm.address_of_symbol(function.name)
        ):
            raise Unsupported(f"no host definition of {function.name}")


def _optimize(module, level=2):
    """As NVVM does, so that accesses are counted after promotion to registers and unrolling; no vectorization."""
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    options.loop_vectorization = options.slp_vectorization = options.loop_interleaving = False
    builder = llvm.create_pass_builder(_machine(), options)
    builder.getModulePassManager().run(module, builder)


def link(lowered: Lowered):
    """One optimized module: the kernel, its device functions and the early runtime inlined, the late one declared."""
    machine = _machine()
    late = rt.declarations()
    head = f'target triple = "{machine.triple}"\ntarget datalayout = "{machine.target_data}"\n'
    defined: set[str] = set()
    for text in lowered.modules:
        defined.update(re.findall(r'^define [^@]*@"([^"]+)"', text, re.M))
    main = None
    for text in lowered.modules:
        names = sorted({n for n in re.findall(r'@"((?:nz\.|__nv_)[^"]+)"', text) if n not in defined})
        lines = [late[n] for n in names if n in late]
        extra: list[str] = []
        for n in names:
            if n not in late:
                extra += rt.early(n).splitlines()
        seen = {line for line in text.splitlines() if line.startswith("declare")}
        known = {re.search(r"@\"?([\w.]+)", line)[1] for line in seen}
        for line in extra:
            if line.startswith("declare"):
                symbol = re.search(r"@\"?([\w.]+)", line)[1]
                if symbol in known:
                    continue
                known.add(symbol)
            lines.append(line)
        module = llvm.parse_assembly(head + text + "\n" + "\n".join(lines) + "\n")
        if main is None:
            main = module
        else:
            main.link_in(module)
    main.verify()
    for function in main.functions:
        if not function.is_declaration and function.name != lowered.entry:
            function.linkage = "internal"
    _optimize(main)
    return main


def _thread(entry: str, types: list[str]) -> str:
    """`nz_thread`: load the kernel's arguments, 16 bytes apart, and call it."""
    body, passed = [], []
    for i, type_ in enumerate(types):
        body.append(f"  %p{i} = getelementptr i8, ptr %args, i64 {16 * i}\n  %v{i} = load {type_}, ptr %p{i}")
        passed.append(f"{type_} %v{i}")
    return (
        "define void @nz_thread(ptr %args) {\n"
        + "\n".join(body)
        + f'\n  call void @"{entry}"({", ".join(passed)})\n  ret void\n}}\n'
    )


def _params(module, entry: str) -> list[str]:
    return [str(a.type) for a in module.get_function(entry).arguments]


def build(kernel, signature, checked: bool, drop_barrier=None) -> Build:
    """Compile a kernel for the host, and load it."""
    switch_address()
    key = kernel, signature, checked, drop_barrier
    built = kept.get(*key)
    if built is None:
        kept.put(built := compiled(*key), *key)
    built.start = _load(built.code)
    return built


def compiled(kernel, signature, checked: bool, drop_barrier=None) -> Build:
    """A kernel as code of the host, not loaded."""
    lowered = lower(kernel, signature, drop_barrier)
    module = link(lowered)
    types = _params(module, lowered.entry)
    text = str(module)
    accesses: list[Access] = []
    if checked:
        text, accesses = instrument(text, Lines(text, getattr(kernel, "py_func", kernel)))
    else:
        # a misaligned vector access must not bring the process down where nobody checks
        text = re.sub(r"^(\s+(?:%\S+ = )?(?:load|store) (?!atomic).*), align \d+", r"\1, align 1", text, flags=re.M)
    late = "\n".join(line for line in rt.LATE.splitlines() if line != "declare void @nz_thread(ptr)")
    late = _thread(lowered.entry, types) + late + (CHECK if checked else "")
    # metadata has served: without it the linker has no debugging information to write
    text = re.sub(r"^(?:!|\s*#dbg_).*$", "", re.sub(r",? ![a-z_][\w.]* !\d+", "", text), flags=re.M)
    # drop the declarations that the runtime now defines
    text = re.sub(r"^declare .*@(nz\.[\w.]+|\"nz\.[\w.]+\")\(.*$", "", text, flags=re.M)
    numbers = {int(n) for n in re.findall(r"^attributes #(\d+)", text, re.M)}
    shift = max(numbers, default=0) + 1
    late = re.sub(r"#(\d)", lambda m: f"#{int(m[1]) + shift}", late)
    module = llvm.parse_assembly(text + "\n" + late)
    _check_symbols(module)
    code = _machine().emit_object(module)
    return Build(
        code, types, lowered.static_shared, lowered.shared_arrays, lowered.sites, len(lowered.barriers), accesses
    )
