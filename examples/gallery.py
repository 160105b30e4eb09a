"""Which values share a statistic: a cube for every norm, drawn from the library's own declarations.

The picture is that of "Group Normalization" (Wu and He, 2018, figure 2) for every norm of the algebra. A block is an
array of N samples, C channels and S positions; the values of one set (one mean, one deviation) are blue. Nothing is
drawn by hand: a norm's `axes` says of every axis of x whether it is kept or reduced, and that is what is shown.

    python examples/gallery.py --out gallery.png
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np

import normzoo as nz

mpl.use("Agg")
import matplotlib.pyplot as plt

N, C, S = 4, 6, 5  # samples, channels, positions
BLUE, PALE, EDGE = "#2f6fb2", "#e8edf3", "#8793a1"

# How each norm is made for x of shape (N, C, S); what is not here takes the number of channels.
EXAMPLES = {
    "layer_norm": ("LayerNorm((C, S))", lambda: nz.LayerNorm((C, S))),
    "layer_norm, channels": ("LayerNorm(C, axis=1)", lambda: nz.LayerNorm(C, axis=1)),
    "rms_norm": ("RMSNorm(S)", lambda: nz.RMSNorm(S)),
    "group_norm": ("GroupNorm(2, C)", lambda: nz.GroupNorm(2, C)),
}


def examples():
    """(title, norm) of every norm of the algebra that is exported."""
    for name in nz.list_norms():
        found = [made for key, made in EXAMPLES.items() if key.split(",")[0] == name]
        if not found:
            found = [(f"{type(norm).__name__}(C)", lambda norm=norm: norm) for norm in [default(name)] if norm]
        for title, make in found:
            norm = make()
            if type(norm).axes is not nz.Norm.axes:
                yield title, norm


def default(name):
    """The norm of C channels, or None where it wants something else."""
    try:
        return nz.create(name, C)
    except (TypeError, ValueError):
        return None


def sets(norm, shape):
    """The number of its set for every value of an array of `shape`: values of one number share their statistics."""
    axes = norm.axes(np.zeros(shape, np.float32))
    kept = [size if letter in "kK" else 1 for size, letter in zip(axes.shape, axes.letters, strict=True)]
    numbers = np.arange(np.prod(kept)).reshape(kept)
    return np.broadcast_to(numbers, axes.shape).reshape(shape)


def draw(axes, title, numbers):
    """A block seen from its front, top and right corner, with the set of that corner in blue."""
    n, c, s = numbers.shape
    same = numbers == numbers[0, -1, -1]
    # Shown as (channels to the right, samples into the depth, positions upwards).
    colors = np.where(same.transpose(1, 0, 2), BLUE, PALE)
    axes.voxels(np.ones((c, n, s), bool), facecolors=colors, edgecolors=EDGE, linewidth=0.4, shade=False)
    axes.set_box_aspect((c, n, s))
    axes.view_init(elev=24, azim=-50)
    axes.set_axis_off()
    axes.text(c / 2, -0.6, -0.9, "C", ha="center", va="center", fontsize=8)
    axes.text(c + 0.8, n / 2, -0.6, "N", ha="center", va="center", fontsize=8)
    axes.text(-0.5, -0.5, s / 2, "S", ha="center", va="center", fontsize=8)
    axes.set_title(f"{title}\n{len(np.unique(numbers))} sets of {same.sum()}", fontsize=9, y=0.95)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gallery.png"), help="the picture")
    out = parser.parse_args().out
    drawn = list(examples())
    columns = 5
    rows = -(-len(drawn) // columns)
    figure = plt.figure(figsize=(2.1 * columns, 2.2 * rows + 0.5), dpi=110)
    for i, (title, norm) in enumerate(drawn):
        draw(figure.add_subplot(rows, columns, i + 1, projection="3d"), title, sets(norm, (N, C, S)))
    figure.suptitle(f"Values in blue share a mean and a deviation (N={N}, C={C}, S={S})", fontsize=11)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(out)
    print(f"{len(drawn)} norms drawn from their declarations; see {out}")


if __name__ == "__main__":
    main()
