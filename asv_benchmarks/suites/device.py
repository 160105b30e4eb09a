"""Kernels on a CUDA device, against a copy of as many bytes on the same device in the same run.

Without numba-cuda, a driver and a device every value is n/a. To measure one device and see the figures:

    pip install -e ".[bench,cuda12]" && cd asv_benchmarks && asv run --quick --bench device -E existing
"""

import math

import numpy as np

import normzoo as nz
from suites.cases import benchmark, both, by_id

CELLS = by_id(
    both("LayerNorm", (16384, 1024)),
    both("RMSNorm", (8192, 4096)),
    both("BatchNorm", (64, 64, 56, 56)),
    both("BatchNorm", (64, 64, 56, 56), last=True),
    both("GroupNorm", (32, 64, 56, 56), groups=32),
    both("InstanceNorm", (16, 64, 128, 128)),
)


def cuda():
    """numba.cuda, where there is a device."""
    try:
        from numba import cuda
    except ImportError as error:
        raise NotImplementedError("needs numba-cuda") from error
    if getattr(cuda, "implementation", None) != "NVIDIA" or not cuda.is_available():
        raise NotImplementedError("needs numba-cuda and a CUDA device")
    if not hasattr(nz, "device_array"):
        raise NotImplementedError("device arrays are newer")
    return cuda


def require(case):
    cuda()


def call_of(case):
    """A pass on the device, and how many arrays of x's size it reads and writes."""
    cell = CELLS[case]
    x, dy, w, b = (nz.device_array(a) for a in cell.data())
    f = nz.functional
    axis = {"channel_axis": -1 if cell.last else 1}
    forward = {
        "BatchNorm": lambda **o: f.batch_norm(x, None, None, w, b, True, **axis, **o),
        "LayerNorm": lambda **o: f.layer_norm(x, (cell.features,), w, b, **o),
        "RMSNorm": lambda **o: f.rms_norm(x, (cell.features,), w, 1e-6, **o),
        "GroupNorm": lambda **o: f.group_norm(x, cell.groups, w, b, **axis, **o),
        "InstanceNorm": lambda **o: f.instance_norm(x, None, None, w, b, **axis, **o),
    }[cell.norm]
    y, saved = forward(return_saved=True)
    if cell.direction == "forward":
        return lambda: forward(out=y)
    return lambda: saved.backward(dy, out=y)


def seconds(module, calls, rounds=20, repeat=5):
    """Seconds of a call of each by the device's own events, in turns: the lower quartile."""
    found = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, found, strict=True):
            call()
            start, stop = module.event(), module.event()
            start.record()
            for _ in range(repeat):
                call()
            stop.record()
            stop.synchronize()
            times.append(module.event_elapsed_time(start, stop) / 1e3 / repeat)
    return [float(np.quantile(times, 0.25)) for times in found]


def measure(case):
    """Seconds of the pass, and of copying x."""
    module, size = cuda(), math.prod(CELLS[case].shape)
    source, target = (module.device_array(size, np.float32) for _ in range(2))
    return seconds(module, [call_of(case), lambda: target.copy_to_device(source)])


@benchmark(CELLS, unit="times a copy of x", setup=require)
def track_device(case):
    norm, copy = measure(case)
    return norm / copy
