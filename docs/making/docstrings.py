"""This package's docstrings as Markdown: titled sections, lists of arguments, typeset formulas, highlighted
examples."""

import re

from making.mathml import paragraph

SECTIONS = ("Formula", "Shapes", "Args", "Raises", "Returns", "Attributes", "Source")
_LINK = re.compile(r"arXiv:((?:[a-z-]+/)?[\d.]*\d)|(https?://[^\s,;()]*[^\s,;().])")


def markdown(text: str) -> str:
    """A docstring as Markdown that contains HTML."""
    lines, out = text.split("\n"), []
    while lines:
        line = lines.pop(0)
        title = line.removesuffix(":")
        if line.endswith(":") and title in SECTIONS:
            body = _block(lines)
            out.append(f"**{title}**\n\n{_section(title, body)}\n")
        elif line.startswith(">>> "):
            example = [line]
            while lines and lines[0].strip():
                example.append(lines.pop(0))
            shown = "\n".join(example).replace("<BLANKLINE>", "")
            out.append(f"```pycon\n{shown}\n```\n")
        else:
            out.append(line if line.startswith(("|", "    ", "- ")) else _text(line))
    return "\n".join(out)


def _block(lines: list[str]) -> list[str]:
    """Remove the indented lines at the front of `lines`; return them without their indentation."""
    found = []
    while lines and (not lines[0].strip() or lines[0].startswith("    ")):
        found.append(lines.pop(0)[4:])
    while found and not found[-1].strip():
        found.pop()
    return found


def _section(title: str, body: list[str]) -> str:
    if title == "Formula":
        set_parts = "".join(f"<p>{paragraph(part)}</p>" for part in _parts(body))
        return f'<div class="formula">{set_parts}</div>\n'
    if title in ("Args", "Attributes", "Shapes"):
        items = re.split(r"\n(?=\S)", "\n".join(body))
        named = [re.match(r"([\w, *]+?)(?: \(.*?\))?: (.*)", item, re.S) for item in items]
        return "\n".join(
            f"- **{_escaped(m[1])}**: {_text(_joined(m[2]))}" if m else f"- {_text(_joined(item))}"
            for item, m in zip(items, named, strict=True)
        )
    return _text(_joined("\n".join(body)))


def _parts(body: list[str]) -> list[str]:
    """Split into paragraphs: each indented line is one, and so are the lines between indented ones."""
    parts, last = [""], False
    for line in body:
        indented = line.startswith(" ")
        if indented or last or not line.strip():
            parts.append("")
        parts[-1] = f"{parts[-1]} {line.strip()}".strip()
        last = indented
    return [part for part in parts if part]


def _joined(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text)


def _text(text: str) -> str:
    """Text with links, in which asterisks and underscores are escaped, except in code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _linked(part) for part in parts)


def _linked(text: str) -> str:
    out, end = "", 0
    for found in _LINK.finditer(text):
        out += _escaped(text[end : found.start()])
        address = found[2] or f"https://arxiv.org/abs/{found[1]}"
        out += f"[{_escaped(found[0])}]({address})"
        end = found.end()
    return out + _escaped(text[end:])


def _escaped(text: str) -> str:
    return re.sub(r"([*_<\[\]])", r"\\\1", text).replace("\\<", "&lt;")
