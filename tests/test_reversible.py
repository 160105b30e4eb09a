"""Reversible norms of time series beside RevIN: what they removed comes back, with gradients, also by forecasts."""

import numpy as np
import pytest

import normzoo as nz
from tests import check
from tests.zoo.series import main_part

NORMS = {
    "SAN": lambda **o: nz.SAN(3, 4, 1e-2, **o),
    "DishTS": lambda **o: nz.DishTS(3, 12, 1e-2, dtype=np.float64, **o),
    "FAN": lambda **o: nz.FAN(3, 4, **o),
    "RevIN": lambda **o: nz.RevIN(3, affine=False, **o),
}
each_norm = pytest.mark.parametrize("make", NORMS.values(), ids=NORMS)


def series(rng, steps=12):
    """(2, T, 3): level, trend and season."""
    t = np.arange(steps)[:, None]
    return 50 + 0.3 * t + np.sin(0.7 * t + np.arange(3)) + 0.2 * rng.standard_normal((2, steps, 3))


@each_norm
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_inverse_gives_back_x(make, channel_axis, dtype, rng):
    norm = make(channel_axis=channel_axis)
    x = series(rng).astype(dtype)
    x = np.ascontiguousarray(x.swapaxes(1, 2)) if channel_axis == 1 else x
    z = norm.inverse(norm(x))
    assert z.dtype == dtype
    rounding = {np.float64: 1e-13, np.float32: 1e-6, np.float16: 2e-3}[dtype]
    check.close(z.astype(np.float64), x.astype(np.float64), rounding, 50.0)
    out = np.empty_like(z)
    assert norm.inverse(norm(x), out=out) is out
    check.same_bits(out, z)
    far = np.ldexp(x.astype(np.float64), 600)  # squares beyond float64
    check.close(np.ldexp(norm.inverse(norm(far)), -600), x.astype(np.float64), 1e-12)


def formula(norm, x, f, params, given):
    """z by the papers' formulas; complex numbers go through. f is a function of y."""
    if isinstance(norm, nz.SAN):
        v = x.reshape(2, -1, 4, 3)
        mean = v.mean(axis=2, keepdims=True)
        std = np.sqrt(((v - mean) ** 2).mean(axis=2, keepdims=True))
        u = f(((v - mean) / (std + 1e-2)).reshape(x.shape))
        mean, std = (given["mean"][:, :, None], given["std"][:, :, None]) if given else (mean, std)
        return (u.reshape(2, -1, 4, 3) * (std + 1e-2) + mean).reshape(u.shape)
    if isinstance(norm, nz.FAN):
        main = x - main_part(4)(x)
        return f(x - main) + (given["main"] if given else main)
    level, ahead = (np.einsum("ntc,ct->nc", x, params[m])[:, None] for m in ("lookback_weight", "horizon_weight"))
    std, std_ahead = (np.sqrt(((x - a) ** 2).sum(axis=1, keepdims=True) / 11 + 1e-2) for a in (level, ahead))
    u = f((x - level) / std * params["weight"] + params["bias"])
    return (u - params["bias"]) / params["weight"] * std_ahead + ahead


@pytest.mark.parametrize("name", ["SAN", "DishTS", "FAN"])
def test_gradient_through_model_and_inverse(name, rng):
    norm, x, mix, dz = NORMS[name](), series(rng), rng.standard_normal((12, 12)), rng.standard_normal((2, 12, 3))
    for p in norm.params.values():
        p[...] = rng.uniform(0.5, 1.5, p.shape) * p + 0.1 * (p == 0)
    params = {key: p.copy() for key, p in norm.params.items()}

    def model(v):
        return np.einsum("st,ntc->nsc", mix, v)

    z = norm.inverse(model(norm(x)))
    check.close(z, formula(norm, x, model, params, {}), 1e-12)
    back = norm.saved_inverse.backward(dz)
    dx = norm.backward(np.einsum("st,nsc->ntc", mix, back.x)) + back.others["source"]
    check.gradient_matches(lambda v: formula(norm, v, model, params, {}), x, dx, dz, rng, 1e-10)
    for key, p in params.items():
        g = norm.grads[key] + getattr(back, key)
        check.gradient_matches(lambda v, key=key: formula(norm, x, model, params | {key: v}, {}), p, g, dz, rng, 1e-10)


