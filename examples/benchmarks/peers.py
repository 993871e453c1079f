"""The estimators beside what a good analyst would write, on the same rows and in the same seconds.

    python examples/benchmarks/peers.py --data FILE.npz --target y --moves D4 --seeds 0 1 2

FILE holds ``X``, the target and ``split`` (0 for training images, 2 for test images), or ``X_train, y_train, X_test,
y_test``. The estimator fits first. A residual network of ordinary convolutions, with AdamW and with Muon, gets as many
seconds; it is trained on random moves of the group that the analyst believes in (``--moves``), shifts by up to two
pixels and smoothed labels, and its predictions are averaged over the moves. The peers of scikit-learn are fitted to
their end. Scores: accuracy and balanced accuracy, or R2. ``--held-out`` scores on training images that were left out:
with it one may choose, without it one may not. ``--budgets`` gives the estimators a ``time_budget`` each instead, for a
curve of accuracy against seconds. Seconds are of the process (``--threads`` of torch), so that others do not count.

scikit-image gives the peer "hog"; FLAML is given the seconds of the residual networks, or 60. Peers whose package is
not there are left out.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.metrics import accuracy_score, balanced_accuracy_score, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, SVR
from torch import Tensor, nn
from torch.nn import functional as F

from skequinas import EquivariantNASClassifier, EquivariantNASRegressor
from skequinas.groups import PointGroup
from skequinas.nn import transform_images
from skequinas.training.optimizer import polar_factor

N_TEST = 2000
PEERS = ["ResNet", "ResNet, Muon", "forest", "boosting", "SVM", "hog", "FLAML"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in, height, width) to (batch, n_out, height, width), or half of the sides."""
        return F.relu(self.inner(x) + self.shortcut(x))


def residual_network(channels: int, n_outputs: int, width: int = 32) -> nn.Module:
    """An ordinary residual network of 32, 64 and 128 channels for small images."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        ResidualBlock(width, width, 1),
        ResidualBlock(width, 2 * width, 2),
        ResidualBlock(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, n_outputs),
    ).to(memory_format=torch.channels_last)


class ConvolutionMuon(torch.optim.Optimizer):
    """Muon for ordinary kernels, whose norms stay."""

    def __init__(self, kernels: list[nn.Parameter], lr: float) -> None:
        super().__init__(kernels, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Turn every kernel by the rate times its norm."""
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p)).mul_(0.9).add_(p.grad)
                direction = polar_factor((p.grad + 0.9 * momentum).flatten(1)[None])[0].view_as(p)
                norm = p.norm()
                p -= group["lr"] * norm / direction.norm() * direction
                p *= norm / p.norm()


