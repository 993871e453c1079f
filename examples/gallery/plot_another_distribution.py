"""
Trained on one distribution, used on another
============================================

Images are often taken upright, and the model then meets them in any orientation. Which symmetry should it have? The
training images cannot tell: they are upright. A few labelled images of the kind that is to come can, as
``validation_data``: the search trains on the one and asks the other. The paper does so with digits.
"""

# %%
# Upright digits to learn from, turned ones to come
# -------------------------------------------------

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skequinas import EquivariantNASClassifier


def turned(images, seed):
    """Each image turned by a random quarter turn."""
    turns = np.random.default_rng(seed).integers(4, size=len(images))
    return np.array([np.rot90(image, k) for image, k in zip(images, turns, strict=True)])


digits = load_digits()
X, X_test, y, y_test = train_test_split(
    digits.images, digits.target, test_size=0.4, random_state=0, stratify=digits.target
)
X_train, X_new, y_train, y_new = train_test_split(X, y, test_size=0.25, random_state=0, stratify=y)
X_new, X_test = turned(X_new, seed=1), turned(X_test, seed=2)

figure, axes = plt.subplots(2, 6, figsize=(6.4, 2.4), layout="constrained")
for row, images, name in zip(axes, (X_train, X_new), ("to learn from", "to come"), strict=True):
    row[0].set_title(name, loc="left", fontsize=10)
    for ax, image in zip(row, images, strict=False):
        ax.imshow(image, cmap="gray_r")
        ax.set_axis_off()

# %%
# What upright digits say of themselves
# -------------------------------------
# They have no symmetry, so none is built in, and the model does not know a digit that lies on its side.

alone = EquivariantNASClassifier(group="D4", random_state=0).fit(X_train, y_train)
print(f"accuracy on turned digits: {alone.score(X_test, y_test):.3f}")
print(alone.learned_symmetry_)

# %%
# What the turned digits say
# --------------------------
# The images are the same and the network learns upright ones alone, but it is the others that are asked, and nothing
# speaks against turns.

model = EquivariantNASClassifier(group="D4", random_state=0)
model.fit(X_train, y_train, validation_data=(X_new, y_new))
print(f"accuracy on turned digits: {model.score(X_test, y_test):.3f}")
print(model.learned_symmetry_)

# %%
# The evidence is only as good as its witness: a network that has seen no turned digit predicts them badly, as its
# held-out error says, and so it may miss that mirrors are no symmetry of digits. What it rejects it rejects for sure;
# what it does not reject is what the model can afford where it has nothing else to learn turns from.
