"""Laws of images that are not square: they are moved as raw images can be, and no pixel is added."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from skequinas import Architecture, EquivariantNASClassifier, EquivariantNetwork, symmetry_evidence
from skequinas.groups import PointGroup, group_on_images
from skequinas.nn import SymmetricAvgPool2d, transform_images

pytestmark = pytest.mark.usefixtures("one_thread")

D4, D2 = (PointGroup.from_name(name) for name in ("D4", "D2"))
SHAPES = [(h, w) for h in range(3, 13) for w in range(3, 13)]
SMALL = {"width": 8, "max_epochs": 1, "random_state": 0, "device": "cpu"}


def symmetric_task(height: int, width: int, n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images whose class no half turn and no upright mirror changes: whether the middle is brighter than the rest."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, height, width)).astype(np.float32)
    y = np.arange(n) % 2
    middle = np.s_[:, height // 2 - 1 : (height + 1) // 2 + 1, width // 2 - 1 : (width + 1) // 2 + 1]
    X[middle] += 1.5 * y[:, None, None]
    return X, y


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_a_constrained_network_is_invariant_to_every_move_that_raw_images_have(shape: tuple[int, int]) -> None:
    group = group_on_images(D4, *shape)
    size: Any = shape[0] if shape[0] == shape[1] else shape
    architecture = Architecture(group, size, 2, 3, (2, 2, 2), (3, 5, 3), (True, True, False), hidden=8)
    network = EquivariantNetwork(architecture, torch.Generator().manual_seed(0)).eval()
    x = torch.randn(4, 2, *shape, generator=torch.Generator().manual_seed(1))
    plain = network.to_plain()
    for g in group.elements:
        moved = transform_images(x, group, g)
        assert moved.shape == x.shape
        torch.testing.assert_close(network(moved), network(x), atol=1e-5, rtol=0)
        torch.testing.assert_close(plain(moved), plain(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(plain(x), network(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(8, 7), (3, 12), (5, 9), (4, 10), (11, 6)], ids=str)
def test_predictions_of_a_constrained_model_do_not_change_when_raw_images_are_moved(shape: tuple[int, int]) -> None:
    X, y = symmetric_task(*shape, n=60)
    model = EquivariantNASClassifier(group="D2", search="none", **SMALL).fit(X, y)
    for moved in (X[:, ::-1], X[:, :, ::-1], X[:, ::-1, ::-1]):
        np.testing.assert_allclose(model.predict_proba(moved), model.predict_proba(X), atol=1e-5)
    assert max(model.learned_symmetry_.measured_change.values()) < 1e-4


def test_a_network_that_is_free_would_be_seen() -> None:
    X, y = symmetric_task(8, 7, n=60)
    model = EquivariantNASClassifier(group="C1", search="none", **SMALL).fit(X, y)
    assert np.abs(model.predict_proba(X[:, :, ::-1]) - model.predict_proba(X)).max() > 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_a_symmetry_of_images_whose_sides_differ_by_one_pixel_is_kept(seed: int) -> None:
    X, y = symmetric_task(8, 7, seed=seed)
    model = EquivariantNASClassifier(group="D2", **SMALL | {"max_epochs": 8, "random_state": seed}).fit(X, y)
    assert model.learned_symmetry_.group == "D2"


def test_what_raw_images_cannot_do_is_not_considered_and_that_is_said() -> None:
    X, y = symmetric_task(8, 7, n=60)
    with pytest.warns(UserWarning, match=r"Images of 8x7 pixels cannot be moved by all of D4: group='D2'.*squares"):
        model = EquivariantNASClassifier(**SMALL).fit(X, y)
    assert model.learned_symmetry_.search_group == "D2"
    assert "(images of 8x7 pixels cannot be moved by all of D4)" in str(model.learned_symmetry_).splitlines()[0]
    assert set(symmetry_evidence(model, X, y, group="D4")) == {h.name for h in D2.subgroups}


@pytest.mark.parametrize(
    ("group", "left"),
    [("D4", "D2"), ("C4", "C2"), ("C8", "C2"), ("D1(45)", "C1"), ("D1(90)", "D1(90)"), ("C3", "C1"), ("D6", "D2")],
)
def test_of_every_group_that_is_left_which_maps_rectangles_to_themselves(group: str, left: str) -> None:
    assert group_on_images(PointGroup.from_name(group), 5, 8).name == left
    assert group_on_images(PointGroup.from_name(group), 8, 8).name == group


def test_a_long_image_stays_long() -> None:
    X, y = symmetric_task(3, 120, n=60)
    model = EquivariantNASClassifier(group="D1(90)", search="none", **SMALL).fit(X, y)
    assert model.architecture_.image_size == (3, 120)


@pytest.mark.parametrize("shape", [(4, 5), (5, 4), (1, 6), (7, 7), (8, 8)], ids=str)
def test_pooling_takes_the_mean_of_what_is_there(shape: tuple[int, int]) -> None:
    pool = SymmetricAvgPool2d()
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    y = pool(x)
    assert y.shape[2:] == tuple((s + 1) // 2 for s in shape)
    torch.testing.assert_close(pool(torch.ones_like(x)), torch.ones_like(y))
    for dims in ((2,), (3,), (2, 3)):
        torch.testing.assert_close(pool(x.flip(dims)), y.flip(dims))


def test_an_architecture_for_rectangles_has_no_quarter_turns() -> None:
    with pytest.raises(ValueError, match=r"image_size=\(8, 7\) is no square.*'D2'"):
        Architecture(D4, (8, 7), 1, 2, (2,), (3,), (False,))
    architecture = Architecture(D2, (8, 7), 1, 2, (2,), (3,), (False,))
    assert Architecture.from_dict(architecture.to_dict()) == architecture


@pytest.mark.parametrize("n_features", [65, 10, 2914])
def test_rows_that_are_no_image_are_given_no_symmetry(n_features: int) -> None:
    X, y = np.random.default_rng(0).normal(size=(40, n_features)), np.arange(40) % 2
    with pytest.warns(UserWarning, match=rf"Rows of {n_features} values are no square image.*image_shape="):
        model = EquivariantNASClassifier(**SMALL).fit(X, y)
    assert model.learned_symmetry_.search_group == "C1"
    assert f"rows of {n_features} values" in str(model.learned_symmetry_).splitlines()[0]


def test_rows_whose_shape_is_given_are_images() -> None:
    X, y = np.random.default_rng(0).normal(size=(40, 30)), np.arange(40) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = EquivariantNASClassifier(group="D2", image_shape=(5, 6), **SMALL).fit(X, y)
    assert model.architecture_.image_size == (5, 6)
