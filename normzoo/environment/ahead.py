"""Ahead-of-time compilation: all kernels that named norms can reach, into Numba's disk cache, before the first call."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import gcd, prod
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import event

from normzoo.backends import backend, use
from normzoo.backends.contract import Array
from normzoo.exchange.registry import _classes
from normzoo.norm import Norm
from normzoo.passes.around import CHECKS, Behind, find_around, refuse
from normzoo.passes.arrays import FLOATS
from normzoo.statistics.progress import bar

# Sizes (N, S, C) of the example arrays: samples, positions, channels. Kernels are chosen by the shape of a set and by
# the number of values; the examples are far from the limits between kernels: few and many values, each in many small
# sets, in few large ones, in short runs and in high columns, with channels first and last.
SIZES = (
    (4, 128, 16),  # few values
    (20, 9, 3),
    (2, 9, 3),
    (4, 1, 64),
    (2, 16, 256),
    (64, 1, 64),
    (32, 49, 8),
    (1, 12288, 1),
    (1, 3, 6000),
    (1, 4096, 4),
    (1, 4, 4096),
    (1, 48, 256),
    (16, 256, 64),  # many values
    (64, 16, 256),
    (1024, 1, 256),
    (64, 49, 64),
    (16, 8192, 4),
    (1, 4, 65536),
    (4, 65536, 1),
    (8192, 49, 2),
    (2, 65536, 16),
    (4, 64, 4096),
    (2, 49, 4096),
    (2, 1024, 256),
    (24, 1, 1500),
    (8192, 1, 1024),  # so many that results bypass the caches
    (4096, 1, 1040),
    (8, 4096, 256),
    (16, 2048, 128),
    (2, 65536, 32),
)

# Those of norms by cells. Their kernels are picked by which sizes are 1, by the order of axes, and by whether results
# are so large that they bypass the caches.
CELL_SIZES = ((2, 49, 64), (64, 1, 64), (16, 4096, 64), (8192, 1, 1024))


class Compiled(NamedTuple):
    """The result of `compile_cache`: how many kernels were compiled, and the directory of the disk cache."""

    kernels: int
    directory: str


def compile_cache(
    norms: Sequence[str] | None = None,
    dtypes: Sequence[Any] = ("float32",),
    *,
    channel_axes: Sequence[int] = (1, -1),
    backward: bool = True,
    behind: Behind | None = None,
    beside: Sequence[str] = (),
    progress: bool = True,
) -> Compiled:
    """Compile the CPU kernels of norms and dtypes into Numba's disk cache, so that later processes only load them.

    For container images and CI; `python -m normzoo compile` does the same in a shell. Every norm runs forward and
    backward, with and without parameters, and norms that track statistics also in evaluation, on example arrays of all
    kinds of shapes. Kernels that are already in the cache are loaded. They only work on the kind of processor that they
    were compiled on. They are compiled for parameters and gradients that are at most as wide as x and float32; the
    backward pass of sets of two values uses float64.

    Args:
        norms: names as in `list_norms`; None means all that can be created from a number of channels and that take only
            x. The other norms have no kernels, or use those of other norms.
        dtypes: dtypes of x: float16, bfloat16, float32 or float64, as names or NumPy dtypes.
        channel_axes: 1 for channels first, (N, C, ...), and -1 for channels last; LayerNorm and RMSNorm normalize over
            this axis.
        backward: False omits the backward kernels, for inference.
        behind, beside: what is computed before and behind the norms in every call: attributes, as
            {"activation": "silu"}, and the arrays that calls take, of "residual", "add" and "gate". Call this function
            again for norms without these, or with others.
        progress: show a progress bar, if tqdm is installed.

    Returns:
        (kernels, directory): the number of kernels compiled by this call, and the directory of the disk cache.

    Raises:
        ValueError: an unknown name, dtype, axis or activation; arrays that cannot be combined. TypeError: not in a
            sequence, or a norm whose `fuses` is False.
        RuntimeError: no directory can be written (set NUMBA_CACHE_DIR to one that can), not all kernels could be stored
            (the message says why, such as a full disk), this Numba's cannot be stored, or NUMBA_DISABLE_JIT switches
            Numba off.

    >>> import normzoo as nz
    >>> nz.compile_cache(["layer_norm"], ["float32", "float16"])  # doctest: +SKIP
    Compiled(kernels=36, directory='/opt/kernels/normzoo_d8116b683cf5b3f')
    >>> nz.compile_cache([]).kernels
    0
    """
    classes = _classes()
    names = sorted(classes) if norms is None else _each("norms", norms)
    for name in names:
        if not isinstance(name, str) or name not in classes:
            raise ValueError(f"compile_cache: expected norms among {', '.join(sorted(classes))}, got {name!r}")
        if norms is not None and not any(True for axis in (1, -1) for _ in _examples(classes[name], axis)):
            raise ValueError(
                "compile_cache: expected norms that are created from a number of channels and take only x, got "
                f"{name!r}; it has no kernels, or uses those of other norms: name these"
            )
    kinds = [_float_dtype(dtype) for dtype in _each("dtypes", dtypes)]
    ends = _each("channel_axes", channel_axes)
    for axis in ends:
        if isinstance(axis, bool) or axis not in (1, -1):
            raise ValueError(f"compile_cache: expected channel_axes of 1 and -1, got {axis!r}")
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise RuntimeError("compile_cache: expected Numba to compile, found it switched off; unset NUMBA_DISABLE_JIT")
    around = dict(behind or {}), _each("beside", beside)
    stands = any(around)
    if stands:
        names = _with_around(names, classes, around, norms is None)
    directory = _directory_to_fill()
    work = [(name, dtype, axis) for name in names for dtype in kinds for axis in ends]
    total = sum(1 for name, _, axis in work for _ in _examples(classes[name], axis))
    counter, lost = _Counter(), _lost()
    before = len(lost)
    with use("cpu"), event.install_listener("numba:compile", counter), bar(total, progress and total > 0) as shown:
        if work:
            backend("cpu").compile_shortcuts(backward, stands)
        for name, dtype, axis in work:
            if shown is not None:
                shown.set_description(f"{name} {dtype} {'first' if axis == 1 else 'last'}")
            for norm, shape in _examples(classes[name], axis):
                for attribute, value in around[0].items():
                    setattr(norm, attribute, value)
                _run(norm, _example(shape, dtype), backward, around[1])
                if shown is not None:
                    shown.set_postfix_str(f"{counter.kernels} compiled", refresh=False)
                    shown.update()
    if len(lost) > before:
        raise RuntimeError(
            f"compile_cache: expected to store {counter.kernels} kernels, lost {len(lost) - before} of them: {lost[-1]}"
        )
    return Compiled(counter.kernels, directory)


def _directory_to_fill() -> str:
    """The directory of compiled kernels on disk, where they can be stored."""
    directory = cache_directory()
    if directory is None:
        raise RuntimeError(
            "compile_cache: expected a directory where compiled kernels can be stored, found none that can be "
            "written; set NUMBA_CACHE_DIR to one before Python starts"
        )
    if not _can_store():
        raise RuntimeError(
            "compile_cache: expected a Numba whose compiled kernels can be stored, got "
            f"{numba.__version__}, which lacks private names for that; install one that this package allows"
        )
    return directory


def cache_directory() -> str | None:
    """The directory of compiled kernels on disk; None if no directory can be written."""
    from normzoo.backends.cpu.compiling import disk  # noqa: PLC0415  at first use, see `backends.backend`

    return disk.cache_directory()


def _lost() -> list[str]:
    """Reasons why kernels could not be stored; the list grows."""
    from normzoo.backends.cpu.compiling import disk  # noqa: PLC0415  as above

    return disk.lost


def _can_store() -> bool:
    """Do kernels go to the disk cache with this version of Numba?"""
    from normzoo.backends.cpu.numba_internals import way  # noqa: PLC0415  as above

    return way.is_own


class _Counter(event.Listener):
    """Counts compilations of kernels; compilations of helpers within that of a kernel are not counted."""

    def __init__(self) -> None:
        self.kernels = self._depth = 0

    def on_start(self, event: Any) -> None:
        self.kernels += self._depth == 0
        self._depth += 1

    def on_end(self, event: Any) -> None:
        self._depth -= 1


def _each(name: str, values: Any) -> list:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(
            f"compile_cache: expected {name} to be a sequence, got {type(values).__name__}; write {name}=[...]"
        )
    return list(values)


def _float_dtype(dtype: Any) -> np.dtype:
    if isinstance(dtype, str) and dtype == "bfloat16":
        try:
            import ml_dtypes  # noqa: F401, PLC0415 (optional; makes the name known to NumPy)
        except ImportError:
            raise ValueError(
                "compile_cache: expected ml_dtypes to be installed for bfloat16; write pip install ml_dtypes"
            ) from None
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if dtype is None or found is None or found.name not in FLOATS:
        raise ValueError(f"compile_cache: expected dtypes among {', '.join(FLOATS)}, got {dtype!r}")
    return found.newbyteorder("=")


def _examples(kind: type[Norm], channel_axis: int) -> Iterator[tuple[Norm, tuple[int, ...]]]:
    """Norms of a class, and shapes of x for them."""
    known, needed, has_axes = inspect.signature(kind).parameters, _needed(kind), kind.axes is not Norm.axes
    if not (has_axes or hasattr(kind, "letters")) or len(_needed(kind.forward)) > 2:  # self and x
        return
    for samples, positions, channels in SIZES if has_axes else CELL_SIZES:
        shape = (samples, channels, positions) if channel_axis == 1 else (samples, positions, channels)
        for affine in (True, False):
            for groups in sorted({1, gcd(channels, 4)}) if "num_groups" in known else (1,):
                options: dict[str, Any] = {
                    "num_features": channels,
                    "num_channels": channels,
                    "normalized_shape": channels,
                    "num_groups": groups,
                    "affine": affine,
                    "elementwise_affine": affine,
                    "track_running_stats": True,
                    "channel_axis": channel_axis,
                    "axis": channel_axis,
                    "with_mean": False,  # Standardize: it cannot be adapted here
                    "with_std": False,
                }
                options |= {} if has_axes else {"dim": channels}
                given = {name: value for name, value in options.items() if name in known}
                if not given.keys() >= needed:
                    return
                norm, x = kind(**given), np.broadcast_to(np.float32(0), shape)
                try:
                    if not has_axes:
                        norm.check(x)  # type: ignore[attr-defined]
                        if norm.letters(x):  # type: ignore[attr-defined]
                            yield norm, shape
                        continue
                    sizes, letters, *_ = norm.axes(x)
                except ValueError:  # a norm of weights, with its channels on another axis
                    return
                if prod(size for size, letter in zip(sizes, letters, strict=True) if letter in "rR") > 2:
                    yield norm, shape


def _needed(function: Callable) -> set[str]:
    """Names of the arguments that cannot be left out."""
    parameters = inspect.signature(function).parameters.items()
    return {name for name, p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}


def _example(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Some numbers that are not all equal."""
    return np.resize((np.arange(7 << 10) % 7).astype(dtype), prod(shape)).reshape(shape)


