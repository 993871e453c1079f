"""Any estimator, made symmetric from outside: exact invariance, poses that are learned, and scikit-learn's checks."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_digits
from sklearn.ensemble import BaggingRegressor, ExtraTreesClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from skequinas import SymmetrizedClassifier, SymmetrizedRegressor
from skequinas.datasets import make_planted_symmetry
from skequinas.estimators.preparation import images_of
from skequinas.groups import PointGroup
from skequinas.io import stored
from skequinas.nn import transform_images
from skequinas.symmetrized import ordered_orbits

pytestmark = pytest.mark.usefixtures("one_thread")

MODES = "average", "augment", "canonical", "weighted"
D4 = PointGroup.from_name("D4")
DIGITS, LABELS = load_digits(return_X_y=True)
IMAGES = DIGITS.reshape(-1, 8, 8)


def moved(images: NDArray[Any], element: int, group: PointGroup = D4, axes: tuple[int, int] = (1, 2)) -> NDArray[Any]:
    """Images whose rows and columns are on two axes, by an element."""
    last = np.moveaxis(images, axes, (-2, -1))
    own = transform_images(torch.from_numpy(np.ascontiguousarray(last)), group, element).numpy()
    return np.ascontiguousarray(np.moveaxis(own, (-2, -1), axes))


# the rows of the checks are no images, or only by the number of their columns
@pytest.mark.filterwarnings("ignore:Rows of")
@parametrize_with_checks(
    [
        SymmetrizedClassifier(LogisticRegression(max_iter=2000)),
        SymmetrizedClassifier(RidgeClassifier(), "C4", "weighted", max_epochs=0.1),
        SymmetrizedRegressor(Ridge()),
        SymmetrizedRegressor(LinearRegression(), "D1(0)", "canonical", max_epochs=0.1),
    ]
)
def test_the_checks_of_scikit_learn_pass(estimator: BaseEstimator, check: Callable[[BaseEstimator], None]) -> None:
    check(estimator)


# --- invariance ---


CLASSIFIERS = {
    "forest": RandomForestClassifier(10, random_state=0),
    "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=30, tol=1e-1)),
    "neighbours": KNeighborsClassifier(3),
    "decision function": SVC(),
    "linear": LinearSVC(random_state=0, tol=1e-2),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("forest", "decision function") else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in CLASSIFIERS
    ],
)
def test_moved_images_have_the_same_prediction_to_the_bit(name: str, mode: Any) -> None:
    model = SymmetrizedClassifier(CLASSIFIERS[name], "D4", mode, max_epochs=1, random_state=0)
    model.fit(IMAGES[:150], LABELS[:150])
    asked, method = IMAGES[150:300], "predict_proba" if hasattr(model, "predict_proba") else "decision_function"
    expected = getattr(model, method)(asked)
    if mode != "canonical":  # there the estimator's own rule is taken
        np.testing.assert_array_equal(model.predict(asked), model.classes_[expected.argmax(1)])
    for g in D4.elements:
        np.testing.assert_array_equal(getattr(model, method)(moved(asked, g)), expected)
    assert len(np.unique(expected.round(6), axis=0)) > 30


@pytest.mark.parametrize(
    "mode", ["average", "augment", "weighted", pytest.param("canonical", marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize("targets", [2, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_regressions_are_invariant_too(mode: Any, targets: int) -> None:
    y = np.stack([DIGITS.sum(1), IMAGES[:, :4].sum((1, 2))], 1)[:, :targets].squeeze()
    forest = RandomForestRegressor(10, random_state=0)
    model = SymmetrizedRegressor(forest, "D4", mode, max_epochs=1, random_state=0).fit(IMAGES[:150], y[:150])
    expected = model.predict(IMAGES[150:300])
    assert expected.shape == y[150:300].shape
    assert model.score(IMAGES[150:300], y[150:300]) > -1
    for g in D4.elements:
        np.testing.assert_array_equal(model.predict(moved(IMAGES[150:300], g)), expected)


def test_the_mean_is_that_of_what_the_estimator_says_of_the_copies() -> None:
    forest = RandomForestClassifier(10, random_state=0)
    model = SymmetrizedClassifier(forest, "C4").fit(IMAGES[:150], LABELS[:150])
    alone, c4 = clone(forest).fit(DIGITS[:150], LABELS[:150]), PointGroup.from_name("C4")
    said = [alone.predict_proba(moved(IMAGES[150:], g, c4).reshape(-1, 64)) for g in c4.elements]
    np.testing.assert_allclose(model.predict_proba(IMAGES[150:]), np.mean(said, 0), atol=1e-12)


@pytest.mark.parametrize("mode", ["augment", "weighted", pytest.param("canonical", marks=pytest.mark.exhaustive)])
def test_moved_training_images_give_the_same_model_to_the_bit(mode: Any) -> None:
    rng = np.random.default_rng(0)
    others = np.concatenate([moved(x[None], g) for x, g in zip(IMAGES[:100], rng.integers(8, size=100), strict=True)])
    forest = RandomForestClassifier(10, random_state=0)
    model = SymmetrizedClassifier(forest, "D4", mode, max_epochs=1, random_state=0)
    expected = clone(model).fit(IMAGES[:100], LABELS[:100]).predict_proba(IMAGES[100:])
    np.testing.assert_array_equal(model.fit(others, LABELS[:100]).predict_proba(IMAGES[100:]), expected)


@pytest.mark.parametrize(
    "dtype",
    [np.uint8, np.float64, *(pytest.param(t, marks=pytest.mark.exhaustive) for t in (np.float32, np.int16, bool))],
)
@pytest.mark.parametrize(
    "layout", ["first", "grey", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("last", "wide"))]
)
def test_images_in_every_form(layout: str, dtype: Any) -> None:
    images = (255 * np.random.default_rng(0).random((60, 6, 6, 3))).astype(dtype)
    axes, group = (1, 2), "D4"
    if layout == "first":
        images, axes = np.moveaxis(images, 3, 1), (2, 3)
    elif layout == "grey":
        images = images[..., 0]
    elif layout == "wide":
        images, group = images[:, :5], "D2"
    y = np.arange(60) % 3
    model = SymmetrizedClassifier(KNeighborsClassifier(3), group, "canonical", max_epochs=0.1, random_state=0)
    expected = model.fit(images, y).predict_proba(images)
    for g in PointGroup.from_name(group).elements:
        found = model.predict_proba(moved(images, g, PointGroup.from_name(group), axes))
        np.testing.assert_array_equal(found, expected)
    elements, canonical = model.canonicalize(images)
    assert canonical.shape == images.shape
    for i, g in enumerate(elements[:10]):  # moved back they are those of before
        np.testing.assert_array_equal(moved(canonical[i : i + 1], g, model.group_, axes)[0], images[i])


def test_the_copies_of_an_image_have_one_order() -> None:
    images = torch.from_numpy(np.ascontiguousarray(IMAGES[:, None]))
    copies, elements = ordered_orbits(images, D4)
    for g in D4.elements:
        others, own = ordered_orbits(transform_images(images, D4, g), D4)
        assert torch.equal(copies, others)
        whole = np.array([[D4.multiply(e, g) for e in row] for row in own])
        several = [len(torch.unique(c, dim=0)) == 8 for c in copies]  # of images without a symmetry of their own
        assert np.mean(several) > 0.9
        np.testing.assert_array_equal(whole[several], elements[several])
    moves = transform_images(images[:1], D4, int(elements[0, 3]))
    assert torch.equal(moves[0], copies[0, 3])


class _Voter(ClassifierMixin, BaseEstimator):
    """A classifier with neither probabilities nor a decision function."""

    def fit(self, X: Any, y: Any) -> _Voter:
        self.neighbours_ = KNeighborsClassifier(1).fit(X, y)
        self.classes_ = self.neighbours_.classes_
        return self

    def predict(self, X: Any) -> Any:
        return self.neighbours_.predict(X)


def test_without_probabilities_the_copies_vote() -> None:
    model = SymmetrizedClassifier(_Voter(), "D4").fit(IMAGES[:150], LABELS[:150])
    assert not hasattr(model, "predict_proba")
    assert not hasattr(model, "decision_function")
    expected = model.predict(IMAGES[150:])
    votes = [model.estimator_.predict(moved(IMAGES[150:], g).reshape(-1, 64)) for g in D4.elements]
    counts = np.stack([(np.array(votes) == label).sum(0) for label in range(10)], 1)
    np.testing.assert_array_equal(expected, counts.argmax(1))
    np.testing.assert_array_equal(model.predict(moved(IMAGES[150:], 3)), expected)


@pytest.mark.parametrize("estimator", [SVC(), LogisticRegression(max_iter=30, tol=1e-1)])
def test_two_classes(estimator: Any) -> None:
    X, y = IMAGES[LABELS < 2], np.array(["no", "yes"])[LABELS[LABELS < 2]]
    model = SymmetrizedClassifier(estimator, "D4").fit(X, y)
    assert model.score(X, y) > 0.95
    assert model.decision_function(X).shape == (len(X),)
    np.testing.assert_array_equal(model.decision_function(moved(X, 5)), model.decision_function(X))


def test_what_has_a_rule_of_its_own_votes_by_it() -> None:
    X, y = IMAGES[LABELS < 3], LABELS[LABELS < 3]
    pairs = SVC(decision_function_shape="ovo")  # three columns for three pairs of three classes
    assert SymmetrizedClassifier(pairs, "C4", "augment").fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.95
    binary = y < 1
    strict = FixedThresholdClassifier(RandomForestClassifier(20, max_depth=2, random_state=0), threshold=0.9)
    alone = clone(strict).fit(X[::2].reshape(-1, 64), binary[::2]).predict(X[1::2].reshape(-1, 64))
    for mode in ("average", "canonical"):
        model = SymmetrizedClassifier(strict, "C1", mode).fit(X[::2], binary[::2])
        np.testing.assert_array_equal(model.predict(X[1::2]), alone)
    model = SymmetrizedClassifier(strict, "C2").fit(X[::2], binary[::2])
    order = np.argsort(binary[::2], kind="stable")  # sorted by class
    ordered = SymmetrizedClassifier(strict, "C2").fit(X[::2][order], binary[::2][order])
    assert ordered._rule == model._rule == "predict"
    votes = [model.estimator_.predict(x.reshape(-1, 64)) for x in (X[1::2], X[1::2, ::-1, ::-1])]
    np.testing.assert_array_equal(model.predict(X[1::2])[votes[0] == votes[1]], votes[0][votes[0] == votes[1]])


def test_images_in_files_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forest = RandomForestClassifier(5, random_state=0)
    for mode in ("augment", "canonical"):
        model = SymmetrizedClassifier(forest, "C4", mode, max_epochs=0.2, random_state=0)
        expected = model.fit(IMAGES[:200], LABELS[:200]).predict_proba(IMAGES[:300])
        with monkeypatch.context() as patch:
            patch.setattr(stored, "_LARGE", 1000)
            np.testing.assert_array_equal(model.fit(IMAGES[:200], LABELS[:200]).predict_proba(IMAGES[:300]), expected)
            holed = IMAGES[:200].copy()
            holed[7, 3, 3] = np.nan
            with pytest.raises(ValueError, match=r"Input X contains NaN \(image 7\)"):
                model.fit(holed, LABELS[:200])
    np.testing.assert_array_equal(model.predict_proba(IMAGES[:300]), expected)  # a fit that fails leaves it as it was


def test_memory_is_a_few_times_that_of_what_the_estimator_gets() -> None:
    X = np.random.default_rng(0).integers(256, size=(100, 96, 96, 3), dtype=np.uint8)
    model = SymmetrizedClassifier(_Voter(), "D4", "canonical", max_epochs=0.01, random_state=0)
    model.fit(X[:20], np.arange(20) % 2)
    tracemalloc.start()
    model._chosen(images_of(X, model.image_shape_), np.arange(100) % 2, None, 0)
    numpy_peak = tracemalloc.get_traced_memory()[1]  # torch's own is not seen
    tracemalloc.stop()
    assert numpy_peak < 12 * X.nbytes


# --- poses ---


def turned() -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Digits, each by quarter turns of its own, and how many."""
    turns = np.random.default_rng(0).integers(4, size=len(IMAGES))
    return np.stack([np.rot90(x, k) for x, k in zip(IMAGES, turns, strict=True)]), turns


