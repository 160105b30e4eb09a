"""Whole models of PyTorch, as they are and with this library's norms: time and accuracy.

    OMP_WAIT_POLICY=passive python asv_benchmarks/models.py [--only llama,qwen3] [--rounds 15] [--compiled llama,bert] [--kinds] [--json FILE]

Models are built from configurations of their libraries with random weights; nothing is downloaded. A library that is not
installed is named and passed over. Every model does an inference step with a batch of 1 and of 8, and a training step
with a batch of 2. The ways take turns, round after round in one process, and a ratio is the median over rounds of the
first way's time by this way's (above 1 is faster), with its quartiles. The error is that of the result against a copy of
the model in float64, and of the gradients the median over parameters.

"norms" are the norms alone: the calls that the step makes of them, made again (`model_norms.py`). `--kinds` shows them
by size, dtype and strides. `--compiled` also measures torch.compile, of the model as it is and with these norms, for
these models or for "all"; to compile one takes minutes.
"""

import argparse
import copy
import importlib
import json
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

import normzoo.torch as nzt

sys.path.insert(0, str(Path(__file__).parent))
import model_norms
import peers

nn = torch.nn


class Family(NamedTuple):
    library: str
    build: Callable[[], Any]
    inputs: Callable[[int], dict[str, Any]]


def _text(batch: int) -> dict[str, Any]:
    return {"input_ids": torch.randint(100, (batch, 64))}


def _seq2seq(batch: int) -> dict[str, Any]:
    return {**_text(batch), "decoder_input_ids": torch.randint(100, (batch, 16))}


def _image(name: str, size: int) -> Callable[[int], dict[str, Any]]:
    return lambda batch: {name: torch.randn(batch, 3, size, size)}


def _transformers(model: str, config: str, inputs: Any, **options: Any) -> Family:
    def build() -> Any:
        library = importlib.import_module("transformers")
        return getattr(library, model)(getattr(library, config)(**options))

    return Family("transformers", build, inputs)


def _made(library: str, path: str, inputs: Any, *arguments: Any, **options: Any) -> Family:
    module, _, name = path.rpartition(".")
    return Family(library, lambda: getattr(importlib.import_module(module), name)(*arguments, **options), inputs)


