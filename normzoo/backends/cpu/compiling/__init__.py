"""Compilation of kernels by Numba, and the disk cache of machine code.

It imports Numba and llvmlite, and nothing else of the package. It never knows what a kernel computes.
"""
