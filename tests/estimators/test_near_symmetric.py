"""What holds for every search holds for those of nearly symmetric networks: files, warm starts, callbacks, budgets."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import skequinas
from skequinas import (
    AdaptiveSearch,
    ConstraintRelaxation,
    EquivariantNASClassifier,
    EquivariantNASRegressor,
    FitProgress,
    FixedStreams,
    LearnedAugmentation,
    NoSearch,
    PenalisedSearch,
    ResidualPathway,
)

pytestmark = pytest.mark.usefixtures("one_thread")

X, y = (values[:150] for values in load_digits(n_class=3, return_X_y=True))
SEARCHES: dict[str, Any] = {
    "adaptive": AdaptiveSearch(),
    "adaptive, kept": AdaptiveSearch(price=1.0, discretize=False),
    "residual": ResidualPathway(),
    "residual, kept": ResidualPathway(normalised=False, residual_decay=1e-2, optimizer="sgd", discretize=False),
    "outputs": PenalisedSearch((1.0,)),
    "labels": PenalisedSearch((1.0,), kind="labels"),
    "latent": PenalisedSearch((1.0,), kind="latent"),
    "augmentation": LearnedAugmentation(2),
    "relaxation": ConstraintRelaxation(),
    "streams": FixedStreams(),
}
LIKE_OTHERS = "residual", "residual, kept", "labels", "latent"
EACH = [pytest.param(name, marks=pytest.mark.exhaustive) if name in LIKE_OTHERS else name for name in SEARCHES]
SETTINGS: dict[str, Any] = {"group": "C4", "width": 16, "max_epochs": 2, "batch_size": 15, "random_state": 0}


def classifier(name: str, **own: Any) -> EquivariantNASClassifier:
    return EquivariantNASClassifier(search=SEARCHES[name], **SETTINGS | own)


@cache
def fitted(name: str, kind: type = EquivariantNASClassifier) -> Any:
    regression = kind is EquivariantNASRegressor
    return kind(search=SEARCHES[name], **SETTINGS).fit(X, X.sum(1) if regression else y)


def is_same(one: Any, other: Any) -> None:
    weights, others = one.network_.state_dict(), other.network_.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert str(one.learned_symmetry_) == str(other.learned_symmetry_)
    np.testing.assert_array_equal(one.predict(X), other.predict(X))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, EquivariantNASClassifier) for name in SEARCHES),
        ("adaptive, kept", EquivariantNASRegressor),
        ("latent", EquivariantNASRegressor),
    ],
)
def test_a_file_holds_the_model_and_its_search(name: str, kind: type, tmp_path: Path) -> None:
    model = fitted(name, kind)
    skequinas.save(model, tmp_path / "model.safetensors")
    other = skequinas.load(tmp_path / "model.safetensors")
    is_same(other, model)
    assert other.architecture_ == model.architecture_
    assert type(other.search) is type(model.search)
    assert json.dumps(other.search.get_params()) == json.dumps(model.search.get_params())  # a tuple may be a list
    assert other.learned_symmetry_.to_dict() == model.learned_symmetry_.to_dict()


@pytest.mark.parametrize("name", [name for name in EACH if "kept" not in str(name)])
def test_a_warm_start_goes_on_with_the_same_network(name: str) -> None:
    model = classifier(name, warm_start=True)
    losses = [float(model.fit(X, y).history_["loss"][-1]) for _ in range(2)]
    assert losses[0] == fitted(name).history_["loss"][-1]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", [name for name in SEARCHES if "kept" in name])
def test_a_warm_start_of_a_network_that_is_kept_says_that_nothing_is_left_to_do(name: str) -> None:
    model = classifier(name, warm_start=True).fit(X, y)
    with pytest.warns(UserWarning, match="warm_start=True trained nothing"):
        model.fit(X, y)
    is_same(model, fitted(name))


@pytest.mark.parametrize("name", EACH)
def test_a_callback_is_told_and_may_stop(name: str) -> None:
    told: list[FitProgress] = []
    model = classifier(name, callback=told.append).fit(X, y)
    is_same(model, fitted(name))
    stages = {progress.stage for progress in told}
    assert "search" in stages or isinstance(SEARCHES[name], NoSearch)
    stopped = classifier(name, callback=lambda progress: True).fit(X, y)
    assert not np.any(stopped.search_results_.get("generation", 0))
    assert stopped.history_.get("epoch", np.ones(1)).tolist() == [1.0]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # so little time does not suffice
@pytest.mark.parametrize("name", ["adaptive", "outputs"])
def test_a_budget_is_kept_and_can_be_done_again(name: str) -> None:
    model = classifier(name, max_epochs=200, time_budget=1.0, width=None).fit(X, y)
    again = classifier(name, max_epochs=200, time_budget=model.budget_record_, width=None).fit(X, y)
    is_same(again, model)


@pytest.mark.parametrize("name", ["adaptive, kept", "residual, kept"])
def test_what_the_norms_say_is_told(name: str) -> None:
    """The shares of all parts in the square of the kernel's norm, which sum to 1, in the report and in its table."""
    symmetry = fitted(name).learned_symmetry_
    assert symmetry.layer_weights is not None
    for shares in symmetry.layer_weights.values():
        assert list(shares)[0] == "C4"
        assert sum(shares.values()) == pytest.approx(1, abs=1e-6)
    frame = symmetry.to_frame("layers")
    assert {"share of C4", "share of C2", "share of C1"} <= set(frame.columns)
