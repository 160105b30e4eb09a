"""Orthogonal weights: the orthogonal matrix that a QR decomposition or a Cayley map makes of a weight matrix."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import check_array
from normzoo.passes.cells import Beyond, Pass
from normzoo.passes.cells import Pull as CellPull
from normzoo.passes.formulas import BLOCK, FAR, ON_THREADS, product
from normzoo.passes.numpy_threads import on_threads
from normzoo.passes.saved import Pull
from normzoo.zoo.exact import ExactNorm

MAPS = ("qr", "cayley")
LARGE = 1e100  # values below it, and above its inverse, have products in float64
NEARLY = 1e-2  # errors that one more step takes away
STEP = 48  # columns that are decomposed in one step
SMALL = 1e-10  # an error that is nothing in float32


class OrthogonalWeight(ExactNorm):
    """Orthogonal weights: the orthogonal matrix that a QR decomposition or a Cayley map makes of a weight matrix.

    Formula:
        W is x as a matrix of x.shape[0] rows; if it has more columns than rows, both are transposed.
        "qr": y = Q, with W = Q @ R and the diagonal of R positive: the columns of W are orthonormalized one after
        another.
        "cayley": y = the first columns of (I - A/2)^-1 @ (I + A/2), with A = L - L^T and L the lower triangle of W,
        extended by columns of zeros to a square.
        In both cases y^T @ y = I for tall and square matrices, y @ y^T = I for wide ones.

    Shapes:
        x, y: (rows, columns), or (rows, ...) with all other axes as the columns.

    Args:
        orthogonal_map: "qr" or "cayley". For "cayley", y does not depend on the values above the diagonal of W,
            gradients exist everywhere, and equations with as many unknowns as the longer side of W are solved.

    Raises:
        ValueError: the map is unknown; x has rank below 2 or, for "cayley", values beyond 2^500. TypeError: x is not a
            float array.

    If columns of W are linearly dependent, the gradient of "qr" does not exist and is NaN. PyTorch has "cayley"
    (without a base, use_trivialization=False) and treats x of higher rank as a batch of matrices; its "householder" is
    another parametrization. Decompositions are LAPACK's: with hundreds of rows, the last bits may depend on the number
    of its threads. Where columns are far from linearly dependent, Q is computed by Cholesky decompositions of W^T @ W.

    Source:
        F. Mezzadri, "How to generate random matrices from the classical compact groups", 2006, arXiv:math-ph/0609050
        (QR); D. A. O. Roberts and L. R. Roberts, "QR and LQ Decomposition Matrix Backpropagation Algorithms for Square,
        Wide, and Deep -- Real or Complex -- Matrices and Their Software Implementation", 2020, arXiv:2009.10071 (its
        gradient); M. Lezcano-Casado and D. Martinez-Rubio, "Cheap Orthogonal Constraints in Neural Networks: A Simple
        Parametrization of the Orthogonal and Unitary Group", 2019, arXiv:1901.08428 (Cayley); Y. Yamamoto,
        Y. Nakatsukasa, Y. Yanagisawa and T. Fukaya, "Roundoff error analysis of the CholeskyQR2 algorithm", 2015,
        Electronic Transactions on Numerical Analysis 44.

    >>> import numpy as np, normzoo as nz
    >>> nz.OrthogonalWeight()(np.array([[3, 1], [4, 7]], np.float32)).round(2)
    array([[ 0.6, -0.8],
           [ 0.8,  0.6]], dtype=float32)
    """

    def __init__(self, orthogonal_map: str = "qr") -> None:
        if orthogonal_map not in MAPS:
            raise ValueError(f"OrthogonalWeight: expected orthogonal_map 'qr' or 'cayley', got {orthogonal_map!r}")
        self.orthogonal_map = orthogonal_map
        super().__init__(repr(orthogonal_map), weight=False, bias=False)

    def check(self, x: Array, **inputs: Array) -> None:
        check_array(self, "x", x)
        if x.ndim < 2:
            raise ValueError(f"{self}: expected x of rank 2 or more, got shape {x.shape}; write x[None]")

    def compute(self, x: Array, params: Mapping[str, Array], **inputs: Array) -> tuple[Array, Pull]:
        if x.size == 0:
            return x, lambda dy: {"x": dy}
        if self.orthogonal_map == "cayley" and (np.isfinite(x).all() and np.abs(x).max() > FAR):
            raise ValueError(
                f"{self}: expected values below 2^500, beside which I is something, got {np.abs(x).max():.3g}; "
                "write nz.OrthogonalWeight('qr')"
            )
        w = x.reshape(len(x), -1)
        wide = w.shape[0] < w.shape[1]
        q, back = (qr if self.orthogonal_map == "qr" else cayley)(w.T if wide else w)

        def pull(dy: Array) -> dict[str, Array]:
            d = dy.reshape(w.shape)
            return {"x": (back(d.T).T if wide else back(d)).reshape(x.shape)}

        return (q.T if wide else q).reshape(x.shape), pull

    def letters(self, x: Array) -> str:
        return "b" + "c" * (x.ndim - 1) if self.orthogonal_map == "qr" else ""

    def by_cells(self, cells: Pass, params: Mapping[str, Array]) -> CellPull:
        w = cells.channels_first(-1)[..., 0].astype(np.float64)
        wide = w.shape[0] < w.shape[1]
        with np.errstate(all="ignore"):
            q, inverse, error = by_cholesky(w.T if wide else w, cells.dtype)
        cells.channels_first()[..., 0] = q.T if wide else q
        near = error < SMALL  # then float32 has digits enough for the gradient of float32

        def pull(cells: Pass) -> dict[str, Array]:
            kind = cells.dtype if near else np.dtype(np.float64)
            d = cells.channels_first(0)[..., 0].astype(kind)
            with np.errstate(all="ignore"):
                dx = tangent(q.astype(kind, copy=False), d.T if wide else d).astype(kind, copy=False)
                dx = times_triangle(dx, inverse.astype(kind, copy=False).T, upper=False)
            cells.channels_first()[..., 0] = dx.T if wide else dx
            return {}

        return pull

    def _options(self) -> dict[str, Any]:
        return {}


def qr(w: Array) -> tuple[Array, Any]:
    """Q of a tall w, and the function from the gradient of Q to that of w."""
    q, r = np.linalg.qr(w)
    sign = np.where(np.diag(r) < 0, -1.0, 1.0)
    q, r = q * sign, r * sign[:, None]

    def back(d: Array) -> Array:
        if not np.diag(r).all():
            return np.full(w.shape, np.nan)
        return np.linalg.solve(r, tangent(q, d).T).T

    return q, back


def tangent(q: Array, d: Array) -> Array:
    """The gradient of w, times the transpose of r, from that of Q."""
    along = product(d.T, q)
    return d - product(q, np.tril(along) + np.tril(along, -1).T)


def by_cholesky(w: Array, dtype: np.dtype) -> tuple[Array, Array, float]:
    """Q of a tall w, the inverse of R, and the error, by products that threads share: w^T w = R^T R. The columns of the
    first Q are orthonormal but for this error, the square of w's condition times 1e-16. One more step, with that Q,
    takes it away. Where columns are nearly dependent, the definition has to do it (`Beyond`)."""
    size = np.abs(w).max()
    if not 1 / LARGE < size < LARGE:
        raise Beyond
    q, inverse, condition = _step(w)
    error = condition * condition * np.finfo(np.float64).eps
    if not error < NEARLY:
        raise Beyond
    if error > SMALL or dtype.itemsize == 8:
        q, second, _ = _step(q)
        inverse = times_triangle(inverse, second)
    return q, inverse, error


def _step(w: Array) -> tuple[Array, Array, float]:
    """w R^-1, R^-1 and a bound of the condition of w with columns of length 1."""
    columns = w.shape[1]
    gram = np.zeros((columns, columns))

    def some_rows(i: int) -> None:  # of the lower triangle
        gram[i : i + BLOCK, : i + BLOCK] = product(w[:, i : i + BLOCK].T, w[:, : i + BLOCK])

    in_blocks(some_rows, columns, w.size)
    inverse = inverse_root(gram)
    condition = np.sqrt(columns * (np.diag(gram)[:, None] * inverse * inverse).sum())
    return times_triangle(w, inverse), inverse, float(condition)


def inverse_root(gram: Array) -> Array:
    """R^-1 of gram = R^T R, whose lower triangle is read. In blocks, for which LAPACK wakes no threads."""
    inverse = np.zeros_like(gram)
    for i in range(0, len(gram), STEP):
        here, before = slice(i, i + STEP), slice(0, i)
        left = product(gram[here, before], inverse[before, before])
        try:
            own = np.linalg.inv(np.linalg.cholesky(gram[here, here] - product(left, left.T)).T)
        except np.linalg.LinAlgError:
            raise Beyond from None
        inverse[here, here] = own
        inverse[before, here] = product(product(inverse[before, before], left.T), -own)
    return inverse


def times_triangle(a: Array, b: Array, upper: bool = True) -> Array:
    """a b, of a triangular b whose zeros are skipped."""
    found = np.empty((len(a), b.shape[1]))

    def some_columns(i: int) -> None:
        part, full = slice(i, i + BLOCK), slice(0, i + BLOCK) if upper else slice(i, None)
        found[:, part] = product(a[:, full], b[full, part])

    in_blocks(some_columns, b.shape[1], a.size)
    return found


def in_blocks(work: Callable[[int], None], columns: int, values: int) -> None:
    """work(i) for every block of columns, on threads where they are much."""
    firsts = range(0, columns, BLOCK)
    if values * columns >= ON_THREADS:
        on_threads(work, firsts)
    else:
        for i in firsts:
            work(i)


def cayley(w: Array) -> tuple[Array, Any]:
    """The Cayley map of a tall w, and the function from its gradient to that of w."""
    rows, columns = w.shape
    half = np.zeros((rows, rows))
    half[:, :columns] = np.tril(w) / 2
    half = half - half.T
    one = np.eye(rows)
    q = np.linalg.solve(one - half, one + half)

    def back(d: Array) -> Array:
        g = product(np.linalg.solve(one + half, d), (one + q)[:, :columns].T) / 2
        return np.tril((g - g.T)[:, :columns])

    return q[:, :columns], back
