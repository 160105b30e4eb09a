"""Our own way of compiling: a variant of Numba's "cpu" target that knows only what kernels use.

In the first call of a process, even before it loads code from disk, Numba's own target loads everything that it can
compile: most of NumPy, linear algebra (for which it imports SciPy), strings, typed containers. That takes a quarter of
a second, and whenever a kernel adds two numbers, all their operators are searched. This target knows arithmetic,
tuples, ranges, a few functions of `math`, and the primitives of this package. If the private names it uses are missing,
`plain.py` compiles the kernels, with bit-identical results.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import types
from numba.core.cpu import CPUContext, CPUTargetOptions
from numba.core.descriptors import TargetDescriptor
from numba.core.dispatcher import Dispatcher
from numba.core.imputils import Registry as Lowered
from numba.core.runtime import rtsys
from numba.core.typing import Context, mathdecl, templates
from numba.core.typing.typeof import typeof_impl
from numba.extending import models, register_model

from normzoo.backends.cpu.numba_internals.needed import machine_code
from normzoo.backends.cpu.numba_internals.pipeline import (
    Constant,
    HelperCompiler,
    InlineCompiler,
    KernelCompiler,
    constant_classes,
)

_declared, _lowered = templates.Registry(), Lowered("normzoo")
lower = _lowered.lower  # decorator of functions that generate a primitive's LLVM code for arguments of these types


def typed(function: Callable, rule: Callable) -> None:
    """Declare `function` to type inference: its result type is `rule(*argument types)`; None means that they do not
    fit.

    Declarations for a specific target are searched before general ones: otherwise `+` of lanes would be searched among
    all additions each time.
    """

    class Template(templates.AbstractTemplate):
        key = function
        metadata = {"target": "cpu"}  # noqa: RUF012  (as in Numba's own)

        def generic(self, args, kws):
            result = rule(*args)
            return None if result is None else templates.signature(result, *args)

    _declared.register(Template)
    _declared.register_global(function, types.Function(Template))


def constant(kind: type) -> type:
    """Decorator of a class of named tuples, which are known when code is compiled: see `Constant`."""
    constant_classes.add(kind)
    typeof_impl.register(kind)(lambda value, _: Constant(value))
    return kind


register_model(Constant)(models.OpaqueModel)


@_declared.register_attr
class _Fields(templates.AttributeTemplate):
    key = Constant

    def generic_resolve(self, value: Any, attr: Any) -> Any:  # type: ignore[override]  # a constant in Numba
        return self.context.resolve_value_type(getattr(value.value, attr))


@_lowered.lower_constant(Constant)
def _no_data(context, builder, kind, value):
    return context.get_dummy_value()


@_lowered.lower_getattr_generic(Constant)
def _field(context, builder, kind, value, attr):
    found = getattr(kind.value, attr)
    return context.get_constant_generic(builder, context.typing_context.resolve_value_type(found), found)


class _Declared(templates.RegistryLoader):
    """The declarations of others, except functions written in Python, which Numba would compile for its own target."""

    written = frozenset([templates._OverloadFunctionTemplate, templates._OverloadAttributeTemplate])

    def new_registrations(self, name: str) -> Iterator[Any]:
        for item in super().new_registrations(name):
            # issubclass would check thousands of classes that derive from these
            if self.written.isdisjoint(getattr(item, "__mro__", ())):
                yield item


class _Types(Context):
    """Type inference: the result types of functions."""

    def install_registry(self, registry: Any) -> None:
        if registry not in self._registries:
            self._registries[registry] = _Declared(registry)
        super().install_registry(registry)

    def load_additional_registries(self) -> None:
        self.install_registry(mathdecl.registry)
        self.install_registry(_declared)


class _Code(CPUContext):
    """Code generation for these functions."""

    def load_additional_registries(self) -> None:
        from numba.cpython import builtins, iterators, mathimpl, numbers, rangeobj, tupleobj  # noqa: F401, PLC0415

        rtsys.initialize(self)
        self.install_registry(mathimpl.registry)
        self.install_registry(_lowered)


class _Target(TargetDescriptor):
    options = CPUTargetOptions
    typing_context = _Types()
    target_context = _Code(typing_context)


@contextmanager
def _quietly() -> Iterator[None]:
    """Numba logs every step to a root logger of level DEBUG: a hundred thousand lines for the first kernel. Here it
    does so only if its own logger was given a level."""
    logger = logging.getLogger("numba")
    if logger.level != logging.NOTSET or logger.getEffectiveLevel() >= logging.WARNING:
        yield
        return
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(logging.NOTSET)


class _Function(Dispatcher):
    """A function that is compiled once for each combination of argument types."""

    targetdescr = _Target("cpu")

    def compile(self, sig: Any) -> Any:
        with _quietly():
            return super().compile(sig)

    def get_call_template(self, given: Any, named: Any) -> Any:
        """Numba would compile the function for each value of a literal or closed-over flag. Here it is compiled once
        per types: LLVM, which inlines the code into each kernel, finds the same dead branches."""
        return super().get_call_template(
            tuple(map(types.unliteral, given)), {name: types.unliteral(t) for name, t in named.items()}
        )


def jit(function: Callable, is_helper: bool, **options: Any) -> Any:
    """Like numba.njit, for this target: a kernel, or a helper, which is only ever inlined."""
    given = {"nopython": True, "error_model": "numpy", "forceinline": is_helper, **options}
    return _Function(function, targetoptions=given, pipeline_class=HelperCompiler if is_helper else KernelCompiler)


# options of `register_jitable` for functions that only compiled code of Numba's own target calls
inlined: dict[str, Any] = {"pipeline_class": InlineCompiler}


def probe() -> None:
    """Compile a kernel with a helper and a primitive of its own, and call it.

    Raises:
        Exception: anything that an unknown version of Numba raises.
    """

    def half(v):
        return v / 2

    typed(half, lambda v: types.float64)

    @lower(half, types.Float)
    def _half(context, builder, sig, args):
        return builder.fmul(args[0], args[0].type(0.5))

    def add(total, v):
        return total + half(v)

    adding = jit(add, True, no_cpython_wrapper=True, no_cfunc_wrapper=True)

    def halves(count, v):
        total = 0.0
        for _ in range(count):
            total = adding(total, v)
        return total

    call, _, _ = machine_code(jit(halves, False, nogil=True, no_cfunc_wrapper=True), (types.int64, types.float64))
    found = call(3, 1.5)
    if found != 2.25:
        raise ValueError(f"1.5 halved and added up three times is {found!r}")
