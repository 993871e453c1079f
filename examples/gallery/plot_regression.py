"""
Regression with several targets
===============================

The regressor predicts numbers, one or several for each image. Here they are how much ink a digit has and how far the
ink lies from the centre. Neither changes when the image is turned or mirrored.
"""

# %%
# Images and targets
# ------------------
# The digits are turned and mirrored at random.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split

from skequinas import EquivariantNASRegressor, SymmetryDisplay

images = load_digits(n_class=6).images
rng = np.random.default_rng(0)
turns, flips = rng.integers(4, size=len(images)), rng.choice([-1, 1], size=len(images))
X = np.array([np.rot90(image, k)[:, ::flip] for image, k, flip in zip(images, turns, flips, strict=True)])
distance = ((np.arange(8) - 3.5) ** 2)[:, None] + (np.arange(8) - 3.5) ** 2
y = np.column_stack([X.sum((1, 2)), (X * distance).sum((1, 2)) / X.sum((1, 2))])
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)

# %%
# Fit
# ---
# Targets are standardised within, and predictions come back in the units of ``y``.

model = EquivariantNASRegressor(group="D4", search="evolutionary", max_epochs=12, random_state=0).fit(X_train, y_train)
predicted = model.predict(X_test)
print("R2 of ink and distance:", r2_score(y_test, predicted, multioutput="raw_values").round(3))

# %%
# What was learned
# ----------------
# The task has the symmetry D4: images and targets *together* look the same when all images are turned or mirrored. It
# would not be enough that the targets do not change. Had the digits been turned but never mirrored, a mirrored digit
# would be something new to the network, for which it predicts a little worse; the test would notice.

print(model.learned_symmetry_)

# %%
# In a regression the display shows the held-out score: 1 minus the squared error of the standardised targets.

SymmetryDisplay.from_estimator(model)

# %%
# Predictions
# -----------

figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.2), layout="constrained")
for ax, name, true, guess in zip(axes, ["ink", "distance"], y_test.T, predicted.T, strict=True):
    ax.plot(true, guess, ".", markersize=3)
    ax.axline((true.mean(), true.mean()), slope=1, color="black", linewidth=1)
    ax.set(title=name, xlabel="true", ylabel="predicted")
