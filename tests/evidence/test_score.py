"""Laws of the score test: gradients move with the images, the level is exact, and broken symmetries are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from skequinas import EquivariantNASClassifier, EquivariantNASRegressor, score_test, symmetry_evidence
from skequinas.datasets import make_planted_symmetry
from skequinas.evidence.gradients import score_gradients
from skequinas.evidence.score import _energies, _gram, _score_test
from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import Architecture, EquivariantNetwork, KernelSpace, transform_images
from skequinas.training import CLASSIFICATION, DataPart

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
DIGITS, LABELS = load_digits(return_X_y=True)
IMAGES = DIGITS.reshape(-1, 8, 8)


def network(seed: int = 0, **constraints: Any) -> EquivariantNetwork:
    shape = Architecture(D4, 8, 1, 3, (2, 2), (3, 3), (True, False), hidden=4, **constraints)
    return EquivariantNetwork(shape, torch.Generator().manual_seed(seed)).double().eval()


def noise(n: int, seed: int, symmetric: bool = True) -> DataPart:
    """Images and labels that have nothing to do with each other; all moves leave their distribution as it is."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, 8, 8, dtype=torch.float64, generator=generator)
    if not symmetric:
        images += torch.linspace(-1, 1, 8)
    return DataPart(images, torch.randint(3, (n,), generator=generator), nn.Identity(), CLASSIFICATION)


@pytest.mark.parametrize("element", D4.elements)
def test_the_gradient_of_a_moved_image_is_the_moved_gradient(element: int) -> None:
    net, data = network(), noise(6, 0)
    moved = DataPart(transform_images(data.images, D4, element), data.targets, nn.Identity(), CLASSIFICATION)
    for layer, still, after in zip(
        net.convolutions, score_gradients(net, data, 3), score_gradients(net, moved, 3), strict=True
    ):
        expected = layer.space(D4.whole).action(element).toarray() @ still
        np.testing.assert_allclose(after, expected, rtol=1e-8, atol=1e-12)
        assert element == 0 or np.abs(after - still).max() > 1e-6


@pytest.mark.parametrize("name", ["C1", "C2", "D1(45)", "C4", "D4"])
def test_energies_are_the_squared_norms_of_the_sums_of_moved_and_projected_gradients(name: str) -> None:
    net, data, h = network(), noise(8, 1), D4.subgroup(name)
    draws = np.random.default_rng(0).integers(8, size=(5, 4))
    for layer, gradients in zip(net.convolutions, score_gradients(net, data, 4), strict=True):
        space = layer.space(D4.whole)

        def act(element: int, gradient: Any, space: KernelSpace = space) -> Any:
            return space.action(element) @ gradient

        sums = [sum(act(e, g) for e, g in zip(draw, gradients, strict=True)) for draw in draws]
        projected = [sum(act(e, s) for e in h.elements) / h.order for s in sums]
        expected = [np.square(p).sum() for p in projected]
        np.testing.assert_allclose(
            _energies(_gram(gradients, layer, D4.whole), D4.whole, draws, h), expected, rtol=1e-10
        )


@pytest.mark.exhaustive
def test_the_level_is_exact_where_the_data_have_every_symmetry() -> None:
    p_values = [
        list(_score_test(network(seed), noise(24, seed), 6, 39, np.random.RandomState(seed)).p_values.values())
        for seed in range(150)
    ]
    rejected = np.mean(np.array(p_values) <= 0.1, axis=0)  # 0.1 is a multiple of 1 / 40: the level is met exactly
    assert rejected.shape == (9,)
    assert (rejected < 0.1 + 3 * np.sqrt(0.09 / 150)).all()
    assert (rejected > 0.1 - 3 * np.sqrt(0.09 / 150)).all()


def test_data_without_symmetry_are_told_from_those_with_it() -> None:
    p_values = _score_test(network(), noise(400, 0, symmetric=False), 20, 199, np.random.RandomState(0)).p_values
    assert max(p_values["D4"], p_values["C2"], p_values["D1(90)"]) <= 0.05
    assert p_values["D1(0)"] > 0.05  # the slope from left to right has the up-down mirror


@pytest.mark.parametrize(
    "planted",
    [pytest.param(h, marks=[] if h.name == "C4" else pytest.mark.exhaustive) for h in D4.subgroups[:-1]],
    ids=str,
)
def test_a_planted_symmetry_is_all_that_is_left(planted: Subgroup) -> None:
    chosen = np.isin(LABELS, (2, 4, 5, 7))  # digits without a symmetry of their own
    images, classes = IMAGES[chosen], LABELS[chosen]
    parts = []  # each image after several moves; those of the second part are of other images
    for part, copies in ((slice(None, 400), 4), (slice(400, None), 6)):
        several = np.repeat(images[part], copies, axis=0), np.repeat(classes[part], copies)
        parts += make_planted_symmetry(*several, subgroup=planted.name, random_state=1)
    model = EquivariantNASClassifier("D4", "none", width=16, max_epochs=3, device="cpu", random_state=0)
    test = score_test(model.fit(*parts[:2]), *parts[2:], n_batches=64, random_state=0)
    for h in D4.subgroups[:-1]:
        if not h <= planted:
            assert test.p_values[h.name] <= 0.05, (h, str(test))
    assert min([test.adjusted()[h.name] for h in planted.subgroups if h.order > 1], default=1.0) > 0.01, str(test)