def _with_around(
    names: list, classes: Mapping[str, type[Norm]], around: tuple[dict[str, Any], list], skips: bool
) -> list:
    """The names, of which each can have this around it; with `skips` others are left out."""
    behind, beside = around
    arrays = "residual", "add", "gate"
    for name in beside:
        if name not in arrays:
            raise ValueError(f"compile_cache: expected beside among {', '.join(arrays)}, got {name!r}")
    for name in behind:
        if name not in CHECKS:
            raise ValueError(f"compile_cache: expected behind to have {', '.join(CHECKS)}, got {name!r}")
    act = CHECKS["activation"]("compile_cache", behind.get("activation"))
    residual, add, gate = (name in beside for name in arrays)
    learned = act is not None and act.parameter != ""
    find_around("compile_cache", act, bool(behind.get("gate_first")), residual, add, gate, learned)
    for name in names:
        if not classes[name].fuses and not skips:
            refuse(f"compile_cache: {classes[name].__name__}", {*behind, *beside})
    return [name for name in names if classes[name].fuses]


def _run(norm: Norm, x: Array, backward: bool, beside: Sequence[str] = ()) -> None:
    """Run every pass of a norm on x."""
    arrays = dict.fromkeys(beside, x)
    for training in (True, False) if norm.buffers else (True,):
        saved = norm.train(training).forward(x, **arrays)[1]
        for ds in (None, x) if "residual" in arrays else (None,):
            if backward:
                saved.backward(x, None, ds)
    if getattr(norm, "momentum", None) is not None:  # None (all batches weigh the same) has code of its own
        norm.momentum = None
        norm.train().forward(x, **arrays)
