"""The pictures of the how-to pages, of real data that packages bring: python docs/making/howto_pictures.py

They are committed: drawing them needs matplotlib, Pillow, scikit-learn and pydicom.
"""

from pathlib import Path

import matplotlib
import numpy as np

import normzoo as nz

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HOWTO = Path(__file__).parents[1] / "howto"
BLUE, ORANGE = "#2c5d9b", "#c2631d"


def save(figure: plt.Figure, name: str) -> None:
    figure.tight_layout()
    figure.savefig(HOWTO / f"{name}.png", dpi=64, metadata={"Software": None})
    plt.close(figure)


def images() -> None:
    from sklearn.datasets import load_sample_image  # noqa: PLC0415

    x = np.ascontiguousarray(load_sample_image("china.jpg")[::2, ::2])
    dark = (x // 4).astype(np.uint8)
    figure, axes = plt.subplots(2, 2, figsize=(5, 3.4))
    for row, image, name in zip(axes, (x, dark), ("as it is", "four times as dark"), strict=True):
        y = nz.normalize_image(image, per="image_channel")
        for ax, shown, title in ((row[0], image, name), (row[1], np.clip(y / 5 + 0.5, 0, 1), "normalized")):
            ax.imshow(shown)
            ax.set_title(title, fontsize=9)
            ax.axis("off")
    save(figure, "images")


def medical() -> None:
    import pydicom  # noqa: PLC0415
    from pydicom.data import get_testdata_file  # noqa: PLC0415

    x = pydicom.dcmread(get_testdata_file("CT_small.dcm")).pixel_array
    body = x > 600
    shown = {
        "stored numbers": x,
        "window": nz.normalize_image(x, 864, 400, max_value=1, clip=(864, 1264)),
        "z-score of the body": nz.normalize_image(x, mask=body, percentiles=(0.5, 99.5)),
    }
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.7))
    for ax, (title, image) in zip(axes, shown.items(), strict=True):
        ax.imshow(image, cmap="gray")
        ax.set_title(title, fontsize=9)
        ax.axis("off")
    save(figure, "medical")


def series() -> None:
    from matplotlib import cbook  # noqa: PLC0415

    with cbook.get_sample_data("eeg.dat") as file:
        x = np.frombuffer(file.read(), np.float64).reshape(800, 4).T[None]  # (N, C, T)
    x = x + np.linspace(0, 4 * x.std(), 800)  # electrodes drift
    y = nz.ExponentialNorm(4, 0.02, affine=False)(x)
    figure, axes = plt.subplots(2, 1, figsize=(7.2, 3.2), sharex=True)
    for ax, values, title in ((axes[0], x, "EEG that drifts"), (axes[1], y, "ExponentialNorm")):
        ax.plot(values[0, 0], color=BLUE, lw=0.8)
        ax.plot(values[0, 1], color=ORANGE, lw=0.8)
        ax.set_title(title, fontsize=9)
        ax.tick_params(labelsize=7)
    save(figure, "series")


def graphs() -> None:
    from sklearn.datasets import load_digits  # noqa: PLC0415

    x, ids = nodes_of_digits(load_digits().images[:3])
    y = nz.GraphNorm(x.shape[1])(x, segments=ids)
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.7))
    for ax, values, title in ((axes[0], x, "nodes of three graphs"), (axes[1], y, "GraphNorm")):
        for i, color in enumerate((BLUE, ORANGE, "#3b7d3b")):
            ax.scatter(values[ids == i, 0], values[ids == i, 1], s=9, color=color, label=f"graph {i}")
        ax.set_xlabel("ink", fontsize=8)
        ax.set_ylabel("ink of the neighbours", fontsize=8)
        ax.set_title(title, fontsize=9)
        ax.tick_params(labelsize=7)
    axes[1].legend(fontsize=7)
    save(figure, "graphs")


def nodes_of_digits(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A node for every pixel with ink, whose features are its ink and that of its four neighbours."""
    scaled = images * np.array([1.0, 0.3, 2.0])[:, None, None]  # pens of different strength
    around = np.pad(scaled, ((0, 0), (1, 1), (1, 1)))
    neighbours = around[:, :-2, 1:-1] + around[:, 2:, 1:-1] + around[:, 1:-1, :-2] + around[:, 1:-1, 2:]
    ink = images > 0
    return np.stack([scaled[ink], neighbours[ink]], axis=1), np.nonzero(ink)[0]


if __name__ == "__main__":
    for draw in (images, medical, series, graphs):
        draw()
