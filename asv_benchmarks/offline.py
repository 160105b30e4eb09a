"""asv plugin: the published site works without a network and opens with a page of our own.

asv's pages load their scripts from content networks. After `asv publish` this copies the scripts in `vendor/` into the
site and points the pages at them. asv's first page becomes `asv.html`, and `index.html` is the summary of `page/`.
"""

import re
import shutil
from pathlib import Path

# asv takes this folder off the path once the plugin is imported.
import page
from asv.benchmarks import Benchmarks
from asv.commands.publish import Publish
from asv.util import UserError
from page import history

VENDOR = Path(__file__).parent / "vendor"

# How the address that asv writes ends, with its version: another version of asv may ask for others.
SCRIPTS = {
    "/jquery-3.3.1.min.js": "jquery/jquery.min.js",
    "/flot/0.8.3/jquery.flot.min.js": "flot/jquery.flot.js",
    "/flot/0.8.3/jquery.flot.time.min.js": "flot/jquery.flot.time.js",
    "/flot/0.8.3/jquery.flot.selection.min.js": "flot/jquery.flot.selection.js",
    "/flot/0.8.3/jquery.flot.categories.min.js": "flot/jquery.flot.categories.js",
    "/flot-orderbars@1.0.0/js/jquery.flot.orderBars.js": "flot-orderbars/jquery.flot.orderBars.js",
    "/stupidtable/1.0.1/stupidtable.min.js": "stupid-table-plugin/stupidtable.min.js",
    "/blueimp-md5/2.19.0/js/md5.min.js": "blueimp-md5/md5.min.js",
    "/bootstrap@3.1.1/dist/js/bootstrap.min.js": "bootstrap/bootstrap.min.js",
    "/bootstrap@3.1.1/dist/css/bootstrap.min.css": "bootstrap/bootstrap.min.css",
}

LOADS = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*>")
ADDRESS = re.compile(r"""\b(src|href)\s*=\s*["']((?:https?:)?//[^"']*)["']""")
DIGEST = re.compile(r"""\s+(?:integrity|crossorigin|referrerpolicy)\s*=\s*["'][^"']*["']""")


def local(tag: re.Match) -> str:
    """The tag, with the vendored file in place of an address."""
    found = ADDRESS.search(tag[0])
    if found is None:
        return tag[0]
    for ending, file in SCRIPTS.items():
        if found[2].endswith(ending):
            return DIGEST.sub("", tag[0].replace(found[2], f"vendor/{file}"))
    return tag[0]


def outside(html: str) -> list[str]:
    """Addresses of other hosts that the page loads; what a reader may click does not count."""
    return [found[2] for tag in LOADS.findall(html) if (found := ADDRESS.search(tag))]


def without_network(site: Path, vendor: Path = VENDOR) -> None:
    """Copy the scripts into the site and let its pages load them from there."""
    for file in SCRIPTS.values():
        if not (vendor / file).is_file():
            raise UserError(f"asv's pages need {vendor / file}, which is missing: see {vendor / 'README.md'}")
    shutil.copytree(vendor, site / "vendor", dirs_exist_ok=True)
    for path in sorted(site.glob("*.html")):
        html = LOADS.sub(local, path.read_text(encoding="utf-8"))
        if left := outside(html):
            raise UserError(
                f"{path.name} of this asv loads {', '.join(left)}: vendor these files too and name them in {Path(__file__).name}"
            )
        path.write_text(html, encoding="utf-8")


def make_room(site: Path) -> None:
    """asv's first page becomes asv.html, with a way back. All its routes follow a `#` and are relative."""
    html = (site / "index.html").read_text(encoding="utf-8")
    grid = '<li id="nav-li-" class="active">'
    if grid not in html:
        raise UserError("asv's index.html has changed: there is no menu to put the link to the summary into")
    (site / "asv.html").write_text(
        html.replace(grid, f'<li><a href="index.html">Summary</a></li>\n\t{grid}'), encoding="utf-8"
    )
    (site / "index.html").unlink()
    feed = site / "regressions.xml"  # its links lead to asv's graphs
    if feed.exists():
        feed.write_text(feed.read_text(encoding="utf-8").replace("index.html#", "asv.html#"), encoding="utf-8")


def name_retired() -> None:
    """What the suites have no longer is called so on asv's pages, too."""
    load = Benchmarks.load

    def named(conf):
        found = load(conf)
        there = history.declared(Path(conf.benchmark_dir))
        for name in found.keys() - there:
            found[name] = found[name] | {"pretty_name": f"{name} (retired)"}
        return found

    Benchmarks.load = staticmethod(named)


def setup() -> None:
    """asv calls this once it has loaded the plugin."""
    name_retired()
    run = Publish.run

    def publish(conf, range_spec=None, pull=True):
        status = run(conf=conf, range_spec=range_spec, pull=pull)
        site = Path(conf.html_dir)
        without_network(site)
        make_room(site)
        page.write(conf, site)
        return status

    Publish.run = staticmethod(publish)
