"""Rotated MNIST: both searches beside random search, fixed groups, an ordinary CNN of equal width, and an SVC.

Every row is trained on the same images, with the same budget for the final training, and is tested on the same test
images, which choose nothing. The data are a local file with ``X_train, y_train, X_test, y_test`` (n x 28 x 28,
uint8), or are made from MNIST, which is then downloaded by name from OpenML.

    python examples/benchmarks/rotated_digits.py --data mnist_rot.npz --train 2000 --seeds 3
    python examples/benchmarks/rotated_digits.py --data mnist_rot.npz --group D4 C8 D8 C16 D16

The second command compares fixed groups; ``--search evolutionary`` searches in them. ``--width``, ``--kernel``,
``--epochs`` and ``--augment`` make a larger training; ``--held-out`` chooses among them, by training images that are
left over.
"""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import fetch_openml
from sklearn.svm import SVC

from skequinas import EquivariantNASClassifier
from skequinas.nn import default_architecture

ROWS = {
    "evolutionary, D4": {"group": "D4", "search": "evolutionary"},
    "differentiable, D4": {"group": "D4", "search": "differentiable"},
    "random, D4": {"group": "D4", "search": "random"},
    "none, D4": {"group": "D4", "search": "none"},
    "none, C4": {"group": "C4", "search": "none"},
    "none, C1 (ordinary CNN)": {"group": "C1", "search": "none"},
}
Data = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]


def load(path: str | None) -> Data:
    """Training images and labels, test images and labels."""
    if path is not None:
        with np.load(path) as file:
            return tuple(file[name] for name in ("X_train", "y_train", "X_test", "y_test"))
    X, y = fetch_openml("mnist_784", version=1, return_X_y=True, as_frame=False)
    X = rotated(X.astype(np.uint8).reshape(-1, 28, 28), seed=0)
    y = y.astype(np.int64)
    return X[:12_000], y[:12_000], X[12_000:62_000], y[12_000:62_000]


def rotated(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Every image turned by a uniform angle about its centre, with bilinear interpolation."""
    angles = torch.from_numpy(np.random.default_rng(seed).uniform(0, 2 * np.pi, len(images)).astype(np.float32))
    matrices = torch.zeros(len(images), 2, 3)
    matrices[:, 0, 0] = matrices[:, 1, 1] = angles.cos()
    matrices[:, 0, 1], matrices[:, 1, 0] = -angles.sin(), angles.sin()
    turned = []
    for chunk, m in zip(torch.from_numpy(images).split(1000), matrices.split(1000), strict=True):
        grid = torch.nn.functional.affine_grid(m, [len(chunk), 1, 28, 28], align_corners=False)
        turned.append(torch.nn.functional.grid_sample(chunk[:, None].float(), grid, align_corners=False)[:, 0])
    return torch.cat(turned).round().clamp(0, 255).to(torch.uint8).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="npz file; without it MNIST is downloaded and rotated")
    parser.add_argument("--train", type=int, default=2000, help="training images (each seed draws its own)")
    parser.add_argument("--test", type=int, default=None, help="test images, the first of the file (default: all)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", default="", help="only the rows whose names contain this")
    parser.add_argument("--group", nargs="+", help="groups to compare, instead of the rows of the first command")
    parser.add_argument("--search", nargs="+", default=["none"], help="with --group: the searches")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--width", type=int, help="channels of the first layers")
    parser.add_argument("--kernel", type=int, help="the side of the kernels")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--augment", action="store_true", help="turn the images of the final training at random")
    parser.add_argument("--held-out", action="store_true", help="test on training images that are not drawn")
    options = parser.parse_args()
    choices: dict[str, dict[str, Any]] = dict(ROWS)
    if options.group:
        choices = {f"{s}, {g}": {"group": g, "search": s} for g in options.group for s in options.search}
    common = {"max_epochs": options.epochs, "augment": "continuous" if options.augment else "none"}

    X, y, X_test, y_test = load(options.data)
    if options.held_out and options.train >= len(X):
        parser.error(f"--held-out: --train {options.train} leaves none of the {len(X)} training images over")
    table: dict[str, list[tuple[float, float, float, str]]] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        drawn = np.random.default_rng(seed).permutation(len(X))
        rows, others = drawn[: options.train], drawn[options.train :]
        tests = (X[others], y[others]) if options.held_out else (X_test, y_test)
        images, truth = (part[: options.test] for part in tests)
        for name, settings in choices.items():
            if options.rows not in name:
                continue
            shape: dict[str, Any] = {"width": options.width}
            if options.kernel:
                device = "cuda" if torch.cuda.is_available() else "cpu"
                task = {"n_samples": options.train, "device": device, "width": options.width}
                usual = default_architecture(settings["group"], 28, 1, 10, **task)
                sizes = (options.kernel,) * len(usual.kernel_sizes)
                shape = {"architecture": replace(usual, kernel_sizes=sizes)}
            model = EquivariantNASClassifier(**settings, **common, **shape, random_state=seed)
            started = time.perf_counter()
            model.fit(X[rows], y[rows])
            seconds = time.perf_counter() - started
            score = model.score(images, truth)
            table.setdefault(name, []).append((score, model.n_parameters_, seconds, model.learned_symmetry_.group))
            print(f"seed {seed}  {name}: {score:.4f}  {model.architecture_}  {seconds:.0f} s", flush=True)
        if options.rows in "SVC" and not options.group:
            svc, flat = SVC(C=10.0), X[rows].reshape(len(rows), -1) / 255
            started = time.perf_counter()
            svc.fit(flat, y[rows])
            seconds = time.perf_counter() - started
            score = svc.score(images.reshape(len(images), -1) / 255, truth)
            table.setdefault("SVC", []).append((score, svc.support_vectors_.size, seconds, ""))
            print(f"seed {seed}  SVC: {score:.4f}", flush=True)

    kind = "held-out" if options.held_out else "test"
    print(f"\n{options.train} training, {len(truth)} {kind} images, {options.seeds} seeds; mean (lowest to highest)")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}\n")
    print(
        f"| model | {kind} accuracy | parameters | seconds to fit | symmetry learned |\n| --- | --- | --- | --- | --- |"
    )
    for name, results in table.items():
        scores, parameters, seconds, groups = zip(*results, strict=True)
        print(
            f"| {name} | {np.mean(scores):.4f} ({min(scores):.4f} to {max(scores):.4f}) | {np.mean(parameters):,.0f} "
            f"| {np.mean(seconds):.0f} | {', '.join(groups)} |"
        )


if __name__ == "__main__":
    main()
