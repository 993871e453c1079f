"""
A network that somebody else has trained, made symmetric
========================================================

A pretrained network gives features, a linear model on top of them is fitted: the usual way where images are few. Such
features know which way is up, for better or worse. :class:`skequinas.SymmetrizedClassifier` makes the whole pipeline
invariant, whatever the network is, and may learn a pose for each image.
"""

# %%
# The network
# -----------
#
# Take the weights that you have, such as those of a network trained on photographs. Here a small one stands in for it:
# trained on upright digits of six classes, without its last layer, and never changed again.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skequinas import EquivariantNASClassifier, SymmetrizedClassifier

X, y = load_digits(return_X_y=True)
images = X.reshape(-1, 8, 8)
known = y < 6
pretrained = EquivariantNASClassifier("C1", "none", max_epochs=10, random_state=0).fit(images[known], y[known])
backbone = pretrained.to_torch()[:-2].eval()  # any torch module from images to features


def features(images):
    """What the frozen network makes of images."""
    with torch.inference_mode():
        return backbone(torch.from_numpy(np.ascontiguousarray(images))[:, None]).numpy()


# %%
# The task
# --------
#
# The other four classes, each image turned by quarter turns at random, of which 200 have labels.

rng = np.random.default_rng(0)
turns = rng.integers(4, size=len(images))
turned = np.stack([np.rot90(x, k) for x, k in zip(images, turns, strict=True)])
rows = rng.permutation(np.flatnonzero(~known))
fit, test = rows[:200], rows[200:]

# %%
# Four ways to use the network
# ----------------------------

pipeline = make_pipeline(FunctionTransformer(features), StandardScaler(), LogisticRegression(max_iter=1000))
scores = {"as it is": pipeline.fit(turned[fit], y[fit]).score(turned[test], y[test])}
for mode in ("average", "augment", "canonical"):
    model = SymmetrizedClassifier(pipeline, "C4", mode, flatten=False, random_state=0)
    scores[mode] = model.fit(turned[fit], y[fit]).score(turned[test], y[test])
for way, score in scores.items():
    print(f"{way:10} {score:.3f}")

# %%
# The pose that was learned
# -------------------------
#
# Nobody said which way is up, so the pose need not be upright: it is one in which the classes can be told.

elements, moved_back = model.canonicalize(turned[test[:8]])
figure, axes = plt.subplots(2, 8, figsize=(8, 2.4), layout="constrained")
for column, (before, after, g) in enumerate(zip(turned[test[:8]], moved_back, elements, strict=True)):
    axes[0, column].imshow(before, cmap="gray_r")
    axes[1, column].imshow(after, cmap="gray_r")
    axes[1, column].set_xlabel(model.group_.element_name(int(g)), fontsize=7)
for ax in axes.ravel():
    ax.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("as it came", fontsize=8)
axes[1, 0].set_ylabel("moved back", fontsize=8)
