"""Norms that are an affine function of x in every set, whose slope and shift depend on the set's own mean and variance:
for statistics blended with running ones, with those of other sets, or with those of a reference.

    y = (x - mean) * slope + shift          slope, shift = find(mean, var), one value per set

    dslope = sum(dy * (x - mean))     dshift = sum(dy)                       over the set, of k values
    dmean, dvar = the gradients of find, for dslope and dshift; then dmean -= slope * dshift
    dx = dy * slope + dmean / k + 2 * (x - mean) * dvar / k

Three passes: the first computes the statistics, the second has slope and shift as its parameters, and the third, in the
backward pass, adds the gradient through the statistics. What is computed once per set, not per value, is float64 in
NumPy.
"""

from collections.abc import Callable, Mapping

import numpy as np

from normzoo.backends.contract import CONSTANT, Array
from normzoo.passes.arrays import base_array, compute_dtype
from normzoo.passes.form import Form, Known
from normzoo.passes.formulas import FAR, reciprocal
from normzoo.passes.normalize import normalize
from normzoo.passes.overlaps import check_out
from normzoo.passes.saved import Chained, Grads, Saved, empty_in_layout, grads_by_name, layout_of

TINY = 2  # number of values in a tiny set

Back = Callable[[Array, Array], tuple[Array, Array, dict[str, Array]]]
# (dslope, dshift) -> (dmean, dvar, the parameters' gradients), all float64
Find = Callable[[Array, Array], tuple[Array, Array, Back]]  # (mean, var) -> (slope, shift, the backward function)


def affine(
    form: Form,  # the capital letters of its axes span the sets
    x: Array,
    params: Mapping[str, Array],
    find: Find,
    out: Array | None,
    apart: tuple[Array, ...] = (),
) -> tuple[Array, Array, Saved]:
    """y, the statistics (3, sets) of x and the `Saved` of the pass. `find` is called with arrays of the shape that the
    capital letters of `axes` span; `params` are those whose gradients its way back gives."""
    owner, axes, moments, eps = form[:4]
    x = base_array(owner, "x", x)
    if out is not None:
        check_out(owner, out, x.shape, x.dtype, (x,), (*params.values(), *apart))
    # terms of sums are not rounded to 16 bits before they are added; in tiny sets the terms of dx almost cancel
    wide = np.dtype(np.float64 if axes.values <= TINY else np.float32)
    narrow = x.dtype.itemsize < wide.itemsize
    v = x.astype(wide) if narrow else x
    # 1 moments
    y, stats, _ = normalize(form, v, None, None, keep=False)
    shape, count = axes.parameter_shape, max(axes.values, 1)
    mean, var = stats[0].reshape(shape), stats[1].reshape(shape)
    check_spread(owner, stats, eps)
    slope, shift, back = find(mean, var)
    # deviations are scaled to about 1, so that their sums stay in the range of x's dtype
    unit = np.where(stats[2] > 0, stats[2], 1.0)
    numbers, unit = np.stack([stats[0], stats[1], unit]), unit.reshape(shape)
    dtype = compute_dtype(v.dtype, *(p.dtype for p in params.values()))
    weight, bias = (np.broadcast_to(a, shape).astype(dtype) for a in (slope / unit, shift))
    # 2 normalize
    target = y if out is None or narrow else out
    y, _, part = normalize(form._replace(moments=CONSTANT), v, weight, bias, target, Known(numbers))
    like = x.shape, x.dtype, layout_of(x)
    if narrow:
        y = placed(y, empty_in_layout(*like) if out is None else out)

    def pull(dy: Array, out: Array | None) -> Grads:
        found = part.backward(dy.astype(wide) if dy.dtype.itemsize < v.dtype.itemsize else dy)
        dslope, dshift = found.weight.astype(np.float64) / unit, found.bias.astype(np.float64)
        dmean, dvar, grads = back(dslope, dshift)
        if moments.center:
            dmean = dmean - slope * dshift
        weight, bias = (np.broadcast_to(a / count, shape).astype(dtype) for a in (2 * dvar / unit, dmean))
        dx = np.add(found.x, part.again(weight, bias), out=found.x)
        grads = {name: grads[name].reshape(p.shape).astype(p.dtype) for name, p in params.items()}
        if narrow or out is not None:
            dx = placed(dx, empty_in_layout(*like) if out is None else out)
        return grads_by_name(grads | {"x": dx})

    return y, stats, Chained(owner, x, pull, (part,))


def check_spread(owner: object, stats: Array, eps: float) -> None:
    """Check that the variances of the sets (3, b, c) are in the range of float64. Variances of finite values are not,
    if the values exceed 1e150 or, with eps = 0, are below its inverse. A pass handles those by scaling, but `find`
    cannot."""
    mean, var, rstd = stats
    finite = np.isfinite(mean) & np.isfinite(rstd)
    lost = finite & ((np.abs(mean) > FAR) | ((rstd > 0) & ((var > FAR * FAR) | (var + eps < 1 / FAR / FAR))))
    if lost.any():
        size = max(float(reciprocal(rstd[lost])[0]), abs(float(mean[lost][0])))
        raise ValueError(
            f"{owner}: expected x whose variances are numbers from 1e-301 to 1e301, got values of the size of "
            f"{size:.3g}; write x * 2.0**{-np.frexp(size)[1]}, with running statistics in that unit"
        )


def standardized(
    mean: Array,  # of every set
    center: Array,  # subtracted from x in the set
    var: Array,  # x is divided by sqrt(var + eps)
    weight: Array,  # broadcast over the sets
    bias: Array,
    eps: float,
) -> tuple[Array, Array, Callable[[Array, Array], tuple[Array, Array, Array, Array, Array]]]:
    """slope and shift of y = (x - center) / sqrt(var + eps) * weight + bias, and the backward function from dslope and
    dshift: (dmean, dcenter, dvar, and dweight and dbias of every set)."""
    root = np.sqrt(var + eps)
    rstd = np.divide(1.0, root, out=np.zeros_like(root), where=root != 0)
    slope = weight * rstd
    offset = mean - center

    def back(dslope: Array, dshift: Array) -> tuple[Array, Array, Array, Array, Array]:
        through = dslope + offset * dshift  # sum(dy * (x - center))
        dmean = slope * dshift
        return dmean, -dmean, -0.5 * rstd**3 * weight * through, rstd * through, dshift

    return slope, slope * offset + bias, back


def placed(a: Array, out: Array) -> Array:
    """Copy the values of `a` into `out`; return `out`."""
    out[...] = a
    return out