class ResNet:
    """The residual network with its recipe, trained for so many seconds."""

    def __init__(self, optimizer: str, moves: str, seconds: float, seed: int, regression: bool) -> None:
        self.optimizer, self.seconds, self.seed, self.regression = optimizer, seconds, seed, regression
        self.group = PointGroup.from_name(moves)

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> ResNet:
        """Train for the seconds."""
        torch.manual_seed(self.seed)
        images = as_tensor(X)
        self.mean, self.std = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
        images = (images - self.mean) / self.std
        if self.regression:
            self.level, self.scale = float(y.mean()), float(y.std())
            targets = torch.from_numpy(((y - self.level) / self.scale).astype(np.float32))[:, None]
            self.net = residual_network(images.shape[1], 1)
        else:
            self.classes, codes = np.unique(y, return_inverse=True)
            targets = torch.from_numpy(codes)
            self.net = residual_network(images.shape[1], len(self.classes))
        optimizers = self._optimizers()
        rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]

        def step(rows: Tensor, factor: float) -> None:
            for optimizer, own in zip(optimizers, rates, strict=True):
                for group, rate in zip(optimizer.param_groups, own, strict=True):
                    group["lr"] = rate * factor
            outputs = self.net(self._moved(images[rows]))
            if self.regression:
                loss = F.mse_loss(outputs, targets[rows])
            else:
                loss = F.cross_entropy(outputs, targets[rows], label_smoothing=0.05)
            self.net.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()

        ticks = []
        for _ in range(6):
            started = time.process_time()
            step(torch.randperm(len(images))[:64], 0.0)
            ticks.append(time.process_time() - started)
        n_steps, per_epoch, done = max(40, int(self.seconds / np.median(ticks[1:]))), max(1, len(images) // 64), 0
        while done < n_steps:
            for rows in torch.randperm(len(images)).tensor_split(per_epoch)[: n_steps - done]:
                t = done / n_steps
                step(rows, 0.05 + 3.8 * t if t < 0.25 else 0.5 * (1 + np.cos(np.pi * (t - 0.25) / 0.75)))
                done += 1
        self.net.eval()
        return self

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        kernels = [p for p in self.net.parameters() if p.ndim == 4]
        rest = [p for p in self.net.parameters() if p.ndim != 4]
        if self.optimizer == "Muon":
            return [ConvolutionMuon(kernels, 0.05), torch.optim.AdamW(rest, 0.003, weight_decay=0.0)]
        groups = [{"params": kernels, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, 0.003, fused=True)]

    def _moved(self, images: Tensor) -> Tensor:
        """Each image moved by an element of the group, and shifted by up to two pixels."""
        n, _, height, width = images.shape
        moves, moved = torch.randint(self.group.order, (n,)), torch.empty_like(images)
        for g in range(self.group.order):
            rows = (moves == g).nonzero()[:, 0]
            if len(rows):
                moved[rows] = transform_images(images[rows], self.group, g)
        padded, (down, right) = F.pad(moved, (2,) * 4, mode="reflect"), torch.randint(5, (2, n)).tolist()
        shifted = [
            padded[k, :, i : i + height, j : j + width] for k, (i, j) in enumerate(zip(down, right, strict=True))
        ]
        return torch.stack(shifted).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        """Labels or numbers, from outputs averaged over the moves."""
        images, total = (as_tensor(X) - self.mean) / self.std, 0.0
        for g in range(self.group.order):
            moved = transform_images(images, self.group, g).contiguous(memory_format=torch.channels_last)
            outputs = torch.cat([self.net(part) for part in moved.split(200)])
            total = total + (outputs if self.regression else outputs.softmax(1))
        if self.regression:
            return total[:, 0].numpy() / self.group.order * self.scale + self.level
        return self.classes[total.argmax(1).numpy()]


def as_tensor(X: NDArray[Any]) -> Tensor:
    """Images as floats, channels first."""
    return torch.from_numpy(X if X.ndim == 4 else X[..., None]).permute(0, 3, 1, 2).float()


def flat(X: NDArray[Any]) -> NDArray[Any]:
    return X.reshape(len(X), -1)


def gradients_histograms(X: NDArray[Any]) -> NDArray[Any]:
    """Histograms of oriented gradients, by scikit-image."""
    from skimage.feature import hog

    axis = -1 if X.ndim == 4 else None
    return np.stack([hog(x, 9, (7, 7), (2, 2), channel_axis=axis) for x in X])


def classical(regression: bool, seed: int, seconds: float) -> dict[str, Callable[[], Any]]:
    """Peers of scikit-learn."""
    vectors = (lambda: SVR(C=10)) if regression else (lambda: SVC(C=10))
    forest = RandomForestRegressor if regression else RandomForestClassifier
    boosting = HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
    to_rows, to_histograms = FunctionTransformer(flat), FunctionTransformer(gradients_histograms)
    peers = {
        "forest": lambda: make_pipeline(to_rows, forest(500, random_state=seed)),
        "boosting": lambda: make_pipeline(to_rows, boosting(random_state=seed)),
        "SVM": lambda: make_pipeline(to_rows, StandardScaler(), vectors()),
    }
    if find_spec("skimage") is not None:
        peers["hog"] = lambda: make_pipeline(to_histograms, StandardScaler(), vectors())
    try:
        import flaml
    except ImportError:
        return peers

    def automl() -> Any:
        model = flaml.AutoML(
            task="regression" if regression else "classification", time_budget=seconds, seed=seed, verbose=0
        )
        return make_pipeline(to_rows, model)

    return peers | {"FLAML": automl}


def load(path: str, target: str, seed: int, n: int, held_out: bool) -> list[NDArray[Any]]:
    """Training images and targets, and test images and targets."""
    with np.load(path) as file:
        if "split" in file:
            X, y, split = file["X"], file[target], file["split"]
            train, test = np.flatnonzero(split == 0), np.flatnonzero(split == 2)
        else:
            X = np.concatenate([file["X_train"], file["X_test"]])
            y = np.concatenate([file["y_train"], file["y_test"]])
            train, test = np.arange(len(file["X_train"])), np.arange(len(file["X_train"]), len(X))
    order = np.random.default_rng(seed).permutation(train)
    if held_out:
        n = min(n, 2 * len(order) // 3)
        test = order[n : n + N_TEST]
    else:
        test = np.random.default_rng(99).permutation(test)[:N_TEST]
    return [X[order[:n]], y[order[:n]], X[test], y[test]]


def timed(model: Any, X: NDArray[Any], y: NDArray[Any]) -> float:
    """The seconds of a fit."""
    started = time.process_time()
    model.fit(X, y)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="npz file")
    parser.add_argument("--target", default="y", help="name of the target in a file with a split")
    parser.add_argument("--regression", action="store_true")
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--group", default="D4", help="the group of the estimator")
    parser.add_argument("--moves", default="D4", help="the group whose moves the residual network is trained on")
    parser.add_argument("--searches", nargs="*", default=["evolutionary", "differentiable"])
    parser.add_argument(
        "--peers", nargs="*", default=["ResNet", "ResNet, Muon", "forest", "boosting", "SVM", "hog", "FLAML"]
    )
    parser.add_argument("--budgets", type=float, nargs="*", default=[None])
    parser.add_argument(
        "--seconds", type=float, help="of the residual networks and FLAML, where there is no search to compare with"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    found: dict[str, list[tuple[float, float, float]]] = {}

    def note(name: str, model: Any, seconds: float, test: list[NDArray[Any]], seed: int, remark: str = "") -> None:
        X, y = test
        predicted = model.predict(X)
        if options.regression:
            scores = r2_score(y, predicted), r2_score(y, predicted)
        else:
            scores = accuracy_score(y, predicted), balanced_accuracy_score(y, predicted)
        found.setdefault(name, []).append((*scores, seconds))
        print(
            f"{options.data}, seed {seed}, {name}: {scores[0]:.4f} {scores[1]:.4f} {seconds:.0f} s {remark}", flush=True
        )

    for seed in options.seeds:
        X, y, *test = load(options.data, options.target, seed, options.train, options.held_out)
        estimator = EquivariantNASRegressor if options.regression else EquivariantNASClassifier
        longest = options.seconds or 0.0
        for search in options.searches:
            for budget in options.budgets:
                model = estimator(options.group, search, time_budget=budget, random_state=seed)
                seconds = timed(model, X, y)
                if options.seconds is None and search == options.searches[0]:
                    longest = seconds
                name = search if budget is None else f"{search}, {budget:g} s"
                note(name, model, seconds, test, seed, f"{model.learned_symmetry_.group}, {model.architecture_}")
        others = classical(options.regression, seed, longest or 60.0)
        for name in options.peers:
            if name.startswith("ResNet"):
                optimizer = "Muon" if name.endswith("Muon") else "AdamW"
                peer: Any = ResNet(optimizer, options.moves, longest, seed, options.regression)
            elif name in others:
                peer = others[name]()
            else:
                continue
            note(name, peer, timed(peer, X, y), test, seed)
    print("\n| model | score, mean of the seeds (from, to) | balanced | seconds |\n|" + " --- |" * 4)
    for name, rows in found.items():
        score, balanced, seconds = np.mean(rows, 0)
        each = [row[0] for row in rows]
        print(f"| {name} | {score:.3f} ({min(each):.3f} to {max(each):.3f}) | {balanced:.3f} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
