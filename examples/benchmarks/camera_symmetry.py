"""Which symmetries that a camera breaks are found, with how many images, and what random crops say of them.

Squares of noise or of photographs go through an image pipeline, and every second one is moved by a random element of D4
afterwards (`skequinas.datasets.make_camera_symmetry`): images and labels look the same under what the pipeline leaves
of D4. An ordinary network is fitted to the images but for a quarter, 500 at most, and asked about these.

    python examples/benchmarks/camera_symmetry.py --train 500 2000 10000

Photographs are the two that scikit-learn brings. The control (``--crops``) makes squares that are 15 pixels larger and
cuts them at random places: what stood at a place in the pipeline's grid is hidden then, what the pipeline does to all
pixels alike is not.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.datasets import load_sample_images

from skequinas import EquivariantNASClassifier, symmetry_evidence
from skequinas.datasets import camera_symmetry, make_camera_symmetry, random_crops
from skequinas.evidence import confidence_set, largest_accepted
from skequinas.groups import PointGroup

D4 = PointGroup.from_name("D4")
PIPELINES = ("demosaic", "jpeg", "jpeg 4:2:0", "demosaic + jpeg")
LEVEL = 0.01


def photographs() -> np.ndarray:
    """The part of the same size of each."""
    images = load_sample_images().images
    height, width = np.min([image.shape[:2] for image in images], axis=0)
    return np.stack([image[:height, :width] for image in images])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipelines", nargs="+", choices=PIPELINES, default=list(PIPELINES))
    parser.add_argument("--sources", nargs="+", choices=["noise", "photographs"], default=["noise", "photographs"])
    parser.add_argument("--train", type=int, nargs="+", default=[500, 2000, 10_000])
    parser.add_argument("--size", type=int, nargs="+", default=[16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--crops", action="store_true", help="the control: squares cut at random places")
    options = parser.parse_args()
    print("| images | pipeline | size | n | seed | true | named | confidence set | accuracy | p of D4 | seconds |")
    print("|" + " --- |" * 11)
    for source in options.sources:
        images = photographs() if source == "photographs" else None
        for pipeline in options.pipelines:
            for size in options.size:
                for n in options.train:
                    for seed in options.seeds:
                        row(source, images, pipeline, size, n, seed, options.crops)


def row(source: str, images: np.ndarray | None, pipeline: str, size: int, n: int, seed: int, crops: bool) -> None:
    """Fit, ask, print."""
    started = time.perf_counter()
    side = size + 15 if crops else size
    X, y = make_camera_symmetry(images, pipeline, n=n, size=side, random_state=seed)
    held_out = min(n // 4, 500)
    seen = random_crops(X[held_out:], size, random_state=seed)
    model = EquivariantNASClassifier("C1", "none", random_state=seed).fit(seen, y[held_out:])
    evidence = symmetry_evidence(
        model,
        X[:held_out],
        y[:held_out],
        groups=np.arange(held_out),
        crop="random" if crops else None,
        random_state=seed,
    )
    named = largest_accepted(D4, evidence, LEVEL).name
    possible = ", ".join(h.name for h in confidence_set(D4, evidence, LEVEL))
    true = f"{camera_symmetry(pipeline, side)} and crops" if crops else camera_symmetry(pipeline, side)
    print(
        f"| {source} | {pipeline} | {side} | {n:,} | {seed} | {true} | {named} | {possible} "
        f"| {evidence['C1'].score:.3f} | {evidence['D4'].p_value:.2g} | {time.perf_counter() - started:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
