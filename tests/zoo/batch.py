"""The batch family and its mixtures, from their papers. Channels are on axis 1 unless an oracle says otherwise."""

import numpy as np

import normzoo as nz
from tests.zoo.case import ZooCase, clip, magnitude


def channel(v, x, axis=1):
    """One value a channel, beside x."""
    return np.reshape(v, [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def over(x, axis=1):
    """All axes but the channels'."""
    return tuple(i for i in range(x.ndim) if i != axis % x.ndim)


def batch_moments(x, axis=1):
    """Mean and biased variance of every channel of a batch."""
    mean = x.mean(over(x, axis))
    return mean, ((x - channel(mean, x, axis)) ** 2).mean(over(x, axis))


def by(x, mean, var, weight, bias, eps=1e-5, axis=1):
    xhat = (x - channel(mean, x, axis)) / np.sqrt(channel(var, x, axis) + eps)
    return xhat * channel(weight, x, axis) + channel(bias, x, axis)


def batch_norm(x, weight, bias, eps=1e-5, axis=1):
    return by(x, *batch_moments(x, axis), weight, bias, eps, axis)


def eval_norm(x, weight, bias, running_mean, running_var, axis=1, **_):
    return by(x, running_mean, running_var, weight, bias, axis=axis)


def trained(norm, rng):
    """Random parameters, and running statistics of another distribution."""
    for p in norm.params.values():
        p[...] = rng.standard_normal(p.shape)
    for name, a in norm.buffers.items():
        if name == "num_batches_tracked":
            a[...] = 7
        elif name == "running_mean":
            a[...] = rng.standard_normal(a.shape)
        else:
            a[...] = rng.uniform(0.5, 2.0, a.shape)


def ghost(ghosts, axis=1):
    def oracle(x, weight, bias, **_):
        return np.concatenate([batch_norm(part, weight, bias, axis=axis) for part in np.split(x, ghosts)])

    return oracle


def split(splits):
    def oracle(x, weight, bias, **_):
        parts = np.split(x, splits)
        return np.concatenate([batch_norm(part, weight[i], bias[i]) for i, part in enumerate(parts)])

    return oracle


def domain(x, weight, bias, domain, **_):
    """Chang et al. 2019, equation 3."""
    return batch_norm(x, weight[domain], bias[domain])


def domain_eval(x, weight, bias, running_mean, running_var, domain, **_):
    return by(x, running_mean[domain], running_var[domain], weight[domain], bias[domain])


def renorm(rmax, dmax, eps=1e-3):
    """Ioffe 2017, algorithm 1; r and d are found first, as constants."""

    def corrections(x, running_mean, running_std, **_):
        mean, var = batch_moments(x)
        std = np.sqrt(var + eps)
        return {
            "r": np.clip(std / running_std, 1 / rmax, rmax),
            "d": np.clip((mean - running_mean) / running_std, -dmax, dmax),
        }

    def oracle(x, weight, bias, r, d, **_):
        mean, var = batch_moments(x)
        xhat = (x - channel(mean, x)) / np.sqrt(channel(var, x) + eps)
        return (xhat * channel(r, x) + channel(d, x)) * channel(weight, x) + channel(bias, x)

    return {"oracle": oracle, "frozen": corrections}


def renorm_eval(x, weight, bias, running_mean, running_std, **_):
    return by(x, running_mean, running_std**2, weight, bias, 0.0)


def ema(momentum):
    def oracle(x, weight, bias, running_mean, running_var, num_batches_tracked, **_):
        mean, var = batch_moments(x)
        share = 1 if num_batches_tracked == 0 else momentum
        mean = (1 - share) * running_mean + share * mean
        return by(x, mean, (1 - share) * running_var + share * var, weight, bias)

    return oracle


def alpha(share):
    def oracle(x, weight, bias, running_mean, running_var, **_):
        mean, var = batch_moments(x)
        mean = share * running_mean + (1 - share) * mean
        return by(x, mean, share * running_var + (1 - share) * var, weight, bias)

    return oracle


def l1(factor):
    """Hoffer et al. 2018, section 4: the mean absolute deviation, times what makes it the std of a normal x."""

    def oracle(x, weight, bias, **_):
        deviation = x - channel(x.mean(over(x)), x)
        scale = factor * magnitude(deviation).mean(over(x))
        return deviation / (channel(scale, x) + 1e-5) * channel(weight, x) + channel(bias, x)

    return oracle


def scaled_eval(x, weight, bias, running_mean, running_scale, **_):
    return by(x, running_mean, (running_scale + 1e-5) ** 2, weight, bias, 0.0)


def linf(k, axis=1):
    """The same with the mean of the k largest absolute deviations, channel by channel."""

    def oracle(x, weight, bias, **_):
        y = np.empty(x.shape, np.result_type(x, weight, bias))
        for c, values in enumerate(np.moveaxis(x, axis, 0)):
            deviation = values - values.mean()
            sizes = magnitude(deviation).ravel()
            top = sizes[np.argsort(-np.real(sizes), kind="stable")[:k]].mean()
            constant = 0.5 * (1 + np.sqrt(np.pi * np.log(4))) / np.sqrt(2 * np.log(sizes.size))
            np.moveaxis(y, axis, 0)[c] = deviation / (constant * top + 1e-5) * weight[c] + bias[c]
        return y

    return oracle


def virtual(axis=1):
    """Salimans et al. 2016: the sample is one more of the reference batch, in E[x] and in E[x^2]."""

    def oracle(x, weight, bias, reference_mean, reference_var, reference_size):
        y = np.empty(x.shape, np.result_type(x, weight, bias))
        for n in range(len(x)):
            for c in range(x.shape[axis]):
                values = np.moveaxis(x[n], axis - 1 if axis > 0 else axis, 0)[c]
                mean = (reference_size * reference_mean[c] + values.mean()) / (reference_size + 1)
                far = reference_size * (reference_var[c] + (reference_mean[c] - mean) ** 2)
                var = (far + ((values - mean) ** 2).mean()) / (reference_size + 1)
                np.moveaxis(y[n], axis - 1 if axis > 0 else axis, 0)[c] = (values - mean) / np.sqrt(
                    var + 1e-5
                ) * weight[c] + bias[c]
        return y

    return oracle


def referred(norm, rng):
    trained(norm, rng)
    norm.buffers["reference_mean"][...] = rng.standard_normal(norm.reference_mean.shape)
    norm.buffers["reference_size"][...] = 4


def gated(norm, rng):
    trained(norm, rng)
    norm.rho[...] = rng.uniform(0, 1, norm.rho.shape)


def softmax(v):
    return np.exp(v) / np.exp(v).sum()


def moments_over(x, axes):
    mean = x.mean(axes, keepdims=True)
    return mean, ((x - mean) ** 2).mean(axes, keepdims=True)


def switchable(training=True, axis=1):
    """Luo et al. 2018, equations 3 to 5."""

    def oracle(x, weight, bias, mean_weight, var_weight, running_mean=None, running_var=None, **_):
        positions = tuple(i for i in over(x, axis) if i)
        parts = [moments_over(x, positions), moments_over(x, tuple(range(1, x.ndim)))]
        if len(mean_weight) == 3:
            running = None if training else (channel(running_mean, x, axis), channel(running_var, x, axis))
            parts.append(running or moments_over(x, over(x, axis)))
        mean = sum(share * m for share, (m, _) in zip(softmax(mean_weight), parts, strict=True))
        var = sum(share * v for share, (_, v) in zip(softmax(var_weight), parts, strict=True))
        return (x - mean) / np.sqrt(var + 1e-5) * channel(weight, x, axis) + channel(bias, x, axis)

    return oracle


def batch_instance(training=True):
    """Nam and Kim 2018, equations 1 to 4."""

    def oracle(x, weight, bias, rho, running_mean, running_var, **_):
        one, none = np.ones_like(running_mean), np.zeros_like(running_mean)
        batch = batch_norm(x, one, none) if training else by(x, running_mean, running_var, one, none)
        mean, var = moments_over(x, tuple(range(2, x.ndim)))
        gate = channel(clip(rho, 0.0, 1.0), x)
        mixed = gate * batch + (1 - gate) * (x - mean) / np.sqrt(var + 1e-5)
        return mixed * channel(weight, x) + channel(bias, x)

    return oracle


def power(x, weight, bias, running_phi, **_):
    """Shen et al. 2020, algorithm 1, with nu = 0."""
    return x / channel(np.sqrt(running_phi + 1e-5), x) * channel(weight, x) + channel(bias, x)


def power_warm(x, weight, bias, **_):
    """The same by the batch's own mean square (PN-V)."""
    return x / channel(np.sqrt((x**2).mean(over(x)) + 1e-5), x) * channel(weight, x) + channel(bias, x)


def after_warmup(norm, rng):
    trained(norm, rng)
    norm.nu[...] = 0  # test_batch.py has the backward pass with another


CASES = [
    ZooCase("ghost_batch_norm", lambda d: nz.GhostBatchNorm(5, 3, dtype=d), (6, 5, 3, 7), ghost(3), flat=True),
    ZooCase("ghost_batch_norm-2d", lambda d: nz.GhostBatchNorm(17, 2, dtype=d), (10, 17), ghost(2), flat=True),
    ZooCase(
        "ghost_batch_norm-last", lambda d: nz.GhostBatchNorm(7, 2, channel_axis=-1, dtype=d), (6, 3, 5, 7),
        ghost(2, -1), flat=True,
    ),
    ZooCase(
        "ghost_batch_norm-eval", lambda d: nz.GhostBatchNorm(5, 3, dtype=d).eval(), (4, 5, 17), eval_norm, prepare=trained
    ),
    ZooCase("frozen_batch_norm", lambda d: nz.FrozenBatchNorm(5, dtype=d), (4, 5, 17), eval_norm, prepare=trained),
    ZooCase(
        "frozen_batch_norm-last", lambda d: nz.FrozenBatchNorm(17, channel_axis=-1, dtype=d), (4, 5, 17),
        lambda x, **b: eval_norm(x, axis=-1, **b), prepare=trained,
    ),
    ZooCase("split_batch_norm", lambda d: nz.SplitBatchNorm(5, dtype=d), (6, 5, 3, 7), split(2), flat=True),
    ZooCase("split_batch_norm-3", lambda d: nz.SplitBatchNorm(3, num_splits=3, dtype=d), (9, 3), split(3), flat=True),
    ZooCase(
        "split_batch_norm-eval", lambda d: nz.SplitBatchNorm(5, dtype=d).eval(), (3, 5, 9),
        lambda x, **held: eval_norm(x, **{name: a if a.ndim == 0 else a[0] for name, a in held.items()}),
        prepare=trained,
    ),
    ZooCase(
        "domain_batch_norm", lambda d: nz.DomainBatchNorm(5, 3, dtype=d), (4, 5, 17), domain, fixed={"domain": 1},
        flat=True,
    ),
    ZooCase(
        "domain_batch_norm-eval", lambda d: nz.DomainBatchNorm(5, 3, dtype=d).eval(), (4, 5, 17), domain_eval,
        fixed={"domain": np.array(2)}, prepare=trained,
    ),
    ZooCase(
        "batch_renorm", lambda d: nz.BatchRenorm(5, rmax=1.2, dmax=0.3, dtype=d), (6, 5, 17), prepare=trained, flat=True,
        **renorm(1.2, 0.3),
    ),
    ZooCase("batch_renorm-paper", lambda d: nz.BatchRenorm(17, dtype=d), (6, 17), flat=True, **renorm(1.0, 0.0)),
    ZooCase("batch_renorm-eval", lambda d: nz.BatchRenorm(5, dtype=d).eval(), (4, 5, 17), renorm_eval, prepare=trained),
    ZooCase("ema_batch_norm", lambda d: nz.EMABatchNorm(5, momentum=0.3, dtype=d), (4, 5, 17), ema(0.3), prepare=trained, flat=True),
    ZooCase("ema_batch_norm-first", lambda d: nz.EMABatchNorm(17, dtype=d), (5, 17), ema(0.01), flat=True),
    ZooCase("ema_batch_norm-eval", lambda d: nz.EMABatchNorm(5, dtype=d).eval(), (4, 5, 17), eval_norm, prepare=trained),
    ZooCase(
        "alpha_batch_norm", lambda d: nz.AlphaBatchNorm(5, alpha=0.3, dtype=d).eval(), (4, 5, 17), alpha(0.3),
        prepare=trained, flat=True,
    ),
    ZooCase(
        "alpha_batch_norm-train", lambda d: nz.AlphaBatchNorm(5, dtype=d), (4, 5, 17),
        lambda x, weight, bias, **_: batch_norm(x, weight, bias), flat=True,
    ),
    ZooCase("l1_batch_norm", lambda d: nz.L1BatchNorm(5, dtype=d), (4, 5, 17), l1(np.sqrt(np.pi / 2)), flat=True),
    ZooCase("l1_batch_norm-2d", lambda d: nz.L1BatchNorm(17, factor=1, dtype=d), (9, 17), l1(1), flat=True),
    ZooCase(
        "l1_batch_norm-eval", lambda d: nz.L1BatchNorm(5, dtype=d).eval(), (4, 5, 17), scaled_eval, prepare=trained
    ),
    ZooCase("l_inf_batch_norm", lambda d: nz.LInfBatchNorm(5, dtype=d), (4, 5, 17), linf(1), flat=True),
    ZooCase("l_inf_batch_norm-10", lambda d: nz.LInfBatchNorm(17, 10, dtype=d), (33, 17), linf(10), flat=True),
    ZooCase(
        "l_inf_batch_norm-last", lambda d: nz.LInfBatchNorm(7, 3, channel_axis=-1, dtype=d), (3, 5, 7), linf(3, -1),
        flat=True,
    ),
    ZooCase(
        "l_inf_batch_norm-eval", lambda d: nz.LInfBatchNorm(5, dtype=d).eval(), (4, 5, 17), scaled_eval,
        prepare=trained,
    ),
    ZooCase(
        "virtual_batch_norm", lambda d: nz.VirtualBatchNorm(5, dtype=d), (3, 5, 17), virtual(), prepare=referred,
        flat=True,
    ),
    ZooCase(
        "virtual_batch_norm-2d", lambda d: nz.VirtualBatchNorm(17, dtype=d), (6, 17), virtual(), prepare=referred,
        flat=True,
    ),
    ZooCase(
        "virtual_batch_norm-last", lambda d: nz.VirtualBatchNorm(7, channel_axis=-1, dtype=d), (3, 5, 2, 7),
        virtual(-1), prepare=referred, flat=True,
    ),
    ZooCase("switchable_norm", lambda d: nz.SwitchableNorm(5, dtype=d), (4, 5, 17), switchable(), flat=True),
    ZooCase(
        "switchable_norm-last", lambda d: nz.SwitchableNorm(7, channel_axis=-1, dtype=d), (4, 3, 5, 7),
        switchable(axis=-1), flat=True,
    ),
    ZooCase(
        "switchable_norm-2", lambda d: nz.SwitchableNorm(5, using_bn=False, dtype=d), (4, 5, 3, 7), switchable(),
        flat=True,
    ),
    ZooCase(
        "switchable_norm-eval", lambda d: nz.SwitchableNorm(5, dtype=d).eval(), (4, 5, 17), switchable(False),
        prepare=trained,
    ),
    ZooCase("batch_instance_norm", lambda d: nz.BatchInstanceNorm(5, dtype=d), (4, 5, 17), batch_instance(), flat=True),
    ZooCase(
        "batch_instance_norm-gate", lambda d: nz.BatchInstanceNorm(5, dtype=d), (4, 5, 3, 7), batch_instance(),
        prepare=gated, flat=True,
    ),
    ZooCase(
        "batch_instance_norm-eval", lambda d: nz.BatchInstanceNorm(5, dtype=d).eval(), (4, 5, 17),
        batch_instance(False), prepare=gated,
    ),
    ZooCase(
        "power_norm", lambda d: nz.PowerNorm(5, warmup_iters=0, dtype=d), (4, 5, 17), power, prepare=after_warmup
    ),
    ZooCase("power_norm-warm", lambda d: nz.PowerNorm(17, dtype=d), (6, 17), power_warm),
    ZooCase("power_norm-eval", lambda d: nz.PowerNorm(5, dtype=d).eval(), (4, 5, 17), power, prepare=trained),
]  # fmt: skip
