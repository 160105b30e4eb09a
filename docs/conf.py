"""Sphinx: `python -m sphinx -W -b html docs docs/_build`, without a network. MyST reads the pages, which are Markdown;
furo shows them; `making/` writes those of the zoo, the reference and the examples before."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from making import pages, records, speed  # noqa: E402

import normzoo  # noqa: E402

pages.write()

project = "normzoo"
author = "normzoo developers"
project_copyright = author
release = version = normzoo.__version__
extensions = ["myst_parser", "sphinx_copybutton", "sphinx_design"]
myst_enable_extensions = ["colon_fence", "substitution", "deflist", "attrs_inline"]
myst_heading_anchors = 3
myst_substitutions = records.substitutions() | speed.substitutions()
exclude_patterns = ["_build", "making", "generated_static"]
nitpicky = False
suppress_warnings = ["toc.empty_glob", "config.cache", "myst.header"]
add_module_names = False
toc_object_entries = False
python_maximum_signature_line_length = 90
html_theme = "furo"
html_title = f"normzoo {version}"
html_static_path = ["_static", "generated_static"]
html_css_files = ["normzoo.css"]
html_js_files = ["gallery.js"]
html_show_sourcelink = False
html_copy_source = False
html_show_search_summary = False  # pages that are opened as files cannot fetch one another
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
linkcheck_timeout = 20
