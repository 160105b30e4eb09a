"""Looks at a published dashboard in a real browser without a network, and says what is wrong with it."""

import contextlib
import importlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

FOLDER = Path(__file__).parent.parent / "asv_benchmarks"
WIDTHS = (360, 1280)
TORCH = {"normzoo", "torch", "torch kept", "inductor", "floor"}
PEERS = {  # of a record, those that must be there
    "peers": TORCH | {"normzoo out=", "onednn", "jax", "onnxruntime", "openvino"},
    "fused": TORCH | {"normzoo out=", "normzoo apart", "jax"},
    "zoo": TORCH,
}
BEFORE_ROUNDS = {"normzoo", "torch", "jax", "onnxruntime", "floor"}  # of a record that has no rounds yet

# Pixels of the largest canvas that are not of its most frequent colour: 0 where a graph is blank.
PAINTED = """
const canvases = [...document.querySelectorAll('#main-graph canvas.flot-base')];
if (!canvases.length) return -1;
const canvas = canvases[0], data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
const seen = new Map();
for (let i = 0; i < data.length; i += 4) {
    const key = data[i] + ',' + data[i + 1] + ',' + data[i + 2] + ',' + (data[i + 3] > 32);
    if (data[i + 3] > 32) seen.set(key, (seen.get(key) || 0) + 1);
}
let colored = 0;  // the grid is grey or black; asv's lines have colours, but for one grey
for (const [key, count] of seen) {
    const [r, g, b] = key.split(',').map(Number);
    if (Math.max(r, g, b) - Math.min(r, g, b) > 24) colored += count;
}
return colored;
"""
# What the page says, without the subjects of commits, which may say anything; and where its figures are drawn.
SHOWN = """
const places = [...document.querySelectorAll('svg *')].flatMap(e => [...e.attributes].map(a => a.value));
return [...document.querySelectorAll('dt, dd, .value, svg text')].map(e => e.textContent).concat(places).join(' ');
"""
FIGURES = """
return [...document.querySelectorAll('svg')].map(svg => ({
    title: (svg.querySelector('title') || {}).textContent || '', width: svg.getBoundingClientRect().width,
    shapes: svg.querySelectorAll('path, rect, circle, text').length,
    drawn: [...svg.querySelectorAll(svg.matches('.spark, .curve') ? 'path.line' : 'rect, text')].some(
        e => e.tagName !== 'path' || (e.getAttribute('d') || '').length > 4),
}))
"""


def dashboard():
    return benchmark_module("dashboard")


def benchmark_module(name: str):
    """One of asv_benchmarks, which is no package."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


def programs() -> tuple[str | None, str | None]:
    """Chromium and its driver: where Debian puts them, or on the path."""
    return (
        shutil.which("/usr/bin/chromium") or shutil.which("chromium") or shutil.which("google-chrome"),
        shutil.which("/usr/bin/chromedriver") or shutil.which("chromedriver"),
    )


@contextlib.contextmanager
def browser() -> Iterator:
    """Headless, and every host but this machine is unknown to it."""
    webdriver = importlib.import_module("selenium.webdriver")  # not installed everywhere

    binary, driver = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        found.set_page_load_timeout(30)
        found.implicitly_wait(0)
        yield found
    finally:
        found.quit()


def wait(condition, seconds: float):
    """The condition's first true answer, or its last."""
    end = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return answer


def severe(driver) -> list[str]:
    """Errors in the console, each once. asv asks for the graph of every machine with every benchmark, and takes it well
    that counts have none on a machine, nor times on a pin: a graph that should be there is missed by `graphs`."""
    found = [e["message"].split("?timestamp")[0] for e in driver.get_log("browser") if e["level"] == "SEVERE"]
    return list(dict.fromkeys(message for message in found if "/graphs/" not in message))


def published(site: Path, name: str) -> dict:
    """What the plugin says of the site, or nothing where it did not run."""
    path = site / "status.json"
    return json.loads(path.read_text())[name] if path.exists() else []


def graph_of(site: Path, name: str, machine: str, versions: dict[str, str]) -> dict[str, object]:
    """Revision -> values of asv's graph of a benchmark, of one machine and one set of versions."""
    for path in site.glob(f"graphs/**/{name}.json"):
        parts = set(path.parts)
        wanted = [f"{key}-{value}" for key, value in versions.items() if any(p.startswith(f"{key}-") for p in parts)]
        if f"machine-{machine}" in parts and parts.issuperset(wanted):
            return {str(revision): value for revision, value in json.loads(path.read_text())}
    return {}


def values(site: Path) -> list[str]:
    """Every benchmark of a series has a value at every commit of it, but for the oldest where it is newer; out of asv's
    own graphs."""
    index = json.loads((site / "index.json").read_text())
    revisions = {commit: revision for revision, commit in index["revision_to_hash"].items()}
    series = published(site, "series")
    wrong = [] if series else ["no series has a value"]
    for part in series:
        for name, states in part["states"].items():
            graph = graph_of(site, name, part["machine"], part["versions"])
            for case, state in enumerate(states):
                row = []
                for commit in part["commits"]:
                    value = graph.get(revisions.get(commit, ""))
                    row.append((commit[:8], value[case] if isinstance(value, list) else value))
                if all(value is None for _, value in row):
                    if state["state"] != "not applicable":
                        wrong.append(f"{name}, case {case}: no value at any commit")
                    continue
                while row[0][1] is None:  # newer than these
                    row.pop(0)
                wrong += [f"{name}, case {case}: no value at {commit}" for commit, value in row if value is None]
    return wrong


