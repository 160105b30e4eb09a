# %% [markdown]
# # Your own norm, and its gradient
#
# A norm whose statistics are means over axes is declared in a few lines, and has its gradient with that. This
# compares the gradient with differences of steps of all sizes. It takes seconds, and its data are random.

# %%
import numpy as np
from matplotlib.figure import Figure

import normzoo as nz
from normzoo.backends.contract import Moments
from normzoo.passes.view import Axes

# %% [markdown]
# The root mean square of the batch, channel by channel: r axes are reduced, K is kept and has parameters.


# %%
class BatchRMSNorm(nz.Norm):
    moments = Moments(center=False, power=2)

    def __init__(self, num_features):
        super().__init__(num_features, shape=(num_features,))

    def axes(self, x):  # (N, C, ...)
        return Axes(x.shape, "rK" + "r" * (x.ndim - 2))


norm = BatchRMSNorm(8)
rng = np.random.default_rng(0)
x, dy, direction = rng.standard_normal((3, 16, 8, 5))
_, saved = norm.forward(x)
slope = (saved.backward(dy).x * direction).sum()

# %% [markdown]
# Large steps are wrong because the function bends, small ones because numbers are rounded. Between them the
# difference comes as close to the gradient as float64 lets it.

# %%
steps = 10.0 ** np.arange(-12, 0, 0.5)
up, down = ([(norm.forward(x + sign * h * direction)[0] * dy).sum() for h in steps] for sign in (1, -1))
errors = np.abs((np.array(up) - np.array(down)) / (2 * steps) - slope) / abs(slope)
print(f"nearest: {errors.min():.1e} at a step of {steps[errors.argmin()]:.0e}")

# %%
figure = Figure((7, 4), layout="constrained")
axes = figure.subplots()
axes.loglog(steps, errors, "o-")
axes.set(xlabel="step", ylabel="relative difference", title="The gradient beside central differences, float64")
figure.savefig("gradient_check.png", format="png", dpi=110)
