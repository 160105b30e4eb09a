"""Small passes in one call from Python: compiled code that reads NumPy's arrays where they lie.

It may import `compiling`, `vector` and `parallel`, and knows kernels by their address. Never anything that must be
there: without it a pass takes some microseconds longer.
"""
