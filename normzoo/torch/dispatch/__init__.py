"""PyTorch's norms by this library's kernels, in PyTorch's own dispatcher: no model changes, nothing is converted.

interface   PyTorch's C interface as primitives of compiled code
handles     tensors in compiled code
threads     PyTorch's threads
plans       which kernel does a pass: asked of Python once per sizes and dtypes
passes      a pass of a plan
kernels/    the operators' kernels, as C calls them
registering by the names of PyTorch's operators, in its dispatcher
installing  in place of PyTorch's own: `install`
direct      beside them, for calls of this library's functions and modules without gradients
"""
