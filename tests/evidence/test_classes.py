"""Laws of the test for every class, and of crops."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from skequinas import (
    EquivariantNASClassifier,
    EquivariantNASRegressor,
    SequentialSymmetryTest,
    symmetry_by_class,
    symmetry_evidence,
)
from skequinas.datasets import random_crops
from skequinas.groups import PointGroup
from skequinas.training import DivergenceError

pytestmark = pytest.mark.usefixtures("one_thread")


def half_broken(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bars that stand on the left or the right for two classes, and spots anywhere in the middle for a third."""
    rng = np.random.default_rng(seed)
    y = rng.choice(["left", "right", "spot"], size=n)
    X = rng.normal(0, 0.3, (n, 8, 8))
    X[y == "left", 2:6, 1] += 2
    X[y == "right", 2:6, 6] += 2
    X[y == "spot", 3:5, 3:5] += 2
    return X, y


@pytest.fixture(scope="module")
def witness() -> EquivariantNASClassifier:
    return EquivariantNASClassifier("C1", "none", max_epochs=10, random_state=0).fit(*half_broken(300, 0))


def test_the_classes_that_break_a_symmetry_are_named(witness) -> None:
    X, y = half_broken(300, 1)
    found = symmetry_by_class(witness, X, y, group="D2", random_state=0)
    assert found.broken["left"] == found.broken["right"] == ["D2", "C2", "D1(90)"]
    assert found.broken["spot"] == []
    assert found.n_images == {c: int((y == c).sum()) for c in ("left", "right", "spot")}
    assert found.costs["left"]["D1(90)"][0] + found.costs["right"]["D1(90)"][0] > 0.2
    assert "left breaks D2, C2, D1(90)" in str(found)
    assert "nothing speaks against any symmetry of spot" in str(found)
    frame = found.to_frame()
    assert frame.loc[("right", "C2"), "verdict"] == "rejected"
    assert list(frame.columns) == ["n_images", "p_value", "cost", "cost_low", "cost_high", "verdict"]


def test_other_parts_than_classes_can_be_asked_about(witness) -> None:
    X, y = half_broken(200, 2)
    where = np.arange(200) % 2
    found = symmetry_by_class(witness, X, y, by=where, group="D2", random_state=0)
    assert list(found.n_images) == [0, 1]
    assert all("C2" in names for names in found.broken.values())


def test_true_symmetries_of_many_classes_are_seldom_called_broken() -> None:
    """Labels that images do not tell, so that every symmetry holds for all of them."""
    rng, alarms = np.random.default_rng(0), 0
    X, y = rng.normal(size=(200, 6, 6)), rng.integers(5, size=200)
    model = EquivariantNASClassifier("C1", "none", max_epochs=3, random_state=0).fit(X, y)
    for seed in range(20):
        more, labels = rng.normal(size=(150, 6, 6)), rng.integers(5, size=150)
        found = symmetry_by_class(model, more, labels, group="C4", level=0.1, random_state=seed)
        alarms += any(found.broken.values())
    assert alarms <= 6  # the chance of more is below 1 %


def test_outputs_that_are_not_finite_break_nothing(witness) -> None:
    X, y = half_broken(50, 4)
    broken = copy.deepcopy(witness)
    with torch.no_grad():
        next(iter(broken.network_.parameters())).fill_(float("nan"))
    test = SequentialSymmetryTest("C2")
    for ask in (lambda: symmetry_by_class(broken, X, y, group="C2"), lambda: test.update(broken, X, y)):
        with pytest.raises(DivergenceError, match="no evidence"):
            ask()
    assert (test.e_values_, test.n_images_) == ({}, 0)


