"""The generated pages: the zoo as a gallery, a page for each norm, the reference by topic, and the examples."""

import ast
import contextlib
import inspect
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import normzoo as nz
from making import api, cubes, names, records
from making.docstrings import markdown
from making.mathml import paragraph
from normzoo.exchange import fold
from normzoo.exchange.registry import _classes
from normzoo.passes.arrays import DEVICES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ZOO, API, EXAMPLES = DOCS / "zoo", DOCS / "api", DOCS / "examples"
CUBES = DOCS / "generated_static" / "cubes"
FAMILIES = {
    "batch": "Statistics of a batch",
    "instance": "Statistics of a sample's channels",
    "layer": "Statistics of a sample's features",
    "conditional": "Slope and shift from elsewhere",
    "whitening": "Decorrelated channels",
    "local": "Statistics of a neighbourhood",
    "pointwise": "No statistics, or several",
    "weights": "Of weights",
    "graph": "Of graphs",
    "data": "Of data sets and series",
}
# PyTorch's classes of the same arguments and defaults.
TORCH = {
    "BatchNorm": "BatchNorm1d, 2d, 3d",
    "InstanceNorm": "InstanceNorm1d, 2d, 3d",
    "LayerNorm": "LayerNorm",
    "GroupNorm": "GroupNorm",
    "RMSNorm": "RMSNorm",
    "LocalResponseNorm": "LocalResponseNorm",
}
COMPILED = {"BatchNorm", "InstanceNorm", "LayerNorm", "GroupNorm", "RMSNorm"}  # those that normzoo.njit knows


def write() -> list[Path]:
    """Write all generated pages. Those that are as they were keep their time: Sphinx does not read them anew."""
    pages: dict[Path, str] = {}
    norms = [Page(name) for name in nz.list_norms()]
    for page in norms:
        pages[ZOO / f"{page.name}.md"] = page.markdown()
        if page.drawn is not None:
            cube = cubes.svg(
                page.drawn.set_of_corner, f"Values that share a statistic in {page.title}", page.drawn.names
            )
            pages[CUBES / f"{page.name}.svg"] = cube
    pages[ZOO / "index.md"] = gallery(norms)
    pages[DOCS / "families.svg"] = families(norms)  # committed, for README
    pages[names.FILE] = names.written()  # committed, for checkers of types
    for topic in TOPICS:
        pages[API / f"{topic.name}.md"] = topic.markdown()
    pages[API / "activations.md"] = activations()
    pages[API / "torch.md"] = torch_page()
    pages[API / "sklearn.md"] = sklearn_page()
    pages |= example_pages()
    for folder in (ZOO, API, EXAMPLES, CUBES):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.is_file() and path not in pages:
                path.unlink()
    for path, text in pages.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    return list(pages)


def yes(value: Any) -> str:
    return "yes" if value else "no"


