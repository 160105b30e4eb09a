"""What the libraries named here compute is what this library computes: they are the oracles of data tools, images, series,
graphs and reinforcement learning. `pip install -e ".[oracles]"`, or see `.ci/run`, which leaves out what they are not
asked for."""

import importlib.util

import numpy as np
import pytest

import normzoo as nz
from tests import check, site_check
from tests.test_graphs import IDS, drawn, passes
from tests.test_graphs import NORMS as GRAPHS
from tests.test_images import MEAN, STD, draw

pytestmark = pytest.mark.filterwarnings("ignore")  # of their own imports


def library(name):
    return pytest.importorskip(name, reason=f"needs {name.partition('.')[0]}: pip install -e '.[oracles]'")


# -- data


def test_groups_are_those_of_pandas(rng):
    pandas, ours = library("pandas"), library("normzoo.sklearn")
    frame = pandas.DataFrame(1e3 + rng.standard_normal((70, 3)), columns=list("abc"))
    frame.iloc[::7, 1] = np.nan
    labels = rng.choice(["u", "v", "w"], 70)
    found = ours.Standardizer(correction=1).set_output(transform="pandas").fit_transform(frame, groups=labels)
    expected = frame.groupby(labels).transform(lambda v: (v - v.mean()) / v.std())
    pandas.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=1e-9)
    found = ours.MinMaxScaler().fit(frame, groups=labels).transform(frame, groups=labels)
    expected = frame.groupby(labels).transform(lambda v: (v - v.min()) / (v.max() - v.min()))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_quantiles_are_those_of_polars(rng):
    polars, ours = library("polars"), library("normzoo.sklearn")
    frame = polars.DataFrame(rng.lognormal(size=(301, 3)), schema=["a", "b", "c"])
    low, high = (frame.select(polars.all().quantile(q, "linear")) for q in (0.05, 0.9))
    found = ours.QuantileClipper((0.05, 0.9)).fit_transform(frame)
    expected = frame.select(polars.col(name).clip(low[name][0], high[name][0]) for name in frame.columns)
    np.testing.assert_allclose(found, expected.to_numpy(), rtol=1e-12)
    np.testing.assert_allclose(
        nz.robust.quantile(frame, 0.3, 0), frame.select(polars.all().quantile(0.3, "linear")).to_numpy()[0]
    )
    found = nz.Stats.of(frame, 0)
    np.testing.assert_allclose(found.std(1), frame.std().to_numpy()[0], rtol=1e-12)
    np.testing.assert_allclose(found.mean, frame.mean().to_numpy()[0], rtol=1e-12)


def test_named_dimensions_are_those_of_xarray(rng):
    xarray, ours = library("xarray"), library("normzoo.sklearn")
    months = np.repeat(np.arange(6), 4)
    data = xarray.DataArray(
        1e4 + rng.standard_normal((24, 3, 5)), dims=("time", "sensor", "height"), coords={"month": ("time", months)}
    )
    found = ours.Standardizer(axis="sensor").fit_transform(data)
    dims = ["time", "height"]
    xarray.testing.assert_allclose(found, (data - data.mean(dims)) / data.std(dims), rtol=1e-9, atol=1e-9)
    found = ours.Standardizer(axis="sensor").fit_transform(data, groups=months)
    grouped = data.groupby("month")
    expected = (grouped - grouped.mean(dims)).groupby("month") / grouped.std(dims)
    xarray.testing.assert_allclose(found, expected.transpose(*data.dims), rtol=1e-9, atol=1e-9)


def test_robust_statistics_are_those_of_statsmodels(rng):
    scale, trimmed = library("statsmodels.robust.scale"), library("statsmodels.stats.robust_compare")
    x = rng.standard_normal((101, 3)) ** 3
    check.close(nz.robust.mad(x, 0, scale=nz.robust.NORMAL), scale.mad(x, axis=0), 1e-13)
    check.close(nz.robust.iqr(x, 0), np.array([scale.iqr(v, c=1) for v in x.T]), 1e-13)
    means = trimmed.TrimmedMean(x, 0.2, axis=0)
    check.close(nz.robust.trimmed_mean(x, 0.2, 0), means.mean_trimmed, 1e-13)
    check.close(nz.robust.winsorized_mean(x, 0.2, 0), means.mean_winsorized, 1e-13)


