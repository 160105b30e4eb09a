"""Small passes in one call from Python: compiled code that reads NumPy's arrays directly.

It may import `compiling`, `vector` and `parallel`, and knows kernels by address. It is always optional: without it a
pass takes some microseconds longer.
"""
