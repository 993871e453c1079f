"""
Find the symmetry of a task
===========================

We make a task whose symmetry we know, let a search find it, and look at the evidence.

Every digit is moved by a random element of D4, that is, turned by quarter turns and perhaps mirrored. The label says
which digit it is *and* whether it is mirrored. A further quarter turn leaves such a label alone; a mirror changes it.
So the task has the symmetry C4 and no more.
"""

# %%
# The task
# --------
# :func:`~skequinas.datasets.make_planted_symmetry` moves the images and makes the labels: two for each digit, one for
# each coset of C4 in D4. Five kinds of digits are enough here.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skequinas import EquivariantNASClassifier, OrbitDisplay, SymmetryDisplay
from skequinas.datasets import make_planted_symmetry

digits, classes = load_digits(n_class=5, return_X_y=True)
X, codes = make_planted_symmetry(digits.reshape(-1, 8, 8), classes, "D4", "C4", random_state=0)
y = np.array([f"{code // 2}{' mirrored' if code % 2 else ''}" for code in codes])
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)

figure, axes = plt.subplots(2, 6, figsize=(6.4, 2.7), layout="constrained")
for ax, image, label in zip(axes.flat, X_train, y_train, strict=False):
    ax.imshow(image, cmap="gray_r")
    ax.set_title(label, fontsize=9)
    ax.set_axis_off()

# %%
# The search
# ----------
# The default search is the evolutionary one. It takes a part of the training images as witnesses and gives a symmetry
# up only if they speak against it.

model = EquivariantNASClassifier(group="D4", search="evolutionary", max_epochs=20, random_state=0)
model.fit(X_train, y_train)
print(f"accuracy on test images: {model.score(X_test, y_test):.3f}")

# %%
# The verdict
# -----------
# ``learned_symmetry_`` prints the symmetry, the evidence for it, and what is left open.

print(model.learned_symmetry_)

# %%
# The evidence
# ------------
# The display draws all subgroups of D4, each joined to those just below it. The numbers are the held-out error, in per
# cent, of a network that is free to break every symmetry, when its outputs are averaged over the subgroup. Everything
# within C4 costs nothing; everything with a mirror costs a lot.

SymmetryDisplay.from_estimator(model)
# sphinx_gallery_thumbnail_number = 2

# %%
# The same as a table:

model.learned_symmetry_.to_frame()[["order", "score", "loss_rise", "p_value", "verdict"]].round(4)

# %%
# One image under every move
# --------------------------
# The fitted model gives the same answer, to round-off, for all quarter turns of an image: that is built in. Its answer
# for the mirror images is free to be another one, and it has to be.

two = np.flatnonzero(y_test == "2")[0]
OrbitDisplay.from_estimator(model, X_test[two])
