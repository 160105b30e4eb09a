"""normzoo: every normalization layer, exact by hand, on NumPy arrays, at the speed of memory."""

from normzoo import functional
from normzoo.ahead import Compiled, compile_cache
from normzoo.backends import use
from normzoo.device import device_array
from normzoo.memory import release_memory
from normzoo.norm import Norm
from normzoo.passes import Grads, Saved
from normzoo.registry import create, list_norms
from normzoo.selection import select
from normzoo.zoo.batch_norm import BatchNorm
from normzoo.zoo.decorrelated_batch_norm import DecorrelatedBatchNorm
from normzoo.zoo.dyt import DyT
from normzoo.zoo.group_norm import GroupNorm
from normzoo.zoo.group_whitening import GroupWhitening
from normzoo.zoo.instance_norm import InstanceNorm
from normzoo.zoo.iter_norm import IterNorm
from normzoo.zoo.layer_norm import LayerNorm
from normzoo.zoo.max_norm import MaxNorm
from normzoo.zoo.orthogonal_weight import OrthogonalWeight
from normzoo.zoo.rms_norm import RMSNorm
from normzoo.zoo.spectral_norm import SpectralNorm
from normzoo.zoo.weight_norm import WeightNorm
from normzoo.zoo.weight_standardization import ScaledWeightStandardization, WeightStandardization

__version__ = "0.1.0"

__all__ = [
    "BatchNorm",
    "Compiled",
    "DecorrelatedBatchNorm",
    "DyT",
    "Grads",
    "GroupNorm",
    "GroupWhitening",
    "InstanceNorm",
    "IterNorm",
    "LayerNorm",
    "MaxNorm",
    "Norm",
    "OrthogonalWeight",
    "RMSNorm",
    "Saved",
    "ScaledWeightStandardization",
    "SpectralNorm",
    "WeightNorm",
    "WeightStandardization",
    "compile_cache",
    "create",
    "device_array",
    "functional",
    "list_norms",
    "release_memory",
    "select",
    "use",
]
