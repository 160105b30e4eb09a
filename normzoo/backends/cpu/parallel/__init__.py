"""Loops whose turns threads share, and the decision whether a kernel may use threads here and now.

They may import `compiling`, `vector` and whatever distinguishes processes and threads. Never a kernel: kernels decide
how work is split, which changes no result.
"""
