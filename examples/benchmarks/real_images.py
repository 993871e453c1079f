"""Which symmetry the searches name for real images, and for how many of five seeds.

    python examples/benchmarks/real_images.py --data FOLDER --seeds 0 1 2 3 4

FOLDER holds the npz files that docs/what_was_learned.md describes. All images are first shrunk by averaging blocks of
pixels, to about 16 pixels, so that a fit takes seconds. Each seed draws its own training images from the training part;
the score is that of the test part, which chooses nothing.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

from skequinas import EquivariantNASClassifier, EquivariantNASRegressor


class Source(NamedTuple):
    """A file, its target, by how much to shrink, and which training images to use at most."""

    file: str
    target: str
    block: int
    regression: bool = False
    n: int = 1000


SOURCES = {
    "upright digits": Source("mnist", "y_train", 2),
    "rotated digits": Source("mnist_rot_regen", "y_train", 2, n=2000),
    "clothes": Source("fashion_mnist", "y_train", 2),
    "galaxies": Source("galaxyzoo2_spiral48", "y", 3),
    "dermatoscopy": Source("ham10000_28", "y", 2, n=2000),
    "Ising temperature": Source("ising32_temperature", "y", 2, regression=True),
    "nuclei, count": Source("nuclei_count48", "y_count", 3, regression=True),
}


def shrunk(images: NDArray[np.uint8], block: int) -> NDArray[np.uint8]:
    """The mean of every block of pixels."""
    n, height, width, *channels = images.shape
    blocks = images.reshape(n, height // block, block, width // block, block, *channels)
    return blocks.mean((2, 4)).round().astype(np.uint8)


def load(folder: str, source: Source) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Training images and targets, test images and targets."""
    with np.load(Path(folder) / f"{source.file}.npz") as file:
        if "split" in file:
            X, y, split = file["X"], file[source.target], file["split"]
            parts = X[split == 0], y[split == 0], X[split == 2], y[split == 2]
        else:
            parts = file["X_train"], file["y_train"], file["X_test"][:5000], file["y_test"][:5000]
    return shrunk(parts[0], source.block), parts[1], shrunk(parts[2], source.block), parts[3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the npz files")
    parser.add_argument("--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    searches = ["evolutionary", "differentiable"]
    parser.add_argument("--searches", nargs="+", choices=searches, default=searches)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()

    lines = []
    for name in options.sources:
        source = SOURCES[name]
        X, y, X_test, y_test = load(options.data, source)
        for search in options.searches:
            found, scores = [], []
            for seed in options.seeds:
                rows = np.random.default_rng(seed).permutation(len(X))[: source.n]
                estimator = EquivariantNASRegressor if source.regression else EquivariantNASClassifier
                started = time.perf_counter()
                model = estimator("D4", search, random_state=seed).fit(X[rows], y[rows])
                seconds = time.perf_counter() - started
                if name == "dermatoscopy":
                    score = balanced_accuracy_score(y_test, model.predict(X_test))
                else:
                    score = model.score(X_test, y_test)
                learned = model.learned_symmetry_
                found.append(learned.group + "".join(f" or {other}" for other in learned.indistinct[1:]))
                scores.append(score)
                print(
                    f"\n{name}, {search}, seed {seed}: {score:.4f}, {model.architecture_}, {seconds:.0f} s\n{learned}"
                )
                rises = {n: f"{e.loss_rise / (e.loss_rise_error or 1):+.1f}" for n, e in learned.evidence.items()}
                p_values = {n: f"{e.p_value:.2g}" for n, e in learned.evidence.items()}
                print(f"p-values: {p_values}\nrises in standard errors: {rises}", flush=True)
            called = ", ".join(f"{group} ({n})" for group, n in Counter(found).most_common())
            lines.append(
                f"| {name} | {min(source.n, len(X)):,} | {search} | {called} "
                f"| {np.mean(scores):.3f} ({min(scores):.3f} to {max(scores):.3f}) |"
            )
    print("\n| images | training images | search | symmetry (seeds) | test score |\n|" + " --- |" * 5)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
