"""Which values share a statistic: a cube for every norm, drawn from the library's own declarations.

The picture is that of "Group Normalization" (Wu and He, 2018, figure 2) for every norm of the algebra. A block is an
array of N samples, C channels and S positions; the values of one set (one mean, one deviation) are blue. Nothing is
drawn by hand: a norm's `axes` says of every axis of x whether it is kept or reduced, and that is what is shown.

    python examples/gallery.py --out gallery.png
"""

import argparse

import matplotlib as mpl
import numpy as np
from pictures import picture
from PIL import Image

import normzoo as nz

mpl.use("Agg")
import matplotlib.pyplot as plt

N, C, S = 4, 6, 5  # samples, channels, positions
BLUE, PALE, EDGE = "#2f6fb2", "#e8edf3", "#8793a1"

# How a norm is made for x of shape (N, C, S); what is not here takes the number of channels. For norms of weights x is
# (outputs, inputs, kernel); heads are channels, and what they hold is along S.
EXAMPLES = {
    "ada_norm": ("AdaNorm(S)", lambda: nz.AdaNorm(S)),
    "adaptive_instance_norm": ("AdaptiveInstanceNorm()", nz.AdaptiveInstanceNorm),
    "conditional_batch_norm": ("ConditionalBatchNorm(C, 10)", lambda: nz.ConditionalBatchNorm(C, 10)),
    "conditional_instance_norm": ("ConditionalInstanceNorm(C, 10)", lambda: nz.ConditionalInstanceNorm(C, 10)),
    "domain_batch_norm": ("DomainBatchNorm(C, 3)", lambda: nz.DomainBatchNorm(C, 3)),
    "ghost_batch_norm": ("GhostBatchNorm(C, 2)", lambda: nz.GhostBatchNorm(C, 2)),
    "group_norm": ("GroupNorm(2, C)", lambda: nz.GroupNorm(2, C)),
    "group_rms_norm": ("GroupRMSNorm(3, C)", lambda: nz.GroupRMSNorm(3, C)),
    "head_layer_norm": ("HeadLayerNorm(C, S)", lambda: nz.HeadLayerNorm(C, S)),
    "head_rms_norm": ("HeadRMSNorm(C, S)", lambda: nz.HeadRMSNorm(C, S)),
    "l2_norm": ("L2Norm(S)", lambda: nz.L2Norm(S)),
    "layer_norm": ("LayerNorm((C, S))", lambda: nz.LayerNorm((C, S))),
    "layer_norm of positions": ("LayerNorm(C, axis=1)", lambda: nz.LayerNorm(C, axis=1)),
    "mean_variance_norm": ("MeanVarianceNorm((0, 2))", lambda: nz.MeanVarianceNorm((0, 2))),
    "pixel_norm": ("PixelNorm()", nz.PixelNorm),
    "positional_norm": ("PositionalNorm()", nz.PositionalNorm),
    "rms_norm": ("RMSNorm(S)", lambda: nz.RMSNorm(S)),
    "scale_norm": ("ScaleNorm(1.0)", lambda: nz.ScaleNorm(1.0)),
    "scaled_weight_standardization": (
        "ScaledWeight-\nStandardization(N)",
        lambda: nz.ScaledWeightStandardization(N),
    ),
    "standardize": ("Standardize(S)", lambda: nz.Standardize(S)),
    "unit_norm": ("UnitNorm()", nz.UnitNorm),
    "weight_norm": ("WeightNorm((N, C, S))", lambda: nz.WeightNorm((N, C, S))),
    "weight_standardization": ("WeightStandardization()", nz.WeightStandardization),
}


def examples():
    """(title, norm) of every norm of the algebra that has statistics."""
    for name in nz.list_norms():
        found = [made for key, made in EXAMPLES.items() if key.split()[0] == name]
        for title, make in found or [(None, lambda name=name: nz.create(name, C))]:
            try:
                norm = make()
            except (TypeError, ValueError):  # none of the algebra: those are made of C, or in EXAMPLES
                continue
            if type(norm).axes is not nz.Norm.axes and norm.moments.power:
                yield title or f"{type(norm).__name__}(C)", norm


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
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=picture, default="gallery.png", help="the picture")
    out = parser.parse_args().out
    drawn = list(examples())
    columns = 7
    rows = -(-len(drawn) // columns)
    figure = plt.figure(figsize=(2.1 * columns, 2.2 * rows + 0.5), dpi=90)
    for i, (title, norm) in enumerate(drawn):
        draw(figure.add_subplot(rows, columns, i + 1, projection="3d"), title, sets(norm, (N, C, S)))
    figure.suptitle(f"Values in blue share their statistics (N={N}, C={C}, S={S})", fontsize=11)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.canvas.draw()
    drawn_in = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    drawn_in.quantize(64).save(out, format="png", optimize=True)  # few colors: a quarter of the size
    print(f"{len(drawn)} norms drawn from their declarations; see {out}")


if __name__ == "__main__":
    main()
