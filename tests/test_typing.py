"""mypy and pyright see in a user's code what is right and what is wrong."""

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import normzoo as nz
from normzoo.exchange import names

ROOT = Path(__file__).parent.parent
CODE = Path(__file__).parent / "user_code.py"
EXPECTED = {
    number: code
    for number, line in enumerate(CODE.read_text().splitlines(), 1)
    for code in re.findall(r"# error: \[([\w-]+)\]", line)
}


@pytest.mark.slow
def test_a_users_code_is_checked(tmp_path):
    """Strictly, without the project's own settings; every expected error is there, and no other."""
    for package in ("mypy", "torch"):
        pytest.importorskip(package)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", str(CODE)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    ).stdout  # fmt: skip
    errors = {int(line): code for line, code in re.findall(rf"{CODE.name}:(\d+): error: .*\[([\w-]+)\]", found)}
    assert len(EXPECTED) >= 6
    assert errors == EXPECTED, found


@pytest.mark.slow
def test_pyright_finds_the_same():
    for package in ("pyright", "torch"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(CODE)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout
    if "errors," not in found:
        pytest.skip(f"pyright cannot run here: {found[-200:]}")
    assert {int(line) for line in re.findall(rf"{CODE.name}:(\d+):\d+ - error", found)} == set(EXPECTED), found


def test_the_names_that_checkers_know_are_those_of_create():
    """Building the docs writes the file."""
    assert set(get_args(names.NormName)) == set(nz.list_norms()), "python -m sphinx -W -b html docs docs/_build"
    for name in get_args(names.ClassName):
        kind = getattr(nz, name.rstrip("123d") if name[-2:] in ("1d", "2d", "3d") else name)
        assert issubclass(kind, nz.Norm)


def test_the_types_of_functions_have_their_arguments():
    """Every form of a function in the stub takes what the function takes, in its order."""
    tree = ast.parse(Path(nz.functional.__file__).with_suffix(".pyi").read_text())
    forms = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    others = {"State", "normalize_image"}  # whose own types say what is returned
    assert {node.name for node in forms} == {*nz.functional.__all__} - others
    for node in forms:
        found = inspect.signature(getattr(nz.functional, node.name)).parameters.values()
        by_place = [p.name for p in found if p.kind is p.POSITIONAL_OR_KEYWORD]
        by_name = {p.name for p in found if p.kind is p.KEYWORD_ONLY}
        optional = {p.name for p in found if p.default is not p.empty}
        assert [a.arg for a in node.args.args] == by_place, node.name
        assert {a.arg for a in node.args.kwonlyargs} - {"residual"} == by_name, node.name
        assert len(node.args.defaults) == len(optional & set(by_place)), node.name


def test_a_call_shows_what_it_takes():
    found = inspect.signature(nz.BatchNorm(3).__call__).parameters
    selects = list(inspect.signature(nz.select).parameters)[1:]
    assert list(found) == ["x", "arguments", "out", "residual", "add", "gate", "residual_out", *selects, "options"]
    for name in nz.__all__:
        kind = getattr(nz, name)
        if inspect.isclass(kind) and issubclass(kind, nz.Norm) and kind is not nz.Norm:
            own, owner = inspect.getdoc(kind.__init__), next(c for c in kind.__mro__ if "__init__" in vars(c))
            assert own.startswith(f"Make a {owner.__name__}."), name
            parameters = list(inspect.signature(kind).parameters)
            assert not parameters or "Args:" in own, name
