"""Compiled kernels on disk, for whoever works on one: numba-cuda takes a second or two for each.

Nothing is kept unless `folder` is set (`pytest --kept-kernels FOLDER` does it), and CI does not set it: a stale file can
neither hide nor cause a failure there. What is kept is found by a digest of all that it depends on: the sources of the
package's CUDA folder and of the executor, the versions of the compilers, the processor, and the kernel with the values
that it closes over. Only kernels that know their form are kept, as those of the package do.
"""

import hashlib
import pickle
from functools import cache
from importlib.metadata import version
from pathlib import Path

import llvmlite.binding as llvm

from . import runtime_ir as rt

folder: Path | None = None


@cache
def _surroundings() -> str:
    """A digest of everything but the kernel."""
    found = hashlib.sha256()
    from normzoo.backends import cuda  # noqa: PLC0415

    for room in (Path(cuda.__file__).parent, Path(__file__).parent):
        for file in sorted(room.glob("*.py")):
            found.update(file.read_bytes())
    for name in ("numba", "numba-cuda", "llvmlite"):
        found.update(version(name).encode())
    found.update(f"{llvm.get_host_cpu_name()} {rt.STATE.ctypes.data}".encode())  # the code has that address in it
    return found.hexdigest()


def _identity(value) -> str:
    """A function with what it closes over, and so on; of anything else its text."""
    function = getattr(value, "py_func", value)
    if not hasattr(function, "__code__"):
        return f"{type(value).__name__} {value}"
    cells = ", ".join(_identity(cell.cell_contents) for cell in function.__closure__ or ())
    return f"{function.__module__}.{function.__qualname__}({cells})"


def _file(kernel, *key) -> Path | None:
    if folder is None or not hasattr(kernel, "form"):
        return None
    text = " ".join([_surroundings(), _identity(kernel), *(str(k) for k in key)])
    return folder / hashlib.sha256(text.encode()).hexdigest()[:40]


def get(kernel, *key):
    """What was put there, or None."""
    file = _file(kernel, *key)
    return pickle.loads(file.read_bytes()) if file and file.is_file() else None


def put(value, kernel, *key) -> None:
    """Keep a value, if anything is kept."""
    if file := _file(kernel, *key):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(value))
