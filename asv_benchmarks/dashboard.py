"""The dashboard: publishes the recorded results as a site and serves it on this machine.

    pip install asv && python asv_benchmarks/dashboard.py [--port N] [--no-browser | --publish-only] [--screenshot FILE]

Needs git, asv and nothing else: no network, no build, no installed normzoo. The site goes to asv_benchmarks/html/, or
to the folder of --html, which must be empty, new, or hold such a site: only that is written over.
"""

import argparse
import functools
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import webbrowser
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CONFIG = FOLDER / "asv.conf.json"
PEERS = [FOLDER / f"{name}.json" for name in ("peers", "fused", "zoo", "models", "acknowledged")]
OURS = (
    "index.html",
    "asv.html",
    "compare.html",
    "norms.html",
    "status.json",
    "index.json",
)  # by these a site is known as one
BROWSERS = ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")


class Refusal(Exception):
    """What is wrong, and what to do."""


def git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=FOLDER, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise Refusal("git is not installed: the order of the commits comes from it") from None
    except subprocess.CalledProcessError as error:
        raise Refusal(
            f"the order of the commits comes from git, which says of {FOLDER}: {error.stderr.strip()}"
        ) from None
    return done.stdout.strip()


def check_before(results: Path) -> None:
    """An asv that lacks commits or results publishes an empty site and calls it a success."""
    if importlib.util.find_spec("asv") is None:
        raise Refusal("asv is not installed: pip install asv")
    if git("rev-parse", "--is-shallow-repository") == "true":
        raise Refusal("this clone is shallow and lacks the commits that were measured: git fetch --unshallow")
    recorded = [path for path in results.glob("*/*.json") if path.name != "machine.json"]
    if not recorded or not (results / "benchmarks.json").exists():
        raise Refusal(f"no results in {results}: fetch them, or record some with python asv_benchmarks/record.py")
    broken = [*filter(None, map(fault_of, [*sorted(results.glob("**/*.json")), *PEERS]))]
    if broken:
        raise Refusal(
            f"broken files, which asv would leave out: {'; '.join(broken)}. Restore them: git checkout HEAD -- FILE"
        )


def fault_of(path: Path) -> str | None:
    """What is wrong with a file of results: a conflict of a merge, or one cut short. asv warns, and goes on without."""
    from asv.results import Results
    from asv.util import UserError

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, list if path.stem == "acknowledged" else dict):
            return f"{path} (not what it should hold)"
        if path.name not in ("machine.json", "benchmarks.json") and path not in PEERS:
            Results.load(str(path), machine_name=path.parent.name)
    except FileNotFoundError:
        return None  # the page does without comparisons
    except (OSError, ValueError, UserError) as error:  # json's, and those of characters, are ValueErrors
        return f"{path} ({error})"
    return None


def check_after(site: Path) -> None:
    """What asv published has graphs of commits, and our page in front."""
    index = json.loads((site / "index.json").read_text(encoding="utf-8"))
    graphs = [path for path in site.glob("graphs/**/*.json") if "summary" not in path.parts and path.stem != "summary"]
    if not index["revision_to_hash"] or not any(json.loads(path.read_text(encoding="utf-8")) for path in graphs):
        raise Refusal(
            "asv published a site without values: this clone may lack the commits measured (git fetch --all), or record some with record.py"
        )
    if not (site / "asv.html").exists() or not (site / "status.json").exists():
        raise Refusal(f"the plugin offline.py did not run: {CONFIG.name} must name it under plugins")


def check_place(site: Path) -> None:
    """The site goes where nothing else is: into a folder that is new, empty, or has a site of ours."""
    if site.exists() and not site.is_dir():
        raise Refusal(f"{site} is a file: name a folder with --html")
    if site.is_dir() and any(site.iterdir()) and not all((site / name).is_file() for name in OURS):
        raise Refusal(f"{site} holds other things than a dashboard: name a new or an empty folder with --html")


