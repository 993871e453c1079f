"""Laws of planted symmetries: images and labels are invariant under exactly the subgroup that was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from skequinas.datasets import camera, camera_symmetry, make_camera_symmetry, make_planted_symmetry
from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import transform_images

RNG = np.random.default_rng(0)
IMAGES = np.repeat(RNG.integers(0, 256, (3, 5, 5), dtype=np.uint8), 200, axis=0)  # three images, many times each
CLASSES = np.repeat([7, 3, 3], 200)


def moved(images: NDArray[Any], group: PointGroup, element: int) -> NDArray[Any]:
    planes = torch.from_numpy(np.moveaxis(images, (1, 2), (-2, -1)).copy())
    return np.moveaxis(transform_images(planes, group, element).numpy(), (-2, -1), (1, 2))


def invariance(X: NDArray[Any], labels: NDArray[Any], group: PointGroup) -> Subgroup:
    """All elements that lead from every image to one with the same label, found by looking the images up."""
    label_of = {image.tobytes(): label for image, label in zip(np.ascontiguousarray(X), labels, strict=True)}
    assert len(label_of) == 3 * group.order  # every image was seen after every move
    keeps = [
        e
        for e in group.elements
        if all(
            label_of[image.tobytes()] == label
            for image, label in zip(np.ascontiguousarray(moved(X, group, e)), labels, strict=True)
        )
    ]
    found = group.generate(keeps)
    assert set(found.elements) == set(keeps)
    return found


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("with_classes", [False, True])
def test_the_labels_are_invariant_under_exactly_the_subgroup(
    subgroup: Subgroup, with_classes: bool, regression: bool
) -> None:
    if subgroup.index == 1 and not with_classes:
        pytest.skip("one coset alone")
    X, labels = make_planted_symmetry(
        IMAGES, CLASSES if with_classes else None, subgroup.group, subgroup, regression=regression, random_state=0
    )
    assert X.shape == IMAGES.shape
    assert X.dtype == IMAGES.dtype
    assert invariance(X, labels, subgroup.group) == subgroup
    n = subgroup.index * (2 if with_classes else 1)
    assert len(np.unique(labels)) == n
    assert regression or sorted(set(labels.tolist())) == list(range(n))


def test_channels_move_with_the_image() -> None:
    colours = np.repeat(RNG.integers(0, 256, (3, 5, 5, 3), dtype=np.uint8), 100, axis=0)
    D4 = PointGroup.from_name("D4")
    X, labels = make_planted_symmetry(colours, subgroup="D2(45)", random_state=0)
    assert invariance(X, labels, D4).name == "D2(45)"
    grey = make_planted_symmetry(colours[..., 1], subgroup="D2(45)", random_state=0)[0]
    np.testing.assert_array_equal(X[..., 1], grey)


def test_noise_replaces_its_share_of_the_labels() -> None:
    clean, noisy = (make_planted_symmetry(IMAGES, subgroup="C1", noise=p, random_state=0) for p in (0.0, 0.4))
    np.testing.assert_array_equal(clean[0], noisy[0])
    assert np.mean(clean[1] != noisy[1]) == pytest.approx(0.4 * 7 / 8, abs=0.06)
    regression = make_planted_symmetry(IMAGES, subgroup="C1", noise=0.3, regression=True, random_state=0)[1]
    exact = make_planted_symmetry(IMAGES, subgroup="C1", regression=True, random_state=0)[1]
    assert (regression - exact).std() == pytest.approx(0.3, rel=0.15)


def test_what_is_forgiven_has_the_label_of_a_random_coset() -> None:
    clean, forgiving = (make_planted_symmetry(IMAGES, subgroup="C4", forgiven=p, random_state=0) for p in (0.0, 0.6))
    np.testing.assert_array_equal(clean[0], forgiving[0])
    assert np.mean(clean[1] != forgiving[1]) == pytest.approx(0.3, abs=0.06)


def test_the_random_state_fixes_the_task() -> None:
    a, b, c = (make_planted_symmetry(IMAGES, random_state=seed) for seed in (1, 1, 2))
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (a[1] != c[1]).any()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"images": IMAGES[0]}, r"images has shape \(5, 5\)"),
        ({"images": IMAGES[:, :4]}, r"images has shape \(600, 4, 5\)"),
        ({"y": CLASSES[:5]}, r"y has shape \(5,\), but there are 600 images"),
        ({"group": "C8", "subgroup": "C3"}, "is not a subgroup of C8"),
        ({"subgroup": "D4"}, "one coset.*Give y"),
        ({"subgroup": "C3"}, "C3"),
        ({"subgroup": PointGroup.from_name("C4").whole}, "not a subgroup of group='D4'"),
        ({"noise": 1.5}, r"noise=1\.5 must lie between 0 and 1"),
        ({"forgiven": -0.1}, r"forgiven=-0\.1 must lie"),
    ],
)
def test_bad_input_is_refused(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_planted_symmetry(**{"images": IMAGES, **parameters})


# --- cameras ---

PIPELINES = ["demosaic", "jpeg", "jpeg 4:2:0", "demosaic + jpeg"]


@pytest.mark.parametrize("size", [12, 15, 16, 24, 32])
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_pipeline_commutes_with_exactly_the_moves_that_are_named(pipeline: str, size: int) -> None:
    group = PointGroup.from_name("D4")
    named = group.subgroup(camera_symmetry(pipeline, size))
    process = camera._pipeline(pipeline, 75)
    squares = np.random.default_rng(size).integers(256, size=(3, size, size, 3), dtype=np.uint8)

    def moved(square: np.ndarray, g: int) -> np.ndarray:
        planes = torch.from_numpy(square.transpose(2, 0, 1)[None].copy())
        return transform_images(planes, group, g)[0].numpy().transpose(1, 2, 0).copy()

    for g in group.elements:
        changed = np.mean([process(moved(s, g)) != moved(process(s), g) for s in squares])
        assert changed < 0.1 if g in named else changed > 0.3  # libjpeg's whole numbers round a few ties otherwise


@pytest.mark.parametrize("images", [False, True])
def test_camera_tasks_hold_images_as_they_were_taken_and_moved_ones(images: bool) -> None:
    photographs = np.random.default_rng(0).integers(256, size=(2, 40, 50, 3), dtype=np.uint8) if images else None
    X, y = make_camera_symmetry(photographs, "demosaic", n=200, size=10, random_state=0)
    assert X.shape == (200, 10, 10, 3)
    assert X.dtype == np.uint8
    assert 0.35 < y.mean() < 0.65
    again = make_camera_symmetry(photographs, "demosaic", n=200, size=10, random_state=0)
    assert all((one == other).all() for one, other in zip((X, y), again, strict=True))

    def as_taken(square: np.ndarray) -> bool:
        """Whether a mean of the neighbours is where the filter sees no green."""
        green = square[2:-2, 2:-2, 1].astype(float)
        around = sum(np.roll(square[..., 1].astype(float), s, a)[2:-2, 2:-2] for s in (1, -1) for a in (0, 1)) / 4
        rows, columns = np.indices(green.shape) % 2
        return bool(np.abs(green - around)[rows == columns].max() <= 1)

    assert all(as_taken(x) for x in X[y == 1])
    assert 0.2 < np.mean([as_taken(x) for x in X[y == 0]]) < 0.8  # green has more symmetry than all colours


def test_camera_tasks_refuse_what_they_cannot_take() -> None:
    for wrong, message in (
        ({"pipeline": "raw"}, "pipeline='raw' is unknown"),
        ({"quality": 0}, "quality=0"),
        ({"n": 0}, "n=0"),
        ({"images": np.zeros((2, 20, 20))}, "images has shape"),
        ({"images": np.zeros((2, 8, 8, 3), dtype=np.uint8)}, "size=16"),
    ):
        with pytest.raises(ValueError, match=message):
            make_camera_symmetry(**wrong)