def test_robust_statistics_are_those_of_astropy(rng):
    stats = library("astropy.stats")
    x = rng.standard_normal((51, 4, 3)) ** 3
    x[rng.random(x.shape) < 0.1] = np.nan
    for axis in (0, (0, 2), None):
        check.close(
            nz.robust.mad(x, axis, skip_nan=True), stats.median_absolute_deviation(x, axis, ignore_nan=True), 1e-13
        )
        own = nz.robust.mad(x, axis, skip_nan=True, scale=nz.robust.NORMAL)
        check.close(own, stats.mad_std(x, axis, ignore_nan=True), 1e-13)


# -- images


def test_results_are_those_of_torchvision(rng):
    torch = library("torch")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision: pip install -e '.[oracles]'")
    functional = site_check.benchmark_module("image_peers").vision()
    x = draw(rng, (2, 3, 31, 17))
    t = functional.to_dtype(torch.from_numpy(x), torch.float32, scale=True)
    theirs = functional.normalize(t, MEAN.tolist(), STD.tolist()).numpy()
    ours = nz.normalize_image(x, "imagenet", channel_axis=1)
    exact = (x / 255 - MEAN[:, None, None]) / STD[:, None, None]
    unit = np.spacing(np.float32((1 / STD).max()))  # of x / std, before the mean is subtracted
    assert np.abs(ours - exact).max() <= np.abs(theirs - exact).max() <= 2 * unit
    check.close(ours, theirs, 2 * unit, 1.0)


@pytest.mark.parametrize("how", ["image", "image_per_channel", "min_max", "min_max_per_channel"])
def test_results_are_those_of_albucore(how, rng):
    albucore = library("albucore")
    x = draw(rng, (2, 31, 17, 3))
    options = {
        "per": "image_channel" if "per_channel" in how else "image",
        "scale": "min_max" if "min" in how else "std",
    }
    ours = nz.normalize_image(x, **options, limit=20)
    for image, y in zip(x, ours, strict=True):
        check.close(albucore.normalize_per_image(image, how), y, 2e-6, 1.0)
    given = albucore.normalize(x[0], np.float32(MEAN * 255), np.float32(1 / (STD * 255)))
    check.close(nz.normalize_image(x[0], "imagenet"), given, 2 * np.spacing(np.float32((1 / STD).max())), 1.0)


# -- medical volumes


@pytest.fixture
def volume(rng):
    stored = rng.normal(40, 300, (11, 12, 13)).clip(-1024, 3000).astype(np.int16)
    stored[:3] = 0
    return stored


def test_volumes_are_those_of_nnunet(volume):
    schemes = library("nnunetv2.preprocessing.normalization.default_normalization_schemes")
    foreground = volume > 100
    low, high = np.percentile(volume[foreground], (0.5, 99.5))
    properties = {
        "mean": float(volume[foreground].mean()), "std": float(volume[foreground].std()), "percentile_00_5": low,
        "percentile_99_5": high,
    }  # fmt: skip
    theirs = schemes.CTNormalization(False, properties).run(volume.copy())
    ours = nz.normalize_image(volume, properties["mean"], properties["std"], clip=(low, high), channel_axis=None)
    check.close(ours, theirs, 1e-6, 1.0)
    for masked in (False, True):
        inside = np.where(foreground, 0, -1)
        theirs = schemes.ZScoreNormalization(masked, {}).run(np.where(foreground, volume, 0), inside)
        mask = foreground if masked else None
        ours = nz.normalize_image(np.where(foreground, volume, 0), mask=mask, eps=0.0, channel_axis=None)
        check.close(ours, theirs, 2e-6, 1.0)
    theirs = schemes.RescaleTo01Normalization(False, {}).run(volume)
    check.close(nz.normalize_image(volume, scale="min_max", eps=0.0, channel_axis=None), theirs, 1e-6, 1.0)


