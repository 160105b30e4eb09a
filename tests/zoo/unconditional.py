"""Norms without statistics, from their papers."""

import numpy as np

import normzoo as nz
from tests.zoo.case import ZooCase


def dyt(x, alpha, weight, bias):
    """Zhu et al. 2025, algorithm 1."""
    return weight * np.tanh(alpha * x) + bias


CASES = [
    ZooCase("dyt", lambda dtype: nz.DyT(7, dtype=dtype), (3, 5, 7), dyt),
]
