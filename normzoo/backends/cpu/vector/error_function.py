"""erf on sixteen lanes, as `transcendental.py` has the rest."""

from normzoo.backends import lanes
from normzoo.backends.cpu.vector.expressions import Term, lower_formula
from normzoo.backends.cpu.vector.transcendental import exp_normal, numbers, power, reduced

# float32: P(x) = -log(1 - erf(x)) / x where 0 <= x <= FLAT, the first coefficient in two parts
AT_ONCE = (
    1.1283792,
    -5.772421e-08,
    0.6366195,
    0.10277679,
    -0.01914948,
    -0.00016662716,
    0.0016729465,
    -0.00063593546,
    0.000118476586,
    -9.3464405e-06,
)
FLAT = 4.0  # from which on erf is 1
# float64
NEAR = (  # erf(x) / x - 1, of x^2, where |x| <= 1
    0.12837916709551256,
    -0.3761263890318337,
    0.11283791670938838,
    -0.026866170642320275,
    0.005223977600001651,
    -0.000854832565118704,
    0.00012055285656998133,
    -1.4924567023720007e-05,
    1.6445415749144683e-06,
    -1.619370750087986e-07,
    1.3658561161328366e-08,
    -7.685223621080506e-10,
)
FAR = (  # log(1 - erf(x)), of x - 1, where the least error of 1 - exp(.) counts
    -1.8496055099332482,
    -2.6389675142347837,
    -0.8431072563591202,
    -0.04156109802978656,
    0.01003382522034282,
    -0.001977901437009337,
    0.00023731721658268749,
    2.6294419928713746e-05,
    -2.7195661718063773e-05,
    9.667203479847225e-06,
    -2.128078175758011e-06,
    2.021808313983097e-07,
    5.9324932595507203e-08,
    -3.386428321605215e-08,
    8.638086770326713e-09,
    -1.3390489010556635e-09,
    1.2130622005945666e-10,
    -4.953221766542876e-12,
)
FLAT_WIDE = 6.0


def erf(x: Term) -> Term:
    return (at_once if x.bits == 32 else in_parts)(x)


def at_once(x: Term) -> Term:
    """erf(x) = 1 - exp(-t), t = x P(x), as (1 - 2^k) - 2^k (exp(r) - 1) with exp(-t) = 2^k exp(r): no digit is lost
    near 0, where k is 0. In three fifths of the instructions of two parts."""
    size = abs(x).at_most(FLAT)
    first, *others = AT_ONCE
    k, r, q = reduced(size.fma(first, size * size.polynomial(others)), -1, numbers(x).bias)
    scale = power(k)
    return (-scale).fma((r * r).fma(q, r), 1.0 - scale).signed_as(x)


def in_parts(x: Term) -> Term:
    size = abs(x)
    near = x.fma((x * x).polynomial(NEAR), x)
    far = 1.0 - exp_normal((size.within(1.0, FLAT_WIDE) - 1.0).polynomial(FAR))
    return near.where(size < 1.0, far.signed_as(x))


lower_formula(lanes.erf, erf)
