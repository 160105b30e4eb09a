"""What a class of modules computes, by its source: the signature of a forward pass."""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import torch


class _Renamed(ast.NodeTransformer):
    """Local names in the order in which they are written, and nothing that is not computed: two classes that differ in
    names of variables, annotations and docstrings are the same."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def _local(self, name: str) -> str:
        return self.names.setdefault(name, f"v{len(self.names)}")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        for part in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            if part.arg != "self":
                self._local(part.arg)
            part.annotation = None
        for each in ast.walk(node):
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
                self._local(each.id)
        node.returns = None
        node.body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.arg = self.names.get(node.arg, node.arg)
        return node

    def visit_Name(self, node: ast.Name) -> ast.Name:
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_Expr(self, node: ast.Expr) -> Any:  # a string among the statements is a comment
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)


def _written(node: Any) -> str:
    """A tree as text, the same for every version of Python (`ast.dump` is not)."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in node._fields if name not in ("ctx", "type_comment"))
        return f"{type(node).__name__}({','.join(f'{n}={_written(v)}' for n, v in fields if v not in (None, []))})"
    if isinstance(node, list):
        return f"[{','.join(map(_written, node))}]"
    return repr(node)


def canonical(source: str) -> str:
    """The source of one function, with what does not count left out."""
    tree = ast.parse(textwrap.dedent(source)).body[0]
    return _written(_Renamed().visit(tree))


def _called(source: str) -> Iterator[str]:
    """Names of the methods that a method calls on itself."""
    for node in ast.walk(ast.parse(textwrap.dedent(source))):
        found = node.func if isinstance(node, ast.Call) else None
        if isinstance(found, ast.Attribute) and isinstance(found.value, ast.Name) and found.value.id == "self":
            yield found.attr


def base_of(cls: type) -> type:
    """The class of torch.nn that a class is made of."""
    return next(c for c in cls.__mro__ if c.__module__.startswith("torch.nn.modules."))


def signature(cls: type) -> str | None:
    """What the class computes: a digest of the source of `forward` and of the methods of its own that it calls, and of
    the class of torch.nn that it is made of. None where the source cannot be read, or where `super()` leads to another
    class than that.

    Names of variables, annotations, comments and docstrings do not count, names of attributes do.

    >>> import torch, normzoo.torch as nzt
    >>> class Doubled(torch.nn.LayerNorm):
    ...     pass
    >>> nzt.signature(Doubled) == nzt.signature(torch.nn.LayerNorm)
    True
    """
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        raise TypeError(f"signature: expected a class of torch.nn.Module, got {cls!r}; write type(module)")
    base, seen, parts, waiting = base_of(cls), set(), [], ["forward"]
    while waiting:
        name = waiting.pop(0)
        function = getattr(cls, name, None)
        if name in seen or not inspect.isfunction(function) or (name != "forward" and hasattr(base, name)):
            continue
        seen.add(name)
        try:
            source = inspect.getsource(inspect.unwrap(function))
            parts.append(canonical(source))
        except (OSError, TypeError, SyntaxError):
            return None
        owner = next(c for c in cls.__mro__ if name in vars(c))
        if "super()" in source and cls.__mro__[cls.__mro__.index(owner) + 1] is not base:
            return None
        waiting.extend(_called(source))
    return digest(base.__name__, parts)


def digest(base: str, parts: list[str]) -> str:
    return hashlib.sha256("\n".join([base, *parts]).encode()).hexdigest()[:16]