class Page:
    """The page of one norm."""

    def __init__(self, name: Any) -> None:
        self.name, self.family, self.summary = str(name), name.family, name.summary
        self.kind: type[nz.Norm] = _classes()[name]
        self.title = self.kind.__name__
        self.drawn = cubes.drawn(name)
        self.record, self.cells = next(
            ((file, cells) for file in ("peers.json", "zoo.json") if (cells := self.recorded(file))), ("", [])
        )

    def recorded(self, file: str) -> list[records.Cell]:
        """Its cells in a record; that of the five norms names them by class, that of the zoo by name."""
        return [cell for cell in records.peers(file)[1] if cell.norm in (self.title, self.name)]

    @property
    def formula(self) -> str:
        """What y is, the shortest way that the docstring says it, as MathML."""
        text = inspect.getdoc(self.kind) or ""
        text = " ".join(text.split("Formula:\n")[1].split("\n\n")[0].split())
        found = re.search(r"(?:y(?:\[\w+\])?) = .*?(?=, with|, where|,? xhat =|, scale =|, std =|, sigma =|, psi =|, c'"
                          r"|, n = |,? in |, r = |\. |\.$|:|$| with | where |  )", text)  # fmt: skip
        return paragraph(found[0].rstrip(".,")) if found else ""

    @property
    def times(self) -> float | None:
        """How many times as fast as the fastest peer, in the geometric mean."""
        return records.geometric_mean(cell.times for cell in self.cells) if self.cells else None

    @property
    def tags(self) -> list[str]:
        kind = self.kind
        tags = [{"cpu": "CPU", "cuda": "CUDA"}[device] for device in DEVICES if device in kind.devices]
        tags += ["masks"] * bool(kind.masks is True) + ["fuses"] * bool(kind.fuses)
        return tags + ["Numba"] * (self.title in COMPILED)

    def markdown(self) -> str:
        parts = [
            f"# {self.title}",
            self.summary,
            self.picture(),
            "## What it supports",
            self.support(),
            "## Reference",
            "```{py:currentmodule} normzoo\n```",
            api.entry(f"normzoo.{self.title}", self.methods()),
            self.frameworks(),
            "## Speed",
            self.speed(),
            self.accuracy(),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def methods(self) -> list[str]:
        """Those for users, and not those whose docstrings say that they are for authors of norms."""
        return [name for name in api.public_methods(self.kind) if not is_hook(getattr(self.kind, name))]

    def picture(self) -> str:
        if self.drawn is None:
            return "It has no view (b, m, c, n), because its statistics are not means over axes, or it has none."
        d = self.drawn
        names = ", ".join(d.names)
        count, size = len(set(d.numbers.ravel().tolist())), int(d.set_of_corner.sum())
        last = f" With channels last, x is (N, S, C) and the view {d.last}." if d.last else ""
        return (
            f"```{{image}} /generated_static/cubes/{self.name}.svg\n:alt: Values that share a statistic\n"
            f":width: 220px\n:class: cube\n```\n\n"
            f"`{self.title}({d.arguments})` of x ({names}) with sizes ({cubes.N}, {cubes.C}, {cubes.S}): {count} sets "
            f"of {size} values; those of one set are blue. The view [(b, m, c, n)](/explanation/algebra.md) is "
            f"{d.view}.{last}"
        )

    def support(self) -> str:
        kind, title = self.kind, self.title
        rows = {
            "by name": f'`nz.create("{self.name}", ...)`',
            "family": FAMILIES[self.family],
            "devices": ", ".join(tag for tag in self.tags if tag in ("CPU", "CUDA")),
            "mask=, lengths=, sample_weight=, segments=": yes(kind.masks is True),
            "residual=, add=, gate=, activation= in the same pass": yes(kind.fuses),
            "`nz.recalibrate`": yes(getattr(kind, "recalibrates", None)),
            "in functions that Numba compiles": yes(title in COMPILED),
        }
        if title in TORCH and title != "LocalResponseNorm":
            rows["PyTorch module"] = f"`normzoo.torch.{TORCH[title].split(',')[0]}`"
        return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())

    def frameworks(self) -> str:
        """Its counterparts and their defaults; "" if there are none."""
        norm = self.drawn.norm if self.drawn else None
        if self.title in ("LayerNorm", "RMSNorm"):
            norm = self.kind(6)
        rows = []
        if norm is not None:
            rows.append(("normzoo", self.title, norm))
            if self.title in TORCH:
                rows.append(("PyTorch", TORCH[self.title], norm))
            for dialect, shown in (("flax", "Flax"), ("keras", "Keras")):
                try:
                    name = nz.describe(norm, dialect).name
                    more = {"groups": 2} if dialect == "keras" else {"num_groups": 2}
                    options = more if self.title == "GroupNorm" else {"groups": -1} if name.startswith("GroupN") else {}
                    rows.append((shown, name, nz.create(name, 6, dialect=dialect, **options)))
                except (ValueError, TypeError):
                    continue
            with contextlib.suppress(ValueError, TypeError):
                rows.append(("ONNX", nz.describe(norm, "onnx").name, None))
        if len(rows) < 2:
            return ""
        lines = ["## Beside other frameworks", "", "| | layer | eps | momentum of the new value |", "|---|---|---|---|"]
        for where, name, found in rows:
            eps = "1e-5" if found is None else "spacing of x's dtype" if found.eps is None else f"{found.eps:g}"
            momentum = getattr(found, "momentum", None) if found is not None else (0.1 if "Batch" in name else None)
            lines.append(f"| {where} | `{name}` | {eps} | {'' if momentum is None else f'{momentum:g}'} |")
        return "\n".join([*lines, "", "[What else differs](/explanation/differences.md)."])

    def speed(self) -> str:
        tables = records.table_rows(DOCS / "zoo_speed.md", {self.title, self.name})
        parts = []
        if self.cells:
            widest = max(cell.times for cell in self.cells)
            bars = "".join(
                f'<div class="bar"><span class="what">{escape(cell.what)}</span>'
                f'<span class="track"><span class="fill" style="width:{100 * cell.times / widest:.0f}%"></span></span>'
                f'<span class="value">{cell.times:.2f}</span></div>'
                for cell in self.cells
            )
            parts += [
                f"Times as fast as the fastest of {records.listed(records.libraries(self.cells))}; 1 is equal:",
                f'<div class="bars">{bars}</div>',
                f"{records.about_peers(self.record)} [What was measured](/explanation/measured.md).",
            ]
        if tables:
            parts += [tables, "[How this was measured](/zoo_speed.md)."]
        return "\n\n".join(parts) or "No record holds a time of this norm."

    def accuracy(self) -> str:
        table = records.accuracy_table(self.title)
        commit, _ = records.recorded("accuracy.track_error")
        note = f"Largest error beside float64, relative to the largest value; asv's record of commit {commit}."
        return f"## Accuracy\n\n{table}\n\n{note}" if table else ""


