"""Types of what the functions return: y, or (y, saved) with return_saved=True, and (y, s) in place of y with a residual.
The last form of each is that of flags that are not known before the program runs, and of what `select` makes."""

# ruff: noqa: E501
# fmt: off
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, Unpack, overload

from normzoo.backends.contract import Array
from normzoo.functional.images.normalize_image import normalize_image as normalize_image
from normzoo.functional.tracked import State as State
from normzoo.passes.around import Behind
from normzoo.passes.saved import Saved
from normzoo.selection.select import Selected
from normzoo.statistics.updates import OnNonfinite, SingleValue

_A = TypeVar("_A", bound=Array)

class _Rest(Behind, total=False):
    add: Array | None
    gate: Array | None
    residual_out: Array | None

@overload
def batch_norm(
    x: _A, running_mean: Array | None, running_var: Array | None, weight: Array | None = ..., bias: Array | None = ...,
    training: bool = ..., momentum: float = ..., eps: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., update_stats: bool = ..., on_nonfinite: OnNonfinite = ..., single_value: SingleValue = ..., residual: Array, return_saved: Literal[True], return_state: Literal[False] = ..., **rest: Unpack[_Rest],
) -> tuple[tuple[_A, _A], Saved]: ...
@overload
def batch_norm(
    x: _A, running_mean: Array | None, running_var: Array | None, weight: Array | None = ..., bias: Array | None = ...,
    training: bool = ..., momentum: float = ..., eps: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., update_stats: bool = ..., on_nonfinite: OnNonfinite = ..., single_value: SingleValue = ..., residual: Array, return_saved: Literal[False] = ..., return_state: Literal[False] = ..., **rest: Unpack[_Rest],
) -> tuple[_A, _A]: ...
@overload
def batch_norm(
    x: _A, running_mean: Array | None, running_var: Array | None, weight: Array | None = ..., bias: Array | None = ...,
    training: bool = ..., momentum: float = ..., eps: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., update_stats: bool = ..., on_nonfinite: OnNonfinite = ..., single_value: SingleValue = ..., residual: None = ..., return_saved: Literal[True], return_state: Literal[False] = ..., **rest: Unpack[_Rest],
) -> tuple[_A, Saved]: ...
@overload
def batch_norm(
    x: _A, running_mean: Array | None, running_var: Array | None, weight: Array | None = ..., bias: Array | None = ...,
    training: bool = ..., momentum: float = ..., eps: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., update_stats: bool = ..., on_nonfinite: OnNonfinite = ..., single_value: SingleValue = ..., residual: None = ..., return_saved: Literal[False] = ..., return_state: Literal[False] = ..., **rest: Unpack[_Rest],
) -> _A: ...
@overload
def batch_norm(
    x: Array | Selected, running_mean: Array | None, running_var: Array | None, weight: Array | None = ..., bias: Array | None = ...,
    training: bool = ..., momentum: float = ..., eps: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., update_stats: bool = ..., on_nonfinite: OnNonfinite = ..., single_value: SingleValue = ..., residual: Array | None = ..., return_saved: bool = ..., return_state: bool = ..., **rest: Unpack[_Rest],
) -> Any: ...
@overload
def instance_norm(
    x: _A, running_mean: Array | None = ..., running_var: Array | None = ..., weight: Array | None = ..., bias: Array | None = ...,
    use_input_stats: bool = ..., momentum: float = ..., eps: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., update_stats: bool = ..., on_nonfinite: OnNonfinite = ..., single_value: SingleValue = ..., residual: Array, return_saved: Literal[True], return_state: Literal[False] = ..., **rest: Unpack[_Rest],
) -> tuple[tuple[_A, _A], Saved]: ...
@overload
def instance_norm(
    x: _A, running_mean: Array | None = ..., running_var: Array | None = ..., weight: Array | None = ..., bias: Array | None = ...,
    use_input_stats: bool = ..., momentum: float = ..., eps: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., update_stats: bool = ..., on_nonfinite: OnNonfinite = ..., single_value: SingleValue = ..., residual: Array, return_saved: Literal[False] = ..., return_state: Literal[False] = ..., **rest: Unpack[_Rest],
) -> tuple[_A, _A]: ...
@overload
def instance_norm(
    x: _A, running_mean: Array | None = ..., running_var: Array | None = ..., weight: Array | None = ..., bias: Array | None = ...,
    use_input_stats: bool = ..., momentum: float = ..., eps: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., update_stats: bool = ..., on_nonfinite: OnNonfinite = ..., single_value: SingleValue = ..., residual: None = ..., return_saved: Literal[True], return_state: Literal[False] = ..., **rest: Unpack[_Rest],
) -> tuple[_A, Saved]: ...
@overload
def instance_norm(
    x: _A, running_mean: Array | None = ..., running_var: Array | None = ..., weight: Array | None = ..., bias: Array | None = ...,
    use_input_stats: bool = ..., momentum: float = ..., eps: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., update_stats: bool = ..., on_nonfinite: OnNonfinite = ..., single_value: SingleValue = ..., residual: None = ..., return_saved: Literal[False] = ..., return_state: Literal[False] = ..., **rest: Unpack[_Rest],
) -> _A: ...
@overload
def instance_norm(
    x: Array | Selected, running_mean: Array | None = ..., running_var: Array | None = ..., weight: Array | None = ..., bias: Array | None = ...,
    use_input_stats: bool = ..., momentum: float = ..., eps: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., update_stats: bool = ..., on_nonfinite: OnNonfinite = ..., single_value: SingleValue = ..., residual: Array | None = ..., return_saved: bool = ..., return_state: bool = ..., **rest: Unpack[_Rest],
) -> Any: ...
@overload
def layer_norm(
    x: _A, normalized_shape: int | Sequence[int], weight: Array | None = ..., bias: Array | None = ..., eps: float = ...,
    *, axis: int | tuple[int, ...] | None = ..., out: Array | None = ..., residual: Array, return_saved: Literal[True], **rest: Unpack[_Rest],
) -> tuple[tuple[_A, _A], Saved]: ...
@overload
def layer_norm(
    x: _A, normalized_shape: int | Sequence[int], weight: Array | None = ..., bias: Array | None = ..., eps: float = ...,
    *, axis: int | tuple[int, ...] | None = ..., out: Array | None = ..., residual: Array, return_saved: Literal[False] = ..., **rest: Unpack[_Rest],
) -> tuple[_A, _A]: ...
@overload
def layer_norm(
    x: _A, normalized_shape: int | Sequence[int], weight: Array | None = ..., bias: Array | None = ..., eps: float = ...,
    *, axis: int | tuple[int, ...] | None = ..., out: Array | None = ..., residual: None = ..., return_saved: Literal[True], **rest: Unpack[_Rest],
) -> tuple[_A, Saved]: ...
@overload
def layer_norm(
    x: _A, normalized_shape: int | Sequence[int], weight: Array | None = ..., bias: Array | None = ..., eps: float = ...,
    *, axis: int | tuple[int, ...] | None = ..., out: Array | None = ..., residual: None = ..., return_saved: Literal[False] = ..., **rest: Unpack[_Rest],
) -> _A: ...
@overload
def layer_norm(
    x: Array | Selected, normalized_shape: int | Sequence[int], weight: Array | None = ..., bias: Array | None = ..., eps: float = ...,
    *, axis: int | tuple[int, ...] | None = ..., out: Array | None = ..., residual: Array | None = ..., return_saved: bool = ..., **rest: Unpack[_Rest],
) -> Any: ...
@overload
def group_norm(
    x: _A, num_groups: int, weight: Array | None = ..., bias: Array | None = ..., eps: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., residual: Array, return_saved: Literal[True], **rest: Unpack[_Rest],
) -> tuple[tuple[_A, _A], Saved]: ...
@overload
def group_norm(
    x: _A, num_groups: int, weight: Array | None = ..., bias: Array | None = ..., eps: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., residual: Array, return_saved: Literal[False] = ..., **rest: Unpack[_Rest],
) -> tuple[_A, _A]: ...
@overload
def group_norm(
    x: _A, num_groups: int, weight: Array | None = ..., bias: Array | None = ..., eps: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., residual: None = ..., return_saved: Literal[True], **rest: Unpack[_Rest],
) -> tuple[_A, Saved]: ...
@overload
def group_norm(
    x: _A, num_groups: int, weight: Array | None = ..., bias: Array | None = ..., eps: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., residual: None = ..., return_saved: Literal[False] = ..., **rest: Unpack[_Rest],
) -> _A: ...
@overload
def group_norm(
    x: Array | Selected, num_groups: int, weight: Array | None = ..., bias: Array | None = ..., eps: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., residual: Array | None = ..., return_saved: bool = ..., **rest: Unpack[_Rest],
) -> Any: ...
@overload
def rms_norm(
    x: _A, normalized_shape: int | Sequence[int], weight: Array | None = ..., eps: float | None = ...,
    *, axis: int | tuple[int, ...] | None = ..., out: Array | None = ..., residual: Array, return_saved: Literal[True], **rest: Unpack[_Rest],
) -> tuple[tuple[_A, _A], Saved]: ...
@overload
def rms_norm(
    x: _A, normalized_shape: int | Sequence[int], weight: Array | None = ..., eps: float | None = ...,
    *, axis: int | tuple[int, ...] | None = ..., out: Array | None = ..., residual: Array, return_saved: Literal[False] = ..., **rest: Unpack[_Rest],
) -> tuple[_A, _A]: ...
@overload
def rms_norm(
    x: _A, normalized_shape: int | Sequence[int], weight: Array | None = ..., eps: float | None = ...,
    *, axis: int | tuple[int, ...] | None = ..., out: Array | None = ..., residual: None = ..., return_saved: Literal[True], **rest: Unpack[_Rest],
) -> tuple[_A, Saved]: ...
@overload
def rms_norm(
    x: _A, normalized_shape: int | Sequence[int], weight: Array | None = ..., eps: float | None = ...,
    *, axis: int | tuple[int, ...] | None = ..., out: Array | None = ..., residual: None = ..., return_saved: Literal[False] = ..., **rest: Unpack[_Rest],
) -> _A: ...
@overload
def rms_norm(
    x: Array | Selected, normalized_shape: int | Sequence[int], weight: Array | None = ..., eps: float | None = ...,
    *, axis: int | tuple[int, ...] | None = ..., out: Array | None = ..., residual: Array | None = ..., return_saved: bool = ..., **rest: Unpack[_Rest],
) -> Any: ...
@overload
def local_response_norm(
    x: _A, size: int, alpha: float = ..., beta: float = ..., k: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., return_saved: Literal[True],
) -> tuple[_A, Saved]: ...
@overload
def local_response_norm(
    x: _A, size: int, alpha: float = ..., beta: float = ..., k: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., return_saved: Literal[False] = ...,
) -> _A: ...
@overload
def local_response_norm(
    x: Array | Selected, size: int, alpha: float = ..., beta: float = ..., k: float = ...,
    *, channel_axis: int = ..., out: Array | None = ..., return_saved: bool = ...,
) -> Any: ...
@overload
def normalize(
    x: _A, p: float = ..., dim: int | tuple[int, ...] = ..., eps: float = ..., out: Array | None = ...,
    *, return_saved: Literal[True],
) -> tuple[_A, Saved]: ...
@overload
def normalize(
    x: _A, p: float = ..., dim: int | tuple[int, ...] = ..., eps: float = ..., out: Array | None = ...,
    *, return_saved: Literal[False] = ...,
) -> _A: ...
@overload
def normalize(
    x: Array | Selected, p: float = ..., dim: int | tuple[int, ...] = ..., eps: float = ..., out: Array | None = ...,
    *, return_saved: bool = ...,
) -> Any: ...