def test_volumes_are_those_of_monai(volume):
    transforms = library("monai.transforms")
    for nonzero in (True, False):
        theirs = np.asarray(transforms.NormalizeIntensity(nonzero=nonzero)(volume.astype(np.float32)))
        ours = nz.normalize_image(volume, mask="nonzero" if nonzero else None, eps=0.0, channel_axis=None)
        check.close(ours, theirs, 2e-6, 1.0)
    two = np.stack([volume, volume // 3 + 50])
    theirs = np.asarray(transforms.NormalizeIntensity(nonzero=True, channel_wise=True)(two.astype(np.float32)))
    ours = nz.normalize_image(two[None], mask="nonzero", per="image_channel", eps=0.0, channel_axis=1)[0]
    check.close(ours, theirs, 2e-6, 1.0)
    theirs = np.asarray(transforms.ScaleIntensityRange(-160, 240, 0.0, 1.0, clip=True)(volume.astype(np.float32)))
    window = nz.normalize_image(volume, -160, 400, max_value=1, clip=(-160, 240), channel_axis=None)
    check.close(window, theirs, 1e-6, 1.0)


# -- series


@pytest.mark.parametrize("options", [{}, {"bias": 0.0}, {"power": 0.25, "gain": 0.8, "time_constant": 0.06}], ids=str)
def test_pcen_is_that_of_librosa(options, rng):
    librosa = library("librosa")
    x = 1e4 * rng.exponential(3.0, (3, 40, 211))
    check.close(nz.PCEN(40, **options, dtype=np.float64)(x), librosa.pcen(x, **options), 1e-12)
    y = nz.PCEN(40, **options)(x.astype(np.float32))
    check.close(y, librosa.pcen(x.astype(np.float32).astype(np.float64), **options), 1e-6)


@pytest.mark.parametrize(
    ("window", "centered"), [(1, False), (2, True), (7, False), (8, True), (13, True), (64, False), (999, True)]
)
def test_windows_are_those_of_pandas(window, centered, rng):
    pandas = library("pandas")
    x = rng.standard_normal((2, 3, 50))
    y = nz.SlidingNorm(3, window, 1e-4, affine=False, centered=centered)(x)
    for n, c in np.ndindex(2, 3):
        near = pandas.Series(x[n, c]).rolling(window, min_periods=1, center=centered)
        expected = (x[n, c] - near.mean()) / np.sqrt(near.var(ddof=0) + 1e-4)
        check.close(y[n, c], expected.to_numpy(), 1e-11)


# -- graphs


@pytest.mark.parametrize("name", ["GraphNorm", "PairNorm", "PairNorm-SI", "MeanSubtractionNorm", "GraphSizeNorm"])
@pytest.mark.parametrize("ids", [None, IDS], ids=["one", "graphs"])
@pytest.mark.filterwarnings("ignore")  # of PyTorch Geometric's own imports
def test_results_are_those_of_pytorch_geometric(name, ids, rng):
    torch, theirs = library("torch"), library("torch_geometric.nn.norm")
    norm, x, dy = drawn(GRAPHS[name.replace("NNorm", "N").replace("tionNorm", "tion")], rng, np.float64)
    arguments = {"GraphNorm": (19,), "PairNorm": (1.5,), "PairNorm-SI": (1.5, True)}.get(name, ())
    module = getattr(theirs, name.removesuffix("-SI"))(*arguments).double()
    module.load_state_dict({key: torch.from_numpy(p.copy()) for key, p in norm.params.items()})
    t = torch.from_numpy(x).requires_grad_()
    if name == "GraphSizeNorm" and ids is None:
        ids = np.zeros(700, np.int64)
    y = module(t) if ids is None else module(t, torch.from_numpy(ids))
    y.backward(torch.from_numpy(dy))
    found = passes(norm, x, dy, segments=ids)
    expected = [y.detach(), t.grad, *(dict(module.named_parameters())[key].grad for key in norm.params)]
    for a, e in zip(found, expected, strict=True):
        check.close(a, e.numpy(), 1e-11)


@pytest.mark.filterwarnings("ignore")
def test_messages_and_groups_are_those_of_pytorch_geometric(rng):
    torch, theirs = library("torch"), library("torch_geometric.nn.norm")
    x, msg, dy = rng.standard_normal((3, 40, 7))
    t, m = (torch.from_numpy(a).requires_grad_() for a in (x, msg))
    module = theirs.MessageNorm(True).double()
    y = module(t, m)
    y.backward(torch.from_numpy(dy))
    norm = nz.MessageNorm(True, dtype=np.float64)
    check.close(norm(x, msg), y.detach().numpy(), 1e-12)
    check.close(norm.backward(dy), t.grad.numpy(), 1e-12)
    check.close(norm.grads["msg"], m.grad.numpy(), 1e-12)
    check.close(norm.grads["scale"], module.scale.grad.numpy(), 1e-12)

    module, norm = theirs.DiffGroupNorm(7, 3, 0.3).double(), nz.DiffGroupNorm(7, 3, 0.3, dtype=np.float64)
    names = {"lin_weight": "lin.weight", "weight": "norm.weight", "bias": "norm.bias"}
    own = dict(module.named_parameters())
    for key, there in names.items():
        norm.params[key][...] = own[there].detach().numpy()
    t = torch.from_numpy(x).requires_grad_()
    for _ in range(2):
        y = module(t)
        found = norm(x)
    y.backward(torch.from_numpy(dy))
    check.close(found, y.detach().numpy(), 1e-12)
    check.close(norm.backward(dy), t.grad.numpy(), 1e-12)
    for key, there in names.items():
        check.close(norm.grads[key], own[there].grad.numpy(), 1e-12)
    for key in ("running_mean", "running_var"):
        check.close(norm.buffers[key], dict(module.named_buffers())[f"norm.{key}"].numpy(), 1e-12)


# -- reinforcement learning


def stepping(gymnasium, rng, steps, dones):
    """An environment class whose observations and rewards are known beforehand, and those."""
    seen = 3 + 2 * rng.standard_normal((steps + 1, 4, 5))
    paid = 4 + rng.standard_normal((steps, 4))
    ends = rng.random((steps, 4)) < dones

    class Known(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (5,), np.float64)
        action_space = gymnasium.spaces.Discrete(2)

        def __init__(self, i):
            self.i, self.t = i, 0

        def reset(self, **options):
            return seen[self.t, self.i], {}

        def step(self, action):
            self.t += 1
            reward, ended = paid[self.t - 1, self.i], bool(ends[self.t - 1, self.i])
            return seen[self.t, self.i], reward, ended, False, {}

    return [lambda i=i: Known(i) for i in range(4)], seen, paid, ends


def test_observations_are_those_of_gymnasium(rng):
    gymnasium = library("gymnasium")
    makers, seen, _, _ = stepping(gymnasium, rng, 40, 0.0)
    wrapped = library("gymnasium.wrappers.vector").NormalizeObservation(gymnasium.vector.SyncVectorEnv(makers))
    norm = nz.ObservationNorm(5, clip=None)
    theirs, _ = wrapped.reset()
    check.close(norm(seen[0]), theirs, 1e-6)
    for t in range(40):
        if t == 30:
            wrapped.update_running_mean = False
            norm.eval()
        theirs = wrapped.step(np.zeros(4, int))[0]
        check.close(norm(seen[t + 1]), theirs, 1e-6)
    check.close(norm.mean, wrapped.obs_rms.mean * (1 + 1e-4 / 124), 1e-9)  # ours are of the observations alone
    check.close(norm.count, wrapped.obs_rms.count - 1e-4, 1e-12)


def test_rewards_are_those_of_gymnasium(rng):
    gymnasium = library("gymnasium")
    makers, _, paid, _ = stepping(gymnasium, rng, 40, 0.0)
    wrapped = library("gymnasium.wrappers.vector").NormalizeReward(gymnasium.vector.SyncVectorEnv(makers))
    wrapped.reset()
    scale, returns = nz.ObservationNorm(1, with_mean=False, clip=None).eval(), np.zeros(4)
    for t in range(40):
        theirs = wrapped.step(np.zeros(4, int))[1]
        returns = 0.99 * returns + paid[t]
        scale.update(returns[:, None])
        check.close(scale(paid[t][:, None])[:, 0], theirs, 1e-5)  # theirs are summed in float32


def test_observations_and_rewards_are_those_of_stable_baselines(rng):
    gymnasium, vec_env = library("gymnasium"), library("stable_baselines3.common.vec_env")
    makers, seen, paid, ends = stepping(gymnasium, rng, 60, 0.05)
    wrapped = vec_env.VecNormalize(vec_env.DummyVecEnv(makers), clip_obs=1.5, clip_reward=0.9)
    norm, returns = nz.ObservationNorm(5, clip=1.5), np.zeros(4)
    scale = nz.ObservationNorm(1, with_mean=False, clip=0.9).eval()
    check.close(norm(seen[0]), wrapped.reset(), 1e-6)
    for t in range(60):
        observations, rewards, done, _ = wrapped.step(np.zeros(4, int))
        check.close(norm(seen[t + 1]), observations, 1e-6)
        returns = 0.99 * returns + paid[t]
        scale.update(returns[:, None])
        check.close(scale(paid[t][:, None])[:, 0], rewards, 1e-6)
        returns[done] = 0
        assert (done == ends[t]).all()
    assert ends.any() and (np.abs(norm.eval()(seen[3])) == 1.5).any()
    check.close(
        norm.inverse(norm(seen[3:4] * 0.1 + 3)),
        wrapped.unnormalize_obs(wrapped.normalize_obs(seen[3:4] * 0.1 + 3)),
        1e-6,
    )
