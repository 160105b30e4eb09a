"""The disk cache of compiled kernels, which detects every edit of their sources.

Numba's own cache checks the date of one source file. An edit of a helper in another file would silently keep the old
machine code, and a copy of the files with other dates would be compiled again. Here a cached kernel is valid if the
digest of all kernel sources, `SOURCE`, is the same.
"""

import contextlib
import glob
import hashlib
import logging
import os
import pkgutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import Any

import llvmlite
import numba

from normzoo.backends.cpu.numba_internals import optional

PACKAGE = "normzoo.backends.cpu"


def _digest(data: bytes) -> int:
    return int(hashlib.sha256(data).hexdigest()[:15], 16)


def _source(name: str) -> str | None:
    """A module's source or, in a program frozen without sources, its bytecode; None if there is neither."""
    loader: Any = getattr(find_spec(name), "loader", None)
    try:
        return loader.get_source(name) or _text(loader.get_code(name))
    except (AttributeError, ImportError, OSError):  # for example, an extension module
        return None


def _text(constant: Any) -> str:
    """Code and its constants, as text that is the same in every process."""
    if isinstance(constant, CodeType):
        constant = constant.co_code, constant.co_names, constant.co_consts
    if isinstance(constant, tuple):
        return f"({', '.join(map(_text, constant))})"
    return f"{{{sorted(map(_text, constant))}}}" if isinstance(constant, frozenset) else repr(constant)


def identity(functions: tuple[Callable, ...]) -> str:
    """What functions from elsewhere do, the same in every process: their code, what they close over and what they know
    by name, such as other functions."""
    return f"{_digest(_told(functions, set()).encode()):x}"


def _told(value: Any, seen: set[int]) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(_told(v, seen) for v in value)})"
    function = getattr(value, "py_func", value)
    code = getattr(function, "__code__", None)
    if code is None or id(function) in seen:
        return getattr(function, "__qualname__", None) or repr(function)
    seen.add(id(function))
    closed = tuple(cell.cell_contents for cell in function.__closure__ or ())
    known = tuple(function.__globals__[name] for name in code.co_names if name in function.__globals__)
    return f"{_text(code)} {_told(closed, seen)} {_told(known, seen)} {_told(function.__defaults__ or (), seen)}"


def _modules(package: str) -> Iterator[str]:
    """The names of all modules in a package, including nested ones."""
    for found in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
        yield found.name
        if found.ispkg:
            yield from _modules(found.name)


def digest_of_sources(package: str, known: str) -> int | None:
    """The digest of all files of a package, of which one is known, and of the compilers; None if a file cannot be read,
    as edits of it would go unnoticed."""
    names = list(_modules(package))
    found = [_source(name) for name in sorted(names)]
    if known not in names or None in found:
        return None
    return _digest("\0".join([*filter(None, found), numba.__version__, llvmlite.__version__]).encode())


SOURCE = digest_of_sources(PACKAGE, __name__)


@lru_cache(maxsize=16)
def elsewhere(module: str) -> int | None:
    """The digest of the room, such as normzoo.torch.dispatch, of a module with kernels that `SOURCE` does not know."""
    return digest_of_sources(".".join(module.split(".")[:3]), module)


lost: list[str] = []  # reasons why kernels that this process compiled were not stored


def _lose(why: str) -> None:
    """Record the reason, and log the first one: each process then compiles again, which takes seconds, but results are
    right."""
    if not lost:
        logging.getLogger("normzoo").warning("normzoo: compiled kernels are not stored on disk: %s", why)
    lost.append(why)


class Cache:
    """A kernel's files on disk, one per signature. The file name identifies everything that the code depends on; so
    there is no index file, which processes that compile at the same time could overwrite. Names are short, as some file
    systems require."""

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
                return optional.read(place, name, target_context)
            except (OSError, MemoryError):  # usually there is no such file
                continue
            except Exception:  # a corrupt file may raise anything
                with contextlib.suppress(OSError):
                    os.unlink(path)
        logging.getLogger("normzoo").info("compiling %s; kept in %s", self._name, cache_directory() or "no directory")
        return None

    def save_overload(self, sig: Any, compiled: Any) -> None:
        place = cache_directory()
        if SOURCE is None:
            _lose("the sources of the kernels cannot be read, so an edit of them would not be seen")
        elif optional.has_addresses(compiled):
            _lose(f"{self._name} has addresses of this process in it")
        elif place is None:
            _lose("no directory can be written; set NUMBA_CACHE_DIR to one before Python starts")
        else:
            try:
                optional.written(place, self._file(sig, compiled.codegen), compiled)
                self._remove_others(place)
            except Exception as error:  # a full disk, or an unknown Numba version
                _lose(f"{place}: {error or type(error).__name__}")

    def flush(self) -> None:
        """Numba calls this before it compiles a function again; files on disk stay valid."""

    def _file(self, sig: Any, codegen: Any) -> str:
        key = repr((self._name, sig, optional.codegen_key(codegen)))
        return f"{self._prefix}{SOURCE or 0:x}-{_digest(key.encode()):x}{self._python}"

    def _remove_others(self, place: str) -> None:
        """Remove the files of other versions of the sources."""
        own = f"{self._prefix}{SOURCE:x}-"
        for path in Path(place).glob(f"{glob.escape(self._prefix)}*{self._python}"):
            if not path.name.startswith(own):
                with contextlib.suppress(OSError):  # removed by another process, or open in one, on Windows
                    path.unlink()


def _given() -> str:
    return numba.config.CACHE_DIR  # type: ignore[attr-defined]


@lru_cache(maxsize=16)
def _places(given: str) -> list[str]:
    """Directories where kernels may be stored; new ones go into the first that can be written. As in Numba, these are
    NUMBA_CACHE_DIR, the __pycache__ next to the sources, and the user's cache; an archive or a frozen program has no
    directory next to its sources. Each installation has its own folder, from which it removes old kernels. A frozen
    program, which may be unpacked to a different path each time, has one for its sources."""
    package, frozen = _absolute(sys.modules[PACKAGE].__path__[0]), getattr(sys, "frozen", False)
    own = f"normzoo_{(SOURCE or 0) if frozen else _digest(os.fsencode(package)):x}"
    beside = os.path.join(package, "__pycache__") if os.path.isdir(package) and not frozen else ""
    folders = (_absolute(folder) if folder else "" for folder in (given, _of_user()))
    of_given, of_user = (os.path.join(folder, own) if folder else "" for folder in folders)
    return [place for place in (of_given, beside, of_user) if place]


def _absolute(path: str) -> str:
    """The absolute path; "" if the path is relative and the working directory was deleted."""
    try:
        return os.path.abspath(path)
    except OSError:
        return ""


def _of_user() -> str:
    """Numba's folder in the user's cache directory; "" if there is none."""
    place = optional.users_cache()
    return place if os.path.isabs(place) else ""  # "~/.cache", if the user has no home directory


def cache_directory() -> str | None:
    """The directory where kernels are stored; None if no directory can be written."""
    return next(filter(_can_be_written, _places(_given())), None)


def _readable() -> Iterator[str]:
    """That directory and those before it, which another user may have filled: they are read, but not written."""
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
