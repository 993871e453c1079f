"""Seconds and memory of a fit against the number of images and their side, with images in a file.

    python examples/benchmarks/real_size.py --n 1000 10000 100000 --sides 28 64 128 224 --budget 60

The images (discs, rings and crosses on noise, three channels, uint8) are written to a file that is mapped into memory.
Each fit has a process of its own and a time budget; written are the seconds until the images are ready, those of the
whole fit, and the most memory that the process had beyond what importing and mapping takes: what is its own
(anonymous), without the pages of the file, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def images(n: int, side: int, path: Path) -> NDArray[np.int64]:
    """Write images to a file; their classes."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] / side
    X = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, side, side, 3))
    y = rng.integers(3, size=n)
    for start in range(0, n, 256):
        labels = y[start : start + 256]
        m = len(labels)
        place = rng.uniform(0.3, 0.7, (2, m, 1, 1))
        far = np.hypot(rows - place[0], columns - place[1])
        cross = np.minimum(np.abs(rows - place[0]), np.abs(columns - place[1])) + (far > 0.2)
        shapes = np.stack([far < 0.12, np.abs(far - 0.15) < 0.04, cross < 0.03])[labels, np.arange(m)]
        noise = rng.integers(0, 128, (m, side, side, 3), dtype=np.uint8)
        X[start : start + m] = noise + (shapes[..., None] * 100).astype(np.uint8)
    X.flush()
    return y


def own_memory() -> float:
    """Megabytes of this process that no file holds."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


def fit(folder: Path, search: str, budget: float) -> None:
    """One fit, and a line about it."""
    from skequinas import EquivariantNASClassifier
    from skequinas.estimators import base

    X, y = np.load(folder / "X.npy", mmap_mode="r"), np.load(folder / "y.npy")
    before, most, ready = own_memory(), 0.0, []

    def watch() -> None:
        nonlocal most
        while True:
            most = max(most, own_memory())
            time.sleep(0.02)

    prepare = base.prepare

    def timed(*args: object, **kwargs: object) -> object:
        found = prepare(*args, **kwargs)  # type: ignore[arg-type]
        ready.append(time.perf_counter())
        return found

    base.prepare = timed  # type: ignore[assignment]
    threading.Thread(target=watch, daemon=True).start()
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = EquivariantNASClassifier(search=search, time_budget=budget, random_state=0).fit(X, y)
    seconds = time.perf_counter() - started
    tried = slice(0, 256)
    print(
        f"| {len(X):,} | {X.shape[1]} | {X.nbytes / 1e6:,.0f} | {ready[0] - started:.0f} | {seconds:.0f} | "
        f"{most - before:.0f} | {model.architecture_.symmetry.name} | {model.score(X[tried], y[tried]):.3f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--sides", type=int, nargs="+", default=[28, 64, 128, 224])
    parser.add_argument("--search", default="evolutionary")
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--largest", type=float, default=6e9, help="bytes of a file; larger ones are left out")
    parser.add_argument("--folder", help="where the files are written")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        fit(Path(options.child), options.search, options.budget)
        return
    print("| images | side | file, MB | ready, s | fit, s | memory, MB | symmetry | accuracy, 256 training images |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for side in options.sides:
        for n in options.n:
            if 3 * n * side**2 > options.largest:
                continue
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                np.save(Path(folder) / "y.npy", images(n, side, Path(folder) / "X.npy"))
                own = ["--child", folder, "--search", options.search, "--budget", str(options.budget)]
                subprocess.run([sys.executable, __file__, *own], check=True)


if __name__ == "__main__":
    main()
