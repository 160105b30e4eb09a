"""Plans: which machine code does a pass of a norm over tensors of certain sizes and dtypes.

Compiled code looks a plan up in a table by eight words. It asks Python, once, for one that is not there: then
`code.py` chooses the kernel, as for NumPy's arrays. So results are those of the rest of the library, bit by bit. Plans
are never changed or removed; where the table is full, Python is asked each time.
"""

# mypy: disallow-untyped-defs=False

import ctypes
import math
import sys
import traceback
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from normzoo.backends.contract import CONSTANT, Moments
from normzoo.backends.cpu import code as codes
from normzoo.backends.cpu.compiling.jit import helper
from normzoo.backends.cpu.fastcall.objects import number, word
from normzoo.backends.cpu.schedule import SERIAL
from normzoo.passes.view import fit_sizes
from normzoo.torch.dispatch import interface
from normzoo.torch.dispatch.handles import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, equal_words
from normzoo.torch.dispatch.interface import ask_plan
from normzoo.zoo.layer.layer_norm import LayerNorm
from normzoo.zoo.layer.rms_norm import RMSNorm

SLOTS, PROBES = 1 << 13, 8
FACTOR, SHIFT, LOW = 0x9E3779B97F4A7C15 - 2**64, 29, 2**35 - 1  # of a hash of 64 bits
# words of a key: the norm and the pass; how its axes lie; dtype of x; has it parameters?; four sizes
NORM, LAYOUT, KIND, AFFINE, SIZES, KEY = 0, 1, 2, 3, 4, 8
# words of a plan behind its key. MOMENTS is the code of the forward pass, for a plan of a backward pass
CODE, DIMS, DIVISOR, ONES, ZEROS, SETS, COUNT, THREADS, MOMENTS, MOMENTS_THREADS, LENGTH = (
    KEY, 9, 17, 18, 19, 20, 21, 22, 23, 24, 25,
)  # fmt: skip

LAYER, RMS, GROUP, BATCH, GIVEN = range(5)  # norms: GIVEN is batch norm by running statistics
BACK = 8  # added to a norm: its backward pass
k, r, K, R = range(4)  # the letters of `view.py`, see `view.KINDS`
LETTERS = {
    (LAYER, 0): (k, R), (RMS, 0): (k, R), (GROUP, 0): (k, K, R, r), (GROUP, 1): (k, r, K, R), (BATCH, 0): (r, K, r),
    (BATCH, 1): (r, K, r), (GIVEN, 0): (r, K, r), (GIVEN, 1): (r, K, r),
}  # fmt: skip
MOMENTS_OF = {
    LAYER: LayerNorm.moments, RMS: RMSNorm.moments, GROUP: LayerNorm.moments, BATCH: LayerNorm.moments, GIVEN: CONSTANT,
}  # fmt: skip
STORE: dict[int, Any] = {FLOAT16: np.dtype(np.float16), FLOAT32: np.dtype(np.float32), FLOAT64: np.dtype(np.float64)}


class _BFloat16:
    """What `code.py` asks of a dtype: PyTorch needs no other package for bfloat16, nor does this."""

    name, itemsize = "bfloat16", 2


class Plan(NamedTuple):
    """What a plan is made of."""

    norm: int
    back: bool
    dims: tuple[int, int, int, int]
    parameter_dims: tuple[int, int, int, int]
    moments: Moments
    dtype: np.dtype
    store: Any


def plan_of_key(key: tuple[int, ...]) -> Plan | None:
    """The view and types of a pass; None if PyTorch's own kernel is to do it."""
    norm, back = key[NORM] & 7, bool(key[NORM] & BACK)
    letters = LETTERS[norm, key[LAYOUT]]
    if not key[AFFINE]:
        letters = tuple(letter & 1 for letter in letters)
    fits, dims, parameter_dims = fit_sizes(letters, key[SIZES : SIZES + len(letters)])
    store: Any = _BFloat16 if key[KIND] == BFLOAT16 else STORE[key[KIND]]
    dtype = STORE[FLOAT64] if key[KIND] == FLOAT64 else STORE[FLOAT32]
    return Plan(norm, back, dims, parameter_dims, MOMENTS_OF[norm], dtype, store) if fits else None


