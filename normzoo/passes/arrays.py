"""Argument checks: which arrays are accepted, and the messages for those that are not.

A message names the norm, the invariant, what was received and what to write instead. Wrong types are TypeErrors,
wrong shapes and values ValueErrors; nothing has been changed when one is raised.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from numbers import Real
from typing import Any

import numpy as np

from normzoo.backends import chosen, device_array, to_device
from normzoo.backends.contract import Array
from normzoo.backends.memory import empty
from normzoo.passes.numpy_threads import on_threads

# Decorator of functions that compute in NumPy: they return the numbers, with infinities and NaN, even in a program that
# has floating-point errors raised or printed (np.seterr). Layers get it in `Norm.__init_subclass__`.
quiet = np.errstate(all="ignore")


class Memo(dict):
    """A cache of results by key, cleared when it is full."""

    SIZE = 1024

    def keep(self, key: Any, found: Any) -> Any:
        """Store `found` for `key`, and return it."""
        if len(self) >= self.SIZE:
            self.clear()
        self[key] = found
        return found


def once(find: Callable[..., Any]) -> Callable[..., Any]:
    """Cache `find(owner, x, *arguments)`, which checks x's shape and says how its axes are used: one call per shape.

    Errors are not cached. The arguments must have been checked before: as a key, True and 1.0 equal 1.
    """
    known = Memo()

    @wraps(find)
    def found(owner: object, x: Array, *arguments: Any) -> Any:
        if type(x) is not np.ndarray:
            x = base_array(owner, "x", x)
        key = x.shape, arguments
        return known.get(key) or known.keep(key, find(owner, x, *arguments))

    return found


def read_only(owner: object) -> str:
    """The message for a read-only array. The arrays of a norm may be read-only as part of a shared store; copying the
    norm copies them."""
    own = (
        "copies of the arrays, a.copy()" if isinstance(owner, str) else "copy.deepcopy(norm), whose arrays are its own"
    )
    return f"got a read-only array; write {own}"


def quoted(value: Any) -> str:
    """The received value in a message: a short value by its repr, otherwise its type."""
    shown = (
        repr(value) if isinstance(value, str | bytes | bool | Real | complex | None | list | tuple | dict | set) else ""
    )
    return shown if 0 < len(shown) <= 60 and "\n" not in shown else type(value).__name__  # fits into a message


FLOATS = ("float16", "bfloat16", "float32", "float64")
CHARS = "efd"  # includes NumPy's single-character codes


def check_array(owner: object, name: str, a: Any) -> None:
    """Check that `a` is a NumPy array, or the CUDA backend's own array, of a float dtype."""
    if (type(a) is np.ndarray or on_device(a)) and a.dtype.char in CHARS:  # the usual case; a dtype's name takes 3 us
        return
    if not isinstance(a, np.ndarray) and not on_device(a):
        if check_masks(owner, name, a, getattr(owner, "masks", True)):  # the selection has checked its array
            return
        got = quoted(a) if a is None or isinstance(a, str | bytes) else type(a).__name__
        raise TypeError(f"{owner}: expected {name} to be a NumPy array, got {got}{instead_of(name, a)}")
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError(
            f"{owner}: expected {name} without a mask (mask=~np.ma.getmaskarray({name}) says it of {name}.data), got a "
            f"masked array; write {name}.filled(...)"
        )
    if a.dtype.name not in FLOATS:
        raise TypeError(
            f"{owner}: expected {name} of dtype {', '.join(FLOATS[:-1])} or {FLOATS[-1]}, got {a.dtype}"
            f"{_floats_of(name, a)}"
        )


def instead_of(name: str, a: Any) -> str:
    """Advice for an object that is not an array: how to convert it, if a conversion is known to work."""
    if any(kind.__module__ == "torch" for kind in type(a).__mro__):
        return f"; use normzoo.torch, whose norms take tensors{_array_of_tensor(name, a)}"
    dtype = getattr(a, "dtype", None)
    floats = "" if getattr(dtype, "name", "") in FLOATS else ".astype(np.float32)"
    if hasattr(a, "toarray"):  # scipy.sparse
        return f"; write {name}.toarray(){floats}"
    if hasattr(a, "to_numpy"):  # pandas and similar libraries
        return f"; write {name}.to_numpy().astype(np.float32)" if _is_numeric(a) else "; pass numbers"
    if a is None or isinstance(a, str | bytes):
        return "; pass an array"
    try:
        np.asarray(a, np.float32)
    except (TypeError, ValueError, RuntimeError):
        return "; pass an array"
    return f"; write np.asarray({name}, np.float32)"


def _is_numeric(table: Any) -> bool:
    try:
        table.to_numpy().astype(np.float32)
    except (TypeError, ValueError):
        return False
    return True


