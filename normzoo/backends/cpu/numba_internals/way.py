"""Which way kernels are compiled, chosen when the first of them is made: our own, or Numba's, with one warning."""

import warnings
from types import ModuleType
from typing import Any

import numba

TRIED = (0, 62), (0, 68)  # versions of Numba with which all tests were run, the oldest and the newest: CONTRIBUTING.md


def _chosen() -> Any:
    try:
        from normzoo.backends.cpu.numba_internals import target  # noqa: PLC0415  (which may not be there)

        if not TRIED[0] <= numba.version_info[:2] <= TRIED[1] and not numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
            target.probe()
    except Exception as error:  # any: of a Numba that nobody knows
        return _plain(error)
    return target


def _plain(error: Exception) -> ModuleType:
    from normzoo.backends.cpu.numba_internals import plain  # noqa: PLC0415

    warnings.warn(
        f"normzoo: Numba {numba.__version__} is unlike the versions this was made for, "
        f"{'.'.join(map(str, TRIED[0]))} to {'.'.join(map(str, TRIED[1]))} ({type(error).__name__}: {error}). Kernels "
        "are compiled the ordinary way: the same values, but each process compiles them anew",
        RuntimeWarning,
        stacklevel=2,
    )
    return plain


_way = _chosen()
jit, typed, lower, inlined = _way.jit, _way.typed, _way.lower, _way.inlined
is_own: bool = hasattr(_way, "probe")
