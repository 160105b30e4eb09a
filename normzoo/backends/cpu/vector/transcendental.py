"""exp, log and their kin on sixteen lanes: at most 2 units in the last place from the exact value, for every value of
float32; NaN, infinities, subnormals and signs of zero included.

An argument is reduced to a short range, where a polynomial stands for the function: its coefficients are those of the
least largest error there, found by Remez's algorithm in 60 digits and rounded one after the other, each time with the
rest fitted anew. Both sides of a case are computed, and one is taken.
"""

from typing import NamedTuple

from normzoo.backends import lanes
from normzoo.backends.cpu.vector.expressions import Term, lower_formula

INFINITY, NAN = float("inf"), float("nan")


class Numbers(NamedTuple):
    """Of a type of floats."""

    fraction: int  # bits
    one: int  # the bits of 1
    half_root: int  # the bits of sqrt(1/2), rounded
    shift: float  # so large that its last place is 1: an integer added to it lies in its last bits
    ln2: tuple[float, float]  # in two parts, the first with all of its digits
    exp: tuple[float, ...]  # (exp(r) - 1 - r) / r^2 where |r| <= ln(2) / 2
    log: tuple[float, ...]  # (log((1 + s) / (1 - s)) / s - 2) / s^2, of s^2, where |s| <= 0.1716: see `log_of`
    tanh: tuple[float, ...]  # (tanh(x) / x - 1) / x^2, of x^2, where |x| <= TANH_NEAR
    least: float  # log of what is rounded to 0,
    most: float  # and to infinity
    flat: float  # from which on tanh is 1, and expm1(-x) -1
    normal: float  # the least float with all of its digits

    @property
    def bias(self) -> int:
        """What a float adds to its exponent."""
        return self.one >> self.fraction


OF_BITS = {
    32: Numbers(
        fraction=23,
        one=0x3F800000,
        half_root=0x3F3504F3,
        shift=1.5 * 2.0**23,
        ln2=(0.6931472, -1.9046542e-09),
        exp=(0.5, 0.16666543, 0.041666456, 0.008366537, 0.0013935759),
        log=(0.66666776, 0.39977577, 0.2987106),
        tanh=(-0.33333284, 0.13331474, -0.05374154, 0.020642864, -0.0057072104),
        least=-104.0,
        most=89.0,
        flat=20.0,
        normal=2.0**-126,
    ),
    64: Numbers(
        fraction=52,
        one=0x3FF0000000000000,
        half_root=0x3FE6A09E667F3BCD,
        shift=1.5 * 2.0**52,
        ln2=(0.6931471805599453, 2.3190468138462996e-17),
        exp=(
            0.5000000000000006,
            0.16666666666666682,
            0.041666666666573635,
            0.008333333333317065,
            0.0013888888932372832,
            0.00019841269897390054,
            2.480150445403547e-05,
            2.7557233190971442e-06,
            2.762632326122583e-07,
            2.5112765808511377e-08,
        ),
        log=(
            0.6666666666666735,
            0.39999999999410435,
            0.2857142874326257,
            0.22222198487532985,
            0.18183568653812496,
            0.15313941519880378,
            0.1479703356019546,
        ),
        tanh=(
            -0.33333333333332876,
            0.13333333333264702,
            -0.05396825393238912,
            0.02186948759992455,
            -0.008863221293421136,
            0.0035919913676195777,
            -0.0014549694544608107,
            0.0005863491913627124,
            -0.0002286266655042556,
            7.721177291244099e-05,
            -1.610395035008777e-05,
        ),
        least=-746.0,
        most=710.0,
        flat=40.0,
        normal=2.0**-1022,
    ),
}
TANH_NEAR = 0.625
SIGMOID_SHIFT = 64  # see `sigmoid`
LOG2_E = 1.4426950408889634


def numbers(x: Term) -> Numbers:
    return OF_BITS[x.bits]


def reduced(x: Term, sign: int = 1, more: int = 0) -> tuple[Term, Term, Term]:
    """Bits whose last are those of k + more, an integer, r and q: exp(x) = 2^k exp(r), exp(r) = 1 + r + r^2 q. With
    sign -1 those of exp(-x), in as many instructions."""
    of = numbers(x)
    shift = of.shift + more
    shifted = x.fma(sign * LOG2_E, shift)
    k = shifted - shift
    r = k.fma(-of.ln2[1], k.fma(-of.ln2[0], x if sign > 0 else -x))  # the first product and difference are exact
    return shifted.integers(), r, r.polynomial(of.exp)


def power(k: Term) -> Term:
    """2^k where that is a normal number, of bits whose last are those of k + bias."""
    return (k << OF_BITS[k.bits].fraction).floats()


