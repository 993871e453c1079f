"""Which symmetry does a task have? Three tasks made from scikit-learn's digits, both searches, two classics.

The digits are shown upright, turned by random quarter turns, or turned and mirrored at random. Training and test images
are drawn alike. Run it with ``python examples/quickstart.py``; it takes about a minute on two cores.
"""

from __future__ import annotations

import time

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from skequinas import EquivariantNASClassifier, LearnedSymmetry, SymmetryDisplay

FIGURE = "quickstart.png"


def moved(images: NDArray[np.uint8], mirrors: bool, seed: int = 0) -> NDArray[np.uint8]:
    """Each image turned by a random quarter turn and, if wanted, mirrored with probability one half."""
    rng = np.random.default_rng(seed)
    turned = [np.rot90(image, k) for image, k in zip(images, rng.integers(4, size=len(images)), strict=True)]
    flip = rng.random(len(images)) < (0.5 if mirrors else 0.0)
    return np.array([image[:, ::-1] if f else image for image, f in zip(turned, flip, strict=True)])


def models() -> dict[str, BaseEstimator]:
    """The two searches, and two classifiers that know nothing of symmetry."""
    return {
        "differentiable": EquivariantNASClassifier(group="D4", search="differentiable", random_state=0),
        "evolutionary": EquivariantNASClassifier(group="D4", search="evolutionary", random_state=0),
        "SVC": SVC(C=10.0),
        "nearest neighbours": KNeighborsClassifier(3),
    }


def outcome(model: BaseEstimator, X: NDArray[np.uint8], y: NDArray[np.int64]) -> tuple[BaseEstimator, float, float]:
    """The model fitted to three quarters of the images, its accuracy on the others, and the seconds that it took."""
    X_train, X_test, y_train, y_test = train_test_split(X.reshape(len(X), -1), y, random_state=0, stratify=y)
    started = time.perf_counter()
    model.fit(X_train, y_train)
    seconds = time.perf_counter() - started
    return model, model.score(X_test, y_test), seconds


def main() -> None:
    digits = load_digits()
    images = digits.images.astype(np.uint8)
    tasks = {
        "upright": images,
        "turned": moved(images, mirrors=False),
        "turned and mirrored": moved(images, mirrors=True),
    }
    started = time.perf_counter()
    learned: dict[str, dict[str, LearnedSymmetry]] = {task: {} for task in tasks}
    print(f"{'task':<21}{'model':<20}{'test accuracy':>14}{'seconds':>9}  learned symmetry (layers | head)")
    rows = [(task, name, model) for task in tasks for name, model in models().items()]
    fits = (delayed(outcome)(model, tasks[task], digits.target) for task, _, model in rows)
    outcomes = Parallel(n_jobs=-1, return_as="generator")(fits)  # a model for each core at a time
    for (task, name, _), (model, accuracy, seconds) in zip(rows, outcomes, strict=True):
        symmetry = ""
        if isinstance(model, EquivariantNASClassifier):
            learned[task][name] = model.learned_symmetry_
            symmetry = f"{model.learned_symmetry_.group:<8} ({model.architecture_})"
        print(f"{task:<21}{name:<20}{accuracy:>14.4f}{seconds:>9.1f}  {symmetry}", flush=True)
    for task, answers in learned.items():  # one of them, where both searches say the same
        for name, symmetry in {answer.group: (name, answer) for name, answer in answers.items()}.values():
            print(f"\nDigits, {task} ({name} search):\n{symmetry}")
    print(f"\n{time.perf_counter() - started:.0f} seconds in all")
    draw(learned["turned"]["differentiable"])


def draw(learned: LearnedSymmetry) -> None:
    """Save a picture of the evidence, if matplotlib is there."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("With matplotlib (pip install 'skequinas[plot]') this saves a figure too.")
        return
    mpl.use("Agg")
    SymmetryDisplay(learned).plot().figure_.savefig(FIGURE)
    print(f"Figure saved as {FIGURE}")


if __name__ == "__main__":
    main()
