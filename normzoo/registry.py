"""Norms by name, for configuration files. What the package exports is what there is."""

import re
from typing import Any

from normzoo.norm import Norm


def list_norms() -> list[str]:
    """Names that `create` takes.

    >>> import normzoo as nz
    >>> nz.list_norms()
    ['batch_norm', 'group_norm', 'instance_norm', 'layer_norm', 'rms_norm']
    """
    return sorted(_classes())


def create(name: str, *arguments: Any, **options: Any) -> Norm:
    """A norm by its name in snake case, with the arguments of its class.

    Raises:
        ValueError: there is no norm of this name.

    >>> import normzoo as nz
    >>> nz.create("group_norm", 8, 64)
    GroupNorm(8, 64, eps=1e-05, affine=True, bias=True)
    """
    classes = _classes()
    if not isinstance(name, str) or name not in classes:
        raise ValueError(f"create: expected one of {', '.join(sorted(classes))}, got {name!r}")
    return classes[name](*arguments, **options)


def _classes() -> dict[str, type[Norm]]:
    import normzoo  # noqa: PLC0415 (the package imports this module)

    exported = (getattr(normzoo, name) for name in normzoo.__all__)
    norms = (c for c in exported if isinstance(c, type) and issubclass(c, Norm) and c is not Norm)
    return {re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", c.__name__).lower(): c for c in norms}
