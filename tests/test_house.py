"""The rules of the house: who may import whom, what is documented where, and that what is shown runs."""

import ast
import contextlib
import importlib.util
import inspect
import io
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import normzoo as nz
from normzoo.exchange import registry
from tests.cases import CASES
from tests.zoo import ZOO

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "normzoo"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each room may import of the package; the arrows point one way.
ROOMS = {
    "backends/__init__.py": {"backends"},
    "backends/activations.py": {"backends.around", "backends.lanes"},
    "backends/around.py": set(),
    "backends/at_once.py": {"environment.system"},
    "backends/contract.py": {"backends.around", "backends.forms", "backends.of_cells"},
    "backends/of_cells.py": {"backends.forms"},
    "backends/forms.py": set(),
    "backends/cpu": {
        "backends",
        "backends.around",
        "backends.at_once",
        "backends.contract",
        "backends.cpu",
        "backends.definitions",
        "backends.forms",
        "backends.memory",
        "backends.samples",
        "backends.subnormals",
    },
    "backends/cpu/schedule.py": set(),
    "backends/cpu/numba_internals": {"backends.cpu.numba_internals"},
    "backends/cpu/compiling": {"backends.cpu.compiling", "backends.cpu.numba_internals", "environment.system"},
    "backends/cpu/vector": {
        "backends.cpu.numba_internals",
        "backends.cpu.schedule",
        "backends.cpu.vector",
        "backends.lanes",
    },
    "backends/cpu/parallel": {
        "backends",
        "backends.cpu.compiling",
        "backends.cpu.numba_internals",
        "backends.cpu.parallel",
        "backends.cpu.schedule",
        "backends.cpu.vector",
        "backends.subnormals",
    },
    "backends/cpu/fastcall": {
        "backends.contract",
        "backends.cpu.compiling",
        "backends.cpu.fastcall",
        "backends.cpu.numba_internals",
        "backends.cpu.parallel",
        "backends.cpu.vector",
        "backends.samples",
        "backends.subnormals",
    },
    "backends/cpu/kernels": {
        "backends.around",
        "backends.contract",
        "backends.forms",
        "backends.cpu.compiling",
        "backends.cpu.kernels",
        "backends.cpu.parallel",
        "backends.cpu.schedule",
        "backends.cpu.vector",
        "backends.lanes",
    },
    "backends/cuda": {
        "backends.activations",
        "backends.around",
        "backends.contract",
        "backends.cuda",
        "backends.lanes",
        "environment.extras",
    },
    "backends/definitions.py": {"backends.contract", "backends.forms"},
    "backends/definitions_of_data.py": {"backends.contract", "backends.forms"},
    "backends/definitions_of_series.py": {"backends.contract", "backends.definitions", "backends.forms"},
    "backends/lanes.py": {"backends.around"},
    "backends/memory.py": {"backends.contract", "environment.system"},
    "backends/reference.py": {
        "backends.around",
        "backends.contract",
        "backends.definitions",
        "backends.definitions_of_data",
        "backends.definitions_of_series",
        "backends.forms",
        "backends.memory",
    },
    "backends/samples.py": {"backends.contract"},
    "backends/subnormals.py": {"environment.system"},
    "functional/images": {
        "backends.contract",
        "backends.forms",
        "backends.memory",
        "backends.subnormals",
        "functional.images",
        "passes.arrays",
        "passes.formulas",
        "passes.numbers",
        "passes.overlaps",
        "passes.whole",
    },
    "passes/__init__.py": set(),
    "passes/affine.py": {
        "backends.contract",
        "passes.arrays",
        "passes.form",
        "passes.formulas",
        "passes.normalize",
        "passes.overlaps",
        "passes.saved",
    },
    "passes/apart.py": {
        "backends.around",
        "backends.contract",
        "passes.arrays",
        "passes.beside",
        "passes.form",
        "passes.saved",
        "selection.select",
        "passes.beside_saved",
        "passes.formulas",
    },
    "passes/around.py": {
        "backends.activations",
        "backends.around",
        "backends.contract",
        "passes.arrays",
        "passes.numbers",
    },
    "passes/beside.py": {
        "backends",
        "backends.around",
        "backends.contract",
        "passes.arrays",
        "passes.form",
        "passes.overlaps",
        "passes.plan",
        "passes.saved",
    },
    "passes/beside_saved.py": {
        "backends",
        "backends.around",
        "backends.contract",
        "backends.samples",
        "passes.arrays",
        "passes.beside",
        "passes.formulas",
        "passes.overlaps",
        "passes.plan",
        "passes.saved",
        "passes.view_saved",
    },
    "passes/surrounded.py": {
        "backends.around",
        "backends.contract",
        "passes.apart",
        "passes.around",
        "passes.attributes",
        "selection.select",
    },
    "passes/arrays.py": {"backends", "passes.numpy_threads"},
    "passes/calls.py": {"backends.contract", "passes.around", "selection.select"},
    "passes/cell_layout.py": {"backends", "backends.contract", "passes.whole"},
    "passes/cells.py": {
        "backends",
        "backends.contract",
        "passes.arrays",
        "passes.attributes",
        "passes.cell_layout",
        "passes.overlaps",
        "passes.saved",
        "passes.view",
        "passes.whole",
    },
    "passes/device.py": {"backends", "passes.arrays"},
    "passes/form.py": {"backends.around", "backends.contract", "passes.view"},
    "passes/formulas.py": {"backends.contract", "backends.definitions", "passes.numpy_threads"},
    "passes/graphs.py": {
        "backends",
        "backends.contract",
        "backends.memory",
        "passes.arrays",
        "passes.cell_layout",
        "passes.cells",
        "passes.saved",
        "passes.whole",
        "selection.select",
    },
    "passes/normalize.py": {
        "backends",
        "backends.around",
        "passes.apart",
        "passes.arrays",
        "passes.beside",
        "passes.form",
        "passes.numbers",
        "passes.overlaps",
        "passes.plan",
        "passes.saved",
        "passes.view_saved",
        "selection.select",
        "selection.selected",
        "passes.beside_saved",
    },
    "passes/numpy_threads.py": {"backends.subnormals"},
    "passes/plan.py": {"backends", "backends.samples", "passes.arrays", "passes.form", "passes.totals", "passes.view"},
    "passes/saved.py": {
        "backends.contract",
        "backends.memory",
        "backends.samples",
        "backends.subnormals",
        "passes.arrays",
        "passes.overlaps",
        "passes.view",
    },
    "passes/site.py": {
        "backends",
        "backends.around",
        "passes.around",
        "passes.arrays",
        "passes.beside",
        "passes.form",
        "passes.normalize",
        "passes.plan",
        "passes.view_saved",
        "passes.beside_saved",
    },
    "passes/totals.py": {"backends", "passes.arrays"},
    "passes/view.py": {"backends.contract"},
    "passes/view_saved.py": {
        "backends",
        "backends.samples",
        "passes.arrays",
        "passes.plan",
        "passes.saved",
        "passes.view",
    },
    "passes/whole.py": {
        "backends",
        "backends.contract",
        "backends.memory",
        "backends.samples",
        "backends.subnormals",
        "passes.arrays",
        "passes.overlaps",
        "passes.saved",
    },
    "selection/__init__.py": set(),
    "selection/compaction.py": {"backends", "backends.memory", "passes.view"},
    "selection/selected.py": {
        "backends.contract",
        "backends.memory",
        "backends.samples",
        "passes.arrays",
        "passes.form",
        "passes.overlaps",
        "passes.view",
        "selection.compaction",
        "selection.select",
        "selection.weighted",
    },
    "selection/weighted.py": {"backends.contract", "passes.form", "passes.formulas"},
    "norm.py": {
        "backends.around",
        "backends.contract",
        "exchange.dialects",
        "passes.around",
        "passes.arrays",
        "passes.attributes",
        "passes.calls",
        "passes.form",
        "passes.normalize",
        "passes.numbers",
        "passes.saved",
        "passes.site",
        "passes.view",
        "selection.select",
        "statistics.running_state",
        "passes.surrounded",
    },
    "environment/extras.py": set(),
    "functional": {
        "backends.around",
        "backends.contract",
        "passes.around",
        "passes.arrays",
        "passes.form",
        "passes.normalize",
        "passes.numbers",
        "passes.site",
        "functional",
        "statistics.running",
        "statistics.updates",
        "zoo",
    },
    "environment/__init__.py": set(),
    "environment/ahead.py": {
        "backends",
        "exchange.registry",
        "norm",
        "passes.around",
        "passes.arrays",
        "statistics.progress",
    },
    "statistics/__init__.py": set(),
    "statistics/diagnose.py": {
        "passes.arrays",
        "backends.contract",
        "norm",
        "statistics.counted",
        "statistics.stats",
    },
    "statistics/observing.py": {"backends", "backends.contract", "passes.arrays"},
    "statistics/progress.py": set(),
    "statistics/recalibrate.py": {
        "backends.contract",
        "passes.arrays",
        "passes.numbers",
        "statistics.progress",
        "statistics.running_state",
        "statistics.counted",
        "statistics.stats",
        "statistics.tracked",
    },
    "statistics/running.py": {
        "backends",
        "passes.arrays",
        "passes.beside",
        "passes.form",
        "passes.normalize",
        "passes.overlaps",
        "passes.view",
        "selection.select",
        "selection.selected",
        "statistics.running_state",
        "statistics.updates",
    },
    "statistics/running_state.py": {"backends.at_once", "backends.contract"},
    "statistics/counted.py": {
        "backends.contract",
        "passes.arrays",
        "passes.formulas",
        "passes.view",
        "selection.select",
        "statistics.tables",
    },
    "statistics/rescaling.py": {
        "backends",
        "backends.contract",
        "backends.memory",
        "statistics.counted",
        "statistics.tables",
    },
    "statistics/robust.py": {
        "passes.numpy_threads",
        "backends.contract",
        "passes.arrays",
        "passes.formulas",
        "selection.select",
        "statistics.counted",
    },
    "statistics/sketch.py": {
        "backends.contract",
        "passes.formulas",
        "passes.numbers",
        "statistics.counted",
        "statistics.robust",
    },
    "sklearn": {
        "backends.contract",
        "environment.extras",
        "passes.arrays",
        "passes.formulas",
        "passes.numbers",
        "selection.select",
        "sklearn",
        "statistics",
    },
    "statistics/stats.py": {
        "backends.contract",
        "passes.formulas",
        "selection.select",
        "statistics.counted",
        "statistics.tables",
    },
    "statistics/tables.py": {"backends", "backends.contract", "passes.arrays", "passes.view"},
    "statistics/updates.py": {"backends", "backends.subnormals", "passes.arrays", "statistics.running_state"},
    "environment/system.py": set(),
    "zoo": {
        "backends.around",
        "backends.contract",
        "backends.forms",
        "backends.lanes",
        "backends.subnormals",
        "norm",
        "passes.affine",
        "passes.around",
        "passes.arrays",
        "passes.attributes",
        "passes.cell_layout",
        "passes.cells",
        "passes.form",
        "passes.formulas",
        "passes.graphs",
        "passes.normalize",
        "passes.numbers",
        "passes.numpy_threads",
        "passes.overlaps",
        "passes.saved",
        "passes.view",
        "passes.view_saved",
        "passes.whole",
        "selection.select",
        "statistics.observing",
        "statistics.robust",
        "statistics.running",
        "statistics.running_state",
        "statistics.counted",
        "statistics.stats",
        "statistics.tracked",
        "statistics.updates",
        "zoo",
        "zoo.exact",
    },
    "zoo/exact.py": {
        "backends.contract",
        "backends.subnormals",
        "norm",
        "passes.arrays",
        "passes.cell_layout",
        "passes.cells",
        "passes.overlaps",
        "passes.saved",
        "statistics.running_state",
    },
    "exchange/__init__.py": set(),
    "exchange/counterparts.py": {"exchange.dialects", "exchange.torch_names", "norm", "passes.numbers", "zoo"},
    "exchange/dialects.py": {"backends.contract", "passes.arrays", "passes.numbers"},
    "exchange/files.py": {
        "backends.contract",
        "exchange.dialects",
        "environment.extras",
        "norm",
        "passes.arrays",
        "statistics.running_state",
        "environment.system",
    },
    "exchange/fold.py": {
        "backends.contract",
        "distributed",
        "norm",
        "passes.arrays",
        "passes.formulas",
        "passes.numbers",
        "zoo",
    },
    "exchange/onnx_contributed.py": {"exchange.onnx_reading", "norm", "zoo"},
    "exchange/onnx_nodes.py": {
        "backends.contract",
        "exchange.onnx_contributed",
        "exchange.onnx_reading",
        "norm",
        "zoo",
    },
    "exchange/onnx_reading.py": {"backends.contract", "norm", "passes.arrays"},
    "exchange/names.py": set(),
    "exchange/registry.py": {"", "exchange.counterparts", "exchange.names", "exchange.torch_names", "norm"},
    "exchange/torch_names.py": set(),
    "distributed": {
        "backends",
        "distributed",
        "environment.extras",
        "norm",
        "passes.arrays",
        "passes.form",
        "passes.formulas",
        "passes.normalize",
        "passes.numbers",
        "passes.overlaps",
        "passes.saved",
        "passes.view",
        "passes.view_saved",
        "statistics.running",
        "statistics.counted",
        "statistics.stats",
        "statistics.updates",
        "zoo",
    },
    "torch": {
        "",
        "backends",
        "backends.activations",
        "backends.around",
        "exchange.fold",
        "environment.extras",
        "passes.around",
        "functional",
        "norm",
        "passes.arrays",
        "passes.device",
        "passes.normalize",
        "passes.view",
        "passes.view_saved",
        "statistics.updates",
        "environment.system",
        "torch",
        "zoo",
    },
    "njit": {
        "",
        "backends",
        "functional",
        "njit",
        "norm",
        "passes.around",
        "passes.arrays",
        "passes.saved",
        "passes.view",
        "zoo",
    },
    "__init__.py": {
        "environment.ahead",
        "backends",
        "backends.memory",
        "distributed",
        "exchange.counterparts",
        "exchange.files",
        "exchange.fold",
        "exchange.onnx_nodes",
        "exchange.registry",
        "exchange.torch_names",
        "functional",
        "norm",
        "passes.device",
        "passes.saved",
        "selection.select",
        "statistics.robust",
        "statistics.sketch",
        "statistics.diagnose",
        "statistics.recalibrate",
        "statistics.counted",
        "statistics.stats",
        "environment.versions",
        "zoo",
    },
    "environment/versions.py": {""},
    "__main__.py": {""},
    "statistics/tracked.py": {
        "backends.contract",
        "backends.subnormals",
        "norm",
        "passes.arrays",
        "passes.attributes",
        "passes.numbers",
        "statistics.running_state",
        "statistics.updates",
    },
    "passes/attributes.py": {
        "backends.contract",
        "passes.around",
        "passes.arrays",
        "passes.saved",
        "selection.select",
    },
    "passes/numbers.py": {"backends.contract", "passes.arrays"},
    "passes/overlaps.py": {"backends.contract", "passes.arrays"},
    "selection/select.py": {"backends.contract", "passes.arrays", "passes.numbers"},
}