def gallery(pages: list[Page]) -> str:
    """All norms on one page, to be filtered by family and by words."""
    buttons = "".join(
        f'<button type="button" data-family="{family}">{escape(family)}</button>' for family in ("all", *FAMILIES)
    )
    sections = []
    for family, words in FAMILIES.items():
        cards = "".join(_card(page) for page in pages if page.family == family)
        sections.append(
            f'<section data-family="{family}"><h2 id="{family}">{words}</h2><div class="cards">{cards}</div></section>'
        )
    tree = "\n".join(f"{page.title} <{page.name}>" for page in pages)
    if (DOCS / "zoo_speed.md").exists():  # written by a benchmark
        tree = f"/zoo_speed\n{tree}"
    return f"""# The zoo

All {len(pages)} norms of `nz.list_norms()`. In each cube, the values that share their statistics are blue. The words below a
norm say what it supports: "masks": `mask=`, `lengths=` and the like; "fuses": residual, activation and gate in the same pass;
"Numba": calls in functions that you compile. A number with "x" says how many times as fast as the fastest of
{records.listed(records.libraries(records.peers()[1]))} it was measured to be.

<div class="zoo-filter"><input type="search" placeholder="Search: a name, a word, a paper's author" aria-label="Search norms">
<div class="families">{buttons}</div><p class="count" aria-live="polite"></p></div>

<div class="zoo">{"".join(sections)}</div>

```{{toctree}}
:hidden:

{tree}
```
"""  # noqa: E501


def _card(page: Page) -> str:
    paper = next(listed.paper for listed in nz.list_norms() if listed == page.name)
    words = escape(f"{page.title} {page.name} {page.family} {page.summary} {paper}".lower(), quote=True)
    cube = (
        f'<img src="../_static/cubes/{page.name}.svg" alt="" loading="lazy">'
        if page.drawn
        else '<span class="no-cube">no view</span>'
    )
    speed = f'<span class="speed">{page.times:.1f} x</span>' if page.times else ""
    tags = "".join(f"<span>{tag}</span>" for tag in page.tags)
    return (
        f'<a class="zoo-card" href="{page.name}.html" data-words="{words}">{cube}<span class="text">'
        f"<strong>{page.title}</strong><span class='summary'>{escape(page.summary)}</span>"
        f'<span class="short">{page.formula}</span><span class="tags">{tags}{speed}</span></span></a>'
    )


def families(pages: list[Page]) -> str:
    """The picture of README: each different cube once, with the norms that share it."""
    found: dict[tuple[str, ...], list[Page]] = {}
    for page in pages:
        if page.drawn is not None:
            found.setdefault((page.drawn.key, *page.drawn.names), []).append(page)
    groups = sorted(found.values(), key=lambda group: -len(group))
    columns, width, parts, top = 5, 200, [], 0
    for first in range(0, len(groups), columns):
        row = groups[first : first + columns]
        lines = [_wrapped([page.title for page in group], 30) for group in row]
        for i, (group, titles) in enumerate(zip(row, lines, strict=True)):
            parts.append(_block(group[0], titles, i * width, top))
        top += 150 + 14 * max(map(len, lines))
    style = ".t{font:11px sans-serif;fill:#57606a}@media(prefers-color-scheme:dark){.t{fill:#9da7b3}}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns * width} {top}" role="img">'
        f"<title>Which values share their statistics, in blue</title><style>{style}</style>{''.join(parts)}</svg>\n"
    )


def _block(page: Page, names: list[str], x: int, y: int) -> str:
    """A cube at (x, y), with the names of the norms that share it."""
    d = page.drawn
    if d is None:
        return ""
    drawing = cubes.svg(d.set_of_corner, "", d.names)
    drawing = drawing.replace("<svg ", f'<svg x="{x + 20}" y="{y}" width="160" height="122" ', 1)
    return drawing + "".join(
        f'<text class="t" x="{x + 100}" y="{y + 140 + 14 * k}" text-anchor="middle">{name}</text>'
        for k, name in enumerate(names)
    )


