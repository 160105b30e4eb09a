"""What the package may not do, by its syntax: run text as code, read pickles, start processes, use the network."""

import ast
import re
import tomllib

import pytest

from normzoo.backends.cpu.numba_internals.way import TRIED
from tests.robust.process import ROOT, script

FILES = sorted((ROOT / "normzoo").rglob("*.py"))
CALLS = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
MODULES = {
    "pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "socket", "ssl", "urllib", "http", "ftplib", "smtplib",
    "requests", "httpx", "asyncio", "subprocess", "pty", "webbrowser", "xmlrpc", "telnetlib",
}  # fmt: skip


def offences(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield f"{node.func.id}() in line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("system", "popen", "fromfile_pickle"):
                yield f".{node.func.attr}() in line {node.lineno}"
            if node.func.attr == "load" and not any(
                k.arg == "allow_pickle" and isinstance(k.value, ast.Constant) and k.value.value is False for k in node.keywords
            ) and isinstance(node.func.value, ast.Name) and node.func.value.id == "np":  # fmt: skip
                yield f"np.load without allow_pickle=False in line {node.lineno}"
        if (
            isinstance(node, ast.keyword)
            and node.arg == "allow_pickle"
            and getattr(node.value, "value", None) is not False
        ):
            yield f"allow_pickle in line {node.value.lineno}"
        if isinstance(node, ast.Import):
            yield from (f"import {a.name}" for a in node.names if a.name.split(".")[0] in MODULES)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield f"from {node.module} import"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_code_from_text_no_pickle_no_network(path):
    assert list(offences(ast.parse(path.read_text()))) == []


def test_the_rule_can_fail():
    for line in (
        "eval('1')",
        "import pickle",
        "from urllib import request",
        "np.load('x')",
        "np.load(f, allow_pickle=True)",
    ):
        assert list(offences(ast.parse(line))), line


def test_importing_and_running_opens_no_connection():
    script(
        "import sys\n"
        "sys.addaudithook(lambda event, _: event.startswith(('socket.', 'subprocess.', 'os.system', 'urllib.')) and sys.exit(event))\n"
        "import numpy as np\n"
        "import normzoo as nz\n"
        "norm = nz.LayerNorm(20)\n"
        "norm(np.ones((6, 20), np.float32)); norm.backward(np.ones((6, 20), np.float32)); norm.load_state_dict(norm.state_dict())\n"
    )


def test_every_requirement_has_a_lower_bound_and_the_bill_names_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bill = (ROOT / "CONTRIBUTING.md").read_text()
    for requirement in project["dependencies"]:
        name, bound = re.fullmatch(r"([\w.-]+)(>=[\d.]+(?:,<[\d.]+)?)", requirement).groups()
        assert f"| {name} | {bound}" in bill
        if name == "numba":  # whose inside is known of these versions alone
            oldest, newest = TRIED
            assert bound == f">={oldest[0]}.{oldest[1]},<{newest[0]}.{newest[1] + 1}"
    for extra in project["optional-dependencies"].values():
        for requirement in extra:
            assert ">=" in requirement, requirement
