"""The layer: parameters, buffers, modes, state, and the last forward pass."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar, Self, Unpack, overload

import numpy as np

from normzoo.backends.around import NOTHING
from normzoo.backends.contract import Array, Moments
from normzoo.exchange.dialects import TORCH, read, written
from normzoo.passes.around import NOTHING_SET, Behind, Besides
from normzoo.passes.arrays import (
    DEVICES,
    SPACING,
    base_array,
    check_array,
    check_device,
    check_float_dtype,
    check_parameter,
    eps_for,
    moved,
    quiet,
    read_only,
)
from normzoo.passes.attributes import (
    UNDECLARED,
    Last,
    check_state_names,
    closing,
    entries,
    entry,
    held,
    no_values,
    overridable,
    reads,
    refuse_misspelt,
    refusing,
)
from normzoo.passes.calls import A, Call, signed
from normzoo.passes.form import UNTRACKED, Form
from normzoo.passes.normalize import normalize
from normzoo.passes.numbers import check_counts, check_eps, check_momentum
from normzoo.passes.saved import Grads, Label, Saved
from normzoo.passes.site import Site
from normzoo.passes.surrounded import Surrounded
from normzoo.passes.view import Axes
from normzoo.selection.select import SELECTS, Selected, select
from normzoo.statistics.running_state import RunningState, copy_in


class Norm(Surrounded):
    """A normalization layer: parameters, buffers, and the last forward pass.

    A norm whose statistics are means over axes declares `moments` and `axes`; see the tutorial "Your own norm".

    Attributes:
        params, grads, buffers: dicts name -> array. The entries are attributes too: norm.weight is
            norm.params["weight"], or None where the norm has none.
        training: True: tracked statistics are computed from x, and the running ones updated.
        saved: the `Saved` of the last call, or None.
        devices: where it runs, "cpu" and perhaps "cuda".
        masks: whether mask=, lengths= and the like are supported: x with values that do not count.
        recalibrates: which variance of a data set the running variance is, "unbiased" or "biased", for `recalibrate`;
            None if the norm has no such statistics. With another value, forward takes update_stats=False.
        fuses: whether residual, activation, gate and add can be computed in the same pass.
            Authors of norms declare these four. A class with the `forward` of `Norm` has the values of `Norm`. One with
            its own `forward` inherits none of them: what was tested for BatchNorm may be wrong in a derived class.
        asks: for authors of norms: names of the attributes that `axes` reads, if their values are immutable; otherwise
            (). As long as these do not change, later calls with small arrays need not call `axes` again.
        label: the name of the norm in messages.
    """

    moments: ClassVar[Moments] = Moments()
    eps: float | None  # None, where a norm allows it: see `eps_for`
    devices: tuple[str, ...] = DEVICES
    masks: bool = True
    selects: ClassVar[frozenset[str]] = SELECTS  # what a call hands to `select`, and not to `forward`
    recalibrates: ClassVar[str | None] = None
    fuses: ClassVar[bool] = True
    asks: ClassVar[tuple[str, ...]] = ()
    _asked: ClassVar[Any] = staticmethod(no_values)  # moments and the values of `asks`, of a norm

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "asks" in vars(cls):
            cls._asked = attrgetter("moments", *cls.asks)
        elif "axes" in vars(cls):
            cls.asks, cls._asked = (), staticmethod(no_values)
        if cls.forward is not Norm.forward:
            for name, nothing in UNDECLARED.items():
                if name not in vars(cls):
                    setattr(cls, name, nothing)
        if not cls.fuses and "forward" in vars(cls):
            cls.forward = refusing(cls.forward)  # type: ignore[method-assign]
        for name in ("__init__", "forward"):
            if name in vars(cls) and (name == "__init__" or "cuda" not in cls.devices):  # it may compute in NumPy
                setattr(cls, name, quiet(vars(cls)[name]))
        if "__init__" in vars(cls):  # around all else
            cls.__init__ = closing(cls.__init__, cls)  # type: ignore[method-assign]

    weight = entry("params", "weight")
    bias = entry("params", "bias")
    saved = held("saved")
    grads = held("grads")

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        if name not in own and "_made" in own and name[0] != "_" and not hasattr(type(self), name):
            names = {*own, *self.params, *self.buffers, "weight", "bias", "grads", "saved", *Behind.__annotations__}
            refuse_misspelt(self, name, {n for n in names if n[0] != "_"}, isinstance(value, np.ndarray))
        elif name == "momentum" and value is not None:
            value = check_momentum(self, value)
        super().__setattr__(name, value)
        if "_site" in own:  # its axes may be others now
            own["_site"].forget()

    def __init__(
        self,
        *arguments: Any,
        shape: tuple[int, ...] = (),
        eps: float = 1e-5,
        weight: bool = True,
        bias: bool = True,
        dtype: Any = np.float32,
        **behind: Unpack[Behind],
    ) -> None:
        """For authors of norms: set up Name(*arguments), with weight 1 and bias 0 of `shape` and `dtype`."""
        self.label = Label(type(self).__name__, arguments)
        self.params: dict[str, Array] = {}
        self.buffers: dict[str, Array] = {}
        self._last = Last(self.label)
        self.training = True
        self.eps = check_eps(self, eps)
        self._dtype = dtype = check_float_dtype(self, dtype)
        if weight:
            self.params["weight"] = np.ones(shape, dtype)
        if bias:
            self.params["bias"] = np.zeros(shape, dtype)
        self._shape = shape
        self._site = Site(self.label)
        self._surround(**behind)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and deep-copied: parameters and buffers, the buffers all of the same batch; not what the last
        pass left, which refers to its x."""
        state = {name: None if isinstance(value, Saved) else value for name, value in vars(self).items()}
        held = dict(self.buffers)
        buffers = entries(self.label, dict(zip(held, RunningState(*held.values()).read(), strict=True)))
        return state | {"_last": Last(self.label), "_site": Site(self.label), "buffers": buffers}

    def __copy__(self) -> Self:
        """Another norm of the same arrays, with passes of its own."""
        new = type(self).__new__(type(self))
        vars(new).update(vars(self) | {"_last": Last(self.label), "_site": Site(self.label)})
        new.grads, new.saved = self.grads, self.saved
        return new

    def axes(self, x: Array) -> Axes:
        """For authors of norms: check x's shape, and say which axes are kept and which are reduced."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it uses the axes of x")

    def reads_what_it_asks(self, x: Array) -> bool:
        """For authors of norms: does `axes` read only the attributes in `asks` for this x? Others could change
        unnoticed."""
        return reads(self, lambda twin: twin.axes(x)) <= {*self.asks, "_shape", "label", "__dict__", "__class__"}

    @overridable
    def forward(self, x: Array, out: Array | None = None, **beside: Unpack[Besides]) -> tuple[Any, Saved]:
        """y, and what its backward pass needs, which is returned and not stored: several passes can be pending.

        Args:
            x: float array of a shape the norm accepts, any strides.
            out: takes y; an array like x, which may be x itself.
            residual: broadcasts to x; s = x + residual_scale * residual, rounded to x's dtype, is normalized and
                (y, s) is returned in place of y.
            residual_out: takes s; an array like x, which may be x or residual itself.
            add, gate: of x's shape. y = act(n + add) or n * act(gate), where n = xhat * weight + bias and act is the
                norm's activation. With gate_first x * act(gate) is normalized.

        Raises:
            TypeError: x, out or another is not a float array (or out has not x's dtype), or `fuses` is False.
            ValueError: a shape or value does not fit, or out overlaps an input in part.
        """
        params, plain = self.params, type(x) is np.ndarray
        weight, bias, eps = params.get("weight"), params.get("bias"), self.eps
        if eps is None and plain:
            eps = SPACING.get(x.dtype)  # of what is no float, None, which is no eps
        arrays = x, weight, bias, out
        site, around, others = self._site, None, NOTHING
        if beside or self._setting is not NOTHING_SET:
            site, around, others = site.stands_again(beside, self._setting) or self._stands(beside)
        found = site.recall(None, arrays, eps, UNTRACKED, True, others)
        if found is not None:
            return found
        if not plain:
            x = base_array(self, "x", x)
        axes = self.axes(x)
        form = Form(self, axes, self.moments, eps_for(x) if eps is None else eps, self._shape, around, others)
        y, _, saved = normalize(form, x, weight, bias, out)
        site.remember(None, form, arrays, norm=self)
        return y, saved

    @overload
    def __call__(self, x: A, *arguments: Any, residual: Array, **options: Unpack[Call]) -> tuple[A, A]: ...

    @overload
    def __call__(self, x: A, *arguments: Any, residual: None = None, **options: Unpack[Call]) -> A: ...

    @overload
    def __call__(self, x: Selected, *arguments: Any, **options: Unpack[Call]) -> Array: ...

    @signed
    def __call__(self, x: Any, *arguments: Any, **options: Any) -> Any:
        """y = norm(x), and y, s = norm(x, residual=r). Keeps in `saved` what `backward` needs, x too: leave x as it is
        until then.

        Args:
            x: float array, or what `normzoo.select` makes.
            arguments: out, or what the norm takes behind x, as the style of AdaptiveInstanceNorm.
            out, residual, add, gate, residual_out: see `forward`.
            mask, lengths, sample_weight, segments, length_axis, segment_axis, masked, skip_nan: which values count; see
                `normzoo.select`. length_axis is the first axis behind the samples that is not that of the channels.
            options: of single norms, as update_stats of BatchNorm; see their `forward`.

        Raises:
            TypeError: what `forward` raises, and a mask or the like for a norm whose `masks` is False.
        """
        if not (options or arguments):  # nothing to unpack
            y, self._last.saved = self.forward(x)
            return y
        if not self.selects.isdisjoint(options):
            picks = {name: options.pop(name) for name in self.selects if name in options}
            behind = 2 if getattr(self, "channel_axis", None) == 1 else 1
            x = select(x, **({"length_axis": behind} | picks))
        y, self._last.saved = self.forward(x, *arguments, **options)
        return y

    def backward(self, dy: Array, out: Array | None = None, ds: Array | None = None) -> Array:
        """dx for the gradient `dy` of the last y, and of its s, `ds`, if there was a residual; puts the gradients of
        parameters, residual, add and gate into `grads`. See `Saved.backward`."""
        last = self._last
        if last.saved is None:
            raise RuntimeError(f"{self}: expected a forward pass before backward; write y = norm(x) first")
        found = last.saved.backward(dy, out) if ds is None else last.saved.backward(dy, out, ds)
        grads: dict[str, Array] = {}
        for name in self.params:
            grads[name] = getattr(found, name)
        if type(found) is not Grads:
            grads.update(found.others)
        last.grads = grads
        return found.x

    def train(self, mode: bool = True) -> Self:
        """Training mode (or evaluation mode); returns the norm."""
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Evaluation mode; returns the norm."""
        return self.train(False)

    def to(self, device: str) -> Self:
        """Move parameters and buffers to "cuda" or back to "cpu", and forget the last pass; returns the norm. A norm on
        the device takes and returns device arrays. num_batches_tracked stays on the host.

        Raises:
            ValueError: another device. TypeError: the norm has no CUDA kernels. RuntimeError: CUDA cannot be used; the
                message says what to install.
        """
        if device not in DEVICES:
            raise ValueError(f"{self}: expected device 'cpu' or 'cuda', got {device!r}")
        check_device(self, device, f"device 'cpu', got {device!r}", "norm.to('cpu') and pass it NumPy arrays")
        try:
            params = entries(self.label, {name: moved(a, device) for name, a in self.params.items()})
            buffers = entries(
                self.label, {name: a if a.ndim == 0 else moved(a, device) for name, a in self.buffers.items()}
            )
        except RuntimeError as error:  # CUDA cannot be used
            raise RuntimeError(f"{self}: expected a CUDA device for norm.to({device!r}): {error}") from error
        self.params, self.buffers, self._last = params, buffers, Last(self.label)
        return self

    def state_dict(self, dialect: str = TORCH, *, values: int | None = None, opset: int = 21) -> dict[str, Array]:
        """Copies of all parameters and buffers, under PyTorch's names or those of another framework.

        Args:
            dialect: "torch", "flax", "keras" or "onnx"; see `normzoo.exchange.dialects` for the names.
            values: how many values a channel had in every batch: the running variance, here that of PyTorch, unbiased,
                becomes the biased one of the others. None copies it, so that evaluation gives the same y.
            opset: of ONNX: GroupNormalization has parameters of the channels from 21 on, and of the groups before.

        Raises:
            ValueError: the dialect has nothing like this norm.

        >>> import normzoo as nz
        >>> sorted(nz.BatchNorm(8).state_dict("keras"))
        ['beta', 'gamma', 'moving_mean', 'moving_variance']
        """
        buffers = dict(self.buffers)
        running = RunningState(*buffers.values()).read()  # of one batch, beside a thread that trains
        state = {name: a.copy() for name, a in (self.params | dict(zip(buffers, running, strict=True))).items()}
        return state if dialect == TORCH else written(self, state, dialect, values, opset)

    def load_state_dict(self, state: Mapping[str, Array], dialect: str = TORCH, *, values: int | None = None) -> None:
        """Copy `state` into the parameters and buffers: all of it or, if anything does not fit, nothing.

        A missing num_batches_tracked keeps its value, as in PyTorch.

        Args:
            dialect, values: what `state` was written in; see `state_dict`. ONNX's GroupNormalization may have
                parameters of groups or of channels, and Flax's variables may be nested.
        """
        copy_in([(self, self.checked_state(state, dialect, values=values))])

    def checked_state(
        self, state: Mapping[str, Array], dialect: str = TORCH, *, values: int | None = None
    ) -> dict[str, Array]:
        """For authors of norms: `state` under PyTorch's names, in the dtypes of the norm; see `load_state_dict`."""
        if dialect != TORCH:
            state = read(self, state, dialect, values)
        if not isinstance(state, Mapping):
            raise TypeError(f"{self}: expected state to be a dict of arrays, got {type(state).__name__}")
        held = self.params | self.buffers
        check_state_names(self, held, state)
        counts = {}
        for name, value in state.items():
            if not held[name].flags.writeable:
                raise ValueError(f"{self}: expected {name} of the norm to be writeable, {read_only(self)}")
            if held[name].dtype.kind == "i":
                counts[name] = check_counts(self, name, value, held[name].shape)
            else:
                check_array(self, name, value)
                check_parameter(self, name, value, held[name].shape)
        with np.errstate(all="ignore"):
            arrays = {
                name: np.array(moved(a, "cpu"), held[name].dtype) for name, a in state.items() if name not in counts
            }
        return arrays | counts

    def __str__(self) -> str:
        return str(self.label)

    def __repr__(self) -> str:
        options = [f"{name}={value!r}" for name, value in (self._options() | self._behind).items()]
        return f"{type(self).__name__}({', '.join([*map(str, self.label.arguments), *options])})"

    def _options(self) -> dict[str, Any]:
        """What repr shows behind the arguments."""
        return {"eps": self.eps}
