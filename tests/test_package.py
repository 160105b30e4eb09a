"""The distributions, what an index and a channel say of them, and an environment that is made of the wheel alone.

Needs the tools of the extra `package`: pip install -e ".[package]". Those that ask a package index are slow.
"""

import email
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import normzoo as nz
from normzoo.environment.extras import to_install

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TOOLS = "build", "hatchling", "hatch_fancy_pypi_readme", "twine"
needs_tools = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in TOOLS),
    reason='the tools are not installed: pip install -e ".[package]"',
)
SYSTEMS = {
    "linux": "x86_64-manylinux_2_28",
    "ARM": "aarch64-manylinux_2_28",
    "macOS": "aarch64-apple-darwin",
    "Windows": "x86_64-pc-windows-msvc",
}
PYTHONS = [c.rsplit(" ")[-1] for c in PROJECT["classifiers"] if re.fullmatch(r".* 3\.\d+", c)]


def run(*command, cwd=None):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution, and the wheel that is built from it, as `python -m build` makes them."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def metadata(built):
    with zipfile.ZipFile(built[1]) as wheel:
        (name,) = [n for n in wheel.namelist() if n.endswith("/METADATA")]
        return email.message_from_bytes(wheel.read(name))


def names_in(sdist):
    with tarfile.open(sdist) as file:
        return [name.partition("/")[2] for name in file.getnames()]


@needs_tools
def test_an_index_takes_the_distributions(built):
    run(sys.executable, "-m", "twine", "check", "--strict", *built)


@needs_tools
def test_the_wheel_has_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = wheel.namelist()
    own = {name for name in names if not name.startswith(f"normzoo-{nz.__version__}.dist-info/")}
    sources = {
        p.relative_to(ROOT).as_posix() for p in (ROOT / "normzoo").rglob("*") if p.suffix in (".py", ".pyi", ".typed")
    }
    assert own == sources
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert built[1].name.endswith("-py3-none-any.whl")


@needs_tools
def test_the_source_distribution_has_what_its_pages_show_and_no_junk(built):
    names = names_in(built[0])
    for page in (
        "README.md",
        "CONTRIBUTING.md",
        "examples/README.md",
        *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
    ):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert page in names
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            target = os.path.normpath(Path(page).parent / link).replace(os.sep, "/")
            is_generated = target.startswith(("docs/zoo/", "docs/api/", "docs/examples/"))  # by the build of the pages
            assert is_generated or target in names, f"{page} shows {link}"
    junk = r"(^|/)(__pycache__|\.git|\.venv|results|env|html|dist|build)(/|$)|\.(py[co]|nb[ci]|log|orig|rej|so)$|~$"
    assert [name for name in names if re.search(junk, name)] == []
    known = {"normzoo", "tests", "examples", "docs", "recipe", "asv_benchmarks", ".ci", ".github"}
    files = {
        ".gitignore",
        "LICENSE",
        "PKG-INFO",
        "CITATION.cff",
        "pyproject.toml",
        *(p.name for p in ROOT.glob("*.md")),
    }
    assert {name.partition("/")[0] for name in names} <= known | files
    assert built[0].stat().st_size < 4e6


@needs_tools
def test_metadata_say_one_version_and_no_link_that_leads_nowhere(metadata):
    assert metadata["Version"] == nz.__version__ and metadata["Author"] == "normzoo developers"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    text = metadata.get_payload()
    assert "docs/families.svg" in text
    for target in re.findall(r"\]\(([^)]*)\)", re.sub(r"```.*?```", "", text, flags=re.S)):
        assert target.startswith(("https://", "#")), target


