"""Pictures of what a fit learns, drawn with the displays, for a task whose symmetry is known.

scikit-learn's digits are moved by random elements of D4; the label says which digit it is, and whether it is mirrored.
So the task has the symmetry C4: turns leave the label alone, mirrors do not. Run it: ``python examples/gallery.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skequinas import EquivariantNASClassifier, EvolutionarySearch
from skequinas.datasets import make_planted_symmetry
from skequinas.displays import OrbitDisplay, SearchDisplay, SymmetryDisplay

mpl.use("Agg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("docs/images"), help="where the pictures go")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)

    digits = load_digits()
    X, codes = make_planted_symmetry(digits.images, digits.target, "D4", "C4", random_state=0)
    y = np.array([f"{code // 2}{' mirrored' if code % 2 else ''}" for code in codes])
    X_train, X_test, y_train, y_test, _, upright = train_test_split(X, y, digits.images, random_state=0, stratify=y)
    searches = {
        "evolutionary": "evolutionary",
        "evolutionary, not guided": EvolutionarySearch(guided=False),
        "differentiable": "differentiable",
    }
    models = {}
    for name, search in searches.items():
        model = EquivariantNASClassifier(group="D4", search=search, random_state=0).fit(X_train, y_train)
        print(f"{name}: test accuracy {model.score(X_test, y_test):.3f}\n{model.learned_symmetry_}\n")
        models[name] = model

    evolutionary, not_guided, differentiable = models.values()
    two = np.flatnonzero(np.isin(y_test, ["2", "2 mirrored"]))[0]
    displays = {
        "symmetry_evidence": SymmetryDisplay.from_estimator(evolutionary),
        "symmetry_layers": SymmetryDisplay.from_estimator(differentiable, kind="layers"),
        "symmetry_training": SymmetryDisplay.from_estimator(differentiable, kind="training"),
        "search": SearchDisplay.from_estimator(not_guided),
        "orbit": OrbitDisplay.from_estimator(evolutionary, upright[two]),
    }
    for name, display in displays.items():
        display.figure_.savefig(folder / f"{name}.png", dpi=100)
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main()
