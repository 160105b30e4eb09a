"""The spine: `normalize` takes x through checks, view and backend; `Saved` goes back; `Norm` keeps the state."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from normzoo.arrays import (
    check_array,
    check_eps,
    check_float_dtype,
    check_out,
    check_parameter,
    compute_dtype,
    kernel_array,
    same_place,
)
from normzoo.backends import current
from normzoo.backends.contract import CONSTANT, Array, Moments
from normzoo.view import Axes, View, find_view, inverse


class Grads(NamedTuple):
    """Gradients of the loss; `weight` and `bias` are None where the norm has none."""

    x: Array
    weight: Array | None
    bias: Array | None


class Saved:
    """What one forward pass leaves for its backward pass. x, weight and bias are held, not copied: change them after
    the backward pass, not before."""

    def __init__(self, owner: object, x: Array, weight: Array | None = None, bias: Array | None = None) -> None:
        self._owner, self._weight, self._bias = owner, weight, bias
        self._shape, self._dtype, self._layout = x.shape, x.dtype, layout_of(x)
        self._source: Array | None = None  # x, where the backward pass reads x's own memory
        self._overwritten = False

    def backward(self, dy: Array, out: Array | None = None) -> Grads:
        """Gradients of x, weight and bias for the gradient `dy` of y.

        Args:
            dy: of x's shape, any float dtype, any strides.
            out: takes dx; an array like x, which may be dy or x itself.

        Raises:
            TypeError: dy or out is not a float array (or out's dtype not x's).
            ValueError: dy or out has another shape, or out overlaps an input in part.
            RuntimeError: x was overwritten by an in-place pass and is needed.
        """
        check_array(self._owner, "dy", dy)
        if dy.shape != self._shape:
            raise ValueError(f"{self._owner}: expected dy of x's shape {self._shape}, got {dy.shape}")
        check_out(self._owner, out, _Like(self._shape, self._dtype), (dy, self._source), (self._weight, self._bias))
        if self._overwritten:
            raise RuntimeError(
                f"{self._owner}: expected the x of the forward pass, but it was overwritten in place; "
                "call the forward pass with another out, or run backward once"
            )
        dx = empty_in_layout(self._shape, self._dtype, self._layout) if out is None else out
        if dy.size == 0:
            dweight, dbias = (None if p is None else np.zeros(p.shape, p.dtype) for p in (self._weight, self._bias))
        else:
            with np.errstate(all="ignore"):
                dweight, dbias = self._backward(dy, dx)
        if out is not None:
            self.overwrite(out)
        return Grads(dx, dweight, dbias)

    def _backward(self, dy: Array, dx: Array) -> tuple[Array | None, Array | None]:
        """Write dx; return dweight and dbias."""
        raise NotImplementedError

    def overwrite(self, out: Array) -> None:
        """`out` was written to: if that was x, it cannot be read again."""
        if self._source is not None and same_place(out, self._source):
            self._overwritten = True


class ViewSaved(Saved):
    """The `Saved` of a norm of the algebra.

    `mean`, `spread` and `rstd` are the statistics of every set, (b, c) float64; `copied` says that x had to be copied
    because neither its own order nor channels-last order fits the kernels.
    """

    def __init__(
        self,
        owner: object,
        x: Array,
        view: View,
        v: Array,
        copied: bool,
        weight: Array | None,
        bias: Array | None,
        moments: Moments,
        eps: float,
        stats: Array,
    ) -> None:
        super().__init__(owner, x, weight, bias)
        self._view, self._v, self._moments, self._eps = view, v, moments, eps
        self.copied = copied
        self.mean, self.spread, self.rstd = self._stats = stats
        needed = moments != CONSTANT or weight is not None
        if needed and np.may_share_memory(v, x):
            self._source = x

    def _backward(self, dy: Array, dx: Array) -> tuple[Array | None, Array | None]:
        view, weight, bias = self._view, self._weight, self._bias
        dtype = compute_dtype(self._v, dy)
        d, v = kernel_array(view.of(dy), dtype), kernel_array(self._v, dtype)
        w = _parameter(weight, view, dtype, 1.0)
        target = _target(dx, view, dtype)
        dweight, dbias = current().backward(d, v, self._stats, w, self._moments, self._eps, target)
        _deliver(target, dx, view)
        return _gradient(dweight, weight, view), _gradient(dbias, bias, view)


class PulledBack(Saved):
    """The `Saved` of a norm outside the algebra: a function from dy to dx, both float64."""

    def __init__(self, owner: object, x: Array, pull: Callable[[Array], Array]) -> None:
        super().__init__(owner, x)
        self._pull = pull

    def _backward(self, dy: Array, dx: Array) -> tuple[None, None]:
        dx[...] = self._pull(dy.astype(np.float64))
        return None, None


class _Like(NamedTuple):
    """The shape and dtype of an array that need not exist."""

    shape: tuple[int, ...]
    dtype: np.dtype


def normalize(
    owner: object,
    x: Array,
    axes: Axes,
    weight: Array | None,
    bias: Array | None,
    moments: Moments,
    eps: float,
    out: Array | None = None,
    stats: tuple[Array, Array] | None = None,
) -> tuple[Array, ViewSaved]:
    """y and what its backward pass needs: the one way from any norm of the algebra to a backend.

    Args:
        owner: whose str() begins error messages.
        x: a float array, already checked against `axes`.
        axes: the letters of x's axes.
        weight, bias: None, or arrays that span the capital letters of `axes`.
        stats: (mean, variance) to use instead of x's own: arrays of one value a set, in the order of the sets, or
            one that repeats over the leading ones.
    """
    check_out(owner, out, x, (x,), (weight, bias))
    if weight is None and bias is None:
        axes = axes._replace(letters=axes.letters.lower())
    dtype = compute_dtype(x, weight, bias, *(stats or ()))
    view, copied = find_view(axes, x)
    v = kernel_array(view.of(x), dtype)
    y = empty_in_layout(x.shape, x.dtype, layout_of(x)) if out is None else out
    b, _, c, _ = view.dims
    if stats is not None:
        moments, found = CONSTANT, given_stats(stats, eps, b, c)
    if x.size == 0:
        found = np.zeros((3, b, c)) if stats is None else found
        return y, ViewSaved(owner, x, view, v, copied, weight, bias, moments, eps, found)
    w, a = _parameter(weight, view, dtype, 1.0), _parameter(bias, view, dtype, 0.0)
    target = _target(y, view, dtype)
    with np.errstate(all="ignore"):
        if stats is None:
            found = current().forward(v, w, a, moments, eps, target)
        else:
            current().apply(v, found, w, a, target)
        saved = ViewSaved(owner, x, view, v, copied, weight, bias, moments, eps, found)
        _deliver(target, y, view)
    if out is not None:
        saved.overwrite(out)
    return y, saved


def given_stats(stats: tuple[Array, Array], eps: float, b: int, c: int) -> Array:
    """(3, b, c) from a mean and a variance that are given."""
    mean, variance = (np.asarray(s, np.float64).reshape(-1) for s in stats)
    with np.errstate(all="ignore"):
        root = np.sqrt(variance + eps)
        rstd = np.divide(1.0, root, out=np.zeros_like(root), where=root != 0)
        return np.stack([np.resize(s, b * c).reshape(b, c) for s in (mean, variance, rstd)])


def layout_of(x: Array) -> tuple[int, ...]:
    """x's axes, outermost in memory first."""
    if x.flags.c_contiguous:
        return tuple(range(x.ndim))
    return tuple(sorted(range(x.ndim), key=lambda i: -abs(x.strides[i])))


