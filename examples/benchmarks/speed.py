"""What symmetry costs: times as ratios to an ordinary CNN with the same channels, side by side in one process.

    python examples/benchmarks/speed.py
    python examples/benchmarks/speed.py --parts steps --paper --rounds 5
    python examples/benchmarks/speed.py --parts steps --system-allocator

Rows that are compared take turns within a round, in a new order each time, and a ratio is taken within its round; the
table gives the median and the quartiles over the rounds. Beside this package's layers stand two reference forms:
a mixed layer with one convolution for each subgroup, as published, and a group convolution that builds its kernel by
turning and stacking; and, in an environment that has it, escnn. On a CUDA machine the same runs there, in float32
without TF32, and waits for the device at both ends of what is timed. Steps are timed for all rows with freed memory
kept in the process, as `fit` does, or with ``--system-allocator`` for all rows without.

Parts: build (construction and import), steps (training steps), predict, fit (whole fits of each search against one
training of the chosen architecture), jobs (candidates one after the other and in parallel), memory (of a fit with
50,000 images), scaling (with images and with subgroups).
"""

from __future__ import annotations

import argparse
import copy
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from peers import residual_network
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from skequinas import EquivariantNASClassifier, EvolutionarySearch
from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import (
    Architecture,
    EquivariantNetwork,
    MixedGroupConv2d,
    SymmetricAvgPool2d,
    default_architecture,
    kernel_space,
    paper_architecture,
    transform_images,
)
from skequinas.runtime.process import kept_memory

D4 = PointGroup.from_name("D4")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


# What is compared


