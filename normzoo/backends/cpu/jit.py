"""How kernels are compiled: the flags every kernel shares, and a disk cache that notices every edit.

Numba's cache looks at one source file, so an edit to a helper in another file would silently keep the old machine
code: here a digest of all kernel sources, `SOURCE`, is what a cache is fresh by. The flags a kernel closes over prune
dead branches, and are part of its name.
"""

import contextlib
import copy
import glob
import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from llvmlite.binding import Linkage
from llvmlite.binding.ffi import lib
from numba.core import cgutils
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering

from normzoo.backends.cpu.target import jit


def _digest(data: bytes) -> int:
    return int(hashlib.sha256(data).hexdigest()[:15], 16)


SOURCE = _digest(b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py"))))


class _InlineLibrary(JITCodeLibrary):
    """LLVM code that is only ever linked into a kernel, where it is optimized: here it would be in vain."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _get_module_for_linking(self) -> Any:
        """Numba's makes a copy of its own for this."""
        self._ensure_finalized()
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == Linkage.external:
                function.linkage = "linkonce_odr"
        return self._final_module

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class _Lower(Lower):
    """Numba's, but for what it does with every variable: count references to it, and tell debuggers of it. Few have any
    to count, and to find that out each time is a good part of a compilation."""

    def alloca_lltype(self, name: str, lltype: Any, datamodel: Any = None) -> Any:
        return cgutils.alloca_once(self.builder, lltype, name=name)

    def delvar(self, name: str) -> None:
        if self._is_counted(self.typeof(name)):
            super().delvar(name)

    def incref(self, typ: Any, val: Any) -> None:
        if self._is_counted(typ):
            super().incref(typ, val)

    def decref(self, typ: Any, val: Any) -> None:
        if self._is_counted(typ):
            super().decref(typ, val)

    def _is_counted(self, typ: Any) -> bool:
        return self.context.data_model_manager[typ].contains_nrt_meminfo()


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    _name = "normzoo_lowering"
    lowering_class = _Lower


@register_pass(mutates_CFG=True, analysis_only=False)
class _InlineLowering(_Lowering):
    """Lowering to LLVM that stops short of machine code: a helper is only ever inlined."""

    _name = "normzoo_inline_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _InlineLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        context = state.targetctx
        state.targetctx = copy.copy(context)
        state.targetctx.get_executable = _no_executable
        try:
            return super().run_pass(state)
        finally:
            state.targetctx = context


def _no_executable(library: Any, fndesc: Any, env: Any) -> Callable:
    """What stands for an executable is but a key by which callers find the code: any new built-in method."""
    return [].append


class _Lean(PassManager):
    """Numba's analyses a function anew behind each pass that may change it, a seventh of the time to compile a kernel.
    Those of its passes that need the analysis make their own."""

    _ENFORCING = False


class _Compiler(Compiler):
    """Numba's, with another lowering, and without the passes that kernels and helpers have no use for: merely looking
    through dozens of functions costs time."""

    lowering: type = _Lowering
    pipelines: ClassVar[dict[type, PassManager]] = {}
    needless = frozenset(
        [
            "WithLifting",
            "InlineClosureLikes",
            "RewriteDynamicRaises",
            "MakeFunctionToJitFunction",
            "InlineInlinables",
            "FindLiterallyCalls",
            "LiteralUnroll",
            "LiteralPropagationSubPipelinePass",
            "InlineOverloads",
            "NopythonRewrites",
            "NoPythonSupportedFeatureValidation",
            "AnnotateTypes",
            "DumpParforDiagnostics",
        ]
    )

    def define_pipelines(self) -> list:
        """One for all functions: to make one takes as long as some of its passes."""
        known = self.pipelines.get(type(self))
        if known is not None:
            return [known]
        pipeline = _Lean("normzoo") if self.needless else PassManager("normzoo")
        for step, why in DefaultPassBuilder.define_nopython_pipeline(self.state).passes:
            if step.__name__ not in self.needless:
                pipeline.add_pass(self.lowering if step is NativeLowering else step, why)
        pipeline.finalize()
        self.pipelines[type(self)] = pipeline
        return [pipeline]


class _HelperCompiler(_Compiler):
    lowering = _InlineLowering


class _InlineCompiler(_HelperCompiler):
    """For functions that may be anything."""

    needless = frozenset()


# How Numba compiles what only compiled code calls: with no way in from Python or C, and no machine code of its own.
NO_WAY_IN: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
INNER = NO_WAY_IN | {"pipeline_class": _InlineCompiler}


def helper(function: Callable) -> Any:
    """A function that is inlined into every kernel that calls it."""
    return jit(function, _HelperCompiler, forceinline=True, **NO_WAY_IN)


class _Files(IndexDataCacheFile):
    """An index of a kernel's signatures, and a file for each, whose name is its signature's and source's alone. Numba
    numbers them: two processes that compile at once may take one number, and the code of one is loaded as another's."""

    def save(self, key: Any, data: Any) -> None:
        if not self._load_index():
            self._remove()
        name = self._data_name(_digest(repr((SOURCE, key)).encode()))
        self._save_data(name, data)
        self._save_index(self._load_index() | {key: name})

    def _remove(self) -> None:
        """Other versions' files: elsewhere in a source file, or of other sources. A process that needs one compiles."""
        name, _, rest = self._index_name.rpartition("-")  # of the function, then its line, Python's version and "nbi"
        _, python, _ = rest.split(".")
        for path in Path(self._cache_path).glob(f"{glob.escape(name)}-*.{python}.*nb[ci]"):
            path.unlink(missing_ok=True)


class _Cache(FunctionCache):
    """Numba's disk cache, whose failures cost no more than compiling: files cut short by a crash, a full disk."""

    def __init__(self, function: Callable) -> None:
        super().__init__(function)
        self._name = function.__qualname__
        numbered = self._cache_file
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, (SOURCE, numbered._source_stamp))

    def _index_key(self, sig: Any, codegen: Any) -> tuple:
        """Numba's has a hash of what the function closes over. Helpers among it have no hash that lasts: flags do."""
        return sig, codegen.magic_tuple(), self._name

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # what is in a broken file may raise anything
            self._forget()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception:
            self._forget()

    def _forget(self) -> None:
        """Begin anew, for this process where nothing can be written."""
        try:
            self.flush()
        except Exception:
            self.disable()


