"""What nz.diagnose says of every set, against numbers taken from x itself."""

import numpy as np
import pytest

import normzoo as nz
from normzoo.passes.arrays import eps_for
from tests import check


def test_diagnose_counts_what_is_wrong(rng):
    x = 1e4 + rng.standard_normal((8, 4, 5)).astype(np.float32)
    x[:, 1] = 3
    x[2, 2, 0], x[3, 2, 1] = np.nan, np.inf
    x[:, 3] = np.nan
    norm = nz.BatchNorm(4)
    state = norm.state_dict()
    found = nz.diagnose(norm, x)
    for name, value in norm.state_dict().items():
        check.same_bits(value, state[name])
    assert norm.saved is None and found.count.tolist() == [40] * 4 and found.nonfinite.tolist() == [0, 0, 2, 40]
    exact = x[:, 0].astype(np.float64)
    check.close(found.mean[0], exact.mean(), check.EXACT)
    check.close(found.var[0], exact.var(), 1e-10)
    check.close(found.condition[0], exact.mean() / exact.std(), 1e-10)
    assert found.min[0] == exact.min() and found.max[0] == exact.max()
    assert found.condition[1] == np.inf and found.eps_share[1] == 1 and found.var[1] == 0
    left = x[:, 2][np.isfinite(x[:, 2])].astype(np.float64)
    check.close(found.mean[2], left.mean(), check.EXACT)
    check.close(found.eps_share[2], 1e-5 / (left.var() + 1e-5), 1e-10)
    assert np.isnan([found.mean[3], found.min[3], found.max[3], found.var[3]]).all()
    text = str(found).split("\n")
    assert text[0] == "BatchNorm(4): 4 sets, 2 with nan or inf, 1 decided by eps"
    assert [line.split()[0] for line in text[1:]] == ["set", "3", "2", "1", "0"]


@pytest.mark.parametrize("norm", [nz.GroupNorm(2, 4), nz.LayerNorm(6), nz.RMSNorm(6), nz.InstanceNorm(4)], ids=str)
def test_diagnose_has_the_norms_own_sets(norm, rng):
    x = rng.standard_normal((3, 4, 6))
    found = nz.diagnose(norm, x)
    _, saved = norm.forward(x)
    eps = eps_for(x) if norm.eps is None else norm.eps
    check.close(found.eps_share.ravel() / eps, saved.rstd.ravel() ** 2, 1e-9)
    assert found.count.sum() == x.size and str(found)
    with pytest.raises(TypeError, match="statistics are means over axes, got DyT"):
        nz.diagnose(nz.DyT(6), x)


@pytest.mark.parametrize("size", [1e200, 1e-200, 1e306])
def test_diagnose_of_values_whose_squares_leave_the_range(size):
    x = np.array([[1.0, 2.0, 4.0]])
    found, usual = nz.diagnose(nz.LayerNorm(3), x * size), nz.diagnose(nz.LayerNorm(3), x)
    check.close(found.condition, usual.condition, check.EXACT)
    check.close(found.mean / size, usual.mean, check.EXACT)
    assert found.eps_share == (0.0 if size > 1 else 1.0)
    unit = nz.diagnose(nz.L2Norm(3, eps=1e-250), x * size)
    assert unit.eps_share == 0.0


def test_diagnose_says_inf_of_a_constant():
    assert nz.diagnose(nz.LayerNorm(70), np.full((1, 70), 0.1)).condition == np.inf
