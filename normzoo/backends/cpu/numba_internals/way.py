"""The choice of how kernels are compiled, made with the first kernel: our own way or, with one warning, Numba's."""

import warnings
from types import ModuleType
from typing import Any

import numba

TRIED = (0, 62), (0, 68)  # the oldest and the newest Numba with which kernels were tested: see CONTRIBUTING.md


def _chosen() -> Any:
    try:
        from normzoo.backends.cpu.numba_internals import target  # noqa: PLC0415  (may fail)

        if not TRIED[0] <= numba.version_info[:2] <= TRIED[1] and not numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
            target.probe()
    except Exception as error:  # any error of an unknown Numba version
        return _plain(error)
    return target


def _plain(error: Exception) -> ModuleType:
    from normzoo.backends.cpu.numba_internals import plain  # noqa: PLC0415

    oldest, newest = (".".join(map(str, version)) for version in TRIED)
    warnings.warn(
        f"normzoo: Numba {numba.__version__} lacks private names that our own way of compiling uses "
        f"({type(error).__name__}: {error}), so kernels are compiled the ordinary way: results are the same, but each "
        f"process compiles again, which takes seconds; install numba {oldest} to {newest}",
        RuntimeWarning,
        stacklevel=2,
    )
    return plain


_way = _chosen()
jit, typed, lower, constant, inlined = _way.jit, _way.typed, _way.lower, _way.constant, _way.inlined
is_own: bool = hasattr(_way, "probe")
