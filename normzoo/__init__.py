"""normzoo: every normalization layer, exact by hand, on NumPy arrays, at the speed of memory."""

from normzoo import functional
from normzoo.ahead import Compiled, compile_cache
from normzoo.backends import use
from normzoo.memory import release_memory
from normzoo.norm import Norm
from normzoo.passes import Grads, Saved
from normzoo.registry import create, list_norms
from normzoo.zoo.batch_norm import BatchNorm
from normzoo.zoo.batch_renorm import BatchRenorm
from normzoo.zoo.dyt import DyT
from normzoo.zoo.ema_batch_norm import AlphaBatchNorm, EMABatchNorm
from normzoo.zoo.frozen_batch_norm import FrozenBatchNorm
from normzoo.zoo.ghost_batch_norm import GhostBatchNorm
from normzoo.zoo.group_norm import GroupNorm
from normzoo.zoo.instance_norm import InstanceNorm
from normzoo.zoo.layer_norm import LayerNorm
from normzoo.zoo.lp_batch_norm import L1BatchNorm, LInfBatchNorm
from normzoo.zoo.power_norm import PowerNorm
from normzoo.zoo.rms_norm import RMSNorm
from normzoo.zoo.split_batch_norm import DomainBatchNorm, SplitBatchNorm
from normzoo.zoo.switchable_norm import BatchInstanceNorm, SwitchableNorm
from normzoo.zoo.virtual_batch_norm import VirtualBatchNorm

__version__ = "0.1.0"

__all__ = [
    "AlphaBatchNorm",
    "BatchInstanceNorm",
    "BatchNorm",
    "BatchRenorm",
    "Compiled",
    "DomainBatchNorm",
    "DyT",
    "EMABatchNorm",
    "FrozenBatchNorm",
    "GhostBatchNorm",
    "Grads",
    "GroupNorm",
    "InstanceNorm",
    "L1BatchNorm",
    "LInfBatchNorm",
    "LayerNorm",
    "Norm",
    "PowerNorm",
    "RMSNorm",
    "Saved",
    "SplitBatchNorm",
    "SwitchableNorm",
    "VirtualBatchNorm",
    "compile_cache",
    "create",
    "functional",
    "list_norms",
    "release_memory",
    "use",
]
