"""What messages advise to install: the requirements of an extra by their own names, which can be installed as written,
however this package was installed itself."""

import re
from importlib.metadata import PackageNotFoundError, requires


def to_install(extra: str) -> str:
    """The command that installs what an extra of pyproject.toml lists; in a copy of the sources that was not installed,
    which has no such list, the command for a clone.

    >>> to_install("files").startswith("pip install ")
    True
    """
    try:
        listed = requires("normzoo") or []
    except PackageNotFoundError:
        listed = []
    parts = (line.partition(";") for line in listed)
    found = [name.strip() for name, _, marker in parts if re.search(rf"extra == ['\"]{extra}['\"]", marker)]
    return " ".join(["pip install", *(f'"{name}"' for name in found)]) if found else f'pip install -e ".[{extra}]"'