def empty_in_layout(shape: tuple[int, ...], dtype: np.dtype, layout: tuple[int, ...]) -> Array:
    """A new dense array whose axes lie in memory in the order `layout`."""
    return np.empty([shape[i] for i in layout], dtype).transpose(inverse(layout))


def _target(y: Array, view: View, dtype: np.dtype) -> Array:
    """Where a kernel writes: y's own memory as (b, m, c, n) if y lies so, else a workspace; see `_deliver`."""
    if y.dtype == dtype and y.flags.aligned and y.transpose(view.order).flags.c_contiguous:
        return np.asarray(view.of(y))
    return np.empty(view.dims, dtype)


def _deliver(target: Array, y: Array, view: View) -> None:
    """Copy a workspace to y, where `_target` had to make one."""
    if not np.may_share_memory(target, y):
        y.transpose(view.order)[...] = target.reshape([y.shape[i] for i in view.order])


def _parameter(p: Array | None, view: View, dtype: np.dtype, value: float) -> Array:
    """A parameter for a kernel; an absent one is `value` throughout."""
    if p is None:
        return _constant(view.parameter_dims, dtype, value)
    return kernel_array(view.parameter(p), dtype)


@lru_cache(maxsize=64)
def _constant(shape: tuple[int, ...], dtype: np.dtype, value: float) -> Array:
    return np.full(shape, value, dtype)


def _gradient(d: Array, parameter: Array | None, view: View) -> Array | None:
    return None if parameter is None else view.gradient(d, parameter.shape).astype(parameter.dtype)


def eps_for(x: Array, eps: float | None) -> float:
    """eps, or with None the spacing at 1 of the floats x is computed in."""
    return float(np.finfo(compute_dtype(x)).eps) if eps is None else eps


def entry(kind: str, name: str) -> property:
    """An attribute that is an entry of `params` or `buffers`, or None where there is none."""

    def get(self: "Norm") -> Array | None:
        return getattr(self, kind).get(name)

    def put(self: "Norm", value: Array) -> None:
        held = getattr(self, kind)
        if name not in held:
            raise ValueError(f"{self}: has no {name} to set; create the norm with one")
        check_array(self, name, value)
        check_parameter(self, name, value, held[name].shape)
        held[name] = value

    return property(get, put)


