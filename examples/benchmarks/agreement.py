"""Do both searches give the same answer? The verdicts on the same images, over sets, sizes and seeds.

    python examples/benchmarks/agreement.py --data A.npz B.npz --regression-data C.npz:y_count --train 500 --seeds 0 1 2

Each file holds ``X, y`` and ``split`` (0 for training images), or ``X_train, y_train``; ``FILE:name`` names the target.
Only the searches run: final trainings end after one epoch, and no test image is touched. For each pair it is told
whether the answers are the same, whether one contains the other, or neither, and whether the second search's answer is
among those between which the first one's third line says that the data do not settle, and the other way round. Each
seed draws images of its own, or with ``--same-images`` only the split, the start and the order of the rows.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter

import numpy as np
import torch
from numpy.typing import NDArray

from skequinas import EquivariantNASClassifier, EquivariantNASRegressor, FitProgress, LearnedSymmetry, PointGroup


def load(name: str) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Training images and targets of FILE or FILE:target."""
    path, _, target = name.partition(":")
    with np.load(path) as file:
        if "X_train" in file:
            return file["X_train"], file["y_train"]
        chosen = file["split"] == 0 if "split" in file else slice(None)
        return file["X"][chosen], file[target or "y"][chosen]


def searched(progress: FitProgress) -> bool:
    """Whether to stop: not in the search, but in the final training."""
    return progress.stage != "search"


def verdict(
    X: NDArray[np.generic], y: NDArray[np.generic], group: str, search: str, seed: int, regression: bool
) -> tuple[LearnedSymmetry, float]:
    """What a search found, and its seconds."""
    kind = EquivariantNASRegressor if regression else EquivariantNASClassifier
    model = kind(group, search, averaging="none", augment="none", callback=searched, random_state=seed)
    started = time.process_time()
    model.fit(X, y)
    return model.learned_symmetry_, time.process_time() - started


def compared(a: LearnedSymmetry, b: LearnedSymmetry) -> str:
    """The same, one contains the other, or neither."""
    group = PointGroup.from_name(a.search_group)
    h, k = group.subgroup(a.group), group.subgroup(b.group)
    return "the same" if h == k else "one contains the other" if h <= k or k <= h else "neither"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=[], help="sets with classes")
    parser.add_argument("--regression-data", nargs="*", default=[], help="sets with numbers")
    parser.add_argument("--group", default="D4")
    parser.add_argument("--train", type=int, nargs="+", default=[500, 1000, 2000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--same-images", action="store_true", help="all seeds have those of seed 0")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    for name in (*options.data, *options.regression_data):
        X, y = load(name)
        for n in options.train:
            for seed in options.seeds:
                rows = np.random.default_rng(0 if options.same_images else seed).permutation(len(X))[:n]
                given = X[rows], y[rows], options.group
                (a, a_seconds), (b, b_seconds) = (
                    verdict(*given, search, seed, name in options.regression_data)
                    for search in ("evolutionary", "differentiable")
                )
                how = compared(a, b)
                named = (
                    "" if how == "the same" else f", named by {(b.group in a.indistinct) + (a.group in b.indistinct)}"
                )
                counts[how] += 1
                counts["different, each named by the other" if named.endswith("2") else "rest"] += 1
                print(
                    f"{name}, {len(rows)} images, seed {seed}: {a.group} ({a_seconds:.0f} s), {b.group} "
                    f"({b_seconds:.0f} s): {how}{named}",
                    flush=True,
                )
    print({name: n for name, n in counts.items() if name != "rest"})


if __name__ == "__main__":
    main()
