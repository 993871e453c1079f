"""
Ask any fitted model about symmetry
===================================

A search is not always needed. Two functions ask a model that is already fitted, on images that it has not seen:

* :func:`~skequinas.symmetry_evidence` asks a model that is *free to break* symmetries;
* :func:`~skequinas.score_test` asks a model that *has* them whether its gradients want to break them.
"""

# %%
# The task
# --------
# Four kinds of digits, moved by random elements of D4. The label tells in which coset of D2(0) the move lies, so the
# task has the symmetry D2(0): half turns, and the up-down and left-right mirrors.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skequinas import EquivariantNASClassifier, score_test, symmetry_evidence
from skequinas.datasets import make_planted_symmetry

digits, _ = load_digits(n_class=4, return_X_y=True)
X, y = make_planted_symmetry(digits.reshape(-1, 8, 8), group="D4", subgroup="D2(0)", random_state=0)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=0, stratify=y)

# %%
# Ask a model that is free
# ------------------------
# An ordinary CNN is the classifier with ``group="C1"`` and ``search="none"``.

free = EquivariantNASClassifier(group="C1", search="none", max_epochs=15, random_state=0).fit(X_train, y_train)
evidence = symmetry_evidence(free, X_test, y_test, group="D4", random_state=0)
for name, e in evidence.items():
    print(f"{name:<8} p = {e.p_value:<7.4f} rise of the loss when imposed {e.loss_rise:+.3f} ± {e.loss_rise_error:.3f}")

# %%
# Ask a model that has all symmetries
# -----------------------------------
# The whole group is imposed with ``group="D4"`` and ``search="none"``. Such a model cannot solve this task at all, as
# D4 moves the images of one class to those of the other. Its gradients say so, on images that it has not seen.

symmetric = EquivariantNASClassifier(group="D4", search="none", max_epochs=15, random_state=0).fit(X_train, y_train)
print(f"accuracy of the D4 model: {symmetric.score(X_test, y_test):.2f}")
print(f"accuracy of the free one: {free.score(X_test, y_test):.2f}")
test = score_test(symmetric, X_test, y_test, random_state=0)
adjusted = test.adjusted()

# %%
# Both answers side by side
# -------------------------
# Subgroups of D2(0) have large p-values in both tests, since the data have these symmetries; both reject all others.
# The p-values are adjusted for the nine tests, and the low bars are as low as can be: the number of random moves sets
# the limit, 999 in the score test by default. That test needs the symmetric model alone. It is the weaker of the two in
# the benchmarks, if not here. A large p-value is no proof.

names = [name for name in evidence if name != "C1"]
places = np.arange(len(names))
figure, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
ax.bar(places - 0.2, [max(evidence[name].p_value, 2e-4) for name in names], 0.4, label="symmetry_evidence")
ax.bar(places + 0.2, [max(adjusted[name], 2e-4) for name in names], 0.4, label="score_test", hatch="//", edgecolor="w")
ax.axhline(0.01, color="black", linestyle="--", linewidth=1)
ax.text(-0.5, 0.0115, "level 0.01")
ax.set(yscale="log", ylim=(1e-4, 5), ylabel="adjusted p-value", xticks=places, xticklabels=names)
ax.legend(ncols=2, frameon=False, loc="upper right")
ax.tick_params(axis="x", labelrotation=30)

# %%
# Where the gradients point
# -------------------------
# ``gains`` tells, layer by layer, how much relaxing to a subgroup would gain in comparison with noise, which is 1.

for layer, gains in test.gains.items():
    print(layer, {name: round(gain, 1) for name, gain in gains.items()})
