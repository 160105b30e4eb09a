"""normzoo: fast, accurate normalization layers for NumPy arrays, with hand-written gradients, compiled by Numba."""

import difflib
from typing import Any

from normzoo import functional
from normzoo.backends import use
from normzoo.backends.activations import list_activations
from normzoo.backends.around import Activation
from normzoo.backends.memory import release_memory
from normzoo.distributed.reduce import stats_of
from normzoo.distributed.sync_batch_norm import SyncBatchNorm, convert_sync
from normzoo.environment.ahead import Compiled, compile_cache
from normzoo.environment.versions import show_versions
from normzoo.exchange import fold
from normzoo.exchange.counterparts import Described, describe
from normzoo.exchange.files import load, save
from normzoo.exchange.onnx_nodes import from_onnx
from normzoo.exchange.registry import create, list_norms
from normzoo.exchange.torch_names import MODULES
from normzoo.functional.images.normalize_image import normalize_image
from normzoo.norm import Norm
from normzoo.passes.device import device_array
from normzoo.passes.saved import Grads, Saved
from normzoo.selection.select import select
from normzoo.statistics import robust
from normzoo.statistics.diagnose import Diagnosis, diagnose
from normzoo.statistics.recalibrate import recalibrate
from normzoo.statistics.sketch import QuantileSketch
from normzoo.statistics.stats import Stats
from normzoo.zoo.batch.batch_norm import BatchNorm
from normzoo.zoo.batch.batch_renorm import BatchRenorm
from normzoo.zoo.batch.ema_batch_norm import AlphaBatchNorm, EMABatchNorm
from normzoo.zoo.batch.frozen_batch_norm import FrozenBatchNorm
from normzoo.zoo.batch.ghost_batch_norm import GhostBatchNorm
from normzoo.zoo.batch.lp_batch_norm import L1BatchNorm, LInfBatchNorm
from normzoo.zoo.batch.power_norm import PowerNorm
from normzoo.zoo.batch.split_batch_norm import DomainBatchNorm, SplitBatchNorm
from normzoo.zoo.batch.virtual_batch_norm import VirtualBatchNorm
from normzoo.zoo.conditional.adaptive_instance_norm import AdaptiveInstanceNorm
from normzoo.zoo.conditional.adaptive_layer_norm import AdaLNZero, AdaptiveLayerNorm
from normzoo.zoo.conditional.conditional_norm import ConditionalBatchNorm, ConditionalInstanceNorm
from normzoo.zoo.conditional.film import FiLM
from normzoo.zoo.conditional.spade import SPADE
from normzoo.zoo.data.dish_ts import DishTS
from normzoo.zoo.data.exponential_norm import CumulativeRMSNorm, ExponentialNorm
from normzoo.zoo.data.fan import FAN
from normzoo.zoo.data.observation_norm import ObservationNorm
from normzoo.zoo.data.pcen import PCEN
from normzoo.zoo.data.pop_art import PopArt
from normzoo.zoo.data.revin import RevIN
from normzoo.zoo.data.san import SAN
from normzoo.zoo.data.sliding_norm import SlidingNorm
from normzoo.zoo.data.standardize import Standardize
from normzoo.zoo.graph.diff_group_norm import DiffGroupNorm
from normzoo.zoo.graph.graph_norm import GraphNorm
from normzoo.zoo.graph.graph_size_norm import GraphSizeNorm
from normzoo.zoo.graph.mean_subtraction import MeanSubtraction
from normzoo.zoo.graph.message_norm import MessageNorm
from normzoo.zoo.graph.pair_norm import PairNorm
from normzoo.zoo.instance.evo_norm import EvoNormB0, EvoNormS0
from normzoo.zoo.instance.filter_response_norm import FilterResponseNorm
from normzoo.zoo.instance.global_response_norm import GlobalResponseNorm
from normzoo.zoo.instance.instance_norm import InstanceNorm
from normzoo.zoo.instance.pixel_norm import PixelNorm
from normzoo.zoo.instance.positional_norm import PositionalNorm
from normzoo.zoo.instance.switchable_norm import BatchInstanceNorm, SwitchableNorm
from normzoo.zoo.layer.ada_norm import AdaNorm
from normzoo.zoo.layer.crms_norm import CRMSNorm
from normzoo.zoo.layer.cumulative_layer_norm import CumulativeLayerNorm
from normzoo.zoo.layer.group_norm import GroupNorm
from normzoo.zoo.layer.group_rms_norm import GroupRMSNorm
from normzoo.zoo.layer.head_norm import HeadLayerNorm, HeadRMSNorm
from normzoo.zoo.layer.l2_norm import L2Norm
from normzoo.zoo.layer.layer_norm import LayerNorm
from normzoo.zoo.layer.mean_variance_norm import MeanVarianceNorm
from normzoo.zoo.layer.partial_rms_norm import PartialRMSNorm
from normzoo.zoo.layer.rms_norm import RMSNorm
from normzoo.zoo.layer.robust_norm import RobustNorm
from normzoo.zoo.layer.scale_norm import ScaleNorm
from normzoo.zoo.layer.unit_norm import UnitNorm
from normzoo.zoo.local.local_contrast_norm import DivisiveNorm, LocalContrastNorm
from normzoo.zoo.local.local_response_norm import LocalResponseNorm
from normzoo.zoo.pointwise.derf import Derf
from normzoo.zoo.pointwise.dyt import DyT
from normzoo.zoo.pointwise.layer_scale import LayerScale
from normzoo.zoo.pointwise.poly_norm import PolyNorm
from normzoo.zoo.pointwise.rezero import ReZero
from normzoo.zoo.weights.max_norm import MaxNorm
from normzoo.zoo.weights.orthogonal_weight import OrthogonalWeight
from normzoo.zoo.weights.spectral_norm import SpectralNorm
from normzoo.zoo.weights.weight_norm import WeightNorm
from normzoo.zoo.weights.weight_standardization import ScaledWeightStandardization, WeightStandardization
from normzoo.zoo.whitening.decorrelated_batch_norm import DecorrelatedBatchNorm
from normzoo.zoo.whitening.group_whitening import GroupWhitening
from normzoo.zoo.whitening.iter_norm import IterNorm

