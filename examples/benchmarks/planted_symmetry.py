"""Does the learned symmetry equal the one that was planted? Both searches beside random search and exhaustive choice.

Each task takes images of MNIST or Fashion-MNIST (shrunk to 14x14 by averaging), moves them by random elements of D4,
and asks in which coset of a subgroup the move lies: the labels are invariant under exactly that subgroup. All ten
subgroups are planted; D4 itself, which has one coset alone, with the images' own classes as labels.

    python examples/benchmarks/planted_symmetry.py --data FOLDER --train 500 2000

FOLDER holds mnist.npz and fashion_mnist.npz, each with ``X_train, y_train, X_test, y_test`` (n x 28 x 28, uint8);
without ``--data`` the sets are downloaded by name from OpenML. ``--classes`` asks for the class and the coset at once,
``--noise`` draws a share of the labels anew, ``--forgiven`` lets the whole group hold for a share of the images.
Training images are drawn from the first 30,000, so that the others are left for development.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import fetch_openml
from sklearn.model_selection import train_test_split

from skequinas import DifferentiableSearch, EquivariantNASClassifier
from skequinas.datasets import make_planted_symmetry
from skequinas.groups import PointGroup, Subgroup, partition_distance

D4 = PointGroup.from_name("D4")
SOURCES = {"mnist": "mnist_784", "fashion_mnist": "Fashion-MNIST"}
N_TEST = 2000
Images = tuple[NDArray[np.uint8], NDArray[np.int64]]


def load(folder: str | None, name: str) -> tuple[Images, Images]:
    """Training and test images with their classes, 14x14."""
    if folder is None:
        X, y = fetch_openml(SOURCES[name], version=1, return_X_y=True, as_frame=False)
        X, y = X.astype(np.uint8).reshape(-1, 28, 28), y.astype(np.int64)
        parts = (X[:60_000], y[:60_000]), (X[60_000:], y[60_000:])
    else:
        with np.load(Path(folder) / f"{name}.npz") as file:
            parts = (file["X_train"], file["y_train"]), (file["X_test"], file["y_test"])
    (X, y), (X_test, y_test) = parts
    return (shrunk(X[:30_000]), y[:30_000]), (shrunk(X_test), y_test)


def shrunk(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mean of every 2x2 pixels."""
    return images.reshape(len(images), 14, 2, 14, 2).mean((2, 4)).round().astype(np.uint8)


