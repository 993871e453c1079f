"""What symmetrising from outside is worth to estimators that know nothing of images.

    python examples/benchmarks/symmetrized.py --data FOLDER --seeds 0 1 2

FOLDER holds the npz files that docs/what_was_learned.md describes. Every estimator is fitted alone, and in each mode of
`SymmetrizedClassifier`; beside them stands `EquivariantNASClassifier` with its defaults. Written: the accuracy on test
images, which choose nothing, and the seconds of a fit and of the predictions.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from approximate import Source, load
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skequinas import EquivariantNASClassifier, SymmetrizedClassifier

SOURCES = {
    "rotated digits": (Source("mnist_rot_regen", 2), "C4"),
    "galaxies": (Source("galaxyzoo2_spiral48", 3), "D4"),
    "aerial views": (Source("aid10_aerial32", 2), "D4"),
}
ESTIMATORS: dict[str, Any] = {
    "forest": RandomForestClassifier(300, random_state=0),
    "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300)),
    "support vectors": make_pipeline(StandardScaler(), SVC(C=3)),
}
MODES: tuple[Any, ...] = ("average", "augment", "canonical", "weighted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the npz files")
    parser.add_argument("--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=2000)
    options = parser.parse_args()
    print("| images | estimator | how | test accuracy | spread | fit s | predict s |\n|" + " --- |" * 7)
    for name in options.sources:
        source, group = SOURCES[name]
        X, y, X_test, y_test = load(options.data, source)
        parts = [np.random.default_rng(seed).permutation(len(X))[: options.train] for seed in options.seeds]
        asked = X_test[: options.test], y_test[: options.test]
        models = {
            (kind, mode): SymmetrizedClassifier(estimator, group if mode else "C1", mode or "average", random_state=0)
            for kind, estimator in ESTIMATORS.items()
            for mode in ("", *MODES)
        } | {("EquivariantNASClassifier", ""): EquivariantNASClassifier(random_state=0)}
        for (kind, mode), model in models.items():
            scores, fits, predictions = [], [], []
            for rows in parts:
                started = time.process_time()
                model.fit(X[rows], y[rows])
                fits.append(time.process_time() - started)
                scores.append(model.score(*asked))
                predictions.append(time.process_time() - started - fits[-1])
            print(
                f"| {name} | {kind} | {mode or 'alone'} | {100 * np.mean(scores):.1f} | {100 * np.std(scores):.1f} "
                f"| {np.mean(fits):.1f} | {np.mean(predictions):.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
