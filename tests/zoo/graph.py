"""Norms of graphs, from their papers and PyTorch Geometric's documentation."""

import numpy as np

import normzoo as nz
from tests.zoo.case import ZooCase, magnitude

IDS = np.array([4, -1, 4, 4, 0, -1, 4, 0, 4, 4, 4])  # a graph of 7 nodes and two of 2, in no order


def of_graphs(one):
    """`one` of each graph alone."""

    def oracle(x, segments=None, **params):
        y = np.empty_like(x, np.result_type(x, *params.values()))
        ids = np.zeros(len(x), int) if segments is None else segments
        for i in np.unique(ids):
            y[ids == i] = one(x[ids == i], **params)
        return y

    return oracle


def graph_norm(x, weight, bias, mean_scale):
    """Cai et al. 2020, equation 6."""
    o = x - mean_scale * sum(x) / len(x)
    return weight * o / np.sqrt(sum(o * o) / len(x) + 1e-5) + bias


def pair_norm(scale):
    def one(x):
        """Zhao and Akoglu 2019, equation 11."""
        o = x - sum(x) / len(x)
        return scale * o / np.sqrt((o * o).sum() / len(x) + 1e-5)

    return one


def pair_norm_of_nodes(scale):
    def one(x):
        """The same, individually."""
        o = x - sum(x) / len(x)
        return np.stack([scale * v / (np.sqrt((v * v).sum()) + 1e-5) for v in o])

    return one


def message_norm(p):
    def oracle(x, msg, scale=1.0):
        """Li et al. 2020, equation 6."""

        def size(v):
            return (magnitude(v) ** p).sum(axis=-1, keepdims=True) ** (1 / p)

        return scale * msg / size(msg) * size(x)

    return oracle


def diff_group_norm(groups, lamda, own=True):
    def oracle(x, lin_weight, weight=None, bias=None, running_mean=None, running_var=None, **_):
        """Zhou et al. 2020, equations 2 and 3."""
        e = np.exp(x @ lin_weight.T)
        s, size, y = e / e.sum(axis=1, keepdims=True), x.shape[1], x
        for g in range(groups):
            part, h = slice(g * size, (g + 1) * size), s[:, [g]] * x
            mean, var = h.mean(axis=0), ((h - h.mean(axis=0)) ** 2).mean(axis=0)
            if not own:
                mean, var = running_mean[part], running_var[part]
            hat = (h - mean) / np.sqrt(var + 1e-5)
            y = y + lamda * (hat if weight is None else hat * weight[part] + bias[part])
        return y

    return oracle


def evaluated(norm, rng):
    for p in norm.params.values():
        p[...] = rng.standard_normal(p.shape)
    norm.running_mean[...] = rng.standard_normal(norm.running_mean.shape)
    norm.running_var[...] = rng.uniform(0.5, 2, norm.running_var.shape)
    norm.eval()


SEGMENTS = {"segments": IDS}
CASES = [
    ZooCase("graph_norm", lambda dtype: nz.GraphNorm(17, dtype=dtype), (11, 17), of_graphs(graph_norm), fixed=SEGMENTS),
    ZooCase("graph_norm-one", lambda dtype: nz.GraphNorm(5, dtype=dtype), (33, 5), of_graphs(graph_norm)),
    ZooCase("pair_norm", lambda dtype: nz.PairNorm(1.5), (11, 7), of_graphs(pair_norm(1.5)), fixed=SEGMENTS, flat=True),
    ZooCase("pair_norm-one", lambda dtype: nz.PairNorm(), (5, 33), of_graphs(pair_norm(1)), flat=True),
    ZooCase(
        "pair_norm-individually",
        lambda dtype: nz.PairNorm(2.0, True),
        (11, 7),
        of_graphs(pair_norm_of_nodes(2)),
        fixed=SEGMENTS,
        flat=True,
    ),
    ZooCase(
        "mean_subtraction",
        lambda dtype: nz.MeanSubtraction(),
        (11, 18),
        of_graphs(lambda x: x - sum(x) / len(x)),
        fixed=SEGMENTS,
        flat=True,
    ),
    ZooCase(
        "graph_size_norm",
        lambda dtype: nz.GraphSizeNorm(),
        (11, 3),
        of_graphs(lambda x: x / np.sqrt(len(x))),
        fixed=SEGMENTS,
    ),
    ZooCase("message_norm", lambda dtype: nz.MessageNorm(), (9, 17), message_norm(2), inputs={"msg": (9, 17)}),
    ZooCase(
        "message_norm-learned",
        lambda dtype: nz.MessageNorm(True, dtype=dtype),
        (2, 5, 7),
        message_norm(2),
        inputs={"msg": (2, 5, 7)},
    ),
    ZooCase(
        "message_norm-order-3",
        lambda dtype: nz.MessageNorm(True, 3.0, dtype=dtype),
        (9, 7),
        message_norm(3),
        inputs={"msg": (9, 7)},
    ),
    ZooCase(
        "diff_group_norm", lambda dtype: nz.DiffGroupNorm(7, 3, 0.5, dtype=dtype), (17, 7), diff_group_norm(3, 0.5)
    ),
    ZooCase(
        "diff_group_norm-plain",
        lambda dtype: nz.DiffGroupNorm(5, 2, affine=False, track_running_stats=False, dtype=dtype),
        (9, 5),
        diff_group_norm(2, 0.01),
    ),
    ZooCase(
        "diff_group_norm-eval",
        lambda dtype: nz.DiffGroupNorm(5, 2, 0.3, dtype=dtype).eval(),
        (9, 5),
        diff_group_norm(2, 0.3, False),
        prepare=evaluated,
    ),
]
