"""python -m normzoo compile: kernels compiled ahead, for a container image or a CI job; see `compile_cache`.

python -m normzoo reference: the pages of the reference, from the docstrings; see `reference.pages`.
"""

import argparse
from pathlib import Path
from typing import Any

import normzoo as nz
from normzoo.reference.pages import build


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m normzoo", description=nz.__doc__)
    parser.add_argument("--version", action="version", version=f"normzoo {nz.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ahead = commands.add_parser("compile", help="compile kernels into Numba's disk cache, so that programs load them")
    ahead.add_argument("--norms", nargs="+", metavar="NORM", help=f"of {', '.join(nz.list_norms())}; all by default")
    ahead.add_argument("--dtypes", nargs="+", metavar="DTYPE", default=["float32"], help="of x; float32 by default")
    ahead.add_argument("--channel-axes", nargs="+", type=int, default=[1, -1], help="1: channels first, -1: last; both")
    ahead.add_argument("--no-backward", dest="backward", action="store_false", help="forward only, for inference")
    ahead.add_argument("--activation", metavar="NAME", help="of the norms, with the kernels of these instead")
    ahead.add_argument("--gate-first", action="store_true", help="of the norms, with --beside gate")
    ahead.add_argument("--beside", nargs="+", default=[], metavar="ARRAY", help="of calls: residual, add, gate")
    ahead.add_argument("--quiet", dest="progress", action="store_false", help="show no progress bar")
    ahead.set_defaults(command=compile_ahead)
    pages = commands.add_parser("reference", help="write the pages of the reference, to be read in a browser")
    pages.add_argument("--out", type=Path, default=Path("reference"), help="folder that they are written to")
    pages.set_defaults(command=write_reference)
    options = vars(parser.parse_args(arguments))
    try:
        print(options.pop("command")(**options))
    except (ValueError, TypeError, RuntimeError, ImportError, OSError) as error:
        parser.exit(2, f"{error}\n")


def compile_ahead(activation: str | None, gate_first: bool, **options: Any) -> str:
    given = {"activation": activation, "gate_first": gate_first}
    options["behind"] = {name: value for name, value in given.items() if value}
    kernels, directory = nz.compile_cache(**options)
    return f"{kernels} kernels compiled; kept in {directory}"


def write_reference(out: Path) -> str:
    pages = build(out)
    return f"{len(pages)} files written; open {out / 'index.html'}"


if __name__ == "__main__":
    main()
