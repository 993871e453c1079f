"""Is the verdict right where images are not independent of each other, and is it the same in any order of the rows?

The task is the same throughout: digits of MNIST (shrunk to 14x14 by averaging), each moved by a random element of D4,
with the class of the digit as the label, so that D4 is true. What varies is what people do to their data:

- copies: the held-out images of `symmetry_evidence` are there five times;
- a rare class: 30 images of it stand beside 300 others, and are repeated ten times to balance the classes;
- patients: 40 objects with twelve nearly equal images each, and the label is the object's, with ``groups`` or without;
- shots: 400 images in four noisy copies each, with ``groups`` or without. There are 8 grey values of noise, a tenth of
  the spread of the images; "noisy shots" have 20, too much for copies to be noticed without ``groups``;
- orders: one data set of 400 images with its rows in several orders.

The share of verdicts other than D4 is what the table shows (for the orders, the share of the most frequent verdict).

    python examples/benchmarks/dependent_images.py --data FOLDER

FOLDER holds mnist.npz with ``X_train, y_train`` (n x 28 x 28, uint8); without ``--data`` it is downloaded by name.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from planted_symmetry import load

from skequinas import EquivariantNASClassifier, symmetry_evidence
from skequinas.datasets import make_planted_symmetry

Task = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64] | None]


def digits(data: tuple[NDArray[np.uint8], NDArray[np.int64]], n: int, seed: int) -> Task:
    """Digits moved by all of D4, with their classes, and no groups."""
    X, y = data
    rows = np.random.default_rng(seed).permutation(len(X))[:n]
    X, y = make_planted_symmetry(X[rows], y[rows], subgroup="D4", random_state=seed)
    return X.astype(np.float32), y, None


def repeated(task: Task, times: int, noise: float, seed: int) -> Task:
    """Every image so many times, with noise of this deviation, and groups that tell which belong together."""
    X, y, _ = task
    X = X.repeat(times, axis=0)
    X = X + noise * np.random.default_rng(seed).normal(size=X.shape).astype(np.float32)
    return X, y.repeat(times), np.arange(len(y)).repeat(times)


def rare(data: tuple[NDArray[np.uint8], NDArray[np.int64]], seed: int) -> Task:
    """Two classes, of which one has 30 images, ten times each."""
    X, y, _ = digits(data, 4000, seed)
    few, many = np.flatnonzero(y == 8)[:30], np.flatnonzero(y == 3)[:300]
    rows = np.concatenate([many, few.repeat(10)])
    return X[rows], y[rows], None


def verdict(task: Task, search: str, seed: int, *, named: bool = False) -> str:
    """The symmetry that a fit finds."""
    X, y, groups = task
    model = EquivariantNASClassifier(search=search, random_state=seed)
    return str(model.fit(X, y, groups=groups if named else None).learned_symmetry_.group)


def copies(data: Any, search: str, seed: int) -> str:
    """Whether the evidence from five copies of 100 images leaves D4."""
    X, y, _ = digits(data, 700, seed)
    model = EquivariantNASClassifier("C1", "none", random_state=seed).fit(X[:600], y[:600])
    evidence = symmetry_evidence(model, X[600:].repeat(5, axis=0), y[600:].repeat(5), group="D4", random_state=seed)
    return "D4" if all(e.p_value > 0.01 for e in evidence.values()) else "less"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with mnist.npz; without it the digits are downloaded")
    parser.add_argument("--search", choices=["evolutionary", "differentiable"], default="evolutionary")
    parser.add_argument("--runs", type=float, default=1.0, help="share of the runs to make")
    parser.add_argument("--only", nargs="+", help="names of the rows")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    data, search = load(options.data, "mnist")[0], options.search

    def in_order(seed: int) -> str:
        X, y, _ = digits(data, 400, 0)
        order = np.random.default_rng(seed).permutation(len(X))
        return verdict((X[order], y[order], None), search, 0)

    rows: dict[str, tuple[int, Callable[[int], str]]] = {
        "copies": (12, lambda seed: copies(data, search, seed)),
        "rare class": (8, lambda seed: verdict(rare(data, seed), search, seed)),
        "patients, groups": (6, lambda s: verdict(repeated(digits(data, 40, s), 12, 8.0, s), search, s, named=True)),
        "patients": (6, lambda s: verdict(repeated(digits(data, 40, s), 12, 8.0, s), search, s)),
        "shots": (3, lambda s: verdict(repeated(digits(data, 400, s), 4, 8.0, s), search, s)),
        "noisy shots, groups": (
            3,
            lambda s: verdict(repeated(digits(data, 400, s), 4, 20.0, s), search, s, named=True),
        ),
        "noisy shots": (3, lambda s: verdict(repeated(digits(data, 400, s), 4, 20.0, s), search, s)),
        "orders": (20, in_order),
    }
    for name, (n, run) in rows.items():
        if options.only and name not in options.only:
            continue
        started = time.perf_counter()
        found = Counter(run(seed) for seed in range(max(1, round(options.runs * n))))
        print(f"{search:14} {name:19} {dict(found.most_common())} in {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
