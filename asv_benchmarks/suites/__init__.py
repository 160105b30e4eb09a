"""What asv measures of every commit: kernels, overhead, start, memory, scaling, accuracy, examples.

The files here are those of the working tree also while an old commit is measured, so they use what the first commit
had already, or raise NotImplementedError in `setup`: asv then writes n/a. Times are measured on one thread, and
counts for a processor that is named: see counts.py.
"""

import hashlib
import importlib.util
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the programs beside this folder, whose functions are measured

# Two unbound threads on two cores that others use too may wait for each other for milliseconds.
for name, value in {"OMP_WAIT_POLICY": "passive", "OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}.items():
    os.environ.setdefault(name, value)


def kernels_of(package: Path) -> Path:
    """Where the compiled kernels of the installed package stay: commits with the same kernels share them."""
    digest = hashlib.sha256()
    for file in sorted(package.glob("backends/cpu/**/*.py")):
        digest.update(file.read_bytes())
    return Path(__file__).parents[1] / "env" / "kernels" / digest.hexdigest()[:16]


if (found := importlib.util.find_spec("normzoo")) is not None and found.origin is not None:
    os.environ.setdefault("NUMBA_CACHE_DIR", str(kernels_of(Path(found.origin).parent)))
