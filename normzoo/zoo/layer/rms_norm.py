"""Root mean square normalization: divide every sample by its root mean square over the trailing axes."""

from typing import Any, Unpack

import numpy as np

from normzoo.backends.contract import CONSTANT, Array, Moments
from normzoo.norm import Norm
from normzoo.passes.around import Behind, Besides
from normzoo.passes.arrays import DEVICES, base_array, cast_like, eps_for, shifted
from normzoo.passes.attributes import overridable
from normzoo.passes.form import Form, in_two
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_number, check_shape
from normzoo.passes.overlaps import check_out
from normzoo.passes.saved import Chained, Grads, Saved, grads_by_name
from normzoo.passes.view import Axes
from normzoo.zoo.layer import layer_norm


class RMSNorm(Norm):
    """Root mean square normalization: divide every sample by its root mean square over the trailing axes.

    Formula:
        y = x / sqrt(mean(x^2) + eps) * weight, with the mean over the normalized axes.

    Shapes:
        x, y: (..., *normalized_shape), or of sizes normalized_shape along `axis`.
        weight: normalized_shape, or parameter_shape. There is no bias.

    Args:
        normalized_shape: sizes of the normalized axes, an integer or a tuple.
        eps: added to the mean square, in the units of x squared; None is the spacing of float64 at 1 for float64 x and
            that of float32 (1.2e-7) for any other dtype.
        elementwise_affine: whether there is a weight.
        axis, parameter_axis, parameter_shape, dtype: see `LayerNorm`.
        offset: added to the weight: y = xhat * (offset + weight); the weight starts at 1 - offset. Gemma has 1.
        casting: "llama" rounds xhat to x's dtype before it is multiplied by the weight, as the Llama and T5 of
            transformers do, which makes a difference for 16-bit x; "gemma" and None round once, after the weight, as
            PyTorch does.

    Raises:
        ValueError: x does not have these sizes, or casting is unknown. TypeError: x is not a float array.

    Source:
        B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467; semantics of
        torch.nn.RMSNorm.

    >>> import numpy as np, normzoo as nz
    >>> nz.RMSNorm(2)(np.array([[3, 4]], np.float32) / np.float32(12.5**0.5)).round(2)
    array([[0.85, 1.13]], dtype=float32)
    """

    devices = DEVICES
    masks = True
    fuses = True
    moments = Moments(center=False, power=2)
    asks = "normalized_shape", "axis", "parameter_axis"

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        axis: int | tuple[int, ...] | None = None,
        parameter_axis: int | tuple[int, ...] | None = None,
        parameter_shape: int | tuple[int, ...] | None = None,
        offset: float = 0.0,
        casting: str | None = None,
        dtype: Any = np.float32,
        **behind: Unpack[Behind],
    ) -> None:
        self.normalized_shape = check_shape("RMSNorm", "normalized_shape", normalized_shape)
        self.axis = layer_norm.check_axes("RMSNorm", axis)
        self.parameter_axis, shape = layer_norm.check_spans(
            "RMSNorm", self.normalized_shape, parameter_axis, parameter_shape
        )
        super().__init__(
            self.normalized_shape,
            shape=shape,
            eps=0.0 if eps is None else eps,
            weight=elementwise_affine,
            bias=False,
            dtype=dtype,
            **behind,
        )
        self.eps = None if eps is None else self.eps
        self.offset = check_number(self, "offset", offset)
        if casting not in (None, "gemma", "llama"):
            raise ValueError(f"{self}: expected casting of None, 'gemma' or 'llama', got {casting!r}")
        self.casting = casting
        if "weight" in self.params:
            self.params["weight"] -= self.params["weight"].dtype.type(self.offset)
        self._plain = not self.params or (self.offset == 0 and casting != "llama")
        if not self._plain:
            self.masks = self.masks and casting != "llama"  # its second pass would scale values that do not count

    def axes(self, x: Array) -> Axes:
        if self.parameter_axis is None:
            return layer_norm.axes(self, x, self.normalized_shape, self.axis)
        return layer_norm.axes_apart(self, x, self.normalized_shape, self.axis, self._shape, self.parameter_axis)

    @overridable
    def forward(self, x: Array, out: Array | None = None, **beside: Unpack[Besides]) -> tuple[Any, Saved]:
        if self._plain:
            return Norm.forward(self, x, out, **beside)  # what finds it by `super` takes a tenth of a small call
        _, around, others = self._stands(beside)
        axes, own = self.axes(x), self.params["weight"]
        weight = shifted(own, self.offset, x.dtype) if self.offset else own
        form = Form(self, axes, self.moments, eps_for(x) if self.eps is None else self.eps, None, around, others)
        if self.casting == "llama":
            return self._in_two(form, x, weight, out)
        y, _, saved = normalize(form, x, weight, None, out, apart=(own,))
        return y, Chained(self, x, lambda *given: _cast(saved.backward(*given), own), (saved,))

    def _in_two(self, form: Form, x: Array, weight: Array, out: Array | None) -> tuple[Any, Saved]:
        """The weight multiplies what is rounded to x's dtype: what stands before belongs to the first pass, what stands
        behind to the second."""
        own, residual = self.params["weight"], form.beside.residual
        if out is not None:
            check_out(self, out, x.shape, x.dtype, (x, residual), (own, form.beside.other, form.beside.s))
        before, behind = in_two(form)
        made, _, first = normalize(before, x, None, None)
        xhat, *s = (made,) if residual is None else made
        y, _, last = normalize(behind._replace(moments=CONSTANT, eps=0.0), xhat, weight, None, out)
        if out is not None:
            first.overwrite(out)

        def pull(dy: Array, *given: Any) -> Grads:
            scaled = last.backward(dy)
            found = first.backward(scaled.x, *given)
            named = {"x": found.x, "weight": scaled.weight} | dict(scaled.others) | dict(found.others)
            return _cast(grads_by_name(named), own)

        return (y, *s) if s else y, Chained(self, x, pull, (first, last))

    def _options(self) -> dict[str, Any]:
        affine = {"elementwise_affine": "weight" in self.params}
        axis = {} if self.axis is None else {"axis": self.axis}
        spans = {"parameter_axis": self.parameter_axis, "parameter_shape": self._shape}
        offset = {"offset": self.offset} if self.offset else {}
        casting = {} if self.casting is None else {"casting": self.casting}
        return super()._options() | affine | axis | ({} if self.parameter_axis is None else spans) | offset | casting


def _cast(found: Grads, own: Array) -> Grads:
    """Gradients with that of the weight in its own dtype."""
    named = {"x": found.x, "weight": cast_like(base_array("RMSNorm", "the gradient", found.weight), own)}
    return grads_by_name(named | dict(found.others))