def test_what_relaxing_a_layer_could_gain_is_found_in_the_direction_of_the_symmetry() -> None:
    turns = np.random.default_rng(0).integers(4, size=len(IMAGES))
    X = np.array([np.rot90(image, k) for image, k in zip(IMAGES, turns, strict=True)])
    model = EquivariantNASClassifier("D4", "none", width=16, max_epochs=6, device="cpu", random_state=0)
    test = score_test(model.fit(X[:900], LABELS[:900]), X[900:], LABELS[900:], random_state=0)
    gains = {name: max(layer[name] for layer in test.gains.values()) for name in test.gains["head"]}
    assert gains["C4"] == max(gains.values()) > 3
    assert max(gains["D2(0)"], gains["D2(45)"]) < gains["C4"] / 2
    assert min(layer["C4"] for layer in test.gain_p_values.values()) <= 0.01
    assert "C4" in str(test)


def test_regressions_can_be_tested() -> None:
    X, y = make_planted_symmetry(IMAGES, subgroup="D1(90)", regression=True, noise=0.1, random_state=0)
    model = EquivariantNASRegressor("D4", "none", width=16, max_epochs=6, device="cpu", random_state=0)
    test = score_test(model.fit(X[:900], y[:900]), X[900:], y[900:], random_state=0)
    assert test.p_values["C4"] <= 0.01
    assert test.p_values["D1(90)"] > 0.01


def test_bad_input_is_refused() -> None:
    X, y = DIGITS[:60], LABELS[:60]
    settings: dict[str, Any] = {"width": 8, "max_epochs": 1, "device": "cpu"}
    model = EquivariantNASClassifier("C4", "none", **settings).fit(X, y)
    with pytest.raises(ValueError, match=r"n_batches=1 must be at least 2"):
        score_test(model, X, y, n_batches=1)
    with pytest.raises(ValueError, match=r"X has 20 images that are independent of .*, fewer than n_batches=64"):
        score_test(model, X[:20], y[:20])
    with pytest.raises(ValueError, match=r"y holds labels that were not seen in fit: \[77\]"):
        score_test(model, X, np.full(60, 77), n_batches=8)
    with pytest.raises(ValueError, match="C1.*search='none'"):
        score_test(EquivariantNASClassifier("C1", "none", **settings).fit(X, y), X, y, n_batches=8)


@pytest.mark.parametrize("n_moves", [4, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_the_level_is_exact_with_few_moves_too(n_moves: int) -> None:
    generator, rng, p_values = torch.Generator().manual_seed(0), np.random.RandomState(0), []
    for seed in range(40):
        images = torch.randn(32, 1, 7, 7, generator=generator)
        moves = torch.randint(0, 8, (32,), generator=generator).tolist()
        moved = torch.cat([transform_images(image[None], D4, g) for image, g in zip(images, moves, strict=True)])
        data = DataPart(moved, torch.randint(0, 2, (32,), generator=generator), nn.Identity(), CLASSIFICATION)
        network = EquivariantNetwork(
            Architecture(D4, 7, 1, 2, (1, 1), (3, 3), (True, False)), torch.Generator().manual_seed(seed)
        ).eval()
        p_values.append(_score_test(network, data, 8, n_moves, rng).p_values["D4"])
    level = 1 / (n_moves + 1)
    assert np.mean(np.array(p_values) <= level + 1e-9) <= level + 3 * np.sqrt(level * (1 - level) / 40)


# --- asking any fitted model ---


@pytest.mark.parametrize(
    "regression", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["classification", "regression"]
)
def test_an_ordinary_network_tells_which_symmetries_its_data_have(regression: bool) -> None:
    digits = load_digits(n_class=4)
    X, y = (
        make_planted_symmetry(
            digits.images, digits.target / 10, subgroup="D1(90)", regression=regression, random_state=0
        )
        if regression
        else make_planted_symmetry(digits.images, subgroup="D1(90)", random_state=0)
    )
    estimator = EquivariantNASRegressor if regression else EquivariantNASClassifier
    model = estimator("C1", "none", max_epochs=8, width=24, random_state=0).fit(X[:450], y[:450])
    evidence = symmetry_evidence(model, X[450:], y[450:], random_state=0)
    assert [name for name, e in evidence.items() if e.p_value > 0.01] == ["D1(90)", "C1"]
    assert evidence["C1"].score == pytest.approx(
        1 - np.mean((model.predict(X[450:]) - y[450:]) ** 2) / model.target_scaler_.var_[0]
        if regression
        else model.score(X[450:], y[450:]),
        abs=1e-5,
    )
    again = symmetry_evidence(model, X[450:], y[450:], random_state=0)
    assert again == evidence
    assert list(symmetry_evidence(model, X[450:], y[450:], group="C4")) == ["C4", "C2", "C1"]


def test_a_model_is_no_witness_of_the_symmetries_that_it_has() -> None:
    X, y = load_digits(n_class=3, return_X_y=True)
    model = EquivariantNASClassifier("C4", "none", max_epochs=1, width=16, random_state=0).fit(X, y)
    evidence = symmetry_evidence(model, X, y)
    assert evidence["C4"].raw_p_value == evidence["C2"].raw_p_value == 1
    with pytest.raises(ValueError, match="X8"):
        symmetry_evidence(model, X, y, group="X8")
