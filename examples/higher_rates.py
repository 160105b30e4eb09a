# %% [markdown]
# # Higher learning rates
#
# A network of three matrix products learns handwritten digits (scikit-learn's, 8 x 8 pixels), with batch norm and
# without. All gradients are written by hand. It takes some seconds.

# %%
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import normzoo as nz

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)


# %% [markdown]
# A step goes through the layers and back. Without a norm, `h` goes straight into the ReLU.


# %%
def train(rate, normed, epochs=8, seed=0):
    rng = np.random.default_rng(seed)
    sizes = [64, 64, 64, 10]
    weights = [rng.standard_normal(s).astype(np.float32) * np.sqrt(2 / s[0]) for s in pairwise(sizes)]
    norms = [nz.BatchNorm(64), nz.BatchNorm(64)] if normed else [None, None]
    losses = []
    for _ in range(epochs):
        for batch in np.split(rng.permutation(1728), 27):
            inputs, a = [], images[batch]
            for w, norm in zip(weights, [*norms, None], strict=True):
                inputs.append(a)
                h = a @ w
                a = h if w is weights[-1] else np.maximum(norm(h) if norm else h, 0)
            p = np.exp(a - a.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            losses.append(-np.log(p[np.arange(64), labels[batch]] + 1e-9).mean())
            p[np.arange(64), labels[batch]] -= 1
            d = p / 64
            for i in (2, 1, 0):
                below = d @ weights[i].T * (inputs[i] > 0)  # through the ReLU below
                weights[i] = weights[i] - rate * inputs[i].T @ d
                if i and norms[i - 1]:
                    below = norms[i - 1].backward(below)
                    for name, gradient in norms[i - 1].grads.items():
                        norms[i - 1].params[name] -= rate * gradient
                d = below
    return np.mean(losses[-27:])


# %%
rates = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
with np.errstate(all="ignore"):  # without a norm, high rates may end in NaN, which is not drawn
    found = {normed: [train(rate, normed) for rate in rates] for normed in (False, True)}

# %%
figure = Figure((7, 4), layout="constrained")
axes = figure.subplots()
for normed, name in ((False, "without"), (True, "with batch norm")):
    axes.loglog(rates, found[normed], "o-", label=name)
axes.set(xlabel="learning rate", ylabel="loss of the last epoch", title="Digits, eight epochs, one seed")
axes.legend()
figure.savefig("higher_rates.png", format="png", dpi=110)
