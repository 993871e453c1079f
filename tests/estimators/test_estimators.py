"""Laws of the two estimators: what goes in, what comes out, and what `fit` leaves behind."""

from __future__ import annotations

import copy
import inspect
import json
import math
import pickle
import random
import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

import skequinas
from skequinas import (
    Architecture,
    DifferentiableSearch,
    EquivariantNASClassifier,
    EquivariantNASRegressor,
    EvolutionarySearch,
    NoSearch,
    PointGroup,
    RandomSearch,
)
from skequinas.runtime.compiled import compiled
from skequinas.search import Search
from skequinas.training import DivergenceError

pytestmark = pytest.mark.usefixtures("one_thread")

Array = NDArray[Any]
D4 = PointGroup.from_name("D4")
DIGITS, LABELS = load_digits(n_class=3, return_X_y=True)
X, y = DIGITS[:120], LABELS[:120]
INK = X.sum(axis=1)
WORDS = np.array(["nought", "one", "two"])[y]
ESTIMATORS = [EquivariantNASClassifier, EquivariantNASRegressor]
SEARCHES: dict[str, str | Search] = {
    "none": "none",
    "evolutionary": EvolutionarySearch(2, population_size=2),
    "evolutionary, unguided": EvolutionarySearch(2, population_size=2, guided=False),
    "random": RandomSearch(3, population_size=1),
    "differentiable": "differentiable",
    "a mixture": DifferentiableSearch(2, alpha_interval=1, discretize=False),
}
SMALL = {"search": "none", "width": 8, "max_epochs": 1, "batch_size": 32, "random_state": 0, "device": "cpu"}


def classifier(**parameters: Any) -> EquivariantNASClassifier:
    given = {"width": None} if "architecture" in parameters else {}
    return EquivariantNASClassifier(**{**SMALL, **given, **parameters})


def regressor(**parameters: Any) -> EquivariantNASRegressor:
    return EquivariantNASRegressor(**{**SMALL, **parameters})


@cache
def fitted(search: str) -> EquivariantNASClassifier:
    """One fitted classifier with string labels for each search."""
    return classifier(search=SEARCHES[search], max_epochs=2).fit(X, WORDS)


@pytest.fixture(params=SEARCHES)
def model(request: pytest.FixtureRequest) -> EquivariantNASClassifier:
    """A fitted classifier, for every search; tests only look at it."""
    return fitted(request.param)


def assert_same_predictions(a: Any, b: Any, images: Any = X) -> None:
    np.testing.assert_array_equal(a._outputs(images), b._outputs(images))


# --- what comes out ---


def test_predictions_have_the_labels_and_shapes_of_the_targets(model: EquivariantNASClassifier) -> None:
    assert model.classes_.tolist() == ["nought", "one", "two"]
    probabilities, labels = model.predict_proba(X), model.predict(X)
    assert probabilities.shape == (120, 3)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(labels, model.classes_[probabilities.argmax(axis=1)])
    assert model.score(X, WORDS) == np.mean(labels == WORDS)


def test_digits_are_told_apart() -> None:
    words = np.array(["nought", "one", "two"])[LABELS]
    model = classifier(group="C1", width=16, max_epochs=10, learning_rate=0.01).fit(DIGITS[:400], words[:400])
    assert model.score(DIGITS[400:], words[400:]) > 0.9


@pytest.mark.parametrize(
    "labels", [np.array([5, -1, 7]), np.array([True, False]), np.array(["a", "b", "c"], dtype=object)], ids=str
)
def test_labels_of_any_type_come_back(labels: Array) -> None:
    model = classifier().fit(X, labels[y % len(labels)])
    assert model.classes_.tolist() == sorted(labels.tolist())
    assert model.predict(X[:5]).dtype == labels.dtype


def test_fitted_attributes_are_all_there(model: EquivariantNASClassifier) -> None:
    network, architecture = model.network_, model.architecture_
    assert model.n_features_in_ == 64
    assert network.architecture == architecture
    assert (architecture.image_size, architecture.in_channels, architecture.n_outputs) == (8, 1, 3)
    assert model.n_parameters_ == architecture.n_parameters == sum(p.numel() for p in network.parameters())
    lengths = {len(column) for column in model.history_.values()}
    assert lengths == (set() if architecture.is_mixed else {2})
    assert architecture.is_mixed or np.isfinite(model.history_["loss"]).all()


def test_search_results_are_columns_of_one_table(model: EquivariantNASClassifier) -> None:
    results = model.search_results_
    if isinstance(model.search_, NoSearch):
        assert not any(len(column) for column in results.values())
        return
    names = {"candidate", "parent", "generation", "constraints", "n_parameters", "validation_score", "seconds"}
    assert names <= set(results)
    assert all(isinstance(column, np.ndarray) and column.ndim == 1 for column in results.values())
    assert {len(column) for column in results.values()} == {len(results["candidate"])}
    np.testing.assert_array_equal(results["candidate"], np.arange(len(results["candidate"])))
    has_parent = results["parent"] >= 0
    np.testing.assert_array_equal(has_parent, results["generation"] > 0)
    parents = results["parent"][has_parent]
    np.testing.assert_array_equal(results["generation"][parents], results["generation"][has_parent] - 1)
    assert ((results["validation_score"] >= 0) & (results["validation_score"] <= 1)).all()
    assert str(model.architecture_) in results["constraints"]
    assert len(pd.DataFrame(results)) == len(results["candidate"])