def test_poses_are_learned_that_help_and_mean_something() -> None:
    X, turns = turned()
    linear, parts = LogisticRegression(max_iter=100, tol=1e-2), (slice(0, 400), slice(400, 1200))
    scores = {}
    for mode in ("augment", "weighted", "canonical"):
        model = SymmetrizedClassifier(linear, "C4", mode, max_epochs=6, random_state=0)
        model.fit(X[parts[0]], LABELS[parts[0]])
        scores[mode] = model.score(X[parts[1]], LABELS[parts[1]])
    assert min(scores["canonical"], scores["weighted"]) > scores["augment"] + 0.08
    elements, _ = model.canonicalize(X[parts[1]])
    joint = np.histogram2d(elements, turns[parts[1]], 4, density=False)[0] / len(elements)
    independent = joint.sum(0) * joint.sum(1)[:, None]
    information = (joint * np.log(np.where(joint, joint / independent, 1.0))).sum()
    assert information > 0.1  # of 1.4: which way is up nobody said, and 0, 1 and 8 have half turns of their own


@pytest.mark.parametrize("mode", ["canonical", pytest.param("weighted", marks=pytest.mark.exhaustive)])
def test_canonical_images_are_the_same_for_all_copies(mode: Any) -> None:
    model = SymmetrizedClassifier(KNeighborsClassifier(3), "D4", mode, max_epochs=1, random_state=0)
    model.fit(DIGITS[:150], LABELS[:150])
    rows, images = DIGITS[150:300], IMAGES[150:300]
    elements, canonical = model.canonicalize(rows)
    assert canonical.shape == rows.shape
    several = [len(torch.unique(c, dim=0)) == 8 for c in ordered_orbits(torch.from_numpy(images[:, None]), D4)[0]]
    for g in D4.elements:
        others, same = model.canonicalize(moved(images, g).reshape(-1, 64))
        np.testing.assert_array_equal(same, canonical)
        np.testing.assert_array_equal(others[several], [D4.multiply(g, e) for e in elements[several]])
    assert len(np.unique(elements)) > 1


