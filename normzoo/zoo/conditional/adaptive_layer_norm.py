"""Adaptive layer normalization: layer normalization whose scale and shift come from a condition."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from normzoo.backends.contract import Array, Moments
from normzoo.norm import Norm
from normzoo.passes.arrays import DEVICES, base_array, cast_like, check_parameter, compute_dtype, quiet, rounded
from normzoo.passes.form import Form
from normzoo.passes.formulas import BLOCK, product
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_shape, check_size
from normzoo.passes.numpy_threads import on_threads
from normzoo.passes.saved import Chained, Grads, Saved, grads_by_name
from normzoo.zoo.conditional.film import modulated, modulated_back
from normzoo.zoo.layer import layer_norm

TILE = {8: 1 << 16, 4: 1 << 18}  # by bytes of the type: values of a matrix that a thread takes at a time


class AdaptiveLayerNorm(Norm):
    """Adaptive layer normalization: layer normalization whose scale and shift are arguments of the call.

    Formula:
        y = xhat * (1 + scale) + shift, xhat = (x - mean) / sqrt(var + eps), with mean and (biased) var over the last
        axes.

    Shapes:
        x, y: (N, ..., *normalized_shape). There are no parameters.
        scale, shift: (N, *normalized_shape), one value per sample, or an array of x's rank with sizes of 1 or of x: x's
            own shape for one value per token.

    Args:
        normalized_shape: sizes of the last axes, an integer or a tuple.
        eps: added to the variance, in the units of x squared; DiT's 1e-6, where PyTorch's LayerNorm has 1e-5.

    It is called as `norm(x, scale, shift)`; the gradients are in `norm.grads["scale"]` and `norm.grads["shift"]`. DiT
    has shift before scale: pass them by name.

    Raises:
        ValueError: x does not have these sizes, or scale or shift does not fit it. TypeError: one of the three is
            not a float array.

    Source:
        W. Peebles and S. Xie, "Scalable Diffusion Models with Transformers", 2022, arXiv:2212.09748 (adaLN). With scale
        and shift of 0 it is LayerNorm without parameters.

    >>> import numpy as np, normzoo as nz
    >>> x = np.float32([[0, 2]])
    >>> nz.AdaptiveLayerNorm(2)(x, scale=np.float32([[1, 1]]), shift=np.float32([[0, 5]])).round(2)
    array([[-2.,  7.]], dtype=float32)
    """

    devices = DEVICES
    masks = True
    moments = Moments(center=True, power=2)

    def __init__(self, normalized_shape: int | tuple[int, ...], eps: float = 1e-6) -> None:
        self.normalized_shape = check_shape("AdaptiveLayerNorm", "normalized_shape", normalized_shape)
        super().__init__(self.normalized_shape, eps=eps, weight=False, bias=False)

    def forward(self, x: Array, scale: Array, shift: Array, out: Array | None = None) -> tuple[Array, Saved]:
        """y for x, scale and shift; see `Norm.forward`."""
        scale, shift = base_array(self, "scale", scale), base_array(self, "shift", shift)
        return modulate(self, x, self.normalized_shape, scale, shift, out, (scale, shift))


class AdaLNZero(Norm):
    """Adaptive layer normalization with a gate: scale, shift and gate are linear in a condition, and 0 at first.

    Formula:
        shift, scale, gate = three parts of weight @ silu(c) + bias,
        y = xhat * (1 + scale) + shift, xhat = (x - mean) / sqrt(var + eps), with mean and (biased) var over the last
        axis.

    Shapes:
        x, y: (N, ..., C).
        c: (N, D), one per sample, or (N, ..., D) of x's rank, with sizes of 1 or of x.
        weight: (3 C, D). bias: (3 C,).
        saved.gate: c's shape with C instead of D; float32, or float64 if x, c or a parameter is.

    Args:
        hidden_size: C.
        cond_size: D, if it is not C.
        eps: added to the variance, in the units of x squared; DiT's 1e-6.
        dtype: see `LayerNorm`.

    It is called as `y = norm(x, c)`, before a branch of the network. The gate, `norm.saved.gate`, multiplies the branch
    in the residual sum after it: `FiLM(channel_axis=-1)(branch(y), gate, x)` is x + gate * branch(y), which is x itself
    as long as the parameters are zero. `norm.backward(dy, dgate=dgate)` takes the gradient of the gate; the gradient of
    c is `norm.grads["c"]`.

    Raises:
        ValueError: x does not have C features, c does not have D, or their samples differ. TypeError: x or c is not a
            float array.

    Source:
        W. Peebles and S. Xie, "Scalable Diffusion Models with Transformers", 2022, arXiv:2212.09748 (adaLN-Zero). The
        authors' code has one linear layer for two such norms, with 6 C rows. At first it equals LayerNorm without
        parameters; in general, AdaptiveLayerNorm with these scales and shifts.

    >>> import numpy as np, normzoo as nz
    >>> norm = nz.AdaLNZero(2, 3)
    >>> norm(np.float32([[0, 2]]), np.float32([[1, 2, 3]])).round(2)
    array([[-1.,  1.]], dtype=float32)
    >>> norm.saved.gate
    array([[0., 0.]], dtype=float32)
    """

    masks = True
    moments = Moments(center=True, power=2)

    def __init__(
        self, hidden_size: int, cond_size: int | None = None, eps: float = 1e-6, *, dtype: Any = np.float32
    ) -> None:
        self.hidden_size = check_size("AdaLNZero", "hidden_size", hidden_size)
        self.cond_size = hidden_size if cond_size is None else check_size("AdaLNZero", "cond_size", cond_size)
        super().__init__(hidden_size, self.cond_size, shape=(3 * hidden_size,), eps=eps, weight=False, dtype=dtype)
        self.params = {"weight": np.zeros((3 * hidden_size, self.cond_size), self._dtype), **self.params}

    def forward(self, x: Array, c: Array, out: Array | None = None) -> tuple[Array, Saved]:
        """y for x and its condition c; see `Norm.forward`."""
        c = base_array(self, "c", c)
        if c.ndim == 0 or c.shape[-1] != self.cond_size:
            raise ValueError(f"{self}: expected c of shape (N, {self.cond_size}), got {c.shape}")
        weight, bias = self.params["weight"], self.params["bias"].astype(np.float64)
        dtype = compute_dtype(c.dtype, *(p.dtype for p in self.params.values()), base_array(self, "x", x).dtype)
        wide = c.astype(np.float64)
        sigmoid = 1 / (1 + np.exp(-wide))
        rows = (wide * sigmoid).reshape(-1, self.cond_size).astype(dtype)
        made = linear(rows, weight).reshape(*c.shape[:-1], len(bias)) + bias
        slope = sigmoid * (1 + wide * (1 - sigmoid))
        shift, scale, gate = (part.astype(dtype) for part in np.split(made, 3, axis=-1))
        read = c, *self.params.values()
        y, last = modulate(self, x, (self.hidden_size,), scale, shift, out, read)
        params = self.params

        def back(found: Grads, dgate: Array | None) -> Mapping[str, Array]:
            parts = found.others["shift"], found.others["scale"], np.zeros_like(gate) if dgate is None else dgate
            kind = compute_dtype(dtype, *(p.dtype for p in parts))
            d = np.concatenate([p.astype(kind) for p in parts], axis=-1).reshape(-1, len(bias))
            d_rows, d_weight = linear_back(d, rows.astype(kind), weight)
            d_bias = cast_like(d.sum(axis=0, dtype=np.float64), params["bias"])
            return {"weight": d_weight, "bias": d_bias, "c": cast_like(d_rows.reshape(c.shape) * slope, c)}

        return y, GatedSaved(self, x, last, back, gate)

    def backward(self, dy: Array, out: Array | None = None, dgate: Array | None = None) -> Array:
        """dx, for the gradients of the last y and, unless None, of its gate."""
        if not isinstance(self.saved, GatedSaved):
            return super().backward(dy, out)
        found = self.saved.backward(dy, out, dgate)
        self.grads = {name: getattr(found, name) for name in (*self.params, "c")}
        return found.x


def tiles(weight: Array, dtype: np.dtype) -> list[slice]:
    """Rows of a matrix that stay in the cache of a thread as float64, or about a megabyte of float32."""
    values = max(1, weight.shape[1]) * BLOCK
    step = BLOCK * -(-TILE[dtype.itemsize] // values)
    return [slice(i, i + step) for i in range(0, len(weight), step)]


def linear(rows: Array, weight: Array) -> Array:
    """rows weight^T in float64, (n, len(weight)), on threads; by products in the type of rows, see `product`. A copy of
    all of weight would be most of the work."""
    made = np.empty((len(rows), len(weight)))

    def work(part: slice) -> None:
        made[:, part] = product(rows, weight[part].astype(rows.dtype, copy=False).T)

    on_threads(work, tiles(weight, rows.dtype))
    return made


def linear_back(d: Array, rows: Array, weight: Array) -> tuple[Array, Array]:
    """The gradients of rows, in float64, and of weight, in its own dtype, from that of `linear`; d and rows are of one
    type."""
    parts, d_weight = tiles(weight, d.dtype), np.empty(weight.shape, weight.dtype)
    few = len(rows) <= BLOCK  # else sums of every tile would be more than a copy of weight
    sums: dict[int, Array] = {}

    def work(part: slice) -> None:
        if few:
            sums[part.start] = product(d[:, part], weight[part].astype(d.dtype, copy=False))
        d_weight[part] = rounded(product(d[:, part].T, rows), weight.dtype, copy=False)

    on_threads(work, parts)
    if not few:
        return product(d, weight.astype(d.dtype, copy=False)), d_weight
    d_rows = np.zeros(rows.shape)
    for part in parts:
        d_rows += sums[part.start]
    return d_rows, d_weight


class GatedSaved(Chained):
    """The `Saved` of `AdaLNZero`.

    Attributes:
        gate: for the residual sum.
    """

    def __init__(
        self,
        owner: object,
        x: Array,
        last: Saved,
        back: Callable[[Grads, Array | None], Mapping[str, Array]],  # (pass's gradients, dgate) -> the others
        gate: Array,
    ) -> None:
        super().__init__(owner, x, last.backward, (last,))
        self._back, self.gate = back, gate

    @quiet
    def backward(self, dy: Array, out: Array | None = None, dgate: Array | None = None) -> Grads:
        """See `Saved.backward`; `dgate` is the gradient of the gate, or None."""
        check_parameter(self._owner, "dgate", dgate, self.gate.shape)
        found = super().backward(dy, out)
        return grads_by_name({"x": found.x, **self._back(found, dgate)})


def modulate(
    owner: AdaptiveLayerNorm | AdaLNZero,
    x: Array,
    shape: tuple[int, ...],
    scale: Array,
    shift: Array,
    out: Array | None,
    apart: tuple[Array, ...],
) -> tuple[Array, Saved]:
    """LayerNorm over the last axes times 1 + scale, plus shift: one pass, with these as its weight and bias."""
    letters = layer_norm.axes(owner, x, shape, None).letters.lower()
    if len(shape) >= x.ndim:
        raise ValueError(f"{owner}: expected x of shape (N, ..., {', '.join(map(str, shape))}), got {x.shape}")
    last = tuple(range(x.ndim - len(shape), x.ndim))
    axes, spans, weight, bias = modulated(owner, x, letters, last, 1.0, scale=scale, shift=shift)
    eps = owner.eps or 0.0
    y, _, saved = normalize(Form(owner, axes, owner.moments, eps, spans), x, weight, bias, out, apart=apart)
    return y, modulated_back(owner, x, saved, last, scale=scale, shift=shift)
