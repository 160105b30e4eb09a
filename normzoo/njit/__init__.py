"""The functional norms in functions that Numba compiles, forward and backward.

    import normzoo as nz
    import normzoo.njit  # makes the five functions known to Numba

    @numba.njit
    def step(x, weight, bias, dy):
        y, saved = nz.functional.layer_norm(x, (x.shape[1],), weight, bias, return_saved=True)
        return saved.backward(dy)  # Grads(x, weight, bias)

The calls are the same as in Python: `batch_norm`, `instance_norm`, `layer_norm`, `group_norm` and `rms_norm` of
`nz.functional`, with return_saved=, and `saved.backward(dy)`. They run this library's own kernels, on one thread, and
results are bit-identical to those of a call from Python. They may be called in the iterations of prange, and never
enter the Python interpreter.

What stands before and behind a norm is compiled too: residual=, add=, gate=, activation=, gate_first= and
residual_scale=, with `saved.backward(dy, ds=ds)`. The gradients of residual, add and gate are fields of `Grads` behind
its own: `grads.residual`.

Arrays must be C-contiguous, float32 or float64, with the same dtype for x, weight, bias and dy; residual, add and gate
have x's shape and dtype too. Other arguments of the functions, such as out=, channel_axis= and axis=, only work in
Python: Numba raises when it compiles. `return_saved`, `gate_first`, `training` of batch_norm and `use_input_stats` of
instance_norm must be literally True or False, and `activation` a literal name or an `nz.Activation`, as they decide
what is compiled. Wrong shapes raise ValueError, and a kernel without memory for its workspace raises MemoryError;
inside prange Numba drops exceptions, and an iteration that raises ends there. Mean, spread and rstd of every set are in
`saved.stats`, (3, b, c).

The first compilation of a norm takes seconds, for its kernels; Numba's disk cache stores them.
`import normzoo` does not import this package.
"""

from normzoo.njit import functions, saved

__all__ = ["functions", "saved"]
