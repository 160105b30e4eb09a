"""All private names of Numba and llvmlite that the library uses; no other folder uses any.

`target` and `pipeline` are our own way of compiling, `plain` is Numba's, and `way` chooses between them. `needed` has
the names that both ways require, `optional` those that the library can work without. It imports Numba, llvmlite and its
own files, and nothing else of the package. It never knows what a kernel computes.
"""