def test_the_output_is_unchanged_under_the_learned_group(model: EquivariantNASClassifier) -> None:
    learned = model.learned_symmetry_
    group = D4.subgroup(learned.group)
    assert group == model.architecture_.symmetry
    assert tuple(learned.constraints.values()) == model.architecture_.constraint_names
    assert set(learned.measured_change) == {D4.element_name(g) for g in D4.elements}
    for g in D4.elements:
        change = learned.measured_change[D4.element_name(g)]
        assert change < 1e-4 if g in group else change > 1e-4


@pytest.mark.parametrize("group", [h.name for h in D4.subgroups])
def test_the_output_is_unchanged_under_exactly_the_elements_of_the_constraint(group: str) -> None:
    constraints = ("D4", "D4", group)
    architecture = Architecture(D4, 8, 1, 3, (1, 2), (3, 3), (True, False), constraints, hidden=8)
    model = classifier(architecture=architecture).fit(X, y)
    assert model.architecture_ == architecture
    learned, subgroup = model.learned_symmetry_, D4.subgroup(group)
    assert (learned.search_group, learned.group) == ("D4", group)
    assert learned.constraints == {"layer 1": "D4", "layer 2": "D4", "head": group}
    for g in D4.elements:
        change = learned.measured_change[D4.element_name(g)]
        assert change < 1e-4 if g in subgroup else change > 1e-4


@pytest.mark.parametrize("search", ["differentiable", "a mixture"])
def test_a_differentiable_search_tells_the_share_of_every_subgroup_in_every_layer(search: str) -> None:
    model = fitted(search)
    weights = model.learned_symmetry_.layer_weights
    assert weights is not None
    assert tuple(weights) == model.architecture_.layer_names
    for shares in weights.values():
        assert list(shares) == [h.name for h in D4.subgroups]
        assert sum(shares.values()) == pytest.approx(1)
    assert model.architecture_.is_mixed == (search == "a mixture")


def test_the_learned_symmetry_reads_as_a_sentence(model: EquivariantNASClassifier) -> None:
    learned = model.learned_symmetry_
    text = str(learned)
    assert text.startswith(f"D4 -> {learned.group}: ")
    assert repr(learned) == text
    assert len(text.splitlines()) == 3
    assert math.isfinite(learned.lie_derivative)
    assert learned.effective_invariance is not None
    assert 0 < learned.effective_invariance["identity"] <= 1
    assert tuple(learned.layer_distances) == model.architecture_.layer_names
    json.dumps(learned.to_dict(), allow_nan=False)


def test_the_module_holds_only_layers_of_torch_and_computes_the_same(model: EquivariantNASClassifier) -> None:
    assert all(type(m).__module__.startswith("torch.nn.") for m in model.module_.modules())
    assert not any(p.requires_grad for p in model.module_.parameters())
    inputs = model.preprocessing_(torch.from_numpy(X.reshape(-1, 1, 8, 8)).float())
    with torch.no_grad():
        expected, plain = model.network_(inputs), model.module_(inputs)
    torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.predict_proba(X), plain.softmax(1).numpy(), atol=1e-6)


def test_a_fitted_model_survives_pickling(model: EquivariantNASClassifier) -> None:
    assert_same_predictions(pickle.loads(pickle.dumps(model)), model)


def test_single_images_get_the_predictions_that_they_get_among_others(model: EquivariantNASClassifier) -> None:
    alone = np.concatenate([model.predict_proba(x[None]) for x in X[:5]])
    np.testing.assert_allclose(alone, model.predict_proba(X)[:5], atol=1e-5)


# --- regression ---


@pytest.mark.parametrize("search", SEARCHES)
def test_a_regressor_predicts_on_the_scale_of_its_targets(search: str) -> None:
    targets = 1e4 + 10 * INK
    model = regressor(search=SEARCHES[search], max_epochs=2).fit(X, targets)
    predictions = model.predict(X)
    assert predictions.shape == (120,)
    assert abs(predictions.mean() - targets.mean()) < 2 * targets.std()
    assert model.search_results_.keys() == fitted(search).search_results_.keys()


def test_ink_is_learned() -> None:
    model = regressor(max_epochs=30, learning_rate=0.01).fit(X, INK)
    assert model.score(X, INK) > 0.8


def test_scaling_the_target_scales_the_predictions() -> None:
    plain, scaled = (regressor().fit(X, t).predict(X) for t in (INK, 1000 * INK - 5e4))
    np.testing.assert_allclose(scaled, 1000 * plain - 5e4, rtol=1e-3, atol=1.0)


def test_several_outputs_keep_their_scales() -> None:
    targets = np.stack([INK, 1e3 * X[:, :32].sum(1), np.full(120, 7.0)], axis=1)
    model = regressor(max_epochs=2).fit(X, targets)
    predictions = model.predict(X)
    assert predictions.shape == (120, 3)
    np.testing.assert_array_less(abs(predictions.mean(0) - targets.mean(0)), 2 * targets.std(0) + 2)
    assert model.architecture_.n_outputs == 3
    assert np.isfinite(model.score(X, targets[:, [0, 1, 2]]))


