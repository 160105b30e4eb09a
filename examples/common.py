"""What the examples share beside their layers: options, runs side by side with a progress bar, pictures."""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numba
import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pictures import picture
from PIL import Image
from threadpoolctl import threadpool_limits
from tqdm import tqdm


def options(doc: str | None, file: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """quick, full and out, as every example takes them; `doc` is its docstring and `file` its name."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--quick", action="store_true", help="seconds: less of everything")
    amount.add_argument("--full", action="store_true", help="minutes: more runs")
    name = Path(file).with_suffix(".png").name
    parser.add_argument("--out", type=picture, default=name, help=f"the picture ({name})")
    return parser.parse_args(argv)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep NumPy and Numba to one thread each.

    These arrays are too small for more, and idle threads of the one wait on the cores that the other needs: on 2
    cores a run with batch norm took 16 s with two threads each and 0.9 s with one.
    """
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        numba.set_num_threads(threads)


def run_all(jobs: Sequence[tuple], description: str) -> list[Any]:
    """[function(*arguments) for function, *arguments in jobs], in a process for every core, with one thread each."""
    # Spawned, not forked: a forked child may not use the threads that its parent had.
    with (
        ProcessPoolExecutor(min(os.cpu_count() or 1, len(jobs)), mp_context=get_context("spawn")) as pool,
        tqdm(total=len(jobs), desc=description, unit="run") as bar,
    ):
        futures = [pool.submit(_run, *job) for job in jobs]
        for _ in as_completed(futures):
            bar.update()
    return [future.result() for future in futures]


def _run(function: Callable[..., Any], *arguments: Any) -> Any:
    with one_thread():
        return function(*arguments)


def verdict(true: bool, figures: str) -> str:
    """The line that an example ends with."""
    return f"{'confirmed' if true else 'refuted'}: {figures}"


def new_figure(width: float, height: float, title: str) -> Figure:
    """A figure of so many inches, with a title over all of it."""
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title[0].upper() + title[1:], fontweight="bold")
    return figure


MARKERS = "osD^vPX"


def colours_of(values: Sequence[float]) -> dict[float, tuple[Any, str]]:
    """A colour and a marker for each value, from dark to light, which can be told apart without colours too."""
    shades = colormaps["plasma"](np.linspace(0, 0.88, len(values)))
    return dict(zip(values, zip(shades, cycle(MARKERS)), strict=False))  # type: ignore[arg-type]


def save(figure: Figure, path: Path) -> None:
    """Write the picture in 256 colours, which is a third of the bytes."""
    figure.set_dpi(100)
    figure.canvas.draw()
    drawn = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    drawn.quantize(256, dither=Image.Dither.NONE).save(path, format="png", optimize=True)
