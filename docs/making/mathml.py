"""Formulas in docstrings, such as y = x / sqrt(mean(x^2) + eps), as MathML, which browsers typeset."""

import ast
import keyword
import re
from collections.abc import Iterator
from html import escape

SYMBOLS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "eps": "ε", "lambda_": "λ", "mu": "μ", "phi": "φ",
    "nu": "ν", "pi": "π", "psi": "ψ", "rho": "ρ", "sigma": "σ", "tau": "τ", "xhat": "x̂", "prime": "′",
}  # fmt: skip
OPERATORS: dict[type, str] = {
    ast.Add: "+", ast.Sub: "−", ast.Mult: "·", ast.MatMult: "\u2009", ast.Eq: "=", ast.Lt: "<", ast.LtE: "≤",
    ast.Gt: ">", ast.GtE: "≥", ast.NotEq: "≠",
}  # fmt: skip
BINDING: dict[type, int] = {ast.Add: 1, ast.Sub: 1, ast.Mult: 2, ast.MatMult: 2, ast.Div: 2, ast.FloorDiv: 2}
ATOM, POWER = 9, 4
PAUSES = ".,;:"
WORDS = ("over", "of")  # words that follow a sum and are not names


class NoFormula(Exception):
    """The text is not a formula, or one that is not supported here."""


def paragraph(text: str) -> str:
    """HTML of text with formulas: every longest part that parses as a formula is typeset, other text is kept."""
    pieces = list(_pieces(text))
    out, start = [], 0
    while start < len(pieces):
        for end in range(len(pieces), start, -1):
            if any(piece.rstrip()[-1:] in PAUSES for piece in pieces[start : end - 1]):
                continue  # a formula does not extend beyond a clause
            source = "".join(pieces[start:end])
            body = source.rstrip().rstrip(PAUSES)
            found = _formula(body)
            if found is not None:
                out.append(found + escape(source[len(body) :], quote=False))
                start = end
                break
        else:
            out.append(_plain(pieces[start]))
            start += 1
    return "".join(out)


def _pieces(text: str) -> Iterator[str]:
    """Split the text after each space that is outside brackets and code."""
    depth, code, piece = 0, False, ""
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        code ^= character == "`"
        piece += character
        if character.isspace() and depth <= 0 and not code:
            yield piece
            piece = ""
    if piece:
        yield piece


def _plain(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _formula(source: str) -> str | None:
    """MathML of a formula; None if the text is not one."""
    if not source or source[0].isspace() or "`" in source or not re.search(r"[=+*/^@<>|\[(]", source):
        return None
    code = re.sub(r"\|\|([^|]+)\|\|(_\w+)?", r"norm(\1)", source)
    code = re.sub(r"\|([^|]+)\|", r"abs(\1)", code)
    code = re.sub(r"\b([a-z]\w*)'(?!\w)", r"\1_prime", code).replace("^", "**")
    words = re.findall(r"\b[a-zA-Z_]\w*", code)
    if any(keyword.iskeyword(word) and word != "lambda" for word in words):
        return None
    code = re.sub(r"\blambda\b", "lambda_", code)
    for text in (code, re.sub(r"(?<= )=(?= )", "==", code)):  # an equation whose left side is no name, too
        try:
            statement = ast.parse(text, mode="exec").body
            if len(statement) == 1:
                return f'<math displaystyle="true">{_statement(statement[0])}</math>'
        except (SyntaxError, NoFormula):
            continue
    return None


def _statement(node: ast.stmt) -> str:
    if isinstance(node, ast.Assign):
        return "<mo>=</mo>".join(_set(part)[0] for part in [*node.targets, node.value])
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Name | ast.Constant | ast.Tuple | ast.List):
        return _set(node.value)[0]
    raise NoFormula


def _row(*parts: str) -> str:
    return f"<mrow>{''.join(parts)}</mrow>"


def _bracketed(inner: str, left: str = "(", right: str = ")") -> str:
    return _row(f"<mo>{left}</mo>", inner, f"<mo>{right}</mo>")


