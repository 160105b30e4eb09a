"""The documentation: built without a warning and a network, its code run, its links followed, its pages looked at; and
the numbers of README and docs are those of the records."""

import contextlib
import importlib
import importlib.util
import inspect
import io
import json
import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from multiprocessing.pool import ThreadPool
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen
from xml.etree import ElementTree

import pytest

import normzoo as nz
from normzoo.backends import memory
from normzoo.passes import plan
from tests import site_check

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GENERATED = ("_build", "zoo", "api", "examples", "generated_static")
PAGES = sorted(p for p in DOCS.rglob("*.md") if p.relative_to(DOCS).parts[0] not in GENERATED)
WIDTHS = (360, 1200)


@pytest.fixture(scope="module")
def making():
    """The modules that write the pages."""
    sys.path.insert(0, str(DOCS))
    try:
        return {
            name: importlib.import_module(f"making.{name}")
            for name in ("docstrings", "mathml", "cubes", "records", "readme", "speed", "pages", "api")
        }
    finally:
        sys.path.remove(str(DOCS))


def text_of(html):
    return "".join(ElementTree.fromstring(f"<p>{html}</p>").itertext()).replace("\u2061", "")


def test_formulas_are_set_and_the_rest_stays(making):
    paragraph = making["mathml"].paragraph
    set_once = paragraph(
        "y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and (biased) var over N / G of all."
    )
    assert set_once.count("<math") == 2 and set_once.count("<mfrac>") == 2 and set_once.count("<msqrt>") == 1
    assert text_of(set_once) == "y=x−meanvar+ε·weight+bias, with mean and (biased) var over NG of all."
    for source, shown in [
        ("a - (b - c)", "a−(b−c)"),
        ("(a * b) * c", "a·b·c"),
        ("-(a + b)", "−(a+b)"),
        ("(a + b)^2", "(a+b)2"),
        ("(-a)^2", "(−a)2"),
        ("max(||x||, eps)", "max(‖x‖,ε)"),
        ("mean(|x - mu|)", "mean(|x−μ|)"),
        ("x[c']^2", "xc′2"),
        ("size//2 >= 1", "⌊size2⌋≥1"),
        ("W @ x", "W\u2009x"),
        ("y^T @ y = I", "yT\u2009y=I"),
        ("weight'[o] * gamma'", "weight′o·γ′"),
        ("mean(x_1^2, ..., x_k^2)", "mean(x12,…,xk2)"),
    ]:
        html = paragraph(source)
        assert "<math" in html and text_of(html) == shown
    for plain in ("no formula", "x", "lambda: 0", "a if b else c", "f(x, y=1)", "eps I", "x is y", "sum over (m, n)"):
        assert "<math" not in paragraph(plain), plain
    assert paragraph("all of & `c < d`, no") == "all of &amp; <code>c &lt; d</code>, no"


def test_no_formula_is_half_set(making):
    """No operator is left over in the words around the formulas of the reference."""
    documented = [getattr(nz, name) for name in nz.__all__] + [vars(nz.fold)[name] for name in vars(nz.fold)]
    texts = [doc for doc in map(inspect.getdoc, documented) if doc and "Formula:\n" in doc]
    assert len(texts) > len(nz.list_norms())
    for text in texts:
        body = making["docstrings"]._block(text.split("Formula:\n")[1].split("\n"))
        for part in making["docstrings"]._parts(body):
            html = making["mathml"].paragraph(part)
            words = re.sub("<math.*?</math>|<code>.*?</code>", "", html, flags=re.S)
            assert not re.search(r"[\^/*+]|\w =|= \w", words), words


def test_markdown_of_a_docstring(making):
    text = making["docstrings"].markdown(
        "One * two_three.\n\nFormula:\n    y = x^2, and\n        z = y / 2\n    at the end\n\nArgs:\n    a, b: `x_y` of 1 * 2,\n        and on.\n\n"
        "Source:\n    Somebody, arXiv:1502.03167, https://example.org/a_b.\n\n>>> 1 + 1\n2"
    )
    assert text.startswith(r"One \* two\_three.")
    assert "- **a, b**: `x_y` of 1 \\* 2, and on." in text
    assert (
        "[arXiv:1502.03167](https://arxiv.org/abs/1502.03167), [https://example.org/a\\_b](https://example.org/a_b)."
        in text
    )
    assert text.count("<p>") == 3 and text.count("<math") == 2 and "```pycon\n>>> 1 + 1\n2\n```" in text


