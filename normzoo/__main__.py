"""python -m normzoo compile: kernels compiled ahead, for a container image or a CI job; see `compile_cache`.

python -m normzoo list: all norms; see `list_norms`. python -m normzoo versions: see `show_versions`.
"""

import argparse
from typing import Any

import normzoo as nz


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m normzoo", description=nz.__doc__)
    parser.add_argument("--version", action="version", version=f"normzoo {nz.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ahead = commands.add_parser("compile", help="compile kernels into Numba's disk cache, so that programs load them")
    ahead.add_argument("--norms", nargs="+", metavar="NORM", help="names of norms, see python -m normzoo list; all")
    ahead.add_argument("--dtypes", nargs="+", metavar="DTYPE", default=["float32"], help="dtypes of x; float32")
    ahead.add_argument("--channel-axes", nargs="+", type=int, default=[1, -1], help="1: channels first, -1: last; both")
    ahead.add_argument("--no-backward", dest="backward", action="store_false", help="forward only, for inference")
    ahead.add_argument("--activation", metavar="NAME", help="compile for norms with this activation instead")
    ahead.add_argument(
        "--gate-first", action="store_true", help="compile for norms with gate_first=True; needs --beside gate"
    )
    ahead.add_argument(
        "--beside", nargs="+", default=[], metavar="ARRAY", help="compile for calls with residual, add or gate"
    )
    ahead.add_argument("--quiet", dest="progress", action="store_false", help="show no progress bar")
    ahead.set_defaults(command=compile_ahead)
    listing = commands.add_parser("list", help="list the norms: name, family, devices, what each does")
    listing.add_argument(
        "--family", choices=sorted({name.family for name in nz.list_norms()}), help="only norms of this family"
    )
    listing.set_defaults(command=listed)
    commands.add_parser("versions", help="print versions, for a bug report").set_defaults(command=versions)
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


def listed(family: str | None) -> str:
    lines = []
    for name in nz.list_norms(family):
        lines.append(f"{name:30} {name.family:12} {' '.join(name.devices):9} {name.summary}")
    return "\n".join(lines)


def versions() -> str:
    nz.show_versions()
    return f"normzoo is in {nz.__path__[0]}"


if __name__ == "__main__":
    main()
