"""Sixteen lanes and the primitives that kernels are written in, each a plain Python function with its LLVM lowering.

They may import `compiling` and each other. Never a norm, a view or a statistic.
"""
