"""The plan of a pass: everything that depends only on shapes, dtypes and memory layout, computed once.

A call makes a key of the shapes, dtypes and flags of its arrays and of the norm's declaration. The first call with a
key checks it and stores the plan; later calls run the plan. A plan does not change, except that it may get a shortcut,
so threads can share it.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np

from normzoo.backends import backend
from normzoo.backends.around import ALONE, Around
from normzoo.backends.contract import CONSTANT, Array, Kind, Memory, Sampler, Shortcut
from normzoo.backends.samples import kept_shape, samples_of
from normzoo.passes.arrays import compute_dtype, kernel_array, quiet, rounded, storage_dtype
from normzoo.passes.form import Signature
from normzoo.passes.totals import totals
from normzoo.passes.view import Axes, View, find_view, inverse

ENOUGH = 1000  # passes of a plan before its shortcut is made: loading its code takes 3 ms, compiling it 0.2 to 0.4 s
SOME = 20  # passes before values are sampled by compiled code: loading it takes 1 ms, compiling it 30 ms

# Bits of ndarray.flags.num. Reading that one attribute takes 0.1 us; reading a flag by name takes as long for each.
CONTIGUOUS, ALIGNED = 0x1, 0x100
READY = CONTIGUOUS | ALIGNED  # flags that backends require of arrays

Made = TypeVar("Made")
Asked = ParamSpec("Asked")


class Plan:
    """How arrays of x's shape are passed to a backend in its memory layout, and how results are returned.

    Attributes:
        view: see `View`.
        name, memory: the backend, and where its arrays come from.
        dtype, store: what is computed in, and what the backend reads and writes arrays of x's shape in.
        as_is: x (dy in a backward plan) is read where it lies; else see `take`.
        new_small: what makes small arrays.
        new, memory_shape, result: y (or dx) is new(memory_shape, result): its axes in the order of memory.
        direct: such an array is itself what the backend writes, and
        plain: its axes are in order; else see `target`.
        weight_as_is, ones, zeros: a weight is read where it lies; absent parameters.
        around: what stands around the norm; None: nothing.
        run: the backend's callable.
        shortcut: see `Backend.forward_shortcut`; None: not looked for yet, False: there is none.
        uses: passes run without a shortcut.
    """

    __slots__ = (
        "around", "as_is", "back", "bias_as_is", "direct", "dtype", "key", "memory", "memory_shape", "name", "new",
        "new_small", "ones", "plain", "result", "run", "shape", "shortcut", "store", "uses", "view", "weight_as_is",
        "zeros",
    )  # fmt: skip

    around: Around | None
    key: tuple
    run: Any
    shortcut: Shortcut | Literal[False] | None
    dtype: np.dtype
    store: np.dtype
    memory: Memory

    def place(self, name: str, shape: tuple[int, ...], result: np.dtype, layout: tuple[int, ...], view: View) -> None:
        """Set where results of this shape and dtype go, with their axes in memory in the order `layout`."""
        self.name, self.memory = name, backend(name).memory
        self.shortcut, self.uses = None, 0
        self.shape, self.result, self.view = shape, result, view
        self.memory_shape = tuple(shape[i] for i in layout)
        self.back = None if list(layout) == sorted(layout) else inverse(layout)
        in_order = [[i for i in order if shape[i] != 1] for order in (layout, view.order)]
        self.direct = result == self.store and in_order[0] == in_order[1]
        self.plain = self.direct and self.back is None
        self.new, self.new_small = self.memory.allocator(shape, result), self.memory.allocator((0,), result)

    def parameters(self, weight: Kind | None, bias: Kind | None) -> None:
        """Set how parameters of these kinds are read."""
        self.weight_as_is, self.bias_as_is = (
            p is not None and self.view.pieces_straight and p[1] == self.dtype and p[2] & READY == READY
            for p in (weight, bias)
        )
        dims = self.view.parameter_dims
        self.ones = None if weight else _constant(self.name, dims, self.dtype, 1.0)
        self.zeros = None if bias else _constant(self.name, dims, self.dtype, 0.0)

    def take(self, a: Array) -> Array:
        """An array of x's shape, as the backend reads it."""
        return kernel_array(self.view.of(a), self.store)

    def parameter(self, p: Array) -> Array:
        """A parameter, as the backend reads it."""
        return kernel_array(self.view.parameter(p), self.dtype)

    def target(self, out: Array | None) -> tuple[Array, Array, bool]:
        """The result (`out` if not None), the array that the backend writes, and whether that must be copied to the
        result."""
        if out is None:
            made = self.new(self.memory_shape, self.result)
            y = made if self.back is None else made.transpose(self.back)
            if self.direct:
                return y, made, False
        elif self.plain and type(out) is np.ndarray and out.flags.num & READY == READY:
            return out, out, False
        else:
            y = out
            placed = self.view.of(y)
            if y.dtype == self.store and placed.flags.num & READY == READY:
                return y, np.asarray(placed) if isinstance(placed, np.ndarray) else placed, False
        return y, self.memory.empty(self.view.dims, self.store), True

    @quiet
    def deliver(self, target: Array, y: Array) -> None:
        """Copy to the result what the backend wrote to another array."""
        y.transpose(self.view.order)[...] = target.reshape([self.shape[i] for i in self.view.order])


