# %% [markdown]
# # What four norms do to the same array
#
# Rows are samples, columns are channels with eight positions each. Every channel has a scale of its own, and so has
# every sample. A norm removes the scales that its sets share. It takes seconds, and its data are random.

# %%
import numpy as np
from matplotlib.figure import Figure

import normzoo as nz

rng = np.random.default_rng(0)
samples, channels, positions = 8, 6, 8
scale = np.geomspace(0.3, 3, channels)[:, None] * np.geomspace(0.5, 2, samples)[:, None, None]
x = (scale * (1 + rng.standard_normal((samples, channels, positions)))).astype(np.float32)

# %%
norms = {
    "x": lambda x: x,
    "BatchNorm: a channel": nz.BatchNorm(channels),
    "InstanceNorm: a channel of a sample": nz.InstanceNorm(channels),
    "LayerNorm: a sample": nz.LayerNorm((channels, positions)),
    "GroupNorm: three channels of a sample": nz.GroupNorm(2, channels),
}

# %% [markdown]
# Batch norm leaves the samples' scales (rows differ), layer norm the channels' (columns differ); instance norm
# leaves neither, and group norm the differences within a group.

# %%
figure = Figure((9, 6), layout="constrained")
for axes, (name, norm) in zip(figure.subplots(3, 2).flat, norms.items(), strict=False):
    shown = axes.imshow(norm(x).reshape(samples, -1), cmap="RdBu", vmin=-3, vmax=3, aspect="auto")
    axes.set_title(name, fontsize=10)
    axes.set_xticks(np.arange(channels) * positions - 0.5, labels=[""] * channels)
    axes.set_yticks([])
    axes.grid(axis="x", color="black", linewidth=0.5)
last = figure.axes[-1]
last.set_axis_off()
figure.colorbar(shown, ax=last, orientation="horizontal", label="value", fraction=0.5)
figure.supylabel("samples")
figure.savefig("four_norms.png", format="png", dpi=110)