def test_the_version_is_written_once():
    """In the package; the recipe, which a channel reads without it, has a copy."""
    found = [
        path
        for path in [ROOT / "pyproject.toml", ROOT / "recipe/recipe.yaml", *(ROOT / "normzoo").rglob("*.py")]
        if re.search(rf"\b{re.escape(nz.__version__)}\b", path.read_text(encoding="utf-8"))
    ]
    assert found == [ROOT / "recipe/recipe.yaml", ROOT / "normzoo/__init__.py"]
    shown = run(sys.executable, "-m", "normzoo", "--version", cwd=ROOT)
    assert shown == f"normzoo {nz.__version__}\n"
    assert "compile" in run(sys.executable, "-m", "normzoo", "--help", cwd=ROOT)


def normal(requirement):
    """A requirement's name, and its bounds in any order."""
    name, bounds = re.fullmatch(r"([\w.-]+(?:\[\w+\])?)\s*(.*)", requirement).groups()
    return name.replace("_", "-"), set(bounds.split(","))


def test_the_recipe_renders_and_says_what_the_package_says():
    yaml, jinja2 = pytest.importorskip("yaml"), pytest.importorskip("jinja2")
    environment = jinja2.Environment(
        variable_start_string="${{", variable_end_string="}}", undefined=jinja2.StrictUndefined, autoescape=False
    )  # as rattler-build reads recipes
    text = (ROOT / "recipe/recipe.yaml").read_text(encoding="utf-8")
    context = yaml.safe_load(text)["context"]
    recipe = yaml.safe_load(environment.from_string(text).render(**context, PYTHON="python"))
    assert recipe["package"] == {"name": "normzoo", "version": nz.__version__}
    assert recipe["source"]["path"] == f"../dist/normzoo-{nz.__version__}.tar.gz"
    python, *needed = recipe["requirements"]["run"]
    assert python == f"python {PROJECT['requires-python']}"
    assert [normal(r) for r in needed] == [normal(r) for r in PROJECT["dependencies"]]
    builders = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert [normal(r) for r in recipe["requirements"]["host"][2:]] == [normal(r) for r in builders]
    assert recipe["about"]["summary"] == PROJECT["description"] and recipe["about"]["license"] == PROJECT["license"]
    assert (ROOT / recipe["about"]["license_file"]).exists()
    for module in recipe["tests"][0]["python"]["imports"]:
        assert importlib.util.find_spec(module)
    for line in recipe["tests"][1]["script"]:
        check_command(line)


def check_command(line):
    """Does a command of a workflow or a recipe name only what exists?"""
    words = shlex.split(line)
    program, arguments = words[0], words[1:]
    assert program in ("python", "bash", "test"), line
    if program == "bash":
        assert (ROOT / arguments[0]).is_file(), line
    if arguments[:1] == ["-m"]:
        module = arguments[1]
        assert module in ("pip", "pytest", "normzoo", "build", "twine", "sphinx"), line
        assert module in ("pip", "pytest", "normzoo") or any(
            module == normal(r)[0] for extra in ("package", "docs") for r in PROJECT["optional-dependencies"][extra]
        ), f"no extra brings {module}"
        for word in arguments[2:]:
            if word.startswith("tests/"):
                assert (ROOT / word).exists(), line
            if found := re.fullmatch(r"\.\[([\w,-]+)\]", word):
                assert set(found[1].split(",")) <= PROJECT["optional-dependencies"].keys(), line
        if module == "normzoo":
            run(
                sys.executable,
                "-m",
                "normzoo",
                *(["--version"] if "--version" in words else [arguments[2], "--help"]),
                cwd=ROOT,
            )


def test_a_command_that_does_not_exist_is_found():
    for line in ("python -m pytest tests/none.py", 'python -m pip install -e ".[none]"', "bash .ci/none", "make all"):
        with pytest.raises(AssertionError):
            check_command(line)


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda p: p.stem)
def test_workflows_name_what_exists(path):
    yaml = pytest.importorskip("yaml")
    flow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert flow["name"] == path.stem and (True in flow)  # YAML reads the key `on` as true
    for name, job in flow["jobs"].items():
        assert set(job.get("needs", "").split()) <= flow["jobs"].keys()
        matrix = job.get("strategy", {}).get("matrix", {})
        assert set(matrix.get("python", [])) <= set(PYTHONS)
        assert "runs-on" in job, name
        for used in re.findall(r"\$\{\{ matrix\.(\w+) \}\}", str(job)):
            assert used in matrix
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@[\w./]+", step["uses"])
            for line in step.get("run", "").splitlines():
                check_command(line)