def _wrapped(names: list[str], most: int) -> list[str]:
    lines = [""]
    for name in names:
        if lines[-1] and len(lines[-1]) + len(name) + 2 > most:
            lines[-1] += ","
            lines.append("")
        lines[-1] += (", " if lines[-1] else "") + name
    return lines


NORM_METHODS = (
    "__call__", "forward", "backward", "train", "eval", "to", "state_dict", "load_state_dict", "checked_state",
)  # fmt: skip


def is_hook(thing: Any) -> bool:
    return (inspect.getdoc(thing) or "").startswith("For authors of norms")


class Topic(NamedTuple):
    """A page of the reference: what it is about, and the entries on it."""

    name: str
    title: str
    text: str
    entries: Iterable[str | tuple[str, Iterable[str]]]

    def markdown(self) -> str:
        parts = [f"# {self.title}", self.text, "```{py:currentmodule} normzoo\n```"]
        for found in self.entries:
            path, members = (found, ()) if isinstance(found, str) else found
            thing = api.resolve(path)
            if not members and inspect.isclass(thing):
                members = api.public_methods(thing)
            parts += [
                f"## {path.removeprefix('normzoo.')}",
                api.entry(path, members, noindex=self.name == "authors" and path == "normzoo.Norm"),
            ]
        return "\n\n".join(parts) + "\n"


def functions(module: Any) -> list[str]:
    """Public functions and classes of a module, in the order of its file."""
    return [
        f"{module.__name__}.{name}"
        for name, thing in vars(module).items()
        if name[0] != "_" and getattr(thing, "__module__", "").startswith(module.__name__) and inspect.getdoc(thing)
    ]


FOLD = [f"normzoo.fold.{path.rsplit('.', 1)[1]}" for path in functions(fold) if not path.endswith(".Axes")]
TOPICS = (
    Topic(
        "norm",
        "Every norm",
        "What all norms have in common: the call, the backward pass, parameters, gradients and state. `norm.params`, "
        "`norm.grads` and `norm.buffers` are dicts of arrays by name; `norm.weight` is short for "
        '`norm.params["weight"]`.',
        (("normzoo.Norm", NORM_METHODS[:-1]), "normzoo.Saved", ("normzoo.Grads", ("others",))),
    ),
    Topic(
        "functional",
        "Functions",
        (inspect.getdoc(nz.functional) or "").partition("\n\n")[2],
        functions(nz.functional),
    ),
    Topic(
        "selection",
        "Values that count",
        "Masks, lengths, weights and segments. `norm(x, mask=...)` is short for `norm(nz.select(x, mask=...))`; see "
        "[Masks and lengths](/howto/masks.md).",
        ("normzoo.select",),
    ),
    Topic(
        "images",
        "Images",
        "Images of whole numbers become normalized floats; see [Images](/howto/images.md).",
        ("normzoo.normalize_image",),
    ),
    Topic(
        "statistics",
        "Statistics",
        "Counts, means and sums of squares that merge; quantiles and robust statistics, exact or by a sketch that "
        "merges, see [Scaling data](/howto/data.md); running statistics computed anew; what a norm sees.",
        (
            "normzoo.Stats", "normzoo.stats_of", *(f"normzoo.robust.{name}" for name in nz.robust.__all__),
            "normzoo.QuantileSketch",
            "normzoo.recalibrate", "normzoo.diagnose", "normzoo.Diagnosis",
        ),
    ),
    Topic(
        "exchange",
        "Names, files, other frameworks",
        "Norms by name, state under other frameworks' names, files, ONNX nodes, and folding into weights.",
        (
            "normzoo.list_norms", "normzoo.create", "normzoo.describe", "normzoo.Described", "normzoo.save",
            "normzoo.load", "normzoo.from_onnx", *FOLD,
        ),
    ),
    Topic(
        "running",
        "Backends, compilation, memory",
        "Which backend works, kernels that are compiled ahead, and the memory of results.",
        (
            "normzoo.use", "normzoo.compile_cache", "normzoo.Compiled", "normzoo.release_memory",
            "normzoo.device_array", "normzoo.show_versions",
        ),
    ),
    Topic(
        "distributed",
        "Several processes",
        "Batch statistics of all processes; see [Running statistics over processes](/howto/processes.md).",
        ("normzoo.SyncBatchNorm", "normzoo.convert_sync"),
    ),
    Topic(
        "authors",
        "For authors of norms",
        "What a norm of one's own is made of; see [Your own norm](/tutorials/own_norm.md). Users of norms need none of "
        "it.",
        (
            "normzoo.backends.contract.Moments", "normzoo.passes.view.Axes", ("normzoo.Norm", ("axes",)),
            "normzoo.passes.surrounded.Surrounded",
        ),
    ),
)  # fmt: skip


