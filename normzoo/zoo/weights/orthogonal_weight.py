"""Orthogonal weights: the orthogonal matrix that a QR decomposition or a Cayley map makes of a weight matrix."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array
from normzoo.passes.arrays import check_array
from normzoo.passes.formulas import FAR, product
from normzoo.passes.saved import Pull
from normzoo.zoo.exact import ExactNorm

MAPS = ("qr", "cayley")


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
    of its threads.

    Source:
        F. Mezzadri, "How to generate random matrices from the classical compact groups", 2006, arXiv:math-ph/0609050
        (QR); D. A. O. Roberts and L. R. Roberts, "QR and LQ Decomposition Matrix Backpropagation Algorithms for Square,
        Wide, and Deep -- Real or Complex -- Matrices and Their Software Implementation", 2020, arXiv:2009.10071 (its
        gradient); M. Lezcano-Casado and D. Martinez-Rubio, "Cheap Orthogonal Constraints in Neural Networks: A Simple
        Parametrization of the Orthogonal and Unitary Group", 2019, arXiv:1901.08428 (Cayley).

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
        along = product(d.T, q)
        d = d - product(q, np.tril(along) + np.tril(along, -1).T)
        return np.linalg.solve(r, d.T).T

    return q, back


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