def exp(x: Term) -> Term:
    of = numbers(x)
    k, r, q = reduced(x.within(of.least, of.most))
    half = k >> 1
    found = (1.0 + (r * r).fma(q, r)) * power(half + of.bias)  # exact
    return found * power(k - half + of.bias)  # which rounds what is subnormal


def exp_normal(x: Term) -> Term:
    """exp(x) where that and its parts are normal numbers."""
    k, r, q = reduced(x, 1, numbers(x).bias)
    scale = power(k)
    return scale.fma((r * r).fma(q, r), scale)


def expm1(x: Term) -> Term:
    """2 ((s - 1/2) + s r + s r^2 q), s = 2^(k - 1): exact where k is 0."""
    of = numbers(x)
    k, r, q = reduced(x.within(-of.flat, of.most), 1, of.bias - 1)
    scale = power(k)
    found = 2.0 * scale.fma(r * r * q, scale.fma(r, scale - 0.5))
    return x.where(abs(x) < 2.0 ** -(of.fraction + 3), found)  # -0, and what s r would lose of subnormals


def parts(u: Term) -> tuple[Term, Term]:
    """k, an integer, and f: a normal u > 0 is 2^k (1 + f), with 1 + f from sqrt(1/2) to sqrt(2)."""
    of = numbers(u)
    above = u.integers() + (of.one - of.half_root)
    place = 1 << of.fraction  # of the exponent's last bit
    count = (above >> of.fraction) | ((of.fraction << of.fraction) + of.one)  # the last bits of 2^fraction
    k = count.floats() - (2.0**of.fraction + of.one // place)
    return k, ((above & (place - 1)) + of.half_root).floats() - 1.0


def log_of(k: Term, f: Term) -> Term:
    """log(2^k (1 + f)). With s = f / (2 + f) and R(s) = log((1 + s) / (1 - s)) / s - 2, log(1 + f) is
    f - (f^2 / 2 - s (f^2 / 2 + R))."""
    of = numbers(f)
    s = f / (2.0 + f)
    square, half = s * s, 0.5 * f * f
    rest = k.fma(of.ln2[1], s * square.fma(square.polynomial(of.log), half))
    return k.fma(of.ln2[0], f - (half - rest))


def with_ends(found: Term, x: Term, pole: float) -> Term:
    """What a logarithm is beyond its domain: -inf at the pole, NaN below; inf at inf."""
    beyond = x.like(-INFINITY).where(x.equals(pole), NAN)
    return found.where(x < INFINITY, x).where(x > pole, beyond)


def log(x: Term) -> Term:
    of = numbers(x)
    is_small, more = x < of.normal, of.fraction + 2
    k, f = parts((x * 2.0**more).where(is_small, x))
    return with_ends(log_of((k - more).where(is_small, k), f), x, 0.0)


def log1p(x: Term) -> Term:
    of = numbers(x)
    u = 1.0 + x
    added = u - 1.0
    tail = (1.0 - (u - added)) + (x - added)  # u + tail is 1 + x; at most 1, and nothing to u where k is above 64
    k, f = parts(u)
    scale = power(((-k).within(-64.0, 64.0) + (of.shift + of.bias)).integers())
    found = log_of(k, tail.fma(scale, f))  # where k is 0 that is x
    return with_ends(x.where(abs(x) < 2.0 ** -(of.fraction + 3), found), x, -1.0)  # -0, and subnormals


def sigmoid(x: Term) -> Term:
    """2^-c / (2^-c + 2^(k-c) exp(r)), exp(-x) = 2^k exp(r): the sum is in the range of its floats where the quotient is
    subnormal. 2^(k-c) is added last: to what is far smaller where k is large, hardly rounded where k is small."""
    of = numbers(x)
    k, r, q = reduced(x.within(of.least, 2.0 * of.flat), -1, of.bias - SIGMOID_SHIFT)
    scale, unit = power(k), 2.0**-SIGMOID_SHIFT
    return unit / (scale.fma((r * r).fma(q, r), unit) + scale)


def tanh(x: Term) -> Term:
    of = numbers(x)
    size = abs(x)
    square = x * x
    near = (size * square).fma(square.polynomial(of.tanh), size)
    far = 1.0 - 2.0 / (exp_normal(2.0 * size.within(0.0, of.flat)) + 1.0)
    return near.where(size < TANH_NEAR, far).signed_as(x)


for _primitive, _formula in {
    lanes.exp: exp,
    lanes.expm1: expm1,
    lanes.log: log,
    lanes.log1p: log1p,
    lanes.sigmoid: sigmoid,
    lanes.tanh: tanh,
}.items():
    lower_formula(_primitive, _formula)
