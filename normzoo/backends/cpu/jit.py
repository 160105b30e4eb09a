"""How kernels are compiled: the flags every kernel shares, and a disk cache that notices every edit.

Numba's cache looks at one source file, so an edit to a helper in another file would silently keep the old machine
code. Every kernel therefore closes over `SOURCE`, a digest of all kernel sources, which is part of its cache key;
the flags it closes over (`parallel` among them) are part of the key too and prune dead branches.
"""

import contextlib
import copy
import hashlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering

SOURCE = int(
    hashlib.sha256(b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()[:15], 16
)


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
        context = state.targetctx
        state.library = _InlineLibrary(context.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        state.targetctx = light = copy.copy(context)
        # What stands for the executable is but a key by which callers find the code: any new built-in method.
        light.get_executable = lambda library, fndesc, env: [].append
        try:
            return super().run_pass(state)
        finally:
            state.targetctx = context


class _InlineCompiler(Compiler):
    def define_pipelines(self) -> list:
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
        pipeline.passes = [(_InlineLowering if p is NativeLowering else p, why) for p, why in pipeline.passes]
        pipeline.finalize()
        return [pipeline]


def helper(function: Callable) -> Any:
    """A function that is inlined into every kernel that calls it."""
    options: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": _InlineCompiler}
    return numba.njit(forceinline=True, error_model="numpy", **options)(function)


class _Files(IndexDataCacheFile):
    """An index of a kernel's variants, and a file for each, whose name is its variant's alone. Numba numbers them: two
    processes that compile at once may take one number, and the code of one variant is loaded as another's."""

    def save(self, key: Any, data: Any) -> None:
        name = self._data_name(int(hashlib.sha256(repr(key).encode()).hexdigest()[:15], 16))
        self._save_data(name, data)
        self._save_index(self._load_index() | {key: name})


class _Cache(FunctionCache):
    """Numba's disk cache, whose failures cost no more than compiling: files cut short by a crash, a full disk."""

    def __init__(self, function: Callable) -> None:
        super().__init__(function)
        numbered = self._cache_file
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, numbered._source_stamp)

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


def kernel(parallel: bool) -> Any:
    """Decorator of a kernel; with `parallel`, its prange loops run on Numba's threads."""

    def decorate(function: Callable) -> Callable:
        options: Any = {"parallel": parallel, "nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
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
