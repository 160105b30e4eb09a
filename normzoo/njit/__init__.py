"""The functional norms inside functions that Numba compiles, forward and backward.

    import normzoo as nz
    import normzoo.njit  # teaches Numba these five

    @numba.njit
    def step(x, weight, bias, dy):
        y, saved = nz.functional.layer_norm(x, (x.shape[1],), weight, bias, return_saved=True)
        return saved.backward(dy)  # Grads(x, weight, bias)

The calls are those of Python: `batch_norm`, `instance_norm`, `layer_norm`, `group_norm` and `rms_norm` of
`nz.functional`, with return_saved=, and `saved.backward(dy)`. They run this library's own kernels, on one thread, with
the bits that a call from Python gives; inside prange every iteration may call them. Python is not entered.

Arrays are C-contiguous, float32 or float64, x, weight, bias and dy of one dtype. What else there is to the functions,
out=, channel_axis= and axis= among it, is for Python alone: Numba says so when it compiles. `return_saved` and, of
batch_norm and instance_norm, `training` and `use_input_stats` are written as True or False, for they decide what is
compiled. Wrong shapes raise ValueError, and MemoryError is raised where a kernel finds no working space; inside prange
Numba drops what is raised, and an iteration that raises ends there, whatever it called. A mean of a set, its spread and
its rstd are in `saved.stats`, (3, b, c).

The first compilation of a norm takes seconds, for its kernels; Numba's disk cache keeps them.
`import normzoo` does not import this.
"""

from normzoo.njit import functions, saved

__all__ = ["functions", "saved"]
