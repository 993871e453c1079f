"""Muon for constrained kernels beside AdamW: what a step costs, and what a training of the same length gives.

    python examples/benchmarks/optimizer.py --parts steps
    python examples/benchmarks/optimizer.py --parts accuracy --data FILE.npz --train 1500 --lengths 0.25 1

FILE holds ``X, y`` and perhaps ``split`` (0 for training images), or ``X_train, y_train``; without ``--data`` it is
scikit-learn's digits. Networks are constrained to ``--group``, trained with ``search="none"`` on training images, and
scored on 1,500 others of the training part. Lengths are shares of the default one. Seconds are of the process.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from skequinas import EquivariantNASClassifier, PointGroup
from skequinas.nn import Architecture, EquivariantNetwork, default_architecture, paper_architecture
from skequinas.training import Muon

D4 = PointGroup.from_name("D4")


def median(seconds: list[float]) -> float:
    return 1e3 * float(np.median(seconds))


def steps(architecture: Architecture, images: Tensor, n: int) -> tuple[float, float, float]:
    """Milliseconds of forward and backward pass, and of a step of AdamW and of Muon."""
    network, targets = EquivariantNetwork(architecture), torch.arange(len(images)) % 10
    weights = [p for name, p in network.named_parameters() if not name.endswith("logits")]
    optimizers = torch.optim.AdamW(weights, 1e-3, fused=True), Muon(network, 1e-3, 6e-3, parameters=weights)
    seconds: list[list[float]] = [[], [], []]
    for _ in range(n):
        started = time.perf_counter()
        loss = F.cross_entropy(network(images), targets)
        network.zero_grad()
        loss.backward(inputs=weights)
        seconds[0].append(time.perf_counter() - started)
        for times, optimizer in zip(seconds[1:], optimizers, strict=True):
            started = time.perf_counter()
            optimizer.step()
            times.append(time.perf_counter() - started)
    return median(seconds[0]), median(seconds[1]), median(seconds[2])


def print_steps(n: int) -> None:
    networks = {
        "default, 8x8": default_architecture("D4", 8, 1, 10),
        "default, 28x28": default_architecture("D4", 28, 1, 10),
        "paper, 28x28": paper_architecture("D4", 28, 1, 10),
    }
    for name, start in networks.items():
        images = torch.randn(64, 1, *start.image_shape)
        for constraint in (D4.whole, D4.subgroup("C4"), D4.trivial, D4.subgroups):
            own = "mixed" if isinstance(constraint, tuple) else str(constraint)
            passes, adamw, muon = steps(start.with_constraints((constraint,) * start.n_layers), images, n)
            share = 100 * (muon - adamw) / (passes + adamw)
            print(f"{name:15} {own:6} passes {passes:7.1f} ms, AdamW {adamw:6.1f}, Muon {muon:6.1f}: {share:+.1f} %")


def training_images(path: str | None) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    if path is None:
        digits = load_digits()
        return digits.images, digits.target
    with np.load(path) as file:
        if "X_train" in file:
            return file["X_train"], file["y_train"]
        chosen = file["split"] == 0 if "split" in file else slice(None)
        return file["X"][chosen], file["y"][chosen]


def print_accuracy(options: argparse.Namespace) -> None:
    X, y = training_images(options.data)
    rows = np.random.default_rng(options.seed).permutation(len(X))
    n = min(options.train, 2 * len(X) // 3)
    train, held_out = rows[:n], rows[n : n + 1500]
    for length in options.lengths:
        for optimizer in ("adamw", "muon"):
            epochs = length * float(np.clip(round(32_000 / n), 4, 80))
            model = EquivariantNASClassifier(
                options.group, "none", optimizer=optimizer, max_epochs=epochs, random_state=options.seed
            )
            started = time.process_time()
            score = model.fit(X[train], y[train]).score(X[held_out], y[held_out])
            seconds = time.process_time() - started
            print(f"{n} images, {epochs:5.1f} epochs, {optimizer:6} {score:.4f} in {seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["steps", "accuracy"], default=["steps", "accuracy"])
    parser.add_argument("--rounds", type=int, default=5, help="steps that are timed")
    parser.add_argument("--data", help="an npz file; scikit-learn's digits without it")
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--group", default="D4")
    parser.add_argument("--lengths", type=float, nargs="+", default=[0.25, 1.0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if "steps" in options.parts:
        print_steps(options.rounds)
    if "accuracy" in options.parts:
        print_accuracy(options)


if __name__ == "__main__":
    main()
