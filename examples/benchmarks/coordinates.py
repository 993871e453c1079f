"""Groups and inputs: what maps of coordinates add to constrained networks and to ordinary ones.

    python examples/benchmarks/coordinates.py --data FOLDER --seeds 0 1

FOLDER holds the npz files that docs/what_was_learned.md describes; images are shrunk to about 16 pixels. Each
network is told its group. Test images choose nothing. Written: the score on test images (accuracy, balanced for
dermatoscopy), by group and by what stands beside the image.
"""

from __future__ import annotations

import argparse

import numpy as np
from approximate import SOURCES, load
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from skequinas import EquivariantNASClassifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the npz files")
    parser.add_argument("--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--groups", nargs="+", default=["D4", "C4", "C1"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=2000)
    options = parser.parse_args()
    print("| images | group | nothing | radius | frame |\n|" + " --- |" * 5)
    for name in options.sources:
        X, y, X_test, y_test = load(options.data, SOURCES[name])
        X_test, y_test = X_test[: options.test], y_test[: options.test]
        measure = balanced_accuracy_score if name == "dermatoscopy" else accuracy_score
        for group in options.groups:
            cells = []
            for coordinates in ("none", "radius", "frame"):
                scores = []
                for seed in options.seeds:
                    rows = np.random.default_rng(seed).permutation(len(X))[: options.train]
                    model = EquivariantNASClassifier(group, "none", coordinates=coordinates, random_state=seed)
                    scores.append(measure(y_test, model.fit(X[rows], y[rows]).predict(X_test)))
                cells.append(f"{np.mean(scores):.3f} ({min(scores):.3f} to {max(scores):.3f})")
            print(f"| {name} | {group} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
