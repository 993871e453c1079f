"""scikit-learn's own checks of an estimator, for both estimators and every search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import SkipTest

import pytest
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from skequinas import (
    AdaptiveSearch,
    EquivariantNASClassifier,
    EquivariantNASRegressor,
    EvolutionarySearch,
    LearnedAugmentation,
    PenalisedSearch,
    RandomSearch,
    ResidualPathway,
)
from skequinas.search.registry import SEARCHES

# the rows of the checks are no images, or only by the number of their columns, and some are repeated
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Rows of"),
    pytest.mark.filterwarnings("ignore:.*nearly equal to others"),
    pytest.mark.filterwarnings("ignore:The network gives the same output"),
]

# most checks fit a few dozen rows of a few numbers, many times
SETTINGS: dict[str, Any] = {"width": 8, "max_epochs": 6, "batch_size": 50, "learning_rate": 0.03, "device": "cpu"}
# the rows are no images, and where the number of their columns does not tell, the data are asked; the controls, which
# keep a group or draw one, are told so
GUIDED, PENALISED, AUGMENTED = EvolutionarySearch(1), PenalisedSearch((1.0,)), LearnedAugmentation(1)
ADAPTIVE, RESIDUAL = (kind(2, epochs_per_generation=0.5) for kind in (AdaptiveSearch, ResidualPathway))
MODELS = [
    kind(group, search, **SETTINGS)
    for kind in (EquivariantNASClassifier, EquivariantNASRegressor)
    for group, search in (
        ("D4", "differentiable"), ("D4", GUIDED), ("C2", ADAPTIVE), ("C2", RESIDUAL),
        ("C2", PENALISED), ("C2", AUGMENTED),
        ("C2", "relaxation"), ("C2", "streams"), ("C1", RandomSearch(1)), ("C1", "random_constraints"), ("C1", "none"),
    )
]  # fmt: skip
assert len(MODELS) == 2 * len(SEARCHES)
SEARCHED = [model for model in MODELS if model.group == "D4"]
CONTROLS = [model for model in MODELS if model not in SEARCHED]
REASONS = {
    "check_sample_weight_equivalence_on_dense_data": (
        "a sample that is repeated is in several mini-batches, one of twice the weight in one: the trainings differ, "
        "as with scikit-learn's own stochastic estimators"
    ),
}


NOT_RUN = {"check_array_api_input"}  # it needs SCIPY_ARRAY_API


def name_of(check: Any) -> str:
    """The name of a check of scikit-learn, which may be a partial function."""
    name: str = getattr(check, "func", check).__name__
    return name


def expected_failures(_: BaseEstimator) -> dict[str, str]:
    """What cannot pass, with the reason."""
    return REASONS


@parametrize_with_checks(SEARCHED, expected_failed_checks=expected_failures)  # strictly: pyproject.toml says so
def test_the_checks_of_scikit_learn_pass(estimator: BaseEstimator, check: Callable[[BaseEstimator], None]) -> None:
    try:
        check(estimator)
    except SkipTest:
        assert name_of(check) in NOT_RUN
        raise


@pytest.mark.exhaustive
@parametrize_with_checks(CONTROLS, expected_failed_checks=expected_failures)
def test_the_checks_of_scikit_learn_pass_for_the_other_searches(
    estimator: BaseEstimator, check: Callable[[BaseEstimator], None]
) -> None:
    test_the_checks_of_scikit_learn_pass(estimator, check)


@pytest.mark.parametrize("estimator", MODELS, ids=str)
def test_at_least_50_checks_pass_for_each(estimator: BaseEstimator) -> None:
    names = [name_of(check) for _, check in estimator_checks_generator(estimator)]
    assert sum(name not in NOT_RUN | REASONS.keys() for name in names) >= 50  # each of these passes, or fails the tests
