"""Laws of features: what moves with the images moves by the group's representations, and the rest stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skequinas import (
    EquivariantNASClassifier,
    EquivariantNASRegressor,
    feature_invariance,
    move_retrieval,
)
from skequinas.groups import PointGroup, Subgroup, irrep_coordinates, irrep_names, move_coordinates
from skequinas.nn import relax, transform_images
from tests.conftest import SUBGROUPS

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS, LABELS = load_digits(return_X_y=True)
IMAGES = DIGITS.reshape(-1, 8, 8)
"""As arrays: the top is the first row."""


@pytest.mark.parametrize("subgroup", [*SUBGROUPS, PointGroup.from_name("C6").whole, PointGroup.from_name("D8").whole])
def test_coordinates_move_as_functions_do_and_keep_lengths(subgroup: Subgroup) -> None:
    values = np.random.default_rng(0).standard_normal((3, 5, subgroup.order))
    found, group = irrep_coordinates(values, subgroup), subgroup.group
    np.testing.assert_allclose(np.square(found).sum(1), np.square(values).sum((1, 2)), rtol=1e-12)
    assert len(set(irrep_names(5, subgroup))) == found.shape[1]
    place = {h: i for i, h in enumerate(subgroup.elements)}
    for h in subgroup.elements:
        moved = np.empty_like(values)
        moved[..., [place[group.multiply(h, k)] for k in subgroup.elements]] = values
        np.testing.assert_allclose(irrep_coordinates(moved, subgroup), move_coordinates(found, subgroup, h), atol=1e-12)
        np.testing.assert_allclose(irrep_coordinates(moved, subgroup)[:, :5], found[:, :5], atol=1e-12)


def moved(images: NDArray[Any], group: PointGroup, g: int) -> NDArray[Any]:
    from torch import from_numpy

    return transform_images(from_numpy(np.ascontiguousarray(images)), group, g).numpy()


MODELS = {
    "D4": EquivariantNASClassifier("D4", "none"),
    "C4": EquivariantNASClassifier("C4", "none"),
    "C2 in D4": EquivariantNASClassifier("D4", "none", width=8),
    "averaged": EquivariantNASClassifier("D4", "none", averaging="always"),
    "numbers": EquivariantNASRegressor("D1(90)", "none"),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    estimator = MODELS[request.param].set_params(max_epochs=1, random_state=0)
    size = 16 if request.param in ("D4", "averaged") else 8
    X = np.kron(IMAGES[:120], np.ones((size // 8, size // 8)))
    model = estimator.fit(X, LABELS[:120])
    if request.param == "C2 in D4":  # as a search may find it
        group = model.architecture_.group
        for layer in range(model.architecture_.n_layers):
            model.network_ = relax(model.network_, layer, group.subgroup("C2")).eval()
        with torch.no_grad():
            for conv in model.network_.convolutions:
                conv.weights.weight.add_(0.3 * conv.weights.weight.std() * torch.randn_like(conv.weights.weight))
        model.architecture_ = model.network_.architecture
    return model, X


def test_features_move_with_the_images(model: Any) -> None:
    model, X = model
    found, subgroup = model.transform(X), model._moves()
    n_invariant = found.shape[1] // subgroup.order
    assert subgroup.order > 1
    assert np.ptp(found, axis=0).max() > 0.1
    for h in subgroup.elements:
        other = model.transform(moved(X, subgroup.group, h))
        np.testing.assert_allclose(other, model.move_features(found, h), atol=1e-5 * np.abs(found).max())
        np.testing.assert_allclose(other[:, :n_invariant], found[:, :n_invariant], atol=1e-5 * np.abs(found).max())


def test_both_parts_have_their_names(model: Any) -> None:
    model, X = model
    names, found = model.get_feature_names_out(), model.transform(X[:3])
    assert found.shape == (3, len(names))
    is_invariant = np.array([name.startswith("invariant") for name in names])
    np.testing.assert_array_equal(model.features(X[:3], "invariant"), found[:, is_invariant])
    np.testing.assert_array_equal(model.features(X[:3], "equivariant"), found[:, ~is_invariant])
    np.testing.assert_allclose(model.transform(X[:1]), found[:1], rtol=1e-12)
    frame = model.set_output(transform="pandas").transform(X[:3])
    assert list(frame.columns) == list(names)
    model.set_output(transform="default")


def test_only_moves_of_the_learned_group_keep_invariant_features(model: Any) -> None:
    model, X = model
    alike, subgroup = feature_invariance(model, X), model._moves()
    for g in subgroup.group.elements:
        name = subgroup.group.element_name(g)
        assert alike[name] > 1 - 1e-6 if g in subgroup else alike[name] < 0.99


def test_a_linear_model_of_features_is_about_as_good() -> None:
    network = EquivariantNASClassifier("C4", "none", max_epochs=8, random_state=0)
    pipeline = make_pipeline(network, LogisticRegression(max_iter=2000)).fit(DIGITS[:600], LABELS[:600])
    assert pipeline.score(DIGITS[600:], LABELS[600:]) > pipeline[0].score(DIGITS[600:], LABELS[600:]) - 0.03


def test_turns_are_told_by_equivariant_features_and_classes_by_invariant_ones() -> None:
    chosen = np.isin(LABELS, (2, 4, 5, 7))  # digits without a symmetry of their own
    X, y = IMAGES[chosen], LABELS[chosen]
    turns = np.random.default_rng(0).integers(4, size=len(X))
    X = np.stack([np.rot90(x, k) for x, k in zip(X, turns, strict=True)])
    model = EquivariantNASClassifier("C4", "none", max_epochs=10, random_state=0).fit(X[:400], y[:400])
    score = {}
    for part in ("invariant", "equivariant"):
        features = model.features(X, part)
        scaled = (features - features.mean(0)) / (features.std(0) + 1e-9)
        for name, target in (("class", y), ("turn", turns)):
            probe = LogisticRegression(max_iter=2000).fit(scaled[:400], target[:400])
            score[part, name] = probe.score(scaled[400:], target[400:])
    assert score["invariant", "class"] > 0.85
    assert score["invariant", "turn"] < 0.4
    assert score["equivariant", "turn"] > score["invariant", "turn"] + 0.2


def test_features_tell_the_pose_of_upright_images_and_of_no_others() -> None:
    chance = np.mean(1 / np.arange(1, 5))
    rng = np.random.default_rng(0)
    model = EquivariantNASClassifier("C4", "none", max_epochs=4, random_state=0).fit(IMAGES[:600], LABELS[:600])
    upright = IMAGES[600:900]
    turned = np.stack([np.rot90(x, k) for x, k in zip(upright, rng.integers(4, size=300), strict=True)])
    assert move_retrieval(model, upright) > chance + 0.2
    assert move_retrieval(model, turned) < chance + 0.1
    assert move_retrieval(model, rng.normal(size=(300, 8, 8))) < chance + 0.1


def test_errors_say_what_to_do() -> None:
    model = EquivariantNASClassifier("C1", "none", max_epochs=1, random_state=0).fit(IMAGES[:50], LABELS[:50])
    with pytest.raises(ValueError, match="part='both' must be 'all'"):
        model.features(IMAGES[:3], "both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="The learned group is C1"):
        move_retrieval(model, IMAGES[:3])
    with pytest.raises(ValueError, match="element=1 is none of the learned group C1"):
        model.move_features(model.transform(IMAGES[:3]), 1)
    with pytest.raises(ValueError, match=r"features has shape \(3, 2\), but must hold all"):
        model.move_features(model.transform(IMAGES[:3])[:, :2], 0)
    with pytest.raises(ValueError, match="all have the same features"):
        feature_invariance(model, IMAGES[[0, 0, 0]])
    with pytest.raises(ValueError, match="is no multiple of the 4 elements of C4"):
        move_coordinates(np.ones((2, 6)), PointGroup.from_name("C4").whole, 1)
