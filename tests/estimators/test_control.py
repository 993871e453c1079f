"""Laws of a fit under control: budgets, interruptions, warm starts, callbacks, progress."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import log_loss

from skequinas import (
    DifferentiableSearch,
    EquivariantNASClassifier,
    EquivariantNASRegressor,
    EvolutionarySearch,
    FitProgress,
    RandomSearch,
)
from skequinas.estimators import BaseEquivariantNAS
from skequinas.evidence import measures
from skequinas.io import as_images
from skequinas.nn import Architecture, default_architecture
from skequinas.search import Proposal, Search
from skequinas.training import Batch, DataPart, Monitor

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS, LABELS = load_digits(n_class=3, return_X_y=True)
X, y = DIGITS[:160], LABELS[:160]
SMALL = {"width": 8, "max_epochs": 4, "batch_size": 16, "learning_rate": 0.02, "random_state": 0, "device": "cpu"}
SEARCHES: dict[str, str | Search] = {
    "none": "none",
    "evolutionary": EvolutionarySearch(2, population_size=2),
    "random": RandomSearch(2),
    "differentiable": "differentiable",
    "a mixture": DifferentiableSearch(discretize=False),
}
MAIN = "none", "evolutionary", "differentiable"
EACH = [name if name in MAIN else pytest.param(name, marks=pytest.mark.exhaustive) for name in SEARCHES]
SEARCHING = [name for name in SEARCHES if name != "none"]


def classifier(search: str = "none", **parameters: Any) -> EquivariantNASClassifier:
    return EquivariantNASClassifier(search=SEARCHES.get(search, search), **{**SMALL, **parameters})


# --- budgets ---

SLACK = 2.5
"""Seconds that a busy machine may add to a budget; the law to the mini-batch is that of the exact clock."""


class Clock:
    """A clock that goes on with the mini-batches alone, a second for each; it makes budgets exact."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        loss = Batch.loss

        def slow(batch: Batch, *values: Any) -> torch.Tensor:
            self.now += 1.0
            return loss(batch, *values)

        monkeypatch.setattr(Batch, "loss", slow)


TOO_SHORT = pytest.mark.filterwarnings("ignore:time_budget=:sklearn.exceptions.ConvergenceWarning")


