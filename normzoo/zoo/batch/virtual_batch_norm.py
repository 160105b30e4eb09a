"""Virtual batch normalization: normalize every sample by the statistics of a fixed reference batch and itself."""

from typing import Any

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.affine import affine, check_spread, placed, standardized
from normzoo.passes.arrays import base_array, once, quiet, read_only
from normzoo.passes.attributes import entry
from normzoo.passes.form import Form
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_features, check_size
from normzoo.passes.overlaps import check_out
from normzoo.passes.saved import Saved
from normzoo.passes.view import Axes
from normzoo.statistics.running_state import RunningState
from normzoo.statistics.tracked import check_channels
from normzoo.zoo.batch import batch_norm


class VirtualBatchNorm(Norm):
    """Virtual batch normalization: normalize every sample by the statistics of a fixed reference batch and itself.

    Formula:
        y = (x - mean) / sqrt(var + eps) * weight + bias, where for every sample and channel
            mean = (R * reference_mean + mean(x)) / (R + 1)
            var = (R * (reference_var + (reference_mean - mean)^2) + var(x) + (mean(x) - mean)^2) / (R + 1)
        are the moments of a reference batch of R samples together with this sample; mean(x) and (biased) var(x) are
        over the sample's positions. The gradient goes through the sample's own share; the reference is constant.

    Shapes:
        x, y: (N, C), (N, C, L), (N, C, H, W), ...; with channel_axis=-1, (N, ..., C).
        weight, bias: (C,). reference_mean, reference_var: (C,). reference_size: (), which is R.

    Args:
        num_features: C.
        eps: added to the variance, in the units of x squared.
        affine, bias, channel_axis, dtype: see `BatchNorm`.

    `norm.refer(reference)` is called once with the reference batch, and returns it normalized by its own statistics:
    the reference of the next layer.

    Raises:
        ValueError: x has another number of channels or rank below 2, or float64 values so large (2^500) that a variance
            overflows. RuntimeError: no reference was given. TypeError: x is not a float array.

    No sample depends on the others of its batch, and training and evaluation are the same. Reference and x may have
    different positions. In the authors' code the reference runs through the network in every step, and the gradient
    also goes through its statistics.

    Source:
        T. Salimans, I. Goodfellow, W. Zaremba, V. Cheung, A. Radford and X. Chen, "Improved Techniques for Training
        GANs", 2016, arXiv:1606.03498.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.VirtualBatchNorm(1)
    >>> norm.refer(np.array([[0], [4]], np.float32)).round(2).ravel()
    array([-1.,  1.], dtype=float32)
    >>> norm(np.array([[2]], np.float32)), norm(np.array([[8]], np.float32)).round(2)  # of 0, 4, 2 and of 0, 4, 8
    (array([[0.]], dtype=float32), array([[1.22]], dtype=float32))
    """

    moments = Moments(center=True, power=2)
    eps: float
    reference_mean = entry("buffers", "reference_mean")
    reference_var = entry("buffers", "reference_var")
    reference_size = entry("buffers", "reference_size")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        dtype: Any = np.float32,
    ) -> None:
        self.num_features = check_features("VirtualBatchNorm", num_features)
        super().__init__(num_features, shape=(num_features,), eps=eps, weight=affine, bias=affine and bias, dtype=dtype)
        self.channel_axis = check_size(self, "channel_axis", channel_axis, least=-(2**31))
        self.buffers["reference_mean"] = np.zeros(num_features, self._dtype)
        self.buffers["reference_var"] = np.ones(num_features, self._dtype)
        self.buffers["reference_size"] = np.zeros((), np.float64)

    @quiet
    def refer(self, reference: Array, out: Array | None = None) -> Array:
        """Set the reference batch, whose shape is x's except for the number of samples and positions.

        Returns:
            The batch normalized by its own statistics, with weight and bias.

        Raises:
            ValueError: it has no values, values that are too large, or not the channels of x. TypeError: it is not a
                float array.
        """
        reference = base_array(self, "reference", reference)
        axes = batch_norm.axes(self, reference, self.channel_axis, self.num_features)
        if reference.size == 0:
            raise ValueError(f"{self}: expected a reference with values, got shape {reference.shape}")
        held = self.buffers["reference_mean"], self.buffers["reference_var"], self.buffers["reference_size"]
        if not all(a.flags.writeable for a in held):
            raise ValueError(f"{self}: expected reference statistics that can be written, {read_only(self)}")
        if out is not None:
            check_out(self, out, reference.shape, reference.dtype, (reference,), (self.weight, self.bias, *held))
        y, stats, _ = normalize(Form(self, axes, self.moments, self.eps), reference, self.weight, self.bias, keep=False)
        check_spread(self, stats, self.eps)
        if out is not None:
            y = placed(y, out)
        new = stats[0], stats[1], float(reference.shape[0])
        RunningState(*held).replace(lambda *old: new)
        return y

    def forward(self, x: Array, out: Array | None = None) -> tuple[Array, Saved]:
        axes = sample_axes(self, x, self.channel_axis, self.num_features, 0)
        held = self.buffers["reference_mean"], self.buffers["reference_var"]
        others, spread, size = RunningState(*held, self.buffers["reference_size"]).read()
        if size == 0:
            raise RuntimeError(f"{self}: expected a reference batch first; write norm.refer(reference)")
        weight, bias = (p if p is None else p.astype(np.float64) for p in (self.weight, self.bias))
        others, spread, share = others.astype(np.float64), spread.astype(np.float64), 1 / (float(size) + 1)

        def find(mean: Array, var: Array) -> tuple[Array, Array, Any]:
            joint = others + share * (mean - others)
            joint_var = (1 - share) * (spread + (others - joint) ** 2) + share * (var + (mean - joint) ** 2)
            one, none = np.ones(()), np.zeros(())
            slope, shift, pull = standardized(
                mean, joint, joint_var, one if weight is None else weight, none if bias is None else bias, self.eps
            )

            def back(dslope: Array, dshift: Array) -> tuple[Array, Array, dict[str, Array]]:
                dmean, dcenter, dvar, dweight, dbias = pull(dslope, dshift)
                # `joint` minimizes the sum of squares, so joint_var depends on mean only through mean - joint
                dmean = dmean + share * (dcenter + 2 * (mean - joint) * dvar)
                return dmean, share * dvar, {"weight": dweight.sum(axis=0), "bias": dbias.sum(axis=0)}

            return slope, shift, back

        y, _, saved = affine(Form(self, axes, self.moments, self.eps), x, self.params, find, out, held)
        return y, saved

    def _options(self) -> dict[str, Any]:
        affine = {"affine": "weight" in self.params, "bias": "bias" in self.params}
        return super()._options() | affine | ({} if self.channel_axis == 1 else {"channel_axis": self.channel_axis})


@once
def sample_axes(owner: object, x: Array, channel_axis: int, features: int, least: int) -> Axes:
    """Axes where every channel of every sample is a set, of at least `least` positions, with its own parameters."""
    channel = check_channels(owner, x, channel_axis, 2, features)
    if channel == 0:
        raise ValueError(f"{owner}: expected the samples on axis 0 of x, got channel_axis={channel_axis}")
    axes = Axes(x.shape, "K" + "r" * (channel - 1) + "K" + "r" * (x.ndim - channel - 1))
    if x.size and axes.values < least:
        raise ValueError(f"{owner}: expected more than 1 position per channel, got x of shape {x.shape}")
    return axes
