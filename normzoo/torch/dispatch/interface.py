"""PyTorch's C interface in compiled code: every function of it that kernels call, as a primitive.

A tensor is the address of an `at::Tensor` (the interface's AtenTensorHandle), all other arguments are integers, too:
addresses, sizes and codes of dtypes. PyTorch's own kernels are reached by the C++ functions `at::cpu::...`, whose
arguments of 64-bit x86 processors under Linux are the same integers (System V ABI): references are addresses, an array
is its address and length, an optional tensor is a reference to the tensor and a flag, a tuple is written behind its
address, the last element first. What these raise passes through compiled code.
"""

# mypy: disallow-untyped-defs=False

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from llvmlite import binding, ir
from numba.core import cgutils, types

from normzoo.backends.cpu.numba_internals.way import lower, typed
from normzoo.backends.cpu.vector.lanes import Flat

INT, FLOAT = types.int64, types.float64
WORDS = 80  # of `room`: more than a tensor has axes

_INT, _SHORT, _DOUBLE = ir.IntType(64), ir.IntType(32), ir.DoubleType()
_VOID, _BYTES = ir.VoidType(), ir.IntType(8).as_pointer()
_REGISTERED: dict[str, Any] = {}  # what compiled code knows by name, and must live as long as the process
_NAMED: list[str] = []  # C functions that are primitives

# -- names


def _external(name: str, ints: int, floats: int = 0, result: ir.Type = _SHORT) -> Callable:
    """A C function of this name, which takes integers and then floats, as a primitive; its result is an integer, 0 for
    none."""

    def call(*given):
        raise NotImplementedError(f"{name} is only called from compiled code")

    _NAMED.append(name)
    call.__name__ = call.__qualname__ = name
    kinds = [_INT] * ints + [_DOUBLE] * floats
    typed(call, lambda *given: INT if len(given) == len(kinds) else None)

    @lower(call, *[types.Integer] * ints, *[types.Float] * floats)
    def _call(context, builder, sig, args):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, kinds), name)
        found = builder.call(function, _words(context, builder, sig, args))
        return ir.Constant(_INT, 0) if result is _VOID else _wide(builder, found)

    return call


def _words(context: Any, builder: Any, sig: Any, args: Any) -> list[Any]:
    return [
        context.cast(builder, a, kind, INT) if isinstance(kind, types.Integer) else a
        for a, kind in zip(args, sig.args, strict=True)
    ]


def _wide(builder: Any, value: Any) -> Any:
    return value if value.type == _INT else builder.sext(value, _INT)


data_ptr = _external("aoti_torch_get_data_ptr", 2)  # (tensor, address of the result), as all that follow
dim_of = _external("aoti_torch_get_dim", 2)
sizes_of = _external("aoti_torch_get_sizes", 2)
strides_of = _external("aoti_torch_get_strides", 2)
dtype_of = _external("aoti_torch_get_dtype", 2)
is_defined = _external("aoti_torch_is_defined", 2)
empty_strided = _external("aoti_torch_empty_strided", 7)  # rank, sizes, strides, dtype, device, its index, result
undefined = _external("aoti_torch_new_uninitialized_tensor", 1)
copy_into = _external("aoti_torch_copy_", 3)  # target, source, non_blocking
delete_tensor = _external("aoti_torch_delete_tensor_object", 1)
zero = _external("aoti_torch_zero_", 1)
list_size = _external("torch_list_size", 2)
list_item = _external("torch_list_get_item", 3)
delete_list = _external("torch_delete_list", 1)
parallel_for = _external("torch_parallel_for", 5)  # begin, end, grain size, function, its context
check = _external("aoti_torch_check", 5, result=_VOID)  # condition, function, file, line, message: raises
free = _external("free", 1, result=_VOID)  # what C++ allocated by `new`
ask_plan = _external("normzoo_torch_plan", 1, result=_INT)  # see plans.py

SHIM = tuple(name for name in _NAMED if name.startswith(("aoti_torch_", "torch_")))
OF_PYTHON = (
    "aoti_torch_library_init_impl", "aoti_torch_library_impl", "aoti_torch_delete_library_object",
)  # fmt: skip
THREADS = "_ZN2at15get_num_threadsEv"
OWN = {
    "native_layer_norm": "_ZN2at3cpu17native_layer_normERKNS_6TensorEN3c108ArrayRefIlEERKSt8optionalIS1_ESA_d",
    "native_layer_norm_backward": "_ZN2at3cpu26native_layer_norm_backwardERKNS_6TensorES3_N3c108ArrayRefIlEES3_S3_RKSt8optionalIS1_ESA_St5arrayIbLm3EE",  # noqa: E501
    "native_group_norm": "_ZN2at3cpu17native_group_normERKNS_6TensorERKSt8optionalIS1_ES7_lllld",
    "native_group_norm_backward": "_ZN2at3cpu26native_group_norm_backwardERKNS_6TensorES3_S3_S3_RKSt8optionalIS1_EllllSt5arrayIbLm3EE",  # noqa: E501
    "native_batch_norm": "_ZN2at3cpu17native_batch_normERKNS_6TensorERKSt8optionalIS1_ES7_S7_S7_bdd",
    "native_batch_norm_backward": "_ZN2at3cpu26native_batch_norm_backwardERKNS_6TensorES3_RKSt8optionalIS1_ES7_S7_S7_S7_bdSt5arrayIbLm3EE",  # noqa: E501
    "_native_batch_norm_legit": "_ZN2at3cpu24_native_batch_norm_legitERKNS_6TensorERKSt8optionalIS1_ES7_RS1_S8_bdd",
    "_native_batch_norm_legit.no_stats": "_ZN2at3cpu24_native_batch_norm_legitERKNS_6TensorERKSt8optionalIS1_ES7_bdd",
    "_batch_norm_with_update": "_ZN2at3cpu23_batch_norm_with_updateERKNS_6TensorERKSt8optionalIS1_ES7_RS1_S8_dd",
    "batch_norm_backward": "_ZN2at3cpu19batch_norm_backwardERKNS_6TensorES3_S3_RKSt8optionalIS1_ES7_S7_S7_bdSt5arrayIbLm3EES3_",  # noqa: E501
    "_fused_rms_norm": "_ZN2at25compositeimplicitautograd15_fused_rms_normERKNS_6TensorEN3c108ArrayRefIlEERKSt8optionalIS1_ES7_IdE",  # noqa: E501
}


