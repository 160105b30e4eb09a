"""The steps of our own way of compiling: those of Numba, except for steps that kernels and helpers do not need."""

import copy
from collections.abc import Callable
from itertools import count
from typing import Any, ClassVar

from llvmlite.binding import Linkage
from numba.core import cgutils, ir, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, DefaultPassBuilder
from numba.core.compiler_machinery import FunctionPass, PassManager, register_pass
from numba.core.ir_utils import get_definition, guard
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering
from numba.core.untyped_passes import DeadBranchPrune


class _Library(JITCodeLibrary):
    """LLVM code that is optimized once, as a whole. Numba's own does so once more, before, for code that counts many
    references."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        passes, builder = self._codegen._module_pass_manager()
        passes.run(self._final_module, builder)


class _InlineLibrary(_Library):
    """LLVM code that is only linked into kernels, where it is optimized: optimizing it here would be wasted time."""

    def _optimize_final_module(self) -> None:
        pass

    def _get_module_for_linking(self) -> Any:
        """Numba's own method makes a copy."""
        self._ensure_finalized()
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == Linkage.external:
                function.linkage = "linkonce_odr"
        return self._final_module

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class _Lower(Lower):
    """Numba's lowering, except for two things that it does with every variable: count its references, and describe it
    to debuggers. Few variables have references to count, and finding that out each time is a large part of
    compilation. Arguments and their parts live as long as the call: their references are not counted either."""

    def lower_function_body(self) -> Any:
        self._borrowed = self._parts_of_arguments()
        return super().lower_function_body()

    def _parts_of_arguments(self) -> set[str]:
        """The variables that are an argument, or a part of one, and nothing else."""
        values: dict[str, list] = {}
        for block in self.func_ir.blocks.values():
            for line in block.find_insts(ir.Assign):
                values.setdefault(line.target.name, []).append(line.value)

        def is_part(name: str) -> bool:
            value, *others = values.get(name, [None])
            if others:
                return False
            op = value.op if isinstance(value, ir.Expr) else ""
            if op in ("getattr", "exhaust_iter") or (op == "static_getitem" and isinstance(value.index, int)):
                return isinstance(self.typeof(value.value.name), types.BaseTuple) and is_part(value.value.name)
            return isinstance(value, ir.Arg) or (isinstance(value, ir.Var) and is_part(value.name))

        return set(filter(is_part, values))

    def lower_assign(self, ty: Any, inst: Any) -> Any:
        name, value = inst.target.name, inst.value
        if name not in self._borrowed or not self._is_counted(ty):
            return super().lower_assign(ty, inst)
        if isinstance(value, ir.Arg):
            return self.context.cast(self.builder, self.fnargs[value.index], self.typeof(f"arg.{value.name}"), ty)
        of = value if isinstance(value, ir.Var) else value.value
        held, kind = self.loadvar(of.name), self.typeof(of.name)
        if isinstance(value, ir.Var) or value.op == "exhaust_iter":
            return self.context.cast(self.builder, held, kind, ty)
        index = kind.fields.index(value.attr) if value.op == "getattr" else value.index
        return self.context.cast(self.builder, self.builder.extract_value(held, index), kind[index], ty)

    def storevar(self, value: Any, name: str, argidx: int | None = None) -> None:
        if name not in self._borrowed or not self._is_counted(self.typeof(name)):
            super().storevar(value, name, argidx)
        elif name in self._singly_assigned_vars:
            self._blk_local_varmap[name] = value
        else:
            self._alloca_var(name, self.typeof(name))
            self.builder.store(value, self.getvar(name))

    def alloca_lltype(self, name: str, lltype: Any, datamodel: Any = None) -> Any:
        return cgutils.alloca_once(self.builder, lltype, name=name)

    def delvar(self, name: str) -> None:
        if name not in self._borrowed and self._is_counted(self.typeof(name)):
            super().delvar(name)

    def incref(self, typ: Any, val: Any) -> None:
        if self._is_counted(typ):
            super().incref(typ, val)

    def decref(self, typ: Any, val: Any) -> None:
        if self._is_counted(typ):
            super().decref(typ, val)

    def _is_counted(self, typ: Any) -> bool:
        return self.context.data_model_manager[typ].contains_nrt_meminfo()


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    _name = "normzoo_lowering"
    lowering_class = _Lower
    library_class: type = _Library

    def run_pass(self, state: Any) -> bool:
        state.library = self.library_class(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return super().run_pass(state)


@register_pass(mutates_CFG=True, analysis_only=False)
class _InlineLowering(_Lowering):
    """Lowering to LLVM without generating machine code: a helper is only ever inlined."""

    _name = "normzoo_inline_lowering"
    library_class = _InlineLibrary

    def run_pass(self, state: Any) -> bool:
        context = state.targetctx
        state.targetctx = copy.copy(context)
        state.targetctx.get_executable = _no_executable
        try:
            return super().run_pass(state)
        finally:
            state.targetctx = context


def _no_executable(library: Any, fndesc: Any, env: Any) -> Callable:
    """A key by which callers find the code, instead of an executable: any new built-in method."""
    return [].append


class Constant(types.Type):
    """The type of a named tuple whose fields are known when code is compiled: one type per value, without data."""

    def __init__(self, value: tuple) -> None:
        self.value = value
        super().__init__(f"{type(value).__name__}_{next(_numbers)}")  # different values need different names

    @property
    def key(self) -> Any:
        return type(self.value), self.value


_numbers = count()
constant_classes: set[type] = set()  # those of which all values have such a type: see `target.constant`


@register_pass(mutates_CFG=False, analysis_only=False)
class _Constants(FunctionPass):
    """Replaces the fields of such tuples by their values. Branches that depend on them are then removed before their
    types are inferred, which saves a third of the time to compile a kernel."""

    _name = "normzoo_constants"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        code = state.func_ir
        for block in code.blocks.values():
            for line in block.find_insts(ir.Assign):
                expression = line.value
                if isinstance(expression, ir.Expr) and expression.op == "getattr":
                    record = self._value(state, guard(get_definition, code, expression.value))
                    if record is not None:
                        line.value = ir.Global(expression.attr, getattr(record, expression.attr), line.loc)
                        known = code._definitions[line.target.name]
                        known[known.index(expression)] = line.value
        return True

    def _value(self, state: Any, definition: Any) -> Any:
        if isinstance(definition, ir.Arg):
            kind = state.args[definition.index]
            return kind.value if isinstance(kind, Constant) else None
        value = getattr(definition, "value", None) if isinstance(definition, ir.Global | ir.FreeVar) else None
        return value if type(value) in constant_classes else None


class _Lean(PassManager):
    """Numba analyses a function again after each pass that may change it, which is a seventh of the time to compile a
    kernel. Those of its passes that need the analysis make their own."""

    _ENFORCING = False


class KernelCompiler(Compiler):
    """Numba's compiler with another lowering, and without the passes that kernels and helpers do not need: even
    scanning dozens of functions costs time."""

    lowering: type = _Lowering
    pipelines: ClassVar[dict[type, PassManager]] = {}
    needless = frozenset(
        [
            "WithLifting",
            "InlineClosureLikes",
            "RewriteDynamicRaises",
            "MakeFunctionToJitFunction",
            "InlineInlinables",
            "FindLiterallyCalls",
            "LiteralUnroll",
            "LiteralPropagationSubPipelinePass",
            "InlineOverloads",
            "NopythonRewrites",
            "NoPythonSupportedFeatureValidation",
            "AnnotateTypes",
            "DumpParforDiagnostics",
        ]
    )

    def define_pipelines(self) -> list:
        """A single pipeline for all functions: creating one takes as long as some of its passes."""
        known = self.pipelines.get(type(self))
        if known is not None:
            return [known]
        pipeline = _Lean("normzoo") if self.needless else PassManager("normzoo")
        for step, why in DefaultPassBuilder.define_nopython_pipeline(self.state).passes:
            if step is DeadBranchPrune:
                pipeline.add_pass(_Constants, "fields of constants")
            if step.__name__ not in self.needless:
                pipeline.add_pass(self.lowering if step is NativeLowering else step, why)
        pipeline.finalize()
        self.pipelines[type(self)] = pipeline
        return [pipeline]


class HelperCompiler(KernelCompiler):
    lowering = _InlineLowering


class InlineCompiler(HelperCompiler):
    """The compiler for arbitrary functions."""

    needless = frozenset()
