"""The figures of README.md, out of the records: `python docs/making/readme.py` writes them, a test compares them."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from making import records  # noqa: E402

README = ROOT / "README.md"
# Parts of README's sentences, and the figure of `records.substitutions` that stands in each.
SENTENCES = (
    "hand-written gradients for {count} norms",
    "**Complete.** {count} norms, from batch norm to whitening",
    "On {cells} training passes it is {times} times as fast as the fastest of {libraries}, and {times_torch} times as",
    "(geometric means; {least_times} in the least cell)",
    "run at {of_floor} % of the speed of a loop",
    "compiles its kernel, in {first_call} s on the machine",
    "loads it in {next_process} s.",
    "they are called in turn; {machine}; {versions}. `python asv_benchmarks/peers.py`",
    "has every cell.{others} ## When not to use it",
)
HEAD = "| arrays |"


class Missing(Exception):
    """README has no such sentence."""


def _pattern(sentence: str) -> tuple[str, list[str]]:
    """A regular expression that finds the sentence with any figures in it, however it is wrapped; their names."""
    parts = re.split(r"\{(\w+)\}", sentence)
    fixed = [re.sub(r"(\\ )+", r"\\s+", re.escape(part)) for part in parts[::2]]
    return "(.*?)".join(fixed), parts[1::2]


def filled(text: str) -> str:
    """README with the figures of the records."""
    figures = records.substitutions()
    for sentence in SENTENCES:
        pattern, names = _pattern(sentence)
        found = re.search(pattern, text, re.S)
        if found is None:
            raise Missing(sentence)
        for i, name in reversed([*enumerate(names, 1)]):
            if found[i].split() != figures[name].split():
                text = text[: found.start(i)] + figures[name] + text[found.end(i) :]
    start = text.index(HEAD)
    end = text.index("\n\n", start)
    return text[:start] + records.speed_table() + text[end:]


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
