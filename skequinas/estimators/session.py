"""One fit, after all input is checked: the search, the final training, and how they share the time."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import joblib
from sklearn.exceptions import ConvergenceWarning

from skequinas.estimators.budget import FEW_STEPS, MEASURED_IMAGES, BudgetPlan, Planned
from skequinas.io.checkpoints import Checkpoint
from skequinas.nn.architecture import Architecture
from skequinas.nn.networks import EquivariantNetwork
from skequinas.runtime.devices import is_out_of_memory
from skequinas.runtime.parallel import processes
from skequinas.search import Evaluation, NoSearch, Search, run_search
from skequinas.training import Monitor, Split, TrainingSettings, evaluate, mean_with_error, train
from skequinas.training.augmentation import Moves, borne_moves, candidate_moves
from skequinas.training.data import n_steps
from skequinas.training.evaluation import simple_error
from skequinas.training.loop import refresh_statistics
from skequinas.training.settings import halved, warn_of_memory

__all__ = ["Session"]

_COMPARED = 2000
"""From how many images, at most, the simplest models are made that a hurried one is compared with."""


class Session(Planned):
    """One fit, after all input is checked: the search, the final training, and how they share the time."""

    def __init__(
        self,
        search: Search,
        split: Split,
        training: TrainingSettings,
        epochs: float,
        seed: int,
        monitor: Monitor,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.checkpoint, self.record = checkpoint, monitor.record
        self.budget_plan: BudgetPlan | None = None
        self.final_epochs: float | None = None
        self.search, self.split, self.training, self.epochs, self.seed = search, split, training, epochs, seed
        self.monitor = monitor
        self.network: EquivariantNetwork
        self.history: list[dict[str, float]] = []
        self._parent: EquivariantNetwork | None = None
        self._earlier_network: EquivariantNetwork | None = None
        self._n_known = 0  # candidates of the earlier search
        self._step_seconds = self._report_seconds = 0.0
        self.n_measured = MEASURED_IMAGES
        self.validation = split.validation
        self.asked_epochs = epochs
        self._validation_is_unseen, self._stops_early = True, False
        self._hurried = self._skips_search = False  # with a time budget that is short
        self.interrupted = False
        self._may_average = search.averaging_
        self.moves = Moves()  # what images of the final training are moved by

    def plan_budget(self, lighter: Architecture | None) -> None:
        """With a time budget, plan what there is time for, or follow the plan of before the process was killed."""
        if self.monitor.time_budget is None:
            return
        known = self._kept("plan") if self.record is None else self.record["plan"]
        if known is not None:
            self.budget_plan = BudgetPlan(**known)
            self.follow(self.budget_plan, lighter)
        else:
            self.budget_plan = self.plan(lighter)
            if self.checkpoint is not None:
                self.checkpoint.write("plan", asdict(self.budget_plan))
        self.monitor.plan = asdict(self.budget_plan)

    def budget_record(self) -> dict[str, Any] | None:
        """With a time budget: what was planned and where it cut, from which the fit can be done again.

        None where somebody ended it, by a callback or Ctrl-C.
        """
        unplanned = self.monitor.was_stopped or self.interrupted
        if self.monitor.time_budget is None or self.budget_plan is None or unplanned:
            return None
        self.monitor.end_stage()
        own = {"seconds": self.monitor.time_budget, "plan": asdict(self.budget_plan), "cuts": self.monitor.cuts}
        return own | {"final_epochs": self.final_epochs, "halved": sorted(self.monitor.halved)}

    def asked_batches(self) -> int | None:
        """On how many mini-batches the network was trained that gave the evidence."""
        if self.search.evidence_ is None or not self.search.records_:
            return None
        return n_steps(len(self.split.training), self.search.records_[0]["epochs"], self.training.batch_size)

    def go_on(self, earlier: Search, network: EquivariantNetwork) -> None:
        """Take over an earlier search with its population, and its network as a start where the shape is the same."""
        mine, device = self.search, self.split.whole.images.device
        if type(earlier) is not type(mine) or earlier.architecture_ != mine.architecture_:
            raise ValueError(
                f"warm_start=True goes on with the {type(earlier).__name__} of the earlier fit, which began with "
                f"{earlier.architecture_!r}; this one is to be a {type(mine).__name__} that begins with "
                f"{mine.architecture_!r}. Keep search, group, image size, width and number of outputs, or set "
                "warm_start=False."
            )
        if mine.by_curve_:
            mine.curve_share_ = getattr(earlier, "curve_share_", 1.0)
            mine.epochs_ *= mine.curve_share_
        self._skips_search = self._skips_search and not earlier.population_
        for name in ("generation_", "records_", "shares_", "share_history_", "evidence_"):
            setattr(mine, name, copy.copy(getattr(earlier, name)))
        mine.population_ = [
            replace(evaluation, network=copy.deepcopy(evaluation.network).to(device))
            for evaluation in earlier.population_
        ]
        if self._may_average:
            for name in ("ordinary_", "again_"):
                e = getattr(earlier, name)
                setattr(mine, name, None if e is None else replace(e, network=copy.deepcopy(e.network).to(device)))
            mine.settled_ = earlier.settled_
            if self.validation is not None:
                mine.evaluate_again(self.validation)
        self._earlier_network, self._parent = network, copy.deepcopy(network).to(device)
        self._n_known = len(mine.records_)
        self._validation_is_unseen = False

    def search_symmetry(self, n_jobs: int | None = None) -> None:
        """Run the search, for as long as the budget allows beside the final training."""
        budget = self.monitor.time_budget
        if self.split.validation is None:
            return
        if budget is not None:
            final = 0.0 if self.search.keeps_network else 1.15 * self.n_batches(1) * self._step_seconds
            half = max(budget - self.monitor.seconds, 0.0) / 2
            self.monitor.begin("search", min(final + self._report_seconds, half), self._planned("clock"))
        if self._skips_search:
            self._warn(
                f"time_budget={budget:g} seconds leave no time for a search: the symmetry of the model is where the "
                "search would have begun, and nothing is known about the data's. Increase time_budget, or use fewer or "
                "smaller images."
            )
            return
        assert self.validation is not None
        run_search(self.search, self.split.training, self.validation, self.monitor, n_jobs, self.checkpoint)
        if self.checkpoint is not None and budget is not None:
            self.checkpoint.write("clock", self.monitor.stage_state())
        if self.search.by_curve_:
            self.epochs = self.search.final_epochs
        if self.monitor.out_of_time() and not self.search.population_:
            self._warn(
                f"time_budget={budget:g} seconds ended the search before it had tried anything to its end: the "
                f"symmetry of the model is where the search began, not what it found. Increase time_budget, or reduce "
                "max_epochs or the search's own epochs."
            )

    def train_finally(
        self, early_stopping: bool, patience: int | None, *, augment: str = "none", always_averaged: bool = False
    ) -> None:
        """Train the chosen architecture from the start on all data, or up to an early stop on the training part.

        Or, whatever was chosen, an ordinary network on moved images: if its outputs are always to be averaged, or with
        ``augment="group"``.
        """
        chosen = self.search.result()
        architecture = self.search.architecture_ if chosen is None else chosen.architecture
        if chosen is not None and (architecture.is_mixed or self.search.keeps_network):
            self.network = chosen.network  # what the search trained is the model itself
            if self._refreshed(chosen.network):
                self._warn(
                    "The search ended before the network whose head it tightened was trained: the model is its first "
                    "network, made symmetric as it was. Give it more time, or set final='retrain'."
                )
            if len(self.search.records_) == self._n_known and self.monitor.clock.cut is None:
                self._warn(
                    "warm_start=True trained nothing: this search keeps the network that it trained, and has nothing "
                    "left to try. Fit a clone, or without warm_start, for a longer training, or give it more to try."
                )
            return
        symmetry = architecture.symmetry
        if always_averaged or augment == "group":
            architecture = architecture.unconstrained(averaged=symmetry if always_averaged else None)
        if self._parent is not None and self._parent.architecture == architecture:
            self.network = self._parent
        else:
            self.network = self._new(architecture)
        if self.monitor.time_budget is not None:
            self.monitor.begin("final", self._report_seconds, self._planned("final"))
        if augment == "continuous":
            self.moves = self._turns(architecture)
        elif augment == "auto":
            self.moves = self._borne_moves(chosen) if self.search.moves_ is None else self.search.moves_
        if architecture.averaged is not None or augment == "group":
            self.moves |= Moves(elements=symmetry)
        self.monitor.log("images of the final training are moved at random by %s", self.moves)
        epochs = self.epochs
        if self.monitor.time_budget is not None:
            epochs = self.final_epochs = self._affordable(architecture)
            if epochs < min(1.0, self.asked_epochs):
                self._warn(
                    f"time_budget={self.monitor.time_budget:g} seconds leave less than an epoch for the final "
                    "training: the model is hardly trained. Increase time_budget, or use fewer or smaller images."
                )
        self._validation_is_unseen = self._validation_is_unseen and early_stopping
        self._stops_early = early_stopping
        self.monitor.expect(self.n_batches(1))

        def attempt(settings: TrainingSettings) -> None:
            keeper = None
            if self.checkpoint is not None:
                keeper = self.checkpoint.keeper("training", self._identity(settings, epochs), to_the_end=True)
                clock = self.monitor.clock
                clock.load_state_dict(keeper.part("clock", clock.state_dict) or clock.state_dict())
            self.history.clear()
            train(
                self.network,
                self.split.training if early_stopping else self.split.whole,
                settings,
                epochs,
                seed=self.seed,
                validation=self.split.validation if early_stopping else None,
                patience=patience,
                augmentation=self.moves.start(self.seed),
                on_step=self._watched,
                on_epoch=lambda row: self.monitor.epoch_over(row, self.network),
                keeper=keeper,
                log=self.history,
            )

        self._with_enough_memory(attempt)
        n_steps_made = self.n_batches(epochs / self.epochs)
        if self.monitor.time_budget is not None and n_steps_made < FEW_STEPS:
            size, moves = self.training.batch_size, self.moves.start(self.seed)
            refresh_statistics(self.network, self.split.whole, size, n_batches=n_steps_made, augmentation=moves)

    def _identity(self, settings: TrainingSettings, epochs: float) -> str:
        """All that the final training follows from, but for the data and the parameters of the fit."""
        return json.dumps([self.network.architecture.to_dict(), asdict(settings), epochs, str(self.moves)])

    def _with_enough_memory(self, attempt: Callable[[TrainingSettings], None]) -> None:
        """The final training; with mini-batches of half the size where memory does not suffice."""
        settings, before = self.search.final_settings(self.training), copy.deepcopy(self.network.state_dict())
        if "final" not in self.monitor.halved and self._kept("halved") is None:
            asked = self.monitor.clock.asked
            try:
                attempt(settings)
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.monitor.clock.begin_again(asked)
            if self.checkpoint is not None:
                self.checkpoint.write("halved", True)
        self.monitor.halved.add("final")
        self.network.load_state_dict(before)
        warn_of_memory(settings, "the model is trained")
        try:
            attempt(halved(settings))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryError(
                f"Memory does not suffice for mini-batches of {halved(settings).batch_size} images either. Reduce "
                f"batch_size={self.training.batch_size} or width, or use smaller images."
            ) from error

    def _watched(self) -> bool:
        """After a step of the final training: whether its time is up."""
        self.monitor.step()
        return self.monitor.out_of_time()

    def once(self, name: str, function: Callable[[], Any]) -> Any:
        """What a function tells of the network, from a checkpoint if it was kept there; not where the fit was ended."""
        if self.checkpoint is None or self.interrupted or self.monitor.was_stopped:
            return function()
        weights = {key: value.numpy(force=True) for key, value in self.network.state_dict().items()}
        return self.checkpoint.once(name, str(joblib.hash(weights)), function)

    def _kept(self, name: str) -> Any:
        """What is known from before the process was killed."""
        return None if self.checkpoint is None else self.checkpoint.read(name)

    def _planned(self, name: str) -> Any:
        """What is known of a stage with a deadline, if it was planned as now."""
        known = self._kept(name)
        return known if known is not None and known["plan"] == self.monitor.plan else None

    def _affordable(self, architecture: Architecture) -> float:
        """How many epochs of the final training there is time for, or there was."""
        known = self._planned("final") if self.record is None else {"epochs": self.record["final_epochs"]}
        if known is None:
            known = self.monitor.stage_state() | {"epochs": self._counted(architecture)}
            if self.checkpoint is not None:
                self.checkpoint.write("final", known)
        return float(known["epochs"])

    def _counted(self, architecture: Architecture) -> float:
        """How many epochs of the final training there is time for."""
        assert self.monitor.time_budget is not None
        if self.search.final_settings(self.training) != self.training:
            self._step_seconds = self._time_step(self._new(architecture), self.monitor.time_budget / 20)
        left = self.monitor.time_budget - self._report_seconds - self.monitor.seconds
        return min(self.epochs, self.epochs * left / (1.05 * self.n_batches(1) * self._step_seconds))

    def compare_with_simple_models(self) -> None:
        """Say so where the network learned less in its short time than the simplest models do."""
        if not self._hurried:
            return
        data = (self.split.validation or self.split.whole).sample(self.n_measured, self.seed)
        error, standard_error = mean_with_error(evaluate(self.network, data)[1], data.sample_weights(), data.units)
        known = self.split.training if self._stops_early else self.split.whole
        simple = simple_error(known.sample(_COMPARED, self.seed), data)
        if error + standard_error > simple:
            self._warn(
                f"time_budget={self.monitor.time_budget:g} seconds were not enough: the model's error on {len(data)} "
                f"images is {error:.3f}, not clearly below that of the simplest models (the most frequent class, the "
                f"nearest class mean, the mean of the targets), {simple:.3f}. Increase time_budget, or use fewer or "
                "smaller images."
            )

    @staticmethod
    def _warn(message: str) -> None:
        warnings.warn(message, ConvergenceWarning, stacklevel=6)

    def _turns(self, architecture: Architecture) -> Moves:
        """All turns, if the architecture looks the same under all of the group's; or if it is an ordinary CNN."""
        symmetry, n = architecture.symmetry, architecture.group.n_rotations
        ordinary = isinstance(self.search, NoSearch) and architecture.group.order == 1
        if symmetry.n_rotations < n or (n == 1 and not ordinary):
            self.monitor.log("no image is turned: the model is to look the same under %s alone", symmetry.name)
            return Moves()
        return Moves(turns=True, mirrors=symmetry.mirror is not None)

    def _borne_moves(self, chosen: Evaluation | None) -> Moves:
        """Shifts by a few pixels, and turns by any angle if the model has any; what held-out images bear."""
        if chosen is None or self.validation is None or self.monitor.out_of_time():
            return Moves()
        candidates = candidate_moves(chosen.architecture.symmetry, *chosen.architecture.image_shape)
        return borne_moves(chosen.network, self.validation, candidates, self.seed)

    def _refreshed(self, network: EquivariantNetwork) -> bool:
        """Whether a network of the search was projected just now; then its batch norms are given their statistics."""
        projected = all(network is not e.network for e in self.search.kept)
        if projected:
            refresh_statistics(network, self.split.whole, self.training.batch_size)
        return projected

    def keep_best(self) -> bool:
        """After an interruption: the best of all networks evaluated, the one in training and an earlier fit's.

        The best on held-out images, or on all where a network was trained on them too. None where several processes
        train together, of which each was interrupted elsewhere.
        """
        if processes() is not None:
            return False
        self.interrupted = True
        chosen = self.search.result()
        networks = [] if chosen is None else [chosen.network]
        if chosen is not None:
            self._refreshed(chosen.network)
        if self.search.best is not None:
            networks.append(self.search.best.network)
        if self.history:
            networks.append(self.network)
        if self._earlier_network is not None:
            networks.append(copy.deepcopy(self._earlier_network).to(self.split.whole.images.device))
        if networks:
            held_out = self.split.validation if self._validation_is_unseen else None
            data = held_out or self.split.whole
            self.network = min(
                networks, key=lambda network: mean_with_error(evaluate(network, data)[0], data.sample_weights())[0]
            )
        return bool(networks)
