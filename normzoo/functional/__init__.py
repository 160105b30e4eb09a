"""The norms without a layer object: torch.nn.functional's arguments and order, plus out=, channel_axis=, return_saved=.

Every function returns y, or (y, saved) with `return_saved`; `saved.backward(dy)` is its backward pass.

batch_norm, instance_norm, layer_norm, group_norm and rms_norm also take what is computed before and behind the norm in
the same pass: residual=, residual_scale=, residual_out=, add=, gate=, gate_first= and activation=; see `Norm.forward`.
With a residual they return (y, s) in place of y. `normalize_image` is for images of whole numbers. `__init__.pyi` has
the types of what is returned.
"""

from normzoo.functional.images.normalize_image import normalize_image
from normzoo.functional.stateless import group_norm, layer_norm, local_response_norm, normalize, rms_norm
from normzoo.functional.tracked import State, batch_norm, instance_norm

__all__ = [
    "State",
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "local_response_norm",
    "normalize",
    "normalize_image",
    "rms_norm",
]