_SMALL: dict[str, Any] = {"vocab_size": 100, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
_DECODER: dict[str, Any] = _SMALL | {"intermediate_size": 512, "num_key_value_heads": 2}
_UNET: dict[str, Any] = {
    "sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
FAMILIES = {
    "llama": _transformers("LlamaModel", "LlamaConfig", _text, **_DECODER),
    "qwen3": _transformers("Qwen3Model", "Qwen3Config", _text, **_DECODER, head_dim=64),
    "gemma3": _transformers("Gemma3TextModel", "Gemma3TextConfig", _text, **_DECODER, head_dim=64),
    "t5": _transformers("T5Model", "T5Config", _seq2seq, vocab_size=100, d_model=256, d_kv=64, d_ff=512, num_layers=3),
    "mamba2": _transformers("Mamba2Model", "Mamba2Config", _text, vocab_size=100, hidden_size=128, num_hidden_layers=2,
                            num_heads=8, head_dim=32, state_size=16, n_groups=1),
    "bert": _transformers("BertModel", "BertConfig", _text, **_SMALL, intermediate_size=512),
    "gpt2": _transformers("GPT2Model", "GPT2Config", _text, vocab_size=100, n_embd=256, n_layer=4, n_head=4),
    "vit": _transformers("ViTModel", "ViTConfig", _image("pixel_values", 64), image_size=64, hidden_size=256,
                         num_hidden_layers=4, num_attention_heads=4, intermediate_size=512),
    "convnext": _transformers("ConvNextModel", "ConvNextConfig", _image("pixel_values", 64), depths=[1, 1, 3, 1],
                              hidden_sizes=[32, 64, 128, 256]),
    "unet": Family("diffusers", lambda: importlib.import_module("diffusers").UNet2DModel(**_UNET),
                   lambda batch: {"sample": torch.randn(batch, 3, 16, 16), "timestep": 1}),
    "vae": Family("diffusers", lambda: importlib.import_module("diffusers").AutoencoderKL(
        block_out_channels=(32, 64), norm_num_groups=8, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2), _image("sample", 32)),
    **{f"timm-{name}": _made("timm", "timm.create_model", _image("x", 64), name) for name in (
        "resnet18", "efficientnet_b0", "convnext_atto", "regnety_002", "mobilenetv3_small_100")},
    **{f"torchvision-{name}": _made("torchvision", f"torchvision.models.{name}", _image("x", 64)) for name in (
        "resnet50", "mobilenet_v2", "convnext_tiny", "swin_t")},
    "yolov8n": Family("ultralytics", lambda: importlib.import_module("ultralytics.nn.tasks").DetectionModel(
        "yolov8n.yaml", verbose=False), _image("x", 128)),
}  # fmt: skip


def declare_operators() -> None:
    """Make torchvision importable beside a PyTorch that its own operators were not built for: its import asks for two,
    which no model here calls."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except ImportError:
        pass


def made(family: Family) -> Any:
    """The model, its norms' parameters no longer ones and zeros; None where the library is missing."""
    torch.manual_seed(0)
    try:
        model = family.build()
    except (ImportError, RuntimeError, OSError) as error:
        print(f"  passed over: {family.library}: {str(error).splitlines()[0]}")
        return None
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(0.1 * torch.randn_like(p))
    drop_nothing(model)
    return model


def drop_nothing(model: Any) -> None:
    """Results of training are compared, so nothing may be dropped at random."""
    for module in model.modules():
        kind = type(module).__name__
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or (name == "p" and ("Drop" in kind or "Depth" in kind))):
                setattr(module, name, 0.0)


def tensors(found: Any) -> list[torch.Tensor]:
    """The tensors of floats that a model returns."""
    leaves = torch.utils._pytree.tree_leaves(dict(found) if hasattr(found, "keys") else found)
    leaves = [vars(a) if hasattr(a, "__dict__") and not isinstance(a, torch.Tensor) else a for a in leaves]
    return [t for t in torch.utils._pytree.tree_leaves(leaves) if isinstance(t, torch.Tensor) and t.is_floating_point()]


def infer(model: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    with torch.inference_mode():
        return tensors(model(**inputs))


def train(model: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    """Gradients of a sum that no norm makes zero."""
    model.zero_grad()
    found = [t for t in tensors(model(**inputs)) if t.requires_grad]
    sum((t * torch.linspace(-1, 1, t.numel(), dtype=t.dtype).reshape(t.shape)).mean() for t in found).backward()  # type: ignore[union-attr]
    return [p.grad for p in model.parameters() if p.grad is not None]


def ways(model: Any, converted: Any, compiled: bool) -> dict[str, tuple[Any, Callable[[], Any]]]:
    """What is compared: a model, and the context in which it runs."""
    found = {"eager": (model, nullcontext), "converted": (converted, nullcontext)}
    found |= {"installed": (model, nzt.installed), "both": (converted, nzt.installed)}
    if compiled:
        torch.compiler.reset()
        torch._dynamo.config.recompile_limit = 64  # three copies, each in three steps, share the code of their classes
        copies = {f"compiled_{name}" if name != "eager" else "compiled": way for name, way in found.items()}
        del copies["compiled_both"]
        found |= {name: (torch.compile(copy.deepcopy(way)), context) for name, (way, context) in copies.items()}
    return found


def _converted(model: Any) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found, report = nzt.convert(copy.deepcopy(model), report=True)
    print("  " + str(report).replace("\n", "\n  "))
    return found, report


def timed(step: Any, compared: dict[str, Any], inputs: Any, rounds: int, before: Any = None) -> dict[str, Any]:
    """Milliseconds of each way, and the quartiles of the first way's time by this way's. `before` takes the model, each
    time, and is not timed."""
    took: dict[str, list[float]] = {name: [] for name in compared}
    for turn in range(rounds + 2):  # the first two compile and warm up
        for name, (model, context) in compared.items():
            with context():
                if before is not None:
                    before(model)
                start = time.perf_counter()
                step(model, inputs)
                if turn > 1:
                    took[name].append(1e3 * (time.perf_counter() - start))
    first = next(iter(took.values()))
    ratios = {name: [a / b for a, b in zip(first, times, strict=True)] for name, times in took.items()}
    return {
        name: {"ms": statistics.median(times), "quartiles": statistics.quantiles(ratios[name], n=4, method="inclusive")}
        for name, times in took.items()
    }


def wide(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: t.double() if torch.is_tensor(t) and t.is_floating_point() else t for name, t in inputs.items()}


def accurate(step: Any, model: Any, compared: dict[str, Any], inputs: dict[str, Any]) -> dict[str, float]:
    """The median relative error of the results of a step, against a copy of the model in float64."""
    exact = step(copy.deepcopy(model).double(), wide(inputs))
    found = {}
    for name, (way, context) in compared.items():
        with context():
            pairs = [(a.double(), b) for a, b in zip(step(way, inputs), exact, strict=True) if b.norm() > 0]
        found[name] = statistics.median(float((a - b).norm() / b.norm()) for a, b in pairs)
    return found


def shown(label: str, way: str, cell: dict[str, Any], rest: str) -> None:
    low, mid, high = cell["quartiles"]
    print(f"  {label:5} {way:19} {cell['ms']:8.3f} ms  {mid:.2f} ({low:.2f} to {high:.2f})  {rest}")


def measured(name: str, rounds: int, compiled: bool = False, kinds: bool = False) -> dict[str, Any] | None:
    print(name)
    family = FAMILIES[name]
    model = made(family)
    if model is None:
        return None
    converted, report = _converted(model)
    compared, results = ways(model, converted, compiled), {}
    eager = {way: pair for way, pair in compared.items() if not way.startswith("compiled")}
    paths = model_norms.outermost(report.taken | report.left)
    for label, step, batch in (("b1", infer, 1), ("b8", infer, 8), ("train", train, 2)):
        for each, _ in compared.values():
            each.train(step is train)
        model.train(step is train)
        inputs = family.inputs(batch)
        results[label] = timed(step, compared, inputs, rounds)
        for way, error in accurate(step, model, compared, inputs).items():
            results[label][way]["error"] = error
            shown(label, way, results[label][way], f"error {error:.1e}")
        calls = model_norms.calls_of(model, paths, step, inputs)
        for way, cell in model_norms.alone(eager, calls, step is train, timed, rounds).items() if calls else ():
            results[label][way]["norms"] = cell
            shown(label, way, cell, f"norms alone, {len(calls)} calls")
        for line in model_norms.by_kind(eager, calls, step is train, timed, rounds) if kinds else ():
            print(f"  {label:5} {line}")
    return results


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", default="", help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compiled", default="", help='models for which torch.compile is measured, too, or "all"')
    parser.add_argument("--kinds", action="store_true", help="show the norms alone by size, dtype and strides")
    parser.add_argument("--json", default="")
    given = parser.parse_args(arguments)
    names = given.only.split(",") if given.only else list(FAMILIES)
    compiled = list(FAMILIES) if given.compiled == "all" else [name for name in given.compiled.split(",") if name]
    unknown = [name for name in (*names, *compiled) if name not in FAMILIES]
    if unknown or given.rounds < 2:
        parser.error(
            f"expected --only of {', '.join(FAMILIES)} and --rounds of 2 or more, got {unknown}, {given.rounds}"
        )
    declare_operators()
    found = {name: measured(name, given.rounds, name in compiled, given.kinds) for name in names}
    found = {name: result for name, result in found.items() if result is not None}
    if given.json:
        about = peers.describe(["torch"]) | {"command": shlex.join(["python", *sys.argv])}
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump({"about": about, "models": found}, file, indent=1)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