# What a room imports inside a function, where it is installed.
OPTIONAL = {
    "environment/ahead.py": {"ml_dtypes"},
    "statistics/progress.py": {"tqdm"},
    "distributed": {"mpi4py", "dask"},
    "exchange/files.py": {"ml_dtypes", "safetensors"},
    "exchange/onnx_reading.py": {"onnx"},
    "sklearn": {"sklearn"},
    "torch": {"torch", "ml_dtypes"},
}


FOLDERS = (
    "backends",
    "environment",
    "exchange",
    "functional.images",
    "passes",
    "selection",
    "statistics",
    "zoo",
)  # whose files are imported by name, too


def room_of(path):
    name = path.relative_to(PACKAGE).as_posix()
    return max((room for room in ROOMS if name == room or name.startswith(room + "/")), key=len, default=None)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            named = node.module == "normzoo" or node.module.removeprefix("normzoo.") in FOLDERS
            yield from (f"{node.module}.{alias.name}" for alias in node.names) if named else (node.module,)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_what_it_may(path):
    room = room_of(path)
    assert room is not None, "a new room: say what it may import"
    for module in imports(path):
        if (module == "normzoo" and "" not in ROOMS[room]) or not module.startswith("normzoo"):
            known = {*sys.stdlib_module_names, "numpy", "numba", "llvmlite", "scipy", "normzoo"}
            assert module.split(".")[0] in known | OPTIONAL.get(room, set())
            continue
        inner = module.removeprefix("normzoo").removeprefix(".")
        allowed = ROOMS[room]
        assert any(inner == a or (a and inner.startswith(a + ".")) for a in allowed), f"{room} imports {module}"


