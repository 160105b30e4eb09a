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

Single = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Double = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

x: Single = np.ones((4, 6, 5), np.float32)
double: Double = np.ones((4, 6, 5))
norm = nz.GroupNorm(2, 6, eps=1e-5, affine=True, bias=False, channel_axis=1, dtype=np.float64)
assert_type(norm, nz.GroupNorm)
assert_type(norm(x), Single)
assert_type(norm(double), Double)
assert_type(norm(x, out=x), Single)
assert_type(norm(x, mask=x > 0, masked="keep"), Single)
assert_type(norm(nz.select(x, lengths=[1, 2, 3, 4])), Array)
assert_type(norm.backward(x), Array)
assert_type(norm(x, residual=x), tuple[Single, Single])
assert_type(norm(x, add=x), Single)
assert_type(norm.backward(x, ds=x), Array)
assert_type(nz.AdaptiveInstanceNorm()(x, x), Single)
assert_type(nz.AdaptiveInstanceNorm()(x, style=x), Single)
assert_type(nz.BatchNorm(6, on_nonfinite="skip")(x, update_stats=False), Single)
norm.weight = np.ones(6)
norm.weight -= 0.1 * norm.grads["weight"]
assert norm.weight is not None
assert_type(nz.list_activations()[0].formula, str)
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
assert_type(nz.create("BatchNorm2d", 5), nz.Norm)
assert_type(nz.create("LayerNormalization", 5, dialect="keras"), nz.Norm)
assert_type(nz.create(nz.list_norms()[0], 5), nz.Norm)
assert_type(nz.list_norms()[0].summary, str)
F = nz.functional
with nz.use("reference"):
    assert_type(F.layer_norm(x, 5), Single)
    assert_type(F.layer_norm(double, [5], return_saved=True), tuple[Double, Saved])
    assert_type(F.layer_norm(x, 5, residual=x, activation="relu"), tuple[Single, Single])
    assert_type(F.rms_norm(x, 5, residual=x, return_saved=True), tuple[tuple[Single, Single], Saved])
    assert_type(F.batch_norm(x, None, None, training=True), Single)
    assert_type(F.instance_norm(x, return_saved=True)[1].backward(x), Grads)
    assert_type(F.normalize(x), Single)

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
nz.functional.rms_norm(x, 5, gates=x)  # error: [call-overload]
norm.backwards(x)  # error: [attr-defined]
nz.functional.batch_norm(x)  # error: [call-overload]
nzt.functional.group_norm(t, None)  # error: [arg-type]
nzt.convert({})  # error: [call-overload]
norm(x, msk=x > 0)  # error: [call-overload]
norm(x, mask=x > 0, masked="zeros")  # error: [call-overload]
print(norm(x, 5).weight)  # error: [attr-defined]
norm([1.0])  # error: [call-overload]
norm.weight = None  # error: [assignment]
print(norm.weight.gamma)  # error: [attr-defined]
nz.BatchNorm(6, on_nonfinite="skp")  # error: [arg-type]
nz.create("batchnorm2d", 6)  # error: [call-overload]
print(F.layer_norm(x, 5).weight)  # error: [attr-defined]
print(F.batch_norm(x, None, None, return_saved=True).shape)  # error: [attr-defined]
F.layer_norm(x, "5")  # error: [arg-type]