def test_a_group_without_moves_changes_nothing() -> None:
    forest = RandomForestClassifier(10, random_state=0)
    expected = clone(forest).fit(DIGITS[:150], LABELS[:150]).predict_proba(DIGITS[150:])
    for mode in MODES:
        model = SymmetrizedClassifier(forest, "C1", mode, random_state=0).fit(IMAGES[:150], LABELS[:150])
        np.testing.assert_array_equal(model.predict_proba(IMAGES[150:]), expected)
    elements, images = model.canonicalize(IMAGES)
    assert not elements.any()
    np.testing.assert_array_equal(images, IMAGES)


# --- as others are used ---


@pytest.mark.exhaustive
def test_the_group_may_be_asked_of_the_data() -> None:
    chosen = np.isin(LABELS, (2, 4, 5, 7))  # digits without a symmetry of their own
    X, y = make_planted_symmetry(IMAGES[chosen][:500], subgroup="D1(90)", random_state=0)
    forest = ExtraTreesClassifier(20, random_state=0)
    model = SymmetrizedClassifier(forest, "learned", "augment", random_state=0).fit(X, y)
    assert model.group_.name == model.learned_symmetry_.group == "D1(90)"
    np.testing.assert_array_equal(model.predict(X[:, :, ::-1]), model.predict(X))
    assert not hasattr(model.set_params(group="C2").fit(X, y), "learned_symmetry_")


