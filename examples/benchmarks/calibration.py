"""The two tests of a symmetry: how often they raise a false alarm, and how often they find one that is broken.

Planted tasks as in planted_symmetry.py (MNIST at 14x14, labels are cosets of a subgroup of D4), so it is known which
symmetries the data have. For each subgroup one network with the symmetry of D4 is fitted for the score test and one
with a free head for the orbit test; then both tests are made on many disjoint sets of images that were not trained on.

    python examples/benchmarks/calibration.py --data FOLDER --train 500 --images 300 --sets 40

The table gives the share of p-values at most the level: for symmetries that the data have it should be the level
(false alarms); for the others it is the power. The p-values are those of each subgroup by itself, not adjusted, but for
the last line, which has the adjusted ones: there the share of sets in which *any* true symmetry is rejected counts.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from planted_symmetry import D4, load

from skequinas import Architecture, EquivariantNASClassifier, score_test, symmetry_evidence
from skequinas.datasets import make_planted_symmetry
from skequinas.nn import default_architecture

LEVELS = (0.01, 0.05, 0.1, 0.2)


def free_head(n_outputs: int, n_samples: int) -> Architecture:
    """The network that a guided evolutionary search asks."""
    return default_architecture(D4, 14, 1, n_outputs, n_samples=n_samples).relaxed(-1, D4.trivial)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with mnist.npz; without it MNIST is downloaded")
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--images", type=int, default=300, help="images in a held-out set")
    parser.add_argument("--sets", type=int, default=40, help="held-out sets")
    options = parser.parse_args()
    (images, _), (others, _) = load(options.data, "mnist")
    pool = np.concatenate([images[options.train :], others])

    p_values: dict[tuple[str, bool], list[float]] = {}
    alarms: dict[str, list[float]] = {}
    for number, planted in enumerate(D4.subgroups[1:]):
        X, y = make_planted_symmetry(images[: options.train], subgroup=planted.name, random_state=number)
        symmetric = EquivariantNASClassifier("D4", "none", random_state=0).fit(X, y)
        architecture = free_head(len(symmetric.classes_), options.train)
        free = EquivariantNASClassifier("D4", "none", architecture=architecture, random_state=0).fit(X, y)
        rows = np.random.default_rng(number).permutation(len(pool))[: options.sets * options.images]
        for set_number, part in enumerate(rows.reshape(options.sets, options.images)):
            X_set, y_set = make_planted_symmetry(pool[part], subgroup=planted.name, random_state=1000 + set_number)
            score = score_test(symmetric, X_set, y_set, random_state=set_number)
            evidence = symmetry_evidence(free, X_set, y_set, random_state=set_number)
            raw = {name: e.raw_p_value for name, e in evidence.items() if name != "C1"}
            adjusted = {name: e.p_value for name, e in evidence.items()}
            for test, found, corrected in (("score", score.p_values, score.adjusted()), ("orbit", raw, adjusted)):
                for name, p_value in found.items():
                    p_values.setdefault((test, D4.subgroup(name) <= planted), []).append(p_value)
                true = [corrected[name] for name in found if D4.subgroup(name) <= planted]
                if true:
                    alarms.setdefault(test, []).append(min(true))
        print(f"{planted.name}: {free.score(X_set, y_set):.3f} of the cosets of one set are told", flush=True)

    print(f"\n{options.train} training images; {options.sets} sets of {options.images} images for each subgroup\n")
    print("| test | hypotheses | number | " + " | ".join(f"p <= {level:g}" for level in LEVELS) + " |")
    print("|" + " --- |" * (3 + len(LEVELS)))
    rows = {(test, "true" if true else "false"): found for (test, true), found in p_values.items()}
    rows |= {(test, "any true one, adjusted"): found for test, found in alarms.items()}
    for (test, hypotheses), found in rows.items():
        print(f"| {test} test | {hypotheses} | {len(found):,} | {shares(np.array(found))} |")


def shares(p_values: NDArray[np.float64]) -> str:
    return " | ".join(f"{100 * np.mean(p_values <= level):.1f} %" for level in LEVELS)


if __name__ == "__main__":
    main()