@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("name", ["SAN", "FAN"])
def test_forecasts_of_what_was_removed(name, channel_axis, rng):
    norm, x = NORMS[name](channel_axis=channel_axis), series(rng)
    shape = (2, 2, 3) if name == "SAN" else (2, 8, 3)
    given = {key: rng.uniform(1, 2, shape) for key in (("mean", "std") if name == "SAN" else ("main",))}
    f, dz = rng.standard_normal((2, 2, 8, 3))

    def turned(a):
        return np.ascontiguousarray(a.swapaxes(1, 2)) if channel_axis == 1 else a

    norm(turned(x))
    z = norm.inverse(turned(f), **{key: turned(a) for key, a in given.items()})
    function = lambda v=f, **more: formula(norm, x, lambda _: v, {}, given | more)  # noqa: E731
    check.close(turned(z), function(), 1e-12)
    back = norm.saved_inverse.backward(turned(dz))
    check.gradient_matches(function, f, turned(back.x), dz, rng, 1e-10)
    for key, a in given.items():
        g = turned(back.others[key])
        check.gradient_matches(lambda v, key=key: function(**{key: v}), a, g, dz, rng, 1e-10)
    assert not back.others["source"].any()
    assert back.others["source"].shape == turned(x).shape


def test_what_networks_forecast_from(rng):
    x = series(rng)
    san, fan = nz.SAN(3, 4), nz.FAN(3, 4)
    san(x)
    mean, std = san.statistics()
    check.close(mean, x.reshape(2, 3, 4, 3).mean(axis=2), 1e-13)
    check.close(std, x.reshape(2, 3, 4, 3).std(axis=2), 1e-12)
    y = fan(x)
    check.close(fan.main() + y, x, 1e-14)
    kept = np.abs(np.fft.rfft(y, axis=1)) > 1e-9
    assert (kept.sum(axis=1) == 3).all(), "four of seven components are gone"


def test_flat_series_and_none(rng):
    for make in NORMS.values():
        norm = make()
        flat = np.full((2, 12, 3), 7.0)
        y = norm(flat)
        check.close(y, np.zeros_like(y), 1e-13)
        assert np.isfinite(norm.backward(np.ones_like(y))).all()
        check.close(norm.inverse(y), flat, 1e-13)
        assert norm(np.empty((0, 12, 3))).shape == (0, 12, 3)
        with pytest.raises(ValueError, match="of a forward pass of .* that had values"):
            norm.inverse(np.empty((0, 12, 3)))


X = np.arange(72.0).reshape(2, 12, 3)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: nz.SAN(3, 5)(X), ValueError, r"multiple of 5, got x of shape \(2, 12, 3\); write the last 10 steps"),
        (lambda: nz.SAN(3, 4).statistics(), RuntimeError, "forward pass with values before"),
        (lambda: nz.FAN(3, 8)(X), ValueError, r"14 time steps or more, which have 8 components.*write top_k=7 or less"),
        (lambda: nz.FAN(3, 2).main(), RuntimeError, "forward pass with values before"),
        (lambda: nz.DishTS(3, 11)(X), ValueError, r"11 time steps, the lookback of its maps, got \(2, 12, 3\)"),
        (lambda: nz.DishTS(3, 1), ValueError, "lookback"),
        (lambda: nz.SAN(3, 4)(X[0]), ValueError, "rank 3"),
        (
            lambda: after(nz.SAN(3, 4), X[:, :8]),
            ValueError,
            r"f of 3 slices, as x, or mean= and std= of the 2 slices of f",
        ),
        (lambda: after(nz.SAN(3, 4), X, mean=X[:, :3]), TypeError, "mean and std together, got mean alone"),
        (lambda: after(nz.SAN(3, 4), X, mean=X, std=X), ValueError, r"mean of shape \(2, 3, 3\), got \(2, 12, 3\)"),
        (lambda: after(nz.SAN(3, 4), X, main=X), TypeError, "mean and std beside f, got main"),
        (lambda: after(nz.FAN(3, 4), X[:, :8]), ValueError, "12 time steps, as x, or main= of those of f"),
        (lambda: after(nz.DishTS(3, 12), X, main=X), TypeError, "expected f alone, got main"),
        (lambda: after(nz.DishTS(3, 12), X[:1]), ValueError, r"f of 2 series, as x, got \(1, 12, 3\)"),
        (lambda: nz.FAN(3, 4).inverse(X), RuntimeError, "y = norm"),
        (lambda: nz.FAN(3, 4).inverse_forward(X, nz.SAN(3, 4).forward(X)[1]), ValueError, "forward pass of FAN"),
        (lambda: nz.FAN(3, 4).inverse_forward(X, 3), TypeError, "saved of a forward pass, got int"),
    ],
)
def test_what_does_not_fit_is_said(call, error, said):
    with pytest.raises(error, match=said):
        call()


def after(norm, f, **given):
    norm(X)
    return norm.inverse(f, **given)
