"""Is a line of text upside down? A trained classifier with 35 batch norms, and the same one with none: all folded.

The network (of the package rapidocr-onnxruntime) is a MobileNetV3 for photos of text lines. Every nz.BatchNorm, built
from its ONNX node, stands behind a convolution; folded into it by nz.fold.batch_norm_into, depthwise or not, it costs
nothing any more, and the answers stay the same. The lines are those of a scanned page in scikit-image, as they are and
turned by 180 degrees; the rest of the network runs in NumPy (onnx_graph.py), and ONNX Runtime answers too.

    pip install --no-deps rapidocr-onnxruntime && pip install -e ".[networks]"
    python examples/text_angle.py            # some seconds; draws text_angle.png
    python examples/text_angle.py --quick    # four lines
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import onnxruntime
from onnx_graph import Graph
from packages import package_file
from pictures import picture, shrink
from PIL import Image
from skimage import data
from skimage.filters import threshold_local

import normzoo as nz

mpl.use("Agg")
import matplotlib.pyplot as plt

HEIGHT, WIDTH = 48, 192  # of what the network reads
ALLOWED = 1e-5


def text_lines(page: np.ndarray) -> list[np.ndarray]:
    """Pieces of the lines of a grey page, four times as wide as they are high: runs of 12 rows or more with ink."""
    ink = page < threshold_local(page, 35, offset=10)  # the page's lighting is uneven
    edges = np.flatnonzero(np.diff(np.r_[False, ink.mean(axis=1) > 0.04, False]))
    found = []
    for top, bottom in edges.reshape(-1, 2):
        if bottom - top >= 12:
            top, bottom = max(0, top - 3), min(len(page), bottom + 3)
            width = 4 * (bottom - top)
            for left in range(4, page.shape[1] - width, width):
                if ink[top:bottom, left : left + width].mean() > 0.1:
                    found.append(page[top:bottom, left : left + width])
    return found


def as_input(lines: Sequence[np.ndarray]) -> np.ndarray:
    """(N, 3, 48, 192) float32 from -1 to 1."""
    images = [Image.fromarray(np.ascontiguousarray(line)) for line in lines]
    sized = [image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for image in images]
    resized = np.stack([np.asarray(one, np.float32) / 255 for one in sized])
    return np.ascontiguousarray(np.repeat(resized[:, None] * 2 - 1, 3, 1), np.float32)


def fold_batch_norms(graph: Graph) -> tuple[int, float]:
    """Fold every BatchNorm into the convolution before it; how many there were, and the largest bound of an output."""
    folded, worst = 0, 0.0
    for step in list(graph.steps.values()):
        before = graph.steps.get(step.inputs[0]) if step.kind == "BatchNormalization" else None
        if before is None or before.kind != "Conv":
            continue
        weight, *bias = (graph.constants[name] for name in before.inputs[1:])
        found = nz.fold.batch_norm_into(weight, bias[0] if bias else None, step.norm, groups=before.options["group"])
        names = f"{step.output}.weight", f"{step.output}.bias"
        graph.constants.update(zip(names, found[:2], strict=True))
        step.kind, step.inputs, step.run, step.norm = "Conv", [before.inputs[0], *names], before.run, None
        folded, worst = folded + 1, max(worst, float(found.error.max()))
    return folded, worst


def main(argv: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=picture, default="text_angle.png", help="the picture")
    parser.add_argument("--quick", action="store_true", help="four lines")
    options = parser.parse_args(argv)
    path = package_file("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    lines = text_lines(data.page())[: 2 if options.quick else 12]
    x = as_input([*lines, *(line[::-1, ::-1] for line in lines)])
    turned = np.repeat([False, True], len(lines))

    graph, short = Graph(path), Graph(path)
    norms = sum(step.norm is not None for step in graph.needed())
    folded, bound = fold_batch_norms(short)
    answers = {"with batch norms": graph(x=x), "folded": short(x=x)}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"x": x})[0]
    probability = answers["folded"][:, 1]
    error = float(np.abs(answers["folded"] - answers["with batch norms"]).max())
    apart = float(np.abs(answers["with batch norms"] - theirs).max())
    right = int(((probability > 0.5) == turned).sum())

    left = sum(step.norm is not None for step in short.needed())
    fine = error <= ALLOWED and apart <= ALLOWED and norms == folded == 35 and left == 0
    print(
        f"{norms} batch norms, {left} after folding; no output of a convolution moves by more than {bound:.1e} max|x|"
    )
    print(f"{right} of {len(x)} lines told right; {apart:.1e} from ONNX Runtime")
    print(
        f"{'confirmed' if fine else 'refuted'}: folded and unfolded answers agree to {error:.1e} ({ALLOWED:g} allowed)"
    )
    draw(options.out, x, probability, f"{norms} batch norms folded: {right} of {len(x)} lines told right")
    return error


def draw(path: Path, x: np.ndarray, probability: np.ndarray, title: str) -> None:
    """Every line, as it is and turned, with the probability that it is upside down."""
    rows = len(x) // 2
    figure, grid = plt.subplots(rows, 2, figsize=(9, 0.95 * rows + 0.6), layout="constrained", squeeze=False)
    for i, (image, p) in enumerate(zip(x, probability, strict=True)):
        axes = grid[i % rows, i // rows]
        axes.imshow(image[0], cmap="gray", vmin=-1, vmax=1, aspect="auto")
        right = (p > 0.5) == (i >= rows)
        axes.set_ylabel(f"{p:.3f}", rotation=0, ha="right", va="center", color="tab:green" if right else "tab:red")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
    for axes, name in zip(
        grid[0], ("pieces of 192 pixels; probability of upside down", "the same, turned"), strict=True
    ):
        axes.set_title(name, fontsize=10)
    figure.suptitle(title, fontweight="bold")
    figure.savefig(path, format="png", dpi=71)
    shrink(path, 64)
    plt.close(figure)


if __name__ == "__main__":
    main()
