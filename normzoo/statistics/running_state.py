"""Arrays that change together: all of them or none, even if interrupted, and without losing another thread's update.

No lock is used that an interruption could leave locked. New values are computed in separate arrays, where anything may
raise, be interrupted or run concurrently. Then one step compares the arrays with the values that the computation
started from and, if no other thread has changed them, writes all; otherwise the new values are computed again. The step
is one call that runs C functions one after another: between them Python handles no signal, switches to no other thread
and does not fork. Nothing is attached to the arrays: they may belong to a norm or to the caller or be rows of larger
arrays, and anyone may assign to them at any time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from operator import ne
from typing import Any

import numpy as np

from normzoo.backends.at_once import at_once, put
from normzoo.backends.contract import Array

ALL = slice(None)


def copy_at_once(pairs: Iterable[tuple[Array, Array]]) -> None:
    """Copy each source into its target, an array of the same shape and dtype: all of them or, if a target is read-only,
    none."""
    held = list(pairs)
    places = [place for target, _ in held for place in _to_write(target)]
    sources = [part for target, source in held for part in _parts(_bytes(source), _places(target))]
    at_once(map(put, places, repeat(ALL), sources))


def copy_in(states: Sequence[tuple[Any, Mapping[str, Array]]]) -> None:
    """Copy into norms what their `checked_state` gave: all of it or, whatever interrupts, nothing."""
    pairs = [((norm.params | norm.buffers)[name], value) for norm, new in states for name, value in new.items()]
    copy_at_once([pair for pair in pairs if isinstance(pair[0], np.ndarray)])
    for target, value in pairs:
        if not isinstance(target, np.ndarray):  # on a device
            target[...] = value


class RunningState:
    """Arrays that change together: running mean, variance and number of batches, or any others that a norm updates.

    Device arrays change one after another, and the last thread to write one wins.
    """

    __slots__ = ("_arrays",)

    def __init__(self, *arrays: Array) -> None:
        self._arrays = arrays

    def read(self) -> list[Array]:
        """Copies of all arrays, taken at the same moment; device arrays themselves."""
        return self._read()[0]

    def _read(self) -> tuple[list[Array], list[Any], list[memoryview]]:
        """`read`, the bytes to compare with later, to see whether the arrays have changed, and the memory to
        compare."""
        copies: list[Array] = []
        held: list[Any] = []
        places: list[memoryview] = []
        into: list[memoryview] = []
        for a in self._arrays:
            if not isinstance(a, np.ndarray):
                copies.append(a)
                continue
            own = bytearray(a.nbytes)
            copies.append(np.ndarray(a.shape, a.dtype, own))
            found = _places(a)
            parts = _parts(memoryview(own), found)
            held += [own] if len(found) == 1 else parts  # comparing a bytearray is fastest
            places += found
            into += parts
        at_once(map(put, into, repeat(ALL), places))
        return copies, held, places

    def replace(self, new: Callable[..., Iterable[Any]], also: Iterable[tuple[Any, Any, Any]] = ()) -> None:
        """Write new(*old): one value for each array, or None for an array that stays unchanged.

        Args:
            new: a function of copies of the arrays, taken at one moment, which it must not modify. It is called again
                if another thread has changed the arrays meanwhile. If it raises, the arrays stay unchanged.
            also: (list, index, value) triples, set in the same step.

        Raises:
            ValueError: an array that gets a new value is read-only.
        """
        self.prepare(new, also)()

    def prepare(
        self, new: Callable[..., Iterable[Any]], also: Iterable[tuple[Any, Any, Any]] = ()
    ) -> Callable[[], None]:
        """Do what `replace` does before it writes; return a function that writes."""
        steps = self._steps(new, also)

        def write() -> None:
            tried, elsewhere = steps
            while at_once(tried):
                tried, elsewhere = self._steps(new, also)
            for a, value in elsewhere:
                a[...] = value

        return write

    def _steps(
        self, new: Callable[..., Iterable[Any]], also: Iterable[tuple[Any, Any, Any]]
    ) -> tuple[Iterator[Any], list[tuple[Any, Any]]]:
        """The step that writes, and stops if an array has changed; and (device array, value) pairs still to be
        written."""
        old, held, places = self._read()
        targets: list[Any] = []
        keys: list[Any] = []
        sources: list[Any] = []
        elsewhere: list[tuple[Any, Any]] = []
        with np.errstate(all="ignore"):
            for a, value in zip(self._arrays, new(*old), strict=True):
                if value is None:
                    continue
                if not isinstance(a, np.ndarray):
                    elsewhere.append((a, value.reshape(a.shape)))
                    continue
                found = _to_write(a)
                source = np.array(value, a.dtype, order="C").reshape(a.shape)
                targets += found
                keys += [ALL] * len(found)
                sources += _parts(_bytes(source), found)
        for target, key, value in also:
            targets.append(target)
            keys.append(key)
            sources.append(value)
        return chain(map(ne, held, places), map(put, targets, keys, sources)), elsewhere


def _bytes(a: Array) -> memoryview:
    """The bytes of an array in the order of its axes; a view, if the array is C-contiguous."""
    return np.ascontiguousarray(a).reshape(-1).view(np.uint8).data


def _places(a: Array) -> list[memoryview]:
    """The contiguous pieces of an array's memory, in the order of its axes."""
    if a.flags.c_contiguous:
        return [np.asarray(a).reshape(-1).view(np.uint8).data]
    return [place for i in range(len(a)) for place in _places(a[i] if a.ndim > 1 else a[i : i + 1])]


def _to_write(a: Array) -> list[memoryview]:
    if not a.flags.writeable:
        raise ValueError("expected running statistics that can be written, got a read-only array")
    return _places(a)


def _parts(whole: memoryview, places: list[memoryview]) -> list[memoryview]:
    """Split bytes into pieces as long as these places."""
    if len(places) == 1:
        return [whole]
    ends = np.cumsum([place.nbytes for place in places]).tolist()
    return [whole[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