def test_views_and_cubes_follow_from_the_declarations(making):
    drawn = making["cubes"].drawn
    for name, view, last, sets, values in [
        ("batch_norm", "(1, N, C, S)", "(1, N·S, C, 1)", 6, 20),
        ("instance_norm", "(N, 1, C, S)", "(N, S, C, 1)", 24, 5),
        ("group_norm", "(N·G, C/G, 1, S)", "(N, S, G, C/G)", 8, 15),
        ("layer_norm", "(N, 1, 1, C·S)", "", 4, 30),
        ("rms_norm", "(N·T, 1, 1, C)", "", 24, 5),
        ("ghost_batch_norm", "(G, N/G, C, S)", "(G, N/G·S, C, 1)", 12, 10),
        ("pixel_norm", "(N, C, S, 1)", "(N·S, 1, 1, C)", 20, 6),
        ("weight_norm", "(out, 1, 1, in·k)", "", 4, 30),
    ]:
        found = drawn(name)
        assert (found.view, found.last) == (view, last), name
        assert (len(set(found.numbers.ravel().tolist())), found.set_of_corner.sum()) == (sets, values), name
    assert drawn("dyt") is None and drawn("local_response_norm") is None
    missing = [
        name for name in nz.list_norms()
        if drawn(name) is None and making["pages"].Page(name).kind.axes is not nz.Norm.axes
    ]  # fmt: skip
    assert missing == ["layer_scale"], "it has no statistics; say in cubes.py how the others are made"


COMPILED = DOCS / "howto" / "numba.md"  # Numba keeps none of the functions that call norms
CODE = (ROOT / "README.md", *PAGES)


@pytest.mark.parametrize("path", [p for p in CODE if p != COMPILED], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_code_on_pages_runs(path):
    """On the reference, which compiles nothing; on the kernels below, and README's in an environment of the wheel too."""
    with nz.use("reference"):
        run_page(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", CODE, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_code_on_pages_runs_on_the_kernels(path):
    run_page(path)


def run_page(path):
    """From top to bottom, as one program. A comment behind a print shows what it prints."""
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.S | re.M)
    if any("import torch" in block.split("find_spec")[0] for block in blocks):
        pytest.importorskip("torch")
    for package in ("matplotlib", "pydicom", "sklearn"):  # whose data a page shows
        if any(re.search(rf"^(?:from|import) {package}", block, re.M) for block in blocks):
            pytest.importorskip(package, "1.6" if package == "sklearn" else None)
    names = {"__name__": "__main__"}
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block, str(path), "exec"), names)
        shown = re.findall(r"^print\(.*\)  # (.*)$", block, re.M)
        lines = printed.getvalue().split("\n")
        for line, expected in zip(lines, shown, strict=False):
            assert line == expected or expected.startswith((f"{line}: ", f"{line}, ")), path
        assert len(lines) > len(shown)


def test_constants_on_pages_are_those_of_the_code():
    page = (DOCS / "howto" / "memory.md").read_text(encoding="utf-8")
    assert f"({memory.LEAST >> 20} MB or\nmore)" in page and f"{memory.LIMIT >> 20} MB at most" in page
    assert f"after {plan.ENOUGH:,} calls" in (DOCS / "howto" / "compile_ahead.md").read_text(encoding="utf-8")


def test_pages_have_blocks_of_code():
    """So that the test above runs something."""
    blocks = {p.stem: p.read_text(encoding="utf-8").count("```python") for p in PAGES}
    assert sum(blocks.values()) > 40 and all(blocks[name] for name in ("masks", "fold", "numpy_network", "accuracy"))


