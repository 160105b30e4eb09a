"""Versions of what a report of a fault should name."""

import os
import platform
from importlib import metadata

import numba

PARTS = "normzoo", "numba", "llvmlite", "numpy", "scipy"
OPTIONAL = (
    "torch", "jax", "onnx", "onnxruntime", "safetensors", "ml_dtypes", "mpi4py", "dask", "numba-cuda", "tqdm", "tbb",
)  # fmt: skip


def show_versions() -> None:
    """Print the versions of this package, of Python and of the packages that it works with, the machine, and how many
    threads there are. Copy it into a report.

    >>> import normzoo as nz
    >>> nz.show_versions()  # doctest: +ELLIPSIS
    normzoo: ...
    """
    for name in PARTS + OPTIONAL:
        found = version_of(name)
        if found is not None or name in PARTS:
            print(f"{name}: {found or 'not installed'}")
    print(f"python: {platform.python_version()} ({platform.python_implementation()})")
    print(f"system: {platform.platform()}, {platform.machine()}")
    print(f"cores: {os.cpu_count()}, threads of Numba: {numba.get_num_threads()}")
    print(f"Numba keeps compiled code in: {getattr(numba.config, 'CACHE_DIR', '') or 'its default folder'}")


def version_of(name: str) -> str | None:
    """Of a distribution; None if it is not installed. This package says it itself, so that it may run from a clone."""
    if name == "normzoo":
        import normzoo  # noqa: PLC0415 (the package imports this module)

        return normzoo.__version__
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