KNOWN_OF_NUMBA = {
    "numba",
    "numba.core.cgutils",
    "numba.core.errors",
    "numba.core.event",
    "numba.core.types",
    "numba.experimental.structref",
    "numba.extending",
    "llvmlite",
    "llvmlite.binding",
    "llvmlite.ir",
}  # what their documentation shows


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_private_names_of_numba_stand_in_one_place(path):
    if path.parent.name == "numba_internals" or "cuda" in path.parts:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            within = [f"{node.module}.{alias.name}" for alias in node.names]
            found = within if node.module in {"numba.core", "numba.experimental", "llvmlite"} else [node.module]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "context":
            found = [f"numba.{node.attr}"] if node.attr in PRIVATE_OF_A_CONTEXT else []
        for name in found:
            assert name.split(".")[0] not in ("numba", "llvmlite") or name in KNOWN_OF_NUMBA, name


PRIVATE_OF_A_CONTEXT = {
    "active_code_library",
    "add_dynamic_addr",
    "call_conv",
    "call_internal_no_propagate",
    "codegen",
    "get_python_api",
    "nrt",
    "typing_context",
}


def within(function):
    """The nodes of a function, without those of functions in it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            yield node
            yield from within(node)


def makes_workspace(node):
    return any(isinstance(n, ast.Call) and getattr(n.func, "id", "") == "workspace" for n in ast.walk(node))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_no_helper_returns_a_workspace(path):
    """A small one lies in the frame of the helper that asks for it, which ends with it."""
    for function in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)):
        nodes = list(within(function))
        made = [n.targets for n in nodes if isinstance(n, ast.Assign) and makes_workspace(n.value)]
        names = {n.id for targets in made for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        for value in (n.value for n in nodes if isinstance(n, ast.Return) and n.value is not None):
            used = {n.id for n in ast.walk(value) if isinstance(n, ast.Name)}
            assert not used & names and not makes_workspace(value), f"{function.name}, line {value.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_files_and_functions_are_short(path):
    """Ruff counts arguments and branches. Kernels, which pass their arguments on one by one, are as long as they are."""
    assert len(path.read_text().splitlines()) <= 350, "look for the missing concept"
    if "kernels" in path.parts or "cuda" in path.parts:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            docstring = node.body[0].end_lineno - node.lineno if ast.get_docstring(node) else 0
            assert node.end_lineno - node.lineno - docstring <= 60, node.name


def test_no_circle_among_files():
    names = {
        path: "normzoo." + path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for path in FILES
    }
    known = {name.removesuffix(".__init__"): path for path, name in names.items()}

    def imported(path):
        for node in ast.parse(path.read_text()).body:  # not those inside functions, which come later
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("normzoo"):
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield known.get(full) or known[node.module]

    open_, done = [], set()

    def visit(path):
        assert path not in open_, [names[p] for p in [*open_, path]]
        if path not in done:
            open_.append(path)
            for other in imported(path):
                if other != path:
                    visit(other)
            done.add(open_.pop())

    for path in FILES:
        visit(path)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_product_code_has_no_assert_and_reads_no_environment(path):
    tree = ast.parse(path.read_text())
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    assert not re.search(r"\benvironb?\b|\bgetenv\b", path.read_text())


def test_import_compiles_nothing_and_needs_only_numba_numpy_and_scipy():
    code = (
        "import sys, normzoo\n"
        "assert 'normzoo.backends.cpu' not in sys.modules, 'a backend is imported when it is first used'\n"
        "assert 'scipy.special' not in sys.modules, 'it takes longer than all of this package'\n"
        "from normzoo.backends.cpu.kernels import rows, rows_gradients, columns, columns_gradients, rows_split, columns_split\n"
        "made = [f.cache_info().currsize for m in (rows, rows_gradients, columns, columns_gradients, rows_split, columns_split) for f in vars(m).values() if hasattr(f, 'cache_info')]\n"
        "assert len(made) > 8 and not any(made), made\n"
        "found = {n.split('.')[0] for n in sys.modules} & {'torch', 'jax', 'onnx', 'safetensors', 'ml_dtypes', 'matplotlib', 'sklearn', 'tqdm', 'mpi4py', 'dask'}\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_kernels_load_no_more_of_numba_than_they_use():
    """Its own target loads all that it can compile, linear algebra and strings among it: a quarter of a second."""
    code = (
        "import sys, numpy as np, normzoo as nz\n"
        "x = np.ones((4, 32, 2), np.float32)\n"
        "for norm in (nz.LayerNorm(2), nz.BatchNorm(32), nz.GroupNorm(4, 32)):\n"
        "    y, saved = norm.forward(x)\n"
        "    saved.backward(y)\n"
        "found = sys.modules.keys() & {'numba.np.linalg', 'numba.np.arrayobj', 'numba.cpython.unicode', 'scipy.linalg'}\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


MAKE = [(c, c.norm) for c in CASES] + [(c, partial(c.norm, np.float32)) for c in ZOO]


@pytest.mark.parametrize(("case", "make"), MAKE, ids=[case.id for case, _ in MAKE])
def test_a_norm_asks_for_all_that_its_axes_read(case, make):
    """Those that ask: a layer whose attributes are as they were is not asked for its axes again."""
    norm, seen = make(), set()

    class Watched(type(norm)):
        def __getattribute__(self, name):
            seen.add(name)
            return super().__getattribute__(name)

    if norm.asks:
        norm.__class__ = Watched
        norm.axes(np.ones(case.shape, np.float32))
        assert seen - {"axes", "_shape"} <= set(norm.asks)  # the shape of its parameters never changes


@pytest.mark.parametrize("name", nz.list_norms())
def test_a_norm_is_declared_documented_and_tested(name):
    norm = registry._classes()[name]
    assert norm.__module__.startswith("normzoo.zoo."), "a norm is a file of the zoo"
    text = inspect.getdoc(norm)
    for part in ("Formula:", "Shapes:", "Args:", "Raises:", "Source:", ">>> "):
        assert part in text, f"{norm.__name__} documents no {part}"
    assert re.search(r"arXiv:|https://|doi:", name.paper), f"{norm.__name__} names no paper"
    assert name.summary.endswith(".") and len(name.summary) > 20
    assert any(case.id.split("-")[0] == name for case in [*CASES, *ZOO]), f"no case of {name}"


@pytest.mark.parametrize(("page", "least"), [("CONTRIBUTING.md", 1)])  # test_docs.py runs those of README and docs
def test_code_that_is_shown_runs(page, least):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert len(blocks) >= least
    for block in blocks:
        if "import torch" in block and importlib.util.find_spec("torch") is None:
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block, page, "exec"), {"__name__": "__main__"})
        # a comment behind a print shows what it prints
        shown = re.findall(r"^print\(.*\)  # (.*)$", block, re.M)
        assert printed.getvalue().split("\n")[: len(shown)] == shown


def test_signatures_are_torchs():
    """torch.nn.functional's names, order and defaults, with the input called x."""
    expected = {
        "batch_norm": "running_mean running_var weight=None bias=None training=False momentum=0.1 eps=1e-05",
        "instance_norm": "running_mean=None running_var=None weight=None bias=None use_input_stats=True momentum=0.1 "
        "eps=1e-05",
        "layer_norm": "normalized_shape weight=None bias=None eps=1e-05",
        "group_norm": "num_groups weight=None bias=None eps=1e-05",
        "rms_norm": "normalized_shape weight=None eps=None",
        "local_response_norm": "size alpha=0.0001 beta=0.75 k=1.0",
        "normalize": "p=2.0 dim=1 eps=1e-12 out=None",
        "BatchNorm": "num_features eps=1e-05 momentum=0.1 affine=True track_running_stats=True",
        "InstanceNorm": "num_features eps=1e-05 momentum=0.1 affine=False track_running_stats=False",
        "LayerNorm": "normalized_shape eps=1e-05 elementwise_affine=True bias=True",
        "GroupNorm": "num_groups num_channels eps=1e-05 affine=True",
        "RMSNorm": "normalized_shape eps=None elementwise_affine=True",
    }
    for name, arguments in expected.items():
        function = getattr(nz, name, None) or getattr(nz.functional, name)
        found = [
            p for p in inspect.signature(function).parameters.values() if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)
        ]
        shown = [p.name if p.default is p.empty else f"{p.name}={p.default}" for p in found]
        assert " ".join(shown) == (arguments if name[0].isupper() else f"x {arguments}")