def _array_of_tensor(name: str, t: Any) -> str:
    """How to convert a PyTorch tensor to an array of floats."""
    if t.is_complex():
        return f", for {name}.real and {name}.imag"
    if t.is_meta:
        return ""  # it has no values
    steps = {
        ".dequantize()": t.is_quantized,
        ".to_dense()": str(t.layout) != "torch.strided",
        ".cpu()": t.device.type != "cpu",
        ".float()": not t.is_quantized and str(t.dtype) not in ("torch.float16", "torch.float32", "torch.float64"),
    }
    return f", or write {name}.detach(){''.join(step for step, wanted in steps.items() if wanted)}.numpy()"


def _floats_of(name: str, a: Any) -> str:
    """Advice for an array of a wrong dtype."""
    if a.dtype.kind == "c":
        return f"; write {name}.real and {name}.imag"
    if len(a.dtype.names or ()) > 1:
        return f"; write np.stack([{name}[field] for field in {name}.dtype.names], -1)"
    try:
        if isinstance(a, np.ndarray):  # a device array always has numbers
            a.reshape(-1)[:1000].astype(np.float32)
    except (TypeError, ValueError):
        return "; pass numbers"
    return f"; write {name}.astype(np.float32)"


def check_batches(owner: object, batches: Any, one: str) -> Any:
    """Check that `batches` is an iterable of arrays. Iterating a table gives column names, iterating a text its
    letters.

    Args:
        one: how to pass a single array, with {} for its name.
    """
    table = hasattr(batches, "to_numpy") or hasattr(batches, "toarray")
    if table or isinstance(batches, str | bytes | Mapping) or not isinstance(batches, Iterable):
        got = quoted(batches) if batches is None or isinstance(batches, str | bytes | Real) else type(batches).__name__
        way = instead_of("batches", batches).removeprefix("; write ")
        write = f"write {one.format(way)}" if table else "pass a list or generator of arrays"
        raise TypeError(f"{owner}: expected batches to be iterable, of arrays, got {got}; {write}")
    return batches


def base_array(owner: object, name: str, a: Any) -> Array:
    """`a` as an array of the base class np.ndarray, without a copy; or, for a device array of any library, as the CUDA
    backend's own array. Raises TypeError for anything else."""
    if type(a) is np.ndarray and a.dtype.char in CHARS:
        return a
    if not isinstance(a, np.ndarray) and not on_device(a):
        found = device_array(a)
        a = a if found is None else found
    check_array(owner, name, a)
    if isinstance(a, np.ndarray):
        return np.asarray(a)
    if on_device(a):
        check_device(
            owner, "cuda", f"{name} on the host, got a device array", f"nz.device_array({name}).copy_to_host()"
        )
    return a


DEVICES: tuple[str, ...] = ("cpu", "cuda")


def check_device(owner: object, device: str, expected: str, instead: str) -> None:
    """Check that the owner has kernels for this device; an owner without `devices` has kernels for all."""
    if device not in getattr(owner, "devices", DEVICES):
        raise TypeError(f"{owner}: expected {expected}; this norm has no CUDA kernels, write {instead}")


def check_masks(owner: object, name: str, a: Any, takes: bool) -> bool:
    """Is `a` a selection (an array with values that do not count)? Only x may be one, and only if the norm accepts
    masks."""
    if not getattr(type(a), "is_selection", False):
        return False
    if name != "x":
        raise TypeError(f"{owner}: expected {name} to be a NumPy array, got one that `select` made; write {name}.x")
    if not takes:
        raise TypeError(
            f"{owner}: takes no mask, lengths, sample_weight or segments, got x with some (the class does not declare "
            "masks = True); write norm(x) with an x all of whose values count, as x[keep] of samples is"
        )
    return True


def on_device(a: Any) -> bool:
    """Is `a` the CUDA backend's own array?"""
    return getattr(type(a), "is_device_array", False)


def moved(a: Any, device: str) -> Any:
    """`a` on the device "cpu" or "cuda", copied if it is on the other."""
    if device == "cpu":
        return a.copy_to_host() if on_device(a) else a
    return a if on_device(a) else to_device(a)


def are_running(*arrays: Array) -> bool:
    """Can backends read these running statistics without conversion?"""
    return all(a.dtype in (np.float32, np.float64) and a.flags.c_contiguous and a.flags.aligned for a in arrays)


def is_counter(a: Any) -> bool:
    """Can compiled code increment this counter?"""
    return type(a) is np.ndarray and a.dtype == np.int64 and a.flags.carray


