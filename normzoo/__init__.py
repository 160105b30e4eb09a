"""normzoo: every normalization layer, exact by hand, on NumPy arrays, at the speed of memory."""

from normzoo import functional
from normzoo.ahead import Compiled, compile_cache
from normzoo.backends import use
from normzoo.memory import release_memory
from normzoo.norm import Norm
from normzoo.passes import Grads, Saved
from normzoo.registry import create, list_norms
from normzoo.zoo.ada_norm import AdaNorm
from normzoo.zoo.adaptive_instance_norm import AdaptiveInstanceNorm
from normzoo.zoo.adaptive_layer_norm import AdaLNZero, AdaptiveLayerNorm
from normzoo.zoo.batch_norm import BatchNorm
from normzoo.zoo.conditional_norm import ConditionalBatchNorm, ConditionalInstanceNorm
from normzoo.zoo.crms_norm import CRMSNorm
from normzoo.zoo.dyt import DyT
from normzoo.zoo.film import FiLM
from normzoo.zoo.group_norm import GroupNorm
from normzoo.zoo.group_rms_norm import GroupRMSNorm
from normzoo.zoo.head_norm import HeadLayerNorm, HeadRMSNorm
from normzoo.zoo.instance_norm import InstanceNorm
from normzoo.zoo.l2_norm import L2Norm
from normzoo.zoo.layer_norm import LayerNorm
from normzoo.zoo.partial_rms_norm import PartialRMSNorm
from normzoo.zoo.poly_norm import PolyNorm
from normzoo.zoo.positional_norm import PositionalNorm
from normzoo.zoo.rms_norm import RMSNorm
from normzoo.zoo.scale_norm import ScaleNorm
from normzoo.zoo.spade import SPADE
from normzoo.zoo.unit_norm import UnitNorm

__version__ = "0.1.0"

__all__ = [
    "SPADE",
    "AdaLNZero",
    "AdaNorm",
    "AdaptiveInstanceNorm",
    "AdaptiveLayerNorm",
    "BatchNorm",
    "CRMSNorm",
    "Compiled",
    "ConditionalBatchNorm",
    "ConditionalInstanceNorm",
    "DyT",
    "FiLM",
    "Grads",
    "GroupNorm",
    "GroupRMSNorm",
    "HeadLayerNorm",
    "HeadRMSNorm",
    "InstanceNorm",
    "L2Norm",
    "LayerNorm",
    "Norm",
    "PartialRMSNorm",
    "PolyNorm",
    "PositionalNorm",
    "RMSNorm",
    "Saved",
    "ScaleNorm",
    "UnitNorm",
    "compile_cache",
    "create",
    "functional",
    "list_norms",
    "release_memory",
    "use",
]
