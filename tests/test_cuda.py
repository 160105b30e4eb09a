"""Norms on device arrays, from the call to the gradients, with the executor where the driver is, or on a device:
`pytest -m gpu` runs the same tests there."""

import subprocess
import sys

import numpy as np
import pytest

import normzoo as nz
from tests import check
from tests.cases import CASES, filled
from tests.cuda_executor import unavailable

if reason := unavailable():
    pytest.skip(reason, allow_module_level=True)

from normzoo.backends.cuda import arrays
from tests.cuda_device import on

everywhere = pytest.mark.parametrize("where", ["executor", pytest.param("gpu", marks=pytest.mark.gpu)])


def on_device(case, where, dtype, rng, last=False):
    """(norm, x, dy) on the host in float64, and (y, dx, grads, state) of the device."""
    norm = filled(case.norm(dtype=dtype), rng)
    options = {"channel_axis": -1} if last else {}
    twin = case.norm(dtype=np.float64, **options)
    mine = case.norm(dtype=dtype, **options)
    x, dy = (3 + rng.standard_normal((2, *case.shape))).astype(dtype)
    if last:
        x, dy = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy))
    mine.load_state_dict(norm.state_dict())
    twin.load_state_dict(norm.state_dict())
    with nz.use("reference"):
        y = twin(x.astype(np.float64))
        dx = twin.backward(dy.astype(np.float64))
    with on(where):
        mine.to("cuda")
        found = mine(nz.device_array(x))
        assert found.shape == x.shape and found.dtype == x.dtype
        y_found = found.copy_to_host()
        dx_found = mine.backward(nz.device_array(dy)).copy_to_host()
        grads = {name: g.copy_to_host() for name, g in mine.grads.items()}
        mine.to("cpu")
    return (twin, y, dx), (mine, y_found, dx_found, grads)


@everywhere
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_every_norm_on_device_arrays(case, dtype, where, rng):
    if dtype == np.float64 and not case.id.endswith(("2d", "last", "channels")):
        pytest.skip("float64 has the kernels of float32: a few are enough")
    (twin, y, dx), (mine, y_found, dx_found, grads) = on_device(case, where, dtype, rng)
    check.close(y_found, y, check.forward_tolerance(dtype) * 4)
    check.close(dx_found, dx, check.backward_tolerance(dtype), float(np.abs(dx).max()))
    for name, g in grads.items():
        check.close(g, twin.grads[name], check.backward_tolerance(dtype), max(1.0, y.size / g.size))
    for name in ("running_mean", "running_var"):
        if name in twin.buffers:
            check.close(mine.buffers[name], twin.buffers[name], check.forward_tolerance(dtype))
    assert mine.state_dict().keys() == twin.state_dict().keys()


@everywhere
@pytest.mark.parametrize(
    "case",
    [  # other ranks are the same views
        pytest.param(c, id=str(c), marks=() if len(c.shape) == 4 else pytest.mark.slow)
        for c in CASES
        if c.channels and len(c.shape) > 2
    ],
)
def test_channels_last_on_device_arrays(case, where, rng):
    (_, y, dx), (_, y_found, dx_found, _) = on_device(case, where, np.float32, rng, last=True)
    check.close(y_found, y, 4 * check.FORWARD32)
    check.close(dx_found, dx, check.BACKWARD32, float(np.abs(dx).max()))


@everywhere
@pytest.mark.parametrize("kind", [nz.BatchNorm, nz.InstanceNorm])
def test_evaluation_out_in_place_and_strides(kind, where, rng):
    x, dy = rng.standard_normal((2, 4, 6, 5, 7)).astype(np.float32)
    norm, host = (kind(6, affine=True, track_running_stats=True) for _ in range(2))
    for n in (norm, host):
        n.running_mean[...], n.running_var[...] = 1.0, 2.0
        n.eval()
    y, dx = host(x), None
    dx = host.backward(dy)
    with on(where):
        norm.to("cuda")
        v = nz.device_array(x)
        out = arrays.empty(x.shape, np.float32)
        assert norm(v, out=out) is out
        check.close(out.copy_to_host(), y, check.FORWARD32)
        check.close(norm.backward(nz.device_array(dy)).copy_to_host(), dx, check.BACKWARD32)
        for name in ("mean", "spread", "rstd"):
            check.close(getattr(norm.saved, name).copy_to_host(), getattr(host.saved, name), check.EXACT)
        assert norm(v, out=v) is v
        check.close(v.copy_to_host(), y, check.FORWARD32)
        # channels-last strides stay; any other are copied in order
        last = nz.device_array(np.ascontiguousarray(np.moveaxis(x, 1, -1))).transpose((0, 3, 1, 2))
        found = norm(last)
        assert found.strides == last.strides
        check.close(found.copy_to_host(), y, check.FORWARD32)
        turned = nz.device_array(np.ascontiguousarray(x.transpose(0, 1, 3, 2))).transpose((0, 1, 3, 2))
        check.close(norm(turned).copy_to_host(), y, check.FORWARD32)


