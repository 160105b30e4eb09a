"""Spectral normalization: divide a weight matrix by its largest singular value."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.backends.forms import Formula
from normzoo.backends.subnormals import in_any_mode
from normzoo.passes.arrays import check_array, check_parameter
from normzoo.passes.attributes import entry
from normzoo.passes.cells import Beyond, Pass, summing
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import reciprocal, unit
from normzoo.passes.numbers import check_axis, check_shape, check_size
from normzoo.passes.saved import Pull, Saved
from normzoo.statistics.running_state import RunningState
from normzoo.zoo.exact import ExactNorm, Update

SET_UP = 15  # number of iterations for random vectors, as in PyTorch
LEAST = {8: 1e-100, 4: 1e-20}  # by bytes of the type: lengths above this have products that do not vanish

Product = Callable[[Array], Array]  # of the matrix, or of its transpose, with a vector


def _product(x: Any, factor: Any) -> tuple[Any, ...]:
    return (x * factor,)


def _products(dy: Any, x: Any) -> tuple[Any, ...]:
    return (dy * x,)


def _gradient(dy: Any, _x: Any, inverse: Any, u: Any, v: Any) -> tuple[Any, ...]:
    return (dy * inverse - u * v,)


SCALED, BY_ROW, BY_COLUMN = Formula(_product, 1, 1), Formula(_product, 1, 0, ("b",)), Formula(_product, 1, 0, ("c",))
PRODUCTS, GRADIENT = Formula(_products, 2, 0, ("",)), Formula(_gradient, 2, 1)


class SpectralNorm(ExactNorm):
    """Spectral normalization: divide a weight matrix by its largest singular value.

    Formula:
        y = x / sigma, with sigma = u^T @ W @ v and W the matrix of x with `dim` as its rows and all other axes as its
        columns. In training, n_power_iterations steps u = W @ v, v = W^T @ u come first, each divided by its length (or
        eps, if larger). With `exact`, u and v are the singular vectors themselves. The gradient treats u and v as
        constants; at the singular vectors it is that of the singular value (or one of its subgradients, if the singular
        value is not simple).

    Shapes:
        x, y: `shape`. u: (rows,). v: (columns,). x of rank 1 is divided by its length (or eps), without u and v.

    Args:
        shape: shape of x, an integer or a tuple.
        n_power_iterations: 1 or more, in each call in training.
        eps: the smallest length that u and v are divided by.
        dim: the axis of the outputs; 1 for a transposed convolution.
        exact: True: sigma is computed by a singular value decomposition (LAPACK's), without state.
        seed: random seed of the initial u and v, which are unit vectors.
        dtype: dtype of u and v: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: x has another shape. TypeError: x is not a float array. Nothing has changed then.

    PyTorch names u and v _u and _v (weight_u and weight_v in its older form), and iterates 15 times when the norm is
    created for a weight. Here the first x is that weight: while u and v are the initial random ones, 15 more iterations
    are run, also in evaluation, which does not keep the result. `iterate(x)` runs iterations and keeps their result. In
    PyTorch, as in the paper, an x of zeros gives NaN; here it gives zeros. Keras and Flax keep only u and iterate from
    it.

    Source:
        T. Miyato, T. Kataoka, M. Koyama and Y. Yoshida, "Spectral Normalization for Generative Adversarial Networks",
        2018, arXiv:1802.05957; semantics of torch.nn.utils.parametrizations.spectral_norm.

    >>> import numpy as np, normzoo as nz
    >>> nz.SpectralNorm((2, 2), exact=True)(np.array([[4, 0], [0, 2]], np.float32))
    array([[1. , 0. ],
           [0. , 0.5]], dtype=float32)
    """

    u = entry("buffers", "u")
    v = entry("buffers", "v")

    def __init__(
        self,
        shape: int | tuple[int, ...],
        n_power_iterations: int = 1,
        eps: float = 1e-12,
        dim: int = 0,
        *,
        exact: bool = False,
        seed: int = 0,
        dtype: Any = np.float32,
    ) -> None:
        self.shape = check_shape("SpectralNorm", "shape", shape)
        self.n_power_iterations = check_size("SpectralNorm", "n_power_iterations", n_power_iterations, least=1)
        self.dim = check_axis("SpectralNorm", dim, len(self.shape), "dim")
        super().__init__(self.shape, self.n_power_iterations, eps=eps, weight=False, bias=False, dtype=dtype)
        self.exact, self.seed = bool(exact), check_size(self, "seed", seed)
        if len(self.shape) > 1 and not self.exact:
            rows, columns = matrix_of(self.dim, np.empty(self.shape)).shape
            rng = np.random.default_rng(self.seed)
            for name, size in (("u", rows), ("v", columns)):
                self.buffers[name] = self._unit(rng.standard_normal(size), self.eps).astype(self._dtype)
        self._random = {name: a.copy() for name, a in self.buffers.items()}

    @in_any_mode
    def iterate(self, x: Array, n_power_iterations: int = SET_UP) -> None:
        """For authors of norms: move u and v closer to the singular vectors of x."""
        check_array(self, "x", x)
        check_parameter(self, "x", x, self.shape)
        n_power_iterations = check_size(self, "n_power_iterations", n_power_iterations)
        if "u" in self.buffers and x.size:
            with np.errstate(all="ignore"):
                try:
                    cells = summing(x, self.letters(x))
                    self._keep(sums_of(cells), n_power_iterations, self.eps or 0.0, LEAST[cells.dtype.itemsize])
                except Beyond:
                    wide = x.astype(np.float64)
                    one = float(unit(wide, tuple(range(x.ndim)), self.eps).ravel()[0])
                    w = matrix_of(self.dim, wide * one)
                    self._keep(products_of(w), n_power_iterations, self.eps * one)

    def _keep(
        self, products: tuple[Product, Product], times: int, least: float, least_sigma: float | None = None
    ) -> None:
        """New u and v, unless sigma is too small for the type that they are computed in."""

        def new(*old: Array) -> tuple[Array, Array]:
            u, v, sigma = self._iterated(*products, times, least, old)
            if least_sigma is not None and not np.abs(sigma) >= least_sigma:
                raise Beyond
            return u, v

        RunningState(self.buffers["u"], self.buffers["v"]).replace(new)

    def forward(self, x: Array, out: Array | None = None, *, update_stats: bool = True) -> tuple[Array, Saved]:
        """See `Norm.forward`.

        Args:
            update_stats: False leaves u and v unchanged; y is the same.
        """
        return self.exactly(x, out, update_stats=update_stats)

    def check(self, x: Array, **inputs: Array) -> None:
        check_parameter(self, "x", x, self.shape)

    def compute(
        self, x: Array, params: Mapping[str, Array], **inputs: Array
    ) -> tuple[Array, Pull] | tuple[Array, Pull, Update | None]:
        if x.size == 0:
            return x, lambda dy: {"x": dy}
        if x.ndim == 1:
            return self._vector(x)
        one = float(unit(x, tuple(range(x.ndim)), self.eps or 0.0).ravel()[0])
        w, least = matrix_of(self.dim, x if one == 1 else x * one), self.eps * one
        update: Update | None = None
        if self.exact:
            u, v = leading(w)
            inverse = reciprocal((u * np.einsum("ij,j->i", w, v)).sum())
        else:
            u, v, sigma, update = self._now(*products_of(w), least)
            inverse = reciprocal(sigma)
        y = w * inverse
        dim = self.dim
        moved = [x.shape[dim], *(n for i, n in enumerate(x.shape) if i != dim)]

        def placed(a: Array) -> Array:
            return np.moveaxis(a.reshape(moved), 0, dim)

        def pull(dy: Array) -> dict[str, Array]:
            g = matrix_of(dim, dy)
            dx = np.multiply.outer(-np.einsum("ij,ij->i", g, y).sum() * u, v)  # in place: it has the size of x
            dx += g
            dx *= inverse * one
            return {"x": placed(dx)}

        return placed(y), pull, update

    def letters(self, x: Array) -> str:
        if self.exact or x.ndim == 1:
            return ""
        return "".join("b" if i == self.dim else "c" for i in range(x.ndim))

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        u, v, sigma, update = self._now(*sums_of(cells), self.eps or 0.0)
        if not np.abs(sigma) >= LEAST[cells.dtype.itemsize]:
            raise Beyond
        inverse = 1 / sigma
        if update is not None:
            cells.track(update)
        cells(SCALED, inverse)

        def pull(cells: Pass) -> dict[str, Array]:
            total = cells(PRODUCTS)[0].item() * inverse
            cells(GRADIENT, inverse, (total * inverse * u)[:, None], v[None])
            return {}

        return pull

    def _now(self, along: Product, across: Product, least: float) -> tuple[Array, Array, Array, Update | None]:
        """u, v and sigma of this pass, and the update that keeps them."""
        held = RunningState(*(self.buffers[name] for name in ("u", "v"))).read()
        times = self.n_power_iterations if self.training else 0
        if all(np.array_equal(a, random) for a, random in zip(held, self._random.values(), strict=True)):
            times += SET_UP
        u, v, sigma = self._iterated(along, across, times, least, held)
        new = {"u": u, "v": v}
        return u, v, sigma, (lambda old: new) if self.training else None

    def _vector(self, x: Array) -> tuple[Array, Pull]:
        one = unit(x, 0, self.eps or 0.0)
        x = x * one
        length, least = np.sqrt((x * x).sum()), self.eps * float(one[0])
        inverse = reciprocal(np.maximum(length, least))
        y = x * inverse
        return y, lambda dy: {"x": inverse * (dy - (0.0 if length < least else (dy * y).sum()) * y) * one}

    def _unit(self, a: Array, least: float = 0.0) -> Array:
        return a * reciprocal(np.maximum(np.sqrt((a * a).sum()), least))

    def _iterated(
        self, along: Product, across: Product, times: int, least: float, held: Sequence[Array]
    ) -> tuple[Array, Array, Array]:
        """u, v and u^T W v, by W v and W^T u: the last of these is v, but for its length."""
        u, v = (a.astype(np.float64) for a in held)
        if not times:
            return u, v, (u * along(v)).sum()
        for _ in range(times):
            u = self._unit(along(v), least)
            found = across(u)
            v = self._unit(found, least)
        return u, v, (found * v).sum()

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"dim": self.dim, "exact": self.exact, "seed": self.seed}


def matrix_of(dim: int, x: Array) -> Array:
    """x with `dim` as its rows and all other axes as its columns."""
    return np.moveaxis(x, dim, 0).reshape(x.shape[dim], -1)


def sums_of(cells: Pass) -> tuple[Product, Product]:
    """The same of x in a pass."""
    return (
        lambda v: cells(BY_ROW, v[None])[0].reshape(-1),
        lambda u: cells(BY_COLUMN, u[:, None])[0].reshape(-1),
    )


def products_of(w: Array) -> tuple[Product, Product]:
    """The functions v -> w v and u -> w^T u."""
    return partial(np.einsum, "ij,j->i", w), partial(np.einsum, "ij,i->j", w)


def leading(w: Array) -> tuple[Array, Array]:
    """The singular vectors of the largest singular value; NaN if w is not finite."""
    if not np.isfinite(w).all():
        return np.full(w.shape[0], np.nan), np.full(w.shape[1], np.nan)
    left, _, right = np.linalg.svd(w, full_matrices=False)
    return left[:, 0], right[0]
