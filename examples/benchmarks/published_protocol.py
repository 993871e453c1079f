"""EquiNAS as it was published, beside its controls and fixed networks, scaled down to minutes.

    python examples/benchmarks/published_protocol.py --data FOLDER --seeds 0 1 2 3 4 --figures FOLDER

FOLDER holds the npz files that docs/what_was_learned.md describes. Images are shrunk by averaging blocks of pixels, to
about 16; the network is the paper's, with a quarter of its fields and a free head. The evolution has no momentum,
selects by accuracy (or the Pareto front) and is tested as it evolved, and trained anew; the mixture learns its alphas
from other mini-batches of the training images, starts with equal shares and is tested as it is. Controls: alphas whose
gradients go to others at random, alphas that are drawn and stay, constraints drawn at random. All networks of one
optimiser see as many mini-batches: for "sgd" and "adamw" at the published rates, all the time; for "muon" at this
package's, in cycles. Test images choose nothing.

Written for each fit: error on test images, the constraints found, free parameters in the search, and seconds of the
process. In the end: means, and differences between methods over the same images and seeds. Figures: the errors of all
methods, errors against parameters, and the lineages of the first evolutions and their constraints over generations.
With ``--rows FILE`` what was fitted is kept there and is not fitted again by the next run, which draws no lineages
of it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from skequinas import (
    Architecture,
    DifferentiableSearch,
    EquivariantNetwork,
    EvolutionarySearch,
    RandomConstraints,
    SearchDisplay,
)
from skequinas.nn import paper_architecture
from skequinas.runtime.process import kept_memory
from skequinas.search import Search, run_search
from skequinas.training import CLASSIFICATION, DataPart, TrainingSettings, train

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


class Source(NamedTuple):
    """A file, and by how much to shrink its images."""

    file: str
    block: int
    balanced: bool = False


SOURCES = {
    "rotated digits": Source("mnist_rot_regen", 2),
    "upright digits": Source("mnist", 2),
    "galaxies": Source("galaxyzoo2_spiral48", 3),
    "dermatoscopy": Source("ham10000_28", 2, balanced=True),
}
OPTIMIZERS = {
    "sgd": TrainingSettings(0.05, "sgd", "constant", weight_decay=0.0, momentum=0.0),
    "adamw": TrainingSettings(1e-3, "adamw", "constant", weight_decay=0.0, alpha_learning_rate=1e-3),
    "muon": TrainingSettings(0.005, "muon", weight_decay=0.0, alpha_learning_rate=1e-3),
}


def load(folder: str, source: Source) -> tuple[Images, Labels, Images, Labels]:
    """Training images and labels, test images and labels."""
    with np.load(Path(folder) / f"{source.file}.npz") as file:
        if "split" in file:
            X, y, split = file["X"], file["y"], file["split"]
            parts = X[split == 0], y[split == 0], X[split == 2], y[split == 2]
        else:
            parts = file["X_train"], file["y_train"], file["X_test"], file["y_test"]

    def shrunk(images: Images) -> Images:
        n, height, width, *channels = images.shape
        blocks = images.reshape(n, height // source.block, source.block, width // source.block, source.block, *channels)
        means: Images = blocks.mean((2, 4)).round().astype(np.uint8)
        return means

    return shrunk(parts[0]), parts[1], shrunk(parts[2]), parts[3]


def part_of(images: Images, labels: Labels, mean: NDArray[np.float64], spread: NDArray[np.float64]) -> DataPart:
    """Images with their channels first, standardised, and labels."""
    x = ((images.reshape(*images.shape[:3], -1) - mean) / spread).transpose(0, 3, 1, 2)
    return DataPart(torch.tensor(x, dtype=torch.float32), torch.tensor(labels), nn.Identity(), CLASSIFICATION)


class Protocol:
    """One set of images, one seed: what is trained, and on what."""

    def __init__(self, options: argparse.Namespace, name: str, seed: int) -> None:
        source = SOURCES[name]
        X, y, X_test, y_test = load(options.data, source)
        labels = np.unique(y)
        rows = np.random.default_rng(seed).permutation(len(X))[: options.train + options.validation]
        n = len(rows) - options.validation
        y, y_test = np.searchsorted(labels, y), np.searchsorted(labels, y_test)
        own = X[rows[:n]].reshape(n, *X.shape[1:3], -1)
        scale = own.mean((0, 1, 2)), own.std((0, 1, 2)) + 1e-6
        self.data = part_of(X[rows[:n]], y[rows[:n]], *scale)
        self.validation = part_of(X[rows[n:]], y[rows[n:]], *scale)
        self.test = part_of(X_test[: options.test], y_test[: options.test], *scale)
        self.balanced, self.seed, self.options = source.balanced, seed, options
        whole = paper_architecture("D4", X.shape[1], self.data.images.shape[1], len(labels), head="free")
        self.start = replace(whole, fields=tuple(f // options.divisor for f in whole.fields))
        self.epochs = options.epochs_per_generation * (options.generations + 1)

    def error(self, network: EquivariantNetwork) -> float:
        """The share of test images that are classified wrongly, in a balanced set of classes if so asked."""
        with torch.inference_mode():
            found = torch.cat([network.eval()(x).argmax(1) for x in self.test.images.split(512)])
        truth = self.test.targets
        return 1 - (balanced_accuracy_score(truth, found) if self.balanced else float((found == truth).double().mean()))

    def fixed(self, architecture: Architecture, settings: TrainingSettings) -> EquivariantNetwork:
        """A network that is trained from the start for as long as all others."""
        network = EquivariantNetwork(architecture, torch.Generator().manual_seed(self.seed))
        train(network, self.data, settings, self.epochs, seed=self.seed)
        return network

    def searched(self, search: Search, settings: TrainingSettings) -> Search:
        """A search that ran to its end."""
        search.start(self.start, self.epochs, settings, self.seed)
        run_search(search, self.data, self.validation)
        return search

    def evolution(self, selection: str, settings: TrainingSettings) -> Search:
        """EquiNAS_E."""
        each = self.options.epochs_per_generation
        return self.searched(
            EvolutionarySearch(
                self.options.generations, epochs_per_generation=each, warmup_epochs=each, population_size=5,
                selection=selection, unique=False, final="evolved", guided=False, moves="all", revisit=True,
                learning_rate=settings.learning_rate, momentum=settings.momentum, schedule=settings.schedule,
                tolerance=0,
            ),
            settings,
        )  # fmt: skip

    def mixture(self, alphas: str, settings: TrainingSettings) -> Search:
        """EquiNAS_D, or one of its controls."""
        return self.searched(
            DifferentiableSearch(
                self.epochs, learning_rate=settings.learning_rate, schedule=settings.schedule, alphas=alphas,
                alpha_learning_rate=settings.alpha_learning_rate, alpha_interval=1, alpha_data="training", favour=0,
                discretize=False,
            ),
            settings,
        )  # fmt: skip


def fits(protocol: Protocol, optimizer: str) -> dict[str, Any]:
    """What there is to fit with an optimiser: functions, by name, that give a network or a search."""
    settings, start, group = OPTIMIZERS[optimizer], protocol.start, protocol.start.group
    found: dict[str, Any] = {}
    if optimizer != "adamw":
        for selection in ("accuracy", "pareto")[: 2 if optimizer == "sgd" else 1]:
            found[f"E, {selection}"] = lambda selection=selection: protocol.evolution(selection, settings)
    if optimizer != "sgd":
        names = {"learned": "D", "permuted": "D, alphas permuted", "drawn": "D, alphas drawn"}
        for alphas, name in names.items():
            found[name] = lambda alphas=alphas: protocol.mixture(alphas, settings)

    def random_constraints() -> EquivariantNetwork:
        drawn = RandomConstraints().start(start, 1.0, settings, protocol.seed).architecture_
        return protocol.fixed(drawn, settings)

    found["random constraints"] = random_constraints
    for name in ("D4", "C4", "C1"):
        own = start.with_constraints((*(group.subgroup(name),) * len(start.chain), group.trivial))
        found[name] = lambda own=own: protocol.fixed(own, settings)
    return found


def rows_of(protocol: Protocol, optimizer: str) -> list[dict[str, Any]]:
    """A row for each fit, two for each evolution."""
    rows = []
    for name, fit in fits(protocol, optimizer).items():
        started = time.process_time()
        found = fit()
        seconds = time.process_time() - started
        search = found if isinstance(found, Search) else None
        if search is not None:
            chosen = search.result()
            assert chosen is not None
            network = chosen.network
        else:
            network = found
        own = network.architecture
        row = {
            "constraints": "mixed" if own.is_mixed else str(own), "parameters": own.n_parameters,
            "plain parameters": own.n_plain_parameters,
        }  # fmt: skip
        kind = ", evolved" if name.startswith("E") else ""
        rows.append(
            {"method": name + kind, "error": protocol.error(network), "seconds": seconds, "search": search} | row
        )
        if kind:
            started = time.process_time()
            error = protocol.error(protocol.fixed(own, OPTIMIZERS[optimizer]))
            seconds += time.process_time() - started
            rows.append({"method": f"{name}, retrained", "error": error, "seconds": seconds} | row)
    return rows


def mean_and_error(values: list[float]) -> str:
    """A mean with its standard error, in percent."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return f"{100 * np.mean(values):.1f} ± {100 * error:.1f}"


