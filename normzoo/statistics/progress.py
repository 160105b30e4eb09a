"""A bar that shows how far something has come, for who wants one."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(total: int | None, wanted: bool, **options: Any) -> Iterator[Any]:
    """A tqdm bar; or None where none is wanted, tqdm is not installed, or there is no stderr to show it on, as in a
    program with windows alone, whose sys.stderr is None."""
    if wanted and sys.stderr is not None and not getattr(sys.stderr, "closed", False):
        try:
            from tqdm import tqdm  # noqa: PLC0415 (optional)
        except ImportError:
            pass
        else:
            with tqdm(total=total, **options) as shown:
                yield shown
            return
    yield None
