# %% [markdown]
# # A batch norm that costs nothing
#
# In evaluation a batch norm is a slope and a shift per channel. `nz.fold` puts them into the weights beside it, and
# says how far rounding can move an output. It takes seconds, and its data are random.

# %%
import numpy as np
from matplotlib.figure import Figure

import normzoo as nz

rng = np.random.default_rng(0)
inputs, outputs = 256, 128
weight = (rng.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)
bias = rng.standard_normal(outputs).astype(np.float32)
norm = nz.BatchNorm(outputs)
x = rng.standard_normal((4096, inputs)).astype(np.float32)
for batch in np.split(x, 16):  # running statistics
    norm(batch @ weight.T + bias)
norm.eval()

# %%
folded = nz.fold.batch_norm_into(weight, bias, norm, layout="OI")
before = norm(x @ weight.T + bias)
after = x @ folded.weight.T + folded.bias
print(f"largest difference {np.abs(after - before).max():.1e} of values up to {np.abs(before).max():.1f}")

# %% [markdown]
# The two agree to the rounding of float32.

# %%
figure = Figure((9, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
left.plot(before[:, :8].ravel(), after[:, :8].ravel(), ".", markersize=2)
left.set(title="The same outputs", xlabel="matrix product, then norm", ylabel="folded matrix product")
right.hist((after - before).ravel(), 80)
right.set(title="Their differences", xlabel="difference", ylabel="outputs", yscale="log")
figure.savefig("fold_norm.png", format="png", dpi=110)
