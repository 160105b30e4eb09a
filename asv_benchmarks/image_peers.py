"""Images of bytes to normalized float32, against NumPy, albucore (OpenCV) and torchvision.

    python asv_benchmarks/image_peers.py [--rounds 9] [--without REGEX] [--json FILE]

(16, 512, 512, 3). Every implementation runs in its own process, two threads each, called in turn; a figure is the median
over the rounds of slices of at least 20 ms, after its values were found equal to those of the formula. albucore takes
one image at a time. `docs/making/speed.py` makes docs/howto/images.md's table of the JSON.
"""

import argparse
import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peers import THREADS, describe, environment, medians, timed, warm, writable, write_record

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
STEPS = {
    "given": "mean and std given",
    "planes": "the same, to (N, C, H, W)",
    "image": "mean and std of each image",
    "image_channel": "of each channel of an image",
    "min_max": "least and largest of each image",
}
PEERS = "numpy", "albucore", "torchvision"


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (16, 512, 512, 3), np.uint8)


def normzoo_step(step: str, x: np.ndarray) -> Callable:
    import normzoo as nz

    if step in ("given", "planes"):
        return lambda: nz.normalize_image(x, "imagenet", out_channel_axis=1 if step == "planes" else None)
    if step == "min_max":
        return lambda: nz.normalize_image(x, scale="min_max")
    return lambda: nz.normalize_image(x, per=step, limit=20)


def numpy_step(step: str, x: np.ndarray) -> Callable:
    axes = (1, 2) if step == "image_channel" else (1, 2, 3)

    def given() -> np.ndarray:
        y = (x.astype(np.float32) / 255 - MEAN) / STD
        return np.ascontiguousarray(np.moveaxis(y, -1, 1)) if step == "planes" else y

    def own() -> np.ndarray:
        v = x.astype(np.float32)
        if step == "min_max":
            least = v.min(axes, keepdims=True)
            return (v - least) / (v.max(axes, keepdims=True) - least + np.float32(1e-4))
        return np.clip((v - v.mean(axes, keepdims=True)) / (v.std(axes, keepdims=True) + np.float32(1e-4)), -20, 20)

    return given if step in ("given", "planes") else own


def albucore_step(step: str, x: np.ndarray) -> Callable:
    import albucore
    import cv2

    cv2.setNumThreads(THREADS)
    if step in ("given", "planes"):
        mean, factor = MEAN * 255, 1 / (STD * 255)
        if step == "given":
            return lambda: [albucore.normalize(image, mean, factor) for image in x]
        return lambda: [np.ascontiguousarray(albucore.normalize(image, mean, factor).transpose(2, 0, 1)) for image in x]
    how = {"image": "image", "image_channel": "image_per_channel", "min_max": "min_max"}[step]
    return lambda: [albucore.normalize_per_image(image, how) for image in x]


def vision() -> Any:
    """torchvision's functions. Its wheels load their operators beside PyTorch's builds for CUDA only; normalizing needs
    none, but the package wants two of them to be known."""
    import torch

    functional = "torchvision.transforms.v2.functional"
    try:
        return importlib.import_module(functional)
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module(functional)


def torchvision_step(step: str, x: np.ndarray) -> Callable | None:
    import torch

    functional = vision()
    torch.set_num_threads(THREADS)
    if step not in ("given", "planes"):
        return None
    t = torch.from_numpy(x).permute(0, 3, 1, 2)

    def call() -> np.ndarray:
        scaled = functional.to_dtype(t.contiguous() if step == "planes" else t, torch.float32, scale=True)
        y = functional.normalize(scaled, MEAN.tolist(), STD.tolist()).numpy()
        return y if step == "planes" else np.moveaxis(y, 1, -1)

    return call


STEP = {"normzoo": normzoo_step, "numpy": numpy_step, "albucore": albucore_step, "torchvision": torchvision_step}


def check(implementation: str, step: str, y: np.ndarray) -> None:
    """Is it the same formula?"""
    error = float(np.abs(np.asarray(y) - np.asarray(normzoo_step(step, images())())).max())
    if not error < 1e-3:  # NumPy adds float32 one by one along these axes, which costs it 1.6e-4
        raise ValueError(f"{implementation}: {step} differs by {error:.1e}")


def worker(implementation: str) -> None:
    """Answers names of steps by seconds, or null."""
    x, current, call = images(), None, None
    for line in sys.stdin:
        step = line.strip()
        if step != current:
            call, current = STEP[implementation](step, x), step
            if call:
                check(implementation, step, call())
                warm(call)
        print(json.dumps(timed(call) if call else None), flush=True)


def measure(rounds: int, names: list[str]) -> dict[str, dict[str, list[float]]]:
    """Step -> implementation -> seconds of every round."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--worker", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        )
        for name in names
    }  # fmt: skip

    def ask(name: str, step: str) -> float | None:
        print(step, file=processes[name].stdin, flush=True)
        answer: float | None = json.loads(processes[name].stdout.readline())  # type: ignore[union-attr]
        return answer

    found = {}
    for step, said in STEPS.items():
        known = [name for name in names if ask(name, step) is not None]
        slices = [{name: ask(name, step) for name in known} for _ in range(rounds)]
        found[said] = {name: [s[name] for s in slices] for name in known}
    for process in processes.values():
        process.communicate()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="slices per implementation and step")
    parser.add_argument("--without", default="", help="regular expression: implementations to leave out")
    parser.add_argument("--json", "--out", type=writable, help="write the record here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    names = ["normzoo"]
    for name in PEERS:
        if options.without and re.search(options.without, name):
            continue
        try:
            importlib.metadata.version(name)
            names.append(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed and left out", file=sys.stderr)
    found, about = measure(options.rounds, names), describe([])
    for step, row in medians(found).items():
        shown = ", ".join(
            f"{name} {seconds / row['normzoo']:.2f}" for name, seconds in row.items() if name != "normzoo"
        )
        print(f"{step}: {1e3 * row['normzoo']:.2f} ms; times as fast as {shown}", flush=True)
    if options.json:
        peers = [f"{name} {importlib.metadata.version(name)}" for name in names[1:] if name != "numpy"]
        about["versions"] = ", ".join([about["versions"], *peers])
        about["command"] = f"python asv_benchmarks/image_peers.py --rounds {options.rounds}"
        about["command"] += f" --without '{options.without}'" if options.without else ""
        write_record(options.json, about, found)


if __name__ == "__main__":
    main()
