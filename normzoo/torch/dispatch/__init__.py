"""PyTorch's norms by this library's kernels, in PyTorch's own dispatcher: no model changes, nothing is converted.

interface   PyTorch's C interface as primitives of compiled code
handles     tensors in compiled code
threads     PyTorch's threads
plans       which kernel does a pass: asked of Python once per sizes and dtypes
passes      a pass of a plan
kernels/    the operators' kernels, as C calls them
installing  registers them
"""
