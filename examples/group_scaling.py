# %% [markdown]
# # Statistics of each photo
#
# A scaler of `normzoo.sklearn` takes data of any rank, and statistics of groups. Here the groups are two photos that
# ship with scikit-learn, one of them under a warm light, and the features are red, green and blue.

# %%
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images

from normzoo.sklearn import MinMaxScaler, QuantileClipper, Standardizer

photos = np.stack(load_sample_images().images).astype(np.float32) / 255  # (photo, height, width, colour)
photos[0] *= [1.0, 0.75, 0.45]  # a lamp
which = np.arange(len(photos))

# %% [markdown]
# Statistics of both photos together leave the cast. Statistics of each photo take it out: every colour of every photo
# then has the same mean and deviation (the "grey world" of photographers).

# %%
together = Standardizer().fit_transform(photos)
apart = Standardizer().fit_transform(photos, groups=which)


def cast(images):
    """How far the mean colours of a photo are apart."""
    return float(np.ptp(images[0].mean(axis=(0, 1), dtype=np.float64)))


print(f"cast of the first photo: {cast(together):.2f} with common statistics, {cast(apart):.2f} with its own")

# %% [markdown]
# To look at them, the darkest and lightest hundredth of each photo is clipped, and the rest brought to 0 ... 1, for all
# colours alike: `axis=` names the axis of the features, which is here one of size 1.


# %%
def visible(images):
    flat = images.reshape(len(images), -1, 1)
    clipped = QuantileClipper().fit_transform(flat, groups=which)
    return MinMaxScaler().fit_transform(clipped, groups=which).reshape(images.shape)


figure = Figure((9, 4.6), layout="constrained")
titles = "as it is", "statistics of both photos", "statistics of each"
for column, title, images in zip(range(3), titles, (photos, visible(together), visible(apart)), strict=True):
    for row, image in enumerate(images):
        axes = figure.add_subplot(2, 3, 3 * row + column + 1)
        axes.imshow(image)
        axes.set_axis_off()
        axes.set_title("" if row else title)
figure.savefig("group_scaling.png", format="png", dpi=90)
