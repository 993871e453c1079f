"""How a fit with a time budget is planned: what is timed, and what is shortened so that all of it fits."""

from __future__ import annotations

import time
from abc import ABC
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skequinas.nn.architecture import Architecture
from skequinas.nn.networks import EquivariantNetwork
from skequinas.runtime.devices import is_out_of_memory
from skequinas.search import Search
from skequinas.training import DataPart, DivergenceError, FitProgress, Monitor, Split, TrainingSettings, train
from skequinas.training.data import n_steps
from skequinas.training.settings import halved, warn_of_memory

__all__ = ["FEW_STEPS", "MEASURED_IMAGES", "BudgetPlan", "Planned", "begin_watching", "checked_record"]

_FEWEST = 32
"""Held-out images that a search is given at least, if there are so many."""

FEW_STEPS = 40
"""After fewer steps the running statistics of batch norm still lag behind the weights, and are taken anew."""

_STEPS_WANTED = 100
"""Mini-batches that a training should have; with a small time budget they are smaller instead of fewer."""

_LARGE = 10_000
"""Values in an image from which on a mini-batch takes long enough to be timed in part."""

MEASURED_IMAGES = 512
"""On how many images the change under every element is measured, at most."""


@dataclass(frozen=True)
class BudgetPlan:
    """What was planned for a time budget, by what was timed on that machine.

    Parameters
    ----------
    is_light : bool
        Whether the network is the lighter one.
    batch_size : int
    averaging : bool
        Whether the search may try the second way.
    epochs : float
        The length of a full training.
    n_validation : int or None
        How many held-out units the search sees.
    n_measured : int
        On how many images the change under every element is measured.
    skips_search, is_hurried : bool
        Whether there is no time for a search; whether there is less time than asked for.
    step_seconds, report_seconds, mixed_cost : float
        A training step, the report, and a step of a mixture in steps of a constrained network.
    """

    is_light: bool
    batch_size: int
    averaging: bool
    epochs: float
    n_validation: int | None
    n_measured: int
    skips_search: bool
    is_hurried: bool
    step_seconds: float
    report_seconds: float
    mixed_cost: float


def checked_record(time_budget: Any) -> dict[str, Any] | None:
    """The record of an earlier fit with a time budget, if that is what was given instead of seconds.

    Raises
    ------
    ValueError
        When it is none.
    """
    if not isinstance(time_budget, dict):
        return None
    names = {"seconds", "plan", "cuts", "final_epochs", "halved"}
    plan = time_budget.get("plan")
    if set(time_budget) != names or not isinstance(plan, dict) or set(plan) != {f.name for f in fields(BudgetPlan)}:
        raise ValueError(
            f"time_budget={time_budget!r} is no record of a fit. Give seconds, or the budget_record_ of a fitted model."
        )
    return time_budget


def begin_watching(
    verbose: int, time_budget: float | dict[str, Any] | None, callback: Callable[[FitProgress], bool | None] | None
) -> Monitor:
    """What watches a fit, by the clock, or by the record of an earlier fit."""
    record = checked_record(time_budget)
    if record is not None:
        return Monitor(verbose, record["seconds"], callback, record=record)
    assert not isinstance(time_budget, dict)
    return Monitor(verbose, time_budget, callback)


