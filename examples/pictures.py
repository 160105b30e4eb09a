"""Where an example's picture goes, which is looked at before the work begins."""

import argparse
import os
from pathlib import Path

from PIL import Image


def picture(word: str) -> Path:
    """The path of --out: a PNG file in a folder that is made if need be."""
    path = Path(word)
    if path.suffix.lower() not in ("", ".png"):
        raise argparse.ArgumentTypeError(f"pictures are PNG files: write {path.with_suffix('.png')}, not {word}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{word} is a folder: write {path / 'picture.png'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{word} cannot be written: {error}") from None
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{word} cannot be written: name another file")
    return path


def shrink(path: Path, colours: int = 256, dither: bool = False) -> None:
    """The picture in few colours, a third of the bytes; with `dither`, photos keep their shades."""
    drawn = Image.open(path).convert("RGB")
    found = drawn.quantize(colours, dither=Image.Dither.NONE)
    if dither:
        found = drawn.quantize(palette=found, dither=Image.Dither.FLOYDSTEINBERG)
    found.save(path, format="png", optimize=True)
