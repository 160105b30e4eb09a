"""mypy sees in a user's code what is right and what is wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
pytest.importorskip("torch")
CODE = Path(__file__).parent / "user_code.py"


@pytest.mark.slow
def test_a_users_code_is_checked(tmp_path):
    """Strictly, without the project's own settings; every expected error is there, and no other."""
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", str(CODE)],
        capture_output=True, text=True, cwd=CODE.parent.parent, check=False,
    ).stdout  # fmt: skip
    errors = {int(line): code for line, code in re.findall(rf"{CODE.name}:(\d+): error: .*\[([\w-]+)\]", found)}
    expected = {
        number: code
        for number, line in enumerate(CODE.read_text().splitlines(), 1)
        for code in re.findall(r"# error: \[([\w-]+)\]", line)
    }
    assert len(expected) >= 6
    assert errors == expected, found
