"""The zoo on device arrays, with the executor where the driver is: every norm that is a declaration of the algebra
computes what the reference does, and every other one says that it stays on the host."""

import numpy as np
import pytest

import normzoo as nz
from normzoo.backends.cuda import driver
from tests import check
from tests.cuda_executor import unavailable
from tests.zoo import ZOO

if reason := unavailable():
    pytest.skip(reason, allow_module_level=True)

from tests.cuda_device import HostDriver, on


def runs_there(case):
    return "cuda" in case.norm(np.float32).devices


THERE, HOST_ONLY = ([case for case in ZOO if runs_there(case) is there] for there in (True, False))
FIRST = {}  # case of each norm, which every run of the suite looks at
for _case in THERE:
    FIRST.setdefault(type(_case.norm(np.float32)), _case)


def marked(cases):
    first = {case.id for case in FIRST.values()}
    return [pytest.param(case, id=case.id, marks=() if case.id in first else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize("where", ["executor", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("case", marked(THERE))
def test_a_declaration_runs_on_device_arrays(case, where, rng):
    norm, x, inputs, dy = case.draw(rng, np.float32, mean=3.0)
    twin = case.norm(np.float64)
    twin.load_state_dict({n: a.astype(np.int64 if a.dtype.kind == "i" else np.float64) for n, a in norm.state_dict().items()})  # fmt: skip
    twin.train(norm.training)
    with nz.use("reference"):
        y = twin(x.astype(np.float64), **{name: a.astype(np.float64) for name, a in inputs.items()})
        dx = twin.backward(dy.astype(np.float64))
    with on(where):
        norm.to("cuda")
        assert not case.fixed
        found = norm(nz.device_array(x), **{name: nz.device_array(a) for name, a in inputs.items()}).copy_to_host()
        gradient = norm.backward(nz.device_array(dy)).copy_to_host()
        grads = {name: g.copy_to_host() for name, g in norm.grads.items()}
        norm.to("cpu")
    check.close(found, y, check.FORWARD32, max(1.0, float(np.abs(y).max())))
    check.close(gradient, dx, check.BACKWARD32, float(np.abs(dx).max()))
    assert set(grads) == set(twin.grads)
    for name, g in grads.items():
        check.close(g, twin.grads[name], check.BACKWARD32, max(1.0, y.size / max(g.size, 1)))
    for name, a in twin.buffers.items():
        check.close(norm.buffers[name], a, check.FORWARD32, max(1.0, float(np.abs(a).max())))


@pytest.mark.parametrize("case", HOST_ONLY, ids=str)
def test_any_other_norm_says_that_it_stays_on_the_host(case, rng):
    norm, x, inputs, _ = case.draw(rng, np.float32)
    before = {name: a.copy() for name, a in (norm.params | norm.buffers).items()}
    name = type(norm).__name__
    with driver.use(HostDriver()):
        with pytest.raises(
            TypeError, match=rf"^{name}\(.*expected device 'cpu', got 'cuda'.*no CUDA kernels.*write norm"
        ):
            norm.to("cuda")
        with pytest.raises(
            TypeError, match=rf"^{name}\(.*on the host, got a device array.*no CUDA kernels.*copy_to_host"
        ):
            norm(nz.device_array(x), **inputs, **case.fixed)
    held = norm.params | norm.buffers
    assert norm.saved is None and held.keys() == before.keys()
    for key, a in held.items():
        check.same_bits(a, before[key])


def test_a_norm_with_a_forward_of_its_own_stays_on_the_host_unless_it_says_otherwise():
    class Twice(nz.LayerNorm):
        def forward(self, x, out=None):
            y, saved = super().forward(x, out)
            return 2 * y, saved

    class Same(Twice):
        devices = "cpu", "cuda"

    assert (nz.LayerNorm.devices, Twice.devices, Same.devices) == (("cpu", "cuda"), ("cpu",), ("cpu", "cuda"))
    with driver.use(HostDriver()), pytest.raises(TypeError, match=r"Twice\(.*no CUDA kernels"):
        Twice(3).to("cuda")


def test_the_five_and_what_is_made_like_them_run_there():
    five = {nz.BatchNorm, nz.InstanceNorm, nz.LayerNorm, nz.GroupNorm, nz.RMSNorm}
    assert all("cuda" in norm.devices for norm in five)
    assert {norm.__name__ for norm in FIRST} >= {
        "FrozenBatchNorm", "GhostBatchNorm", "GroupRMSNorm", "HeadLayerNorm", "HeadRMSNorm", "L2Norm", "LayerNorm",
        "LayerScale", "FiLM", "AdaptiveLayerNorm", "MeanVarianceNorm", "PixelNorm", "ScaleNorm", "UnitNorm", "WeightNorm", "WeightStandardization",
    }  # fmt: skip