def backend_of(owner: object, **arrays: Any) -> str:
    """The name of the backend for these arrays: all must be NumPy arrays, or all on the device. Work goes to the stream
    of the first, and is of its library."""
    where = {name: on_device(a) for name, a in arrays.items() if a is not None}
    if not any(where.values()):
        return chosen()
    if not all(where.values()):
        host, device = (", ".join(n for n, there in where.items() if there == side) for side in (False, True))
        raise TypeError(
            f"{owner}: expected all arrays on the host or all on the device, got {device} on the device and {host} on "
            'the host; write norm.to("cuda"), or copy the arrays'
        )
    first = next(a for a in arrays.values() if a is not None)
    return f"cuda:{first.stream}:{first.library}"


def check_parameter(owner: object, name: str, a: Any, shape: tuple[int, ...]) -> None:
    """Check that `a` is None or a float array of `shape`."""
    if a is None:
        return
    check_array(owner, name, a)
    if a.shape != shape:
        raise ValueError(f"{owner}: expected {name} of shape {shape}, got {a.shape}")


def check_spread(owner: object, name: str, values: Array) -> Array:
    """Running variances or other measures of spread as float64, after checking that none is below 0."""
    if (values < 0).any():
        first = int(np.argmax(values.reshape(-1) < 0))
        raise ValueError(
            f"{owner}: expected {name} >= 0, got {float(values.reshape(-1)[first]):g} in channel {first}; these are no "
            "statistics of data: load others, or find them anew in training or by nz.recalibrate(norm, batches)"
        )
    return values.astype(np.float64)


def check_float_dtype(owner: object, dtype: Any) -> np.dtype:
    """A float dtype that parameters may have; None means float32, as in PyTorch's factory functions."""
    try:
        found = np.dtype(np.float32 if dtype is None else dtype)
    except TypeError:
        found = None
    if found is None or found.name not in FLOATS:
        raise TypeError(f"{owner}: expected dtype {', '.join(FLOATS[:-1])} or {FLOATS[-1]}, got {dtype!r}")
    return found


def compute_dtype(*dtypes: np.dtype | None) -> np.dtype:
    """float64 if any of the dtypes is, otherwise float32."""
    wide = any(d is not None and d.itemsize == 8 for d in dtypes)
    return np.dtype(np.float64 if wide else np.float32)


def storage_dtype(held: np.dtype, dtype: np.dtype) -> np.dtype:
    """The dtype in which a backend reads an array of dtype `held` to compute in `dtype`: 16-bit floats stay as they are
    if they are widened to float32."""
    return held if held.itemsize == 2 and held.isnative and dtype == np.float32 else dtype


def kernel_array(a: Array, dtype: np.dtype) -> Array:
    """`a` in `dtype` with native byte order, C-contiguous, aligned, of the base class; copied only if necessary."""
    if a.dtype != dtype or not a.flags.aligned:
        a = rounded(a, dtype)
    return np.ascontiguousarray(a) if isinstance(a, np.ndarray) else a.contiguous()


MANY = 1 << 19  # values, of which threads take a part each: starting them takes as long as adding a tenth of these


def shifted(a: Array, by: float, like: np.dtype) -> Array:
    """a + by, in the computing dtype for an x of dtype `like`."""
    wide = compute_dtype(a.dtype, like)
    if on_device(a):
        return a.plus(by, wide)  # type: ignore[attr-defined]
    order = sorted(range(a.ndim), key=lambda i: -abs(a.strides[i]))
    v = a.transpose(order)
    if a.size < MANY or not v.flags.c_contiguous:
        return a.astype(wide) + by
    found, count = empty(v.shape, wide), a.size // (MANY // 2)
    flat, target = v.reshape(-1), found.reshape(-1)

    def add(i: int) -> None:
        part = slice(a.size * i // count, a.size * (i + 1) // count)
        np.add(flat[part], by, out=target[part], dtype=wide)

    on_threads(add, range(count))
    return found.transpose(np.argsort(order))


def cast_like(d: Any, a: Array) -> Array:
    """A gradient, in the dtype of its array `a`."""
    return rounded(d, a.dtype, copy=False)


@quiet
def rounded(a: Any, dtype: np.dtype, copy: bool = True) -> Any:
    """`a` in `dtype`; C-contiguous if it is copied."""
    return a.astype(dtype, order="C" if copy else "K", copy=copy) if isinstance(a, np.ndarray) else a.astype(dtype)


SPACING = {np.dtype(dtype): float(np.finfo(dtype).eps) for dtype in (np.float32, np.float64)}


def eps_for(x: Array) -> float:
    """The eps of a norm that has None: the spacing at 1 of the floats x is computed in."""
    dtype = (x if type(x) is np.ndarray else base_array("eps", "x", x)).dtype
    found = SPACING.get(dtype)
    return SPACING[compute_dtype(dtype)] if found is None else found
