"""Norms by name, for configuration files. All norms that the package exports are known."""

import difflib
import inspect
import re
from typing import Any, Literal, Self, overload

from normzoo.exchange.names import ClassName, NormName
from normzoo.exchange.torch_names import MODULES
from normzoo.norm import Norm

_NAMES = {"FiLM": "film", "ReZero": "rezero", "RevIN": "revin", "SPADE": "spade"}  # names written as one word


class Listed(str):
    """The name of a norm, with its family, the devices it runs on, a one-line summary and its paper."""

    family: str
    devices: tuple[str, ...]
    summary: str
    paper: str

    def __new__(cls, name: str, norm: type[Norm]) -> Self:
        listed = super().__new__(cls, name)
        listed.family = norm.__module__.split(".")[2]  # the folder of the zoo
        listed.devices = norm.devices
        text = inspect.getdoc(norm) or ""
        listed.summary = text.split("\n", 1)[0]
        source = re.search(r"Source:\n(.*?)(?:\n\n|\Z)", text, re.S)
        listed.paper = " ".join(source[1].split()) if source else ""
        return listed

    def __reduce__(self) -> tuple:
        return str, (str(self),)


def list_norms(family: str | None = None) -> list[Listed]:
    """The names that `create` accepts; each has attributes `family`, `devices`, `summary` (one line) and `paper`.

    Args:
        family: of these alone: "batch", "conditional", "data", "graph", "instance", "layer", "local", "pointwise",
            "weights" or "whitening". None: all norms.

    Raises:
        ValueError: there is no such family.

    >>> import normzoo as nz
    >>> "group_norm" in nz.list_norms()
    True
    >>> nz.list_norms(family="whitening")
    ['decorrelated_batch_norm', 'group_whitening', 'iter_norm']
    >>> next(name for name in nz.list_norms() if name == "group_norm").summary
    'Group normalization: normalize every group of channels of every sample by its mean and variance.'
    """
    norms = [Listed(name, norm) for name, norm in sorted(_classes().items())]
    families = sorted({norm.family for norm in norms})
    if family is not None and family not in families:
        raise ValueError(f"list_norms: expected family to be one of {', '.join(families)}, got {family!r}")
    return [norm for norm in norms if family in (None, norm.family)]


@overload
def create(
    name: NormName | ClassName | Listed, *arguments: Any, dialect: Literal["torch"] | None = None, **options: Any
) -> Norm: ...


@overload
def create(name: str, *arguments: Any, dialect: Literal["flax", "keras", "onnx"], **options: Any) -> Norm: ...


def create(name: str, *arguments: Any, dialect: str | None = None, **options: Any) -> Norm:
    """A norm by its name in snake case, with the arguments of its class; or by the name of another framework's layer.

    Args:
        name: as `list_norms` has it; the name of the class ("GroupNorm") and that of PyTorch's module ("BatchNorm2d"),
            whose arguments are the same, work too.
        dialect: "flax", "keras" or "onnx": `name` is the name of a layer or an operator there; the options, their
            defaults and their meaning are those of that framework. The first argument is the number of features, or the
            sizes of the normalized axes, which these frameworks read from x. "torch" is the same as None.

    Raises:
        ValueError: there is no norm of this name.

    >>> import normzoo as nz
    >>> nz.create("group_norm", 8, 64)
    GroupNorm(8, 64, eps=1e-05, affine=True, bias=True)
    >>> nz.create("LayerNormalization", 64, epsilon=1e-6, dialect="keras")
    LayerNorm((64,), eps=1e-06, elementwise_affine=True, bias=True)
    """
    if dialect not in (None, "torch"):
        from normzoo.exchange.counterparts import create_like  # noqa: PLC0415 (imports the zoo; this module does not)

        return create_like(dialect, name, *arguments, **options)
    classes = _classes()
    kind = classes.get(name) or _by_other_names(classes).get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"create: expected a name of list_norms(), got {name!r}{_near(name, classes)}")
    return kind(*arguments, **options)


def _by_other_names(classes: dict[str, type[Norm]]) -> dict[str, type[Norm]]:
    by_class = {kind.__name__: kind for kind in classes.values()}
    return by_class | {module: by_class[own] for module, own in MODULES.items()}


def _near(name: Any, classes: dict[str, type[Norm]]) -> str:
    """What may have been meant, as the end of a message."""
    if not isinstance(name, str):
        return ""
    if name.endswith("Normalization"):
        return "; write dialect='keras' or dialect='onnx' beside a name of theirs"
    plain = {known.replace("_", ""): known for known in classes}
    near = difflib.get_close_matches(name.lower().replace("_", ""), plain, 1, 0.7)
    return f"; did you mean {plain[near[0]]!r}?" if near else ""


def _classes() -> dict[str, type[Norm]]:
    import normzoo  # noqa: PLC0415 (the package imports this module)

    exported = (getattr(normzoo, name) for name in normzoo.__all__)
    norms = (c for c in exported if isinstance(c, type) and issubclass(c, Norm) and ".zoo." in c.__module__)
    return {name_of(c): c for c in norms}


def name_of(norm: type[Norm]) -> str:
    """The name of a class in snake case: RMSNorm is rms_norm, EvoNormB0 evo_norm_b0, DyT dyt."""
    words = r"(?<=[a-z])(?=[A-Z][A-Za-z0-9])|(?<=[0-9A-Z])(?=[A-Z][a-z])"
    return _NAMES.get(norm.__name__) or re.sub(words, "_", norm.__name__).lower()
