"""normzoo: every normalization layer, exact by hand, on NumPy arrays, at the speed of memory."""

from normzoo import functional
from normzoo.ahead import Compiled, compile_cache
from normzoo.backends import use
from normzoo.device import device_array
from normzoo.diagnose import Diagnosis, diagnose
from normzoo.distributed.reduce import stats_of
from normzoo.distributed.sync_batch_norm import SyncBatchNorm, convert_sync
from normzoo.memory import release_memory
from normzoo.norm import Norm
from normzoo.passes import Grads, Saved
from normzoo.recalibrate import recalibrate
from normzoo.registry import create, list_norms
from normzoo.stats import Stats
from normzoo.zoo.batch_norm import BatchNorm
from normzoo.zoo.dyt import DyT
from normzoo.zoo.group_norm import GroupNorm
from normzoo.zoo.instance_norm import InstanceNorm
from normzoo.zoo.layer_norm import LayerNorm
from normzoo.zoo.rms_norm import RMSNorm

__version__ = "0.1.0"

__all__ = [
    "BatchNorm",
    "Compiled",
    "Diagnosis",
    "DyT",
    "Grads",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "Norm",
    "RMSNorm",
    "Saved",
    "Stats",
    "SyncBatchNorm",
    "compile_cache",
    "convert_sync",
    "create",
    "device_array",
    "diagnose",
    "functional",
    "list_norms",
    "recalibrate",
    "release_memory",
    "stats_of",
    "use",
]
