"""Streams with different symmetries beside networks with one, where parts of the image have different symmetries.

    python examples/benchmarks/streams.py --data FOLDER --train 500 2000 --seeds 0 1 2

FOLDER holds the npz files that docs/what_was_learned.md describes; MNIST at 14x14 pixels. Planted task: an image has
two channels with a digit each, the one turned by quarter turns at random, the other mirrored at random from left to
right, and the class says which digit is greater, or that they are equal. No move of the whole image tells what may be
done to either channel. Then rotated digits, galaxies and dermatoscopy, where the whole image is moved.

Test images choose nothing. Written: the mean accuracy (balanced for dermatoscopy) and its range over the seeds, and the
seconds of the process for a fit.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from approximate import SOURCES, Images, Labels, Parts, load
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from skequinas import EquivariantNASClassifier, FixedStreams

MODELS: dict[str, dict[str, Any]] = {
    "streams C4, D1(90)": {"search": FixedStreams(("C4", "D1(90)"))},
    "streams D4, C1": {"search": FixedStreams(("D4", "C1"))},
    "streams C1, C1": {"search": FixedStreams(("C1", "C1"))},
    "D4": {"search": "none"},
    "C4": {"search": "none", "group": "C4"},
    "D1(90)": {"search": "none", "group": "D1(90)"},
    "C1": {"search": "none", "group": "C1"},
    "evolutionary": {"search": "evolutionary"},
    "random": {"search": "random"},
}


def two_digits(parts: Parts, n: int, n_test: int, seed: int) -> Parts:
    """Pairs of digits, the first turned and the second mirrored at random."""
    rng = np.random.default_rng(seed)

    def paired(X: Images, y: Labels, n: int) -> tuple[Images, Labels]:
        first, second = (rng.permutation(len(X))[:n] for _ in range(2))
        turned = np.stack([np.rot90(X[i], rng.integers(4)) for i in first])
        mirrored = np.stack([X[i][:, :: rng.choice([-1, 1])] for i in second])
        return np.stack([turned, mirrored], -1), 1 + np.sign(y[first].astype(int) - y[second].astype(int))

    return *paired(*parts[:2], n), *paired(*parts[2:], n_test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the npz files")
    tasks = ["two digits", *(name for name in SOURCES if name != "upright digits")]
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--train", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--test", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    print("| task | images | model | accuracy | range | seconds |\n|" + " --- |" * 6)
    for task in options.tasks:
        of_task = load(options.data, SOURCES["upright digits" if task == "two digits" else task])
        measure = balanced_accuracy_score if task == "dermatoscopy" else accuracy_score
        for n in options.train:
            for name in options.models:
                scores, seconds = [], []
                for seed in options.seeds:
                    if task == "two digits":
                        X, y, X_test, y_test = two_digits(of_task, n, options.test, seed)
                    else:
                        rows = np.random.default_rng(seed).permutation(len(of_task[0]))[:n]
                        X, y, X_test, y_test = of_task[0][rows], of_task[1][rows], *of_task[2:]
                    started = time.process_time()
                    model = EquivariantNASClassifier(**{"group": "D4"} | MODELS[name], random_state=seed).fit(X, y)
                    seconds.append(time.process_time() - started)
                    scores.append(measure(y_test[: options.test], model.predict(X_test[: options.test])))
                spread = f"{min(scores):.3f} to {max(scores):.3f}"
                cells = task, len(X), name, f"{np.mean(scores):.3f}", spread, f"{np.mean(seconds):.0f}"
                print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
