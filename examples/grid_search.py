"""A grid search over search settings on scikit-learn's digits, turned by random quarter turns.

Run it with ``python examples/grid_search.py``; it takes about half a minute on two cores. The results do not depend on
``n_jobs``, as long as every fit has the same number of threads (here one).
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split

from skequinas import DifferentiableSearch, EquivariantNASClassifier, EvolutionarySearch


def main() -> None:
    torch.set_num_threads(1)
    digits = load_digits()
    turns = np.random.default_rng(0).integers(4, size=len(digits.images))
    images = np.array([np.rot90(image, k) for image, k in zip(digits.images, turns, strict=True)], dtype=np.uint8)
    X_train, X_test, y_train, y_test = train_test_split(
        images.reshape(len(images), -1), digits.target, random_state=0, stratify=digits.target
    )
    grid = {
        "search": ["none", EvolutionarySearch(n_generations=2), DifferentiableSearch()],
        "group": ["C1", "D4"],
        "max_epochs": [8],
    }
    search = GridSearchCV(EquivariantNASClassifier(random_state=0), grid, cv=3, n_jobs=2)
    search.fit(X_train, y_train)

    results = search.cv_results_
    print(f"{'search':<38}{'group':<7}{'accuracy (3 folds)':<22}{'seconds':>8}")
    for i in np.argsort(results["rank_test_score"]):
        settings = results["params"][i]
        accuracy = f"{results['mean_test_score'][i]:.4f} +- {results['std_test_score'][i]:.4f}"
        print(f"{settings['search']!s:<38}{settings['group']:<7}{accuracy:<22}{results['mean_fit_time'][i]:>8.1f}")
    best = search.best_estimator_
    print(f"\nThe best, fitted anew on all training images: test accuracy {search.score(X_test, y_test):.4f}")
    print(best.learned_symmetry_)


if __name__ == "__main__":
    main()
