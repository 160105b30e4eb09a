"""`diagnose`: numbers about every set of an input, as a norm sees it, for a person to read."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.arrays import eps_for
from normzoo.statistics.counted import data_array
from normzoo.statistics.stats import LARGE, SMALL, power_above

COLUMNS = ("count", "nonfinite", "mean", "var", "min", "max", "condition", "eps_share")
SHOWN = 16  # most sets shown in a table


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Numbers about every set of x. str() is a table that begins with the most suspicious sets.

    Attributes:
        name: name of the norm.
        count, nonfinite: int64, the number of values in a set and how many of them are NaN or inf. The other attributes
            are computed from the finite values.
        mean, var, min, max: float64; var is the biased one. NaN where a set has no finite value.
        condition: |mean| / std: how many times larger the values are than their deviations. Libraries that do not
            centre first lose digits in proportion. inf for a constant set that is not 0.
        eps_share: eps / (spread + eps), from 0 to 1: near 1, eps and not the data determines the scale, and y is close
            to bias. The spread is the norm's own: the variance or, without centring, the mean square; for norms of
            power 1 mean absolute values, for norms of totals sums.

    All have the shape of the sets: the kept axes of x.
    """

    name: str
    count: Array
    nonfinite: Array
    mean: Array
    var: Array
    min: Array
    max: Array
    condition: Array
    eps_share: Array

    def __str__(self) -> str:
        sets = np.ndindex(self.mean.shape)
        rank = np.lexsort((-_ranked(self.condition), -_ranked(self.eps_share), -self.nonfinite.ravel()))
        index = list(sets)
        rows = [["set", *(c.replace("_", " ") for c in COLUMNS)]]
        for i in rank[:SHOWN]:
            values = (getattr(self, column).ravel()[i] for column in COLUMNS)
            place = ", ".join(map(str, index[i])) or "all"
            rows.append([place, *(f"{v:d}" if isinstance(v, np.integer) else f"{v:.4g}" for v in values)])
        widths = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
        bad, weak = int((self.nonfinite > 0).sum()), int((self.eps_share > 0.5).sum())
        lines.insert(0, f"{self.name}: {len(index)} sets, {bad} with nan or inf, {weak} decided by eps")
        if len(index) > SHOWN:
            lines.append(f"... and {len(index) - SHOWN} more")
        return "\n".join(lines)


def _ranked(a: Array) -> Array:
    return np.nan_to_num(a.ravel(), nan=np.inf, posinf=np.inf)


def diagnose(norm: Norm, x: Array) -> Diagnosis:
    """Report count, mean, variance, extremes, NaN and inf, condition and influence of eps of every set of x, for
    `norm`.

    The sets are those of training: one channel of the batch for BatchNorm, one row for LayerNorm. The norm does not
    change. NumPy computes in float64: meant for inspection, not for every training step.

    Args:
        norm: a norm whose statistics are means over axes.
        x: input of the norm.

    Raises:
        TypeError: the norm has no such sets, or x is not a float array. ValueError: x has a shape that does not fit.

    >>> import numpy as np, normzoo as nz
    >>> print(nz.diagnose(nz.BatchNorm(2), np.float32([[1000, 0], [1002, np.nan]])))
    BatchNorm(2): 2 sets, 1 with nan or inf, 1 decided by eps
    set  count  nonfinite  mean  var   min   max  condition  eps share
      1      2          1     0    0     0     0          0          1
      0      2          0  1001    1  1000  1002       1001      1e-05
    """
    if not isinstance(norm, Norm):
        raise TypeError(f"diagnose: expected a norm, got {type(norm).__name__}; write nz.diagnose(norm, x)")
    x = data_array(norm, "x", x)
    if type(norm).axes is Norm.axes:
        raise TypeError(f"{norm}: expected a norm whose statistics are means over axes, got {type(norm).__name__}")
    axes = norm.axes(x)
    over = tuple(i for i, letter in enumerate(axes.letters) if letter in "rR")
    v = x.reshape(axes.shape).astype(np.float64)
    finite = np.isfinite(v)
    shape = tuple(n for i, n in enumerate(axes.shape) if i not in over)
    eps = eps_for(x) if norm.eps is None else norm.eps

    with np.errstate(all="ignore"):
        found = _moments(np.where(finite, v, 0.0), finite, over, norm.moments, eps)
        low = np.where(finite, v, np.inf).min(axis=over, keepdims=True, initial=np.inf)
        high = np.where(finite, v, -np.inf).max(axis=over, keepdims=True, initial=-np.inf)
    some = finite.any(axis=over, keepdims=True)
    found |= {"min": np.where(some, low, np.nan), "max": np.where(some, high, np.nan)}
    count = np.full(shape, axes.values, np.int64)
    nonfinite = count - finite.sum(axis=over)
    return Diagnosis(str(norm), count, nonfinite, **{name: a.reshape(shape) for name, a in found.items()})


def _moments(v: Array, finite: Array, over: tuple[int, ...], moments: Moments, eps: float) -> dict[str, Any]:
    """mean, var, condition and eps_share of the finite values; v is 0 where a value is not finite."""
    largest = np.abs(v).max(axis=over, keepdims=True, initial=0.0)
    scale = np.where((largest > SMALL) & (largest < LARGE), 1.0, power_above(largest))  # keeps squares in range
    v = v / scale
    n = finite.sum(axis=over, keepdims=True)
    start = v.sum(axis=over, keepdims=True) / n
    rounding = np.where(finite, v - start, 0.0).sum(axis=over, keepdims=True) / n
    mean = start + rounding
    deviation = np.where(finite, v - start - rounding, 0.0)
    var = (deviation * deviation).sum(axis=over, keepdims=True) / n
    std = np.sqrt(var)
    condition = np.where(mean == 0, 0.0 * std, np.abs(mean) / std)
    # the spread of `backends/contract.py`
    power = moments.power
    spread = (np.abs(deviation if moments.center else v) ** power).sum(axis=over, keepdims=True)
    if not moments.total:
        spread = spread / n
    if moments.clamp:
        root = (spread ** (1 / power) if power else spread) * scale
        share = np.where(root < eps, 1.0, 0.0 * root)
    else:
        for _ in range(power):  # multiplied one by one: scale^power may leave the range
            spread = spread * scale
        share = np.where(spread + eps > 0, eps / (spread + eps), 0.0 * spread)
    return {"mean": mean * scale, "var": var * scale * scale, "condition": condition, "eps_share": share}
