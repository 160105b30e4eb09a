# %% [markdown]
# # The colours of one photo for another
#
# Adaptive instance norm gives every channel of x the mean and deviation of the same channel of another array, the
# style. On the colours of photos (scikit-learn's two) this is colour transfer. It takes seconds.

# %%
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images

import normzoo as nz

content, style = (photo.astype(np.float32) / 255 for photo in load_sample_images().images)

# %% [markdown]
# Photos are (height, width, channels): channels last, in a batch of one.

# %%
norm = nz.AdaptiveInstanceNorm(channel_axis=-1)
painted = norm(content[None], style[None])[0]
for name, photo in (("style", style), ("result", painted)):
    print(f"{name:7} mean {photo.mean((0, 1)).round(3)} deviation {photo.std((0, 1)).round(3)}")

# %%
figure = Figure((9, 4.6), layout="constrained")
photos = {"content": content, "style": style, "content in the colours of style": np.clip(painted, 0, 1)}
mosaic = figure.subplot_mosaic([["content", "result"], ["style", "result"]], width_ratios=(1, 2.1))
for place, (name, photo) in zip(("content", "style", "result"), photos.items(), strict=True):
    mosaic[place].imshow(photo)
    mosaic[place].set_title(name, fontsize=10)
    mosaic[place].set_axis_off()
figure.savefig("style.png", format="png", dpi=110)
