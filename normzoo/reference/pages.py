"""Pages of the reference, made by pdoc: one for each public module and for the modules that users read."""

import inspect
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from normzoo.extras import to_install
from normzoo.reference.docstrings import markdown

MODULES = (
    "normzoo",
    "normzoo.functional",
    "normzoo.exchange.fold",
    "normzoo.exchange.dialects",
    "normzoo.exchange.counterparts",
    "normzoo.norm",
    "normzoo.passes.saved",
    "normzoo.selection.selected",
    "normzoo.passes.view",
    "normzoo.backends.contract",
)
INDEX, SEARCH = "index.html", "search.js"
CSS = """
.formula { margin: 0.6em 0; padding: 0.5em 1em; border-left: 3px solid #4a7fb5; }
.formula { background: rgba(74, 127, 181, 0.08); overflow-x: auto; }
.formula p { margin: 0.3em 0; line-height: 2.1; }
.formula math { font-size: 1.1em; }
.pdoc .docstring table { font-size: 0.9em; display: block; overflow-x: auto; }
.pdoc .docstring { overflow-wrap: anywhere; }
.pdoc .docstring :is(table, pre) { overflow-wrap: normal; }
html, main { scroll-behavior: auto; }
"""
# Types as pdoc shows them, with the highlighter's tags around every token, and a more readable form of each.
_ANY = r'<span class="n">typing</span><span class="o">.</span><span class="n">Any</span>'
TYPES = [
    (
        r'<span class="n">numpy</span><span class="o">\.</span><span class="n">ndarray</span><span class="p">\[</span>'
        rf'{_ANY}<span class="p">,</span> {_ANY}<span class="p">\]([^<]*)</span>',
        r'<span class="n">Array</span><span class="p">\1</span>',
    ),
    (_ANY, '<span class="n">Any</span>'),
    (r"numpy\.ndarray\[typing\.Any, typing\.Any\]", "Array"),
    (r"typing\.Any", "Any"),
    (r"&lt;class &#x27;numpy\.float32&#x27;&gt;", "np.float32"),
]


def build(out: Path) -> list[Path]:
    """Write the pages into the folder `out`, which is created; `index.html` leads to them. No page needs a network.

    Raises:
        ImportError: pdoc is not installed. ValueError: `out` has files of these names that are not such pages.
        RuntimeError: Python runs without docstrings.
    """
    if sys.flags.optimize > 1:
        raise RuntimeError("reference: expected docstrings, which python -OO removes; write python without -OO")
    others = [out / name for name in (INDEX, SEARCH, "normzoo.html") if (out / name).exists()]
    if others and not all((out / f"{name.replace('.', '/')}.html").exists() for name in MODULES):
        raise ValueError(
            "reference: expected a new or an empty folder, or one of these pages, found "
            f"{others[0]}; choose another --out"
        )
    try:
        import pdoc.doc  # noqa: PLC0415
        import pdoc.render  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(f"reference: expected pdoc to be installed; write {to_install('reference')}") from error
    modules = {name: pdoc.doc.Module.from_name(name) for name in MODULES}
    for module in modules.values():
        _rewrite(module)
    with tempfile.TemporaryDirectory() as templates:
        Path(templates, "custom.css").write_text(CSS, encoding="utf-8")
        pdoc.render.configure(
            docformat="markdown",
            template_directory=Path(templates),
            show_source=False,
            include_undocumented=False,
            footer_text="normzoo",
        )
        pages = {
            f"{name.replace('.', '/')}.html": _page(pdoc.render.html_module(m, modules)) for name, m in modules.items()
        }
        pages[SEARCH] = _page(pdoc.render.search_index(modules), quote=r'\\"')
        pages[INDEX] = pdoc.render.html_index(modules)
    for name, text in pages.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [out / name for name in pages]


def _page(text: str, quote: str = '"') -> str:
    """A page with more readable types; in the search index, quotes are escaped."""
    for shown, better in TYPES:
        text = re.sub(shown.replace('"', quote), better.replace('"', quote), text)
    return text


def _rewrite(doc: Any) -> None:
    """Convert the docstrings of a module or class, and of all its members, to Markdown."""
    text, own = doc.docstring, getattr(doc.obj, "__doc__", None)
    if doc.name == "__init__" and (not own or own.startswith("Create new instance of")):
        doc.docstring = "@public"  # public, but without the inherited docstring: that of the class says everything
    else:
        doc.docstring = "" if text.startswith("Alias for field number") else markdown(inspect.cleandoc(text))
    for member in getattr(doc, "members", {}).values():
        _rewrite(member)