def test_what_messages_advise_to_install_is_what_an_extra_lists():
    for path in (ROOT / "normzoo").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "normzoo[" not in text, f"{path.name} says to install this package from an index that does not have it"
        for extra in re.findall(r"to_install\(['\"]([\w-]+)['\"]\)", text):
            assert extra in PROJECT["optional-dependencies"], extra


def test_advice_names_requirements_and_without_metadata_the_clone(monkeypatch):
    listed = [
        "numba>=0.62",
        "a<2,>=1; extra == 'files'",
        'b[c]>=3; (os_name == "nt") and extra == "files"',
        "d; extra == 'file'",
    ]
    monkeypatch.setattr("normzoo.environment.extras.requires", lambda name: listed)
    assert to_install("files") == 'pip install "a<2,>=1" "b[c]>=3"'
    assert to_install("none") == 'pip install -e ".[none]"'

    def missing(name):
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr("normzoo.environment.extras.requires", missing)
    assert to_install("files") == 'pip install -e ".[files]"'


FROM_THE_WHEEL = """
import os, re, sys, normzoo
assert "site-packages" in normzoo.__file__, normzoo.__file__
from pathlib import Path
blocks = re.findall(r"```python\\n(.*?)```", Path(sys.argv[1]).read_text(encoding="utf-8"), re.S)
blocks = [b for b in blocks if not re.search(r"import (torch|onnx|safetensors|dask)|normzoo[.]torch", b)]
assert len(blocks) >= 2
names = {"__name__": "__main__"}
for block in blocks[:3]:
    exec(compile(block, "README.md", "exec"), names)
try:
    import normzoo.torch
except ImportError as error:
    assert "write pip install " in str(error) and '"torch>=2.4"' in str(error), error
else:
    raise SystemExit("there is PyTorch in an environment of the wheel alone")
"""


@pytest.mark.slow
@needs_tools
def test_an_environment_of_the_wheel_alone(built, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(python, "-m", "pip", "install", "-q", "--no-compile", built[1])
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    run(python, "-I", "-W", "error", "-c", FROM_THE_WHEEL, ROOT / "README.md", cwd=empty)
    assert run(python, "-I", "-m", "normzoo", "--version", cwd=empty) == f"normzoo {nz.__version__}\n"
    run(python, "-I", "-m", "normzoo", "--help", cwd=empty)
    shown = run(python, "-I", "-m", "normzoo", "compile", "--norms", "rms_norm", "--no-backward", "--quiet", cwd=empty)
    assert re.match(r"\d+ kernels compiled; kept in ", shown)
    assert list(empty.iterdir()) == []


def resolved(*options):
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if uv is None:
        pytest.skip('uv is not installed: pip install -e ".[package]"')
    return run(uv, "pip", "compile", "-q", "--no-header", "--no-annotate", *options, ROOT / "pyproject.toml")


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.13"])
@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_an_extra_resolves(extra, python):
    found = resolved("--extra", extra, "--python-version", python)
    for requirement in PROJECT["optional-dependencies"][extra]:
        name = re.match(r"[\w.-]+", requirement)[0].replace("_", "-").lower()
        assert re.search(rf"^{re.escape(name)}(\[\w+\])?==", found, re.M) or "; sys_platform" in requirement, name


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_there_are_wheels_for_every_system(system, python):
    """Of all that the package needs, and of the extra `test`."""
    options = "--extra", "test", "--only-binary", ":all:", "--python-platform", SYSTEMS[system]
    assert "numba==" in resolved(*options, "--python-version", python)