class ForwardPlan(Plan):
    """The plan of a forward pass.

    Attributes:
        copied: x must be copied: neither its own order nor channels-last order fits the kernels.
        axes: axes of x.
        used: the axes of `view`: `axes` or, if statistics are given, `axes.merged`.
        expected: shape of the parameters.
        like: shape and dtype of x.
        weight, bias: None, or their kinds.
        kinds: those of x, weight and bias; None where not all is read and written where it lies, or statistics are
            known.
        known: the statistics are given, or those that an earlier pass found.
        adds: the residual is added before the backend gets x, as what it stores is not of x's dtype.
        takes_beside: `run` takes what stands around the norm.
        tracked: the shortcut that updates running statistics.
        recent_back: the plan of the last backward pass.
        reads_x: the backward pass reads x's own memory.
        samples: samples x and weight, to detect later whether they changed before the backward pass; or None.
        stats_shape: (3, b, c); kept_shape: see `samples.kept_shape`.
        sets_shape: (b, c) of the norm's own sets; several of them share given statistics.
    """

    __slots__ = (
        "adds", "axes", "bias", "copied", "expected", "kept_shape", "kinds", "known", "layout", "like", "moments",
        "reads_x", "recent_back", "samples", "sets_shape", "stats_shape", "takes_beside", "tracked", "used", "weight",
    )  # fmt: skip

    samples: Sampler | None
    tracked: Shortcut | Literal[False] | None

    def __init__(
        self,
        axes: Axes,
        key: tuple,  # a `Signature`
    ) -> None:
        self.axes, self.key = axes, key
        asked = Signature(*key)
        moments, name, given, known = asked.moments, asked.backend, asked.given, asked.known
        (shape, dtype, flags), strides, weight, bias = asked.x, asked.strides, asked.weight, asked.bias
        self.like, self.weight, self.bias = (shape, dtype), weight, bias
        expected = axes.parameter_shape if asked.parameter_shape is None else asked.parameter_shape
        self.expected = expected
        learned = asked.around is not None and asked.around.behind == "learned"
        spans = weight is not None or bias is not None or learned
        if spans and prod(expected) != prod(axes.parameter_shape):
            raise ValueError(f"axes {axes} span parameters of shape {axes.parameter_shape}, not {expected}")

        def viewed(axes: Axes) -> tuple[View, bool]:
            letters = axes.letters if spans else axes.letters.lower()
            return find_view(axes._replace(letters=letters), shape, strides, dtype.itemsize)

        self.used = axes if given is None else axes.merged
        view, self.copied = viewed(self.used)
        own = view if self.used is axes else viewed(axes)[0]
        if prod(view.dims) != prod(shape):
            raise ValueError(f"axes {axes} do not fit x of shape {shape}")
        self.dtype = compute_dtype(dtype, *(p[1] for p in (weight, bias) if p is not None), *(given or ()))
        self.store = storage_dtype(dtype, self.dtype)
        # x's axes, outermost in memory first
        straight = tuple(range(len(shape)))
        self.layout = straight if strides is None else tuple(sorted(straight, key=lambda i: -abs(strides[i])))
        self.place(name, shape, dtype, self.layout, view)
        self.parameters(weight, bias)
        shares = not self.copied and flags & ALIGNED != 0 and dtype == self.store
        self.as_is = shares and view.straight and strides is None
        straight_in = self.as_is and (weight is None or self.weight_as_is) and (bias is None or self.bias_as_is)
        usual = straight_in and self.plain and not known and prod(shape) > 0
        self.kinds = ((shape, dtype, flags), weight, bias) if usual else None
        self.tracked, self.recent_back = None, None
        self.moments = moments if given is None else CONSTANT
        self.known = known or given is not None
        self.around, around = asked.around, asked.around or ALONE
        self.adds = around.residual and dtype != self.store
        if self.adds:
            around = around._replace(residual=False)
        self.takes_beside = around != ALONE
        self.reads_x = shares and (self.moments is not CONSTANT or weight is not None or self.around is not None)
        dims, parameter_dims = view.dims, view.parameter_dims
        self.stats_shape = (3, dims[0], dims[2])
        self.sets_shape = own.dims[0], own.dims[2]
        self.kept_shape = kept_shape(self.stats_shape, 1 if self.around is None else 2)
        size = prod(shape)
        self.samples = samples_of if self.reads_x and size else None
        if size == 0:
            self.run = _nothing if self.known else self._nothing
        elif not self.known:
            self.run = backend(name).forward(dims, parameter_dims, moments, self.dtype, self.store, around)
        else:
            self.run = backend(name).apply(dims, parameter_dims, self.dtype, self.store, around)

    def shorten(self, running: tuple[Kind | None, Kind | None] = (None, None)) -> None:
        """Find the shortcut for later passes. They update running statistics of these kinds, if these are not None."""
        made: Shortcut | Literal[False] = False
        if self.kinds is not None and not self.known:
            make, view, kinds = backend(self.name).forward_shortcut, self.view, (*self.kinds, *running)
            task = view.dims, view.parameter_dims, self.moments, self.dtype, self.store, kinds
            made = optional(make, *task, self.around or ALONE) or False
        if running == (None, None):
            self.shortcut = made
        else:
            self.tracked = made

    def watch(self) -> None:
        """From now on, sample x and weight by compiled code."""
        if self.samples is samples_of and (self.weight is None or self.weight_as_is):
            made = optional(backend(self.name).sampler, self.view.dims, self.store, self.weight)
            self.samples = made or samples_of

    def _nothing(self, *arrays: Any) -> Array:
        return self.memory.full(self.stats_shape, np.dtype(np.float64), 0.0)

    def __reduce__(self) -> tuple:
        return ForwardPlan, (self.axes, self.key)


