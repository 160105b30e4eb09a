"""Code as a user writes it, for mypy and not to be run: the public interface has complete and right types.

`mypy --strict tests/user_code.py` must find nothing but what the comments "error:" say, see test_typing.py.
"""

from typing import Any, assert_type

import numpy as np
import torch

import normzoo as nz
import normzoo.torch as nzt
from normzoo.passes.saved import Grads, Saved

Array = np.ndarray[Any, Any]

x = np.ones((4, 6, 5), np.float32)
norm = nz.GroupNorm(2, 6, eps=1e-5, affine=True, bias=False, channel_axis=1, dtype=np.float64)
assert_type(norm, nz.GroupNorm)
assert_type(norm(x), Array)
assert_type(norm(x, out=x), Array)
assert_type(norm.backward(x), Array)
assert_type(norm(x, residual=x), tuple[Array, Array])
assert_type(norm(x, add=x), Array)
assert_type(norm.backward(x, ds=x), Array)
assert_type(nz.list_activations()[0].formula, str)
nz.functional.layer_norm(x, 5, residual=x, activation="relu")
y, saved = norm.forward(x)
assert_type(y, Array)
assert_type(saved, Saved)
assert_type(saved.backward(y), Grads)
assert_type(saved.backward(y).weight, Array | None)
assert_type(norm.train().eval(), nz.GroupNorm)
assert_type(norm.params, dict[str, Array])
assert_type(norm.state_dict(), dict[str, Array])
norm.load_state_dict(norm.state_dict())
assert_type(nz.BatchNorm(6, momentum=None).num_batches_tracked, Array | None)
assert_type(nz.create("layer_norm", 5), nz.Norm)
assert_type(nz.list_norms()[0].summary, str)
with nz.use("reference"):
    nz.functional.layer_norm(x, 5)
    nz.functional.layer_norm(x, [5], return_saved=True)

t = torch.ones(4, 6, 5)
assert_type(nzt.functional.layer_norm(t, (5,)), torch.Tensor)
assert_type(nzt.functional.batch_norm(t, None, None, training=True), torch.Tensor)
model = nzt.convert(torch.nn.Sequential(torch.nn.LayerNorm(5)))
assert_type(model, torch.nn.Sequential)
assert_type(nzt.revert(model), torch.nn.Sequential)
assert_type(nzt.shares_threads(), bool)
as_torchs: torch.nn.BatchNorm2d = nzt.BatchNorm2d(6)

nz.GroupNorm("2", 6)  # error: [arg-type]
nz.LayerNorm(5, axes=1)  # error: [call-arg]
nz.LayerNorm(5, activation=3)  # error: [arg-type]
nz.functional.rms_norm(x, 5, gates=x)  # error: [call-arg]
norm.backwards(x)  # error: [attr-defined]
nz.functional.batch_norm(x)  # error: [call-arg]
nzt.functional.group_norm(t, None)  # error: [arg-type]
nzt.convert({})  # error: [call-overload]
