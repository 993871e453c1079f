"""The estimators inside scikit-learn's own: pipelines, searches, ensembles, calibration, tables, weights, routing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import permutation_importance
from sklearn.metrics import get_scorer
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from skequinas import EquivariantNASClassifier, EquivariantNASRegressor, EvolutionarySearch
from skequinas.search.registry import SEARCHES

pytestmark = pytest.mark.usefixtures("one_thread")

X, y = load_digits(n_class=3, return_X_y=True)
X, y = X[:180], y[:180]
INK = X.sum(axis=1)
SMALL = {"width": 8, "max_epochs": 8, "batch_size": 32, "learning_rate": 0.02, "random_state": 0, "device": "cpu"}


def classifier(**parameters: Any) -> EquivariantNASClassifier:
    return EquivariantNASClassifier(**{"group": "C4", "search": "none", **SMALL, **parameters})


def regressor(**parameters: Any) -> EquivariantNASRegressor:
    return EquivariantNASRegressor(**{"search": "none", **SMALL, "max_epochs": 10, **parameters})


MAIN = "evolutionary", "differentiable", "none"
EACH = [name if name in MAIN else pytest.param(name, marks=pytest.mark.exhaustive) for name in SEARCHES]


# --- composition ---


@pytest.mark.parametrize("step", [StandardScaler(), PCA(49, random_state=0)], ids=str)
@pytest.mark.parametrize("search", EACH)
def test_a_pipeline_may_end_with_the_estimator(step: BaseEstimator, search: str) -> None:
    pipeline = make_pipeline(step, classifier(search=search, group="C1" if isinstance(step, PCA) else "D4"))
    assert pipeline.fit(X, y).score(X, y) > 0.7
    assert pipeline.predict_proba(X).shape == (len(X), 3)


def test_a_grid_search_gives_the_same_whatever_n_jobs() -> None:
    grid = [
        {"search": ["none", "differentiable", EvolutionarySearch(1)], "group": ["C2"], "max_epochs": [1]},
        {"search": ["random"], "group": ["D1(90)"], "width": [4], "max_epochs": [1]},
    ]
    a, b = (GridSearchCV(classifier(), grid, cv=2, n_jobs=n).fit(X, y) for n in (1, 2))
    for name, column in a.cv_results_.items():
        if "time" not in name and not name.startswith("param"):
            np.testing.assert_array_equal(column, b.cv_results_[name], err_msg=name)
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
    assert a.best_estimator_.learned_symmetry_.search_group == a.best_params_["group"]


def test_a_halving_search_takes_the_estimator() -> None:
    search = HalvingGridSearchCV(
        classifier(), {"group": ["C1", "C4"], "width": [4, 8]}, resource="max_epochs", max_resources=6,
        min_resources=2, cv=2, random_state=0,
    )  # fmt: skip
    assert search.fit(X, y).score(X, y) > 0.7


def test_cross_validation_predicts_every_sample() -> None:
    labels = cross_val_predict(classifier(), X, y, cv=3)
    assert np.mean(labels == y) > 0.7
    probabilities = cross_val_predict(classifier(), X, y, cv=3, method="predict_proba")
    np.testing.assert_array_equal(probabilities.argmax(axis=1), labels)


ENSEMBLES: dict[str, Callable[[], Any]] = {
    "calibration": lambda: CalibratedClassifierCV(classifier(), cv=2),
    "voting": lambda: VotingClassifier([("ours", classifier()), ("theirs", KNeighborsClassifier())], voting="soft"),
    "stacking": lambda: StackingClassifier(
        [("a", classifier()), ("b", classifier(group="C1"))], KNeighborsClassifier(), cv=2
    ),
    "bagging": lambda: BaggingClassifier(classifier(), n_estimators=2, random_state=0),
    "bagging of pixels": lambda: BaggingClassifier(classifier(), n_estimators=2, max_features=49, random_state=0),
}


@pytest.mark.parametrize("name", ENSEMBLES)
def test_ensembles_take_the_classifier(name: str) -> None:
    ensemble = ENSEMBLES[name]().fit(X, y)
    assert ensemble.score(X, y) > 0.7
    np.testing.assert_allclose(ensemble.predict_proba(X).sum(axis=1), 1)


def test_several_targets_may_get_a_model_each() -> None:
    targets = np.stack([INK, X[:, :32].sum(axis=1)], axis=1)
    model = MultiOutputRegressor(regressor(learning_rate=0.01)).fit(X, targets)
    assert model.predict(X).shape == targets.shape
    assert model.score(X, targets) > 0.5


def test_the_target_may_be_transformed() -> None:
    model = TransformedTargetRegressor(regressor(), func=np.log, inverse_func=np.exp).fit(X, INK)
    assert model.predict(X).shape == INK.shape
    assert model.score(X, INK) > 0.5


def test_the_importance_of_pixels_can_be_measured() -> None:
    model = classifier().fit(X, y)
    result = permutation_importance(model, X, y, n_repeats=2, random_state=0)
    assert result.importances_mean.shape == (64,)
    assert result.importances_mean.max() > 0
    assert result.importances_mean[0] == 0  # a pixel that is always dark


def test_outputs_of_transformers_may_be_tables() -> None:
    pipeline = make_pipeline(StandardScaler(), classifier()).set_output(transform="pandas")
    pipeline.fit(X, y)
    assert pipeline[-1].feature_names_in_.tolist() == [f"x{i}" for i in range(64)]
    assert pipeline.score(X, y) > 0.7


def test_weights_are_routed_through_pipelines_and_searches() -> None:
    weights = np.where(y == 0, 0.0, 1.0)  # class 0 is left out
    with sklearn.config_context(enable_metadata_routing=True):
        model = classifier(max_epochs=12, learning_rate=0.01).set_fit_request(sample_weight=True)
        pipeline = Pipeline([("scale", StandardScaler().set_fit_request(sample_weight=False)), ("net", model)])
        scorer = get_scorer("accuracy").set_score_request(sample_weight=True)
        search = GridSearchCV(pipeline, {"net__width": [4, 8]}, cv=2, scoring=scorer)
        search.fit(X, y, sample_weight=weights)
    assert search.best_score_ > 0.7  # of the classes that count
    assert 0 not in search.predict(X)
    assert np.mean(search.predict(X)[y > 0] == y[y > 0]) > 0.9


def test_clones_are_equal_before_and_after_fitting() -> None:
    model = classifier(search=EvolutionarySearch(1))
    before = repr(clone(model))
    model.fit(X, y)
    assert repr(clone(model)) == before
    assert not hasattr(clone(model), "module_")


# --- tables, labels, arrays ---


@pytest.mark.parametrize("table", [pd.DataFrame, lambda X, columns: pl.DataFrame(X, schema=columns)])
def test_names_of_features_are_checked(table: Callable[..., Any]) -> None:
    names = [f"pixel {i}" for i in range(64)]
    if not hasattr(StandardScaler().fit(table(X, columns=names)), "feature_names_in_"):
        pytest.skip("this scikit-learn does not read the names of this table")
    model = classifier().fit(table(X, columns=names), y)
    assert model.feature_names_in_.tolist() == names
    np.testing.assert_array_equal(model.predict_proba(table(X, columns=names)), classifier().fit(X, y).predict_proba(X))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(table(X, columns=names[::-1]))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(X)


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["a", "b", "c"])[y], np.array(["a", "b", "c"], dtype=object)[y], y == 1, y.astype(np.int8),
        y.astype(float), pd.Series(np.array(["a", "b", "c"])[y]), pd.Categorical(np.array(["a", "b", "c"])[y]),
        pl.Series(np.array(["a", "b", "c"])[y]), y.tolist(), torch.from_numpy(y),
    ],
    ids=["strings", "objects", "booleans", "int8", "floats", "pandas", "categories", "polars", "list", "tensor"],
)  # fmt: skip
def test_labels_of_every_kind_come_back(labels: Any) -> None:
    model = classifier().fit(X, labels)
    expected = np.asarray(labels)
    assert set(np.unique(model.predict(X))) <= set(np.unique(expected))
    assert model.score(X, labels) > 0.7


def test_a_column_of_labels_is_taken_with_scikit_learn_s_warning() -> None:
    with pytest.warns(sklearn.exceptions.DataConversionWarning, match="column-vector"):
        model = classifier().fit(X, y[:, None])
    np.testing.assert_array_equal(model.predict_proba(X), classifier().fit(X, y).predict_proba(X))


def memory_map(folder: Path, images: NDArray[Any]) -> NDArray[Any]:
    np.save(folder / "X.npy", images)
    mapped: NDArray[Any] = np.load(folder / "X.npy", mmap_mode="r")
    return mapped


FORMS: dict[str, Callable[[NDArray[Any], Path], Any]] = {
    "rows": lambda X, _: X,
    "images": lambda X, _: X.reshape(-1, 8, 8),
    "channels first": lambda X, _: X.reshape(-1, 1, 8, 8),
    "channels last": lambda X, _: X.reshape(-1, 8, 8, 1),
    "tensor": lambda X, _: torch.from_numpy(X),
    "tensor of bytes": lambda X, _: torch.from_numpy(X).to(torch.uint8),
    "bytes": lambda X, _: X.astype(np.uint8),
    "float16": lambda X, _: X.astype(np.float16),
    "Fortran order": lambda X, _: np.asfortranarray(X),
    "Fortran order, images": lambda X, _: np.asfortranarray(X.reshape(-1, 8, 8)),
    "read-only memory map": lambda X, folder: memory_map(folder, X),
    "read-only memory map of images": lambda X, folder: memory_map(folder, X.astype(np.uint8).reshape(-1, 8, 8)),
    "list": lambda X, _: X.tolist(),
    "every other row of a larger array": lambda X, _: np.repeat(X, 2, axis=0)[::2],
    "reversed twice": lambda X, _: X[:, ::-1].copy()[:, ::-1],
}


@cache
def of_rows() -> NDArray[Any]:
    """What a model says that was fitted to the rows of an array."""
    return classifier().fit(X, y).predict_proba(X)


@pytest.mark.parametrize("form", FORMS)
def test_images_in_every_form_are_the_same_images(form: str, tmp_path: Path) -> None:
    """Bit for bit: the last one of an input would not stay the last of an output."""
    images = FORMS[form](X, tmp_path)
    np.testing.assert_array_equal(classifier().fit(images, y).predict_proba(images), of_rows())


@pytest.mark.parametrize("shape", [(8, 8, 3), (3, 8, 8)])
def test_colour_images_may_be_rows_or_arrays(shape: tuple[int, ...]) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (60, *shape), dtype=np.uint8)
    labels = np.arange(60) % 2
    arrays = classifier(max_epochs=1).fit(colours, labels)
    rows = classifier(max_epochs=1, image_shape=shape).fit(colours.reshape(60, -1), labels)
    np.testing.assert_array_equal(arrays.predict_proba(colours), rows.predict_proba(colours.reshape(60, -1)))


# --- weights ---


def test_equal_weights_are_no_weights() -> None:
    for search in ("none", "differentiable"):
        plain = classifier(search=search, max_epochs=2).fit(X, y)
        weighted = classifier(search=search, max_epochs=2).fit(X, y, sample_weight=np.full(len(X), 3.0))
        np.testing.assert_allclose(weighted.predict_proba(X), plain.predict_proba(X), atol=1e-3)


@pytest.mark.parametrize("search", EACH)
def test_a_weight_of_zero_leaves_the_sample_out(search: str) -> None:
    kept = np.arange(len(X)) % 3 > 0
    few = classifier(search=search, max_epochs=2).fit(X[kept], y[kept], sample_weight=np.full(kept.sum(), 2.0))
    all_ = classifier(search=search, max_epochs=2).fit(X, y, sample_weight=2.0 * kept)
    np.testing.assert_array_equal(all_.predict_proba(X), few.predict_proba(X))
    np.testing.assert_array_equal(all_.search_results_.get("constraints"), few.search_results_.get("constraints"))


def test_a_class_of_more_weight_is_predicted_more_often() -> None:
    noise = np.random.default_rng(0).normal(size=(300, 16))
    labels = np.arange(300) % 2
    ones = [
        classifier(max_epochs=4).fit(noise, labels, sample_weight=np.where(labels, w, 1.0)).predict_proba(noise)[:, 1]
        for w in (0.1, 1.0, 10.0)
    ]
    assert ones[0].mean() < 0.3 < ones[1].mean() < 0.7 < ones[2].mean()


def test_class_weights_multiply_sample_weights() -> None:
    weights = np.random.default_rng(0).uniform(0.5, 2, len(X))
    factors = {0: 1.0, 1: 3.0, 2: 0.5}
    a = classifier(class_weight=factors).fit(X, y, sample_weight=weights)
    b = classifier().fit(X, y, sample_weight=weights * np.array([1.0, 3.0, 0.5])[y])
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))


def test_balanced_weights_do_not_count_what_is_left_out() -> None:
    kept = np.arange(len(X)) % 3 > 0
    weights = kept * np.where(y == 1, 3.0, 1.0)
    few = classifier(class_weight="balanced").fit(X[kept], y[kept], sample_weight=weights[kept])
    all_ = classifier(class_weight="balanced").fit(X, y, sample_weight=weights)
    np.testing.assert_array_equal(all_.predict_proba(X), few.predict_proba(X))


def test_balanced_weights_give_a_rare_class_its_say() -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(400) % 10 == 0).astype(int)
    images = rng.normal(size=(400, 16)) + 0.5 * labels[:, None]
    plain, balanced = (
        classifier(class_weight=w, max_epochs=6, search="differentiable").fit(images, labels)
        for w in (None, "balanced")
    )
    assert balanced.predict(images).mean() > 2 * plain.predict(images).mean()
    assert (balanced.predict(images)[labels == 1]).mean() > 0.5


def test_weights_count_in_a_regression() -> None:
    noise = np.random.default_rng(0).normal(size=(200, 16))
    target = np.where(np.arange(200) % 2, 10.0, 0.0)
    heavy = regressor(max_epochs=4).fit(noise, target, sample_weight=np.where(target > 5, 9.0, 1.0))
    assert 7 < heavy.predict(noise).mean() < 10


# --- parameters and notebooks ---


@pytest.mark.parametrize("kind", [EquivariantNASClassifier, EquivariantNASRegressor])
def test_constructor_docstring_and_constraints_agree(kind: type[BaseEstimator]) -> None:
    signature = inspect.signature(kind)
    documented = re.search(r"Parameters\n-+\n(.*?)\n\nAttributes", inspect.getdoc(kind) or "", re.DOTALL)
    assert documented is not None
    entries = re.findall(r"^(\w+) : (.*)$", documented[1], re.MULTILINE)
    assert [name for name, _ in entries] == list(signature.parameters)
    assert set(kind().get_params(deep=False)) == set(signature.parameters)
    assert set(kind._parameter_constraints) == set(signature.parameters)
    for name, text in entries:
        default = signature.parameters[name].default
        said = text.partition("default=")[2]
        assert said == (f'"{default}"' if isinstance(default, str) else str(default)), name


def test_a_notebook_shows_a_diagram() -> None:
    for model in (classifier(), classifier().fit(X, y), make_pipeline(StandardScaler(), classifier())):
        html = estimator_html_repr(model)
        assert "EquivariantNASClassifier" in html
        assert model._repr_html_() if hasattr(model, "_repr_html_") else html


@pytest.mark.parametrize("search", EACH)
def test_a_notebook_shows_the_learned_symmetry(search: str) -> None:
    learned = classifier(search=search, group="D4", max_epochs=1).fit(X, y).learned_symmetry_
    html = learned._repr_html_()
    assert html.count("<table") == html.count("</table>") >= 2
    for words in (learned.group, "layer 1", "head", "rotation(90)", "mirror(45)"):
        assert words in html
    assert ("evidence" in html.lower()) == (learned.evidence is not None)
    assert "<script" not in html


def test_scores_of_a_cross_validation_are_repeatable() -> None:
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    a, b = (cross_val_score(classifier(search="differentiable", max_epochs=2), X, y, cv=folds) for _ in range(2))
    np.testing.assert_array_equal(a, b)