def _set(node: ast.expr) -> tuple[str, int]:  # noqa: PLR0911 (one return for each kind)
    """MathML of an expression, and its binding strength."""
    match node:
        case ast.Name():
            return _name(node.id), ATOM
        case ast.Constant(value=int() | float() as value):
            return f"<mn>{value}</mn>", ATOM
        case ast.Constant(value=found) if found is ...:
            return "<mo>…</mo>", ATOM
        case ast.Attribute():
            return f"<mi>{escape(ast.unparse(node))}</mi>", ATOM
        case ast.UnaryOp(op=ast.USub()):
            return _row("<mo>−</mo>", _tight(node.operand, 2)), 1
        case ast.BinOp():
            return _binary(node)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in OPERATORS:
            return _row(_set(left)[0], f"<mo>{escape(OPERATORS[type(op)])}</mo>", _set(right)[0]), 0
        case ast.Subscript():
            return f"<msub>{_tight(node.value, ATOM)}{_list(node.slice)}</msub>", ATOM
        case ast.Call(func=ast.Name(id=name), keywords=[]) if node.args:
            return _call(name, node.args)
        case ast.Tuple() | ast.List():
            return _bracketed(_list(node), *("()" if isinstance(node, ast.Tuple) else "[]")), ATOM
    raise NoFormula


def _binary(node: ast.BinOp) -> tuple[str, int]:
    kind = type(node.op)
    if kind is ast.Pow:
        return f"<msup>{_tight(node.left, ATOM)}{_row(_set(node.right)[0])}</msup>", POWER
    if kind is ast.Div:
        return f"<mfrac>{_row(_set(node.left)[0])}{_row(_set(node.right)[0])}</mfrac>", ATOM
    if kind is ast.FloorDiv:
        return _bracketed(f"<mfrac>{_row(_set(node.left)[0])}{_row(_set(node.right)[0])}</mfrac>", "⌊", "⌋"), ATOM
    if kind not in OPERATORS:
        raise NoFormula
    binding = BINDING[kind]
    left, right = _tight(node.left, binding), _tight(node.right, binding + 1)
    return _row(left, f"<mo>{OPERATORS[kind]}</mo>", right), binding


def _call(name: str, arguments: list[ast.expr]) -> tuple[str, int]:
    inner = "<mo>,</mo>".join(_set(a)[0] for a in arguments)
    if name == "sqrt" and len(arguments) == 1:
        return f"<msqrt>{inner}</msqrt>", ATOM
    if name in ("abs", "norm") and len(arguments) == 1:
        bar = "|" if name == "abs" else "‖"
        return _bracketed(inner, bar, bar), ATOM
    if name in WORDS:
        raise NoFormula
    return _row(_name(name), "<mo>&#x2061;</mo>", _bracketed(inner)), ATOM


def _tight(node: ast.expr, binding: int) -> str:
    """An operand, in brackets if it binds less than `binding`."""
    found, own = _set(node)
    return found if own >= binding else _bracketed(found)


def _list(node: ast.expr) -> str:
    parts = node.elts if isinstance(node, ast.Tuple | ast.List) else [node]
    return _row("<mo>,</mo>".join(_set(part)[0] for part in parts))


def _name(name: str) -> str:
    """A symbol; with an index, if the name is a letter or symbol followed by one."""
    first, _, index = name.rstrip("_").partition("_")
    if name in SYMBOLS:
        return f"<mi>{SYMBOLS[name]}</mi>"
    if index == "prime":
        return f"<mi>{SYMBOLS.get(first, first)}′</mi>"
    if index and (len(first) <= 2 or first in SYMBOLS or first in ("mean", "var") or len(index) == 1):
        return f"<msub><mi>{SYMBOLS.get(first, first)}</mi><mi>{SYMBOLS.get(index, escape(index))}</mi></msub>"
    return f"<mi>{escape(name)}</mi>"
