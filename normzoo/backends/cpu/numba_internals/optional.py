"""Private names that the library can work without, each with the consequences."""

from typing import Any

from numba.core import compiler_lock

try:
    from llvmlite.binding import ffi
except ImportError:
    ffi = None


def compilers_locks() -> list[Any]:
    """The locks of compilations, in the order in which they are acquired. Without one of them, a fork does not wait for
    compilations in other threads, and its child may never be able to compile."""
    numbas = getattr(getattr(compiler_lock, "global_compiler_lock", None), "_lock", None)
    llvms = getattr(getattr(getattr(ffi, "lib", None), "_lock", None), "_lock", None)
    return [lock for lock in (numbas, llvms) if hasattr(lock, "acquire") and hasattr(lock, "release")]


def threads_are_started() -> bool:
    """Were Numba's threads started in this process, or in one that it was forked from? If unknown, True: a forked
    process then uses one thread."""
    try:
        from numba.np.ufunc import parallel  # noqa: PLC0415

        return bool(parallel._is_initialized)
    except (ImportError, AttributeError):
        return True


def users_cache() -> str:
    """Numba's folder in the user's cache directory; "" if Numba does not tell: then kernels are not stored there."""
    try:
        from numba.misc.appdirs import AppDirs  # noqa: PLC0415

        return AppDirs(appname="numba", appauthor=False).user_cache_dir
    except (ImportError, AttributeError, TypeError):
        return ""


# -- compiled code on disk. An exception here is reported as the reason why kernels are not stored


def use_cache(function: Any, cache: Any) -> None:
    """Make Numba use this cache object before it compiles the function."""
    function._cache = cache


def codegen_key(codegen: Any) -> Any:
    """The properties that machine code depends on, besides its sources: machine, processor and features."""
    return codegen.magic_tuple()


def has_addresses(compiled: Any) -> bool:
    """Does the code contain addresses of this process?"""
    return compiled.library.has_dynamic_globals


def written(place: str, name: str, compiled: Any) -> None:
    """Write to a file, which appears completely or not at all."""
    _files(place)._save_data(name, compiled._reduce())


def read(place: str, name: str, context: Any) -> Any:
    from numba.core.compiler import CompileResult  # noqa: PLC0415

    return CompileResult._rebuild(context, *_files(place)._load_data(name))


def _files(place: str) -> Any:
    from numba.core.caching import IndexDataCacheFile  # noqa: PLC0415

    return IndexDataCacheFile(place, "", None)