class BackwardPlan(Plan):
    """The plan of a backward pass.

    Attributes:
        kind: kind of dy.
        x_as_is: x is passed as in the forward pass; else it is converted to `store`.
        gradient_shape: dweight and dbias are allocated by new_small(gradient_shape, dtype),
        wanted: is each of dweight and dbias allocated? (Backends that give both in any case get both.)
        weight_given, bias_given, gives_both: and are returned without conversion; else see `gradient`.
    """

    __slots__ = (
        "bias_given", "expected", "gives_both", "gradient_shape", "kind", "moments", "wanted", "weight_given",
        "x_as_is",
    )  # fmt: skip

    def __init__(self, plan: ForwardPlan, name: str, dtype: np.dtype, flags: int, ds: np.dtype | None = None) -> None:
        view, weight, bias = plan.view, plan.weight, plan.bias
        self.dtype = compute_dtype(plan.dtype, dtype, ds)
        narrow = self.dtype == plan.dtype and dtype == plan.store and ds in (None, dtype)
        self.store = plan.store if narrow else self.dtype
        around = (plan.around or ALONE)._replace(residual=False, ds=ds is not None)  # of s all is known
        self.around = None if around == ALONE else around
        self.x_as_is = self.store == plan.store
        self.place(name, plan.shape, plan.result, plan.layout, view)
        self.parameters(weight, bias)
        self.as_is = view.straight and flags & READY == READY and dtype == self.store
        self.kind, self.moments = (plan.shape, dtype, flags), plan.moments
        self.expected = plan.expected
        straight = view.pieces_straight and (weight is not None or bias is not None)
        self.gradient_shape = self.expected if straight else view.parameter_dims
        self.new_small = self.memory.allocator(self.gradient_shape, self.dtype)
        self.weight_given, self.bias_given = (straight and p is not None and p[1] == self.dtype for p in (weight, bias))
        self.gives_both = self.weight_given and self.bias_given
        all_of = not backend(name).gives_some
        self.wanted = all_of or weight is not None, all_of or bias is not None
        if prod(view.dims) == 0:
            self.run = _zeros
        else:
            task = view.dims, view.parameter_dims, plan.moments, self.dtype, self.store
            self.run = backend(name).backward(*task, around)

    def shorten(self) -> None:
        """Find the shortcut, as in a `ForwardPlan`."""
        straight = self.as_is and self.x_as_is and self.plain and (self.ones is not None or self.weight_as_is)
        around = self.around or ALONE
        straight = straight and (not around.is_behind or self.zeros is not None or self.bias_as_is)
        make, view = backend(self.name).backward_shortcut, self.view
        given = self.ones is None, self.zeros is None
        task = view.dims, view.parameter_dims, self.moments, self.dtype, self.store, self.kind, given
        self.shortcut = (straight and prod(view.dims) > 0 and optional(make, *task, around)) or False

    def total(self, d: Array) -> Array:
        """The sums of an array of x's shape, as the backend reads it, over what a parameter does not span; float64 of
        the parameter's view."""
        return totals(self.name, self.view.dims, self.view.parameter_dims, self.store)(d)

    def gradient(self, d: Array, parameter: Array | None) -> Array | None:
        """A parameter's gradient, as it is returned to the caller."""
        if parameter is None:
            return None
        return rounded(self.view.gradient(d, self.expected), parameter.dtype)


def optional(make: Callable[Asked, Made | None], *asked: Asked.args, **named: Asked.kwargs) -> Made | None:
    """An optional part of a backend: make(...), or None if it makes none or fails."""
    try:
        return make(*asked, **named)
    except Exception as error:
        found = f"{type(error).__name__}: {error}".splitlines()[0]
    warnings.warn(
        f"normzoo: small passes take longer than they need to, as their shortcut cannot be compiled here ({found})",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


@lru_cache(maxsize=64)
def _constant(name: str, shape: tuple[int, ...], dtype: np.dtype, value: float) -> Array:
    return backend(name).memory.full(shape, dtype, value)


def _nothing(*arrays: Any) -> None:
    """A forward pass over arrays without values."""


def _zeros(*arrays: Any) -> None:
    """The backward pass over arrays without values."""
    for d in arrays[6:8]:  # of weight and bias
        if d is not None:
            d[...] = 0
