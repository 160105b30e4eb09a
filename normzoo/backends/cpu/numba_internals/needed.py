"""Private names that both ways of compiling require: for compiled code that calls other compiled code, by address or by
name, and for the properties of the target machine.

All of them are attributes of Numba's target context and compile results, unchanged since Numba 0.50. Without them no
machine code could work on `Flat` arrays, and the CPU backend would only run with NUMBA_DISABLE_JIT.
"""

from collections.abc import Callable
from typing import Any

from numba.core import types
from numba.core.imputils import impl_ret_new_ref, lower_constant

constant_of = lower_constant  # (type): a decorator of what makes a constant in compiled code
returned_new = impl_ret_new_ref  # (context, builder, type, value): a value with a reference that the caller owns


def triple(context: Any) -> str:
    """The target machine, such as "x86_64-unknown-linux-gnu"."""
    return context.codegen().magic_tuple()[0]


def features(context: Any) -> str:
    """The instruction sets of the target processor, in LLVM's notation: "+avx2,-avx512f,..."."""
    return context.codegen().magic_tuple()[2]


def machine_code(kernel: Any, signature: tuple[types.Type, ...]) -> tuple[Callable, int, Any]:
    """A kernel compiled for these types, or loaded from disk: a function that does not check its arguments' types, the
    address for compiled code, and an object that keeps both alive."""
    kernel.compile(signature)
    made = kernel.overloads[signature]
    return made.entry_point, made.library.get_pointer_to_function(made.fndesc.llvm_func_name), made


def entry_for_c(kernel: Any, signature: tuple[types.Type, ...]) -> tuple[int, Any]:
    """Such a kernel's address by C's calling convention, and an object that keeps it alive. It must not raise."""
    kernel.compile(signature)
    made = kernel.overloads[signature]
    return made.library.get_pointer_to_function(made.fndesc.llvm_cfunc_wrapper_name), made


def function_type(context: Any, taken: Any) -> Any:
    """The LLVM type of a function with these argument types that returns nothing."""
    return context.call_conv.get_function_type(types.none, taken)


def call_at(context: Any, builder: Any, function: Any, taken: Any, given: Any) -> Any:
    """Call such a function; returns the status of the call."""
    return context.call_conv.call_function(builder, function, types.none, taken, given)[0]


def raise_as(context: Any, builder: Any, status: Any) -> None:
    """Raise the exception of a function that was called."""
    context.call_conv.return_status_propagate(builder, status)


def raise_new(context: Any, builder: Any, error: type, text: str) -> None:
    context.call_conv.return_user_exc(builder, error, (text,))


def address_in(context: Any, builder: Any, address: int, name: str) -> Any:
    """An address of this process as a constant; it prevents caching of the code."""
    return context.add_dynamic_addr(builder, address, info=name)


def compile_for(work: Any, taken: tuple[types.Type, ...]) -> None:
    """Compile a function for these types, during type inference."""
    work.get_call_type(work.dispatcher.typingctx, taken, {})


def linked(context: Any, work: Any, taken: tuple[types.Type, ...]) -> Any:
    """The function from `compile_for`, linked into the code that is being compiled."""
    called = work.get_call_type(context.typing_context, taken, {})
    compiled = work.dispatcher.get_compile_result(called)
    context.active_code_library.add_linking_library(compiled.library)
    return compiled.fndesc


def name_of(function: Any) -> str:
    return function.mangled_name


def call_linked(context: Any, builder: Any, function: Any, taken: tuple[types.Type, ...], given: list) -> Any:
    """Call a linked function; returns the status of the call, without raising."""
    return context.call_internal_no_propagate(builder, function, types.none(*taken), given)[0]


def allocated(context: Any, builder: Any, length: Any, align: int) -> tuple[Any, Any]:
    """Memory that is reference-counted by Numba, and its address."""
    held = context.nrt.meminfo_alloc_aligned(builder, length, align=align)
    return held, context.nrt.meminfo_data(builder, held)


def python_api(context: Any, builder: Any) -> Any:
    """Python's C API, for compiled code."""
    return context.get_python_api(builder)
