"""What a symmetry buys: errors by the number of images, at equal epochs and at equal seconds.

    python examples/benchmarks/gain.py --data FOLDER --epochs 8 --figure gain.png
    python examples/benchmarks/gain.py --data FOLDER --seconds 30

FOLDER holds the npz files that docs/what_was_learned.md describes. Rotated digits (C4) at 14x14 pixels, all 62,000, and
galaxies (D4) at 16x16. The groups are told, no image chooses them. Test images are drawn from the same file and choose
nothing either.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from approximate import Source, load

from skequinas import EquivariantNASClassifier, SymmetryGainDisplay, symmetry_gain

SOURCES = {
    "rotated digits": (Source("mnist_rot_regen", 2), "C4", (250, 1000, 4000, 16_000, 48_000)),
    "galaxies": (Source("galaxyzoo2_spiral48", 3), "D4", (100, 300, 900)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the npz files")
    parser.add_argument("--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--epochs", type=float, nargs="+", default=[8])
    parser.add_argument("--seconds", type=float, help="equal seconds instead of equal epochs")
    parser.add_argument("--most", type=int, default=48_000, help="images that are fitted to at most")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--figure", type=Path, help="where to save the curves of the last run of each source")
    options = parser.parse_args()
    axes = plt.figure(figsize=(12.8, 4.8), layout="constrained").subplots(1, len(options.sources), squeeze=False)[0]
    for name, ax in zip(options.sources, axes, strict=True):
        source, group, sizes = SOURCES[name]
        parts = load(options.data, source)
        X, y = (np.concatenate(parts[i::2]) for i in range(2))
        sizes = [n for n in sizes if n <= options.most]
        for epochs in options.epochs if options.seconds is None else [None]:
            model = EquivariantNASClassifier(group, max_epochs=epochs, time_budget=options.seconds)
            gain = symmetry_gain(
                model, X, y, train_sizes=sizes, test_size=0.2, n_repeats=options.repeats, groups=np.arange(len(X)),
                random_state=0,
            )  # fmt: skip
            how = f"{epochs:g} epochs" if options.seconds is None else f"{options.seconds:g} seconds"
            print(f"\n{name}, {how}\n{gain}")
            for way in list(gain.errors)[1:]:
                print(f"{way} needs {gain.saved(way):.1f} times as many images")
            print(gain.to_frame().round(4).to_string(), flush=True)
        SymmetryGainDisplay(gain).plot(ax)
        ax.set_title(f"{name}, {how}")
    if options.figure is not None:
        axes[0].figure.savefig(options.figure, dpi=100)


if __name__ == "__main__":
    main()
