# %% [markdown]
# # Local contrast
#
# Local contrast normalization subtracts from each pixel the mean of the window around it, and divides by the
# window's deviation: shadows and light areas show the same detail. It takes seconds; the photo is scikit-learn's.

# %%
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import normzoo as nz

photo = load_sample_image("china.jpg").astype(np.float32).mean(-1) / 255  # grey
height, width = photo.shape
photo = photo * np.linspace(0.15, 1, width, dtype=np.float32)  # as if the light came from the right

# %% [markdown]
# x is (samples, channels, height, width).

# %%
norm = nz.LocalContrastNorm(15)
y = norm(photo[None, None])[0, 0]

# %%
figure = Figure((9, 3.2), layout="constrained")
for axes, (name, image, limits) in zip(
    figure.subplots(1, 2),
    (("a photo, lit from the right", photo, (0, 1)), ("LocalContrastNorm(15)", y, (-2, 2))),
    strict=True,
):
    axes.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1])
    axes.set_title(name, fontsize=10)
    axes.set_axis_off()
figure.savefig("local_contrast.png", format="png", dpi=110)
halves = [np.hsplit(image, 2) for image in (photo, y)]
for name, (dark, light) in zip(("photo", "normalized"), halves, strict=True):
    print(f"{name:10} deviation of the dark half {dark.std():.2f}, of the light half {light.std():.2f}")
