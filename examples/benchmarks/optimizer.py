"""Muon for constrained kernels beside AdamW: what a step costs, and what a training of the same length gives.

    python examples/benchmarks/optimizer.py --parts steps
    python examples/benchmarks/optimizer.py --parts accuracy --data FILE.npz --train 500 1500 --lengths 0.25 1
    python examples/benchmarks/optimizer.py --parts stages --data FILE.npz --train 1500

FILE holds ``X, y`` and perhaps ``split`` (0 for training images), or ``X_train, y_train``; without ``--data`` it is
scikit-learn's digits. Networks are constrained to ``--group``, trained with ``search="none"`` on training images, and
scored on 1,500 others of the training part: accuracy, and with ``--balanced`` balanced accuracy of models whose classes
all weigh alike; R2 with ``--regression``. Lengths are shares of the default one. Seconds are of the process.

The part "stages" fits whole searches from ``--group``, in which one stage alone is trained by AdamW, at the first of
its rates: the first network (of the evolution, or the mixture), those that inherit from it (children, tightened ones),
or the final training. It tells the losses on the search's own held-out images, and the score of the model on others.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn
from torch.nn import functional as F

from skequinas import (
    DifferentiableSearch,
    EquivariantNASClassifier,
    EquivariantNASRegressor,
    EvolutionarySearch,
    PointGroup,
)
from skequinas.estimators import session as estimator_session
from skequinas.nn import Architecture, EquivariantNetwork, default_architecture, paper_architecture
from skequinas.runtime.process import kept_memory
from skequinas.search.base import Search
from skequinas.search.evaluation import Proposal
from skequinas.training import Muon, TrainingSettings

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


def training_images(path: str | None, target: str) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    if path is None:
        digits = load_digits()
        return digits.images, digits.target
    with np.load(path) as file:
        if "X_train" in file:
            return file["X_train"], file["y_train"]
        chosen = file["split"] == 0 if "split" in file else slice(None)
        return file["X"][chosen], file[target][chosen]


def print_accuracy(options: argparse.Namespace) -> None:
    X, y = training_images(options.data, options.target)
    rows = np.random.default_rng(options.seed).permutation(len(X))
    settings: dict[str, Any] = {"class_weight": "balanced"} if options.balanced else {}
    for n in (min(n, 2 * len(X) // 3) for n in options.train):
        train, held_out = rows[:n], rows[n : n + 1500]
        for length in options.lengths:
            epochs = length * float(np.clip(round(32_000 / n), 4, 80))
            for optimizer, rate in [*(("adamw", r) for r in options.adamw), *(("muon", r) for r in options.muon)]:
                settings |= {"optimizer": optimizer, "learning_rate": rate, "max_epochs": epochs}
                kind = EquivariantNASRegressor if options.regression else EquivariantNASClassifier
                model = kind(options.group, "none", random_state=options.seed, **settings)
                started = time.process_time()
                model.fit(X[train], y[train])
                seconds = time.process_time() - started
                score = model.score(X[held_out], y[held_out])
                if options.balanced:
                    score = balanced_accuracy_score(y[held_out], model.predict(X[held_out]))
                print(
                    f"{options.data}, {n} images, {epochs:5.1f} epochs, {optimizer:6} {rate:g}: {score:.4f} in "
                    f"{seconds:.0f} s",
                    flush=True,
                )


def with_adamw(kind: type[Search], stage: str, rate: float) -> Search:
    """A search that trains the networks of one stage by AdamW, and all others as it is told to."""

    class Own(kind):  # type: ignore[misc, valid-type]
        def propose(self) -> list[Proposal]:
            settings = {"optimizer": "adamw", "learning_rate": rate}
            return [
                replace(proposal, training=replace(proposal.training, **settings))
                if stage == ("first" if proposal.parent is None else "inherited")
                else proposal
                for proposal in super().propose()
            ]

    search: Search = Own()
    return search


def print_stages(options: argparse.Namespace) -> None:
    X, y = training_images(options.data, options.target)
    rows = np.random.default_rng(options.seed).permutation(len(X))
    n = options.train[0]
    train, held_out = rows[:n], rows[n : n + 1500]
    kind = EquivariantNASRegressor if options.regression else EquivariantNASClassifier
    weights: dict[str, Any] = {"class_weight": "balanced"} if options.balanced else {}
    final_training = estimator_session.train

    def by_adamw(network: nn.Module, data: Any, settings: TrainingSettings, *args: Any, **more: Any) -> Any:
        settings = replace(settings, optimizer="adamw", learning_rate=options.adamw[0])
        return final_training(network, data, settings, *args, **more)

    for search in (EvolutionarySearch, DifferentiableSearch):
        for stage in ("none", "first", "inherited", "final"):
            model = kind(
                options.group, with_adamw(search, stage, options.adamw[0]), random_state=options.seed, **weights
            )
            started = time.process_time()
            with patch.object(estimator_session, "train", by_adamw if stage == "final" else final_training):
                model.fit(X[train], y[train])
            seconds = time.process_time() - started
            score = model.score(X[held_out], y[held_out])
            if options.balanced:
                score = balanced_accuracy_score(y[held_out], model.predict(X[held_out]))
            found = model.search_results_
            losses = {name: found["validation_loss"][own] for name, own in (
                ("first", found["generation"] == 0), ("inherited", found["parent"] >= 0)
            )}  # fmt: skip
            best = ", ".join(f"{name} {values.min():.3f}" for name, values in losses.items() if len(values))
            print(
                f"{options.data}, {n} images, {search.__name__}, AdamW in {stage:9}: {score:.4f} in {seconds:.0f} s, "
                f"{model.learned_symmetry_.group}, lowest losses: {best}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["steps", "accuracy", "stages"], default=["steps", "accuracy"])
    parser.add_argument("--rounds", type=int, default=5, help="steps that are timed")
    parser.add_argument("--data", help="an npz file; scikit-learn's digits without it")
    parser.add_argument("--target", default="y", help="name of the target in a file without X_train")
    parser.add_argument("--regression", action="store_true")
    parser.add_argument("--balanced", action="store_true", help="class_weight='balanced', and balanced accuracy")
    parser.add_argument("--train", type=int, nargs="+", default=[1500])
    parser.add_argument("--adamw", type=float, nargs="*", default=[0.005], help="rates of AdamW")
    parser.add_argument("--muon", type=float, nargs="*", default=[0.005], help="rates of Muon, a sixth of its kernels'")
    parser.add_argument("--group", default="D4")
    parser.add_argument("--lengths", type=float, nargs="+", default=[0.25, 1.0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if "steps" in options.parts:
        with kept_memory():  # as in a fit
            print_steps(options.rounds)
    if "accuracy" in options.parts:
        print_accuracy(options)
    if "stages" in options.parts:
        if not options.adamw:
            parser.error("--parts stages needs a rate of --adamw")
        print_stages(options)


if __name__ == "__main__":
    main()