def test_messages_on_the_page_of_errors_are_the_librarys():
    text = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    code, shown = re.search(r"```python\n(.*?)```\s+```text\n(.*?)```", text, re.S).groups()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    assert printed.getvalue() == shown


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages, built without a warning. `making` writes beside the sources, and what was there is not read."""
    for package in ("sphinx", "myst_parser", "furo", "sphinx_copybutton", "sphinx_design"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'{package} is not installed: pip install -e ".[docs]"')
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(out / "trees")]
    blocked = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [*command, str(DOCS), str(out / "html")], check=False, capture_output=True, text=True,
        env=os.environ | blocked | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return out / "html"


class Links(HTMLParser):
    """What a page refers to, loads, and can be referred to by."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.names = [], [], {""}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.names |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("script", "img", "iframe", "source") and found.get("src"):
            self.loaded.append(found["src"])
        if tag == "link" and found.get("href") and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(found["href"])


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    pages = {path.resolve(): Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(pages) > len(nz.list_norms()) + 30
    for path, page in pages.items():
        for address in page.loaded:
            parts = urlsplit(address)
            assert not parts.netloc, f"{path.name} loads {address}"
            assert parts.scheme == "data" or (path.parent / unquote(parts.path)).exists(), f"{path.name}: {address}"
        for address in page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                assert parts.scheme == "https" and parts.netloc, f"{path.name}: {address}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name}: {address}"
            if target in pages and path.name not in ("search.html", "genindex.html"):
                assert unquote(parts.fragment) in pages[target].names, f"{path.name}: {address}"


def test_everything_public_is_in_the_reference(site):
    names = set().union(*(Links(path.read_text(encoding="utf-8")).names for path in site.rglob("*.html")))
    for name in nz.__all__:
        members = [n for n in names if n == f"normzoo.{name}" or n.startswith(f"normzoo.{name}.")]
        assert members, name
    text = unescape(re.sub("<[^>]*>", "", (site / "zoo" / "batch_norm.html").read_text(encoding="utf-8")))
    for shown in (
        "momentum: float | None = 0.1",
        "eps: float = 1e-05",
        "residual_scale: float = 1.0",
        "dtype: Any = np.float32",
    ):
        assert shown in " ".join(text.split()), shown
    for name in (
        "Norm.__call__",
        "Norm.backward",
        "Saved.backward",
        "Stats.merge",
        "functional.layer_norm",
        "torch.convert",
    ):
        assert f"normzoo.{name}" in names


def test_the_zoo_has_every_norm(making):
    """The gallery, in a family that has a heading, and a page with formula, shapes, source and an example."""
    pages = making["pages"]
    found = [pages.Page(name) for name in nz.list_norms()]
    cards = re.findall(r'<a class="zoo-card" href="(\w+).html" data-words="([^"]*)"', pages.gallery(found))
    assert sorted(name for name, _ in cards) == sorted(nz.list_norms())
    for page, listed in zip(found, nz.list_norms(), strict=True):
        assert page.formula.startswith("<math"), f"{page.name}: its docstring has no formula 'y = ...' to show"
        words = unescape(dict(cards)[page.name])
        assert listed.family in words and listed.paper.split(",")[0].lower()[:12] in words
        text = page.markdown()
        for part in ("<math", "**Shapes**", "**Source**", ">>> ", "What it supports", page.summary):
            assert part in text, f"{page.name}: {part}"


def test_types_read_as_they_are_written(site):
    for path in site.rglob("*.html"):
        text = re.sub("<[^>]*>", "", path.read_text(encoding="utf-8"))
        assert "numpy.ndarray[" not in text and "typing.Any" not in text and "Unpack[" not in text, path.name


def test_pages_in_a_browser(site, tmp_path):
    if None in site_check.programs() or importlib.util.find_spec("selenium") is None:
        pytest.skip('no browser to look with: apt-get install chromium chromium-driver; pip install -e ".[docs]"')
    some = [site / "zoo" / f"{name}.html" for name in ("index", "batch_norm", "power_norm", "switchable_norm")]
    written = [p for p in sorted(site.rglob("*.html")) if p.parent.name not in ("zoo", "examples", "_modules")]
    with site_check.browser() as driver:
        for width, pages in ((WIDTHS[0], [*written, *some]), (WIDTHS[1], [site / "index.html", *some])):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            for path in pages:
                driver.get(path.as_uri())
                assert site_check.severe(driver) == [], path.name
                wide = driver.execute_script("return document.documentElement.scrollWidth")
                assert wide <= width, f"{path.name} is {wide} px wide on {width}"
        driver.get((site / "zoo" / "batch_norm.html").as_uri())
        drawn = driver.execute_script(
            "return [...document.querySelectorAll('math, img.cube')].map(m => m.getBoundingClientRect()).map(r => [r.width, r.height])"
        )
        assert len(drawn) >= 3 and all(w > 3 and h > 5 for w, h in drawn)
        assert driver.find_elements("css selector", "button.copybtn"), "code has no copy buttons"
        check_gallery(driver, site)
        driver.get((site / "search.html").as_uri() + "?q=lengths")
        assert site_check.wait(lambda: driver.find_elements("css selector", "ul.search a[href*='masks']"), 20)
        assert site_check.severe(driver) == []
        assert driver.save_screenshot(str(tmp_path / "search.png"))


def check_gallery(driver, site):
    def shown():
        return len([card for card in driver.find_elements("css selector", ".zoo-card") if card.is_displayed()])

    driver.get((site / "zoo" / "index.html").as_uri())
    assert shown() == len(nz.list_norms())
    driver.find_element("css selector", "button[data-family=whitening]").click()
    assert shown() == len(nz.list_norms(family="whitening"))
    driver.find_element("css selector", "button[data-family=all]").click()
    driver.find_element("css selector", ".zoo-filter input").send_keys("zhang sennrich")
    assert 0 < shown() < 5
    blank = driver.execute_script(
        "return [...document.querySelectorAll('.zoo-card img')].filter(i => i.complete && !i.naturalWidth).length"
    )
    assert not blank, "a cube is not drawn"


QUESTIONS = {  # what somebody looks for, the page, and words of its answer
    "how to convert a PyTorch model": ("tutorials/pytorch_model.html", r"nzt\.convert\(model\)"),
    "what LayerNorm does on channels-last arrays": ("howto/channels_last.html", "LayerNorm"),
    "why a result differs from PyTorch's in the sixth digit": ("explanation/accuracy.html", "PyTorch"),
    "how fast GroupNorm is": ("zoo/group_norm.html", "[Tt]imes as fast as the fastest of"),
    "how to add a norm": ("tutorials/own_norm.html", r"class \w+\(nz\.Norm\)"),
    "what a message means": ("reference/errors.html", "expected more than 1 value"),
}


def reached(site, page):
    """The pages that the text of a page leads to, without the menus."""
    text = page.read_text(encoding="utf-8")
    links = Links(text[text.index("<article") : text.index("</article>")]).links
    found = {(page.parent / unquote(urlsplit(link).path)).resolve() for link in links if not urlsplit(link).scheme}
    return {path for path in found if path.suffix == ".html" and path.is_relative_to(site)}


def test_the_front_page_answers_questions_in_two_clicks(site):
    site = site.resolve()
    first = reached(site, site / "index.html")
    second = first.union(*(reached(site, page) for page in first))
    for question, (page, words) in QUESTIONS.items():
        assert site / page in second, question
        text = unescape(re.sub("<[^>]*>", "", (site / page).read_text(encoding="utf-8")))
        assert re.search(words, text), question
    assert {page.relative_to(site).as_posix() for page in second} >= {f"zoo/{name}.html" for name in nz.list_norms()}


@pytest.mark.slow
def test_links_to_other_sites_are_answered(site):
    """Only what is gone counts: many sites refuse programs."""
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    readme = re.findall(r"\]\((https://[^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    links = {link for page in pages.values() for link in page.links if link.startswith("https://")} | set(readme)
    assert len(links) > 30
    if not any(status(link) for link in ("https://arxiv.org", "https://numba.pydata.org")):
        pytest.skip("there is no network")
    answers = dict(zip(sorted(links), ThreadPool(16).map(status, sorted(links)), strict=True))
    assert {link: code for link, code in answers.items() if code in (404, 410)} == {}


def status(address):
    """The status of an answer; 0 where there is none."""
    try:
        with urlopen(Request(address, headers={"User-Agent": "Mozilla/5.0"}), timeout=20) as answer:
            return answer.status
    except HTTPError as error:
        return error.code
    except (URLError, OSError):
        return 0


def test_identifiers_of_papers_are_well_formed():
    """Year and month, and four digits before 2015 or five since; and those of before April 2007."""
    papers = [paper for name in nz.list_norms() for paper in re.findall(r"arXiv:(\S*[\w])", name.paper)]
    assert len(papers) > 30
    for paper in papers:
        assert re.fullmatch(
            r"(0[7-9]|1[0-4])(0[1-9]|1[0-2])\.\d{4}|(1[5-9]|2\d)(0[1-9]|1[0-2])\.\d{5}|[a-z-]+/\d{7}", paper
        ), paper


def test_links_of_the_readme_lead_to_files():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 160
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    assert len(links) > 10
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_numbers_of_the_readme_are_those_of_the_records(making):
    """Its table and the figures in its sentences: `python docs/making/readme.py` writes them."""
    text, readme = (ROOT / "README.md").read_text(encoding="utf-8"), making["readme"]
    assert readme.filled(text) == text
    for figure in ("58 training", "2.57 times", "57 %", "3.9 s", "61 norms behind", "jax 0.10.2", "| RMSNorm | 4 |"):
        if figure in text:  # as long as this is what the records say
            wrong = text.replace(figure, re.sub(r"\d", "7", figure).replace("jax 7.77.7", "jax 7"))
            assert wrong != text and readme.filled(wrong) == text, figure
    assert sum(f in text for f in ("training passes", "times as fast", "% of the speed", "norms behind")) == 4
    with pytest.raises(readme.Missing):
        readme.filled(text.replace("training passes", "passes"))


def test_rows_below_the_table_come_from_their_records(making, tmp_path, monkeypatch):
    """Each script writes its own form of JSON."""
    records = making["records"]
    about = {"machine": "M", "date": "D", "commit": "C", "versions": "V"}
    ways = {"eager": {"ms": 6.0, "quartiles": [1, 1, 1]}, "installed": {"ms": 4.0, "quartiles": [1.4, 1.5, 1.6]}}
    times = {"normzoo": 1.0, "torch": 3.0, "inductor": 2.0, "normzoo apart": 0.5, "floor": 0.1}
    written = {
        "fused.json": {"seconds": {"LayerNorm 8x8 residual forward": times, "LayerNorm 8x8 residual both": times}},
        "zoo.json": {"rows": {"dyt": {"forward": times | {"peak torch": 9}, "both": {"error": "none"}}}},
        "models.json": {"models": {"bert": {"b1": ways, "b8": ways, "train": ways}}},
        "peers.json": {"seconds": {"LayerNorm 8x8 forward": times, "LayerNorm 8x8 alone": {"normzoo": 1.0}}},
    }
    for name, record in written.items():
        (tmp_path / name).write_text(json.dumps({"about": about} | record))
    monkeypatch.setattr(records, "BENCHMARKS", tmp_path)
    records.peers.cache_clear()
    try:
        assert records.speed_table().splitlines()[2:] == [
            "| LayerNorm | 1 | 2.00 | 3.00 | - | - |",
            "| all of these | 1 | 2.00 | 3.00 | - | - |",
            "| before and behind | 2 | 2.00 | 3.00 | 2.00 | 3.00 |",
            "| the zoo | 1 | 2.00 | 3.00 | - | - |",
            "| whole models | 2 | 1.50 | 1.50 | 1.50 | 1.50 |",
        ]
        assert records.about_others().startswith(
            " The rows below these: before and behind `peers.py --fused`; the zoo "
        )
        (tmp_path / "fused.json").write_text(json.dumps({"about": about | {"date": "E"}} | written["fused.json"]))
        records.peers.cache_clear()
        assert "`peers.py --fused`, E; " in records.about_others()
        assert "PyTorch and compiled PyTorch" in records.listed(records.libraries(records.peers()[1]))
        page = making["pages"].Page(next(name for name in nz.list_norms() if name == "dyt"))
        assert page.times == 2 and "`python asv_benchmarks/zoo_peers.py`: M, D, commit C" in page.speed()
        assert page.speed().count('class="bar"') == 1
    finally:
        records.peers.cache_clear()


def test_tables_of_the_guides_come_from_their_records(making, tmp_path, monkeypatch):
    """Pages name them, so they are those of the records that are there; no page has a table of its own."""
    speed, records = making["speed"], making["records"]
    for guide in ("data", "images", "graphs"):
        page = (DOCS / "howto" / f"{guide}.md").read_text(encoding="utf-8")
        assert f"{{{{ about_{guide} }}}}" in page and f"{{{{ {guide}_table }}}}" in page
        assert not re.search(r"^\|.*\| \d+(\.\d+)?( ms| us)? \|", page, re.M), guide
    found = speed.substitutions()
    assert all(len(found[f"{guide}_table"].splitlines()) > 4 for guide in ("data", "images", "graphs"))
    for file, script in (
        ("data.json", "data_peers.py"),
        ("images.json", "image_peers.py"),
        ("zoo.json", "zoo_peers.py"),
    ):
        about = speed.record(file)["about"]
        assert speed.about(file).startswith(f"`python asv_benchmarks/{script} ") and about["commit"] in speed.about(
            file
        )
    about = {"machine": "M", "date": "D", "commit": "C", "versions": "V", "command": "python asv_benchmarks/x.py"}
    written = {
        "data.json": {
            "Standardizer float64 transform in place": {"normzoo": 0.02, "sklearn": 0.05, "floor": 0.0101},
            "QuantileClipper float32 fit": {"normzoo": 0.004, "floor": 0.01},
            "ObservationNorm float32 step": {"normzoo": 8e-6, "gymnasium": 2e-5},
        },
        "images.json": {"given": {"normzoo": 0.002, "numpy": 0.05, "albucore": 0.0032}, "min_max": {"normzoo": 0.004, "numpy": 0.01}},
    }  # fmt: skip
    for name, seconds in written.items():
        (tmp_path / name).write_text(json.dumps({"about": about, "seconds": seconds}))
    monkeypatch.setattr(records, "BENCHMARKS", tmp_path)
    assert speed.data_table().splitlines()[2:] == [
        "| Standardizer | float64 | transform in place | 20 ms | scikit-learn 50 ms | 2.5 | 10 ms |",
        "| QuantileClipper | float32 | fit | 4.0 ms | - | - | 10 ms |",
        "| ObservationNorm | float32 | step | 8 us | Gymnasium 20 us | 2.5 | - |",
    ]
    assert speed.images_table().splitlines() == [
        "| | normzoo, ms | x NumPy | x albucore |",
        "|---|---|---|---|",
        "| given | 2.0 | 25.0 | 1.6 |",
        "| min_max | 4.0 | 2.5 | - |",
    ]
    assert speed.about("data.json") == "`python asv_benchmarks/x.py`: M, D, commit C; V; medians."


def test_the_table_of_models_has_the_norms_alone_and_what_is_compiled(making, monkeypatch, tmp_path):
    records = making["records"]

    def way(ratio, norms=None):
        cell = {"ms": 2.0, "quartiles": [0, ratio, 9], "error": 1e-6}
        return cell | ({"norms": {"ms": 0.1, "quartiles": [0, norms, 9]}} if norms else {})

    first = {"eager": way(1, 1), "installed": way(2, 4), "compiled": way(3)}
    second = {"eager": way(1), "installed": way(8)}
    models = {name: dict.fromkeys(records.STEPS_OF_MODELS, ways) for name, ways in (("a", first), ("b", second))}
    (tmp_path / "models.json").write_text(json.dumps({"models": models}))
    monkeypatch.setattr(records, "BENCHMARKS", tmp_path)
    assert records.models_table().splitlines() == [
        "| model | PyTorch, ms | `install()` | `torch.compile` | norms alone, `install()` | error, PyTorch | error, ours |",
        "|---|---|---|---|---|---|---|",
        "| a | 2.0 / 2.0 / 2.0 | 2.00 / 2.00 / 2.00 | 3.00 / 3.00 / 3.00 | 4.00 / 4.00 / 4.00 | 1e-06 | 1e-06 |",
        "| b | 2.0 / 2.0 / 2.0 | 8.00 / 8.00 / 8.00 |  |  | 1e-06 | 1e-06 |",
        "| geometric mean | | 4.00 / 4.00 / 4.00 | 3.00 / 3.00 / 3.00 | 4.00 / 4.00 / 4.00 | | |",
    ]


def test_the_picture_of_the_readme_is_drawn_from_the_declarations(making):
    pages = making["pages"]
    picture = pages.families([pages.Page(name) for name in nz.list_norms()])
    assert (DOCS / "families.svg").read_text(encoding="utf-8") == picture, "build the docs, which draw it"


def test_the_files_of_the_ecosystem_agree_with_the_package():
    """Version and license of the citation; a changelog whose newest release is this version or the next."""
    cited = dict(re.findall(r"^(\w[\w-]*): (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M))
    assert cited["version"] == nz.__version__ and cited["license"] == "MIT"
    versions = re.findall(
        r"^## \[([\d.]+)\] - (?:\d{4}-\d\d-\d\d|Unreleased)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    )
    assert nz.__version__ in versions and versions == sorted(versions, reverse=True)


def test_versions_are_shown_and_norms_listed(capsys):
    from normzoo.__main__ import main  # noqa: PLC0415

    nz.show_versions()
    shown = capsys.readouterr().out
    assert f"normzoo: {nz.__version__}" in shown and "numba: " in shown and "python: " in shown
    main(["list", "--family", "whitening"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["decorrelated_batch_norm", "group_whitening", "iter_norm"]
    assert all("whitening" in line for line in lines)
    main(["list"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(nz.list_norms())
    assert all(line.split()[1:4] == ["layer", "cpu", "cuda"] for line in lines if line.startswith("layer_norm"))
    with pytest.raises(ValueError, match="expected family to be one of batch, .*got 'bath'"):
        nz.list_norms(family="bath")
    assert {name for family in {n.family for n in nz.list_norms()} for name in nz.list_norms(family)} == set(
        nz.list_norms()
    )
