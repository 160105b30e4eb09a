"""The steps of our own way of compiling: those of Numba, except for steps that kernels and helpers do not need."""

import copy
from collections.abc import Callable
from typing import Any, ClassVar

from llvmlite.binding import Linkage
from numba.core import cgutils
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering


class _InlineLibrary(JITCodeLibrary):
    """LLVM code that is only linked into kernels, where it is optimized: optimizing it here would be wasted time."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

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
    compilation."""

    def alloca_lltype(self, name: str, lltype: Any, datamodel: Any = None) -> Any:
        return cgutils.alloca_once(self.builder, lltype, name=name)

    def delvar(self, name: str) -> None:
        if self._is_counted(self.typeof(name)):
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


@register_pass(mutates_CFG=True, analysis_only=False)
class _InlineLowering(_Lowering):
    """Lowering to LLVM without generating machine code: a helper is only ever inlined."""

    _name = "normzoo_inline_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _InlineLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
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
