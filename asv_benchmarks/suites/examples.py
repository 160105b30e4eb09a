"""Seconds that an epoch of an example takes."""

import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))


def track_epoch():
    """The network of train_digits.py with batch norm, on one thread: convolutions are NumPy's matrix products."""
    import train_digits

    data, rng, seconds = train_digits.load_data(), np.random.default_rng(0), []
    network = train_digits.build_network(True, rng)
    optimizer = train_digits.SGD(network, 0.1, momentum=0.9)
    with train_digits.one_thread():
        for _ in range(6):
            start = time.perf_counter()
            train_digits.train_epoch(network, optimizer, data, rng)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


vars(track_epoch).update({"version": "1", "unit": "seconds"})
