"""The kernels as operators of this library, `torch.ops.normzoo.*`: for its own functions and for converted modules
while nothing is installed in PyTorch's. There is no Python in such a call, and no array is made of a tensor."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from normzoo.torch.dispatch.registering import check, lock, registered

AFTER = 16  # calls of an operator, before it is loaded or compiled, which takes tenths of a second or seconds
OPERATORS = {
    "layer_norm": "native_layer_norm",
    "rms_norm": "_fused_rms_norm",
    "group_norm": "native_group_norm",
    "batch_norm": "native_batch_norm",
}
_made: dict[str, Any] = {}  # PyTorch's operators by their names here; None where there is none
_calls: Counter[str] = Counter()
_held: list[Any] = []


def _make(name: str) -> Any:
    """The operator that does what PyTorch's does, with its schema; None where the kernels are not known to work."""
    operator = OPERATORS[name]
    with lock:
        if name in _made:
            return _made[name]
        try:
            check("normzoo.torch", "")
        except RuntimeError:
            _made[name] = None
            return None
        theirs = getattr(torch.ops.aten, operator).default._schema
        library = torch.library.Library("normzoo", "FRAGMENT")
        library.define(str(theirs).replace("aten::", "", 1))
        _held.extend((library, registered("normzoo", [operator])))
        found = getattr(torch.ops.normzoo, operator).default if _held[-1] is not None else None
        _made[name] = found
        return found


def _call(name: str, operator: Callable[..., Any], given: tuple[Any, ...]) -> Tensor:
    x, sizes, weight, bias, mean, var, eps = given
    if name == "layer_norm":
        return operator(x, sizes, weight, bias, eps)[0]
    if name == "rms_norm":
        return operator(x, sizes, weight, eps)[0]
    if name == "group_norm":
        n, c = x.shape[:2]
        return operator(x, weight, bias, n, c, x.numel() // (n * c), sizes[0], eps)[0]
    return operator(x, weight, bias, mean, var, False, 0.0, eps)[0]


def direct(
    name: str, x: Tensor, sizes: tuple[int, ...], weight: Any, bias: Any, mean: Any, var: Any, eps: float | None
) -> Tensor | None:
    """y of a norm over tensors on the CPU, without gradients; None where the kernels do not take the call, or are not
    loaded yet. batch_norm is that of an evaluation."""
    operator = _made.get(name)
    if operator is None:
        if name in _made or name not in OPERATORS:
            return None
        _calls[name] += 1
        if _calls[name] < AFTER or _make(name) is None:
            return None
        operator = _made[name]
    try:
        return _call(name, operator, (x, sizes, weight, bias, mean, var, eps))
    except RuntimeError:  # dtypes that PyTorch does not mix, or a fault of the caller's, which is named elsewhere
        return None
