"""Symmetries that hold in part: exact, adaptive, residual and penalised networks beside each other.

    python examples/benchmarks/approximate.py --data FOLDER --seeds 0 1 2 --rows FILE --figure FILE.png

FOLDER holds the npz files that docs/what_was_learned.md describes; images are shrunk by averaging blocks of pixels, to
about 16. In the planted tasks digits are moved by random elements of D4, and labels tell the digit and whether the move
mirrors; for a share of the images, which is given, they tell the latter, and for the others what they tell of it is
random. So D4 is broken with that probability, and the best accuracy is (1 + share) / 2. The texture is oriented noise
with or without pits, whose direction tells the class as well. Test images choose nothing.

Written for each fit: accuracy (balanced for dermatoscopy), the change of outputs under each element of D4, the symmetry
that was named, seconds of the process. With ``--rows FILE`` what was fitted is kept there, and not fitted again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

from skequinas import AdaptiveSearch, EquivariantNASClassifier, PenalisedSearch
from skequinas.datasets import make_planted_symmetry

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Parts = tuple[Images, Labels, Images, Labels]


class Source(NamedTuple):
    """A file, and by how much to shrink its images."""

    file: str
    block: int


SOURCES = {
    "rotated digits": Source("mnist_rot_regen", 2),
    "upright digits": Source("mnist", 2),
    "galaxies": Source("galaxyzoo2_spiral48", 3),
    "dermatoscopy": Source("ham10000_28", 2),
}
SHARES = {f"planted, {share:g} broken": share for share in (0.0, 0.1, 0.25, 0.5, 1.0)}
TASKS = [*SHARES, *SOURCES, "texture"]
MODELS: dict[str, dict[str, Any]] = {
    "evolutionary": {"search": "evolutionary"},
    "differentiable": {"search": "differentiable"},
    "adaptive": {"search": "adaptive"},
    "adaptive, kept": {"search": AdaptiveSearch(price=1.0, discretize=False)},
    "residual": {"search": "residual"},
    "penalised": {"search": "penalised"},
    "penalised, labels": {"search": PenalisedSearch(kind="labels")},
    "penalised, latent": {"search": PenalisedSearch(kind="latent")},
    "augmentation": {"search": "augmentation"},
    "random": {"search": "random"},
    "D4": {"search": "none"},
    "D4, relaxed training": {"search": "relaxation"},
    "C1": {"search": "none", "group": "C1"},
    "C1, moved images": {"search": "none", "augment": "group", "averaging": "none"},
}


def shrunk(images: Images, block: int) -> Images:
    """The mean of every block of pixels."""
    n, height, width, *channels = images.shape
    blocks = images.reshape(n, height // block, block, width // block, block, *channels)
    means: Images = blocks.mean((2, 4)).round().astype(np.uint8)
    return means


def load(folder: str, source: Source) -> Parts:
    """Training images and labels, test images and labels."""
    with np.load(Path(folder) / f"{source.file}.npz") as file:
        if "split" in file:
            X, y, split = file["X"], file["y"], file["split"]
            parts = X[split == 0], y[split == 0], X[split == 2], y[split == 2]
        else:
            parts = file["X_train"], file["y_train"], file["X_test"], file["y_test"]
    return shrunk(parts[0], source.block), parts[1], shrunk(parts[2], source.block), parts[3]


def texture(n: int, seed: int) -> tuple[Images, Labels]:
    """Rolled metal: noise along a line, with or without pits; upright in two of four classes, about level in others.

    Quarter turns take the former to the latter, nearly; half turns and mirrors along and across change no class.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=n)
    angles = np.where(labels < 2, rng.normal(0, 0.15, n), rng.uniform(np.pi / 4, np.pi * 3 / 4, n))
    rows, columns = np.mgrid[:16, :16] - 7.5
    images = np.empty((n, 16, 16))
    for i, (label, angle) in enumerate(zip(labels, angles, strict=True)):
        across = rows * np.sin(angle) + columns * np.cos(angle)
        waves = sum(np.sin(f * across + rng.uniform(0, 2 * np.pi)) for f in rng.uniform(0.8, 2.5, 4))
        pits = np.zeros((16, 16))
        if label % 2:
            for y, x in rng.integers(1, 15, (3, 2)):
                pits[y - 1 : y + 2, x - 1 : x + 2] -= 1.5
        images[i] = waves + pits + rng.normal(0, 1.0, (16, 16))
    return (127 + 25 * images).clip(0, 255).round().astype(np.uint8), labels