def put(new: Path, site: Path) -> None:
    """The new site in place of the old; what else is in the folder, such as a .git, stays. The files by which a site is
    known come first, so that one whose writing was interrupted can be written over."""
    try:
        site.mkdir(parents=True, exist_ok=True)
        for path in sorted(new.iterdir(), key=lambda path: path.name not in OURS):
            old = site / path.name
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink(missing_ok=True)
            if path.is_dir():
                shutil.copytree(path, old)
            else:
                shutil.copy(path, old)
    except (OSError, shutil.Error) as error:
        raise Refusal(f"{site} cannot be written ({error}): name another folder with --html") from None


def publish(site: Path, results: Path | None = None) -> Path:
    """Write the site; raise Refusal where it would be empty, or written over what is no site of ours.

    asv removes the folder that it is told to write to, so that is one of our own.
    """
    check_place(site)
    check_before(results or FOLDER / "results")
    with tempfile.TemporaryDirectory() as folder:
        new, config = Path(folder) / "html", CONFIG
        if results is not None:  # asv takes this from its configuration alone
            from asv.util import load_json

            config = Path(folder) / CONFIG.name
            given = load_json(str(CONFIG), js_comments=True)
            given |= {
                "repo": str(FOLDER.parent),
                "benchmark_dir": str(FOLDER / "suites"),
                "results_dir": str(results.resolve()),
            }
            config.write_text(json.dumps(given), encoding="utf-8")
        # Where the configuration lies elsewhere, its plugin is still here.
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")]))
        }
        done = subprocess.run(
            [sys.executable, "-m", "asv", "publish", "--no-pull", "--config", str(config), "--html-dir", str(new)],
            env=environment, cwd=FOLDER, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise Refusal(f"asv publish failed:\n{done.stdout}{done.stderr}")
        check_after(new)
        put(new, site)
    return site


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """The terminal shows the address alone."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A browser that goes away in the middle of an answer is no error."""


def serve(site: Path, port: int = 0) -> Server:
    """On this machine alone, and not yet running; port 0 takes a free one."""
    try:
        return Server(("127.0.0.1", port), functools.partial(Quiet, directory=str(site)))
    except (OSError, OverflowError) as error:
        raise Refusal(f"port {port} of 127.0.0.1 is not free ({error}): choose another with --port") from None


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/"


def screenshot(url: str, file: Path, width: int = 1100, height: int = 1120) -> None:
    """The top of the page, as Chromium draws it without a window."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise Refusal("a screenshot needs Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless=new", "--disable-gpu", "--hide-scrollbars", "--disable-lcd-text", f"--user-data-dir={profile}",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # root has no sandbox
            f"--window-size={width},{height}", f"--screenshot={file.resolve()}", url,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode or not file.exists():
        raise Refusal(f"Chromium made no picture: {done.stderr[-500:]}")


def port(word: str) -> int:
    """Of --port."""
    number = int(word)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"expected 0 to 65535, got {word}")
    return number


def place(word: str) -> Path:
    """A path that means the same wherever a program runs."""
    try:
        return Path(word).resolve()
    except FileNotFoundError:
        raise argparse.ArgumentTypeError(
            f"{word} is of a working directory that is gone; write the whole path"
        ) from None


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Publish the recorded results as a site, and serve it on this machine."
    )
    parser.add_argument("--port", type=port, default=0, help="of 127.0.0.1; a free one if not given")
    parser.add_argument("--no-browser", action="store_true", help="serve, but open no browser")
    parser.add_argument("--publish-only", action="store_true", help="write the site and stop")
    parser.add_argument(
        "--screenshot", type=place, metavar="FILE", help="write a picture of the first page there and stop"
    )
    parser.add_argument("--results", type=place, metavar="DIR", help="other results than asv_benchmarks/results")
    parser.add_argument("--html", type=place, metavar="DIR", default=FOLDER / "html", help="where the site goes")
    options = parser.parse_args()
    if options.screenshot and not options.screenshot.parent.is_dir():
        parser.error(f"--screenshot: there is no folder {options.screenshot.parent}")
    try:
        site = publish(options.html, options.results)
        if options.publish_only:
            print(site)
            return
        server = serve(site, options.port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        if options.screenshot:
            screenshot(address(server), options.screenshot)
            print(options.screenshot)
            return
    except Refusal as refusal:
        sys.exit(str(refusal))
    print(f"The dashboard is at {address(server)} (Ctrl-C ends it)", flush=True)
    if not options.no_browser:
        webbrowser.open(address(server))
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()
