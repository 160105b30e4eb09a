"""Sixteen lanes and the primitives for kernels, each a plain Python function followed by its LLVM lowering.

They may import `compiling` and each other. Never a norm, a view or a statistic.
"""
