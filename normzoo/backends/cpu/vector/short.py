"""exp, sigmoid, tanh and erf where results are stored in 16 bits: within 2^-15 of the value, so that what is stored is
what float32 would give, but where that lies within 1/32 of a unit of the middle between two. Half the instructions.

`short` says that only so many digits are wanted, in the type of lanes; `full` takes that back. Neither takes an
instruction. What has no formula here is computed as ever.
"""

from normzoo.backends import lanes
from normzoo.backends.cpu.numba_internals.way import lower, typed
from normzoo.backends.cpu.vector.error_function import FLAT
from normzoo.backends.cpu.vector.expressions import SHORT_FORMULAS, Term
from normzoo.backends.cpu.vector.lanes import ShortVec, Vec
from normzoo.backends.cpu.vector.transcendental import LOG2_E, SIGMOID_SHIFT, numbers, power

# Coefficients of the least largest error, relative to the function: of 2^f where |f| <= 1/2, 2.6e-6;
EXP2 = 0.9999992847442627, 0.6931217908859253, 0.240247443318367, 0.05591786280274391, 0.009570102207362652
# (1 - 2^-g) / g where |g| <= 1/2, 1.5e-5;
LESS = 0.6931368708610535, -0.24023252725601196, 0.05583728849887848, -0.00961811002343893
# -log2(1 - erf(x)) / x where 0 <= x <= FLAT, 2.7e-6 of erf, and an eighth of that in its tail.
ERF = (
    1.6279113292694092,
    0.918283998966217,
    0.1493656486272812,
    -0.03049330785870552,
    0.0034495515283197165,
    -0.0001007810133160092,
)


def short(v):
    """Lanes of float32 of which few digits are wanted."""
    return v


def full(v):
    """Lanes as they were."""
    return v


typed(short, lambda v: ShortVec(v.dtype) if isinstance(v, Vec) and v.dtype.bitwidth == 32 else v)
typed(full, lambda v: Vec(v.dtype))


@lower(short, Vec)
@lower(full, Vec)
def _same(context, builder, sig, args):
    return args[0]


def exp(x: Term) -> Term:
    of = numbers(x)
    x = x.within(of.least, of.most)
    shifted = x.fma(LOG2_E, of.shift)
    k = shifted.integers()
    half = k >> 1
    found = x.fma(LOG2_E, of.shift - shifted).polynomial(EXP2) * power(half + of.bias)
    return found * power(k - half + of.bias)  # which rounds what is subnormal


def sigmoid(x: Term) -> Term:
    """As `transcendental.sigmoid`."""
    of = numbers(x)
    x, shift = x.within(of.least, 2.0 * of.flat), of.shift + (of.bias - SIGMOID_SHIFT)
    shifted = x.fma(-LOG2_E, shift)
    unit = 2.0**-SIGMOID_SHIFT
    e = x.fma(-LOG2_E, shift - shifted).polynomial(EXP2)
    return unit / power(shifted.integers()).fma(e, unit)


def less(g: Term, shifted: Term) -> Term:
    """1 - 2^-t as (1 - 2^k) + 2^k (1 - 2^-g), t = g - k: no digit is lost near 0, where k is 0. The last bits of
    `shifted` are those of k + bias."""
    scale = power(shifted.integers())
    return scale.fma(g * g.polynomial(LESS), 1.0 - scale)


def tanh(x: Term) -> Term:
    """n / (2 - n), n = 1 - exp(-2 |x|)."""
    of = numbers(x)
    size = abs(x).at_most(of.flat)
    shift = of.shift + of.bias
    shifted = size.fma(-2.0 * LOG2_E, shift)
    k = shifted - shift
    n = less(size.fma(2.0 * LOG2_E, k), shifted)
    return (n / (2.0 - n)).signed_as(x)


def erf(x: Term) -> Term:
    of = numbers(x)
    size = abs(x).at_most(FLAT)
    t = size * size.polynomial(ERF)
    shift = of.shift + of.bias
    shifted = shift - t
    return less(t + (shifted - shift), shifted).signed_as(x)


SHORT_FORMULAS.update({lanes.exp: exp, lanes.sigmoid: sigmoid, lanes.tanh: tanh, lanes.erf: erf})