@pytest.mark.parametrize("mode", MODES)
def test_weights_reach_the_estimator(mode: Any) -> None:
    rng = np.random.default_rng(0)
    weights, X, y = np.r_[np.ones(100), np.zeros(100)], IMAGES[:200], LABELS[:200].copy()
    y[100:] = rng.permutation(y[100:])
    model = SymmetrizedClassifier(LogisticRegression(max_iter=30, tol=1e-1), "C2", mode, max_epochs=1, random_state=0)
    model.fit(X, y, weights)
    assert model.score(X[:100], y[:100]) > model.score(X[100:], y[100:]) + 0.2
    if mode != "weighted":  # there others are drawn
        alone = clone(model).fit(X[:100], y[:100])
        np.testing.assert_allclose(model.predict_proba(X), alone.predict_proba(X), atol=0.02)


def test_a_step_of_a_pipeline_takes_weights_by_its_name() -> None:
    weights = np.r_[np.ones(100), np.zeros(100)]
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=30, tol=1e-1))
    for mode in ("augment", "weighted"):
        model = SymmetrizedClassifier(pipeline, "C2", mode, max_epochs=0.2, random_state=0)
        own = {"logisticregression__sample_weight": weights}
        plain = clone(model).fit(IMAGES[:200], LABELS[:200]).predict_proba(IMAGES)
        assert np.abs(model.fit(IMAGES[:200], LABELS[:200], **own).predict_proba(IMAGES) - plain).max() > 0.05
    with config_context(enable_metadata_routing=True):
        step = LogisticRegression(max_iter=30, tol=1e-1).set_fit_request(sample_weight=True)
        asked = make_pipeline(FunctionTransformer(), step)
        model = SymmetrizedClassifier(asked, "C2", "augment").fit(IMAGES[:200], LABELS[:200], sample_weight=weights)
        orbits, _ = ordered_orbits(torch.from_numpy(IMAGES[:200, None]), model.group_)
        alone = clone(step).fit(orbits.reshape(400, 64).numpy(), np.repeat(LABELS[:200], 2), np.repeat(weights, 2))
        np.testing.assert_allclose(model.estimator_[-1].coef_, alone.coef_, atol=1e-6)
        with pytest.raises(UnsetMetadataPassedError):
            SymmetrizedClassifier(LogisticRegression()).fit(IMAGES[:200], LABELS[:200], sample_weight=weights)