class OrdinaryCNN(nn.Module):
    """A network of torch's own layers with the channels, the pooling and the shortcuts of an architecture."""

    def __init__(self, architecture: Architecture, make: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        order, channels, size = architecture.group.order, architecture.in_channels, architecture.image_size
        self.architecture = architecture
        self.convolutions, self.norms, self.pools = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        each = zip(architecture.fields, architecture.kernel_sizes, architecture.pools, strict=True)
        for number, (fields, kernel, pool) in enumerate(each):
            plain = nn.Conv2d(channels, fields * order, kernel, padding=kernel // 2, bias=False)
            self.convolutions.append(plain if make is None else make(number))
            channels = fields * order
            self.norms.append(nn.BatchNorm2d(channels))
            self.pools.append(SymmetricAvgPool2d.plain(size, size) if pool else nn.Identity())
            size = (size + 1) // 2 if pool else size
        hidden, both = architecture.hidden, architecture.statistics != "mean"
        channels *= 2 if both else 1
        head = [nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.ReLU()] if hidden else []
        self.head = nn.Sequential(*head, nn.Linear(hidden or channels, architecture.n_outputs))
        self.both = both

    def forward(self, x: Tensor) -> Tensor:
        """Images to outputs."""
        inputs: list[Tensor] = []
        each = zip(self.convolutions, self.norms, self.pools, self.architecture.shortcuts, strict=True)
        for number, (convolution, norm, pool, length) in enumerate(each):
            inputs.append(x)
            x = norm(convolution(x))
            if length:
                shortcut = inputs[number - length + 1]
                x = x + F.pad(shortcut, (0, 0, 0, 0, 0, x.shape[1] - shortcut.shape[1]))
            x = pool(x.relu_())
        mean = x.mean((2, 3))
        y: Tensor = self.head(torch.cat([mean, x.amax((2, 3))], 1) if self.both else mean)
        return y


class NaiveMixed(nn.Module):
    """A mixed layer with one convolution for each subgroup."""

    def __init__(self, layer: MixedGroupConv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with each kernel, and add up what comes out."""
        shares = self.layer.shares()
        padding, parts = self.layer.kernel_size // 2, self.layer.weights.parts()
        spaces = self.layer.weights.spaces
        kernels = (space.sample(space.expand(part)) for space, part in zip(spaces, parts, strict=True))
        total = sum(z * F.conv2d(x, kernel, padding=padding) for z, kernel in zip(shares, kernels, strict=True))
        assert isinstance(total, Tensor)
        return total


class StackedConv(nn.Module):
    """A group convolution of the whole group that turns its filters one by one and stacks them."""

    def __init__(self, group: PointGroup, in_fields: int, out_fields: int, kernel_size: int, regular_in: bool) -> None:
        super().__init__()
        self.group, self.regular_in = group, regular_in
        shape = (out_fields, in_fields, group.order if regular_in else 1, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.randn(shape) / (in_fields * shape[2] * kernel_size**2) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Turn, stack, convolve."""
        turned = []
        for h in self.group.elements:
            own = transform_images(self.weight, self.group, h)
            if self.regular_in:
                back = [self.group.multiply(self.group.inverse(h), g) for g in self.group.elements]
                own = own[:, :, back]
            turned.append(own)
        kernel = torch.stack(turned, 1).flatten(2, 3).flatten(0, 1)
        return F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)


class Escnn(nn.Module):
    """The network of an architecture in the harmonic basis, as escnn trains it."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        from escnn.nn import GeometricTensor

        from skequinas.interop.escnn import EscnnNetwork

        self.wrap = GeometricTensor
        self.network = EscnnNetwork(replace(architecture, basis="harmonic"))

    def forward(self, x: Tensor) -> Tensor:
        """Images to outputs."""
        y: Tensor = self.network(self.wrap(x, self.network.in_type)).tensor
        return y.flatten(1)


def networks(architecture: Architecture) -> dict[str, nn.Module]:
    """Everything whose training step is timed, the ordinary CNN, in the faster memory format, the first."""

    def constrained(h: Subgroup) -> nn.Module:
        return EquivariantNetwork(architecture.with_constraints((h,) * architecture.n_layers))

    def mixed(number: int) -> MixedGroupConv2d:
        shape = architecture.layer_shape(number) | {"bias": False}
        return MixedGroupConv2d(D4.subgroups, **shape)

    def stacked(number: int) -> StackedConv:
        shape = architecture.layer_shape(number)
        return StackedConv(D4, shape["in_fields"], shape["out_fields"], shape["kernel_size"], shape["regular_in"])

    found: dict[str, nn.Module] = {
        "ordinary CNN, channels last": OrdinaryCNN(architecture).to(memory_format=torch.channels_last),
        "ordinary CNN, channels first": OrdinaryCNN(architecture),
    }
    found |= {f"constrained to {h}": constrained(h) for h in map(D4.subgroup, ("D4", "C4", "D2(0)", "D1(45)", "C1"))}
    whole = architecture.with_constraints((D4.subgroups,) * architecture.n_layers)
    found["mixed over all ten subgroups"] = EquivariantNetwork(whole)
    found["reference: one convolution for each subgroup"] = OrdinaryCNN(
        architecture, lambda number: NaiveMixed(mixed(number))
    )
    found["reference: turned and stacked (D4)"] = OrdinaryCNN(architecture, stacked)
    if find_spec("escnn"):
        found["constrained to D4, harmonic basis"] = EquivariantNetwork(replace(architecture, basis="harmonic"))
        found["escnn, D4"] = Escnn(architecture)
    return found


# Timing


def synchronise() -> None:
    """Wait for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(action: Callable[[], object], times: int = 1) -> float:
    """The seconds of an action."""
    synchronise()
    started = time.perf_counter()
    for _ in range(times):
        action()
    synchronise()
    return (time.perf_counter() - started) / times


def in_rounds(actions: dict[str, Callable[[], object]], rounds: int, times: int) -> dict[str, list[float]]:
    """Seconds of several actions that take turns, in a new order in each round."""
    rng, seconds = np.random.default_rng(0), {name: [0.0] * rounds for name in actions}
    for action in actions.values():
        action()  # warm-up
    for number in range(rounds):
        for name in rng.permutation(list(actions)):
            seconds[name][number] = seconds_of(actions[name], times)
    return seconds


def report(title: str, seconds: dict[str, list[float]], unit: float = 1e3, per: str = "ms") -> None:
    """A table of medians and of ratios to the first row."""
    first = np.array(next(iter(seconds.values())))
    print(f"\n{title}\n\n| what | {per}: median | ratio to the first row: median (quartiles) |\n| --- | --- | --- |")
    for name, own in seconds.items():
        low, middle, high = np.percentile(np.array(own) / first, [25, 50, 75])
        print(f"| {name} | {unit * np.median(own):.1f} | {middle:.3f} ({low:.3f} to {high:.3f}) |", flush=True)


def training_step(
    network: nn.Module, batch: Tensor, labels: Tensor, dtype: torch.dtype = torch.float32
) -> Callable[[], object]:
    """One step of AdamW, with convolutions in that type."""
    network.train().to(DEVICE)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True)

    def step() -> None:
        with torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(network(batch).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


# The parts


def build(options: argparse.Namespace) -> None:
    """Construction, and import beyond torch's and scikit-learn's own."""
    architecture = paper_architecture("D4", 28, 1, 10)
    first = seconds_of(lambda: EquivariantNetwork(architecture))
    kernel_space.cache_clear()
    again = [seconds_of(lambda: EquivariantNetwork(architecture)) for _ in range(options.rounds)]
    plain = [seconds_of(lambda: OrdinaryCNN(architecture)) for _ in range(options.rounds)]
    print(f"\nbuilding the paper's network: {first:.3f} s the first time, {np.median(again):.3f} s again;", end=" ")
    print(f"the ordinary CNN {np.median(plain):.3f} s")
    if find_spec("escnn"):
        print(f"escnn, the first time: {seconds_of(lambda: Escnn(architecture)):.2f} s;", end=" ")
        print(f"again: {seconds_of(lambda: Escnn(architecture)):.2f} s")
    base = "import torch, sklearn.base, sklearn.model_selection"
    times: dict[str, list[float]] = {base: [], f"{base}, skequinas": []}
    for _ in range(options.rounds):
        for code, own in times.items():
            own.append(seconds_of(lambda code=code: subprocess.run([sys.executable, "-c", code], check=True)))
    alone, both = (np.median(own) for own in times.values())
    print(f"importing torch and scikit-learn {alone:.2f} s, with skequinas {both:.2f} s")


def steps(options: argparse.Namespace) -> None:
    """Training steps."""
    make = paper_architecture if options.paper else default_architecture
    architecture = make("D4", 28, 1, 10)
    batch = torch.randn(64, 1, 28, 28, device=DEVICE)
    labels = torch.randint(10, (64,), device=DEVICE)
    actions = {name: training_step(network, batch, labels) for name, network in networks(architecture).items()}
    for name, network in (("ordinary CNN", OrdinaryCNN(architecture)), ("D4", EquivariantNetwork(architecture))):
        network = network.to(memory_format=torch.channels_last)
        actions[f"{name}, bfloat16"] = training_step(network, batch, labels, torch.bfloat16)
    actions = {name: action for name, action in actions.items() if name.startswith(tuple(options.rows))}
    title = f"training step, batch 64, channels {tuple(f * 8 for f in architecture.fields)}"
    with nullcontext() if options.system_allocator else kept_memory():
        report(title, in_rounds(actions, options.rounds, 1 if options.paper else 5))


def resnet(options: argparse.Namespace) -> None:
    """Training steps of the ordinary residual network of ``peers.py``, and of constrained ones of other widths."""
    default = default_architecture("D4", 28, 1, 10)
    wider = dict(zip(sorted(set(default.fields)), (8, 16, 32), strict=True))
    batch, labels = torch.randn(64, 1, 28, 28, device=DEVICE), torch.randint(10, (64,), device=DEVICE)
    networks = {
        "ResNet, 32, 64 and 128 channels": residual_network(1, 10),
        "D4, 8, 16 and 32 fields": EquivariantNetwork(replace(default, fields=tuple(wider[f] for f in default.fields))),
        "D4, the default": EquivariantNetwork(default),
    }
    actions = {name: training_step(network, batch, labels) for name, network in networks.items()}
    for name, network in list(networks.items())[1:]:
        actions[f"{name}, bfloat16"] = training_step(copy.deepcopy(network), batch, labels, torch.bfloat16)
    with nullcontext() if options.system_allocator else kept_memory():
        report("training step, batch 64", in_rounds(actions, options.rounds, 3))


def drawn(size: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits, drawn larger: (n, size, size), from 0 to 224."""
    X, y = load_digits(return_X_y=True)
    images = F.interpolate(torch.from_numpy(X.reshape(-1, 1, 8, 8)).float(), (size, size), mode="bilinear")[:, 0]
    return (images * 14).numpy(), y


def digits(n: int, size: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """So many of them, repeated with noise: uint8, (n, size, size)."""
    images, y = drawn(size)
    rows = np.random.default_rng(0).integers(len(images), size=n)
    noise = np.random.default_rng(1).integers(0, 30, (n, size, size), dtype=np.uint8)
    return images.clip(0, 210).astype(np.uint8)[rows] + noise, y[rows]


def predict(options: argparse.Namespace) -> None:
    """Images per second of a fitted estimator, and of an ordinary CNN with folded batch norm on the same path."""
    X, y = digits(4096)
    of = {
        "ordinary CNN, folded": ("C1", "float32"),
        "constrained to D4": ("D4", "float32"),
        "D4, bfloat16": ("D4", "bfloat16"),
    }
    actions = {}
    for name, (group, precision) in of.items():
        model = EquivariantNASClassifier(group, "none", max_epochs=1, random_state=0, precision=precision)
        actions[name] = partial(model.fit(X[:512], y[:512]).predict, X)
    report("predict, 4,096 images 28x28", in_rounds(actions, options.rounds, 1))


def fit(options: argparse.Namespace) -> None:
    """Whole fits against one training of the architecture that was chosen."""
    X, y = digits(options.images)
    for search in ("evolutionary", "differentiable"):
        pairs = []
        for seed in range(min(options.rounds, 3)):
            model = EquivariantNASClassifier("D4", search, random_state=seed)
            whole = seconds_of(lambda model=model: model.fit(X, y))
            fixed = EquivariantNASClassifier("D4", "none", architecture=model.architecture_, random_state=seed)
            pairs.append((whole, seconds_of(lambda fixed=fixed: fixed.fit(X, y))))
            print(f"{search}, seed {seed}: {model.architecture_}, {pairs[-1][0]:.1f} s, fixed {pairs[-1][1]:.1f} s")
        ratios = [a / b for a, b in pairs]
        print(f"{search}: whole fit / fixed fit {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def whole(options: argparse.Namespace) -> None:
    """Whole fits to a task that looks the same under D4, against a training of an ordinary CNN of equal channels.

    The latter sees 32,000 images. Then the searches have half of its seconds, and as many: is that enough for its
    accuracy?
    """
    images, y = drawn()
    noisy = images + np.random.default_rng(1).normal(0, 30, images.shape)
    rng = np.random.default_rng(2)
    moved = np.stack([np.rot90(image, k) for image, k in zip(noisy, rng.integers(4, size=len(noisy)), strict=True)])
    X = np.where((rng.random(len(moved)) < 0.5)[:, None, None], moved[:, :, ::-1], moved).clip(0, 255).astype(np.uint8)
    for seed in range(min(options.rounds, 3)):
        order = np.random.default_rng(seed).permutation(len(X))
        train, test = order[:1200], order[1200:]
        shape = EquivariantNASClassifier("D4", "none", max_epochs=1).fit(X[train], y[train]).architecture_
        started = time.perf_counter()
        accuracy = ordinary_accuracy(OrdinaryCNN(shape), X, y, train, test, seed)
        ordinary = time.perf_counter() - started
        print(f"ordinary CNN, AdamW, seed {seed}: accuracy {accuracy:.4f}, {ordinary:.1f} s", flush=True)
        budgets = {"evolutionary": ordinary / 2, "differentiable": ordinary}
        for search, budget in (*budgets.items(), *dict.fromkeys(budgets).items()):
            model = EquivariantNASClassifier("D4", search, time_budget=budget, random_state=seed)
            seconds = seconds_of(partial(model.fit, X[train], y[train]))
            score, epochs = model.score(X[test], y[test]), len(model.history_["epoch"])
            told = "no budget" if budget is None else f"{budget:.0f} s"
            print(
                f"{search}, {told}, seed {seed}: accuracy {score:.4f}, {seconds:.1f} s,"
                f" ratio {seconds / ordinary:.2f}, {model.learned_symmetry_.group}, {epochs} epochs",
                flush=True,
            )


def ordinary_accuracy(
    network: nn.Module, X: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int
) -> float:
    """Test accuracy after 32,000 images by AdamW with one cycle of learning rates."""
    torch.manual_seed(seed)
    images = torch.from_numpy(np.ascontiguousarray(X)).to(DEVICE)[:, None].float()
    images = ((images - images[train].mean()) / images[train].std()).contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(y).to(DEVICE)
    network = network.to(DEVICE, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=500)
    order = torch.cat([torch.from_numpy(train)[torch.randperm(len(train))] for _ in range(-(-32_000 // len(train)))])
    for rows in order[:32_000].split(64):
        F.cross_entropy(network(images[rows]), labels[rows], label_smoothing=0.05).backward()
        optimizer.step()
        cycle.step()
        optimizer.zero_grad()
    network.eval()
    with torch.inference_mode():
        found = torch.cat([network(images[rows]).argmax(1) for rows in torch.from_numpy(test).split(256)])
    return float((found == labels[test]).float().mean())


def jobs(options: argparse.Namespace) -> None:
    """A search with many candidates: one after the other, and in parallel processes."""
    X, y = digits(1000)
    search = EvolutionarySearch(2, guided=False, warmup_epochs=1, epochs_per_generation=2)

    models = (
        EquivariantNASClassifier("D4", search, max_epochs=1, random_state=0, n_jobs=n, device="cpu")
        for n in (None, 1, 2, -1)
    )
    actions = {str(model.n_jobs): partial(model.fit, X, y) for model in models}
    report("fit with n_jobs", in_rounds(actions, min(options.rounds, 3), 1), 1.0, "s")


def memory(options: argparse.Namespace) -> None:
    """Peak memory of a fit beyond the data, in a process of its own."""
    if options.inner:
        with np.load(options.inner) as file:  # made elsewhere, so that making it is not part of the peak
            X, y = file["X"], file["y"]
        EquivariantNASClassifier("D4", "none", max_epochs=0.5, random_state=0).fit(X[:2000], y[:2000])  # code, caches
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        EquivariantNASClassifier("D4", "none", max_epochs=0.02, random_state=0).fit(X, y)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"fit of 50,000 images ({X.nbytes / 2**20:.0f} MiB): peak memory grows by {(after - before) / 1024:.0f} MiB"
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        X, y = digits(50_000)
        np.savez(f"{folder}/digits.npz", X=X, y=y)
        subprocess.run([sys.executable, __file__, "--parts", "memory", "--inner", f"{folder}/digits.npz"], check=True)


def scaling(options: argparse.Namespace) -> None:
    """Cost against the number of images, and of subgroups that are mixed."""
    X, y = digits(50_000)
    seconds = {
        n: seconds_of(
            lambda n=n: EquivariantNASClassifier("D4", "none", max_epochs=2, random_state=0).fit(X[:n], y[:n])
        )
        for n in (1000, 2000, 4000, 8000, 50_000)
    }
    print("\nfit of 2 epochs:", ", ".join(f"{n} images {s:.1f} s" for n, s in seconds.items()))
    architecture = default_architecture("D4", 28, 1, 10)
    batch = torch.randn(64, 1, 28, 28, device=DEVICE)
    labels = torch.randint(10, (64,), device=DEVICE)
    actions = {}
    for n in (1, 2, 5, 10):
        constraints = (D4.subgroups[:n],) * architecture.n_layers
        network = EquivariantNetwork(architecture.with_constraints(constraints))
        actions[f"mixed over {n}"] = training_step(network, batch, labels)
    report("training step of a mixed network", in_rounds(actions, options.rounds, 5))


PARTS = {
    "build": build,
    "steps": steps,
    "resnet": resnet,
    "predict": predict,
    "fit": fit,
    "whole": whole,
    "jobs": jobs,
    "memory": memory,
    "scaling": scaling,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--paper", action="store_true", help="steps of the paper's network: 8 layers, 128 and 256 channels"
    )
    parser.add_argument("--rows", nargs="+", default=[""], help="steps of those alone whose names begin so")
    parser.add_argument("--system-allocator", action="store_true", help="steps without keeping freed memory")
    parser.add_argument("--images", type=int, default=2000, help="of the whole fits")
    parser.add_argument("--inner", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if not options.inner:
        threads = torch.get_num_threads()
        print(f"torch {torch.__version__}, {threads} threads, {DEVICE}, {platform.machine()}, {options.rounds} rounds")
    for part in options.parts:
        PARTS[part](options)


if __name__ == "__main__":
    main()