__version__ = "0.1.0"


def __dir__() -> list[str]:
    """What is public, for completion; the modules behind it are implementation."""
    return sorted([*__all__, "__all__", "__doc__", "__file__", "__name__", "__path__", "__version__"])


def __getattr__(name: str) -> Any:
    """Names that this module does not have: say which was meant."""
    if name in ("torch", "njit", "sklearn"):  # they need PyTorch or scikit-learn, or teach Numba new functions
        hint = f"; write import normzoo.{name}"
    elif name in MODULES:
        hint = f"; write normzoo.{MODULES[name]} or, for tensors, normzoo.torch.{name}"
    else:
        near = difflib.get_close_matches(name, __all__, 1, 0.75)
        hint = f"; did you mean {near[0]!r}?" if near and name[0] != "_" else ""
    raise AttributeError(f"module 'normzoo' has no attribute {name!r}{hint}", name=name, obj=None)


__all__ = [
    "FAN",
    "PCEN",
    "SAN",
    "SPADE",
    "Activation",
    "AdaLNZero",
    "AdaNorm",
    "AdaptiveInstanceNorm",
    "AdaptiveLayerNorm",
    "AlphaBatchNorm",
    "BatchInstanceNorm",
    "BatchNorm",
    "BatchRenorm",
    "CRMSNorm",
    "Compiled",
    "ConditionalBatchNorm",
    "ConditionalInstanceNorm",
    "CumulativeLayerNorm",
    "CumulativeRMSNorm",
    "DecorrelatedBatchNorm",
    "Derf",
    "Described",
    "Diagnosis",
    "DiffGroupNorm",
    "DishTS",
    "DivisiveNorm",
    "DomainBatchNorm",
    "DyT",
    "EMABatchNorm",
    "EvoNormB0",
    "EvoNormS0",
    "ExponentialNorm",
    "FiLM",
    "FilterResponseNorm",
    "FrozenBatchNorm",
    "GhostBatchNorm",
    "GlobalResponseNorm",
    "Grads",
    "GraphNorm",
    "GraphSizeNorm",
    "GroupNorm",
    "GroupRMSNorm",
    "GroupWhitening",
    "HeadLayerNorm",
    "HeadRMSNorm",
    "InstanceNorm",
    "IterNorm",
    "L1BatchNorm",
    "L2Norm",
    "LInfBatchNorm",
    "LayerNorm",
    "LayerScale",
    "LocalContrastNorm",
    "LocalResponseNorm",
    "MaxNorm",
    "MeanSubtraction",
    "MeanVarianceNorm",
    "MessageNorm",
    "Norm",
    "ObservationNorm",
    "OrthogonalWeight",
    "PairNorm",
    "PartialRMSNorm",
    "PixelNorm",
    "PolyNorm",
    "PopArt",
    "PositionalNorm",
    "PowerNorm",
    "QuantileSketch",
    "RMSNorm",
    "ReZero",
    "RevIN",
    "RobustNorm",
    "Saved",
    "ScaleNorm",
    "ScaledWeightStandardization",
    "SlidingNorm",
    "SpectralNorm",
    "SplitBatchNorm",
    "Standardize",
    "Stats",
    "SwitchableNorm",
    "SyncBatchNorm",
    "UnitNorm",
    "VirtualBatchNorm",
    "WeightNorm",
    "WeightStandardization",
    "compile_cache",
    "convert_sync",
    "create",
    "describe",
    "device_array",
    "diagnose",
    "fold",
    "from_onnx",
    "functional",
    "list_activations",
    "list_norms",
    "load",
    "normalize_image",
    "recalibrate",
    "release_memory",
    "robust",
    "save",
    "select",
    "show_versions",
    "stats_of",
    "use",
]
