"""How kernels are compiled: the flags every kernel shares, and a disk cache that notices every edit.

Numba's cache looks at one source file, so an edit to a helper in another file would silently keep the old machine
code: here a digest of all kernel sources, `SOURCE`, is what a cache is fresh by. The flags a kernel closes over prune
dead branches, and are part of its name.
"""

import contextlib
import copy
import glob
import hashlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numba
from numba.core import types
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering, NativeParforLowering


def _digest(data: bytes) -> int:
    return int(hashlib.sha256(data).hexdigest()[:15], 16)


SOURCE = _digest(b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py"))))


class _InlineLibrary(JITCodeLibrary):
    """LLVM code that is only ever linked into a kernel, where it is optimized: here it would be in vain."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _InlineLowering(NativeLowering):
    """Lowering to LLVM that stops short of machine code: a helper is only ever inlined."""

    _name = "normzoo_inline_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _InlineLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        with _context(state, get_executable=_no_executable):
            return super().run_pass(state)


@contextlib.contextmanager
def _context(state: Any, **own: Callable) -> Iterator[None]:
    """Lowering with these methods of the target's context instead of its own."""
    context = state.targetctx
    state.targetctx = copy.copy(context)
    vars(state.targetctx).update(own)
    try:
        yield
    finally:
        state.targetctx = context


def _no_executable(library: Any, fndesc: Any, env: Any) -> Callable:
    """What stands for an executable is but a key by which callers find the code: any new built-in method."""
    return [].append


@register_pass(mutates_CFG=True, analysis_only=False)
class _ParallelLowering(NativeParforLowering):
    """Numba makes functions of each prange loop and of each thread's share of it: here they are part of the kernel, and
    its code is optimized once instead of three times."""

    _name = "normzoo_parallel_lowering"

    def run_pass(self, state: Any) -> bool:
        context = state.targetctx
        state.library = context.codegen().create_library(state.func_id.func_qualname)
        state.library.enable_object_caching()

        def get_executable(library: Any, fndesc: Any, env: Any) -> Callable:
            return (context.get_executable if library is state.library else _no_executable)(library, fndesc, env)

        codegen = _InlineCodegen(context.codegen())
        with _context(state, codegen=lambda: codegen, get_executable=get_executable):
            return super().run_pass(state)


class _InlineCodegen:
    """Numba's way to LLVM, but for the libraries that it makes."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def create_library(self, name: str) -> _InlineLibrary:
        return _InlineLibrary(self._codegen, name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)


class _Compiler(Compiler):
    """Numba's, with these passes instead of its own."""

    passes: ClassVar[dict] = {NativeParforLowering: _ParallelLowering}

    def define_pipelines(self) -> list:
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
        pipeline.passes = [(self.passes.get(p, p), why) for p, why in pipeline.passes]
        pipeline.finalize()
        return [pipeline]


class _InlineCompiler(_Compiler):
    passes: ClassVar[dict] = {NativeLowering: _InlineLowering}


# How Numba compiles what only compiled code calls: with no way in from Python or C, and no machine code of its own.
INNER: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": _InlineCompiler}


def helper(function: Callable) -> Any:
    """A function that is inlined into every kernel that calls it.

    Numba would compile it for each value of a flag that a caller writes or closes over. Here it does so once for the
    types: LLVM, which takes the code into each kernel, finds the same dead branches.
    """
    made: Any = numba.njit(forceinline=True, error_model="numpy", **INNER)(function)
    if made is not function:  # Numba is not switched off
        template = made.get_call_template
        made.get_call_template = lambda given, named: template(
            tuple(map(types.unliteral, given)), {name: types.unliteral(t) for name, t in named.items()}
        )
    return made


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
        numbered = self._cache_file
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, (SOURCE, numbered._source_stamp))

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


def _name(function: Callable, parallel: bool) -> str:
    """With the flags: Numba names machine code by the function's name, its types and a number of the process. What two
    processes wrote to the disk cache may carry one number, and one name would be found for another in a third."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    flags = ", ".join(f"{name}={cell.cell_contents}" for name, cell in cells if name != "parallel")
    return f"{function.__qualname__}({', '.join(filter(None, (flags, f'parallel={parallel}')))})"


def kernel(parallel: bool) -> Any:
    """Decorator of a kernel; with `parallel`, its prange loops run on Numba's threads."""

    def decorate(function: Callable) -> Callable:
        function.__qualname__ = _name(function, parallel)
        options: Any = {"parallel": parallel, "nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
        options["pipeline_class"] = _Compiler
        try:
            made: Any = numba.njit(cache=True, **options)(function)
            if made is not function:  # Numba is not switched off
                made._cache = _Cache(function)
            return made
        except RuntimeError:  # no directory can be written: compile anew in each process
            return numba.njit(**options)(function)

    return decorate


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the end: one that ends Numba's work anywhere leaves its tables half filled, and no later
    call would compile. What handles the signal, Python's KeyboardInterrupt or the user's own, runs after it."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted
        return
    arrived: list[tuple] = []
    signal.signal(signal.SIGINT, lambda *received: arrived.append(received))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if arrived:
            handler(*arrived[0])


def plain(function: Any) -> Callable:
    """The Python function of a helper or kernel; it is itself where NUMBA_DISABLE_JIT switches Numba off."""
    return getattr(function, "py_func", function)