def test_weights_of_nothing_are_of_no_images() -> None:
    y = DIGITS[:300].sum(1)
    weights = np.r_[np.ones(250), np.zeros(50)]
    far = np.where(weights > 0, y, 1e6)
    model = SymmetrizedRegressor(Ridge(), "C4", "canonical", max_epochs=1, random_state=0)
    poses = [model.fit(IMAGES[:300], own, weights).canonicalize(IMAGES)[0] for own in (y, far)]
    np.testing.assert_array_equal(*poses)
    with pytest.raises(ValueError, match=r"sample_weight must not be negative.*mode='canonical' learns poses"):
        model.fit(IMAGES[:300], y, -weights)


def test_several_numbers_go_through_searches_and_ensembles() -> None:
    y = np.stack([DIGITS.sum(1), DIGITS[:, :32].sum(1)], 1)
    for estimator in (GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=2), BaggingRegressor(Ridge(), 3)):
        assert SymmetrizedRegressor(estimator, "C2").fit(IMAGES[:200], y[:200]).predict(IMAGES).shape == y.shape


def test_rows_that_are_no_squares_have_no_symmetry_to_learn() -> None:
    with pytest.warns(UserWarning, match="Rows of 10 values are no square image"):
        model = SymmetrizedClassifier(RidgeClassifier(), "learned", random_state=0).fit(DIGITS[:60, 20:30], LABELS[:60])
    assert model.group_.name == "C1"


