"""Names of PyTorch's modules, which have this library's arguments and defaults, for `create` and `describe`."""

from typing import Any

# PyTorch's module, and the class here.
MODULES = {
    **{f"BatchNorm{rank}d": "BatchNorm" for rank in (1, 2, 3)},
    **{f"InstanceNorm{rank}d": "InstanceNorm" for rank in (1, 2, 3)},
    "GroupNorm": "GroupNorm",
    "LayerNorm": "LayerNorm",
    "LocalResponseNorm": "LocalResponseNorm",
    "RMSNorm": "RMSNorm",
}
ATTRIBUTES = {
    "BatchNorm": ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    "InstanceNorm": ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    "GroupNorm": ("num_groups", "num_channels", "eps", "affine"),
    "LayerNorm": ("normalized_shape", "eps", "elementwise_affine", "bias"),
    "LocalResponseNorm": ("size", "alpha", "beta", "k"),
    "RMSNorm": ("normalized_shape", "eps", "elementwise_affine"),
}
USUAL = {"channel_axis": 1, "axis": None, "parameter_axis": None, "offset": 0.0, "even": "before"}


def as_module(norm: Any, rank: int) -> tuple[str, dict[str, Any]]:
    """The name of PyTorch's module for x of a rank, and the arguments that create it."""
    kind = type(norm).__name__
    if kind not in ATTRIBUTES or not type(norm).__module__.startswith("normzoo."):
        raise ValueError(f"{norm}: expected a norm that torch has ({', '.join(ATTRIBUTES)}), got {kind}")
    for name, usual in USUAL.items():
        found = getattr(norm, name, usual)
        if found != usual:
            raise ValueError(f"{norm}: expected {name}={usual}, as torch has, got {found}")
    has = {name: name in norm.params for name in ("weight", "bias")}
    if kind not in ("LayerNorm", "RMSNorm") and has["weight"] != has["bias"]:
        raise ValueError(f"{norm}: expected weight and bias, or neither, as torch has, got one of them")
    found = {"affine": has["weight"], "elementwise_affine": has["weight"], "bias": has["bias"]}
    arguments = {name: found[name] if name in found else getattr(norm, name) for name in ATTRIBUTES[kind]}
    names = [module for module, own in MODULES.items() if own == kind]
    if len(names) == 1:
        return names[0], arguments
    if not 2 <= rank <= 5:
        raise ValueError(f"{norm}: expected rank to be 2 to 5, for which torch has {', '.join(names)}, got {rank}")
    return names[max(rank - 3, 0)], arguments