def summary(rows: list[dict[str, Any]]) -> None:
    """Tables of means, and of differences over the same images and seeds."""
    errors: dict[tuple[str, str], dict[tuple[str, int], float]] = defaultdict(dict)
    for row in rows:
        errors[row["optimizer"], row["method"]][row["set"], row["seed"]] = row["error"]
    sets = list(dict.fromkeys(row["set"] for row in rows))
    print(f"\n| optimizer | method | {' | '.join(sets)} | parameters | seconds |\n|{' --- |' * (len(sets) + 4)}")
    for key, own in errors.items():
        of_method = [row for row in rows if (row["optimizer"], row["method"]) == key]
        cells = [mean_and_error([e for (name, _), e in own.items() if name == s]) for s in sets]
        means = [np.mean([row[name] for row in of_method]) for name in ("parameters", "seconds")]
        print(f"| {' | '.join((*key, *cells))} | {means[0]:,.0f} | {means[1]:.0f} |")
    print("\nDifferences of the error in points, by pairs (below 0: the first is better):")
    for optimizer in dict.fromkeys(row["optimizer"] for row in rows):
        by_method = {method: errors[own, method] for own, method in errors if own == optimizer}
        evolved = [method for method in by_method if method.endswith("evolved")]
        pairs = [(method, method.replace("evolved", "retrained")) for method in evolved]
        pairs += [(a, b) for a in evolved for b in by_method if not b.startswith(("E", "D,")) and b != "D"]
        pairs += [("D", b) for b in by_method if "D" in by_method and not b.startswith("E") and b != "D"]
        for a, b in pairs:
            one, other = by_method[a], by_method[b]
            print(f"{optimizer}: {a} - {b}: {mean_and_error([one[key] - other[key] for key in one])}")


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """The figures of the paper."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    sets = list(dict.fromkeys(row["set"] for row in rows))
    names = list(dict.fromkeys((row["optimizer"], row["method"]) for row in rows))
    n = len(sets)
    boxes, axes = plt.subplots(1, n, figsize=(5 * n, 5), layout="constrained", squeeze=False)
    sizes, points = plt.subplots(1, len(sets), figsize=(4 * len(sets), 4), layout="constrained", squeeze=False)
    for ax, dots, name in zip(axes[0], points[0], sets, strict=True):
        own = [[r["error"] for r in rows if (r["set"], r["optimizer"], r["method"]) == (name, *key)] for key in names]
        ax.boxplot(own)
        labels = [f"{method} ({optimizer})" for optimizer, method in names]
        ax.set_xticks(range(1, 1 + len(names)), labels, rotation="vertical", fontsize=7)
        ax.set(title=name, ylabel="test error")
        for i, key in enumerate(names):
            chosen = [r for r in rows if (r["set"], r["optimizer"], r["method"]) == (name, *key)]
            look: dict[str, Any] = {"color": f"C{i % 10}", "marker": "os^"[i // 10]}
            dots.scatter(
                [r["parameters"] for r in chosen], [r["error"] for r in chosen], label=f"{key[1]} ({key[0]})", **look
            )
        plain = next(row["plain parameters"] for row in rows if row["set"] == name)
        dots.axvline(plain, color="0.6", linestyle=":")
        dots.set(title=name, xscale="log", xlabel="free parameters (dotted: as plain layers)", ylabel="test error")
    points[0][-1].legend(fontsize=6)
    boxes.savefig(folder / "errors.png")
    sizes.savefig(folder / "parameters.png")
    for row in rows:
        if row["method"].startswith("E") and row.get("search") is not None and row["seed"] == rows[0]["seed"]:
            records = row["search"].records_
            results = {name: np.array([record[name] for record in records]) for name in records[0]}
            chosen = row["search"].result().proposal.number
            for kind in ("generations", "constraints"):
                display = SearchDisplay(results, chosen).plot(kind=kind)
                display.figure_.savefig(
                    folder / f"{kind}_{row['set']}_{row['optimizer']}_{row['method']}.png".replace(" ", "_")
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the npz files")
    parser.add_argument("--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--optimizers", nargs="+", choices=list(OPTIMIZERS), default=list(OPTIMIZERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--train", type=int, default=1000, help="training images, to which come those of validation")
    parser.add_argument("--validation", type=int, default=250)
    parser.add_argument("--test", type=int, default=2000, help="test images, the first of the file")
    parser.add_argument("--generations", type=int, default=20)
    parser.add_argument("--epochs-per-generation", type=float, default=0.5)
    parser.add_argument("--divisor", type=int, default=4, help="of the paper's numbers of fields")
    parser.add_argument("--figures", type=Path, help="where to save them")
    parser.add_argument("--rows", type=Path, help="a file of rows, to which those of this run are added")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.rows is not None and options.rows.exists():
        rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    done = {(row["set"], row["seed"], row["optimizer"]) for row in rows}
    with kept_memory():
        for seed in options.seeds:
            for name in options.sources:
                protocol = Protocol(options, name, seed)
                for optimizer in (o for o in options.optimizers if (name, seed, o) not in done):
                    new = rows_of(protocol, optimizer)
                    for row in new:
                        row |= {"set": name, "seed": seed, "optimizer": optimizer}
                    lines = "".join(json.dumps({k: v for k, v in row.items() if k != "search"}) + "\n" for row in new)
                    print(lines, end="", flush=True)
                    if options.rows is not None:
                        with options.rows.open("a") as file:
                            file.write(lines)
                    rows += new
    summary(rows)
    if options.figures is not None:
        draw(rows, options.figures)


if __name__ == "__main__":
    main()
