"""Every private name of Numba and llvmlite that the library takes hold of: nobody else does.

`target` and `pipeline` are our own way to compile, `plain` is Numba's, and `way` chooses between them; `needed` has
what both ways stand on, `optional` what has a way of its own to do without. It imports Numba, llvmlite and its own
files, and nothing else of the package. Never what a kernel computes.
"""
