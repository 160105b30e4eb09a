"""The dashboard in a real browser without a network; and each way that it can break is seen.

Needs asv, selenium, Chromium and its driver: pip install -e ".[dashboard]" and apt-get install chromium chromium-driver.
"""

import datetime
import importlib.util
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import site_check

FOLDER = site_check.FOLDER
ROOT = FOLDER.parent
RESULTS = FOLDER / "results"


def git(*arguments, folder=ROOT):
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def reason_to_skip():
    if importlib.util.find_spec("asv") is None:
        return 'asv is not installed: pip install -e ".[dashboard]"'
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return "the history of the commits is not here: clone the repository with git"
    if git("rev-parse", "--is-shallow-repository") == "true":
        return "this clone is shallow: git fetch --unshallow"
    return None


SKIP = reason_to_skip()
pytestmark = pytest.mark.skipif(SKIP is not None, reason=SKIP or "")


@pytest.fixture(scope="module")
def dashboard():
    return site_check.dashboard()


@pytest.fixture(scope="module")
def page():
    """The plugin and the page's modules, as asv imports them."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("offline"), importlib.import_module("page.history")
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def driver():
    binary, chromedriver = site_check.programs()
    if binary is None or chromedriver is None:
        pytest.skip("no browser to look with: apt-get install chromium chromium-driver")
    if importlib.util.find_spec("selenium") is None:
        pytest.skip('selenium is not installed: pip install -e ".[dashboard]"')
    with site_check.browser() as found:
        yield found


# Synthetic results of real commits

PASSES = ["LayerNorm forward", "LayerNorm backward"]
NEWER = "LayerNorm bfloat16 forward"  # only from the third commit on
TIMED = {  # name -> unit, parameters
    "kernels.track_cost": ("times a streaming loop", {"case": [*PASSES, NEWER]}),
    "overhead.time_thousand": ("seconds", {"call": ["LayerNorm (4, 64)", "backward of LayerNorm (4, 64)"]}),
    "start.track_import_over_numba": ("seconds", {}),
    "start.track_first_call_cached": ("seconds", {"kernel": ["serial", "parallel"]}),
    "start.track_first_call_uncached": ("seconds", {"kernel": ["serial", "parallel"]}),
    "scaling.track_threads": ("time on all threads over time on one", {"norm": ["LayerNorm"]}),
    "examples.track_epoch": ("seconds", {}),
}
COUNTED = {
    "counts.track_instructions": ("instructions a value", {"case": PASSES}),
    "counts.track_functions": ("Python functions", {"call": ["LayerNorm (4, 64)", "backward of LayerNorm (4, 64)"]}),
    "counts.track_peak": ("times the result", {"case": PASSES}),
    "accuracy.track_error": ("ulp", {"case": PASSES, "mean / std": [1.0, 1000.0, 1000000.0]}),
    "counts.track_code": ("bytes", {"kernel": ["serial"]}),  # not applicable here
}
PIN = "x86-64-v3"


def recorded_value(name, case, commit):
    if name == "counts.track_code" or (NEWER in str(case) and commit < 2):
        return math.nan
    return (1 + 0.1 * len(str(case))) * (2 if commit < 2 else 1)


def record(folder, change=recorded_value, machine="synthetic", commits=range(4), started=1, **versions):
    """Results as asv and record.py write them, of the last four commits of the library, of a machine or of a pin."""
    util, results, runner = (pytest.importorskip(f"asv.{name}") for name in ("util", "results", "runner"))
    about = {"machine": machine, "arch": "x86_64", "cpu": "none", "num_cpu": "2", "os": "Linux", "ram": "1"}
    benchmarks = {
        name: {
            "name": name, "unit": unit, "type": "track", "version": "1", "timeout": 60, "code": "",
            "params": [[repr(v) for v in values] for values in params.values()], "param_names": list(params),
        }
        for name, (unit, params) in (TIMED | COUNTED).items()
    }  # fmt: skip
    util.write_json(str(folder / "benchmarks.json"), benchmarks, 2)
    util.write_json(str(folder / machine / "machine.json"), about, 1)
    log = git("log", "-4", "--first-parent", "--reverse", "--format=%H %at", "--", "normzoo").splitlines()
    for number in commits:
        commit, date = log[number].split()
        found = results.Results(
            {**about, "python": "3.11", **versions}, {}, commit, int(date) * 1000, "3.11", f"none{versions}", {}
        )
        for name in COUNTED if machine == PIN else TIMED:
            values = [change(name, case, number) for case in itertools.product(*(TIMED | COUNTED)[name][1].values())]
            nothing = [None] * len(values)
            result = runner.BenchmarkResult(values, nothing, nothing, 0, "", None)
            at = datetime.datetime.fromtimestamp(1e9 + started, datetime.UTC)
            found.add_result(benchmarks[name], result, started_at=at, duration=1.0)
        found.save(str(folder))
    return folder


def record_both(folder, change=recorded_value):
    record(folder, change, PIN)
    return record(folder, change)


@pytest.fixture(scope="module")
def published(dashboard, tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    return dashboard.publish(folder / "site", record_both(folder / "results"))


@pytest.fixture
def site(published, tmp_path):
    """A copy, to be broken."""
    return Path(shutil.copytree(published, tmp_path / "site"))


def append(path, text):
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def replace(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def found_in(site, driver, *parts):
    return "\n".join(site_check.check(driver, site, 0.4, parts))


def graph_of(site, name):
    (path,) = (p for p in site.glob(f"graphs/**/{name}.json") if "summary" not in p.parts)
    return path


def states_of(site):
    status = json.loads((site / "status.json").read_text())
    return {
        name: [entry["state"] for entry in found] for part in status["series"] for name, found in part["states"].items()
    }


# The page


def test_the_recorded_history_shows(driver, dashboard, tmp_path):
    if not RESULTS.exists():
        pytest.skip("no results are recorded yet: python asv_benchmarks/record.py")
    assert site_check.check(driver, dashboard.publish(tmp_path / "site")) == []
    assert site_check.up_to_date(tmp_path / "site") == []


def test_a_whole_site_has_no_findings(driver, published):
    assert site_check.check(driver, published) == []


def test_what_is_newer_or_not_applicable_is_marked(published):
    states = states_of(published)
    assert states["kernels.track_cost"] == ["whole", "whole", "newer"]
    assert states["counts.track_code"] == ["not applicable"]
    text = (published / "index.html").read_text(encoding="utf-8")
    assert "1 newer left out" in text and "1 not applicable" in text


@pytest.mark.parametrize(
    "script", ["flot/jquery.flot.js", "jquery/jquery.min.js", "stupid-table-plugin/stupidtable.min.js"]
)
def test_a_removed_script_is_seen(site, driver, script):
    (site / "vendor" / script).unlink()
    assert "404" in found_in(site, driver, "graphs")


def test_a_blank_graph_is_seen(site, driver):
    """The plot library runs, and draws no line."""
    append(site / "vendor/flot/jquery.flot.js", "\nCanvasRenderingContext2D.prototype.stroke = function () {};\n")
    assert "asv.html#kernels.track_cost: the graph is blank" in found_in(site, driver, "graphs")


def test_a_graph_that_is_gone_is_seen(site, driver):
    graph_of(site, "examples.track_epoch").unlink()
    found = found_in(site, driver, "values", "graphs")
    assert "examples.track_epoch, case 0: no value at any commit" in found
    assert "asv.html#examples.track_epoch: the graph is blank" in found


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_missing_value_is_seen(site, at):
    path = graph_of(site, "kernels.track_cost")
    points = json.loads(path.read_text())
    points[at][1][0] = None
    path.write_text(json.dumps(points))
    (found,) = site_check.values(site)
    assert "kernels.track_cost, case 0: no value at" in found


def test_a_benchmark_that_failed_is_seen(dashboard, tmp_path):
    """From the results on: a null between values, and one that has no value at the latest commit."""

    def failing(name, case, commit):
        if (name, commit) == ("examples.track_epoch", 1) or (name, commit) == ("start.track_import_over_numba", 3):
            return None
        return recorded_value(name, case, commit)

    found = "\n".join(
        site_check.values(dashboard.publish(tmp_path / "site", record_both(tmp_path / "results", failing)))
    )
    assert "examples.track_epoch, case 0" in found and "start.track_import_over_numba, case 0" in found
    states = states_of(tmp_path / "site")
    assert states["examples.track_epoch"] == states["start.track_import_over_numba"] == ["missing"]


def test_a_plugin_that_is_off_is_seen(dashboard, driver, published, tmp_path, monkeypatch):
    text = dashboard.CONFIG.read_text()
    assert '"plugins": [".offline"]' in text
    config = tmp_path / dashboard.CONFIG.name
    config.write_text(text.replace('"plugins": [".offline"]', '"plugins": []'))
    monkeypatch.setattr(dashboard, "CONFIG", config)
    with pytest.raises(dashboard.Refusal, match="the plugin offline.py did not run"):
        dashboard.publish(tmp_path / "site", published.parent / "results")
    assert not (tmp_path / "site").exists()
    monkeypatch.setattr(dashboard, "check_after", lambda site: None)
    dashboard.publish(tmp_path / "site", published.parent / "results")
    found = found_in(tmp_path / "site", driver, "values", "front page", "graphs")
    assert "ERR_NAME_NOT_RESOLVED" in found and "no figure" in found


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ('<svg class="curve"', '<svg class="other"', "no figure of kind curve"),
        ('<path class="line" d="', '<path class="line" d="" old="', "is blank"),
        ("<main>", '<main><div style="width: 700px">wide</div>', "first page, dark, 360 px"),
        ("<main>", '<main><script src="gone.js"></script>', "404"),
        ('<dl class="tiles">', '<dl class="tiles"><dd>NaN</dd>', "says 'NaN'"),
        (
            "@media (prefers-color-scheme: dark)",
            "@media (prefers-color-scheme: sepia)",
            "first page, dark: its background",
        ),
    ],
)
def test_a_broken_first_page_is_seen(site, driver, old, new, finding):
    replace(site / "index.html", old, new)
    assert finding in found_in(site, driver, "front page")


def page_of(dashboard, tmp_path):
    return dashboard.publish(tmp_path / "site", tmp_path / "results") / "index.html"


def doubled(name, case, commit):
    return 2 * recorded_value(name, case, commit)


def spark(text, name):
    """The figure of a benchmark on the first page."""
    return text[text.index(f", {name}: ") :].split("</svg>")[0]


def test_another_machine_is_joined_over_a_commit_that_both_timed(dashboard, tmp_path):
    """Its ratios are drawn as value * new / anchor, behind a seam; its absolute times are not drawn."""
    record(tmp_path / "results", doubled, "old", range(3), started=1)
    record(tmp_path / "results", recorded_value, "new", range(2, 4), started=2)
    text = page_of(dashboard, tmp_path).read_text(encoding="utf-8")
    cost = spark(text, "kernels.track_cost")
    assert cost.count('class="mark older"') == 2 and cost.count('class="seam"') == 1
    values = [float(v) for v in re.findall(r"<title>[0-9a-f]{7} .*?: ([\d.]+) × a loop", cost)]
    assert len(values) == 4 and values[0] == pytest.approx(2 * values[3], rel=0.01)  # 4 on the old machine
    start = spark(text, "start.track_import_over_numba")
    assert 'class="mark older"' not in start and start.count("<circle") == 2
    assert "new (none): 2 of" in text and "old, python 3.11 (3 commits)" in text


def test_a_machine_without_an_anchor_is_left_out_and_said(dashboard, tmp_path):
    record(tmp_path / "results", doubled, "old", range(2), started=1)
    record(tmp_path / "results", recorded_value, "new", range(2, 4), started=2)
    text = page_of(dashboard, tmp_path).read_text(encoding="utf-8")
    assert "2 points of other machines without an anchor" in text
    assert spark(text, "kernels.track_cost").count("<circle") == 2


def test_an_anchor_that_was_repeated_gives_a_band(dashboard, tmp_path):
    record(tmp_path / "results", doubled, "old", range(3), started=1)
    record(tmp_path / "results", recorded_value, "new", range(2, 4), started=2)
    commit = git("log", "-4", "--first-parent", "--reverse", "--format=%H", "--", "normzoo").split()[2]
    cases = [[repr(v) for v in [*PASSES, NEWER]]]
    row = [[1.25 * recorded_value("kernels.track_cost", (case,), 2) for case in [*PASSES, NEWER]], cases]
    (tmp_path / "repeats" / "new").mkdir(parents=True)
    (tmp_path / "repeats" / "new" / f"{commit[:8]}-1.json").write_text(
        json.dumps({"commit_hash": commit, "results": {"kernels.track_cost": row}})
    )
    text = page_of(dashboard, tmp_path).read_text(encoding="utf-8")
    low, high = map(
        float, re.search(r"\(([\d.]+) × a loop to ([\d.]+) × a loop\)", spark(text, "kernels.track_cost")).groups()
    )
    assert high == pytest.approx(1.25 * low, rel=0.01) and 'class="band"' in text
    assert "within 25 %" in text


def test_another_compiler_starts_another_series(dashboard, tmp_path):
    """What is counted with it stands apart, and nothing is joined."""
    record(tmp_path / "results", doubled, PIN, range(3), started=1, numba="0.67.0")
    record(tmp_path / "results", recorded_value, PIN, range(2, 4), started=2, numba="0.68.1")
    text = spark(page_of(dashboard, tmp_path).read_text(encoding="utf-8"), "counts.track_instructions")
    assert text.count('class="seam"') == 1 and "numba 0.68.1 from here on" in text
    values = [float(v) for v in re.findall(r"<title>[0-9a-f]{7} .*?: ([\d.]+) a value", text)]
    assert len(values) == 4 and values[0] == pytest.approx(4 * values[3], rel=0.01)  # as it was counted
    assert text.count('class="line older"') == 1 and text.count('class="line"') == 1


def test_a_regression_is_open_until_a_reason_is_given(page, published):
    first, history = importlib.import_module("page"), page[1]
    part = history.History(
        [], {}, {"accuracy.track_error": {("LayerNorm forward", 1.0): [1.0]}}, {}, machine={"machine": PIN}
    )
    records = history.Records([part], [], [])
    case = "'LayerNorm forward', 1.0"
    found = [[f"accuracy.track_error({case})", "", {"machine": PIN}, 0, 3.0, 2.0, [[1, 2, 2.0, 3.0]]]]
    (line,), none = first.regressions(records, found, [])
    assert "+50 % (2.00 to 3.00), 1 step" in line and none == []
    reason = {"benchmark": "accuracy.track_error", "case": case, "commit": "abc1234", "reason": "float32 sums"}
    none, (line,) = first.regressions(records, found, [reason])
    assert none == [] and "since abc1234: float32 sums" in line
    found[0][2]["machine"] = "one of last year"
    assert first.regressions(records, found, []) == ([], [])


def test_a_stale_record_and_a_missing_peer_are_seen(published, site):
    assert site_check.up_to_date(published) == []
    status = json.loads((site / "status.json").read_text())
    for part in status["series"]:
        part["behind"] += 11
    status["peers"]["peers"]["names"].remove("torch")
    every = site_check.PEERS["fused"] - {"inductor"}
    status["peers"]["fused"] = {"names": sorted(every), "rounds": True}
    (site / "status.json").write_text(json.dumps(status))
    assert site_check.up_to_date(site) == [
        "the newest counted commit is 11 library commits behind HEAD", "peers: torch is missing", "fused: inductor is missing",
    ]  # fmt: skip


def test_a_benchmark_that_is_gone_is_named_as_retired(dashboard, tmp_path, monkeypatch):
    monkeypatch.setitem(TIMED, "kernels.time_gone", ("seconds", {}))
    record_both(tmp_path / "results")
    text = page_of(dashboard, tmp_path).read_text(encoding="utf-8")
    last = git("log", "-1", "--first-parent", "--format=%h", "--abbrev=7", "--", "normzoo")
    assert f"kernels.time_gone (last at {last})" in text
    assert "kernels.time_gone (retired)" in (tmp_path / "site" / "index.json").read_text(encoding="utf-8")


def test_each_norm_has_a_section(published):
    text = (published / "norms.html").read_text(encoding="utf-8")
    found = re.search(r'<section id="layer_norm">.*?</section>', text, re.S).group()
    assert "Cost of a pass" in found and "Instructions" in found and "LayerNorm 4x64 forward" in found
    assert {"batch_norm", "rms_norm", "group_norm", "instance_norm"} <= set(re.findall(r'<section id="(\w+)"', text))
    assert found.count('class="line"') >= 2 and 'href="norms.html"' in (published / "index.html").read_text(
        encoding="utf-8"
    )


def test_two_commits_are_compared(driver, dashboard, published):
    """The greatest change first; what is counted needs no noise, and a time that was measured once shows none."""
    server = dashboard.serve(published)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        driver.get(dashboard.address(server) + "compare.html")
        rows = [row.text for row in driver.find_elements("css selector", "#rows tr")]
        assert len(rows) > 8 and "−50.0 %" in rows[1] and "counted" in rows[1]
        assert "moved by more than their noise" in driver.find_element("id", "said").text
        driver.get("about:blank")
        sides = json.loads(re.search(r'id="data">(.*?)</script>', (published / "compare.html").read_text()).group(1))[
            "sides"
        ]
        timed = [i for i, side in enumerate(sides) if side["part"].startswith("synthetic")]
        driver.get(f"{dashboard.address(server)}compare.html#a={timed[-1]}&b={timed[0]}")
        rows = [row.text for row in driver.find_elements("css selector", "#rows tr")]
        assert "−50.0 %" in rows[1] and "measured once" in rows[1]
        assert site_check.severe(driver) == []
    finally:
        server.shutdown()
        server.server_close()


def test_links_lead_to_benchmarks(published):
    text = (published / "index.html").read_text(encoding="utf-8")
    index = json.loads((published / "index.json").read_text())
    led = set(re.findall(r'href="asv\.html#([\w.]+)', text))
    assert led and led <= index["benchmarks"].keys()
    assert "http" not in text.replace("https://", "http://").split("<body>")[1]
    assert 'href="index.html"' in (published / "asv.html").read_text(encoding="utf-8")


# Other libraries


def peer_record(tmp_path, seconds):
    """A record as peers.py writes it, of rounds that spread by a tenth."""
    peers = site_check.benchmark_module("peers")
    rounds = {cell: {name: [t, 1.1 * t, 0.9 * t] for name, t in row.items()} for cell, row in seconds.items()}
    about = {
        "machine": "none",
        "date": "2026-11-30",
        "commit": git("rev-parse", "--short", "HEAD"),
        "versions": "torch 1",
    }
    peers.write_record(str(tmp_path / "peers.json"), about, rounds)
    return json.loads((tmp_path / "peers.json").read_text())


def test_ratio_bars_have_a_spread_a_floor_and_a_table(page, tmp_path):
    bars = importlib.import_module("page.peers")
    row = {"normzoo": 2e-3, "torch": 8e-3, "inductor": 5e-3, "floor": 1e-3}
    slow = {"normzoo": 2e-3, "torch": 1e-3, "floor": 1e-3}
    record = peer_record(tmp_path, {"LayerNorm 64x64 forward": row, "LayerNorm 64x64 backward": slow})
    ratio = bars.ratio_of(record, "LayerNorm 64x64 forward")
    assert ratio.value == pytest.approx(2.5) and ratio.peer == "inductor" and ratio.floor == pytest.approx(5)
    assert bars.ratio_of(record, "LayerNorm 64x64 forward", "torch").value == pytest.approx(4)
    text = bars.sections({"peers": record}, lambda commit: 3)
    assert "LayerNorm (1)" in text and 'class="floor"' in text and "3 commits of the library behind" in text
    assert (
        "1 of 2 cells are slower than the fastest peer" in text and "LayerNorm 64x64 backward: 0.50 of PyTorch" in text
    )
    assert "<td>8.000</td>" in text and "PyTorch compiled" in text
    assert text.count('class="absent"') == 3 and "zoo_peers.py --json" in text


def test_models_are_bars_with_quartiles(page):
    bars = importlib.import_module("page.peers")
    way = {"eager": {"quartiles": [1, 1, 1]}, "converted": {"quartiles": [0.9, 1.2, 1.4]}}
    about = {"machine": "none", "date": "2026-11-30", "commit": "abc", "versions": "torch 1"}
    text = bars.sections(
        {"models": {"about": about, "models": {"llama": {"b1": way, "train": way}}}}, lambda commit: None
    )
    assert "llama b1" in text and text.count("quartiles 0.90 to 1.40") == 4 and "1.20" in text


# The plugin


def test_an_address_that_is_not_vendored_is_refused(page, tmp_path):
    offline, _ = page
    (tmp_path / "a.html").write_text(
        '<a href="https://b.org">a link</a><script src="https://b.org/new-9.js" integrity="x"></script>'
    )
    with pytest.raises(offline.UserError, match=r"a\.html of this asv loads https://b.org/new-9.js: vendor these"):
        offline.without_network(tmp_path)


def test_a_missing_vendored_file_is_refused(page, tmp_path):
    offline, _ = page
    vendor = shutil.copytree(offline.VENDOR, tmp_path / "vendor")
    (vendor / "bootstrap/bootstrap.min.css").unlink()
    with pytest.raises(offline.UserError, match=r"bootstrap.min.css, which is missing"):
        offline.without_network(tmp_path, vendor)


def test_every_vendored_package_has_its_licence(page):
    offline, _ = page
    folders = [path for path in offline.VENDOR.iterdir() if path.is_dir()]
    assert {path.name for path in folders} == {file.split("/")[0] for file in offline.SCRIPTS.values()}
    assert all("Permission is hereby granted" in (folder / "LICENSE.txt").read_text() for folder in folders)


NA = math.nan


@pytest.mark.parametrize(
    ("raw", "state"),
    [
        ([1.0, 2, 3.0], "whole"), ([NA, None, 3.0], "newer"), ([NA, NA, NA], "not applicable"), ([None, None, None], "missing"),
        ([1.0, NA, 3.0], "missing"), ([NA, 2.0, None], "missing"), ([NA, None, NA], "missing"),
    ],
)  # fmt: skip
def test_what_is_missing_has_one_name(page, raw, state):
    _, history = page
    assert history.state_of(raw) == state


# The command


def test_it_serves_this_machine_alone(dashboard, tmp_path):
    server = dashboard.serve(tmp_path)
    try:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(dashboard.Refusal, match="choose another with --port"):
            dashboard.serve(tmp_path, server.server_address[1])
    finally:
        server.server_close()


def test_nothing_to_show_is_refused(dashboard, tmp_path):
    with pytest.raises(dashboard.Refusal, match=r"no results in .*record\.py"):
        dashboard.publish(tmp_path / "site", tmp_path)


@pytest.mark.parametrize("named", ["", "src", "notes.txt"], ids=["a clone", "a folder of it", "a file"])
def test_what_is_no_site_is_not_written_over(dashboard, tmp_path, named):
    """asv removes the folder that it writes to, whatever is in it."""
    for folder in (".git", "src"):
        (tmp_path / "clone" / folder).mkdir(parents=True)
        (tmp_path / "clone" / folder / "work").write_text("of weeks")
    (tmp_path / "clone" / "notes.txt").write_text("")
    (tmp_path / "clone" / "index.html").write_text("a page of somebody else")
    with pytest.raises(dashboard.Refusal, match="name a .*folder with --html"):
        dashboard.publish(tmp_path / "clone" / named)
    assert (tmp_path / "clone" / ".git" / "work").read_text() == "of weeks"
    assert (tmp_path / "clone" / "index.html").read_text() == "a page of somebody else"


def test_a_site_is_written_anew_and_what_is_beside_it_stays(dashboard, site, published):
    (site / ".git").mkdir()
    (site / "CNAME").write_text("norms.example")
    (site / "graphs" / "old.json").write_text("[]")
    (site / "index.html").write_text("of last year")
    dashboard.publish(site, published.parent / "results")
    assert (site / ".git").is_dir() and (site / "CNAME").exists() and not (site / "graphs" / "old.json").exists()
    assert (site / "index.html").read_bytes() == (published / "index.html").read_bytes()


def test_a_folder_that_cannot_be_written_is_named(dashboard, published, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(dashboard.Refusal, match=r"site cannot be written .*name another folder with --html"):
        dashboard.put(published, tmp_path / "file" / "site")


@pytest.mark.parametrize("name", ["a commit", "machine.json", "benchmarks.json"])
@pytest.mark.parametrize(
    "harm", [lambda text: "<<<<<<< HEAD\n" + text, lambda text: text[: len(text) // 2], lambda text: "[]"],
    ids=["conflict", "half", "list"],
)  # fmt: skip
def test_a_broken_file_of_results_is_named(dashboard, published, tmp_path, name, harm):
    """asv leaves a commit out whose results it cannot read, and its graphs look as if it had never been measured."""
    results = Path(shutil.copytree(published.parent / "results", tmp_path / "results"))
    path = next(p for p in sorted(results.rglob("*.json")) if p.name == name or (name == "a commit" and "-" in p.name))
    path.write_text(harm(path.read_text()))
    with pytest.raises(dashboard.Refusal, match=rf"broken files.*{path.name} .*git checkout HEAD -- FILE"):
        dashboard.publish(tmp_path / "site", results)


def test_a_missing_asv_is_named(dashboard, tmp_path, monkeypatch):
    monkeypatch.setattr(dashboard.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(dashboard.Refusal, match="pip install asv"):
        dashboard.publish(tmp_path / "site")


@pytest.mark.parametrize("port", ["99999", "-1", "http"])
def test_a_port_that_cannot_be_is_refused_at_once(port, capsys, monkeypatch, dashboard):
    monkeypatch.setattr(sys, "argv", ["dashboard.py", f"--port={port}"])
    monkeypatch.setattr(dashboard, "publish", None)
    with pytest.raises(SystemExit):
        dashboard.main()
    assert "argument --port" in capsys.readouterr().err


def test_a_working_directory_that_is_gone(published, tmp_path):
    """It publishes to a place that is named in full, and says so of others."""
    code = "import os, runpy, sys; os.rmdir(os.getcwd()); runpy.run_path(sys.argv[0], run_name='__main__')"
    wanted = ["--publish-only", "--results", str(published.parent / "results"), "--html"]
    for html in (str(tmp_path / "site"), "site"):
        gone = tmp_path / "gone"
        gone.mkdir()
        start = f"import sys; sys.argv = {[str(FOLDER / 'dashboard.py'), *wanted, html]!r}; {code}"
        done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, cwd=gone, check=False)
        if html == "site":
            assert done.returncode == 2 and "write the whole path" in done.stderr
        else:
            assert done.returncode == 0, done.stderr
            assert (tmp_path / "site" / "index.html").exists()


def test_a_shallow_clone_is_refused(tmp_path):
    git("clone", "-q", "--depth", "1", ROOT.as_uri(), str(tmp_path / "clone"))
    benchmarks = tmp_path / "clone" / "asv_benchmarks"
    shutil.copy(FOLDER / "dashboard.py", benchmarks)
    done = subprocess.run(
        [sys.executable, str(benchmarks / "dashboard.py"), "--publish-only"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": ""},
        check=False,
    )
    assert done.returncode == 1 and "git fetch --unshallow" in done.stderr


def test_a_fresh_clone_shows_it_without_the_library(published, tmp_path):
    """Only asv and the standard library are imported, and the site is the same."""
    code = (
        "import runpy, sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('numba', 'normzoo', 'numpy', 'matplotlib'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        f"sys.argv = ['dashboard.py', '--publish-only', '--results', {str(published.parent / 'results')!r}, '--html', {str(tmp_path / 'site')!r}]\n"
        f"runpy.run_path({str(FOLDER / 'dashboard.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/index.html").read_bytes() == (published / "index.html").read_bytes()