def activations() -> str:
    lines = [
        "# Activations", "",
        "What `activation=` of a norm takes, by name. Some take numbers, as `\"leaky_relu(0.2)\"`; one's own is a "
        "`normzoo.Activation`, see [Before and behind](/before_and_behind.md).", "",
        "| name | formula | source |", "|---|---|---|",
    ]  # fmt: skip
    for name in nz.list_activations():
        lines.append(f"| `{name}` | `{name.formula}` | {markdown(name.source).strip()} |")
    lines += ["", "```{py:currentmodule} normzoo\n```", "", "## Functions", ""]
    lines += [api.entry("normzoo.list_activations"), api.entry("normzoo.Activation")]
    return "\n".join(lines)


def torch_page() -> str:
    """Of normzoo.torch, read without importing it, as PyTorch need not be installed to build the pages."""
    folder = ROOT / "normzoo" / "torch"
    intro = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    parts = ["# normzoo.torch", markdown(intro), "```{py:currentmodule} normzoo\n```"]
    for file, prefix in (("convert", ""), ("modules", ""), ("threads", ""), ("functional", "functional.")):
        for name, shown, text in api.read_without_importing(folder / f"{file}.py"):
            if file == "modules" and name not in ("BatchNorm1d", "LayerNorm", "GroupNorm", "RMSNorm", "InstanceNorm1d"):
                continue
            if not shown and file != "modules":
                continue
            kind = "function" if shown else "class"
            body = api.linked(markdown(text))
            parts.append(f":::::{{py:{kind}}} torch.{prefix}{name}{shown}\n\n{body}\n:::::")
    return "\n\n".join(parts) + "\n"


def sklearn_page() -> str:
    """Of normzoo.sklearn, likewise read without importing it."""
    folder = ROOT / "normzoo" / "sklearn"
    intro = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    parts = ["# normzoo.sklearn", markdown(intro), "```{py:currentmodule} normzoo\n```"]
    for file in ("moments", "quantiles"):
        for name, shown, text in api.read_without_importing(folder / f"{file}.py"):
            if not shown:  # a class
                parts.append(f":::::{{py:class}} sklearn.{name}\n\n{api.linked(markdown(text))}\n:::::")
    return "\n\n".join(parts) + "\n"


def example_pages() -> dict[Path, str]:
    """The examples that are written in cells, as pages: text, code and the picture that each ends in."""
    pages, cards = {}, []
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "# %%" not in text:
            continue
        picture = ROOT / "examples" / "pictures" / f"{path.stem}.png"
        title, body = example(text)
        shown = f"\n![{title}](../../examples/pictures/{picture.name})\n" if picture.exists() else ""
        note = f"`python examples/{path.name}` draws this picture."
        pages[EXAMPLES / f"{path.stem}.md"] = f"# {title}\n{shown}\n{note}\n\n{body}\n"
        cards.append(
            f":::{{grid-item-card}} {title}\n:link: {path.stem}\n:link-type: doc\n"
            f":img-top: ../../examples/pictures/{picture.name}\n:::"
        )
    tree = "\n".join(path.stem for path in pages)
    grid = "::::{grid} 1 2 2 3\n:gutter: 3\n\n" + "\n\n".join(cards) + "\n::::\n\n" if cards else ""
    pages[EXAMPLES / "index.md"] = (
        "# Examples\n\nShort programs that run alone; each shows one idea and ends in a picture. Longer "
        "experiments, with several seeds, are in the folder `examples` of the repository.\n\n"
        f"{grid}```{{toctree}}\n:hidden:\n\n{tree}\n```\n"
    )
    return pages


def example(text: str) -> tuple[str, str]:
    """Title and body, in Markdown, of a program in cells."""
    parts, title = [], ""
    for cell in re.split(r"^# %%", text, flags=re.M):
        markup = cell.startswith(" [markdown]")
        lines = cell.split("\n")[1:] if parts or markup else cell.split("\n")
        if markup:
            words = "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines).strip()
            if not title:
                title, _, words = words.removeprefix("# ").partition("\n")
            parts.append(words.strip())
        elif code := "\n".join(lines).strip("\n"):
            parts.append(f"```python\n{code}\n```")
    return title, "\n\n".join(part for part in parts if part)
