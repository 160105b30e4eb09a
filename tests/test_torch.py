"""Optional: PyTorch, where it is installed, gives the same numbers and raises under the same conditions."""

import numpy as np
import pytest

import normzoo as nz
from tests import check
from tests.cases import channels_last_strides

torch = pytest.importorskip("torch")
T, F = torch.nn.functional, nz.functional
SHAPE = (4, 6, 5, 7)

CALLS = {
    "batch_norm": lambda f, x, w, b, **o: f.batch_norm(x, None, None, w, b, True, **o),
    "instance_norm": lambda f, x, w, b, **o: f.instance_norm(x, None, None, w, b, **o),
    "group_norm": lambda f, x, w, b, **o: f.group_norm(x, 3, w, b, **o),
    "layer_norm": lambda f, x, w, b, **o: f.layer_norm(x, (7,), w, b, **o),
    "rms_norm": lambda f, x, w, b, **o: f.rms_norm(x, (7,), w, **o),
    "local_response_norm": lambda f, x, w, b, **o: f.local_response_norm(x, 4, 0.5, 0.7, 2.0, **o),
    "normalize": lambda f, x, w, b, **o: f.normalize(x, 2.0, 1, **o),
    "normalize-3": lambda f, x, w, b, **o: f.normalize(x, 3.0, (0, 2), **o),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, channels_last_strides])
def test_forward_and_gradients(name, arrange, rng):
    x, dy = (arrange(rng.standard_normal(SHAPE)) for _ in range(2))
    w, b = rng.standard_normal((2, 7 if name in ("layer_norm", "rms_norm") else 6))
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    expected = CALLS[name](T, *tensors)
    expected.backward(torch.tensor(dy))
    y, saved = CALLS[name](F, x, w, b, return_saved=True)
    check.close(y, expected.detach().numpy(), check.EXACT)
    for gradient, tensor in zip(saved.backward(dy), tensors, strict=True):
        if gradient is not None and tensor.grad is not None:
            check.close(gradient, tensor.grad.numpy(), check.EXACT)


PAIRS = [
    (lambda: nz.BatchNorm(6, momentum=None), lambda: torch.nn.BatchNorm2d(6, momentum=None)),
    (lambda: nz.BatchNorm(6, momentum=0.0), lambda: torch.nn.BatchNorm2d(6, momentum=0.0)),
    (lambda: nz.BatchNorm(6, 1e-3, 0.3, False), lambda: torch.nn.BatchNorm2d(6, 1e-3, 0.3, False)),
    (lambda: nz.BatchNorm(6, track_running_stats=False), lambda: torch.nn.BatchNorm2d(6, track_running_stats=False)),
    (
        lambda: nz.InstanceNorm(6, affine=True, track_running_stats=True),
        lambda: torch.nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
    ),
    (
        lambda: nz.InstanceNorm(6, momentum=None, track_running_stats=True),
        lambda: torch.nn.InstanceNorm2d(6, momentum=None, track_running_stats=True),
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_state_over_steps(ours, theirs, rng):
    ours, theirs = ours(), theirs()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for training in (True, True, False, True, False):
        x, dy = (2 + 3 * rng.standard_normal((2, *SHAPE))).astype(np.float32)
        tensor = torch.tensor(x, requires_grad=True)
        expected = theirs.train(training)(tensor)
        expected.backward(torch.tensor(dy))
        check.close(ours.train(training)(x), expected.detach().numpy(), 2e-6)
        check.close(ours.backward(dy), tensor.grad.numpy(), 1e-5)
        for name, value in theirs.state_dict().items():
            check.close(ours.state_dict()[name], value.numpy(), 1e-6)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})


RAISING = [
    ("batch_norm", (1, 3), {"training": True}),
    ("batch_norm", (1, 3, 1), {"training": True}),
    ("batch_norm", (0, 3), {"training": True}),
    ("batch_norm", (2, 3, 0), {"training": True}),
    ("batch_norm", (2, 3), {"training": False}),
    ("batch_norm", (2, 3), {"training": True, "eps": 0.0}),
    ("instance_norm", (2, 3, 1), {}),
    ("instance_norm", (0, 3, 1), {}),
    ("instance_norm", (0, 3, 2), {}),
    ("instance_norm", (2, 3, 0), {}),
    ("instance_norm", (2, 3), {}),
    ("instance_norm", (2, 3, 4), {"use_input_stats": False}),
    ("instance_norm", (2, 3, 4), {"eps": 0.0}),
    ("group_norm", (1, 4), {"num_groups": 4}),
    ("group_norm", (2, 4), {"num_groups": 4}),
    ("group_norm", (1, 4), {"num_groups": 2}),
    ("group_norm", (2, 5), {"num_groups": 2}),
    ("group_norm", (0, 4, 2), {"num_groups": 2}),
    ("group_norm", (2, 4, 0), {"num_groups": 2}),
    ("group_norm", (4,), {"num_groups": 2}),
    ("layer_norm", (0, 4), {"normalized_shape": (4,)}),
    ("layer_norm", (3, 0), {"normalized_shape": (0,)}),
    ("layer_norm", (3, 1), {"normalized_shape": (1,)}),
    ("layer_norm", (3, 4), {"normalized_shape": (3,)}),
    ("layer_norm", (3, 4), {"normalized_shape": ()}),
    ("rms_norm", (3, 4), {"normalized_shape": (3, 4)}),
    ("rms_norm", (4,), {"normalized_shape": (3, 4)}),
    ("local_response_norm", (3, 4), {"size": 2}),
    ("local_response_norm", (3, 4, 1), {"size": 9}),
    ("local_response_norm", (0, 4, 1), {"size": 1}),
    ("normalize", (4,), {}),
    ("normalize", (0, 4), {}),
]


@pytest.mark.parametrize(("name", "shape", "options"), RAISING, ids=str)
def test_raises_where_torch_raises(name, shape, options, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    running = (None, None) if name == "batch_norm" else ()
    try:
        expected = getattr(T, name)(torch.tensor(x), *running, **options)
    except (ValueError, RuntimeError, IndexError):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            getattr(F, name)(x, *running, **options)
    else:
        check.close(getattr(F, name)(x, *running, **options), expected.numpy(), 1e-6)
