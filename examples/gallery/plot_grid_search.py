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
# sense: with ``group="C1"`` there is nothing to search.

grid = [
    {"search": ["none"], "group": ["C1", "D4"]},
    {"search": [EvolutionarySearch(n_generations=2), DifferentiableSearch()], "group": ["D4"]},
]
model = EquivariantNASClassifier(max_epochs=6, random_state=0)
search = GridSearchCV(model, grid, cv=2, n_jobs=2).fit(X_train, y_train)

# %%
# The settings of a search object can be searched too, under the name ``search__n_generations`` and the like.

results = search.cv_results_
print(f"{'search':<36}{'group':<7}{'accuracy (2 folds)':<20}{'seconds':>8}")
for i in np.argsort(results["rank_test_score"]):
    settings = results["params"][i]
    accuracy = f"{results['mean_test_score'][i]:.3f} ± {results['std_test_score'][i]:.3f}"
    print(f"{settings['search']!s:<36}{settings['group']:<7}{accuracy:<20}{results['mean_fit_time'][i]:>8.1f}")

# %%

order = np.argsort(results["mean_test_score"])
labels = [f"{settings['search']}\n{settings['group']}" for settings in results["params"]]
figure, ax = plt.subplots(figsize=(6.4, 3), layout="constrained")
ax.barh(range(len(order)), results["mean_test_score"][order], xerr=results["std_test_score"][order])
ax.set_yticks(range(len(order)), [labels[i] for i in order], fontsize=8)
ax.set(xlim=(0.5, 1), xlabel="accuracy (mean of 2 folds)")

# %%
# The best, fitted anew on all training images
# --------------------------------------------

print(f"test accuracy {search.score(X_test, y_test):.3f}")
print(search.best_estimator_.learned_symmetry_)
