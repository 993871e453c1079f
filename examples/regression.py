"""Regression on images, with one or several targets, and the symmetry of the task.

With ``--data nuclei_count48.npz`` (arrays X, y_count, y_area_fraction, split, from the public set BBBC039) the
targets are the number of cell nuclei in a microscope image and the share of the area that they cover: a task without
a preferred direction. Without a file the images are scikit-learn's digits turned by random quarter turns, and the
targets are how much ink there is and how far the ink lies from the centre.

    python examples/regression.py
    python examples/regression.py --data nuclei_count48.npz --train 1000
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split

from skequinas import EquivariantNASRegressor

Split = tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.float64], NDArray[np.float64]]


def nuclei(path: str, n_train: int) -> Split:
    """Training and test images and targets; the split keeps each field of view on one side."""
    with np.load(path) as file:
        X, split = file["X"], file["split"]
        y = np.column_stack([file["y_count"], file["y_area_fraction"]]).astype(float)
    train = np.random.default_rng(0).permutation(np.flatnonzero(split != 2))[:n_train]
    return X[train], X[split == 2], y[train], y[split == 2]


def digits() -> Split:
    """Turned digits, with the amount of ink and its mean squared distance from the centre."""
    images = load_digits().images
    turns = np.random.default_rng(0).integers(4, size=len(images))
    X = np.array([np.rot90(image, k) for image, k in zip(images, turns, strict=True)])
    distance = ((np.arange(8) - 3.5) ** 2)[:, None] + (np.arange(8) - 3.5) ** 2
    y = np.column_stack([X.sum((1, 2)), (X * distance).sum((1, 2)) / X.sum((1, 2))])
    return train_test_split(X, y, random_state=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="npz file with nuclei; without it the digits are used")
    parser.add_argument("--train", type=int, default=1000, help="training images of the nuclei")
    options = parser.parse_args()
    X_train, X_test, y_train, y_test = nuclei(options.data, options.train) if options.data else digits()
    print(f"{len(X_train)} training and {len(X_test)} test images of {X_train.shape[1:]}, {y_train.shape[1]} targets")
    for search in ("none", "evolutionary", "differentiable"):
        model = EquivariantNASRegressor(group="D4", search=search, random_state=0)
        started = time.perf_counter()
        model.fit(X_train, y_train)
        scores = r2_score(y_test, model.predict(X_test), multioutput="raw_values")
        print(
            f"{search:<15} R2 {scores.round(4)}  {model.learned_symmetry_.group:<8} ({model.architecture_})  "
            f"{time.perf_counter() - started:.0f} s"
        )
    forest = RandomForestRegressor(random_state=0, n_jobs=2).fit(X_train.reshape(len(X_train), -1), y_train)
    scores = r2_score(y_test, forest.predict(X_test.reshape(len(X_test), -1)), multioutput="raw_values")
    print(f"{'random forest':<15} R2 {scores.round(4)}")


if __name__ == "__main__":
    main()
