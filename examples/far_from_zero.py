# %% [markdown]
# # Accuracy far from zero
#
# float32 loses digits where the mean is much larger than the deviation. This measures the largest error of a layer
# norm, for the textbook formulas and for this library, against float64. It takes seconds, and its data are random.

# %%
import numpy as np
from matplotlib.figure import Figure

import normzoo as nz

ratios = 10.0 ** np.arange(0, 7)  # mean / standard deviation
rng = np.random.default_rng(0)

# %% [markdown]
# Three ways to normalize. "One pass" is E[x²] - E[x]², which many kernels compute.


# %%
def one_pass(x):
    mean = x.mean(1, keepdims=True)
    return (x - mean) / np.sqrt(np.maximum((x * x).mean(1, keepdims=True) - mean * mean, 0) + np.float32(1e-5))


def two_passes(x):
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + np.float32(1e-5))


ways = {"one pass, NumPy": one_pass, "two passes, NumPy": two_passes, "normzoo": nz.LayerNorm(1024)}

# %%
errors = {name: [] for name in ways}
for ratio in ratios:
    x = (ratio + rng.standard_normal((64, 1024))).astype(np.float32)
    exact = two_passes(x.astype(np.float64))
    for name, way in ways.items():
        errors[name].append(np.abs(way(x) - exact).max())

# %% [markdown]
# The error of the textbook grows with the mean; this library's stays below 1e-6.

# %%
figure = Figure((7, 4), layout="constrained")
axes = figure.subplots()
for name, marker in zip(ways, "s^o", strict=True):
    axes.loglog(ratios, errors[name], marker=marker, label=name)
axes.axhline(1e-6, color="grey", linestyle=":", label="1e-6")
axes.set(xlabel="mean / standard deviation", ylabel="largest error", title="Layer norm of 1024 values, float32")
axes.legend()
figure.savefig("far_from_zero.png", format="png", dpi=110)
print(f"largest error of normzoo: {max(errors['normzoo']):.1e}")