SCRIPTS = [*FILES, *(p for folder in ("examples", "asv_benchmarks") for p in sorted((ROOT / folder).rglob("*.py")))]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_needs_its_docstring_or_the_encoding_of_the_system(path):
    """python -OO takes docstrings away; a file that is written where the locale says ASCII is UTF-8 all the same."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            assert getattr(node.value, "id", None) != "__doc__", f"line {node.lineno}"
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in ("read_text", "write_text"):
            assert any(keyword.arg == "encoding" for keyword in node.keywords), f"line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_the_package_imports_its_own_by_statements(path):
    """By these a program is frozen: what is imported by a name made at run time is left out of it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and "import_module" in (
            getattr(node.func, "id", ""),
            getattr(node.func, "attr", ""),
        ):
            name = node.args[0]
            assert not isinstance(name, ast.JoinedStr), f"line {node.lineno}"
            assert not str(getattr(name, "value", "")).startswith("normzoo"), f"line {node.lineno}"


def test_the_package_runs_without_docstrings(tmp_path):
    code = (
        "import numpy as np, normzoo as nz\n"
        "norm = nz.LayerNorm(20)\n"
        "norm(np.ones((6, 20), np.float32))\n"
        "if nz.list_norms()[0].summary: raise SystemExit('docstrings are there')\n"
        "from normzoo import __main__\n"
        "__main__.main(['list', '--family', 'local'])"
    )
    script = "examples/train_digits.py" if importlib.util.find_spec("matplotlib") else "asv_benchmarks/record.py"
    for arguments in (["-c", code], [str(ROOT / script), "--help"]):
        command = [sys.executable, "-OO", "-W", "error", *arguments]
        subprocess.run(
            command, check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True
        )
