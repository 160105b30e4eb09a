"""Private names that the library can do without, each with what is lost."""

from typing import Any

from numba.core import compiler_lock

try:
    from llvmlite.binding import ffi
except ImportError:
    ffi = None


def compilers_locks() -> list[Any]:
    """The locks of compilations, in the order in which they are taken. Without one of them a fork does not wait for
    what another thread compiles, and its child may never compile."""
    numbas = getattr(getattr(compiler_lock, "global_compiler_lock", None), "_lock", None)
    llvms = getattr(getattr(getattr(ffi, "lib", None), "_lock", None), "_lock", None)
    return [lock for lock in (numbas, llvms) if hasattr(lock, "acquire") and hasattr(lock, "release")]


def threads_are_started() -> bool:
    """Were Numba's threads started in this process, or in one that it is a fork of? If that is not known, they were: a
    fork then stays alone."""
    try:
        from numba.np.ufunc import parallel  # noqa: PLC0415

        return bool(parallel._is_initialized)
    except (ImportError, AttributeError):
        return True


def users_cache() -> str:
    """Numba's folder among the user's caches; "" where Numba does not tell: kernels are then not kept there."""
    try:
        from numba.misc.appdirs import AppDirs  # noqa: PLC0415

        return AppDirs(appname="numba", appauthor=False).user_cache_dir
    except (ImportError, AttributeError, TypeError):
        return ""


# -- compiled code on disk. What it raises is told as the reason why kernels are not kept


def use_cache(function: Any, cache: Any) -> None:
    """Numba asks this cache, of its own kind, before it compiles the function."""
    function._cache = cache


def codegen_key(codegen: Any) -> Any:
    """What code depends on beside its sources: machine, processor and features."""
    return codegen.magic_tuple()


def has_addresses(compiled: Any) -> bool:
    """Does it hold addresses of this process?"""
    return compiled.library.has_dynamic_globals


def written(place: str, name: str, compiled: Any) -> None:
    """Into a file, which is there whole or not at all."""
    _files(place)._save_data(name, compiled._reduce())


def read(place: str, name: str, context: Any) -> Any:
    from numba.core.compiler import CompileResult  # noqa: PLC0415

    return CompileResult._rebuild(context, *_files(place)._load_data(name))


def _files(place: str) -> Any:
    from numba.core.caching import IndexDataCacheFile  # noqa: PLC0415

    return IndexDataCacheFile(place, "", None)