def test_a_column_of_targets_gives_a_column_of_predictions() -> None:
    flat, column = regressor().fit(X, INK), regressor().fit(X, INK[:, None])
    assert column.predict(X).shape == (120, 1)
    np.testing.assert_array_equal(column.predict(X).ravel(), flat.predict(X))


# --- randomness ---


def test_the_random_state_fixes_the_model_bit_for_bit(model: EquivariantNASClassifier) -> None:
    again = clone(model).fit(X, WORDS)
    assert again.architecture_ == model.architecture_
    assert_same_predictions(again, model)
    other = clone(model).set_params(random_state=1).fit(X, WORDS)
    assert (other._outputs(X) != model._outputs(X)).any()


@pytest.mark.parametrize("search", SEARCHES)
def test_fitting_leaves_the_global_random_states_and_threads_alone(search: str) -> None:
    def states() -> tuple[Any, ...]:
        numpy_state = np.random.get_state()  # noqa: NPY002
        return (
            torch.get_rng_state().tolist(),
            numpy_state[1].tolist(),
            numpy_state[2],
            random.getstate(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.are_deterministic_algorithms_enabled(),
        )

    before = states()
    classifier(search=SEARCHES[search]).fit(X, y).predict(X)
    assert states() == before


def test_fitting_again_forgets_the_first_fit() -> None:
    model = classifier(search="evolutionary").fit(X[:, :36], X[:, 20] > 8)
    assert_same_predictions(model.fit(X, y), clone(model).fit(X, y))


def test_fitting_changes_neither_the_data_nor_the_parameters() -> None:
    images, labels = X.astype(np.float32), y.copy()
    search = EvolutionarySearch(1)
    model = classifier(search=search)
    before = {name: repr(value) for name, value in model.get_params().items()}
    model.fit(images, labels).predict(images)
    np.testing.assert_array_equal(images, X.astype(np.float32))
    np.testing.assert_array_equal(labels, y)
    assert {name: repr(value) for name, value in model.get_params().items()} == before
    assert model.search is search
    assert not hasattr(search, "population_")


# --- what goes in ---

FORMS: dict[str, Callable[[Array], Any]] = {
    "rows": lambda rows: rows,
    "a list of lists": lambda rows: rows.tolist(),
    "images": lambda rows: rows.reshape(-1, 8, 8),
    "a list of images": lambda rows: list(rows.reshape(-1, 8, 8)),
    "channels last": lambda rows: rows.reshape(-1, 8, 8, 1),
    "channels first": lambda rows: rows.reshape(-1, 1, 8, 8),
    "float32": lambda rows: rows.astype(np.float32),
    "float16": lambda rows: rows.astype(np.float16),
    "integers": lambda rows: rows.astype(int),
    "bytes": lambda rows: rows.astype(np.uint8),
    "Fortran order": np.asfortranarray,
    "a torch tensor": torch.from_numpy,
    "a torch tensor of images": lambda rows: torch.from_numpy(rows.reshape(-1, 1, 8, 8)),
    "a torch tensor with gradients": lambda rows: torch.from_numpy(rows).requires_grad_(),
    "a data frame": lambda rows: pd.DataFrame(rows, columns=[f"pixel {i}" for i in range(64)]),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_the_images_gives_the_same_model(form: Callable[[Array], Any]) -> None:
    model = classifier().fit(form(X), y)
    np.testing.assert_allclose(model.predict_proba(form(X)), classifier().fit(X, y).predict_proba(X), atol=1e-4)
    assert model.n_features_in_ == 64


def test_truth_values_are_images_too() -> None:
    model = classifier().fit(X > 8, y)
    np.testing.assert_array_equal(
        model.predict_proba(X > 8), classifier().fit((X > 8).astype(int), y).predict_proba(X > 8)
    )


def test_targets_may_be_lists_tensors_and_series() -> None:
    expected = classifier().fit(X, y)
    for targets in (y.tolist(), torch.from_numpy(y), pd.Series(y, index=range(5, 125))):
        assert_same_predictions(classifier().fit(X, targets), expected)
    words = classifier().fit(X, pd.Series(WORDS))
    assert set(words.predict(X)) <= set(WORDS)


def test_rows_and_images_of_the_fitted_shape_may_be_mixed() -> None:
    model = classifier().fit(X.reshape(-1, 8, 8), y)
    np.testing.assert_array_equal(model.predict_proba(X), model.predict_proba(X.reshape(-1, 8, 8)))


NOISE = np.random.default_rng(0)
SHAPES: dict[str, tuple[tuple[int, ...], str, tuple[int, ...] | None, tuple[int, int]]] = {
    # shape and type of a sample, image_shape, size and channels of the network's input
    "colour bytes, channels last": ((9, 9, 3), "u1", None, (9, 3)),
    "colour bytes, channels first": ((3, 9, 9), "u1", None, (9, 3)),
    "wide": ((5, 9), "f4", None, ((5, 9), 1)),
    "tall": ((10, 6), "f8", None, ((10, 6), 1)),
    "wide colour bytes": ((5, 8, 3), "u1", None, ((5, 8), 3)),
    "rows of 30 features": ((30,), "f8", None, (6, 1)),
    "wide rows of 30 features": ((30,), "f8", (5, 6), ((5, 6), 1)),
    "one pixel": ((1,), "f8", None, (1, 1)),
    "one coloured pixel": ((1, 1, 3), "f8", (1, 1, 3), (1, 3)),
    "four channels": ((4, 7, 7), "i2", None, (7, 4)),
    "large": ((41, 41), "u1", None, (41, 1)),
}


@pytest.mark.parametrize("search", ["none", EvolutionarySearch(1, population_size=1)], ids=["none", "evolutionary"])
@pytest.mark.parametrize(("shape", "dtype", "image_shape", "expected"), SHAPES.values(), ids=SHAPES)
def test_images_of_many_shapes_are_learned(
    shape: tuple[int, ...], dtype: str, image_shape: tuple[int, ...] | None, expected: tuple[int, int], search: Any
) -> None:
    images, labels = np.random.default_rng(0).integers(0, 200, (24, *shape)).astype(dtype), np.arange(24) % 2
    model = classifier(search=search, image_shape=image_shape, max_epochs=0.5)
    square = isinstance(expected[0], int) and shape != (30,)
    with nullcontext() if square else pytest.warns(UserWarning, match="Rows of 30|cannot be moved by all of D4"):
        model.fit(images, labels)
    assert (model.architecture_.image_size, model.architecture_.in_channels) == expected
    assert model.n_features_in_ == np.prod(shape)
    assert np.isfinite(model.predict_proba(images)).all()
    changes = model.learned_symmetry_.measured_change
    group = model.architecture_.symmetry
    assert all(changes[group.group.element_name(g)] < 1e-4 for g in group.elements)


@pytest.mark.parametrize(
    "group", ["D1(90)", "D1(45)", "D2(45)", "C4", "c2", "C1", PointGroup(4), D4.subgroup("D1(135)")], ids=repr
)
@pytest.mark.parametrize("search", ["none", EvolutionarySearch(1)], ids=["none", "evolutionary"])
def test_the_search_group_may_be_any_that_turns_the_pixel_grid(group: Any, search: Any) -> None:
    model = classifier(group=group, search=search).fit(X, y)
    name = group if isinstance(group, str) else group.name
    learned = model.learned_symmetry_
    assert learned.search_group == name.upper()
    searched = PointGroup.from_name(name)
    assert len(learned.measured_change) == searched.order
    for g in searched.subgroup(learned.group).elements:
        assert learned.measured_change[searched.element_name(g)] < 1e-4


@pytest.mark.parametrize("group", ["D1(90)", "D2(45)", "C4", "C2"])
def test_a_differentiable_search_works_in_any_such_group(group: str) -> None:
    model = classifier(group=group, search="differentiable").fit(X, y)
    assert model.learned_symmetry_.layer_weights is not None


def test_a_differentiable_search_works_in_the_trivial_group() -> None:
    assert classifier(group="C1", search="differentiable").fit(X, y).learned_symmetry_.group == "C1"


# --- bad input ---


def with_value(value: float) -> Array:
    broken = X.copy()
    broken[3, 5] = value
    return broken


def given_architecture(**other: Any) -> Architecture:
    shape: dict[str, Any] = {"group": D4, "image_size": 8, "in_channels": 1, "n_outputs": 3}
    return Architecture(**{**shape, **other}, fields=(1,), kernel_sizes=(3,), pools=(False,))


AMBIGUOUS = np.zeros((120, 3, 5, 4))
BAD_FITS: dict[str, tuple[dict[str, Any], Any, Any, list[str]]] = {
    "NaN": ({}, with_value(np.nan), y, ["X", "NaN"]),
    "infinity": ({}, with_value(np.inf), y, ["X", "infinity"]),
    "infinite images": ({}, with_value(np.inf).reshape(-1, 8, 8), y, ["X", "infinity"]),
    "no samples": ({}, X[:0], y[:0], ["0 sample", "2"]),
    "one sample": ({}, X[:1], y[:1], ["1 sample|n_samples=1|n_samples = 1", "2"]),
    "one image": ({}, X[:1].reshape(1, 8, 8), y[:1], ["1 sample|n_samples=1", "2"]),
    "no features": ({}, X[:, :0], y, ["0 feature"]),
    "a number": ({}, np.float64(3), y[:1], ["2D array|array"]),
    "one row": ({}, X[0], y[:64], ["2D array"]),
    "five axes": ({}, X.reshape(-1, 2, 2, 4, 4), y, ["X", r"\(n, height, width"]),
    "complex numbers": ({}, X * 1j, y, ["[Cc]omplex"]),
    "words": ({}, np.full((120, 64), "a"), y, ["X holds text", "'a'"]),
    "one class": ({}, X, np.zeros(120), ["y", "one class", "0", "Add"]),
    "one class of words": ({}, X, np.full(120, "a"), ["y", "one class", "a", "Add"]),
    "NaN in the labels": ({}, X, np.where(y == 1, np.nan, y), ["y", "NaN"]),
    "fractions as labels": ({}, X, INK / 7, ["continuous"]),
    "fewer labels": ({}, X, y[:100], ["120", "100"]),
    "channels first or last": ({}, AMBIGUOUS, y, ["X", r"\(3, 5, 4\)", "image_shape="]),
    "no channel axis": ({}, np.zeros((120, 7, 5, 6)), y, ["X", r"\(7, 5, 6\)", "image_shape="]),
    "image_shape too large": ({"image_shape": (9, 9)}, X, y, [r"image_shape=\(9, 9\)", "64"]),
    "image_shape of one number": ({"image_shape": (64,)}, X, y, [r"image_shape=\(64,\)", "two or three"]),
    "image_shape turned": ({"image_shape": (6, 9)}, np.zeros((120, 9, 6)), y, [r"image_shape=\(6, 9\)", r"\(9, 6\)"]),
    "C8": ({"group": "C8", "basis": "pixel"}, X, y, ["group='C8'", "'C1', 'C2', 'C4', 'D1', 'D2' or 'D4'"]),
    "D3": ({"group": "D3", "basis": "pixel"}, X, y, ["group='D3'", "'C1', 'C2', 'C4', 'D1', 'D2' or 'D4'"]),
    "D1(30)": ({"group": "D1(30)", "basis": "pixel"}, X, y, [r"group='D1\(30\)'", "multiple of 45"]),
    "O2": ({"group": "O2"}, X, y, ["group='O2'", "Use 'C'"]),
    "an unknown group beside an architecture": (
        {"group": "O2", "architecture": given_architecture()},
        X,
        y,
        ["group='O2'", "Use 'C'"],
    ),
    "an empty name": ({"group": ""}, X, y, ["group=''", "Use 'C'"]),
    "group=4": ({"group": 4}, X, y, ["'group'", "4"]),
    "search='annealing'": ({"search": "annealing"}, X, y, ["search='annealing'", "'evolutionary'"]),
    "search=a class": ({"search": EvolutionarySearch}, X, y, ["'search'", "EvolutionarySearch"]),
    "architecture='resnet'": ({"architecture": "resnet"}, X, y, ["'architecture'", "'resnet'", "'paper'"]),
    "other group": ({"architecture": given_architecture(group="C4")}, X, y, ["architecture", "C4", "group='D4'"]),
    "other size": ({"architecture": given_architecture(image_size=9)}, X, y, ["architecture", "9x9", "8x8"]),
    "other channels": (
        {"architecture": given_architecture(in_channels=3)},
        X,
        y,
        ["architecture", "3 channels", "1 channels"],
    ),
    "other outputs": (
        {"architecture": given_architecture(n_outputs=4)},
        X,
        y,
        ["architecture", "4 outputs", "3 outputs"],
    ),
    "width beside an architecture": ({"width": 16, "architecture": "paper"}, X, y, ["width=16", "architecture='auto'"]),
    "width=0": ({"width": 0}, X, y, ["'width'", "0"]),
    "max_epochs=-1": ({"max_epochs": -1}, X, y, ["'max_epochs'", "-1"]),
    "batch_size=0": ({"batch_size": 0}, X, y, ["'batch_size'", "0"]),
    "learning_rate=-1": ({"learning_rate": -1.0}, X, y, ["'learning_rate'", "-1"]),
    "validation_fraction=1": ({"validation_fraction": 1.0}, X, y, ["'validation_fraction'", "1.0"]),
    "device='abacus'": ({"device": "abacus"}, X, y, ["device='abacus'", "Use 'auto' or 'cpu'"]),
}


def assert_refused(call: Callable[[], Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=words[0]) as error:
        call()
    assert not [word for word in words if not re.search(word, str(error.value))], str(error.value)


@pytest.mark.parametrize(("parameters", "images", "labels", "words"), BAD_FITS.values(), ids=BAD_FITS)
def test_bad_input_to_fit_is_refused(parameters: dict[str, Any], images: Any, labels: Any, words: list[str]) -> None:
    assert_refused(lambda: classifier(**parameters).fit(images, labels), words)


MORE_BAD_FITS: dict[str, tuple[dict[str, Any], Any, Any, list[str]]] = {
    "y=None": ({}, X, None, ["y"]),
    "no images": ({}, X[:0].reshape(-1, 8, 8), y[:0], ["0 sample", "2"]),
    "two samples and a search": ({"search": "evolutionary"}, X[:2], y[:2], ["2 sample", "minimum of 4"]),
    "batch_size=1": ({"batch_size": 1}, X, y, ["batch_size"]),
    "too large for float32": ({}, with_value(1e300), y, ["X", "large"]),
    "image_shape of words": ({"image_shape": ("a", "b")}, X, y, ["image_shape"]),
    "device='meta'": ({"device": "meta"}, X, y, ["device='meta'"]),
}


@pytest.mark.parametrize(("parameters", "images", "labels", "words"), MORE_BAD_FITS.values(), ids=MORE_BAD_FITS)
def test_more_bad_input_to_fit_is_refused(
    parameters: dict[str, Any], images: Any, labels: Any, words: list[str]
) -> None:
    assert_refused(lambda: classifier(**parameters).fit(images, labels), words)


BAD_REGRESSIONS: dict[str, tuple[Any, list[str]]] = {
    "NaN": (np.where(y == 1, np.nan, 0.0), ["y", "NaN"]),
    "infinity": (np.where(y == 1, np.inf, 0.0), ["y", "infinity"]),
    "words": (WORDS, ["y holds text", "EquivariantNASClassifier"]),
    "fewer": (INK[:50], ["120", "50"]),
    "NaN in one output": (np.stack([INK, np.where(y == 1, np.nan, 0.0)], 1), ["y", "NaN"]),
}


@pytest.mark.parametrize(("targets", "words"), BAD_REGRESSIONS.values(), ids=BAD_REGRESSIONS)
def test_bad_targets_of_a_regression_are_refused(targets: Any, words: list[str]) -> None:
    assert_refused(lambda: regressor().fit(X, targets), words)


BAD_PREDICTIONS: dict[str, tuple[Any, list[str]]] = {
    "fewer features": (X[:, :63], ["63 features", "64 features"]),
    "more features": (np.zeros((5, 81)), ["81 features", "64 features"]),
    "larger images": (np.zeros((5, 9, 9)), [r"\(9, 9\)", r"\(8, 8\)"]),
    "as many pixels in another shape": (np.zeros((5, 4, 16)), [r"\(4, 16\)", r"\(8, 8\)"]),
    "more channels": (np.zeros((5, 3, 8, 8)), [r"\(3, 8, 8\)", r"\(8, 8\)"]),
    "NaN": (with_value(np.nan), ["X", "NaN"]),
    "infinity": (with_value(-np.inf), ["X", "infinity"]),
    "no samples": (X[:0], ["0 sample"]),
    "one row": (X[0], ["2D array"]),
}


@pytest.mark.parametrize(("images", "words"), BAD_PREDICTIONS.values(), ids=BAD_PREDICTIONS)
def test_bad_input_to_predict_is_refused(images: Any, words: list[str]) -> None:
    assert_refused(lambda: fitted("none").predict(images), words)


def test_predicting_no_images_is_refused() -> None:
    assert_refused(lambda: fitted("none").predict(np.zeros((0, 8, 8))), ["0 sample"])


@pytest.mark.parametrize(
    "method",
    [
        classifier().predict_proba,
        classifier().predict,
        regressor().predict,
    ],
    ids=["predict_proba", "classes", "numbers"],
)
def test_an_unfitted_model_says_so(method: Callable[[Array], Array]) -> None:
    with pytest.raises(NotFittedError, match="not fitted"):
        method(X)


@pytest.mark.parametrize("search", ["none", "evolutionary", "differentiable"])
def test_a_fit_that_diverges_says_so(search: str) -> None:
    with pytest.raises(DivergenceError, match="loss became"):
        classifier(search=search, learning_rate=1e30, max_epochs=8).fit(X, y)


def test_a_model_never_predicts_nan() -> None:
    with pytest.raises(DivergenceError):
        classifier(learning_rate=1e38, max_epochs=0.1).fit(X, y)


def test_a_constant_image_set_gives_one_answer() -> None:
    model = classifier().fit(np.ones((30, 6, 6)), np.arange(30) % 2)
    assert np.ptp(model.predict_proba(np.ones((4, 6, 6))), axis=0).max() == 0
    assert set(model.learned_symmetry_.measured_change.values()) == {0.0}


# --- as an estimator of scikit-learn ---


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_parameters_are_read_set_and_cloned(estimator: type[BaseEstimator]) -> None:
    search = EvolutionarySearch(3)
    model = estimator(group="C4", search=search, width=8, max_epochs=0.5)
    assert clone(model).get_params(deep=False).keys() == model.get_params(deep=False).keys()
    assert clone(model).search.get_params() == search.get_params()
    model.set_params(search__n_generations=5, group="D2")
    assert (model.search.n_generations, model.group) == (5, "D2")


def test_a_pipeline_and_a_grid_search_take_the_estimator() -> None:
    pipeline = make_pipeline(FunctionTransformer(lambda rows: rows / 16), classifier())
    assert_same_predictions(clone(pipeline).fit(X, y)[-1], pipeline.fit(X, y)[-1], X / 16)
    assert pipeline.predict(X).shape == (120,)
    grid = GridSearchCV(classifier(), {"group": ["D4", "C1"]}, cv=2).fit(X, y)
    assert np.isfinite(grid.cv_results_["mean_test_score"]).all()


def test_the_parameters_stand_in_the_docstring() -> None:
    for estimator in ESTIMATORS:
        text = inspect.getdoc(estimator)  # Python 3.13 takes the indentation off by itself
        assert text is not None
        for name in estimator().get_params():
            assert f"\n{name} : " in text


def test_names_of_features_are_remembered() -> None:
    frame = FORMS["a data frame"](X)
    model = classifier().fit(frame, y)
    assert model.feature_names_in_.tolist() == frame.columns.tolist()


@pytest.mark.parametrize("search", SEARCHES)
def test_progress_goes_to_stderr_and_only_when_asked_for(search: str, capsys: pytest.CaptureFixture[str]) -> None:
    classifier(search=SEARCHES[search]).fit(X, y)
    assert capsys.readouterr() == ("", "")
    classifier(search=SEARCHES[search], verbose=1).fit(X, y)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "batch" in captured.err


def test_early_stopping_holds_the_validation_part_out() -> None:
    model = classifier(early_stopping=True, n_iter_no_change=2, max_epochs=30, learning_rate=0.05).fit(
        X, NOISE.permutation(y)
    )
    history = model.history_
    assert {"loss", "validation_loss", "validation_error"} <= history.keys()
    assert len(history["loss"]) == min(30, int(history["validation_loss"].argmin()) + 1 + 2)


# --- other networks ---


def test_a_given_architecture_is_kept_where_nothing_is_searched() -> None:
    architecture = Architecture("D4", 8, 1, 3, (1, 1), (3, 5), (False, True), ("D4", "D2(45)", "D1(45)"), hidden=0)
    model = classifier(architecture=architecture).fit(X, y)
    assert model.architecture_ == architecture
    assert model.learned_symmetry_.group == "D1(45)"


def test_a_given_mixed_architecture_can_be_fitted() -> None:
    architecture = given_architecture(constraints=(("D4", "C4"), "C4"))
    model = classifier(architecture=architecture).fit(X, y)
    assert model.learned_symmetry_.group == "C4"
    assert model.architecture_.is_mixed


def test_the_architecture_of_the_paper_can_be_fitted() -> None:
    model = classifier(architecture="paper", group="C4", max_epochs=0.01).fit(X[:40], y[:40])
    assert model.architecture_.fields == (16,) * 4 + (32,) * 4


def test_the_width_counts_channels() -> None:
    assert classifier(width=16).fit(X, y).architecture_.fields[0] == 2
    assert classifier(width=16, group="C1").fit(X, y).architecture_.fields[0] == 16


# --- planted symmetries ---


def planted(task: str, n: int = 300, seed: int = 0) -> tuple[Array, Array]:
    """Two classes of 8x8 images whose difference has a known symmetry."""
    rng = np.random.default_rng(seed)
    images, labels = rng.normal(0, 0.1, (n, 8, 8)), rng.integers(0, 2, n)
    hook = np.zeros((8, 8))
    hook[1:6, 3:5] = hook[5:7, 3:7] = 1
    for image, label in zip(images, labels, strict=True):
        if task == "ink":
            image += 0.5 * label
        elif task == "orientation":
            at = rng.integers(1, 6)
            (image if label else image.T)[at : at + 2] += 1
        elif task == "chirality":
            image += np.rot90(hook[:, ::-1] if label else hook, rng.integers(4))
    return images, labels


@pytest.mark.parametrize(("task", "largest"), [("ink", "D4"), ("orientation", "D2(0)"), ("chirality", "C4")])
def test_evolution_gives_up_the_symmetries_that_a_task_lacks_and_no_others(task: str, largest: str) -> None:
    model = classifier(search="evolutionary", max_epochs=16, learning_rate=0.005, batch_size=64).fit(*planted(task))
    assert model.score(*planted(task, 200, seed=1)) > 0.95
    group = D4.subgroup(model.learned_symmetry_.group)
    assert group <= D4.subgroup(largest)
    assert group.order > 1
    assert task != "ink" or group == D4.whole


def test_a_symmetric_network_cannot_tell_chirality() -> None:
    """The negative: without a search the task is out of reach."""
    model = classifier(max_epochs=16, learning_rate=0.005).fit(*planted("chirality"))
    assert model.score(*planted("chirality", 200, seed=1)) < 0.7


def test_modules_are_plain_enough_for_a_fresh_start() -> None:
    """The module's weights can be loaded into a stack of layers made by hand."""
    model = fitted("none")
    copies: list[nn.Module] = []
    for layer in model.module_:
        if isinstance(layer, nn.Conv2d):
            own = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding)
            own.load_state_dict(layer.state_dict())
            copies.append(own)
        elif isinstance(layer, nn.Linear):
            dense = nn.Linear(layer.in_features, layer.out_features)
            dense.load_state_dict(layer.state_dict())
            copies.append(dense)
        else:
            copies.append(layer)
    inputs = model.preprocessing_(torch.from_numpy(X.reshape(-1, 1, 8, 8)).float())
    torch.testing.assert_close(nn.Sequential(*copies)(inputs), model.module_(inputs))


class Dataset:
    """An array of a library that reads it from a file: it has a shape and ``__array__``, and no ``reshape``."""

    def __init__(self, values: Any) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(self.values, dtype=dtype)

    def __len__(self) -> int:
        return len(self.values)


SQUARES = X.reshape(-1, 8, 8)
OBJECTS = np.empty(len(SQUARES), dtype=object)
OBJECTS[:] = list(SQUARES)
ARRAYS: dict[str, Any] = {
    "an array from a file": Dataset(SQUARES),
    "a list of images": list(SQUARES),
    "an array of images": OBJECTS,
    "a series of images": pd.Series(list(SQUARES)),
    "a masked array without masked pixels": np.ma.masked_invalid(SQUARES),
}


@pytest.mark.parametrize("form", ARRAYS)
def test_images_in_every_form_are_read_alike(form: str) -> None:
    expected = fitted("none").predict_proba(SQUARES)
    np.testing.assert_array_equal(fitted("none").predict_proba(ARRAYS[form]), expected)
    again = classifier().fit(ARRAYS[form], y).predict_proba(SQUARES)
    np.testing.assert_array_equal(again, classifier().fit(SQUARES, y).predict_proba(SQUARES))


def test_images_of_unequal_sizes_are_refused_in_a_series() -> None:
    with pytest.raises(ValueError, match="X is a Series whose entries do not make one array"):
        classifier().fit(pd.Series([np.zeros((3, 3)), np.zeros((4, 4))]), [0, 1])


def test_targets_and_weights_may_be_tensors_where_the_array_api_is_on() -> None:
    weights = torch.ones(len(X))
    model = classifier().fit(X, torch.from_numpy(y), sample_weight=weights)
    np.testing.assert_array_equal(model.predict_proba(X), classifier().fit(X, y, np.ones(len(X))).predict_proba(X))


def test_values_that_the_network_cannot_take_are_refused_in_predict() -> None:
    with pytest.raises(ValueError, match=r"X has values so large that .*\(row 2\)"):
        fitted("none").predict(np.where(np.arange(len(X))[:5, None] == 2, 1e300, X[:5]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_torch_network_may_be_of_any_type(dtype: torch.dtype) -> None:
    network = fitted("none").to_torch().to(dtype)
    images = torch.from_numpy(SQUARES[:20, None])
    found = network(images)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.double().numpy(), fitted("none").predict_proba(X[:20]), atol=0.05)


def test_a_network_that_says_the_same_of_every_image_is_pointed_out() -> None:
    model = copy.copy(fitted("none"))
    images = torch.from_numpy(SQUARES[:5, None]).float()
    with pytest.warns(ConvergenceWarning, match="same output for every image.*learning_rate="):
        model._warn_of_constant(nn.Sequential(nn.Flatten(), nn.Threshold(1e9, 0.0)), images)
    model._warn_of_constant(nn.Flatten(), images[:1].expand(5, -1, -1, -1))  # where images are alike it is right


@pytest.mark.parametrize("changed", ["module_", "network_", "neither"])
@pytest.mark.parametrize(
    "copied",
    [lambda v: v, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))],
    ids=["itself", "copied", "pickled"],
)
@pytest.mark.parametrize("changed_first", [True, False])
def test_answers_are_those_of_the_module_whatever_is_changed(
    changed: str, copied: Callable[[Any], Any], changed_first: bool
) -> None:
    """Compiled kernels work with the network that the module was made of, as long as both are as they were."""
    model = EquivariantNASClassifier(**SMALL).fit(X, y)
    model = model if changed_first else copied(model)
    with torch.no_grad():
        for parameter in [] if changed == "neither" else getattr(model, changed).parameters():
            parameter.mul_(1.5)
        model = copied(model) if changed_first else model
        outputs = model.module_(model.preprocessing_(torch.from_numpy(X.reshape(-1, 1, 8, 8))))
    np.testing.assert_allclose(model.predict_proba(X), outputs.softmax(1)[:, model._class_order], atol=1e-5)


@pytest.mark.parametrize("group", ["D4", "C1"])
def test_a_model_of_bfloat16_predicts_with_rounded_products_where_that_is_faster(group: str) -> None:
    kernels = compiled()
    rounds = kernels is not None and kernels.has_halves and group == "D4"
    model = classifier(group=group, width=48, precision="bfloat16").fit(X, y)
    rounded, features = model.predict_proba(X), model.transform(X)
    model.set_params(precision="float32")
    exact = model.predict_proba(X)
    assert np.array_equal(rounded, exact) != rounds
    np.testing.assert_allclose(rounded, exact, atol=0.05)
    np.testing.assert_array_equal(model.transform(X), features)


@pytest.mark.exhaustive
def test_the_order_of_the_rows_does_not_change_the_verdict() -> None:
    images, labels = load_digits(n_class=6, return_X_y=True)
    verdicts = []
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(500)
        model = classifier(group="C4", search="evolutionary", max_epochs=10)
        verdicts.append(model.fit(images[order], labels[order]).learned_symmetry_.group)
    assert verdicts == ["C1"] * 4


def test_a_training_that_is_too_short_says_so() -> None:
    short = classifier(search="evolutionary", max_epochs=3).fit(X, y)
    assert "mini-batches only: train for longer" in str(short.learned_symmetry_) or not short.learned_symmetry_.informed


def test_interruptions_are_raised_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(progress: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classifier(callback=interrupt, on_interrupt="raise").fit(X, y)
    with pytest.warns(UserWarning, match="interrupted"):
        classifier(callback=interrupt).fit(X, y)


@pytest.mark.parametrize("kind", ["pipeline", "grid search"])
def test_what_holds_an_estimator_cannot_be_asked_and_is_told_what_can(kind: str) -> None:
    model = make_pipeline(fitted("none")) if kind == "pipeline" else GridSearchCV(fitted("none"), {})
    with pytest.raises(TypeError, match=r"pipeline\[-1\].*best_estimator_"):
        skequinas.symmetry_evidence(model, X, y)
