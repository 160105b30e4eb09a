"""How kernels are compiled: the flags every kernel shares, and a disk cache that notices every edit.

Numba's cache looks at one source file and its date, so an edit to a helper in another file would silently keep the old
machine code, and a copy with other dates would be compiled anew: here a digest of all kernel sources, `SOURCE`, is what
a cache is fresh by. The flags a kernel closes over prune dead branches, and are part of its name.
"""

import contextlib
import copy
import glob
import hashlib
import logging
import os
import pkgutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import Any, ClassVar

import llvmlite
import numba
from llvmlite.binding import Linkage
from llvmlite.binding.ffi import lib
from numba.core import cgutils
from numba.core.caching import IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, CompileResult, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering

from normzoo.backends.cpu.target import jit


def _digest(data: bytes) -> int:
    return int(hashlib.sha256(data).hexdigest()[:15], 16)


def _source(name: str) -> str | None:
    """A module's source or, where a program was frozen without sources, its bytecode; None where there is neither."""
    loader: Any = getattr(find_spec(name), "loader", None)
    try:
        return loader.get_source(name) or _text(loader.get_code(name))
    except (AttributeError, ImportError, OSError):  # such as an extension module
        return None


def _text(constant: Any) -> str:
    """Code, and the constants in it, as text that is the same in every process."""
    if isinstance(constant, CodeType):
        constant = constant.co_code, constant.co_names, constant.co_consts
    if isinstance(constant, tuple):
        return f"({', '.join(map(_text, constant))})"
    return f"{{{sorted(map(_text, constant))}}}" if isinstance(constant, frozenset) else repr(constant)


def _digest_of_sources() -> int | None:
    """Of all kernel files and of the compilers; None where a file cannot be read: an edit of it would not be seen."""
    names = [m.name for m in pkgutil.iter_modules(sys.modules[__package__].__path__, f"{__package__}.")]
    found = [_source(name) for name in sorted(names)]
    if __name__ not in names or None in found:
        return None
    return _digest("\0".join([*filter(None, found), numba.__version__, llvmlite.__version__]).encode())


SOURCE = _digest_of_sources()


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


lost: list[str] = []  # why kernels that this process compiled were not kept


def _lose(why: str) -> None:
    """Said once: each process compiles again, which takes seconds, but its results are right."""
    if not lost:
        logging.getLogger("normzoo").warning("normzoo: compiled kernels are not kept on disk: %s", why)
    lost.append(why)


class _Cache:
    """A kernel's files on disk, one for each signature. A name says all that the code depends on, so there is no index,
    which processes that compile at once would write over; and it is short, as some file systems want it."""

    def __init__(self, function: Callable) -> None:
        self._name = f"{function.__module__}.{function.__qualname__}"
        self._prefix = f"{function.__name__[:40]}-"
        self._python = f".py{sys.version_info[0]}{sys.version_info[1]}{getattr(sys, 'abiflags', '')}.nbc"

    @property
    def cache_path(self) -> str | None:
        return cache_directory()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        name = self._file(sig, target_context.codegen())
        for place in _readable() if SOURCE is not None else ():
            path = os.path.join(place, name)
            try:
                return CompileResult._rebuild(target_context, *_files(place)._load_data(name))
            except (OSError, MemoryError):  # there is no such file, most often
                continue
            except Exception:  # what is in a broken file may raise anything
                with contextlib.suppress(OSError):
                    os.unlink(path)
        return None

    def save_overload(self, sig: Any, compiled: Any) -> None:
        place = cache_directory()
        if SOURCE is None:
            _lose("the sources of the kernels cannot be read, so an edit of them would not be seen")
        elif compiled.library.has_dynamic_globals:
            _lose(f"{self._name} has addresses of this process in it")
        elif place is None:
            _lose("no directory can be written; set NUMBA_CACHE_DIR to one before Python starts")
        else:
            try:
                _files(place)._save_data(self._file(sig, compiled.codegen), compiled._reduce())
                self._remove_others(place)
            except Exception as error:  # a full disk, or another Numba
                _lose(f"{place}: {error or type(error).__name__}")

    def flush(self) -> None:
        """Numba calls this where a function is to be compiled anew: what is on disk is as good."""

    def _file(self, sig: Any, codegen: Any) -> str:
        key = repr((self._name, sig, codegen.magic_tuple()))
        return f"{self._prefix}{SOURCE or 0:x}-{_digest(key.encode()):x}{self._python}"

    def _remove_others(self, place: str) -> None:
        """Files of other sources."""
        own = f"{self._prefix}{SOURCE:x}-"
        for path in Path(place).glob(f"{glob.escape(self._prefix)}*{self._python}"):
            if not path.name.startswith(own):
                path.unlink(missing_ok=True)


def _files(place: str) -> IndexDataCacheFile:
    """Numba's reader and writer of files in a directory, which are there whole or not at all."""
    return IndexDataCacheFile(place, "", None)


def _given() -> str:
    return numba.config.CACHE_DIR  # type: ignore[attr-defined]


@lru_cache(maxsize=16)
def _places(given: str) -> list[str]:
    """Directories that kernels may lie in, of which the first that can be written to gets new ones, as Numba's do: that
    of NUMBA_CACHE_DIR, beside the sources, and the user's. Of an archive or a frozen program there is nothing beside
    the sources. Each installation has a folder of its own, whose old kernels it removes; a frozen program, which may be
    unpacked to another place each time, one for its sources."""
    package, frozen = _absolute(sys.modules[__package__].__path__[0]), getattr(sys, "frozen", False)
    own = f"normzoo_{(SOURCE or 0) if frozen else _digest(os.fsencode(package)):x}"
    beside = os.path.join(package, "__pycache__") if os.path.isdir(package) and not frozen else ""
    folders = (_absolute(folder) if folder else "" for folder in (given, _of_user()))
    of_given, of_user = (os.path.join(folder, own) if folder else "" for folder in folders)
    return [place for place in (of_given, beside, of_user) if place]


def _absolute(path: str) -> str:
    """Wherever the program goes from here; "" where the path is of a working directory that is gone."""
    try:
        return os.path.abspath(path)
    except OSError:
        return ""


def _of_user() -> str:
    """The user's cache of Numba; "" where there is none."""
    try:
        from numba.misc.appdirs import AppDirs  # noqa: PLC0415  (an inner name of Numba's)

        place = AppDirs(appname="numba", appauthor=False).user_cache_dir
    except ImportError:
        return ""
    return place if os.path.isabs(place) else ""  # ~/.cache, of a user who has no home


def cache_directory() -> str | None:
    """Where kernels are kept on disk; None where no directory can be written to."""
    return next(filter(_can_be_written, _places(_given())), None)


def _readable() -> Iterator[str]:
    """That directory and those before it, which somebody else may have filled: they are found, but not written to."""
    for place in _places(_given()):
        yield place
        if _can_be_written(place):
            return


@lru_cache(maxsize=64)
def _can_be_written(place: str) -> bool:
    try:
        os.makedirs(place, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError:
        return False
    return True


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
        made._cache = _Cache(function)
    return made


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
