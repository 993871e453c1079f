"""What decides on a symmetry: the evidence against it, or what it costs?

    python examples/benchmarks/criteria.py --data FOLDER --seeds 0 1 2
    python examples/benchmarks/criteria.py --data FOLDER --by-class --figure classes.png

FOLDER holds the npz files that docs/what_was_learned.md describes. Clothes, upright digits and galaxies are searched
by both criteria, with several margins. Written: what was named, what it was said to cost at most, and the test accuracy
of the model; beside them networks that were told to have D4 and nothing. Test images choose nothing. With
``--by-class`` clothes are asked class by class instead, by 2,000 training images that the network has not seen.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from approximate import Source, load

from skequinas import (
    EquivariantNASClassifier,
    EvolutionarySearch,
    NoSearch,
    SymmetryByClassDisplay,
    symmetry_by_class,
)
from skequinas.search import Search

SOURCES = {
    "clothes": Source("fashion_mnist", 2),
    "upright digits": Source("mnist", 2),
    "galaxies": Source("galaxyzoo2_spiral48", 3),
}
MODELS: dict[str, tuple[str, Search]] = {
    "evidence": ("D4", EvolutionarySearch()),
    "cost below 1 point": ("D4", EvolutionarySearch(criterion="cost", margin=0.01)),
    "cost below 3 points": ("D4", EvolutionarySearch(criterion="cost", margin=0.03)),
    "D4": ("D4", NoSearch()),
    "C1": ("C1", NoSearch()),
}


CLOTHES = np.array(["T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"])


def by_class(folder: str, figure: Path | None) -> None:
    """Which clothes break which symmetries."""
    X, codes, *_ = load(folder, SOURCES["clothes"])
    fit, held_out = np.random.default_rng(0).permutation(len(X))[:4000].reshape(2, -1)
    y = CLOTHES[codes]
    model = EquivariantNASClassifier("C1", "none", random_state=0).fit(X[fit], y[fit])
    found = symmetry_by_class(model, X[held_out], y[held_out], groups=held_out, random_state=0)
    print(found)
    print(found.to_frame().xs("D1(90)", level="subgroup").round(3).to_string())
    if figure is not None:
        SymmetryByClassDisplay(found).plot().figure_.savefig(figure, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the npz files")
    parser.add_argument("--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=4000)
    parser.add_argument("--by-class", action="store_true")
    parser.add_argument("--figure", type=Path, help="where to save that of the classes")
    options = parser.parse_args()
    if options.by_class:
        by_class(options.data, options.figure)
        return
    print("| images | seed | what decides | named | costs at most | test accuracy | seconds |\n|" + " --- |" * 7)
    for name in options.sources:
        X, y, X_test, y_test = load(options.data, SOURCES[name])
        for seed in options.seeds:
            rows = np.random.default_rng(seed).permutation(len(X))[: options.train]
            for criterion, (group, search) in MODELS.items():
                started = time.process_time()
                model = EquivariantNASClassifier(group, search, random_state=seed).fit(X[rows], y[rows])
                learned, seconds = model.learned_symmetry_, time.process_time() - started
                cost = f"{100 * learned.evidence[learned.group].cost_high:.1f}" if learned.evidence else ""
                score = model.score(X_test[: options.test], y_test[: options.test])
                print(
                    f"| {name} | {seed} | {criterion} | {learned.group} | {cost} | {score:.3f} | {seconds:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
