"""Private names that no way of compiling does without: compiled code that calls other compiled code, by its address or
as a function of its own, and what it is compiled for.

All are of Numba's context for a target and of what a compilation gives, as they have been since Numba 0.50. Without
them there is no machine code that works on `Flat` arrays, and no CPU backend but with NUMBA_DISABLE_JIT.
"""

from collections.abc import Callable
from typing import Any

from numba.core import types
from numba.core.imputils import impl_ret_new_ref

returned_new = impl_ret_new_ref  # (context, builder, type, value): the value holds a reference, which is the caller's


def triple(context: Any) -> str:
    """Of the machine that is compiled for, such as "x86_64-unknown-linux-gnu"."""
    return context.codegen().magic_tuple()[0]


def features(context: Any) -> str:
    """What its processor can do, as LLVM writes it: "+avx2,-avx512f,..."."""
    return context.codegen().magic_tuple()[2]


def machine_code(kernel: Any, signature: tuple[types.Type, ...]) -> tuple[Callable, int, Any]:
    """Compiled for these types, or loaded from disk: a function that does not look at its arguments' types, the address
    for compiled code, and what keeps both alive."""
    kernel.compile(signature)
    made = kernel.overloads[signature]
    return made.entry_point, made.library.get_pointer_to_function(made.fndesc.llvm_func_name), made


def function_type(context: Any, taken: Any) -> Any:
    """LLVM's type of a function of these types that returns nothing."""
    return context.call_conv.get_function_type(types.none, taken)


def call_at(context: Any, builder: Any, function: Any, taken: Any, given: Any) -> Any:
    """Call such a function; the status of the call."""
    return context.call_conv.call_function(builder, function, types.none, taken, given)[0]


def raise_as(context: Any, builder: Any, status: Any) -> None:
    """Raise what a function that was called raised."""
    context.call_conv.return_status_propagate(builder, status)


def raise_new(context: Any, builder: Any, error: type, text: str) -> None:
    context.call_conv.return_user_exc(builder, error, (text,))


def address_in(context: Any, builder: Any, address: int, name: str) -> Any:
    """An address of this process as a constant, which keeps the code from being cached."""
    return context.add_dynamic_addr(builder, address, info=name)


def compile_for(work: Any, taken: tuple[types.Type, ...]) -> None:
    """Compile a function for these types, while types are inferred."""
    work.get_call_type(work.dispatcher.typingctx, taken, {})


def linked(context: Any, work: Any, taken: tuple[types.Type, ...]) -> Any:
    """That function, whose code now belongs to the one that is being compiled."""
    called = work.get_call_type(context.typing_context, taken, {})
    compiled = work.dispatcher.get_compile_result(called)
    context.active_code_library.add_linking_library(compiled.library)
    return compiled.fndesc


def name_of(function: Any) -> str:
    return function.mangled_name


def call_linked(context: Any, builder: Any, function: Any, taken: tuple[types.Type, ...], given: list) -> Any:
    """Call it; the status of the call, which raises nothing."""
    return context.call_internal_no_propagate(builder, function, types.none(*taken), given)[0]


def allocated(context: Any, builder: Any, length: Any, align: int) -> tuple[Any, Any]:
    """Memory that Numba counts references to, and where it begins."""
    held = context.nrt.meminfo_alloc_aligned(builder, length, align=align)
    return held, context.nrt.meminfo_data(builder, held)


def python_api(context: Any, builder: Any) -> Any:
    """Python's C interface in compiled code."""
    return context.get_python_api(builder)
