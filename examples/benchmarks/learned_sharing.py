"""A baseline: which weights to share is learned by bilevel optimisation, and compared with what was planted.

    python examples/benchmarks/learned_sharing.py --data FOLDER --train 2000 --seeds 0

After Yeh et al., Equivariance Discovery by Learned Parameter-Sharing, 2022, for one small layer: planted tasks as in
planted_symmetry.py; the hidden layers of a network are constrained to D4 and trained with a free head, then their
features, functions on D4, are fixed. A linear head has weights W[k, f, g] = sum_j A[g, j] V[k, f, j]: a row-stochastic
A, the same for all fields and classes, says which elements share weights; it starts near a free head. Half of the
images train the layers, a quarter V, and a quarter A, with a penalty for many weights (the trace norm of A) and, in the
second half, for rows that do not decide (entropy). In the end each element goes with the greatest entry of its row, V
is trained anew, and of three starts the one with the least held-out loss counts. A symmetry shares the weights of each
right coset. Settings were chosen on seed 7.

Written: how often the sharing is that of the planted group, `partition_distance` to it, and the same for the
evolutionary search. Test images play no part.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from numpy.typing import NDArray
from planted_symmetry import D4, load
from torch import Tensor
from torch.nn import functional as F

from skequinas import Architecture, EquivariantNASClassifier
from skequinas.datasets import make_planted_symmetry
from skequinas.groups import partition_distance

PRICE, STEPS, STARTS = 0.05, 600, 3


def functions(X: NDArray[np.uint8], y: NDArray[np.int64], rows: NDArray[np.int64], seed: int) -> Tensor:
    """Of every image the functions on D4 that constrained hidden layers make of it, (n, fields, 8)."""
    n = int(y.max()) + 1
    architecture = Architecture(D4, X.shape[1], 1, n, (6, 6, 8), (5, 3, 3), (True, True, False), head="free")
    model = EquivariantNASClassifier("D4", "none", architecture=architecture, random_state=seed).fit(X[rows], y[rows])
    with torch.inference_mode():
        inputs = model.preprocessing_(torch.from_numpy(X)[:, None])
        found = torch.cat([model.network_.features(x) for x in inputs.split(512)]).unflatten(1, (-1, 8))
    return ((found - found.mean((0, 2), keepdim=True)) / found.std((0, 2), keepdim=True)).clone()


def learned(z: Tensor, y: Tensor, fit: Tensor, held_out: Tensor, seed: int) -> tuple[float, NDArray[np.int64]]:
    """The held-out loss, and which elements share weights."""
    generator = torch.Generator().manual_seed(seed)
    scores = (2 * torch.eye(8) + 0.3 * torch.randn(8, 8, generator=generator)).requires_grad_()
    values = (0.01 * torch.randn(int(y.max()) + 1, z.shape[1], 8, generator=generator)).requires_grad_()
    inner = torch.optim.AdamW([values], 1e-2, weight_decay=1e-2)
    outer = torch.optim.Adam([scores], 2e-2)

    def loss(sharing: Tensor, rows: Tensor) -> Tensor:
        return F.cross_entropy(torch.einsum("nfg,gj,kfj->nk", z[rows], sharing, values), y[rows])

    def train(sharing: Tensor, optimizer: torch.optim.Optimizer, n_steps: int) -> None:
        for _ in range(n_steps):
            optimizer.zero_grad()
            loss(sharing, fit).backward()
            optimizer.step()

    for step in range(STEPS):
        train(scores.softmax(1).detach(), inner, 4)
        outer.zero_grad()
        sharing = scores.softmax(1)
        entropy = -(sharing * sharing.clamp_min(1e-12).log()).sum(1).mean()
        penalty = torch.linalg.matrix_norm(sharing, "nuc") / 8 + 0.5 * entropy * (step > STEPS // 2)
        (loss(sharing, held_out) + PRICE * penalty).backward()
        outer.step()
    labels = scores.argmax(1)
    hard = F.one_hot(labels, 8).float()
    torch.nn.init.normal_(values, std=0.01, generator=generator)
    train(hard, torch.optim.AdamW([values], 1e-2, weight_decay=1e-2), STEPS)
    with torch.no_grad():
        return float(loss(hard, held_out)), labels.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with mnist.npz; without it MNIST is downloaded")
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    (images, classes), _ = load(options.data, "mnist")
    found: dict[str, list[tuple[float, float, float]]] = {"learned sharing": [], "evolutionary": []}
    for seed in options.seeds:
        for planted in D4.subgroups:
            rng = np.random.default_rng([seed, options.train])
            rows = rng.permutation(len(images))[: options.train]
            own = classes[rows] if planted.order == 8 else None
            X, y = make_planted_symmetry(images[rows], own, subgroup=planted.name, random_state=seed)
            started = time.perf_counter()
            first, fit, held_out = np.split(rng.permutation(len(X)), [len(X) // 2, len(X) * 3 // 4])
            z = functions(X, y, first, seed)
            parts = (torch.from_numpy(part) for part in (y, fit, held_out))
            targets, *rows_of = parts
            _, labels = min((learned(z, targets, *rows_of, s) for s in range(STARTS)), key=lambda pair: pair[0])
            distance = partition_distance(labels, planted)
            found["learned sharing"].append((distance == 0, distance, time.perf_counter() - started))
            started = time.perf_counter()
            model = EquivariantNASClassifier("D4", random_state=seed).fit(X, y)
            distance = partition_distance(D4.subgroup(model.learned_symmetry_.group), planted)
            found["evolutionary"].append((distance == 0, distance, time.perf_counter() - started))
            print(f"seed {seed}, planted {planted}: shares {labels.tolist()}, searched {model.learned_symmetry_.group}")
    print("\n| what | runs | exact | mean distance of partitions | seconds |\n|" + " --- |" * 5)
    for name, rows_found in found.items():
        exact, distance, seconds = np.mean(rows_found, axis=0)
        print(f"| {name} | {len(rows_found)} | {100 * exact:.0f} % | {distance:.3f} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
