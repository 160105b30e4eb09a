"""erf on sixteen lanes, as `transcendental.py` has the rest."""

from typing import NamedTuple

from normzoo.backends import lanes
from normzoo.backends.cpu.vector.expressions import Term, lower_formula
from normzoo.backends.cpu.vector.transcendental import exp_normal


class Numbers(NamedTuple):
    """Of a type of floats."""

    near: tuple[float, ...]  # erf(x) / x - 1, of x^2, where |x| <= 1
    far: tuple[float, ...]  # log(1 - erf(x)), of x - 1, where the least error of 1 - exp(.) counts
    flat: float  # from which on erf is 1


OF_BITS = {
    32: Numbers(
        near=(0.12837917, -0.3761263, 0.11283618, -0.026855126, 0.0051907334, -0.00080307503, 7.920303e-05),
        far=(-1.8496056, -2.6389627, -0.8431724, -0.041262154, 0.009452373, -0.0014805868, 8.9888286e-05),
        flat=4.0,
    ),
    64: Numbers(
        near=(
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
        ),
        far=(
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
        ),
        flat=6.0,
    ),
}


def erf(x: Term) -> Term:
    of = OF_BITS[x.bits]
    size = abs(x)
    near = x.fma((x * x).polynomial(of.near), x)
    far = 1.0 - exp_normal((size.within(1.0, of.flat) - 1.0).polynomial(of.far))
    return near.where(size < 1.0, far.signed_as(x))


lower_formula(lanes.erf, erf)
