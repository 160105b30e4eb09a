"""The names of all norms as a type: `normzoo/exchange/names.py`, for checkers of types. Building the docs writes it."""

from collections.abc import Iterable
from pathlib import Path

import normzoo as nz
from normzoo.exchange.registry import _by_other_names, _classes

FILE = Path(nz.__file__).parent / "exchange" / "names.py"


def _literal(name: str, values: Iterable[str]) -> str:
    return f"{name} = Literal[\n" + "".join(f'    "{value}",\n' for value in sorted(values)) + "]\n"


def written() -> str:
    """The text of the file: what `create` accepts without a dialect."""
    classes = _classes()
    return (
        '"""What `create` accepts as a name, as a type: `docs/making/names.py` writes it from the classes."""\n\n'
        "from typing import Literal\n\n"
        + _literal("NormName", classes)
        + _literal("ClassName", _by_other_names(classes))
    )
