"""Norms by name, for configuration files. All norms that the package exports are known."""

import inspect
import re
from typing import Any, Self

from normzoo.norm import Norm

_NAMES = {"FiLM": "film", "ReZero": "rezero", "RevIN": "revin", "SPADE": "spade"}  # names written as one word


class Listed(str):
    """The name of a norm, with a one-line summary and its paper."""

    summary: str
    paper: str

    def __new__(cls, name: str, norm: type[Norm]) -> Self:
        listed = super().__new__(cls, name)
        text = inspect.getdoc(norm) or ""
        listed.summary = text.split("\n", 1)[0]
        source = re.search(r"Source:\n(.*?)(?:\n\n|\Z)", text, re.S)
        listed.paper = " ".join(source[1].split()) if source else ""
        return listed

    def __reduce__(self) -> tuple:
        return str, (str(self),)


def list_norms() -> list[Listed]:
    """The names that `create` accepts; each has attributes `summary` (one line) and `paper` (its source).

    >>> import normzoo as nz
    >>> "group_norm" in nz.list_norms()
    True
    >>> next(name for name in nz.list_norms() if name == "group_norm").summary
    'Group normalization: normalize every group of channels of every sample by its mean and variance.'
    """
    return [Listed(name, norm) for name, norm in sorted(_classes().items())]


def create(name: str, *arguments: Any, dialect: str | None = None, **options: Any) -> Norm:
    """A norm by its name in snake case, with the arguments of its class; or by the name of another framework's layer.

    Args:
        dialect: "flax" or "keras": `name` is the name of a layer there; the options, their defaults and their meaning
            are that framework's, too. The first argument is the number of features, or the sizes of the normalized
            axes, which these frameworks read from x.

    Raises:
        ValueError: there is no norm of this name.

    >>> import normzoo as nz
    >>> nz.create("group_norm", 8, 64)
    GroupNorm(8, 64, eps=1e-05, affine=True, bias=True)
    >>> nz.create("LayerNormalization", 64, epsilon=1e-6, dialect="keras")
    LayerNorm((64,), eps=1e-06, elementwise_affine=True, bias=True)
    """
    if dialect is not None:
        from normzoo.exchange.counterparts import create_like  # noqa: PLC0415 (imports the zoo; this module does not)

        return create_like(dialect, name, *arguments, **options)
    classes = _classes()
    if not isinstance(name, str) or name not in classes:
        raise ValueError(f"create: expected one of {', '.join(sorted(classes))}, got {name!r}")
    return classes[name](*arguments, **options)


def _classes() -> dict[str, type[Norm]]:
    import normzoo  # noqa: PLC0415 (the package imports this module)

    exported = (getattr(normzoo, name) for name in normzoo.__all__)
    norms = (c for c in exported if isinstance(c, type) and issubclass(c, Norm) and ".zoo." in c.__module__)
    return {name_of(c): c for c in norms}


def name_of(norm: type[Norm]) -> str:
    """The name of a class in snake case: RMSNorm is rms_norm, EvoNormB0 evo_norm_b0, DyT dyt."""
    words = r"(?<=[a-z])(?=[A-Z][A-Za-z0-9])|(?<=[0-9A-Z])(?=[A-Z][a-z])"
    return _NAMES.get(norm.__name__) or re.sub(words, "_", norm.__name__).lower()