def up_to_date(site: Path, least: int = 10) -> list[str]:
    """What was counted is at most so many commits of the library behind HEAD, and no peer is missing."""
    wrong = []
    late = [part["behind"] for part in published(site, "series") if part["counted"]]
    if not late or min(late) > least:
        wrong.append(f"the newest counted commit is {min(late, default='infinitely many')} library commits behind HEAD")
    for record, about in dict(published(site, "peers") or {}).items():
        wanted = PEERS.get(record, set()) if about["rounds"] else BEFORE_ROUNDS
        wrong += [f"{record}: {name} is missing" for name in sorted(wanted - set(about["names"]))]
    return wrong


def front_page(driver, url: str) -> list[str]:
    """The summary has its figures, in light and dark, and fits a phone."""
    wrong = []
    for scheme in ("light", "dark"):
        for width in WIDTHS:
            size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            driver.execute_cdp_cmd(
                "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            )
            driver.get(url)
            wide = driver.execute_script("return document.documentElement.scrollWidth")
            if wide > width:
                wrong.append(f"first page, {scheme}, {width} px: {wide} px wide")
            back = driver.execute_script(
                "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
            )
            if (sum(back) > 384) != (scheme == "light"):
                wrong.append(f"first page, {scheme}: its background is {back}")
    text = driver.execute_script(SHOWN)
    wrong += [f"first page: says {word!r}" for word in ("NaN", "undefined", "None") if word in text]
    figures = driver.execute_script(FIGURES)
    counts = {kind: len(driver.find_elements("css selector", f"svg.{kind}")) for kind in ("bar", "curve", "spark")}
    wrong += [f"first page: no figure of kind {kind}" for kind, count in counts.items() if not count]
    wrong += [
        f"first page: figure {f['title']!r} is blank"
        for f in figures
        if not (f["title"] and f["width"] > 40 and f["shapes"] and f["drawn"])
    ]
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    wrong += [f"first page: {message}" for message in severe(driver)]
    return wrong


def graphs(driver, url: str, site: Path, patience: float) -> list[str]:
    """asv's pages load and every benchmark draws its values."""
    index = json.loads((site / "index.json").read_text())
    page = "asv.html" if (site / "asv.html").exists() else "index.html"
    wrong = []
    driver.get(f"{url}{page}")
    ready = "return !!(window.jQuery && jQuery.asv && jQuery.asv.main_json && jQuery.asv.main_json.benchmarks)"
    if not wait(lambda: driver.execute_script(ready), max(patience, 2)):
        return [f"{page} did not start", *(f"{page}: {message}" for message in severe(driver))]
    shown = {
        "": "#summarygrid-display canvas",
        "/summarylist": "#summarylist-body table tbody tr",
        "/regressions": "#regressions-body table",
    }
    for route, wanted in shown.items():
        driver.execute_script("window.location.hash = arguments[0]", f"#{route}")
        if not wait(lambda wanted=wanted: driver.find_elements("css selector", wanted), patience):
            wrong.append(f"{page}#{route}: shows no {wanted.split()[-1]}")
    drawn = {path.stem for path in site.glob("graphs/**/*.json") if path.stat().st_size > 4}
    for name in index["benchmarks"]:
        states = [entry["state"] for part in published(site, "series") for entry in part["states"].get(name, [])]
        if all(state == "not applicable" for state in states):  # or of no series: the suites have it, no record does
            continue
        if name not in drawn:  # not worth the wait
            wrong.append(f"{page}#{name}: the graph is blank")
            continue
        driver.execute_script("jQuery('#main-graph').empty(); window.location.hash = arguments[0]", "#" + quote(name))
        title = "return jQuery('#title').text() === arguments[0]"
        painted = wait(
            lambda name=name, title=title: (
                driver.execute_script(title, name) and max(0, driver.execute_script(PAINTED))
            ),
            patience,
        )
        if not painted:
            wrong.append(f"{page}#{name}: the graph is blank")
        if driver.execute_script("return jQuery('#error').is(':visible')"):
            wrong.append(
                f"{page}#{name}: says {driver.execute_script('return jQuery(arguments[0]).text()', '#error-message')!r}"
            )
            driver.get("about:blank")  # its dialogue stays open
            driver.get(f"{url}{page}")
            wait(lambda: driver.execute_script(ready), max(patience, 2))
    wrong += [f"{page}: {message}" for message in severe(driver)]
    return wrong


def check(
    driver, site: Path, patience: float = 5.0, parts: tuple[str, ...] = ("values", "front page", "graphs")
) -> list[str]:
    """All that is wrong with the site; patience is how many seconds a graph may take."""
    module = dashboard()
    server = module.serve(site)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        driver.get("about:blank")
        severe(driver)  # of the site before
        url = module.address(server)
        wrong = values(site) if "values" in parts else []
        wrong += front_page(driver, url) if "front page" in parts else []
        wrong += graphs(driver, url, site, patience) if "graphs" in parts else []
        return wrong
    finally:
        driver.get("about:blank")
        server.shutdown()
        thread.join()
        server.server_close()
