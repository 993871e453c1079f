"""The test of a symmetry under other targets, its confidence sets, and its power beside other tests.

    python examples/benchmarks/symmetry_tests.py --data FOLDER --parts calibration coverage power

Planted tasks as in planted_symmetry.py: MNIST at 14x14, labels are cosets of a subgroup of D4.

calibration: for labels, weighted labels, one number and three numbers as targets, and images in groups, an ordinary
network is fitted for every planted subgroup and asked about many sets of images that it has not seen. The table has the
share of p-values at most the level for true symmetries, and of sets with an e-value of 1 divided by the level or more
against any of them.

coverage: the share of sets whose confidence set holds the planted subgroup, and the number of groups in it.

power: D4 is asked about where C4 is planted, a share of the labels drawn anew, with n images in all. Beside the orbit
test of half of them, by a network fitted to the other half, stand a classifier two-sample test (the same network learns
to tell images with their labels from moved ones, on one half; is it right about the other half more often than by
chance?) and a kernel test for invariance (all images: the maximum mean discrepancy of images with labels and moved
ones, by a Gaussian kernel for pixels and equality of labels, against random moves).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from planted_symmetry import D4, load
from scipy.stats import binom

from skequinas import EquivariantNASClassifier, EquivariantNASRegressor, symmetry_evidence
from skequinas.datasets import make_planted_symmetry
from skequinas.evidence import Evidence, confidence_set, gather_evidence
from skequinas.groups import Subgroup

LEVELS = (0.01, 0.05, 0.1)
KINDS = ("labels", "weights", "numbers", "three numbers", "groups")
Images = NDArray[np.uint8]
Model = EquivariantNASClassifier | EquivariantNASRegressor


class Task(NamedTuple):
    """Images, targets, weights and groups."""

    X: Images
    y: NDArray
    weights: NDArray | None = None
    groups: NDArray | None = None


def task(images: Images, kind: str, planted: Subgroup, seed: int) -> Task:
    """A planted one."""
    numbers, rng = "numbers" in kind, np.random.default_rng(seed)
    if kind == "groups":  # five shots of every image, moved alike, with noise
        objects, y = make_planted_symmetry(images[: len(images) // 5], subgroup=planted.name, random_state=seed)
        shots = np.repeat(objects, 5, axis=0) + rng.normal(0, 20, (5 * len(objects), 14, 14))
        grey = shots.clip(0, 255).astype(np.uint8)
        return Task(grey, np.repeat(y, 5), groups=np.repeat(np.arange(len(objects)), 5))
    noise = {"noise": 0.3} if numbers else {}
    X, y = make_planted_symmetry(images, subgroup=planted.name, regression=numbers, random_state=seed, **noise)
    if kind == "three numbers":
        y = np.stack([y, y**2, rng.standard_normal(len(y))], 1)
    return Task(X, y, rng.random(len(y)) + 0.1 if kind == "weights" else None)


def evidence_of(model: Model, own: Task, seed: int) -> dict[str, Evidence]:
    groups = np.arange(len(own.X)) if own.groups is None else own.groups
    data = model._held_out(own.X, own.y, groups, D4)
    if own.weights is not None:
        data = replace(data, weights=torch.from_numpy(own.weights / own.weights.mean()))
    return gather_evidence(model.network_, data, D4, seed)


def calibration(pool: Images, options: argparse.Namespace) -> None:
    columns = " | ".join(f"p <= {level:g} | e >= {1 / level:g}" for level in LEVELS)
    print(f"\n| targets | true hypotheses | {columns} |\n|{' --- |' * 8}")
    sets: dict[str, list[tuple[bool, int]]] = {}
    for kind in options.kinds:
        p_values, e_values = [], []
        for number, planted in enumerate(D4.subgroups[1:]):
            estimator = EquivariantNASRegressor if "numbers" in kind else EquivariantNASClassifier
            own = task(pool[: options.train], kind, planted, number)
            model = estimator("C1", "none", random_state=0).fit(own.X, own.y, own.weights, groups=own.groups)
            rows = np.random.default_rng(number).permutation(np.arange(options.train, len(pool)))
            for s, part in enumerate(rows[: options.sets * options.images].reshape(options.sets, -1)):
                found = evidence_of(model, task(pool[part], kind, planted, 1000 + s), s)
                true = [h.name for h in planted.subgroups if h.order > 1]
                p_values += [found[name].raw_p_value for name in true]
                e_values += [max(found[name].e_value for name in true)] if true else []
                possible = confidence_set(D4, found, 0.01)
                sets.setdefault(kind, []).append((planted in possible, len(possible)))
        shares = " | ".join(
            f"{100 * np.mean(np.array(p_values) <= a):.1f} % | {100 * np.mean(np.array(e_values) >= 1 / a):.1f} %"
            for a in LEVELS
        )
        print(f"| {kind} | {len(p_values)} | {shares} |", flush=True)
    print("\n| targets | sets | planted group in the confidence set (98 %) | groups in it |\n|" + " --- |" * 4)
    for kind, own_sets in sets.items():
        held, size = np.mean(own_sets, axis=0)
        print(f"| {kind} | {len(own_sets)} | {100 * held:.1f} % | {size:.2f} |")


def coverage(pool: Images, options: argparse.Namespace) -> None:
    """The same for networks that have learned less and less, and few images."""
    print("\n| fitted to | asked about | sets | in the confidence set | groups in it |\n|" + " --- |" * 5)
    for n in options.sizes:
        held, sizes = [], []
        for number, planted in enumerate(D4.subgroups):
            for seed in options.seeds:
                rows = np.random.default_rng([seed, number, n]).permutation(len(pool))[: n + n // 2]
                classes = options.classes[rows] if planted.order == 8 else None
                X, y = make_planted_symmetry(pool[rows], classes, subgroup=planted.name, random_state=seed)
                model = EquivariantNASClassifier("C1", "none", random_state=seed).fit(X[:n], y[:n])
                possible = confidence_set(D4, evidence_of(model, Task(X[n:], y[n:]), seed), 0.01)
                held.append(planted in possible)
                sizes.append(len(possible))
        print(f"| {n} | {n // 2} | {len(held)} | {100 * np.mean(held):.1f} % | {np.mean(sizes):.2f} |", flush=True)


def orbit(X: Images, y: NDArray, seed: int, *, architecture: str = "auto") -> float:
    half = len(X) // 2
    model = EquivariantNASClassifier("C1", "none", architecture=architecture, random_state=seed).fit(X[:half], y[:half])
    evidence = symmetry_evidence(model, X[half:], y[half:], groups=np.arange(len(X) - half), random_state=seed)
    return evidence["D4"].raw_p_value


def moved(X: Images, rng: np.random.Generator) -> Images:
    """By random elements of D4."""
    out = X.copy()
    for i, (k, mirror) in enumerate(zip(rng.integers(4, size=len(X)), rng.random(len(X)) < 0.5, strict=True)):
        out[i] = np.rot90(X[i, ::-1] if mirror else X[i], k)
    return out


def two_sample(X: Images, y: NDArray, seed: int) -> float:
    """The label goes into the network as a second channel."""
    rng, half = np.random.default_rng(seed), len(X) // 2
    real = rng.random(len(X)) < 0.5
    shown = np.where(real[:, None, None], X, moved(X, rng))
    pairs = np.stack([shown, np.broadcast_to(np.uint8(255) * y.astype(np.uint8)[:, None, None], X.shape)], -1)
    model = EquivariantNASClassifier("C1", "none", random_state=seed).fit(pairs[:half], real[:half])
    right = int((model.predict(pairs[half:]) == real[half:]).sum())
    return float(binom.sf(right - 1, len(X) - half, max(real[half:].mean(), 1 - real[half:].mean())))


def kernel(X: Images, y: NDArray, seed: int, n_moves: int = 199) -> float:
    n, rng = len(X), np.random.default_rng(seed)
    copies = np.concatenate([np.rot90(X[:, ::-1] if m else X, k, (1, 2)) for m in (0, 1) for k in range(4)])
    flat = torch.from_numpy(np.ascontiguousarray(copies).reshape(8 * n, -1).astype(np.float32) / 255)
    squares = torch.cdist(flat, flat).square()
    width = squares[:n, :n].median()
    gram = torch.exp(-squares / width).reshape(8, n, 8, n)
    gram *= torch.from_numpy(y[:, None] == y[None, :])[None, :, None, :]
    to_mean, place = gram.mean(2), torch.arange(n)

    def discrepancy(chosen: torch.Tensor) -> float:
        own = gram[chosen[:, None], place[:, None], chosen[None, :], place[None, :]]
        return float(own.mean() - 2 * to_mean[chosen, place].mean())

    observed = discrepancy(torch.zeros(n, dtype=torch.int64))
    others = [discrepancy(torch.from_numpy(rng.integers(8, size=n))) for _ in range(n_moves)]
    return (1 + sum(other >= observed for other in others)) / (1 + n_moves)


TESTS: dict[str, Callable[[Images, NDArray, int], float]] = {
    "orbit test": orbit,
    "orbit test, plain network": lambda X, y, seed: orbit(X, y, seed, architecture="plain"),
    "classifier two-sample test": two_sample,
    "kernel test": kernel,
}


def power(pool: Images, options: argparse.Namespace) -> None:
    columns = " | ".join(f"n = {n:,}" for n in options.n)
    print(f"\n| labels drawn anew | test | {columns} |\n|{' --- |' * (2 + len(options.n))}")
    for noise in options.noise:
        found: dict[str, list[str]] = {name: [] for name in TESTS}
        for n in options.n:
            p_values: dict[str, list[float]] = {name: [] for name in TESTS}
            for seed in options.seeds:
                rows = np.random.default_rng([seed, n]).permutation(len(pool))[:n]
                X, y = make_planted_symmetry(pool[rows], subgroup="C4", noise=noise, random_state=seed)
                for name, test in TESTS.items():
                    p_values[name].append(test(X, y, seed))
            for name, values in p_values.items():
                found[name].append(f"{100 * np.mean(np.array(values) <= 0.05):.0f} %")
        for name, shares in found.items():
            print(f"| {noise:g} | {name} | {' | '.join(shares)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with mnist.npz; without it MNIST is downloaded")
    parser.add_argument("--parts", nargs="+", choices=["calibration", "coverage", "power"], default=["calibration"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--images", type=int, default=300, help="images in a held-out set")
    parser.add_argument("--sets", type=int, default=20, help="held-out sets")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 200, 500, 1000], help="of coverage")
    parser.add_argument("--n", type=int, nargs="+", default=[100, 200, 500, 1000], help="images in all, of power")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    options = parser.parse_args()
    (pool, options.classes), _ = load(options.data, "mnist")
    for part in options.parts:
        {"calibration": calibration, "coverage": coverage, "power": power}[part](pool, options)


if __name__ == "__main__":
    main()
