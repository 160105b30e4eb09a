"""Which way kernels are compiled, chosen when the first of them is made: our own, or Numba's, with one warning."""

import warnings
from types import ModuleType
from typing import Any

import numba

TRIED = (0, 62), (0, 68)  # the oldest and the newest Numba that kernels were tested with: see CONTRIBUTING.md


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

    oldest, newest = (".".join(map(str, version)) for version in TRIED)
    warnings.warn(
        f"normzoo: Numba {numba.__version__} lacks what our own way of compiling takes hold of "
        f"({type(error).__name__}: {error}), so kernels are compiled the ordinary way: to the same values, but anew in "
        f"each process, which takes seconds. numba>={oldest} to {newest} have it",
        RuntimeWarning,
        stacklevel=2,
    )
    return plain


_way = _chosen()
jit, typed, lower, inlined = _way.jit, _way.typed, _way.lower, _way.inlined
is_own: bool = hasattr(_way, "probe")