class Norm:
    """A normalization layer: parameters, buffers, and the last forward pass.

    A norm of the algebra declares `moments` and `axes`; see "Add your own norm" in the README.

    Attributes:
        params, grads, buffers: dicts name -> array. The entries are attributes too: norm.weight is
            norm.params["weight"], or None where the norm has none.
        training: whether statistics that are tracked are taken from x and updated.
        saved: the `Saved` of the last call, or None.
    """

    moments: ClassVar[Moments] = Moments()
    eps: float | None  # None: by the dtype of x, see `eps_for`

    weight = entry("params", "weight")
    bias = entry("params", "bias")

    def __init__(
        self,
        *arguments: Any,
        shape: tuple[int, ...] = (),
        eps: float | None = 1e-5,
        weight: bool = True,
        bias: bool = True,
        dtype: Any = np.float32,
    ) -> None:
        """Set up a norm shown as Name(*arguments), with parameters of `shape`: ones and zeros of `dtype`."""
        self._arguments = arguments
        self.params: dict[str, Array] = {}
        self.grads: dict[str, Array] = {}
        self.buffers: dict[str, Array] = {}
        self.training = True
        self.saved: Saved | None = None
        self.eps = None if eps is None else check_eps(self, eps)
        dtype = check_float_dtype(self, dtype)
        if weight:
            self.params["weight"] = np.ones(shape, dtype)
        if bias:
            self.params["bias"] = np.zeros(shape, dtype)
        self._shape = shape

    def axes(self, x: Array) -> Axes:
        """Check x's shape and say how its axes are used."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it uses the axes of x")

    def forward(self, x: Array, out: Array | None = None) -> tuple[Array, Saved]:
        """y and what backward needs, without keeping it: one layer may be in flight many times.

        Args:
            x: float array of a shape the norm accepts, any strides.
            out: takes y; an array like x, which may be x itself.

        Raises:
            TypeError: x or out is not a float array (or out's dtype not x's).
            ValueError: a shape or value does not fit, or out overlaps an input in part.
        """
        check_array(self, "x", x)
        axes = self.axes(x)
        self._check_params()
        return normalize(self, x, axes, self.weight, self.bias, self.moments, eps_for(x, self.eps), out)

    def __call__(self, x: Array, out: Array | None = None) -> Array:
        """y = norm(x); keeps what `backward` needs in `saved`. See `forward`."""
        y, self.saved = self.forward(x, out)
        return y

    def backward(self, dy: Array, out: Array | None = None) -> Array:
        """dx for the gradient `dy` of the last y; puts the parameters' gradients into `grads`. See `Saved.backward`."""
        if self.saved is None:
            raise RuntimeError(f"{self}: expected a forward pass before backward; write y = norm(x) first")
        found = self.saved.backward(dy, out)
        self.grads = {name: getattr(found, name) for name in self.params}
        return found.x

    def train(self, mode: bool = True) -> Self:
        """Training mode (or evaluation mode); returns the norm."""
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Evaluation mode; returns the norm."""
        return self.train(False)

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters and buffers, under PyTorch's names."""
        return {name: value.copy() for name, value in (self.params | self.buffers).items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copy `state` into the parameters and buffers: all of it or, if anything does not fit, nothing.

        A missing num_batches_tracked keeps its value, as in PyTorch.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"{self}: expected state to be a dict of arrays, got {type(state).__name__}")
        held = self.params | self.buffers
        missing = [name for name in held if name not in state and name != "num_batches_tracked"]
        unexpected = [name for name in state if name not in held]
        if missing or unexpected:
            raise ValueError(f"{self}: expected state with {list(held)}, got {missing=}, {unexpected=}")
        for name, value in state.items():
            if name == "num_batches_tracked":
                if not isinstance(value, np.ndarray | np.integer | int) or np.asarray(value).dtype.kind not in "iu":
                    raise TypeError(f"{self}: expected num_batches_tracked to be an integer, got {value!r}")
                if np.shape(value) != ():
                    raise ValueError(f"{self}: expected num_batches_tracked of shape (), got {np.shape(value)}")
            else:
                check_array(self, name, value)
                check_parameter(self, name, value, held[name].shape)
        with np.errstate(over="ignore"):
            for name, value in state.items():
                held[name][...] = value

    def _check_params(self) -> None:
        for name, value in self.params.items():
            check_parameter(self, name, value, self._shape)

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(str, self._arguments))})"

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._options().items())
        return f"{str(self)[:-1]}, {options})"

    def _options(self) -> dict[str, Any]:
        """What repr shows behind the arguments."""
        return {"eps": self.eps}
