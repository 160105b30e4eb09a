"""python -m normzoo compile: kernels compiled ahead, for a container image or a CI job; see `compile_cache`."""

import argparse

import normzoo as nz


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m normzoo", description=nz.__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ahead = commands.add_parser("compile", help="compile kernels into Numba's disk cache, so that programs load them")
    ahead.add_argument("--norms", nargs="+", metavar="NORM", help=f"of {', '.join(nz.list_norms())}; all by default")
    ahead.add_argument("--dtypes", nargs="+", metavar="DTYPE", default=["float32"], help="of x; float32 by default")
    ahead.add_argument("--channel-axes", nargs="+", type=int, default=[1, -1], help="1: channels first, -1: last; both")
    ahead.add_argument("--no-backward", dest="backward", action="store_false", help="forward only, for inference")
    ahead.add_argument("--quiet", dest="progress", action="store_false", help="show no progress bar")
    options = vars(parser.parse_args(arguments))
    try:
        kernels, directory = nz.compile_cache(**options)
    except (ValueError, RuntimeError) as error:
        parser.exit(2, f"{error}\n")
    print(f"{kernels} kernels compiled; kept in {directory}")


if __name__ == "__main__":
    main()