def lattice_distance(a: Subgroup, b: Subgroup) -> int:
    """Steps up and down the lattice from one subgroup to another, by way of what they share."""
    return int(np.log2(a.order // (a & b).order) + np.log2(b.order // (a & b).order))


def planted(
    data: Images, rows: NDArray[np.int64], subgroup: Subgroup, options: argparse.Namespace, seed: int
) -> Images:
    """The task with this symmetry."""
    images, classes = data
    with_classes = options.classes or subgroup == D4.whole
    return make_planted_symmetry(
        images[rows],
        classes[rows] if with_classes else None,
        subgroup=subgroup.name,
        noise=options.noise,
        forgiven=options.forgiven,
        random_state=seed,
    )


def search(name: str, X: NDArray[np.uint8], y: NDArray[np.int64], seed: int) -> EquivariantNASClassifier:
    chosen = DifferentiableSearch(entropy=0.1) if name == "differentiable, entropy" else name
    return EquivariantNASClassifier("D4", chosen, random_state=seed).fit(X, y)


def named_by_shares(shares: Mapping[str, Mapping[str, float]]) -> Subgroup:
    """What half of every layer's kernel obeys at least, by the shares of a mixture, or of residuals."""
    found = D4.whole
    for layer in shares.values():
        held = {h: sum(share for name, share in layer.items() if h <= D4.subgroup(name)) for h in D4.subgroups}
        found = found & max((h for h in held if held[h] >= 0.5), key=lambda h: (h.order, held[h]))
    return found


def exhaustive(X: NDArray[np.uint8], y: NDArray[np.int64], seed: int) -> EquivariantNASClassifier:
    """A network for each fixed subgroup, and the one with the best validation score trained anew on everything."""
    fit, held_out = train_test_split(np.arange(len(X)), test_size=0.2, stratify=y, random_state=seed)

    def model(group: str) -> EquivariantNASClassifier:
        return EquivariantNASClassifier(group, "none", random_state=seed)

    scores = {h.name: model(h.name).fit(X[fit], y[fit]).score(X[held_out], y[held_out]) for h in D4.subgroups}
    return model(max(scores, key=scores.__getitem__)).fit(X, y)  # of several as good, the largest group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with the npz files; without it they are downloaded")
    parser.add_argument("--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--subgroups", nargs="+", default=[h.name for h in D4.subgroups])
    parser.add_argument("--train", type=int, nargs="+", default=[500])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--models",
        nargs="+",
        choices=[
            "evolutionary",
            "differentiable",
            "differentiable, entropy",
            "adaptive",
            "residual",
            "augmentation",
            "random",
            "exhaustive",
        ],
        default=["evolutionary", "differentiable"],
    )
    parser.add_argument("--classes", action="store_true", help="labels tell the class and the coset")
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--forgiven", type=float, default=0.0)
    options = parser.parse_args()

    outcomes: dict[tuple[int, str], list[tuple[float, ...]]] = {}
    for source in options.sources:
        training, test = load(options.data, source)
        for n in options.train:
            for seed in options.seeds:
                rng = np.random.default_rng([seed, n])
                rows, test_rows = (rng.permutation(len(X))[:k] for (X, _), k in ((training, n), (test, N_TEST)))
                for subgroup in map(D4.subgroup, options.subgroups):
                    X, y = planted(training, rows, subgroup, options, seed)
                    X_test, y_test = planted(test, test_rows, subgroup, options, seed + 1000)
                    for name in options.models:
                        started = time.perf_counter()
                        model = exhaustive(X, y, seed) if name == "exhaustive" else search(name, X, y, seed)
                        seconds = time.perf_counter() - started
                        found = D4.subgroup(model.learned_symmetry_.group)
                        accuracy = model.score(X_test, y_test)
                        doubts = model.learned_symmetry_.indistinct
                        possible = model.learned_symmetry_.confidence_set
                        shares = model.learned_symmetry_.layer_weights
                        by_shares = named_by_shares(shares) if shares else None
                        distance = lattice_distance(found, subgroup)
                        outcome = (
                            found == subgroup,
                            not found <= subgroup,
                            found < subgroup,
                            subgroup.name in (doubts or (found.name,)),
                            subgroup.name in possible,
                            len(possible),
                            by_shares == subgroup,
                            distance,
                            partition_distance(found, subgroup),
                            accuracy,
                            seconds,
                        )
                        outcomes.setdefault((n, name), []).append(outcome)
                        print(
                            f"{source} n={n} seed {seed} planted {subgroup.name}: {name} {found.name} {accuracy:.4f} "
                            f"{seconds:.1f} s, left open: {', '.join(doubts[1:]) or 'nothing'}; "
                            f"confidence set: {', '.join(possible)}; by shares: {by_shares}",
                            flush=True,
                        )

    print(f"\nlabels: {'class and coset' if options.classes else 'coset'}, noise {options.noise}, forgiven", end=" ")
    print(f"{options.forgiven}; sources {', '.join(options.sources)}; seeds {options.seeds}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    columns = (
        "| n | model | runs | exact | breaks too little | breaks too much | planted group named "
        "| in the confidence set | groups in it | named by shares | mean lattice distance | of partitions"
    )
    print(f"{columns} | test accuracy | seconds |\n|{' --- |' * 14}")
    for (n, name), rows in outcomes.items():
        *shares, possible, shared, distance, parts, accuracy, seconds = np.mean(rows, axis=0)
        percents = " | ".join(f"{100 * share:.1f} %" for share in shares)
        print(
            f"| {n:,} | {name} | {len(rows)} | {percents} | {possible:.1f} | {100 * shared:.1f} % | {distance:.2f} "
            f"| {parts:.3f} | {accuracy:.3f} | {seconds:.1f} |"
        )


if __name__ == "__main__":
    main()
