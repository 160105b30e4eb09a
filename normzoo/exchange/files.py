"""State files: `save` writes the arrays of norms and `load` reads them, as safetensors or npz. They contain no code."""

import contextlib
import errno
import math
import os
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.environment.extras import to_install
from normzoo.environment.system import take_mode
from normzoo.exchange.dialects import TORCH
from normzoo.norm import Norm
from normzoo.passes.arrays import moved
from normzoo.statistics.running_state import copy_in

SUFFIXES = (".safetensors", ".npz")
BFLOAT16 = ":bfloat16"  # NumPy's files have no bfloat16: such an array is stored as uint16, with this after its name
EXPANSION = 1100  # most bytes of arrays per byte of a file: deflate reaches at most 1032
Norms = Norm | Mapping[str, Norm]
# Errors that zipfile, zlib and NumPy's header reader raise for broken files; none of them executes what it reads.
_BROKEN = (
    OSError, ValueError, TypeError, EOFError, KeyError, IndexError, AttributeError, NotImplementedError, RuntimeError,
    OverflowError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def save(path: str | os.PathLike[str], norms: Norms, *, dialect: str = TORCH, **conversion: Any) -> None:
    """Write the state of a norm, or of several norms by name, to a .safetensors or .npz file: completely or, if
    anything fails, not at all.

    Args:
        path: path of the file; its suffix decides the format.
        norms: a norm, whose arrays keep their names, or a dict name -> norm, whose arrays become "name.weight" and so
            on (without a prefix for the name "").
        dialect, conversion: the framework whose names the arrays get, and values= and opset=; see `Norm.state_dict`.

    A symbolic link stays a link, and an existing file keeps its mode.

    Raises:
        ValueError: another suffix, a norm that the dialect does not have, or two arrays with the same name. TypeError:
            `norms` contains something else, or `path` is not a path. OSError: the folder does not exist or cannot be
            written. ImportError: safetensors is not installed.

    >>> import tempfile, normzoo as nz
    >>> path = tempfile.mkdtemp() + "/two.npz"
    >>> nz.save(path, {"first": nz.LayerNorm(8), "last": nz.RMSNorm(8)})
    >>> sorted(nz.load(path))
    ['first.bias', 'first.weight', 'last.weight']
    """
    target = _path("save", path)
    arrays: dict[str, Array] = {}
    for prefix, norm in _named("save", norms).items():
        for name, a in norm.state_dict(dialect, **conversion).items():
            if prefix + name in arrays:
                raise ValueError(f"save: expected one array of each name, got two of {prefix + name!r}; rename a norm")
            arrays[prefix + name] = np.array(moved(a, "cpu"), order="C")
    with _replacing(target) as temporary:
        if target.suffix == ".npz":
            with temporary.open("wb") as file:
                np.savez(file, **dict(_plain(name, a) for name, a in arrays.items()))  # type: ignore[arg-type]
        else:
            _safetensors("save", "safetensors.numpy").save_file(arrays, temporary, metadata={"dialect": dialect})


def load(
    path: str | os.PathLike[str], into: Norms | None = None, *, dialect: str = TORCH, values: int | None = None
) -> dict[str, Array]:
    """Read a .safetensors or .npz file, and load norms from it: all of them or, if anything does not fit, none.

    Args:
        path: the file. Pickled objects in npz files are refused.
        into: a norm, which takes all arrays of the file, or a dict name -> norm, each of which takes the arrays
            "name.weight" and so on. Other arrays, such as "name.linear.weight" and the rest of a whole model, are
            skipped without being read.
        dialect, values: the framework whose names the arrays have, and values=; see `Norm.load_state_dict`.

    Returns:
        the arrays that were read, by their names in the file.

    Raises:
        ValueError: the file has another format, or an array is missing or does not fit. TypeError: an array is not of
            floats. ImportError: safetensors is not installed.

    >>> import tempfile, normzoo as nz
    >>> path, norm = tempfile.mkdtemp() + "/state.npz", nz.BatchNorm(8)
    >>> nz.save(path, norm)
    >>> sorted(nz.load(path, into=nz.BatchNorm(8)))
    ['bias', 'num_batches_tracked', 'running_mean', 'running_var', 'weight']
    """
    source = _path("load", path)
    wanted = None if into is None else _named("load", into)
    whole = wanted is None or isinstance(into, Norm)
    seen: list[str] = []

    def takes(name: str) -> bool:
        seen.append(name)
        return whole or any(_own(norm, prefix, name) for prefix, norm in (wanted or {}).items())

    arrays = _read_npz(source, takes) if source.suffix == ".npz" else _read_safetensors(source, takes)
    ready = []
    for prefix, norm in (wanted or {}).items():
        state = {name.removeprefix(prefix): a for name, a in arrays.items() if whole or _own(norm, prefix, name)}
        try:
            ready.append((norm, norm.checked_state(state, dialect, values=values)))
        except (TypeError, ValueError) as error:
            hint = "" if state else _names_of(seen)
            raise type(error)(f"load: {source.name}: {prefix.removesuffix('.') or 'the norm'}: {error}{hint}") from None
    copy_in(ready)
    return arrays


def _path(owner: str, path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike):
        read = "getvalue" if hasattr(path, "getvalue") else "read"
        load = f"write pathlib.Path('state.npz').write_bytes(file.{read}()), and load that"
        write = load if owner == "load" else "save to a path, and take pathlib.Path(path).read_bytes()"
        raise TypeError(
            f"{owner}: expected a path that ends in {' or '.join(SUFFIXES)}, got {type(path).__name__}; {write}"
        )
    found = Path(path)
    if found.suffix not in SUFFIXES:
        raise ValueError(f"{owner}: expected a path that ends in {' or '.join(SUFFIXES)}, got {found.name!r}")
    return found


def _named(owner: str, norms: Any) -> dict[str, Norm]:
    """The norms by the prefix of their arrays' names."""
    found = {"": norms} if isinstance(norms, Norm) else norms
    if not isinstance(found, Mapping) or not all(isinstance(norm, Norm) for norm in found.values()):
        raise TypeError(f"{owner}: expected a norm or a dict name -> norm, got {type(norms).__name__}")
    return {f"{name}." if name else "": norm for name, norm in found.items()}


def _safetensors(owner: str, module: str) -> Any:
    try:
        import safetensors.numpy  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(f"{owner}: expected safetensors to be installed; write {to_install('files')}") from error
    return safetensors.numpy if module == "safetensors.numpy" else safetensors


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which replaces `path` when it is completely written."""
    try:
        path = path.resolve() if path.is_symlink() else path  # the link stays, and its target is replaced
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "save: expected a file, got a folder", str(path))
        # a short name, which file systems accept however long the final name is
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".nz-", suffix=path.suffix)
    except FileNotFoundError as error:
        expected = "save: expected a folder that is there; write pathlib.Path(path).parent.mkdir(parents=True)"
        raise FileNotFoundError(error.errno, expected, str(path)) from None
    except (PermissionError, NotADirectoryError) as error:
        expected = f"save: expected a folder in which files can be made, got {error.strerror}"
        raise type(error)(error.errno, expected, str(path)) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        take_mode(temporary, path)  # only its owner could read it
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(name: str, a: Array) -> tuple[str, Array]:
    return (name + BFLOAT16, a.view(np.uint16)) if a.dtype.name == "bfloat16" else (name, a)


def _bfloat16() -> np.dtype:
    import ml_dtypes  # noqa: PLC0415 (only files with such arrays need it)

    return np.dtype(ml_dtypes.bfloat16)


def _own(norm: Norm, prefix: str, name: str) -> bool:
    """Is this an array of the norm itself, and not of a layer that a model has under the same name?"""
    own = name.removeprefix(prefix).removesuffix(BFLOAT16)
    return name.startswith(prefix) and ("." not in own or own in norm.params or own in norm.buffers)


def _read_npz(path: Path, takes: Callable[[str], bool]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    with path.open("rb") as opened:  # if it cannot be opened, Python's OSError is raised
        if opened.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
            raise ValueError(f"load: {path.name}: expected an npz file, got a single array")
        try:
            with zipfile.ZipFile(opened) as file:
                sizes = sum(member.file_size for member in file.infolist())
                if sizes > EXPANSION * path.stat().st_size:  # a zip bomb: members that overlap
                    raise ValueError(f"{sizes} bytes of arrays, more than {EXPANSION} times its own")
                for member in file.infolist():
                    name = member.filename.removesuffix(".npy")
                    if takes(name):
                        a, whole = _read_member(file, member), name.removesuffix(BFLOAT16)
                        found[whole] = a if whole == name else a.view(_bfloat16())
        except _BROKEN as error:
            raise ValueError(
                f"load: {path.name}: expected an npz file of plain arrays, as nz.save(path, norm) writes, got a file "
                f"that cannot be read as one ({error})"
            ) from error
    return found


def _read_member(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """One array. It takes no more memory than the file's bytes expand to, whatever its header says."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may expand without limit
        raise ValueError(f"{member.filename!r} in the compression {member.compress_type}, which NumPy does not write")
    with file.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"{member.filename!r} in version {version} of NumPy's format, which only fields need")
        shape, fortran, dtype = readers[version](stream)
        if dtype.hasobject:
            raise ValueError(f"Python objects in {member.filename!r}, which would have to be unpickled")
        if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize + stream.tell() != member.file_size:
            raise ValueError(f"{member.filename!r} of {member.file_size} bytes for an array {shape} of {dtype}")
        return np.ndarray(shape, dtype, bytearray(stream.read()), order="F" if fortran else "C")


def _names_of(seen: list[str]) -> str:
    """The names in front of a file's arrays, as the end of a message."""
    names = sorted({name.rpartition(".")[0] for name in seen})
    if names == [""]:
        return "; the file has one norm without a name, write into=norm"
    return f"; the file has {', '.join(map(repr, names))}, write into={{{names[0]!r}: norm}}" if names else ""


def _read_safetensors(path: Path, takes: Callable[[str], bool]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    module = _safetensors("load", "safetensors")
    with path.open("rb"):  # raises FileNotFoundError as NumPy and Python do
        pass
    with contextlib.suppress(ImportError):  # NumPy must know bfloat16 if the file has it
        _bfloat16()
    try:
        with module.safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if takes(name):
                    found[name] = file.get_tensor(name)
    except (module.SafetensorError, AttributeError, TypeError, ValueError) as error:  # a dtype that NumPy does not have
        raise ValueError(
            f"load: {path.name}: expected a safetensors file, got a file that cannot be read as one ({error})"
        ) from error
    return found
