"""Which benchmarks do not depend on the machine, and the processors that kernels are compiled for to that end.

x86-64-v3 is what every x86-64 processor since 2013 knows (AVX2, FMA), v4 adds AVX-512. The names are those of the
x86-64 psABI, and of LLVM, which takes the features of a name only from what Numba hands on beside it.
"""

V3 = [
    "cmov",
    "cx8",
    "fxsr",
    "mmx",
    "sse",
    "sse2",
    "sse3",
    "ssse3",
    "sse4.1",
    "sse4.2",
    "cx16",
    "sahf",
    "popcnt",
    "avx",
    "avx2",
    "bmi",
    "bmi2",
    "f16c",
    "fma",
    "lzcnt",
    "movbe",
    "xsave",
]
V4 = [*V3, *["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]]
PINS = {
    name: {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ",".join(f"+{feature}" for feature in features)}
    for name, features in (("x86-64-v3", V3), ("x86-64-v4", V4))
}

# Benchmarks whose values are counted: the same on any machine, so they lie under the name of a pin.
COUNTED = ("counts.", "accuracy.")
# Ratios within a process, which are chained from machine to machine over commits that both timed.
CHAINED = (
    "kernels.track_cost",
    "fused.track_cost",
    "zoo.track_step",
    "masks.track_half_masked",
    "scaling.track_threads",
)
FIRST_PIN = next(iter(PINS))


def is_counted(benchmark: str) -> bool:
    return benchmark.startswith(COUNTED)
