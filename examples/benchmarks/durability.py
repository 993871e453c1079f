"""Killed, damaged, asked by many: does a fit come to the same model whatever happens to it?

    python examples/benchmarks/durability.py --parts kills damage threads fits

"kills": a fit with a checkpoint, in a process of its own, is killed (SIGKILL) at random moments, again and again, 20
times or until it ends, and its model is compared with that of a fit that nobody disturbed, bit for bit: both searches,
a final training alone, and candidates in two processes. "damage": a checkpoint of a fit that was killed, of which one
file has one bit flipped or its end cut off, 50 times: the file must be named in a warning, and the model be the same.
"threads": 8 threads ask one model at once. "fits": 50 fits in a row; memory and open files after the 10th and the last.
Images are scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from skequinas import EquivariantNASClassifier, EvolutionarySearch
from skequinas.io import checkpoints

X, y = load_digits(n_class=5, return_X_y=True)

FITS: dict[str, dict[str, Any]] = {
    "evolutionary": {"search": "evolutionary", "max_epochs": 8},
    "differentiable": {"search": "differentiable", "max_epochs": 8},
    "final training": {"search": "none", "max_epochs": 40},
    "evolutionary, two processes": {
        "search": EvolutionarySearch(guided=False, n_generations=3),
        "max_epochs": 8,
        "n_jobs": 2,
    },
}


def fitted(name: str, folder: Path | None = None) -> EquivariantNASClassifier:
    """A fit of the list, with a checkpoint that is written at every step if there is a folder."""
    torch.set_num_threads(1)
    checkpoints._INTERVAL, checkpoints._SHARE = 0.0, 1e9
    return EquivariantNASClassifier("D4", checkpoint=folder, random_state=0, **FITS[name]).fit(X, y)


def is_same(one: EquivariantNASClassifier, other: EquivariantNASClassifier) -> bool:
    """Whether weights, verdicts and probabilities are equal to the bit."""
    weights, others = one.network_.state_dict(), other.network_.state_dict()
    same = weights.keys() == others.keys() and all(torch.equal(weights[k], others[k]) for k in weights)
    same = same and str(one.learned_symmetry_) == str(other.learned_symmetry_)
    return same and bool((one.predict_proba(X) == other.predict_proba(X)).all())


def kills(n_kills: int, names: list[str]) -> None:
    """Kill and resume."""
    for name in names:
        started = time.perf_counter()
        expected = fitted(name)
        seconds, rng, done = time.perf_counter() - started, random.Random(0), 0
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--child", name, folder]
            while done < n_kills:
                process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
                assert process.stdout is not None
                process.stdout.readline()  # it begins to fit
                try:
                    process.wait(rng.uniform(0, seconds / 4))
                    break
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    done += 1
            same = is_same(fitted(name, Path(folder)), expected)
        print(f"{name}: killed {done} times, {'the same' if same else 'ANOTHER'} model to the bit", flush=True)


class _Dead(BaseException):
    """Stands for the end of the process."""


def damage(n_files: int) -> None:
    """Damage a file and resume."""
    expected, rng, steps = fitted("evolutionary"), random.Random(0), 0
    keep = checkpoints.Keeper.step

    def step(keeper: checkpoints.Keeper) -> None:
        nonlocal steps
        keep(keeper)
        steps += 1
        if steps == 90:
            raise _Dead

    n_same = n_named = 0
    with tempfile.TemporaryDirectory() as parent:
        sound = Path(parent) / "sound"
        checkpoints.Keeper.step = step  # type: ignore[method-assign]
        try:
            fitted("evolutionary", sound)
        except _Dead:
            pass
        finally:
            checkpoints.Keeper.step = keep  # type: ignore[method-assign]
        for number in range(n_files):
            folder = Path(parent) / str(number)
            shutil.copytree(sound, folder)
            path = rng.choice(sorted(folder.iterdir()))
            content = path.read_bytes()
            place = rng.randrange(len(content))
            flipped = content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
            path.write_bytes(flipped if number % 2 else content[:place])
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                found = fitted("evolutionary", folder)
            n_same += is_same(found, expected)
            n_named += any(path.name in str(w.message) for w in warned)
    print(f"damaged files: {n_same} of {n_files} the same model to the bit, {n_named} named in a warning", flush=True)


def threads() -> None:
    """Ask from many threads at once."""
    model = fitted("evolutionary")
    expected = model.predict_proba(X)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: model.predict_proba(X), range(64)))
    print(f"8 threads: {sum(np.array_equal(f, expected) for f in found)} of 64 answers the same to the bit", flush=True)


def _resident() -> float:
    """Megabytes of the process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def fits(n_fits: int) -> None:
    """Fit again and again."""
    seen = []
    for number in range(n_fits):
        with tempfile.TemporaryDirectory() as folder:
            fitted("evolutionary", Path(folder))
        gc.collect()
        if number + 1 in (10, n_fits):
            seen.append((number + 1, _resident(), len(os.listdir("/proc/self/fd"))))
    print("; ".join(f"after {n} fits {size:.0f} MB and {files} open files" for n, size, files in seen), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["kills", "damage", "threads", "fits"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--of", nargs="+", choices=list(FITS), default=list(FITS), help="what is killed")
    parser.add_argument("--files", type=int, default=50)
    parser.add_argument("--fits", type=int, default=50)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print("begins", flush=True)
        fitted(options.child[0], Path(options.child[1]))
        return
    parts = {
        "kills": lambda: kills(options.kills, options.of),
        "damage": lambda: damage(options.files),
        "threads": threads,
        "fits": lambda: fits(options.fits),
    }
    for part in options.parts:
        parts[part]()


if __name__ == "__main__":
    main()