def test_images_may_stay_images_for_the_estimator() -> None:
    seen = []

    def features(images: NDArray[Any]) -> NDArray[Any]:
        seen.append(images.shape[1:])
        return images.mean((1, 3)) + images.std((2, 3))

    pipeline = make_pipeline(FunctionTransformer(features), KNeighborsClassifier(3))
    X = np.stack([IMAGES, IMAGES[:, ::-1]], -1)[:100]
    SymmetrizedClassifier(pipeline, flatten=False).fit(X, LABELS[:100]).predict(X)
    assert set(seen) == {(8, 8, 2)}


def test_in_a_grid_search_and_pickled() -> None:
    forest = RandomForestClassifier(5, random_state=0)
    grid = {"group": ["C1", "D1(90)", "C2"], "mode": ["average", "augment"], "estimator__max_depth": [2, None]}
    search = GridSearchCV(SymmetrizedClassifier(forest), grid, cv=2).fit(DIGITS[:200], LABELS[:200])
    assert search.best_params_["estimator__max_depth"] is None
    model = SymmetrizedClassifier(forest, mode="weighted", max_epochs=1, random_state=0).fit(DIGITS[:100], LABELS[:100])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(DIGITS), model.predict_proba(DIGITS))


def test_the_random_state_fixes_the_model() -> None:
    fits = [
        SymmetrizedClassifier(RidgeClassifier(), mode="weighted", max_epochs=0.2, random_state=seed)
        .fit(DIGITS[:100], LABELS[:100])
        .decision_function(DIGITS[:200])
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(fits[0], fits[1])
    assert not np.array_equal(fits[0], fits[2])


def test_errors_say_what_to_do() -> None:
    forest = RandomForestClassifier(2)
    with pytest.raises(ValueError, match=r"group='C8' has elements that interpolate.*group='C4'"):
        SymmetrizedClassifier(forest, "C8").fit(DIGITS, LABELS)
    with pytest.raises(ValueError, match="sample_weight was given, but KNeighborsClassifier has none"):
        SymmetrizedClassifier(KNeighborsClassifier()).fit(DIGITS, LABELS, np.ones(len(LABELS)))
    with pytest.raises(ValueError, match=r"mode='average' learns no pose.*mode='canonical'"):
        SymmetrizedClassifier(forest).fit(DIGITS, LABELS).canonicalize(DIGITS)
    with pytest.raises(ValueError, match=r"estimator=Ridge\(\) is none for SymmetrizedClassifier. Take SymmetrizedReg"):
        SymmetrizedClassifier(Ridge()).fit(DIGITS, LABELS)
    with pytest.raises(ValueError, match="is none for SymmetrizedRegressor. Take SymmetrizedClassifier"):
        SymmetrizedRegressor(forest).fit(DIGITS, LABELS)
    with pytest.raises(ValueError, match="The 'mode' parameter of SymmetrizedClassifier must be a str among"):
        SymmetrizedClassifier(forest, mode="mean").fit(DIGITS, LABELS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="X has images of shape"):
        SymmetrizedClassifier(forest).fit(IMAGES, LABELS).predict(IMAGES[:, :4])
    with pytest.warns(UserWarning, match="Images of 4x8 pixels cannot be moved by all of D4: group='D2'"):
        assert SymmetrizedClassifier(forest).fit(IMAGES[:, :4], LABELS).group_.name == "D2"
