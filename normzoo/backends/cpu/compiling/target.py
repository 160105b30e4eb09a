"""Numba's target "cpu" as kernels know it: with what they use, and no more.

Numba's own learns all that it can compile at the first call of a process, before it even loads what is on disk: most
of NumPy, linear algebra (for which it imports SciPy), strings, typed containers. That takes a quarter of a second, and
the operators of all of these are looked through whenever a kernel adds two numbers. Here arithmetic, tuples, ranges and
a few functions of `math` are known, and the primitives of this package.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
from numba.core import types
from numba.core.cpu import CPUContext, CPUTargetOptions
from numba.core.descriptors import TargetDescriptor
from numba.core.dispatcher import Dispatcher
from numba.core.imputils import Registry as Lowered
from numba.core.runtime import rtsys
from numba.core.typing import Context, mathdecl, templates

_declared, _lowered = templates.Registry(), Lowered("normzoo")
lower = _lowered.lower  # a decorator: how a primitive becomes LLVM's code, for arguments of these types


def typed(function: Callable, rule: Callable) -> None:
    """Teach type inference `function`: its result type is `rule(*argument types)`, or None: not for these.

    What is of a target is asked before what is of any: else `+` of lanes would be looked for among all additions, each
    time.
    """

    class Template(templates.AbstractTemplate):
        key = function
        metadata = {"target": "cpu"}  # noqa: RUF012  (as in Numba's own)

        def generic(self, args, kws):
            result = rule(*args)
            return None if result is None else templates.signature(result, *args)

    _declared.register(Template)
    _declared.register_global(function, types.Function(Template))


class _Declared(templates.RegistryLoader):
    """What others declare, but for what is written in Python: Numba would compile it for its own target."""

    written = frozenset([templates._OverloadFunctionTemplate, templates._OverloadAttributeTemplate])

    def new_registrations(self, name: str) -> Iterator[Any]:
        for item in super().new_registrations(name):
            # issubclass would ask thousands of classes that derive from these
            if self.written.isdisjoint(getattr(item, "__mro__", ())):
                yield item


class _Types(Context):
    """Of which types the results of functions are."""

    def install_registry(self, registry: Any) -> None:
        if registry not in self._registries:
            self._registries[registry] = _Declared(registry)
        super().install_registry(registry)

    def load_additional_registries(self) -> None:
        self.install_registry(mathdecl.registry)
        self.install_registry(_declared)


class _Code(CPUContext):
    """Which code computes them."""

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
    """Numba tells a root logger of level DEBUG of every step it takes: a hundred thousand lines for the first kernel.
    Here it does so only if its own logger was given a level."""
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
    """A function that is compiled for each combination of the types that it is called with."""

    targetdescr = _Target("cpu")

    def compile(self, sig: Any) -> Any:
        with _quietly():
            return super().compile(sig)

    def get_call_template(self, given: Any, named: Any) -> Any:
        """Numba would compile it for each value of a flag that a caller writes or closes over. Here it does so once for
        the types: LLVM, which takes the code into each kernel, finds the same dead branches."""
        return super().get_call_template(
            tuple(map(types.unliteral, given)), {name: types.unliteral(t) for name, t in named.items()}
        )


def jit(function: Callable, pipeline: type, **options: Any) -> Any:
    """As numba.njit, for this target; `function` itself where Numba is switched off."""
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return function
    given = {"nopython": True, "error_model": "numpy", **options}
    return _Function(function, targetoptions=given, pipeline_class=pipeline)
