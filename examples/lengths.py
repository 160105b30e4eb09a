# %% [markdown]
# # Padded sequences
#
# Sequences of different lengths are padded with zeros to one array. Zeros that count pull the statistics of a batch
# norm towards zero; `lengths=` leaves them out. It takes seconds, and its data are random.

# %%
import numpy as np
from matplotlib.figure import Figure

import normzoo as nz

rng = np.random.default_rng(0)
lengths = rng.integers(3, 40, 64)
x = np.zeros((64, 40, 1), np.float32)  # (samples, time, channels)
for sample, length in zip(x, lengths, strict=True):
    sample[:length] = rng.normal(5, 1, (length, 1))
counts = np.arange(40) < lengths[:, None]

# %% [markdown]
# The same call, without and with the lengths. What is left out is 0 in y, and has no gradient.

# %%
all_count = nz.BatchNorm(1, channel_axis=-1)(x)
norm = nz.BatchNorm(1, channel_axis=-1)
some_count = norm(x, lengths=lengths)
print("mean and deviation of the real values:")
for name, y in (("padding counts", all_count), ("lengths=", some_count)):
    print(f"{name:15} {y[counts].mean():6.3f} {y[counts].std():6.3f}")

# %%
figure = Figure((9, 4), layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
left.imshow(np.where(counts, x[..., 0], np.nan), cmap="viridis", aspect="auto")
left.set(title="x; white is padding", xlabel="time", ylabel="sample")
bins = np.linspace(-4, 4, 60)
right.hist(all_count[counts], bins, alpha=0.7, label="padding counts")
right.hist(some_count[counts], bins, alpha=0.7, label="lengths=")
right.set(title="Real values behind the norm", xlabel="y", ylabel="values")
right.legend()
figure.savefig("lengths.png", format="png", dpi=110)