@TOO_SHORT
@pytest.mark.parametrize("search", EACH)
@pytest.mark.parametrize("budget", [60, *(pytest.param(s, marks=pytest.mark.exhaustive) for s in (200, 600))])
def test_a_fit_keeps_to_its_budget_to_the_mini_batch(
    search: str, budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    model = classifier(search, max_epochs=200, time_budget=budget).fit(X, y)
    assert 0.3 * budget < clock.now <= budget + 1
    assert np.isfinite(model.predict_proba(X)).all()
    assert budget < 600 or model.score(X, y) > 0.8
    assert search == "a mixture" or len(model.history_["epoch"]) > 0


@TOO_SHORT
def test_slow_steps_are_not_timed_for_longer_than_the_budget_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with pytest.warns(ConvergenceWarning, match="time_budget=3 seconds leave less than an epoch"):
        classifier(max_epochs=200, time_budget=3).fit(X, y)
    assert clock.now <= 3 + 1  # a step takes a second


@TOO_SHORT
def test_what_follows_the_training_is_within_the_budget() -> None:
    images = np.random.default_rng(0).normal(size=(128, 48, 48)).astype(np.float32)
    model = classifier(max_epochs=200, time_budget=2.0)
    started = time.perf_counter()
    model.fit(images, np.arange(128) % 2)
    assert time.perf_counter() - started < 2.0 + SLACK


@TOO_SHORT
@pytest.mark.parametrize("search", EACH)
def test_a_fit_keeps_to_its_budget(search: str) -> None:
    model = classifier(search, max_epochs=200, time_budget=1.5)
    started = time.perf_counter()
    model.fit(X, y)
    assert time.perf_counter() - started < 1.5 + SLACK
    assert np.isfinite(model.predict_proba(X)).all()  # how good it is depends on the machine


def test_a_budget_that_is_not_needed_changes_nothing() -> None:
    free, bounded = (classifier("evolutionary", time_budget=budget).fit(X, y) for budget in (None, 300))
    np.testing.assert_array_equal(free.predict_proba(X), bounded.predict_proba(X))


def test_the_budget_holds_the_final_training_in_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    slow = EvolutionarySearch(200, epochs_per_generation=4, warmup_epochs=4, guided=False, moves="all", revisit=True)
    model = EquivariantNASClassifier(search=slow, **SMALL | {"max_epochs": 8}, time_budget=1000).fit(X, y)
    assert len(model.search_results_["candidate"]) > 1
    assert 4 < model.history_["epoch"][-1] <= 8
    assert model.score(X, y) > 0.8


def test_a_search_without_time_says_so() -> None:
    search = EvolutionarySearch(1, probe_epochs=500)
    with pytest.warns(ConvergenceWarning, match=r"time_budget=0\.3 seconds.*Increase time_budget"):
        model = EquivariantNASClassifier(search=search, **SMALL, time_budget=0.3).fit(X, y)
    assert model.learned_symmetry_.group == "D4"
    assert not model.search_results_


@TOO_SHORT
@pytest.mark.parametrize("search", ["evolutionary", "differentiable", "random"])
def test_a_budget_that_leaves_no_time_for_a_search_says_so_and_claims_nothing(
    search: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    with pytest.warns(ConvergenceWarning, match="leave no time for a search"):
        model = classifier(search, max_epochs=200, time_budget=30).fit(X, y)
    assert not model.search_results_
    assert model.learned_symmetry_.group == "D4"
    assert model.learned_symmetry_.evidence is None


@TOO_SHORT
@pytest.mark.parametrize("kind", [EquivariantNASClassifier, EquivariantNASRegressor])
def test_a_model_that_had_no_time_to_learn_says_that_it_is_no_better_than_the_simplest(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    targets = y if kind is EquivariantNASClassifier else X[:, 20] - X[:, 30]
    settings = SMALL | {"max_epochs": 50, "search": "none"}
    with pytest.warns(ConvergenceWarning, match="were not enough: the model's error on 160 images"):
        kind(**settings, time_budget=4).fit(X, targets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind(**settings, time_budget=300).fit(X, targets)  # cut short too, but it has learned


@TOO_SHORT
def test_a_short_budget_takes_a_lighter_network_unless_the_user_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    images = DIGITS[:160].reshape(-1, 8, 8).repeat(2, 1).repeat(2, 2)

    def architecture(**settings: Any) -> Architecture:
        given = {name: value for name, value in SMALL.items() if name != "width"} | {"max_epochs": 4} | settings
        return EquivariantNASClassifier(search="none", **given).fit(images, y).architecture_

    light, heavy = (default_architecture("D4", 16, 1, 3, light=light) for light in (True, False))
    assert architecture(time_budget=15) == light
    assert architecture(time_budget=30) == heavy
    assert architecture(time_budget=15, architecture=heavy) == heavy
    assert architecture(time_budget=15, width=64) == heavy


@TOO_SHORT
def test_a_warm_start_goes_on_with_the_lighter_network(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    settings = {name: value for name, value in SMALL.items() if name != "width"} | {"max_epochs": 4}
    settings["label_smoothing"] = 0.0  # a loss that can fall to zero
    model = EquivariantNASClassifier(search="none", **settings, time_budget=15, warm_start=True).fit(X, y)
    light, started, ended = model.architecture_, [model.history_["loss"][0]], [model.history_["loss"][-1]]
    for budget in (15, None):
        model.set_params(time_budget=budget).fit(X, y)
        assert model.architecture_ == light
        started.append(model.history_["loss"][0])
        ended.append(model.history_["loss"][-1])
    assert max(started[1:]) < 0.5 * started[0], "what was learned is there in the first epoch"
    assert ended[2] < ended[0]


@TOO_SHORT
def test_a_short_training_within_its_budget_keeps_its_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty mini-batches in all, and nearly all of the time for them: few, but not for want of time."""
    Clock(monkeypatch)
    model = classifier("evolutionary", time_budget=90).fit(X, y)
    assert len(model.search_results_["candidate"]) > 0


def test_a_mixture_of_a_given_length_may_have_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    search = DifferentiableSearch(mixture_epochs=3, discretize=False)
    free, bounded = (
        EquivariantNASClassifier(search=search, **SMALL, time_budget=budget).fit(X, y) for budget in (None, 1000)
    )
    np.testing.assert_array_equal(free.predict_proba(X), bounded.predict_proba(X))


# --- interruptions ---


class Interruption:
    """A Ctrl-C after so many mini-batches."""

    def __init__(self, after: int) -> None:
        self.left = after

    def step(self, *_: Any) -> bool:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return False


def interrupted(monkeypatch: pytest.MonkeyPatch, model: Any, after: int) -> Any:
    monkeypatch.setattr(Monitor, "step", Interruption(after).step)
    return model


@cache
def n_steps(search: str) -> int:
    """The mini-batches of a whole fit."""
    steps = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "step", lambda *_: next(steps) < 0)
        classifier(search).fit(X, y)
    return next(steps)


@pytest.mark.parametrize("search", ["evolutionary", "random", "differentiable"])
@pytest.mark.parametrize("share", [0.7, pytest.param(0.97, marks=pytest.mark.exhaustive)])
def test_an_interrupted_fit_keeps_the_best_model_and_warns(
    search: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = int(share * n_steps(search))
    model = interrupted(monkeypatch, classifier(search, learning_rate=0.01), after)
    with pytest.warns(UserWarning, match="interrupted.*warm_start=True"):
        assert model.fit(X, y) is model
    assert model.score(X, y) > 0.4
    assert model.learned_symmetry_.group in {str(h) for h in model.architecture_.group.subgroups}
    np.testing.assert_array_equal(model.to_torch()(torch.from_numpy(X).reshape(-1, 1, 8, 8)).shape, (len(X), 3))


@pytest.mark.parametrize("search", EACH)
def test_a_fit_interrupted_at_once_leaves_what_was_there_before(search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, fitted = classifier(search), classifier(search).fit(X, y)
    before = fitted.predict_proba(X)
    for model in (fresh, fitted):
        with pytest.raises(KeyboardInterrupt):
            interrupted(monkeypatch, model, 1).fit(X, y)
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    np.testing.assert_array_equal(fitted.predict_proba(X), before)


@pytest.mark.parametrize("search", EACH)
def test_a_warm_start_interrupted_at_once_keeps_the_earlier_model(search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier(search, warm_start=True).fit(X, y)
    before = model.predict_proba(X)
    interrupted(monkeypatch, model, 1)
    if search == "a mixture":
        with pytest.warns(ConvergenceWarning, match="warm_start=True trained nothing"):
            model.fit(X, y)  # nothing is left to do
    else:
        with pytest.warns(UserWarning, match="interrupted"):
            model.fit(X, y)
    assert log_loss(y, model.predict_proba(X)) <= log_loss(y, before) + 1e-6


def test_an_interruption_after_the_training_keeps_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measures, "measured_change", interrupt)
    with pytest.warns(UserWarning, match="the change of the output is not measured"):
        model = classifier("evolutionary").fit(X, y)
    assert model.score(X, y) > 0.5
    assert all(np.isnan(list(model.learned_symmetry_.measured_change.values())))
    assert np.isnan(model.learned_symmetry_.lie_derivative)


def test_an_interrupted_training_with_early_stopping_keeps_its_best_weights() -> None:
    def interrupt(progress: FitProgress) -> None:
        if progress.epoch == 8:
            raise KeyboardInterrupt

    settings = {"early_stopping": True, "n_iter_no_change": 50, "max_epochs": 30, "learning_rate": 0.3}
    with pytest.warns(UserWarning, match="interrupted"):
        kept = classifier(callback=interrupt, **settings).fit(X, y)
    stopped = classifier(callback=lambda progress: progress.epoch == 8, **settings).fit(X, y)
    assert kept.history_["validation_loss"].argmin() < 7
    np.testing.assert_array_equal(kept.predict_proba(X), stopped.predict_proba(X))


def test_a_training_without_search_that_is_interrupted_keeps_its_last_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = interrupted(monkeypatch, classifier(max_epochs=8), 65)
    with pytest.warns(UserWarning, match="interrupted"):
        model.fit(X, y)
    assert model.history_["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert model.score(X, y) > 0.6


def test_after_an_interruption_the_better_network_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    search = EvolutionarySearch(1, warmup_epochs=12, guided=False)
    model = EquivariantNASClassifier(search=search, **SMALL | {"max_epochs": 4})
    steps = itertools.count()
    monkeypatch.setattr(Monitor, "step", lambda *_: next(steps) < 0)
    model.fit(X, y)
    total = next(steps)
    interrupted(monkeypatch, model, total - 29)  # a little over one epoch of the final training
    with pytest.warns(UserWarning, match="interrupted"):
        model.fit(X, y)
    assert len(model.history_["epoch"]) == 1
    chosen = model.search_.result()
    assert chosen is not None
    outputs = model._for_user(chosen.network).eval().to_plain()(model.preprocessing_(as_images(X, (8, 8))))
    probabilities = model._respond(outputs).double().numpy()
    probabilities /= probabilities.sum(1, keepdims=True)
    assert log_loss(y, model.predict_proba(X)) <= log_loss(y, probabilities) + 1e-6


def test_an_interruption_while_the_mixture_is_tightened_keeps_at_least_the_mixture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The evaluation of the mixture is the best so far, and tightening it has only begun."""
    mixture = classifier("a mixture", max_epochs=12).fit(X, y)

    def step(_: Monitor, stage: Any = None, n_batches: int = 1) -> bool:
        if getattr(stage, "generation", 0) == 1:
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(Monitor, "step", step)
    with pytest.warns(UserWarning, match="interrupted"):
        model = classifier("differentiable", max_epochs=12).fit(X, y)
    assert len(model.search_results_["candidate"]) == 1
    assert model.score(X, y) >= mixture.score(X, y) - 0.02


# --- warm starts ---


def test_a_warm_start_goes_on_after_an_interruption_as_if_there_had_been_none(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = classifier("evolutionary").fit(X, y)
    model = classifier("evolutionary", warm_start=True)

    def step(_: Monitor, proposal: Proposal | None = None) -> bool:
        if proposal is not None and proposal.generation == 1:
            raise KeyboardInterrupt
        return False

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "step", step)
        with pytest.warns(UserWarning, match="interrupted"):
            model.fit(X, y)
    assert len(model.search_results_["candidate"]) < len(whole.search_results_["candidate"])
    model.fit(X, y)
    for name, column in whole.search_results_.items():
        if name != "seconds":
            np.testing.assert_array_equal(model.search_results_[name], column)


def test_a_warm_start_searches_more_generations() -> None:
    search = {"guided": False, "population_size": 2}
    model = EquivariantNASClassifier(search=EvolutionarySearch(1, **search), **SMALL, warm_start=True).fit(X, y)
    few = len(model.search_results_["candidate"])
    model.set_params(search=EvolutionarySearch(2, **search)).fit(X, y)
    more = EquivariantNASClassifier(search=EvolutionarySearch(2, **search), **SMALL).fit(X, y)
    assert few < len(model.search_results_["candidate"]) == len(more.search_results_["candidate"])
    np.testing.assert_array_equal(model.search_results_["constraints"], more.search_results_["constraints"])


@pytest.mark.parametrize("kind", [EquivariantNASClassifier, EquivariantNASRegressor])
def test_a_warm_start_without_search_trains_on(kind: type) -> None:
    target = y if kind is EquivariantNASClassifier else X.sum(axis=1)
    model = kind(search="none", **SMALL | {"max_epochs": 2}, warm_start=True)
    losses = [model.fit(X, target).history_["loss"][-1] for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]
    cold = kind(search="none", **SMALL | {"max_epochs": 1})
    assert cold.fit(X, target).history_["loss"][0] == cold.fit(X, target).history_["loss"][0]


CHANGES: dict[str, tuple[dict[str, Any], Any, Any, str]] = {
    "search": ({"search": "differentiable"}, X, y, "EvolutionarySearch of the earlier fit"),
    "width": ({"width": 16}, X, y, "Keep search, group, image size, width"),
    "image size": ({}, X[:, :49], y, r"images of the shape of the earlier fit, \(8, 8\)"),
    "image turned": ({"image_shape": (4, 16)}, X, y, r"shape \(4, 16\)"),
    "classes": ({}, X, y + 1, "needs the classes of the earlier fit"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_warm_start_cannot_change_the_shape(change: str) -> None:
    parameters, images, labels, words = CHANGES[change]
    model = classifier("evolutionary", warm_start=True, max_epochs=1).fit(X, y)
    before = model.predict_proba(X)
    with pytest.raises(ValueError, match=words):
        model.set_params(**parameters).fit(images, labels)
    np.testing.assert_array_equal(model.predict_proba(X), before)


def test_a_warm_start_of_a_regression_cannot_change_the_number_of_targets() -> None:
    model = EquivariantNASRegressor(search="none", **SMALL, warm_start=True).fit(X, X.sum(axis=1))
    with pytest.raises(ValueError, match=r"warm_start=True needs targets.*, 1 for each image; y has 2"):
        model.fit(X, X[:, :2])


def test_a_warm_start_takes_more_images_and_weights() -> None:
    model = classifier("evolutionary", warm_start=True, early_stopping=True).fit(X, y)
    model.fit(DIGITS[:300], LABELS[:300], sample_weight=1.0 + LABELS[:300])
    assert model.score(DIGITS, LABELS) > 0.5


# --- callbacks ---


@pytest.mark.parametrize("search", EACH)
def test_a_callback_is_told_of_every_generation_and_epoch(search: str) -> None:
    told: list[FitProgress] = []
    model = classifier(search, callback=told.append).fit(X, y)
    searching = [p for p in told if p.stage == "search"]
    training = [p for p in told if p.stage == "training"]
    assert told == searching + training
    assert [p.epoch for p in training] == (model.history_["epoch"].tolist() if model.history_ else [])
    assert [p.generation for p in searching] == list(range(1, len(searching) + 1))
    assert (len(searching) == 0) == (search == "none")
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(told))
    if searching:
        assert searching[-1].n_candidates == len(model.search_results_["candidate"])
        assert searching[-1].best_score == model.search_results_["validation_score"].max()
        assert searching[-1].symmetry == model.learned_symmetry_.group


def test_a_callback_ends_the_search_and_the_training() -> None:
    def stop(progress: FitProgress) -> bool:
        return progress.generation == 1 and progress.epoch is None or progress.epoch == 1

    model = classifier("random", callback=stop).fit(X, y)
    assert model.search_results_["generation"].max() == 0
    assert model.history_["epoch"].tolist() == [1]
    stopped = classifier(callback=lambda progress: np.bool_(progress.epoch == 2)).fit(X, y)
    assert stopped.history_["epoch"].tolist() == [1, 2]
    assert classifier("random", callback=lambda _: "now").fit(X, y).search_results_["generation"].max() == 0
    assert classifier("random", callback=lambda _: 0).fit(X, y).search_results_["generation"].max() == 2


def test_an_error_in_a_callback_is_raised() -> None:
    def fail(_: FitProgress) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        classifier(callback=fail).fit(X, y)


class Listener:
    """A callback for scikit-learn's own protocol."""

    def __init__(self, stop: bool = False) -> None:
        self.heard: list[str] = []
        self.scores: list[float] = []
        self.stop = stop

    def setup(self, estimator: Any, context: Any) -> None:
        self.heard.append("setup")

    def teardown(self, estimator: Any, context: Any) -> None:
        self.heard.append("teardown")

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        self.heard.append(f"begin {context.task_name}")

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, X: Any = None, y: Any = None, fitted_estimator: Any = None
    ) -> bool:
        self.heard.append(f"end {context.task_name}")
        if context.task_name != "fit":
            self.scores.append(fitted_estimator.score(X, y))
        return self.stop


def test_callbacks_of_scikit_learn_are_called() -> None:
    pytest.importorskip("sklearn.callback")
    listener = Listener()
    model = classifier("random", max_epochs=4).set_callbacks(listener).fit(X, y)
    n_generations = model.search_results_["generation"].max() + 1
    tasks = ["generation"] * n_generations + ["epoch"] * 4
    inner = [f"{what} {task}" for task in tasks for what in ("begin", "end")]
    assert listener.heard == ["setup", "begin fit", *inner, "end fit", "teardown"]
    assert listener.scores[-1] == model.score(X, y)
    plain = classifier("random", max_epochs=4).fit(X, y)
    np.testing.assert_array_equal(plain.predict_proba(X), model.predict_proba(X))
    stopped = classifier("random", max_epochs=4).set_callbacks(Listener(stop=True)).fit(X, y)
    assert stopped.search_results_["generation"].max() == 0
    assert stopped.history_["epoch"].tolist() == [1]


# --- progress ---


def test_a_line_is_logged_for_each_candidate(caplog: pytest.LogCaptureFixture) -> None:
    model = classifier("differentiable", verbose=2).fit(X, y)
    lines = [record.getMessage() for record in caplog.records if "validation score" in record.getMessage()]
    assert len(lines) == len(model.search_results_["candidate"])
    logger = logging.getLogger("skequinas")
    assert (logger.level, logger.handlers) == (logging.NOTSET, [])


@pytest.mark.parametrize("verbose", [2, pytest.param(0, marks=pytest.mark.exhaustive)])
def test_the_log_is_shown_where_nobody_has_set_logging_up_and_only_when_asked_for(verbose: int) -> None:
    code = f"""
from sklearn.datasets import load_digits
from skequinas import EquivariantNASClassifier
X, y = load_digits(n_class=3, return_X_y=True)
EquivariantNASClassifier(search="differentiable", width=8, max_epochs=1, verbose={verbose}).fit(X, y)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == ""
    assert done.stderr.count("validation score") == (0 if verbose == 0 else done.stderr.count("candidate "))
    assert (done.stderr == "") == (verbose == 0)


def test_logging_that_the_user_has_set_up_is_left_alone(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="skequinas"):
        classifier("differentiable").fit(X, y)
    assert caplog.records == []  # silent, unless the user asks
    with caplog.at_level(logging.DEBUG, logger="skequinas"):
        model = classifier("differentiable").fit(X, y)
    assert len([r for r in caplog.records if "validation score" in r.getMessage()]) == len(
        model.search_results_["candidate"]
    )
    assert capsys.readouterr().err == ""


def test_without_verbose_there_is_no_bar_whose_lock_a_killed_process_could_keep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def bar(*args: object, **options: object) -> None:
        raise AssertionError

    monkeypatch.setattr("skequinas.training.monitor.tqdm", bar)
    assert np.isfinite(classifier("random").fit(X, y).predict_proba(X)).all()
    with pytest.raises(AssertionError):
        classifier("random", verbose=1).fit(X, y)


def test_the_progress_bar_shows_what_is_searched_the_score_the_symmetry_and_the_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    classifier("evolutionary", verbose=1).fit(X, y)
    shown = capsys.readouterr().err
    for words in ("generation ", "final training", "best score", "symmetry ", "100%", "<00:00"):
        assert words in shown, words


@pytest.mark.parametrize("function", ["_report"])
def test_a_fit_that_fails_leaves_the_state_of_torch_alone(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(BaseEquivariantNAS, function, fail)
    torch.set_num_threads(1)
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        classifier("random", verbose=2).fit(X, y)
    assert torch.equal(torch.get_rng_state(), before)
    assert (torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype()) == (True, 1, torch.float32)
    assert logging.getLogger("skequinas").handlers == []


CONTEXTS: dict[str, Callable[[], Any]] = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_fit_where_gradients_are_off_is_the_same(context: str) -> None:
    expected = classifier("differentiable").fit(X, y).predict_proba(X)
    with CONTEXTS[context]():
        model = classifier("differentiable").fit(X, y)
        assert not torch.is_grad_enabled()
    np.testing.assert_array_equal(model.predict_proba(X), expected)


def test_another_default_type_or_device_is_left_alone() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        model = classifier("evolutionary").fit(X, y)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.score(X, y) > 0.4
    with torch.device("meta"):
        model = classifier("evolutionary").fit(X, y)
        assert torch.empty(0).device.type == "meta"
        answers, features = model.predict_proba(X), model.transform(X)
    np.testing.assert_array_equal(model.predict_proba(X), answers)
    np.testing.assert_array_equal(model.transform(X), features)


class Scarce:
    """Memory that does not suffice for mini-batches of more than so many images, but for some calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int, error: Exception) -> None:
        self.most, self.error = most, error
        take = DataPart.batch

        def batch(part: DataPart, rows: torch.Tensor) -> Any:
            if torch.is_grad_enabled() and len(rows) > self.most:
                raise self.error
            return take(part, rows)

        monkeypatch.setattr(DataPart, "batch", batch)


SHORT = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", SHORT, ids=["numpy", "CUDA", "CPU"])
def test_where_memory_is_short_batches_are_halved_once(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    X, y = load_digits(n_class=3, return_X_y=True)
    settings: dict[str, Any] = {"search": EvolutionarySearch(guided=False, n_generations=1), "random_state": 0}
    settings |= {"group": "C2", "max_epochs": 1, "averaging": "none"}
    expected = EquivariantNASClassifier(**settings, batch_size=16).fit(X, y)
    with monkeypatch.context() as patch:
        Scarce(patch, 18, error)
        with pytest.warns(UserWarning, match="Memory did not suffice for mini-batches of 32 images") as warned:
            found = EquivariantNASClassifier(**settings, batch_size=32).fit(X, y)
        assert "candidate 0 was trained with 16" in str(warned[0].message)
        assert "the model is trained with 16" in str(warned[-1].message)
    np.testing.assert_array_equal(found.predict_proba(X), expected.predict_proba(X))
    with monkeypatch.context() as patch:
        Scarce(patch, 4, error)
        with pytest.warns(UserWarning, match="dropped"), pytest.raises(MemoryError, match="for any candidate"):
            EquivariantNASClassifier(**settings, batch_size=32).fit(X, y)
        none = settings | {"search": "none"}
        with (
            pytest.warns(UserWarning, match="trained with 16"),
            pytest.raises(MemoryError, match="batches of 16 images either. Reduce batch_size=32 or width"),
        ):
            EquivariantNASClassifier(**none, batch_size=32).fit(X, y)


def test_other_errors_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    Scarce(monkeypatch, 18, RuntimeError("something else"))
    for search in ("none", "evolutionary"):
        with pytest.raises(RuntimeError, match="something else"):
            EquivariantNASClassifier("C2", search, max_epochs=1, batch_size=32).fit(*load_digits(return_X_y=True))
