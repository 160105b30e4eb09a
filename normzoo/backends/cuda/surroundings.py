"""What stands before and behind a norm, as kernels read and write it; see `backends/around.py`.

Where nothing does, the arrays are null pointers, which are not read. `around` in the kernels' factories says which are.
"""

from functools import cache
from typing import Any

from normzoo.backends.around import ALONE, Around
from normzoo.backends.cuda.accesses import as_stored, load, store, store_affine
from normzoo.backends.cuda.arithmetic import fma
from normzoo.backends.cuda.geometry import Form, device, parameter
from normzoo.backends.cuda.vocabulary import functions_of


def before_of(around: Around) -> Around:
    """What makes s of x: kernels that differ in nothing else are the same."""
    return Around(around.residual, around.gate_first, "", around.activation if around.gate_first else None)


def label_of(form: Form, around: Around) -> Any:
    """A form and what stands around, for names of kernels; the form itself where nothing does."""
    if around == ALONE:
        return form
    flags = " residual" * around.residual + " gate first" * around.gate_first + " ds" * around.ds
    behind = f" {around.behind}" if around.behind else ""
    act = f" {around.activation.name}" if around.activation is not None else ""
    return form._replace(around=f"{flags}{behind}{act}")


@cache
def source(around: Around):
    """(x, residual, other, scale, start, offsets, size, each) -> what the norm reads: x, or s as it is stored."""
    act, _ = functions_of(around.activation)

    if around.residual:

        @device
        def added(x, residual, other, scale, start, offsets, size, each):
            v = load(residual, start, offsets, size, each)
            return as_stored(fma(v, scale, load(x, start, offsets, size, each)), x)

        return added

    if around.gate_first:

        @device
        def gated(x, residual, other, scale, start, offsets, size, each):
            return as_stored(load(x, start, offsets, size, each) * act(load(other, start, offsets, size, each)), x)

        return gated

    @device
    def plain(x, residual, other, scale, start, offsets, size, each):
        return load(x, start, offsets, size, each)

    return plain


@cache
def store_s(form: Form, around: Around):
    """Write s, where a residual is added: when no thread reads x or the residual any more, either of which s may be."""
    size, each, get = form.size, form.each, source(around)
    adds = around.residual

    @device
    def stored(x, residual, s, other, scale, start, offsets):
        if adds:
            store(s, start, offsets, get(x, residual, other, scale, start, offsets, size, each), each)

    return stored


@cache
def store_y(form: Form, around: Around):
    """Write y of xhat: the affine map, and what stands behind."""
    size, each, values = form.size, form.each, parameter(form)
    is_full = form.varies == "full"
    act, _ = functions_of(around.activation)
    is_behind, behind = around.is_behind, around.behind

    if is_behind:

        @device
        def finished(y, start, offsets, xhat, weight, bias, p, at, params, sums, other):
            v = fma(xhat, values(weight, p, at, params, sums), values(bias, p, at, params, sums))
            if behind == "add":
                v = act(v + load(other, start, offsets, size, each))
            elif behind == "gate":
                v = v * act(load(other, start, offsets, size, each))
            else:
                v = act(v)
            store(y, start, offsets, v, each)

        return finished

    @device
    def stored(y, start, offsets, xhat, weight, bias, p, at, params, sums, other):
        if is_full:
            store_affine(y, start, offsets, xhat, weight, bias, p, at, each)
        else:
            w, a = values(weight, p, at, params, sums), values(bias, p, at, params, sums)
            store(y, start, offsets, fma(xhat, w, a), each)

    return stored


@cache
def through_behind(form: Form, around: Around, writes: bool):
    """(d, xhat, w, a, other, dother, start, offsets) -> the gradient of xhat * weight + bias, of that of y. With
    `writes` that of `other` is written."""
    size, each = form.size, form.each
    act, slope = functions_of(around.activation)
    is_behind, behind = around.is_behind, around.behind

    @device
    def back(d, xhat, w, a, other, dother, start, offsets):
        if not is_behind:
            return d
        v = fma(xhat, w, a)
        if behind == "":
            return d * slope(v)
        o = load(other, start, offsets, size, each)
        if behind == "gate":
            if writes:
                store(dother, start, offsets, d * v * slope(o), each)
            return d * act(o)
        d = d * slope(v + o)
        if writes:
            store(dother, start, offsets, d, each)
        return d

    return back


@cache
def store_dx(form: Form, around: Around):
    """Write the gradient of x, of that of s, to which ds is added."""
    size, each = form.size, form.each
    act, slope = functions_of(around.activation)
    has_ds, gate_first = around.ds, around.gate_first

    @device
    def stored(dx, start, offsets, u, x, other, dother, ds):
        if has_ds:
            u = u + load(ds, start, offsets, size, each)
        if gate_first:
            o = load(other, start, offsets, size, each)
            store(dother, start, offsets, u * load(x, start, offsets, size, each) * slope(o), each)
            u = u * act(o)
        store(dx, start, offsets, u, each)

    return stored
