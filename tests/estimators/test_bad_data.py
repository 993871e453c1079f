"""Odd and bad data: each works sensibly, or raises the error that scikit-learn raises, with words that help.

More cases that `fit` and `predict` refuse stand in test_estimators.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

import skequinas
from skequinas import EquivariantNASClassifier, EquivariantNASRegressor

pytestmark = pytest.mark.usefixtures("one_thread")

X, y = load_digits(n_class=3, return_X_y=True)
X, y = X[:90], y[:90]
INK = X.sum(axis=1)
SMALL = {"width": 8, "max_epochs": 1, "batch_size": 32, "random_state": 0, "device": "cpu"}


def fit(kind: type, images: Any, target: Any, sample_weight: Any = None, **parameters: Any) -> Any:
    groups = parameters.pop("groups", None)
    return kind(**{"search": "none", **SMALL, **parameters}).fit(images, target, sample_weight, groups)


def given(images: Any = X, target: Any = y, sample_weight: Any = None, **parameters: Any) -> dict[str, Any]:
    """What a case gives to `fit`; what it does not name is sound."""
    return {"images": images, "target": target, "sample_weight": sample_weight, **parameters}


def weights(**changes: float) -> Any:
    values = np.ones(90)
    values[4] = changes.get("fourth", 1.0)
    return values


def objects(last: object) -> Any:
    values = X.astype(object)
    values[5, 6] = last
    return values


REFUSED: dict[str, tuple[dict[str, Any], Any, list[str]]] = {
    "text in X": (given(objects("dark")), ValueError, ["X holds text", "'dark'", "Convert"]),
    "None in X": (given(objects(None)), ValueError, ["X", "NaN"]),
    "a dict in X": (given(objects({})), TypeError, ["dict|argument must be"]),
    "missing values of pandas": (given(pd.DataFrame(X).mask(X > 15)), ValueError, ["NaN"]),
    "a sparse matrix": (given(sp.csr_array(X)), TypeError, ["[Ss]parse", "dense"]),
    "a sparse matrix in another form": (given(sp.coo_matrix(X)), TypeError, ["[Ss]parse", "dense"]),
    "complex images": (given(X.reshape(-1, 8, 8) + 0j), ValueError, ["[Cc]omplex"]),
    "dates": (given(np.full((90, 4), np.datetime64("2020-01-01"))), TypeError, ["X", "datetime64", "numbers"]),
    "X=None": (given(None), ValueError, ["None|array"]),
    "images of unequal sizes": (given([np.ones((3, 3)), np.ones((4, 4))], [0, 1]), ValueError, ["X", "same size"]),
    "squares that overflow": (given(X * 1e200), ValueError, ["X", "Scale X"]),
    "negative infinity": (given(np.where(X > 15, -np.inf, X)), ValueError, ["X", "infinity"]),
    "None among the labels": (given(target=[None, *y[1:]]), ValueError, ["y holds None", "Leave out"]),
    "labels for several outputs": (given(target=np.stack([y, y], 1)), ValueError, ["1d array|should be a 1d"]),
    "labels of another length": (given(target=y[:-1]), ValueError, ["inconsistent", "90", "89"]),
    "labels of mixed kinds": (
        given(target=np.array([0, "a", 1] * 30, dtype=object)),
        TypeError,
        ["y mixes labels", "int, str", "Convert"],
    ),
    "a sparse target": (given(target=sp.csr_array(y[:, None])), (ValueError, TypeError), ["[Ss]parse|dense"]),
    "a negative weight": (given(sample_weight=weights(fourth=-1.0)), ValueError, ["[Nn]egative", "sample_weight"]),
    "a weight that is NaN": (given(sample_weight=weights(fourth=np.nan)), ValueError, ["sample_weight", "NaN"]),
    "an infinite weight": (given(sample_weight=weights(fourth=np.inf)), ValueError, ["sample_weight", "infinity"]),
    "too few weights": (given(sample_weight=np.ones(89)), ValueError, ["sample_weight.shape == \\(89,\\)", "90"]),
    "weights in two columns": (given(sample_weight=np.ones((90, 2))), ValueError, ["[Ss]ample", "1D"]),
    "weights that are all zero": (given(sample_weight=np.zeros(90)), ValueError, ["[Ss]ample.weight", "zero"]),
    "weights that leave one sample": (
        given(sample_weight=np.arange(90) == 3),
        ValueError,
        ["one class|1 samples", "positive"],
    ),
    "weights that leave one class": (given(sample_weight=y == 1), ValueError, ["one class", "1", "Add"]),
    "weights that leave too few for a search": (
        given(sample_weight=np.arange(90) < 3, search="evolutionary"),
        ValueError,
        ["sample_weight", "3 samples", "4"],
    ),
    "words as weights": (given(sample_weight=["a"] * 90), ValueError, ["could not convert|sample_weight"]),
    "a class weight for no class": (given(class_weight={0: 1, 99: 2}), ValueError, ["class_weight", "99", "no class"]),
    "a class weight that is a word": (given(class_weight={0: "heavy"}), ValueError, ["class_weight\\[0\\]", "'heavy'"]),
    "masked pixels": (given(np.ma.masked_greater(X, 12)), TypeError, ["X", "masked", "filled"]),
    "image_shape=(True, 64)": (given(image_shape=(True, 64)), ValueError, ["image_shape", "True", "positive"]),
    "weight_decay=1e30": (given(weight_decay=1e30), ArithmeticError, ["weight_decay=1e\\+30", "Reduce"]),
    "NaN among the pixels": (given(np.where(X > 15, np.nan, X)), ValueError, ["X", "NaN", "nan_to_num"]),
    "NaN among words": (
        given(target=np.array(["a", "b", np.nan] * 30, dtype=object)),
        ValueError,
        ["y holds nan", "Leave out"],
    ),
    "groups of another length": (given(groups=np.arange(89)), ValueError, ["inconsistent", "90", "89"]),
    "a negative class weight": (given(class_weight={0: -1, 1: 1, 2: 1}), ValueError, ["class_weight", ">= 0"]),
    "class weights that are all zero": (given(class_weight={0: 0, 1: 0, 2: 0}), ValueError, ["class_weight", "zero"]),
    "weights that exclude each other": (
        given(sample_weight=y == 2, class_weight={0: 0, 1: 1, 2: 0}),
        ValueError,
        ["class_weight=", "every sample that counts"],
    ),
    "class_weight='fair'": (given(class_weight="fair"), ValueError, ["'class_weight'", "'fair'", "balanced"]),
    "time_budget=0": (given(time_budget=0), ValueError, ["'time_budget'", "0"]),
    "warm_start='yes'": (given(warm_start="yes"), ValueError, ["'warm_start'", "'yes'"]),
    "callback=3": (given(callback=3), ValueError, ["'callback'", "3"]),
    "random_state=-1": (given(random_state=-1), ValueError, ["'random_state'", "-1"]),
    "random_state of a generator": (
        given(random_state=np.random.default_rng(0)),
        ValueError,
        ["'random_state'", "Generator"],
    ),
    "verbose=-1": (given(verbose=-1), ValueError, ["'verbose'", "-1"]),
    "validation_fraction=0": (given(validation_fraction=0.0), ValueError, ["'validation_fraction'", "0.0"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_data_are_refused_with_words_that_help(case: str) -> None:
    case_given, error, words = REFUSED[case]
    with pytest.raises(error) as raised:
        fit(EquivariantNASClassifier, **case_given)
    assert not [word for word in words if not re.search(word, str(raised.value))], str(raised.value)


REFUSED_TARGETS: dict[str, tuple[Any, list[str]]] = {
    "squares that overflow": (INK * 1e300, ["y", "Scale y"]),
    "three axes": (np.ones((90, 2, 2)), ["dim|y"]),
    "text": (["a"] * 90, ["y holds text", "'a'", "EquivariantNASClassifier"]),
    "complex": (INK * 1j, ["[Cc]omplex"]),
}


@pytest.mark.parametrize("case", REFUSED_TARGETS)
def test_bad_targets_are_refused_with_words_that_help(case: str) -> None:
    target, words = REFUSED_TARGETS[case]
    with pytest.raises((ValueError, TypeError)) as raised:
        fit(EquivariantNASRegressor, X, target)
    assert not [word for word in words if not re.search(word, str(raised.value))], str(raised.value)


rng = np.random.default_rng(0)
RARE = np.where(np.arange(90) == 7, 5, y % 2)  # a class that cannot be in both parts of a split
WORKS: dict[str, dict[str, Any]] = {
    "huge weights": given(sample_weight=np.full(90, 1e308)),
    "tiny weights": given(sample_weight=np.full(90, 1e-300)),
    "weights that single precision cannot tell from zero": given(sample_weight=np.where(y == 2, 1e-60, 1.0)),
    "bfloat16": given(torch.from_numpy(X).to(torch.bfloat16)),
    "a class of one sample": given(target=RARE, search="differentiable"),
    "as many classes as samples": given(X[:12], np.arange(12), search="evolutionary"),
    "constant images": given(np.full((30, 5, 5), 7), np.arange(30) % 2, search="evolutionary"),
    "one constant channel": given(np.stack([X, 0 * X, X], -1).reshape(90, 8, 8, 3)),
    "images of one pixel": given(rng.normal(size=(40, 1)), np.arange(40) % 2, search="differentiable"),
    "images of one row": given(rng.normal(size=(40, 1, 9)), np.arange(40) % 2, search="evolutionary", group="D2"),
    "images of one column": given(
        rng.normal(size=(40, 9, 1)), np.arange(40) % 2, sample_weight=np.ones(40), group="D1(0)"
    ),
    "two images": given(X[:2], y[:2]),
    "four images and a search": given(X[:4], [0, 1, 0, 1], search="evolutionary"),
    "large values": given(X * 1e100),
    "tiny values": given(X * 1e-200),
    "large offset": given(X + 1000000000.0),
    "negative values": given(-X),
    "object numbers": given(X.astype(object)),
    "truth values": given(X > 8),
    "big integers": given((X * 2**50).astype(np.int64)),
    "swapped bytes": given(X.astype(">f4"), y.astype(">i4")),
    "labels with gaps": given(target=y * 10**12 - 5),
    "empty strings among the labels": given(target=np.array(["", "a", "b"])[y]),
    "weights of one class alone, small": given(sample_weight=np.where(y == 1, 1e-06, 1.0)),
    "weights as a scalar": given(sample_weight=3.0),
    "weights of whole numbers": given(sample_weight=(1 + y).tolist(), search="differentiable"),
    "more pixels than images": given(np.repeat(X, 16, axis=1)[:10], y[:10]),
    "a mini-batch larger than the data": given(batch_size=10000, search="evolutionary"),
    "a validation part of nearly all": given(search="evolutionary", validation_fraction=0.95),
    "a validation part of nearly nothing": given(search="differentiable", validation_fraction=0.001),
    "early stopping without search": given(early_stopping=True),
}


@pytest.mark.parametrize("case", WORKS)
def test_odd_data_are_learned(case: str) -> None:
    images, labels = WORKS[case]["images"], WORKS[case]["target"]
    model = fit(EquivariantNASClassifier, **WORKS[case])
    probabilities = model.predict_proba(images)
    assert probabilities.shape == (len(images), len(np.unique(labels)))
    assert np.isfinite(probabilities).all()
    assert set(model.predict(images)) <= set(np.unique(labels))
    assert np.isfinite(list(model.learned_symmetry_.measured_change.values())).all()


TARGETS: dict[str, Any] = {
    "a constant": np.full(90, 3.5),
    "whole numbers": y,
    "truth values": y == 1,
    "large values": INK * 1e30,
    "tiny values": INK * 1e-30,
    "a constant among outputs": np.stack([INK, np.full(90, -2.0)], 1),
    "float16": INK.astype(np.float16),
    "a tensor": torch.from_numpy(INK),
}


@pytest.mark.parametrize("case", TARGETS)
def test_odd_targets_are_learned(case: str) -> None:
    target = np.asarray(TARGETS[case])
    model = fit(EquivariantNASRegressor, X, TARGETS[case], search="differentiable")
    found = model.predict(X)
    assert found.shape == target.shape
    assert np.isfinite(found).all()
    if case == "a constant":
        np.testing.assert_allclose(found, 3.5, atol=2)


PREDICTIONS: dict[str, tuple[Any, list[str]]] = {
    "another image size": (np.zeros((3, 9, 9)), [r"\(9, 9\)", r"\(8, 8\)"]),
    "channels last for first": (np.zeros((3, 8, 8, 2)), [r"\(8, 8, 2\)", r"\(8, 8\)"]),
    "another shape of as many pixels": (np.zeros((3, 16, 4)), [r"\(16, 4\)", r"\(8, 8\)"]),
    "one image": (X[0].reshape(8, 8), [r"X\[None\]", r"\(8, 8\)"]),
    "text": (np.full((3, 64), "a"), ["X holds text", "'a'", "Convert"]),
    "None": (None, ["None|array"]),
    "a sparse matrix": (sp.csr_array(X), ["[Ss]parse", "dense"]),
    "NaN": (np.full((3, 64), np.nan), ["X", "NaN"]),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_bad_images_to_predict_are_refused(case: str) -> None:
    images, words = PREDICTIONS[case]
    model = fit(EquivariantNASClassifier, X, y)
    with pytest.raises((ValueError, TypeError)) as raised:
        model.predict(images)
    assert not [word for word in words if not re.search(word, str(raised.value))], str(raised.value)


def test_colours_in_another_order_are_refused() -> None:
    colours = rng.integers(0, 256, (40, 6, 6, 3), dtype=np.uint8)
    model = fit(EquivariantNASClassifier, colours, np.arange(40) % 2)
    with pytest.raises(ValueError, match=r"\(3, 6, 6\).*\(6, 6, 3\)"):
        model.predict(colours.transpose(0, 3, 1, 2))


def test_labels_unseen_in_fit_count_as_mistakes() -> None:
    model = fit(EquivariantNASClassifier, X[y < 2], y[y < 2], max_epochs=10)
    assert model.score(X[y == 2], y[y == 2]) == 0


CALLS: dict[str, Callable[[Any], Any]] = {
    "predict": lambda model: model.predict(X),
    "predict_proba": lambda model: model.predict_proba(X),
    "score": lambda model: model.score(X, y),
    "to_torch": lambda model: model.to_torch(),
    "save": lambda model: skequinas.save(model, "never"),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_unfitted_model_says_so(call: str) -> None:
    with pytest.raises(NotFittedError, match="not fitted"):
        CALLS[call](EquivariantNASClassifier())


def test_a_failed_fit_leaves_the_earlier_model_as_it_was() -> None:
    model = fit(EquivariantNASClassifier, X, y)
    before, attributes = model.predict_proba(X), set(vars(model))
    with pytest.raises(ValueError, match="one class"):
        model.fit(X[:, :49], np.zeros(90))
    np.testing.assert_array_equal(model.predict_proba(X), before)
    assert set(vars(model)) == attributes
    fresh = EquivariantNASClassifier(search="none", **SMALL)
    with pytest.raises(ValueError, match="one class"):
        fresh.fit(X[:, :49], np.zeros(90))
    assert set(vars(fresh)) == set(fresh.get_params())


def test_an_error_within_a_cross_validation_is_told_by_scikit_learn() -> None:
    with pytest.raises(ValueError, match="one class"):
        cross_val_score(EquivariantNASClassifier(search="none", **SMALL), X, y == 5, cv=2, error_score="raise")