@everywhere
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_on_device_arrays(where, dtype, rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    x, dy = rng.standard_normal((2, 9, 40)).astype(np.float32).astype(kind)
    norm, host = nz.LayerNorm(40), nz.LayerNorm(40)
    y = host(x.astype(np.float32))
    dx = host.backward(dy.astype(np.float32))
    with on(where):
        norm.to("cuda")
        found = norm(nz.device_array(x))
        assert found.dtype == kind
        half = 2.0 ** (-10 if dtype == "float16" else -7)
        check.close(found.copy_to_host().astype(np.float32), y, half)
        check.close(norm.backward(nz.device_array(dy)).copy_to_host().astype(np.float32), dx, half)
        check.close(norm.grads["weight"].copy_to_host(), host.grads["weight"], 1e-5, 9.0)


@everywhere
def test_functional_forms_and_any_array_with_the_interface(where, rng):
    x = rng.standard_normal((6, 33)).astype(np.float32)

    class Foreign:
        """What another library's array looks like."""

        def __init__(self, a):
            self._a, self.__cuda_array_interface__ = a, a.__cuda_array_interface__

    with on(where):
        w = nz.device_array(np.full(33, 2, np.float32))
        v = nz.device_array(x)
        y = nz.functional.layer_norm(v, 33, w)
        check.close(y.copy_to_host(), nz.functional.layer_norm(x, 33, np.full(33, 2, np.float32)), check.FORWARD32)
        seen = nz.device_array(Foreign(v))
        assert seen.address == v.address and seen.shape == v.shape and seen.dtype == np.float32
        again = nz.functional.rms_norm(nz.device_array(v, stream=None), 33)
        check.close(again.copy_to_host(), nz.functional.rms_norm(x, 33), check.FORWARD32)


@everywhere
def test_host_and_device_do_not_mix(where, rng):
    x = rng.standard_normal((4, 8)).astype(np.float32)
    norm = nz.LayerNorm(8)
    with on(where):
        with pytest.raises(TypeError, match=r"LayerNorm.*on the device.*to\(\"cuda\"\)"):
            norm(nz.device_array(x))
        norm.to("cuda")
        with pytest.raises(TypeError, match="on the host"):
            norm(x)
        norm(nz.device_array(x))
        with pytest.raises(TypeError, match="on the host"):
            norm.backward(x)
        with pytest.raises(ValueError, match="device"):
            norm.to("tpu")
        with pytest.raises(TypeError, match="DyT"):
            nz.DyT(8).to("cuda")
        with pytest.raises(TypeError, match="DyT"):
            nz.DyT(8)(nz.device_array(x))


def test_work_and_results_are_on_the_callers_stream(rng):
    """No default stream, no synchronization: every allocation and launch names the stream of x."""
    x = rng.standard_normal((4, 8)).astype(np.float32)
    with on("executor") as device:
        seen = []
        launch, alloc = device.launch, device.alloc
        device.launch = lambda k, s, g, b, n, stream, a: (seen.append(stream), launch(k, s, g, b, n, stream, a))[1]
        device.alloc = lambda nbytes, stream: (seen.append(stream), alloc(nbytes, stream))[1]
        v = nz.device_array(x, stream=7)
        y, saved = nz.functional.layer_norm(v, 8, return_saved=True)
        dx = saved.backward(nz.device_array(x, stream=7)).x
        assert set(seen) == {7} and y.stream == dx.stream == 7
        assert y.__cuda_array_interface__["stream"] == 7


def test_without_a_driver_one_error_says_what_to_install(rng):
    """T0: nothing of CUDA is imported before an array asks for it."""
    code = (
        "import sys, numpy as np, normzoo as nz\n"
        "from normzoo.environment.extras import to_install\n"
        "nz.LayerNorm(4)(np.ones((2, 4), np.float32))\n"
        "assert not [m for m in sys.modules if m.startswith(('numba.cuda', 'numba_cuda', 'cuda.', 'normzoo.backends.cuda'))]\n"
        "try:\n"
        "    nz.LayerNorm(4).to('cuda')\n"
        "except RuntimeError as error:\n"
        "    assert to_install('cuda12') in str(error) and to_install('cuda13') in str(error), error\n"
        "else:\n"
        "    print('there is a device')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
