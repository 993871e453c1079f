"""
Watch a differentiable search
=============================

The differentiable search trains one network in which every layer mixes kernels of *all* subgroups and learns their
shares. Here we look at the shares, layer by layer and in the course of the training, and at the constraints that come
out of it.
"""

# %%
# The task
# --------
# Digits turned by random quarter turns. They are never mirrored, so the task has the symmetry C4.

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skequinas import DifferentiableSearch, EquivariantNASClassifier, SymmetryDisplay

digits = load_digits(n_class=6)
turns = np.random.default_rng(0).integers(4, size=len(digits.images))
X = np.array([np.rot90(image, k) for image, k in zip(digits.images, turns, strict=True)])
X_train, X_test, y_train, y_test = train_test_split(X, digits.target, random_state=0, stratify=digits.target)

# %%
# The search
# ----------
# ``search="differentiable"`` would do as well. The object gives access to the settings of the search; here the shares
# learn three times as fast as usual, so that a short training shows where they go.

search = DifferentiableSearch(alpha_learning_rate=0.03)
model = EquivariantNASClassifier(group="D4", search=search, max_epochs=16, random_state=0).fit(X_train, y_train)
print(f"accuracy on test images: {model.score(X_test, y_test):.3f}")
print(model.learned_symmetry_)

# %%
# Shares and constraints
# ----------------------
# Each column is a layer. The numbers are the learned shares; the frames are the constraints of the final network. A
# share says what a layer found useful, not what the data have: the verdict comes from the test on held-out images, and
# the constraints are chosen to agree with it.

SymmetryDisplay.from_estimator(model, kind="layers")

# %%
# In the course of the training
# -----------------------------
# The whole group, D4, starts ahead of all others; the scale is logarithmic.

SymmetryDisplay.from_estimator(model, kind="training")

# %%
# How far each layer is from larger groups
# ----------------------------------------
# The final network's kernels obey their constraints exactly. The table tells how much of each kernel a larger group
# would remove: 0 is nothing, 1 is as much as can be.

model.learned_symmetry_.to_frame("layers").filter(regex="constraint|distance").round(2)
