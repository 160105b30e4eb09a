"""An optional progress bar."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(total: int | None, wanted: bool, **options: Any) -> Iterator[Any]:
    """A tqdm bar; or None if none is wanted, tqdm is not installed, or there is no stderr to show it on (sys.stderr is
    None in a program that has only windows)."""
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