def task(name: str, folder: str, n: int, seed: int, n_test: int) -> Parts:
    """The images and labels of a task, the training part drawn by the seed."""
    if name == "texture":
        return (*texture(n, seed), *texture(n_test, seed + 1000))
    X, y, X_test, y_test = load(folder, SOURCES.get(name, SOURCES["upright digits"]))
    rows = np.random.default_rng(seed).permutation(len(X))[:n]
    X, y, X_test, y_test = X[rows], y[rows], X_test[:n_test], y_test[:n_test]
    if name in SHARES:
        planted = {"subgroup": "C4", "forgiven": 1 - SHARES[name]}
        X, y = make_planted_symmetry(X, y, random_state=seed, **planted)
        X_test, y_test = make_planted_symmetry(X_test, y_test, random_state=seed + 1000, **planted)
    return X, y, X_test, y_test


def row_of(name: str, task_name: str, parts: Parts, seed: int) -> dict[str, Any]:
    """Fit a model and test it."""
    X, y, X_test, y_test = parts
    started = time.process_time()
    model = EquivariantNASClassifier(**{"group": "D4", "random_state": seed} | MODELS[name]).fit(X, y)
    seconds = time.process_time() - started
    predicted = model.predict(X_test)
    balanced = task_name == "dermatoscopy"
    score = balanced_accuracy_score(y_test, predicted) if balanced else float((predicted == y_test).mean())
    symmetry = model.learned_symmetry_
    changes = {g: c for g, c in symmetry.measured_change.items() if g != "identity"}
    return {
        "task": task_name, "model": name, "seed": seed, "score": score, "change": changes, "named": symmetry.group,
        "seconds": seconds,
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> None:
    """A table for each number: mean and lowest to highest over the seeds."""
    tasks = [t for t in TASKS if any(row["task"] == t for row in rows)]
    names = [m for m in MODELS if any(row["model"] == m for row in rows)]

    def table(title: str, cell: Any) -> None:
        print(f"\n{title}\n\n| | {' | '.join(tasks)} |\n|{' --- |' * (len(tasks) + 1)}")
        for name in names:
            own = [[r for r in rows if (r["task"], r["model"]) == (t, name)] for t in tasks]
            print(f"| {name} | {' | '.join(cell(found) if found else '' for found in own)} |")

    def spread(values: list[float]) -> str:
        return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"

    table("Accuracy", lambda found: spread([r["score"] for r in found]))
    table("Mean change under D4", lambda found: spread([float(np.mean([*r["change"].values(), 0.0])) for r in found]))
    table("Named", lambda found: ", ".join(r["named"] for r in found))
    table("Seconds", lambda found: f"{np.mean([r['seconds'] for r in found]):.0f}")
    print("\nChange by element, mean over seeds")
    for t in tasks:
        for name in names:
            found = [r["change"] for r in rows if (r["task"], r["model"]) == (t, name) and r["change"]]
            if found:
                each = {g: float(np.mean([f[g] for f in found])) for g in found[0]}
                print(f"{t}, {name}: {', '.join(f'{g} {c:.2f}' for g, c in each.items())}")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Error against the share that is broken, beyond what nobody can tell."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for number, name in enumerate(MODELS):
        points = []
        for t, share in SHARES.items():
            scores = [r["score"] for r in rows if (r["task"], r["model"]) == (t, name)]
            if scores:
                points.append((share, (1 + share) / 2 - np.mean(scores), np.std(scores)))
        if points:
            x, y, spread = zip(*points, strict=True)
            ax.errorbar(x, y, spread, marker="os^"[number // 10], color=f"C{number % 10}", capsize=3, label=name)
    ax.set(xlabel="share of images that break the mirrors", ylabel="error beyond the least possible")
    ax.legend(fontsize=7)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the npz files")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--rows", type=Path, help="a file of rows, to which those of this run are added")
    parser.add_argument("--figure", type=Path, help="where to save it")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.rows is not None and options.rows.exists():
        rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    known = {(row["task"], row["model"], row["seed"]) for row in rows}
    for seed in options.seeds:
        for name in options.tasks:
            parts = None
            for model in options.models:
                if (name, model, seed) in known:
                    continue
                parts = task(name, options.data, options.train, seed, options.test) if parts is None else parts
                rows.append(row_of(model, name, parts, seed))
                print(rows[-1], flush=True)
                if options.rows is not None:
                    with options.rows.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    summary(rows)
    if options.figure is not None and any(row["task"] in SHARES for row in rows):
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
