"""
A grid search over search settings
==================================

The estimators are scikit-learn estimators, so ``GridSearchCV`` can compare searches, groups and their settings. The
folds choose by accuracy; what the chosen model learned of the symmetry is then its own affair.
"""

# %%
# Digits turned by random quarter turns
# -------------------------------------
# Rows of 64 pixels are read as square images.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split

from skequinas import DifferentiableSearch, EquivariantNASClassifier, EvolutionarySearch

digits = load_digits(n_class=6)
turns = np.random.default_rng(0).integers(4, size=len(digits.images))
images = np.array([np.rot90(image, k) for image, k in zip(digits.images, turns, strict=True)], dtype=np.uint8)
X_train, X_test, y_train, y_test = train_test_split(
    images.reshape(len(images), -1), digits.target, random_state=0, stratify=digits.target
)

# %%
# The grid
# --------
# A search is given by name or as an object with settings of its own. Two grids keep combinations out that make no
# sense: with ``group="C1"`` there is nothing to search. (Settings of one search object can be searched too, under names
# such as ``search__n_generations``.)

grid = [
    {"search": ["none"], "group": ["C1", "D4"]},
    {"search": [EvolutionarySearch(n_generations=1), DifferentiableSearch()], "group": ["D4"]},
]
model = EquivariantNASClassifier(width=32, max_epochs=5, random_state=0)
search = GridSearchCV(model, grid, cv=2, n_jobs=2).fit(X_train, y_train)

# %%
# Accuracies
# ----------
# So few images and such short trainings are good for an example, and not for a conclusion: with four kinds of digits
# instead of six, other rows came first, an ordinary network (``group="C1"``) among them. The
# :doc:`benchmarks </benchmarks>` compare with more images and several seeds.

results = search.cv_results_
names = [str(setting).partition("(")[0] for setting in results["param_search"]]
print(f"{'search':<22}{'group':<7}{'accuracy (2 folds)':<20}{'seconds':>8}")
for i in np.argsort(results["rank_test_score"]):
    accuracy = f"{results['mean_test_score'][i]:.3f} ± {results['std_test_score'][i]:.3f}"
    print(f"{names[i]:<22}{results['param_group'][i]:<7}{accuracy:<20}{results['mean_fit_time'][i]:>8.1f}")

# %%

order = np.argsort(results["mean_test_score"])
labels = [f"{name}\n{group}" for name, group in zip(names, results["param_group"], strict=True)]
figure, ax = plt.subplots(figsize=(6.4, 3), layout="constrained")
ax.barh(range(len(order)), results["mean_test_score"][order], xerr=results["std_test_score"][order])
ax.set_yticks(range(len(order)), [labels[i] for i in order], fontsize=8)
ax.set_xlim(0.5, 1)
ax.set_xlabel("accuracy (mean of 2 folds)")

# %%
# The best, fitted anew on all training images
# --------------------------------------------

print(f"test accuracy {search.score(X_test, y_test):.3f}")
print(search.best_estimator_.learned_symmetry_)