_held: list[Any] = []  # everything that a plan has the address of


def _address(code: codes.Code, plan: Plan) -> tuple[int, int]:
    """The address of the machine code, and whether threads share its turns."""
    made = code.compiled(code.may_stream())  # PyTorch's memory is aligned
    _held.append(made)
    return made.address, int(math.prod(plan.dims) > SERIAL)


def _words(key: tuple[int, ...]) -> np.ndarray:
    words = np.zeros(LENGTH, np.int64)
    words[:KEY] = key
    plan = plan_of_key(key)
    if plan is None:
        return words
    view = plan.dims, plan.parameter_dims
    if plan.back:
        code = codes.backward_code(*view, plan.moments, plan.dtype, plan.store)
        if plan.moments != CONSTANT:
            again = codes.forward_code(*view, plan.moments, plan.dtype, plan.store)
            words[MOMENTS], words[MOMENTS_THREADS] = _address(again, plan)
    elif plan.moments == CONSTANT:
        code = codes.apply_code(*view, plan.dtype, plan.store)
    else:
        code = codes.forward_code(*view, plan.moments, plan.dtype, plan.store)
    ones, zeros = (np.full(plan.parameter_dims, value, plan.dtype) for value in (1, 0))
    _held.append((ones, zeros))
    b, m, c, n = plan.dims
    words[CODE], words[THREADS] = _address(code, plan)
    words[DIMS : DIMS + 8] = (*plan.dims, *plan.parameter_dims)
    words[DIVISOR : DIVISOR + 1].view(np.float64)[:] = m * n
    words[ONES], words[ZEROS] = (a.ctypes.data for a in (ones, zeros))
    words[SETS], words[COUNT] = b * c, math.prod(plan.parameter_dims)
    return words


@cache
def table() -> np.ndarray:
    """The addresses of plans, by `place_in`; 0 where there is none."""
    return np.zeros(SLOTS + PROBES, np.int64)


def _hash(key: tuple[int, ...]) -> int:
    """As in `plan_at`: 64 bits, signed."""
    found = 0
    for w in key:
        found = ((found ^ w) * FACTOR + 2**63) % 2**64 - 2**63
        found ^= (found >> SHIFT) & LOW
    return found & (SLOTS - 1)


@ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
def _asked(place: int) -> int:
    """The address of a new plan; 0, and an error on the standard error stream, if none could be made."""
    try:
        key = tuple((ctypes.c_int64 * KEY).from_address(place))
        slots = table()
        free = [i for i in range(_hash(key), _hash(key) + PROBES) if not slots[i]]
        words = _words(key)
        _held.append(words)
        if free:
            slots[free[0]] = words.ctypes.data
        return words.ctypes.data
    except BaseException:  # C has no exceptions of Python
        traceback.print_exc(file=sys.stderr)
        return 0


def link() -> None:
    interface.link("normzoo_torch_plan", _asked, ctypes.cast(_asked, ctypes.c_void_p).value or 0)
    interface.link("normzoo_torch_table", table(), table().ctypes.data)


place_of_table = interface.symbol("normzoo_torch_table")


@helper
def field(plan, i):
    return word(plan + 8 * i)


@helper
def real(plan, i):
    return number(plan + 8 * i)


@helper
def plan_at(key):
    """The address of the plan with this key; 0 if none can be made."""
    table, found = place_of_table(), 0
    for i in range(KEY):
        found = (found ^ word(key + 8 * i)) * FACTOR
        found ^= (found >> SHIFT) & LOW
    slot = table + 8 * (found & (SLOTS - 1))
    for i in range(PROBES):
        plan = word(slot + 8 * i)
        if plan == 0:
            break
        if equal_words(plan, key, KEY):
            return plan
    return ask_plan(key)
