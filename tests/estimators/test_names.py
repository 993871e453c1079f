"""Laws of what must not matter: the names of classes, the unit and the sign of targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import skequinas
from skequinas import DifferentiableSearch, EquivariantNASClassifier, EquivariantNASRegressor, EvolutionarySearch

pytestmark = pytest.mark.usefixtures("one_thread")

X, y = load_digits(n_class=4, return_X_y=True)
X, y = X[:240], y[:240]
SMALL: dict[str, Any] = {"width": 8, "max_epochs": 2, "random_state": 0, "device": "cpu"}
SEARCHES: dict[str, Any] = {
    "evolutionary": "evolutionary",
    "unguided": EvolutionarySearch(1, guided=False, warmup_epochs=0.5, epochs_per_generation=0.3),
    "differentiable": "differentiable",
    "mixture": DifferentiableSearch(discretize=False),
    "random": "random",
    "none": "none",
}
FAST = {"max_epochs": 8, "batch_size": 16, "learning_rate": 0.01}
NAMES = {"words": np.array(["pear", "apple", "quince", "fig"]), "numbers": np.array([7, -3, 100, 0])}


def evidence(model: Any) -> Any:
    learned = model.learned_symmetry_
    return learned.group, learned.constraints, learned.evidence


@pytest.mark.parametrize(
    "names", [name if name == "words" else pytest.param(name, marks=pytest.mark.exhaustive) for name in NAMES]
)
@pytest.mark.parametrize("search", SEARCHES)
def test_renaming_classes_renames_predictions(search: str, names: str) -> None:
    renamed = NAMES[names][y]
    weights = np.random.default_rng(0).uniform(0.5, 1.5, len(y))
    a = EquivariantNASClassifier(search=SEARCHES[search], class_weight="balanced", **SMALL).fit(X, y, weights)
    b = EquivariantNASClassifier(search=SEARCHES[search], class_weight="balanced", **SMALL).fit(X, renamed, weights)
    order = np.searchsorted(b.classes_, NAMES[names])
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X)[:, order])
    np.testing.assert_array_equal(NAMES[names][a.predict(X)], b.predict(X))
    assert evidence(a) == evidence(b)


def test_class_weights_follow_the_names() -> None:
    weights = {0: 1.0, 1: 2.0, 2: 0.5, 3: 4.0}
    words = NAMES["words"]
    a = EquivariantNASClassifier(search="none", class_weight=weights, **SMALL).fit(X, y)
    b = EquivariantNASClassifier(search="none", class_weight={words[k].item(): w for k, w in weights.items()}, **SMALL)
    b.fit(X, words[y])
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X)[:, np.searchsorted(b.classes_, words)])


def test_networks_and_copies_have_the_outputs_in_the_order_of_the_classes(tmp_path: Any) -> None:
    words = NAMES["words"][y]
    model = EquivariantNASClassifier(search="none", **SMALL).fit(X, words)
    inputs = model.preprocessing_(skequinas.io.as_images(X, (8, 8)))
    expected = model.predict_proba(X)
    for network in (model.network_, model.module_):
        np.testing.assert_allclose(network(inputs).softmax(1).detach().numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(model.to_torch()(skequinas.io.as_images(X, (8, 8))).numpy(), expected, atol=1e-6)
    skequinas.save(model, tmp_path / "model")
    np.testing.assert_array_equal(skequinas.load(tmp_path / "model").predict_proba(X), expected)


@pytest.mark.parametrize("search", ["none", "evolutionary"])
def test_a_warm_start_goes_on_whatever_class_comes_first(search: str) -> None:
    model = EquivariantNASClassifier(search=search, warm_start=True, **SMALL | FAST).fit(X, NAMES["words"][y])
    before = model.score(X, NAMES["words"][y])
    model.set_params(max_epochs=0.1, learning_rate=1e-6).fit(X[::-1], NAMES["words"][y][::-1])
    assert before > 0.8
    assert model.score(X, NAMES["words"][y]) > before - 0.05


@pytest.mark.parametrize("factor", [-0.25, *(pytest.param(f, marks=pytest.mark.exhaustive) for f in (3.0, -1.0))])
@pytest.mark.parametrize("search", ["none", "evolutionary", "differentiable"])
def test_scaled_targets_scale_predictions(search: str, factor: float) -> None:
    targets = np.stack([X.sum(1), X[:, :32].sum(1) - X[:, 32:].sum(1)], 1)
    a = EquivariantNASRegressor(search=search, **SMALL).fit(X, targets)
    b = EquivariantNASRegressor(search=search, **SMALL).fit(X, factor * targets)
    np.testing.assert_allclose(b.predict(X), factor * a.predict(X), rtol=1e-6, atol=1e-6 * targets.std())
    assert a.learned_symmetry_.group == b.learned_symmetry_.group


def test_outputs_of_a_regressor_have_the_sign_of_the_targets() -> None:
    target = -X.sum(1)
    model = EquivariantNASRegressor(search="none", **SMALL).fit(X, target)
    scaled = model.module_(model.preprocessing_(skequinas.io.as_images(X, (8, 8)))).numpy()
    np.testing.assert_allclose(model.target_scaler_.inverse_transform(scaled).ravel(), model.predict(X), rtol=1e-5)
