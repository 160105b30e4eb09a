"""Formulas of sixteen lanes in Python's operators, which write LLVM's code: `Term`.

Numbers of a formula lie side by side in memory, so that one address reaches all; as LLVM's constants each would have an
address of its own, which takes an instruction in most uses.

Only IEEE 754's operations, fma among them, and those on bits: results are the same whatever the instruction set.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from llvmlite import ir

from normzoo.backends.cpu.numba_internals.way import lower, typed
from normzoo.backends.cpu.vector.lanes import LANES, ShortVec, Vec, filled, intrinsic, suffix
from normzoo.backends.cpu.vector.storage import word

MANY = 9  # coefficients, from which on a polynomial is computed in pairs: fewer would be as fast, and less exact
SPACE = 64  # numbers in a table
SHORT_FORMULAS: dict[Callable, Callable] = {}  # of lanes of which few digits are wanted: see `short.py`


class Table:
    """Numbers of a function in memory."""

    def __init__(self, builder: Any, name: str, element: ir.Type) -> None:
        self._builder = builder
        self._found: dict[int, int] = {}  # the index of bits
        self._word = ir.IntType(32 if isinstance(element, ir.FloatType) else 64)
        self._held = ir.GlobalVariable(builder.module, ir.ArrayType(self._word, SPACE), name)
        self._held.linkage, self._held.global_constant = "internal", True
        hidden = ir.FunctionType(self._held.type, [self._held.type])  # from LLVM, which would make constants of it
        self._first = builder.asm(hidden, "", "=r,0", [self._held], False)

    def lanes(self, kind: ir.VectorType, number: float) -> Any:
        """Sixteen times a number."""
        if number == 0:
            return ir.Constant(kind, None)  # of no memory
        index = self._found.setdefault(self._bits_of(kind.element, number), len(self._found))
        place = self._builder.gep(self._first, [word(0), word(index)])
        return filled(self._builder, self._builder.load(self._builder.bitcast(place, kind.element.as_pointer())))

    def _bits_of(self, element: ir.Type, number: float) -> int:
        if isinstance(element, ir.IntType):
            return int(number) % (1 << self._word.width)
        kind = np.float32 if self._word.width == 32 else np.float64
        return int(kind(number).view(f"u{self._word.width // 8}"))  # rounded as LLVM rounds it

    def close(self) -> None:
        """Write the numbers."""
        given = [*self._found, *[0] * (SPACE - len(self._found))]
        self._held.initializer = ir.Constant(self._held.value_type, given)


class Term:
    """Lanes of floats, of the integers of as many bits, or of truth."""

    def __init__(self, builder: Any, value: Any, table: Table) -> None:
        self._builder, self.value, self._table = builder, value, table

    @property
    def bits(self) -> int:
        """Of a lane."""
        element = self.value.type.element
        return element.width if isinstance(element, ir.IntType) else 32 if isinstance(element, ir.FloatType) else 64

    def _is_float(self) -> bool:
        return not isinstance(self.value.type.element, ir.IntType)

    def _made(self, instruction: str, *others: Any) -> Self:
        return self._new(getattr(self._builder, instruction)(self.value, *map(self._of, others)))

    def _new(self, value: Any) -> Self:
        return type(self)(self._builder, value, self._table)

    def _of(self, other: Any) -> Any:
        """LLVM's value of another term, or of a number in lanes like these."""
        return other.value if isinstance(other, Term) else self._table.lanes(self.value.type, other)

    def like(self, number: float) -> Self:
        """Lanes of a number."""
        return self._new(self._of(number))

    def __add__(self, other: Any) -> Self:
        return self._made("fadd" if self._is_float() else "add", other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Self:
        return self._made("fsub" if self._is_float() else "sub", other)

    def __rsub__(self, other: Any) -> Self:
        return self.like(other) - self

    def __mul__(self, other: Any) -> Self:
        return self._made("fmul", other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Self:
        return self._made("fdiv", other)

    def __rtruediv__(self, other: Any) -> Self:
        return self.like(other) / self

    def __neg__(self) -> Self:
        return self._made("fneg")

    def __abs__(self) -> Self:
        return self._intrinsic("fabs")

    def fma(self, factor: Any, added: Any) -> Self:
        """self * factor + added, rounded once."""
        return self._intrinsic("fma", factor, added)

    def _intrinsic(self, name: str, *others: Any) -> Self:
        kind, given = self.value.type, [self.value, *map(self._of, others)]
        return self._new(intrinsic(self._builder, f"llvm.{name}.v{LANES}f{self.bits}", kind, given))

    def polynomial(self, coefficients: Sequence[Any]) -> Self:
        """c[0] + c[1] * self + c[2] * self^2 + ... Where they are many, as one of self^2, in pairs: half of the steps
        that wait for each other."""
        if len(coefficients) >= MANY:
            pairs = [self.fma(b, a) for a, b in zip(coefficients[::2], coefficients[1::2], strict=False)]
            return (self * self).polynomial([*pairs, *coefficients[2 * len(pairs) :]])
        *others, found = coefficients
        for c in reversed(others):
            found = self.fma(found, c)
        return found

    # -- comparisons, false where one is NaN

    def __lt__(self, other: Any) -> Self:
        return self._new(self._builder.fcmp_ordered("<", self.value, self._of(other)))

    def __gt__(self, other: Any) -> Self:
        return self._new(self._builder.fcmp_ordered(">", self.value, self._of(other)))

    def equals(self, other: Any) -> Self:
        return self._new(self._builder.fcmp_ordered("==", self.value, self._of(other)))

    def where(self, condition: "Term", other: Any) -> Self:
        """These lanes where the condition holds, else those of the other."""
        return self._new(self._builder.select(condition.value, self.value, self._of(other)))

    def within(self, least: float, most: float) -> Self:
        """From least to most; NaN stays."""
        return self.like(least).where(self < least, self).at_most(most)

    def at_most(self, most: float) -> Self:
        """NaN stays."""
        return self.like(most).where(self > most, self)

    # -- integers

    def integers(self) -> Self:
        """The bits of floats."""
        kind = ir.VectorType(ir.IntType(self.bits), LANES)
        return self._new(self._builder.bitcast(self.value, kind))

    def floats(self) -> Self:
        """Of these bits."""
        kind = ir.VectorType(ir.FloatType() if self.bits == 32 else ir.DoubleType(), LANES)
        return self._new(self._builder.bitcast(self.value, kind))

    def __lshift__(self, count: int) -> Self:
        return self._moved("shl", count)

    def __rshift__(self, count: int) -> Self:
        """Zeros come in."""
        return self._moved("lshr", count)

    def _moved(self, instruction: str, count: int) -> Self:
        """By a count that is part of the instruction."""
        places = ir.Constant(self.value.type, [count] * LANES)
        return self._new(getattr(self._builder, instruction)(self.value, places))

    def __and__(self, other: Any) -> Self:
        return self._made("and_", other)

    def __or__(self, other: Any) -> Self:
        return self._made("or_", other)

    def signed_as(self, other: Self) -> Self:
        """With the sign of another."""
        sign = 1 << (self.bits - 1)
        return ((self.integers() & (sign - 1)) | (other.integers() & sign)).floats()


def lower_formula(primitive: Callable, formula: Callable[[Term], Term]) -> None:
    """A primitive of lanes by the formula, as a function that is called: inlined it would take up to a tenth less time,
    and be compiled again at each place."""
    typed(primitive, lambda v: v if isinstance(v, Vec) else None)

    @lower(primitive, Vec)
    def lowered(context, builder, sig, args):
        kind, used = args[0].type, formula
        name = f"normzoo_{primitive.__name__}_{suffix(sig.args[0].dtype)}"
        if isinstance(sig.args[0], ShortVec) and primitive in SHORT_FORMULAS:
            used, name = SHORT_FORMULAS[primitive], f"{name}_short"
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(kind, [kind]), name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            inner = ir.IRBuilder(function.append_basic_block("entry"))
            table = Table(inner, f"{name}_numbers", kind.element)
            inner.ret(used(Term(inner, function.args[0], table)).value)
            table.close()
        return builder.call(function, args)
