"""The reference: built from the docstrings without a warning, read in a browser without a network."""

import importlib.util
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

import normzoo as nz
from normzoo.exchange import registry
from normzoo.reference.docstrings import markdown
from normzoo.reference.mathml import paragraph
from tests import site_check


def text_of(html):
    return "".join(ElementTree.fromstring(f"<p>{html}</p>").itertext()).replace("\u2061", "")


def test_formulas_are_set_and_the_rest_stays():
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
    ]:
        html = paragraph(source)
        assert "<math" in html and text_of(html) == shown
    for plain in ("no formula", "x", "lambda: 0", "a if b else c", "f(x, y=1)", "eps I", "x is y", "sum over (m, n)"):
        assert "<math" not in paragraph(plain), plain
    assert paragraph("all of & `c < d`, no") == "all of &amp; <code>c &lt; d</code>, no"


def test_markdown_of_a_docstring():
    text = markdown(
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


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    if importlib.util.find_spec("pdoc") is None:
        pytest.skip('pdoc is not installed: pip install -e ".[reference]"')
    out = tmp_path_factory.mktemp("reference")
    command = [sys.executable, "-W", "error", "-m", "normzoo", "reference", "--out", str(out)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True)
    assert printed.stderr == "" and "12 files written; open" in printed.stdout
    return out


def test_everything_public_is_there(pages):
    text = (pages / "normzoo.html").read_text()
    for name in nz.__all__:
        assert f'id="{name}"' in text or [*pages.rglob(f"{name}.html")], name
    for norm in nz.list_norms():
        name = next(n for n in nz.__all__ if registry.name_of(type(n, (), {})) == norm)
        section = text.split(f'id="{name}"')[1].split('<div class="docstring">')[1].split(">Shapes<")[0]
        assert 'class="formula"' in section and ("<math" in section or name in ("SyncBatchNorm",)), name
        made = next(c.__name__ for c in getattr(nz, name).__mro__ if "__init__" in vars(c))
        assert f'id="{made}.__init__"' in text, f"how to make a {name}"


def test_types_read_as_they_are_written(pages):
    for path in [*pages.rglob("*.html"), pages / "search.js"]:
        text = re.sub("<[^>]*>", "", path.read_text())
        assert "numpy.ndarray[" not in text and "typing.Any" not in text and "numpy.float32'" not in text, path.name


def test_no_page_needs_a_network(pages):
    for path in pages.rglob("*.html"):
        text = path.read_text()
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]*\ssrc=\"([^\"]*)|<link[^>]*href=\"([^\"]*)|@import[^;]*|url\(['\"]?(http[^)]*)",
            text,
        )
        assert not [address for found in loaded for address in found if address.startswith(("http", "//"))], path.name


def test_pages_in_a_browser(pages, tmp_path):
    binary, chromedriver = site_check.programs()
    if binary is None or chromedriver is None or importlib.util.find_spec("selenium") is None:
        pytest.skip('no browser to look with: apt-get install chromium chromium-driver; pip install -e ".[reference]"')
    with site_check.browser() as driver:
        for path in sorted(pages.rglob("*.html")):
            for width in (360, 1280):
                size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
                driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                driver.get(path.as_uri())
                assert site_check.severe(driver) == [], path.name
                wide = driver.execute_script("return document.documentElement.scrollWidth")
                assert wide <= width, f"{path.name} is {wide} px wide on {width}"
        driver.get((pages / "normzoo.html").as_uri())
        site_check.wait(lambda: driver.execute_script("return document.readyState") == "complete", 20)
        drawn = driver.execute_script(
            "return [...document.querySelectorAll('math')].map(m => [m.getBoundingClientRect().width, m.getBoundingClientRect().height])"
        )
        assert len(drawn) > 100 and all(w > 3 and h > 5 for w, h in drawn)
        flat, tall = driver.execute_script(
            "const h = id => document.getElementById(id).querySelector('.formula math').getBoundingClientRect().height;"
            "return [h('LayerScale'), h('BatchNorm')]"
        )
        assert tall > 1.3 * flat, "a fraction is set as one"
        driver.find_element("css selector", "input[type=search]").send_keys("group_norm")
        found = site_check.wait(lambda: driver.find_elements("css selector", ".search-result"), 20)
        assert found, "the search finds nothing"
        assert driver.save_screenshot(str(tmp_path / "reference.png"))


def test_without_pdoc_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    from normzoo.__main__ import main  # noqa: PLC0415
    from normzoo.extras import to_install  # noqa: PLC0415

    monkeypatch.setitem(sys.modules, "pdoc", None)
    monkeypatch.setitem(sys.modules, "pdoc.doc", None)
    with pytest.raises(SystemExit, match="2"):
        main(["reference", "--out", str(tmp_path)])
    assert to_install("reference") in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_page_of_somebody_else_is_not_written_over(tmp_path):
    pytest.importorskip("pdoc")
    from normzoo.reference.pages import build  # noqa: PLC0415

    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(ValueError, match="index.html; choose another --out"):
        build(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["index.html"] and (tmp_path / "index.html").read_text() == "mine"