def library() -> ctypes.CDLL:
    """PyTorch's library for the CPU, which `import torch` has loaded."""
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))


def missing() -> list[str]:
    """The names that this PyTorch lacks."""
    known = library()
    return [name for name in (*SHIM, *OF_PYTHON, THREADS, *OWN.values()) if not hasattr(known, name)]


def address(name: str, known: ctypes.CDLL | None = None) -> int:
    """Of a function of PyTorch, or of another library."""
    return ctypes.cast(getattr(known or library(), name), ctypes.c_void_p).value or 0


def link(name: str, held: Any, place: int) -> None:
    """Make `place` known to compiled code by this name, for the lifetime of the process."""
    _REGISTERED[name] = held
    binding.add_symbol(name, place)


def link_all() -> None:
    """Make PyTorch's functions known to compiled code, and those by which C++, which PyTorch has loaded, raises."""
    runtime, unwinder = ctypes.CDLL("libstdc++.so.6"), ctypes.CDLL("libgcc_s.so.1")
    named = dict.fromkeys((*SHIM, *OWN.values()), library())
    for name, known in (named | {"__gxx_personality_v0": runtime, "_Unwind_Resume": unwinder}).items():
        link(name, known, address(name, known))


# -- primitives that are no functions of PyTorch


def symbol(name: str) -> Callable:
    """place(): the address that was linked by this name."""

    def place():
        raise NotImplementedError(f"{name} is only known to compiled code")

    place.__name__ = place.__qualname__ = f"place_of_{name}"
    typed(place, lambda: INT)

    @lower(place)
    def _place(context, builder, sig, args):
        held = builder.module.globals.get(name)
        if held is None:
            held = ir.GlobalVariable(builder.module, ir.IntType(8), name)
        return builder.ptrtoint(held, _INT)

    return place


def room():
    """The address of WORDS words of the caller's stack."""


typed(room, lambda: INT)


@lower(room)
def _room(context, builder, sig, args):
    with builder.goto_entry_block():
        return builder.ptrtoint(builder.alloca(ir.ArrayType(_INT, WORDS)), _INT)


def call_pointer(function, a, b, c, d):
    """Call a C function by address, with four addresses."""


typed(call_pointer, lambda *given: types.none)


@lower(call_pointer, *[types.Integer] * 5)
def _call_pointer(context, builder, sig, args):
    place, *given = _words(context, builder, sig, args)
    builder.call(builder.inttoptr(place, ir.FunctionType(_VOID, [_INT] * 4).as_pointer()), given)
    return context.get_dummy_value()


def own(name: str, ints: int, floats: int, held: int) -> Callable:
    """PyTorch's own kernel as a primitive. If it raises, tensors are deleted first: the last `held` arguments, which
    stand behind those that it takes itself."""

    def call(*given):
        raise NotImplementedError(f"{name} is only called from compiled code")

    call.__name__ = call.__qualname__ = f"own_{name}"
    kinds = [_INT] * ints + [_DOUBLE] * floats
    total = len(kinds) + held
    typed(call, lambda *given: types.none if len(given) == total else None)

    @lower(call, *[types.Integer] * ints, *[types.Float] * floats, *[types.Integer] * held)
    def _own(context, builder, sig, args):
        given = _words(context, builder, sig, args)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_VOID, kinds), OWN[name])
        delete = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_SHORT, [_INT]), "aoti_torch_delete_tensor_object"
        )
        personality = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_SHORT, [], var_arg=True), "__gxx_personality_v0"
        )
        builder.function.attributes.add("uwtable")
        builder.function.attributes.personality = personality
        done, raised = builder.append_basic_block("done"), builder.append_basic_block("raised")
        builder.invoke(function, given[: len(kinds)], done, raised)
        builder.position_at_end(raised)
        pad = builder.landingpad(ir.LiteralStructType([_BYTES, _SHORT]), cleanup=True)
        for tensor in given[len(kinds) :]:
            builder.call(delete, [tensor])
        builder.resume(pad)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return call


def _array(name: str, dtype: Any) -> Callable:
    """The memory at an address as an array for kernels."""

    def call(place):
        raise NotImplementedError("only called from compiled code")

    call.__name__ = call.__qualname__ = name
    typed(call, lambda place: Flat(dtype))

    @lower(call, types.Integer)
    def _call(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return call


doubles, floats = _array("doubles", types.float64), _array("floats", types.float32)
halves, bfloats = _array("halves", types.int16), _array("bfloats", types.uint16)
