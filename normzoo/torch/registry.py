"""Which classes of other libraries `convert` takes over, and by what: those that are known, and those that are told.

A class is known by where its forward pass was written and by its signature, what it computes: not by its name.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch

from normzoo.torch import modules, rules
from normzoo.torch.signature import base_of, signature

OURS: dict[type, type] = {
    getattr(torch.nn, name): getattr(modules, name)
    for name in (
        "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "LayerNorm",
        "GroupNorm", "RMSNorm",
    )
}  # fmt: skip
LIBRARIES = ("transformers.models.", "timm.", "torchvision.", "diffusers.models.")
# What a forward pass computes -> signatures of the classes that do, of transformers 4.46 to 5.24, timm 1.0.9 to 1.0.31,
# diffusers 0.31 to 0.42 and torchvision 0.20 to 0.28. `nzt.signature(cls)` tells that of a class.
_KNOWN: dict[Callable[..., Any], tuple[str, ...]] = {
    # Llama's and 141 like it; Llama 4's
    rules.rms_after: ("1840af6dd577b8ee", "1c5364d23f29607c"),
    # OLMo's, Helium's, Moshi's, Mochi's; without a weight, two ways
    rules.rms_before: (
        "528a947ce6aaaa15",
        "f2bc4b190c108b99",
        "c36e77f0015938c0",
        "cec062af517631dc",
        "8b71a622d9f6a948",
        "ea3d7a0ae4e68e5c",
    ),
    # Gemma's
    rules.rms_shifted: ("548cae16c11e7449",),
    # Gemma 4's
    rules.rms_scaled: ("2102cb2875ddb4b4",),
    # T5's; diffusers', three versions
    rules.rms_in_weights_dtype: ("fe55437786bded00", "07f7f0bb7cd50b02", "906593de9c3d8aa1", "36c98d7e43e4efbc"),
    # Mamba 2's, on the last axis and in groups of it
    rules.rms_gate_first: ("80670fd2429e1f67", "01df4607bca377c4"),
    # Qwen3-Next's, two versions
    rules.rms_gated: ("f971235bd9a28f0a", "a75c98ce2a679db9"),
    # Kimi Linear's
    rules.rms_gated_at_once: ("a204ce65857e796b",),
    # timm's RmsNorm and RmsNormFp32
    rules.rms: ("99bbc0da1fb01cf8", "65d9dbf3fdd45661"),
    # timm's RmsNorm2d and RmsNorm2dFp32
    rules.rms_channels_widened: ("a6e53f8f2c5cd3e8",),
    rules.rms_channels: ("3a76323f5a90280e",),
    # timm's LayerNorm and LayerNormFp32; diffusers' FP32LayerNorm
    rules.layer: ("5bb2e5ecb9eecd61", "5875b3404b717e0b", "a49744cff2587bdc"),
    # timm's LayerNorm2d and LayerNorm2dFp32; torchvision's and EoMT's
    rules.layer_channels: ("f070c5afcf02ad5a", "1a1c19d69aabc600", "20afb6f5a5d67ebe"),
    # ConvNextLayerNorm and 19 like it; those before 2025
    rules.layer_by_format: ("12bf24e692f014e8", "d6e15116c45445d1"),
    # Cohere's
    rules.layer_unbiased: ("e95c02179066eb8c",),
    # OLMo's
    rules.layer_bare: ("f8052e6962934afe",),
    # timm's GroupNorm, two versions
    rules.group: ("24079e128cdd2119", "068dd02749cf06b8"),
    # torchvision's FrozenBatchNorm2d; DETR's and 13 like it
    rules.frozen: ("3440089c6544630e", "5e3e67ad2fa9da51"),
    # timm's FrozenBatchNormAct2d
    rules.frozen_act: ("7d2faee64fb8d0f3",),
    # timm's BatchNormAct2d
    rules.batch_act: ("5d80ee765d68ef41",),
    # timm's GroupNormAct and GroupNorm1Act
    rules.group_act: ("67a3c436cdd0029d",),
    # timm's LayerNormAct and LayerNormActFp32
    rules.layer_act: ("e78e5b46c5a78470", "14f1720b36929835"),
    # timm's LayerNormAct2d and LayerNormAct2dFp32
    rules.layer_channels_act: ("dcb9c9e041b5134a", "84d32b257e85cb7b"),
    # timm's RmsNormAct and RmsNormActFp32
    rules.rms_act: ("5085472c96b37497", "9a4db00eda7cf81c"),
    # timm's RmsNormAct2d and RmsNormAct2dFp32
    rules.rms_channels_widened_act: ("c3f57fdd4a1c11c6",),
    rules.rms_channels_act: ("ece517395c67e202",),
    # diffusers' AdaGroupNorm
    rules.group_adaptive: ("03e62fb2dad9125b",),
}
_BY_SIGNATURE = {found: forward for forward, signatures in _KNOWN.items() for found in signatures}
_TOLD: WeakKeyDictionary[type, Callable[..., Any]] = WeakKeyDictionary()


def register(cls: type, forward: Callable[..., Any] | None = None) -> None:
    """Make `convert` take over modules of a class, which it does not know by itself.

    Args:
        cls: a class of modules; exactly this one, not its subclasses.
        forward: computes what `cls.forward` does, by `nzt.functional`. It takes the module and what that takes. None
            for a subclass of one of PyTorch's norms that computes what its base class does.

    Raises:
        TypeError: cls is no class of modules, or forward is no function. ValueError: no forward, and the base class is
            none of PyTorch's norms.

    >>> import torch, normzoo.torch as nzt
    >>> class Scaled(torch.nn.RMSNorm):
    ...     def forward(self, x):
    ...         return 2 * super().forward(x)
    >>> def forward(self, x):
    ...     return 2 * nzt.functional.rms_norm(x, self.normalized_shape, self.weight, self.eps)
    >>> nzt.register(Scaled, forward)
    >>> print(nzt.convert(Scaled(4), report=True)[1])
    taken: 1 Scaled
    """
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        raise TypeError(f"register: expected cls to be a class of torch.nn.Module, got {cls!r}; write type(module)")
    if cls in OURS or issubclass(cls, modules._Ours):
        raise ValueError(f"register: expected a class that convert does not know, got {cls.__name__}; leave it out")
    if forward is None:
        if base_of(cls) not in OURS:
            raise ValueError(
                f"register: expected forward=, as the base class of {cls.__name__} is none of PyTorch's norms, got None"
                "; write a function of the module and what its forward takes"
            )
    elif not callable(forward):
        raise TypeError(f"register: expected forward to be a function, got {forward!r}; write lambda self, x: ...")
    _TOLD[cls] = OURS[base_of(cls)] if forward is None else forward


def unregister(cls: type) -> None:
    """Take back `register`; modules that are converted stay so until `revert`."""
    if cls not in _TOLD:
        raise ValueError(f"unregister: expected a class that was registered, got {cls!r}; see register")
    del _TOLD[cls]


def forward_of(cls: Any) -> Callable[..., Any] | str:
    """What computes this class's forward pass, a function or a class of this library, or why there is none."""
    if cls in _TOLD:
        return _TOLD[cls]
    name, written_in = cls.__name__, getattr(cls.forward, "__module__", "") or ""
    if written_in.startswith(LIBRARIES):
        return _BY_SIGNATURE.get(
            signature(cls) or "", f"its signature is not known; write nzt.register({name}, forward)"
        )
    base = base_of(cls)
    if base not in OURS:
        return f"normzoo has no torch.nn.{name}" if cls is base else f"not known; write nzt.register({name}, forward)"
    if cls.forward is getattr(base, "forward", None):
        return f"a subclass of torch.nn.{base.__name__}; if it computes the same, write nzt.register({name})"
    return f"a subclass of torch.nn.{base.__name__} with a forward of its own; write nzt.register({name}, forward)"