def _flags(function: Callable) -> dict[str, Any]:
    """What a kernel and its helpers close over, by name."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        value = cell.cell_contents
        found |= _flags(plain(value)) if callable(value) else {name: value}
    return found


def kernel(function: Callable | None = None, *, nogil: bool = True) -> Any:
    """A function that Python calls, which lets other threads of Python run meanwhile.

    Its flags are part of its name: Numba names machine code by the function's name, its types and a number of the
    process. What two processes wrote to the disk cache may carry one number, and one name would be found for another
    in a third.
    """
    if function is None:
        return partial(kernel, nogil=nogil)
    flags = ", ".join(f"{name}={value}" for name, value in sorted(_flags(function).items()))
    function.__qualname__ += f"({flags})"
    made = jit(function, _Compiler, nogil=nogil, no_cfunc_wrapper=True)
    if made is not function:  # Numba is not switched off
        with contextlib.suppress(RuntimeError):  # no directory can be written: compile anew in each process
            made._cache = _Cache(function)
    return made


def cache_directory() -> str | None:
    """Where Numba keeps kernels on disk; None where it finds no directory that it can write to."""

    @kernel
    def beside_this_source() -> None: ...

    return beside_this_source.stats.cache_path


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the end: one that ends Numba's work anywhere leaves its tables half filled, and no later
    call would compile. What handles the signal, Python's KeyboardInterrupt or the user's own, runs after it."""
    handler = signal.getsignal(signal.SIGINT)
    arrived: list[tuple] = []
    if not callable(handler) or not _took_over(lambda *received: arrived.append(received)):
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if arrived:
            handler(*arrived[0])


def _took_over(handler: Callable[..., None]) -> bool:
    """Does this handle Ctrl-C now? Only the main thread of the main interpreter is interrupted, and may say by what."""
    if threading.current_thread() is not threading.main_thread():
        return False
    try:
        signal.signal(signal.SIGINT, handler)
    except ValueError:  # the main thread of another interpreter
        return False
    return True


def _wait_for_compilers() -> None:
    """A fork waits for what other threads compile: the child would find Numba's and LLVM's locks held for ever, and
    their tables half filled."""
    for lock in _LOCKS:
        lock.acquire()


def _let_compile() -> None:
    for lock in reversed(_LOCKS):
        lock.release()


_LOCKS = [global_compiler_lock._lock, lib._lock._lock]  # in the order in which compilations take them
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_compilers, after_in_parent=_let_compile, after_in_child=_let_compile)


def plain(function: Any) -> Callable:
    """The Python function of a helper or kernel; it is itself where NUMBA_DISABLE_JIT switches Numba off."""
    return getattr(function, "py_func", function)