class Planned(ABC):
    """The part of a fit that plans, see `skequinas.estimators.session.Session`."""

    search: Search
    split: Split
    training: TrainingSettings
    epochs: float
    asked_epochs: float
    seed: int
    monitor: Monitor
    validation: DataPart | None
    n_measured: int
    _step_seconds: float
    _report_seconds: float
    _hurried: bool
    _is_light: bool = False  # whether the lighter network was taken
    _skips_search: bool
    _validation_is_unseen: bool

    def n_batches(self, trainings: float) -> int:
        """The mini-batches of so many full trainings."""
        return n_steps(len(self.split.whole), trainings * self.epochs, self.training.batch_size)

    def shrink_to_budget(self, lighter: Architecture | None = None) -> None:
        """With a time budget, time a few steps, and shorten search and training alike where they would not fit.

        Where even half of them would not fit, the lighter network is taken if there is one, and mini-batches that are
        small enough for a hundred steps, or of sixteen images.
        """
        budget = self.monitor.time_budget
        assert budget is not None
        data = self.split.whole
        network = self._new(self.search.architecture_)
        self._step_seconds = self._time_step(network, budget / 20)
        needed = (1 + self.search.full_cost()) * self.n_batches(1) * self._step_seconds
        if needed > budget - self.monitor.seconds:
            self.search.averaging_ = False  # one way to a model, in full
            needed = (1 + self.search.full_cost()) * self.n_batches(1) * self._step_seconds
        if lighter is not None and needed > 2 * (budget - self.monitor.seconds):
            network, self._is_light = self._begin_again(lighter, self.training), True
            affordable = (budget - self.monitor.seconds) / (1 + self.search.full_cost()) / self._step_seconds
            batch_size = self.training.batch_size
            wanted = int(batch_size * affordable / _STEPS_WANTED)
            if wanted < batch_size:
                smaller = replace(self.training, batch_size=max(wanted, min(16, batch_size)))
                network = self._begin_again(lighter, smaller)
        proposals = self.search.ask()
        if proposals and proposals[0].architecture.is_mixed:
            seconds = self._time_step(self._new(proposals[0].architecture), budget / 20)
            self.search.mixed_cost_ = max(seconds / self._step_seconds, 1.0) if self._step_seconds else 1.0
        plain, images = network.eval().to_plain(), data.images[:16]
        pass_seconds = min(self._time_pass(plain, images) for _ in range(2)) / len(images)  # the first one is slower
        order = self.search.architecture_.group.order
        # the change under every element is measured after the training, on as many images as a tenth of the time allows
        affordable = budget / 10 / ((order + 3) * pass_seconds) if pass_seconds else MEASURED_IMAGES
        self.n_measured = int(np.clip(affordable, 2, min(self.n_measured, len(self.split.validation or data))))
        self._report_seconds = 1.2 * (order + 4) * pass_seconds * self.n_measured
        search_seconds = self._plan_validation(budget, pass_seconds, order) if proposals else 0.0
        training = 1.15 * self.n_batches(1) * self._step_seconds
        left = budget - self.monitor.seconds - self._report_seconds
        share = self._shorten(training, left - search_seconds)
        if proposals and share < 0.5 and self.n_batches(1) < FEW_STEPS and not self.search.keeps_network:
            self._skips_search = True
            share = self._shorten(training, left, searching=False)
        self._validation_is_unseen = True
        self._hurried = share < 1

    def plan(self, lighter: Architecture | None) -> BudgetPlan:
        """Plan by what is timed now, and tell how; with mini-batches of half the size where memory does not suffice."""
        try:
            self.shrink_to_budget(lighter)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            warn_of_memory(self.training, "the network is trained")
            self._take(halved(self.training))
            self.shrink_to_budget(lighter)
        n_validation = None if self.validation is None else self.validation.n_units
        return BudgetPlan(
            self._is_light,
            self.training.batch_size,
            self.search.averaging_,
            self.epochs,
            n_validation,
            self.n_measured,
            self._skips_search,
            self._hurried,
            self._step_seconds,
            self._report_seconds,
            self.search.mixed_cost_,
        )

    def _take(self, training: TrainingSettings) -> None:
        """Train like this from now on."""
        self.training = self.search.training_ = training

    def follow(self, plan: BudgetPlan, lighter: Architecture | None) -> None:
        """Plan as it was done before."""
        self._take(replace(self.training, batch_size=plan.batch_size))
        self._is_light = plan.is_light
        if plan.is_light and lighter is not None:
            self.search.start(lighter, self.epochs, self.training, self.seed, by_curve=self.search.by_curve_)
        self.search.averaging_, self.search.mixed_cost_ = plan.averaging, plan.mixed_cost
        self.search.epochs_ = self.epochs = plan.epochs
        self.n_measured = plan.n_measured
        if self.split.validation is not None and plan.n_validation is not None:
            self.validation = self.split.validation.sample(plan.n_validation, self.seed)
        self._skips_search, self._hurried = plan.skips_search, plan.is_hurried
        self._step_seconds, self._report_seconds = plan.step_seconds, plan.report_seconds

    def _begin_again(self, architecture: Architecture, training: TrainingSettings) -> EquivariantNetwork:
        """Start the search with these instead, and time the network that it begins with, which is returned."""
        self.training = training
        self.search.start(architecture, self.epochs, training, self.seed, by_curve=self.search.by_curve_)
        network = self._new(self.search.architecture_)
        assert self.monitor.time_budget is not None
        self._step_seconds = self._time_step(network, self.monitor.time_budget / 20)
        return network

    def _plan_validation(self, budget: float, pass_seconds: float, order: int) -> float:
        """Let the search see as many held-out images as a quarter of the time allows, and tell how long it looks."""
        validation = self.split.validation
        if validation is None:
            return 0.0
        each = pass_seconds * (self.search.n_passes() + order * (2 if self.search.averaging_ else 1))
        n = int(np.clip(budget / 4 / each, _FEWEST, len(validation))) if each else len(validation)
        share = n / len(validation)
        self.validation = validation.sample(max(_FEWEST, round(share * validation.n_units)), self.seed)
        return each * len(self.validation)

    def _time_pass(self, network: nn.Module, images: Tensor) -> float:
        """The seconds of one pass through a network in evaluation."""
        started = time.perf_counter()
        with torch.inference_mode():
            network(self.split.whole.preprocess(images))
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        """Until the device has done what it was given."""
        if self.split.whole.images.device.type == "cuda":
            torch.cuda.synchronize(self.split.whole.images.device)

    def _new(self, architecture: Architecture) -> EquivariantNetwork:
        """A network with fresh weights on the device."""
        network = EquivariantNetwork(architecture, torch.Generator().manual_seed(self.seed))
        return network.to(self.split.whole.images.device)

    def _time_step(self, network: EquivariantNetwork, seconds: float) -> float:
        """The seconds of a training step, up to six in about so many seconds; the first is slower."""
        ticks = [time.perf_counter()]

        def on_step() -> bool:
            self._wait()
            ticks.append(time.perf_counter())
            return len(ticks) > 2 and ticks[-1] - ticks[1] > seconds

        # of large images a few tell how long a mini-batch takes
        data, batch_size = self.split.whole, self.training.batch_size
        values, on_cpu = data.images[0].numel(), data.images.device.type == "cpu"
        few = min(batch_size, len(data), 2 if values > 4 * _LARGE else 8) if on_cpu and values > _LARGE else batch_size
        epochs = 6 / n_steps(len(data), 1, few)
        with suppress(DivergenceError):
            settings = replace(self.search.final_settings(self.training), batch_size=few)
            train(network, data, settings, epochs, seed=self.seed, on_step=on_step)
        each = np.diff(ticks)
        seconds_of_few = float(np.median(each[1:] if len(each) > 1 else each))
        return seconds_of_few * min(batch_size, len(data)) / min(few, len(data))

    def _shorten(self, training: float, available: float, *, searching: bool = True) -> float:
        """Shorten everything alike to the share that is returned.

        Given are the seconds of a full training, those that are available, and whether there is a search. What the
        user has set in it stays as it is. If it takes more than half of the time, it will be cut off, and the final
        training gets the other half.
        """
        asked = self.asked_epochs

        def search_seconds(share: float) -> float:
            self.search.epochs_ = share * asked
            return share * self.search.full_cost() * training if searching else 0.0

        fixed = search_seconds(1e-6)
        final = 0.0 if self.search.keeps_network else training
        shared = final + search_seconds(1.0) - fixed
        if fixed > available / 2:
            share = available / 2 / training
        else:  # where nothing is shared, all that is fixed fits
            share = (available - fixed) / shared if shared > 1e-6 * training else 1.0
        share = float(np.clip(share, 1e-3, 1.0))
        self.search.epochs_ = self.epochs = share * asked
        return share
