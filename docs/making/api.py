"""Entries of the reference: a class, function or method as a MyST directive, made of its signature and docstring."""

import ast
import importlib
import inspect
import re
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import normzoo as nz
from making.docstrings import markdown
from normzoo.passes.around import NOTHING_SET

# Types as Python shows them, and as they are read.
TYPES = [
    (r"numpy\.ndarray\[typing\.Any, typing\.Any\]", "Array"),
    (r"<class 'numpy\.(\w+)'>", r"np.\1"),
    (r"(?:(?!np\.)\b[A-Za-z_]\w*\.)+(\w+)", r"\1"),
    (r"\*Unpack\[(\w+)\]|Unpack\[(\w+)\]", r"\1\2"),
    (r"ForwardRef\('(\w+)'\)", r"\1"),
]


def signature(function: Any, method: bool = False) -> str:
    """Of a function or class. Keyword arguments that a TypedDict names are shown one by one."""
    found = inspect.signature(function)
    parameters = list(found.parameters.values())[1 if method else 0 :]
    shown = []
    for p in parameters:
        named = typing.get_args(p.annotation)[:1] if p.kind is p.VAR_KEYWORD else ()
        if named and typing.is_typeddict(named[0]):
            for name, kind in typing.get_type_hints(named[0]).items():
                default = getattr(NOTHING_SET, name, None)  # nothing stands around, unless it is said
                shown.append(inspect.Parameter(name, p.KEYWORD_ONLY, default=default, annotation=kind))
        else:
            shown.append(p)
    returned = inspect.Signature.empty if inspect.isclass(function) else found.return_annotation
    text = str(found.replace(parameters=_in_order(shown), return_annotation=returned))
    for pattern, better in TYPES:
        text = re.sub(pattern, better, text)
    return text


def _in_order(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    unique = {p.name: p for p in parameters}  # what a function names itself, it need not take from others
    return sorted(unique.values(), key=lambda p: p.kind)


def text_of(thing: Any) -> str:
    return linked(markdown(inspect.getdoc(thing) or ""))


def linked(text: str) -> str:
    """Names of public things in code become references to their entries."""

    def link(found: re.Match[str]) -> str:
        name = found[1]
        plain = name.removeprefix("normzoo.").removesuffix("()")
        return f"{{py:obj}}`{name} <normzoo.{plain}>`" if plain.split(".")[0] in nz.__all__ else found[0]

    parts = re.split(r"(```.*?```)", text, flags=re.S)
    return "".join(p if p.startswith("```") else re.sub(r"(?<![`{}])`([\w.]+(?:\(\))?)`(?!`)", link, p) for p in parts)


def entry(path: str, members: Iterable[str] = (), kind: str | None = None, noindex: bool = False) -> str:
    """The entry of `path`, as "normzoo.Norm", and of those of its members that are named."""
    thing = resolve(path)
    directive = kind or ("class" if inspect.isclass(thing) else "function")
    path = path.removeprefix("normzoo.")  # pages have `currentmodule`
    inner = "".join(_member(thing, path, name) for name in members)
    head = path + (signature(thing) if callable(thing) else "")
    return f":::::{{py:{directive}}} {head}\n{':no-index:' if noindex else ''}\n\n{text_of(thing)}\n{inner}\n:::::\n"


def _member(owner: Any, path: str, name: str) -> str:
    thing = inspect.getattr_static(owner, name)
    function = getattr(thing, "__func__", thing)
    if isinstance(function, property):
        return f"\n::::{{py:property}} {path}.{name}\n\n{text_of(function)}\n::::\n"
    if not callable(function):
        return f"\n::::{{py:attribute}} {path}.{name}\n::::\n"
    static = isinstance(thing, staticmethod)
    option = {"staticmethod": "staticmethod", "classmethod": "classmethod"}.get(type(thing).__name__)
    shown = signature(function, method=not static)
    return f"\n::::{{py:method}} {path}.{name}{shown}\n{f':{option}:' if option else ''}\n\n{text_of(function)}\n::::\n"


def resolve(path: str) -> Any:
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for name in parts[cut:]:
            found = getattr(found, name)
        return found
    raise ImportError(path)


def public_methods(kind: type) -> list[str]:
    """Methods and properties of a class that have a docstring, in the order of their definition."""
    return [
        name
        for name, thing in vars(kind).items()
        if not name.startswith("_")
        and (callable(getattr(thing, "__func__", thing)) or isinstance(thing, property))
        and inspect.getdoc(thing if isinstance(thing, property) else getattr(thing, "__func__", thing))
    ]


def read_without_importing(path: Path) -> Iterator[tuple[str, str, str]]:
    """(name, signature, docstring) of public functions and classes of a file, whose imports need not be installed."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name[0] != "_" and ast.get_docstring(node):
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            shown = re.sub(r"Unpack\[(\w+)\]", r"\1", ast.unparse(node.args))
            yield node.name, f"({shown}){returns}", ast.get_docstring(node) or ""
        elif isinstance(node, ast.ClassDef) and node.name[0] != "_" and ast.get_docstring(node):
            yield node.name, "", ast.get_docstring(node) or ""