def test_what_cannot_be_asked_is_refused(witness) -> None:
    X, y = half_broken(50, 3)
    with pytest.raises(ValueError, match="level=2"):
        symmetry_by_class(witness, X, y, level=2)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        symmetry_by_class(witness, X, y, by=[0, 1])
    with pytest.raises(ValueError, match="level=1e-06 is too small"):
        symmetry_by_class(witness, X, y, level=1e-6)
    with pytest.raises(ValueError, match="no move of these images"):
        symmetry_by_class(witness, X, y, group="C1")
    numbers = EquivariantNASRegressor("C1", "none", max_epochs=1, random_state=0).fit(X, X.mean((1, 2)))
    with pytest.raises(ValueError, match="Pass by="):
        symmetry_by_class(numbers, X + 1, np.arange(50))
    halves = symmetry_by_class(numbers, X + 1, X.mean((1, 2)), by=np.arange(50) < 20, group="C2", random_state=0)
    assert halves.n_images == {False: 30, True: 20}


# --- crops ---


def test_crops_are_parts_of_their_images() -> None:
    X = np.arange(4 * 7 * 9 * 3).reshape(4, 7, 9, 3)
    cut = random_crops(X, 5, random_state=0)
    assert cut.shape == (4, 5, 5, 3)
    for image, part in zip(X, cut, strict=True):
        places = [(i, j) for i in range(3) for j in range(5) if (image[i : i + 5, j : j + 5] == part).all()]
        assert len(places) == 1
    with pytest.raises(ValueError, match="size=8"):
        random_crops(X, 8)
    with pytest.raises(ValueError, match="it must be"):
        random_crops(X[0, 0], 3)


def test_a_break_by_place_is_gone_in_crops() -> None:
    """Every second column is dark in one class: seen by its place in whole images, and in crops nowhere."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(0, 0.5, (500, 9, 9)), rng.integers(2, size=500)
    X[y == 1, :, ::2] += 1.0
    X[y == 0, :, 1::2] += 1.0
    whole, crops = X[:, :8, :8], random_crops(X, 8, random_state=1)
    seen = EquivariantNASClassifier("C1", "none", max_epochs=6, random_state=0).fit(whole[:250], y[:250])
    assert symmetry_evidence(seen, whole[250:], y[250:], group="D2", random_state=0)["D1(90)"].p_value < 0.01
    cut = EquivariantNASClassifier("C1", "none", max_epochs=6, random_state=0).fit(crops[:250], y[:250])
    evidence = symmetry_evidence(cut, X[250:], y[250:], group="D2", crop="random", random_state=0)
    assert evidence["D1(90)"].p_value > 0.01
    again = symmetry_evidence(cut, X[250:], y[250:], group="D2", crop="random", random_state=0)
    assert again == evidence


def test_places_of_crops_do_not_depend_on_the_order_of_axes() -> None:
    X, y = np.random.default_rng(0).random((20, 9, 10, 3)), np.arange(20) % 2
    last = EquivariantNASClassifier("C1", "none", max_epochs=1, random_state=0).fit(X[:, :8, :8], y)
    first = EquivariantNASClassifier("C1", "none", max_epochs=1, random_state=0).fit(
        X[:, :8, :8].transpose(0, 3, 1, 2), y
    )
    cut, _ = last._cropped(X, None, PointGroup.from_name("D2"), np.random.RandomState(0))
    other, _ = first._cropped(X.transpose(0, 3, 1, 2), None, PointGroup.from_name("D2"), np.random.RandomState(0))
    assert cut.shape == (20, 8, 8, 3)
    assert (cut.transpose(0, 3, 1, 2) == other).all()


def test_crops_of_copies_stay_together(witness) -> None:
    X, _ = load_digits(return_X_y=True)
    larger = np.pad(X[:30].reshape(-1, 8, 8), ((0, 0), (2, 2), (2, 2)))
    twice, y = np.concatenate([larger, larger]), np.resize(["left", "right"], 60)
    cut, units = witness._cropped(twice, None, PointGroup.from_name("D4"), np.random.RandomState(0))
    assert cut.shape == (60, 8, 8)
    assert (units[:30] == units[30:]).all()
    assert len(set(units)) == 30
    with pytest.raises(ValueError, match="crop='middle'"):
        symmetry_evidence(witness, larger, y[:30], crop="middle")
    with pytest.raises(ValueError, match="at least as large"):
        symmetry_evidence(witness, larger[:, :6], y[:30], crop="random")
