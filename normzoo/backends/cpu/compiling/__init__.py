"""How Numba compiles kernels and where machine code is kept on disk.

It imports Numba and llvmlite, and nothing else of the package. Never what a kernel computes.
"""
