"""
Finer turns
===========

Quarter turns are what a pixel grid can do exactly. Groups such as C8, the turns by 45 degrees, need filters that can be
turned by any angle: rings with waves around them. This happens by itself when the group asks for it.
"""

# %%
# Digits turned by any angle
# --------------------------
# The digits are drawn at twice their size first, as small images turn badly.

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import rotate, zoom
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skequinas import EquivariantNASClassifier

digits = load_digits(n_class=6)
angles = np.random.default_rng(0).uniform(0, 360, len(digits.images))
X = np.array(
    [
        rotate(zoom(image, 2, order=1), angle, reshape=False, order=1)
        for image, angle in zip(digits.images, angles, strict=True)
    ]
)
X_train, X_test, y_train, y_test = train_test_split(X, digits.target, random_state=0, stratify=digits.target)

figure, axes = plt.subplots(1, 6, figsize=(6.4, 1.3), layout="constrained")
for ax, image in zip(axes, X_train, strict=False):
    ax.imshow(image, cmap="gray_r")
    ax.set_axis_off()

# %%
# Search within C8
# ----------------
# ``augment="continuous"`` turns the images of the final training by random angles, if the learned symmetry has all
# rotations of the group. The search itself never turns any image, as it is to find out what the images look like.

model = EquivariantNASClassifier(
    group="C8", search="evolutionary", augment="continuous", width=32, max_epochs=10, random_state=0
).fit(X_train, y_train)
print(f"basis {model.architecture_.basis!r}, images cut to a disc: {model.architecture_.circular_mask}")
print(f"accuracy on test images: {model.score(X_test, y_test):.3f}")
print(model.learned_symmetry_)

# %%
# How well the model keeps its answer
# -----------------------------------
# For quarter turns the answer is the same to round-off. For turns by 45 degrees the images must be interpolated, and
# filters turn well but not perfectly, so the output changes a little. 0 is no change; about 1.4 would be as different
# as another image's output.

change = model.learned_symmetry_.measured_change
figure, ax = plt.subplots(figsize=(6.4, 3), layout="constrained")
ax.bar(range(len(change)), change.values())
ax.set_xticks(range(len(change)), change.keys(), rotation=30, ha="right")
ax.set_ylabel("change of the output")
