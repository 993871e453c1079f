"""What all searches share: proposals, evaluations, ask and tell, the final choice, saving and loading.

A search is asked for proposals (architectures, whose weights come from a parent), is told how they did, and holds a
population. It trains nothing itself, so it can be driven, stopped, saved and resumed from outside.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, replace
from os import PathLike
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator

from skequinas.evidence.verdict import Evidence, evidence_from_json, largest_accepted
from skequinas.groups import Subgroup
from skequinas.io.files import FileError, read_file, reading, write_file
from skequinas.nn.architecture import Architecture
from skequinas.runtime.process import fitting_state
from skequinas.search.evaluation import Evaluation, Proposal, choose
from skequinas.search.second_way import TwoWays
from skequinas.training import DataPart, SearchProgress, TrainingSettings, evaluate
from skequinas.training.augmentation import Moves
from skequinas.training.curve import GREATEST_SHARE

__all__ = ["Search"]

_FINAL_LENGTH = 3.0
"""A final training in lengths that the curve of the search's first network found to pay: it has more images, which may
be moved too, and what it gives is the model."""


class Search(TwoWays, BaseEstimator):
    """Base of all searches: a state that is asked and told.

    The constructor's parameters are settings, which scikit-learn's ``get_params``, ``set_params`` and ``clone`` see.
    `start` makes the state: the population, the generation, and the records of everything that was tried.

    A strategy defines `propose`: what to train next, given ``generation_`` (from 0) and ``population_`` (the
    evaluations that survived), and an empty list at the end. It may define `survivors`, `result`, `cost` and
    `check_start` too. What is random comes from `rng`, so that a search that was saved goes on as if never stopped.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {}
    level: float = 0.01
    criterion: str = "evidence"
    margin: float = 0.01
    augmented_: bool = False  # searches that were pickled before there was a second way have none of these
    moves_: Moves | None = None

    def start(
        self,
        architecture: Architecture,
        epochs: float,
        training: TrainingSettings,
        seed: int,
        *,
        by_curve: bool = False,
        averaging: bool = False,
        augmented: bool = False,
    ) -> Self:
        """Begin a search.

        Parameters
        ----------
        architecture : Architecture
            Where to start: constrained to the whole search group in every layer.
        epochs : float
            The length of a full training, to which the search's own are in proportion.
        training : TrainingSettings
            How a full training is done.
        seed : int
        by_curve : bool, default=False
            Whether ``epochs`` is the greatest length of a full training, and a search whose length nobody set finds
            out by its first network how much of it pays, up to half; ``epochs_`` is then that.
        averaging : bool, default=False
            Whether, once nothing else is left to try, the second way to the symmetry that was found is tried too, if
            there is any: the network without constraints, trained on images moved at random, its outputs averaged over
            the moves. It is the result where its held-out loss is lower by more than the tolerance, and so it is when
            the network that was chosen is trained likewise, on images that are moved too.
        augmented : bool, default=False
            Whether images of the final training are moved by what held-out images bear; those of the second way are
            moved by it too.
        """
        self._validate_params()
        self.check_start(architecture)
        self.architecture_ = architecture
        self.epochs_ = float(epochs)
        self.training_ = training
        self.seed_ = int(seed)
        self.by_curve_ = by_curve
        self.averaging_, self.augmented_ = averaging, augmented
        self.ordinary_ = self.again_ = self.moves_ = None
        self.settled_ = None
        self.curve_share_ = 1.0  # of the greatest length, what the curve left of it
        self.generation_ = 0
        self.population_: list[Evaluation] = []
        self.pending_: list[Evaluation] = []
        self.best_: Evaluation | None = None
        self.mixed_cost_ = 4 / 3  # a step of a mixed network, in steps of a constrained one
        self.records_: list[dict[str, Any]] = []
        self.shares_: dict[str, dict[str, float]] | None = None
        self.share_history_: dict[str, dict[str, list[float]]] | None = None
        self.evidence_: dict[str, Evidence] | None = None
        return self

    def ask(self) -> list[Proposal]:
        """What to train and evaluate next; an empty list when the search is over."""
        seed = int(self.rng("batches").integers(2**31))
        return [
            replace(p, number=len(self.records_) + i, generation=self.generation_, seed=seed)
            for i, p in enumerate(self.propose() or self._second_way() or self._comparison())
        ]

    @property
    def final_epochs(self) -> float:
        """How long to train the model: three times as long as was found to pay, and never longer than it may be."""
        return min(self.epochs_ / self.curve_share_, _FINAL_LENGTH * self.epochs_) if self.by_curve_ else self.epochs_

    def final_settings(self, training: TrainingSettings) -> TrainingSettings:
        """How the model is trained: as the settings say, unless the search found out more."""
        return training

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Take the evaluations of what was asked, in the same order."""
        self.records_ += [e.record() for e in evaluations]
        for e in evaluations:
            if e.proposal.by_curve:
                self.curve_share_, self.epochs_ = e.proposal.epochs / self.epochs_, e.proposal.epochs
        sound = [e for e in evaluations if not e.diverged]
        self.shares_ = next((e.network.shares() for e in sound if e.architecture.is_mixed), self.shares_)
        self.share_history_ = next((e.share_history for e in sound if e.share_history), self.share_history_)
        self.evidence_ = next((e.evidence for e in sound if e.evidence is not None), self.evidence_)
        self.best_ = self.best
        if any(e.proposal.like_the_model for e in evaluations):
            self.ordinary_ = next((e for e in sound if e.proposal.ordinary), self.ordinary_)
            for e in evaluations:
                if e.proposal.again:
                    self.again_ = None if e.diverged else e
                    self.settled_ = str(e.architecture), e.proposal.epochs
        else:
            self.population_ = self.survivors(sound)
            self.generation_ += 1
        self.pending_ = []

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the lowest loss so far, whatever became of it."""
        ready = [e for e in (*self.pending_, self.best_) if e is not None and not e.diverged]
        return min(ready, key=lambda e: e.loss, default=None)

    @property
    def symmetry_(self) -> Subgroup | None:
        """The largest symmetry that may be imposed by the criterion; None without evidence."""
        if self.evidence_ is None:
            return None
        return largest_accepted(self.architecture_.group, self.evidence_, self.level, self.margin_)

    @property
    def margin_(self) -> float | None:
        """What a symmetry may cost, where costs decide on it."""
        return self.margin if self.criterion == "cost" else None

    def result(self) -> Evaluation | None:
        """The chosen candidate, the most symmetric within the tolerance of the best.

        Before the first generation is over it comes from those that are ready; it is None without any. The ordinary
        network that is averaged over the same symmetry takes its place where it is better by more than the tolerance:
        than the candidate as the search trained it, and than the same trained likewise. Until both are known, as after
        an interruption, it does not.
        """
        chosen = self.constrained
        if chosen is None or not self._loses(chosen) or not self._is_settled(chosen):
            return chosen
        if self.again_ is None:  # it diverged
            return self.ordinary_
        return self.ordinary_ if self._loses(self.again_) else self.again_

    @property
    def constrained(self) -> Evaluation | None:
        """The most symmetric candidate within the tolerance of the best, as the search trained it."""
        candidates = self.population_ or self.survivors([e for e in self.pending_ if not e.diverged])
        return choose(candidates, self.tolerance, self._chosen_by) if candidates else None

    @property
    def _chosen_by(self) -> str:
        """What of an evaluation decides: its losses or its errors."""
        return "losses"

    @property
    def kept(self) -> list[Evaluation]:
        """The population, the ordinary network and the chosen one as it was compared with it, if they were tried."""
        return [*self.population_, *(e for e in (self.ordinary_, self.again_) if e is not None)]

    def evaluate_again(self, validation: DataPart) -> None:
        """Evaluate what is kept on other held-out images, so that losses can be compared with those of new networks."""
        for e in self.kept:
            e.losses, e.errors = evaluate(e.network, validation)
            e.weights, e.units = validation.sample_weights(), validation.units

    def full_cost(self) -> float:
        """What `cost` tells, and what the second way and its comparison with the first take at most."""
        return self.cost() + (2.0 + 2 * self._by_curve * self._first_share) * self._may_average

    @property
    def _by_curve(self) -> bool:
        """Whether the curve of the first network tells how long trainings are."""
        return False

    @property
    def _first_share(self) -> float:
        """How long the first network is trained at most, in final trainings."""
        return GREATEST_SHARE if self._by_curve else 1.0

    def progress(self) -> SearchProgress:
        """Where the search stands, once a generation is over."""
        best = self.result()
        return SearchProgress(
            self.generation_,
            len(self.records_),
            max((record["validation_score"] for record in self.records_), default=None),
            None if best is None else best.architecture.symmetry.name,
        )

    def cost(self) -> float:
        """About how long the search takes, in full trainings of a constrained network."""
        return 0.0

    def n_passes(self) -> int:
        """About how often all validation images go through a network, the evidence apart."""
        return 1

    @property
    def gathers_evidence(self) -> bool:
        """Whether what the data say for and against symmetries leads to its result."""
        return False

    @property
    def untested_(self) -> list[Evaluation]:
        """Those of the population whose ``calls`` the next proposals depend on, and are not known yet."""
        return []

    @property
    def keeps_network(self) -> bool:
        """Whether the network of the result is the model, so that none is trained from the start.

        Then its first network is evaluated even where the time was up before its training ended.
        """
        return False

    def proposal(
        self,
        architecture: Architecture,
        epochs: float,
        training: TrainingSettings,
        parent: Evaluation | None = None,
    ) -> Proposal:
        """A proposal whose number, generation and seed `ask` fills in.

        Parameters
        ----------
        architecture : Architecture
        epochs : float
        training : TrainingSettings
            Often ``self.training_``, those of a full training.
        parent : Evaluation, optional
            One of the population, whose weights it inherits.
        """
        number = None if parent is None else parent.proposal.number
        return Proposal(0, number, 0, architecture, epochs, training, 0)

    @property
    def least_fields(self) -> int:
        """How many fields each layer needs."""
        return 1

    def check_start(self, architecture: Architecture) -> None:
        """Raise an error if the search cannot begin with this architecture."""
        if architecture.averaged is not None:
            raise ValueError(
                f"architecture is averaged over {architecture.averaged}, and a search has to see what moves change. "
                "Leave it out: with averaging='always' the model is averaged over what the search finds."
            )
        if architecture.coordinates == "frame":
            raise ValueError(
                "coordinates='frame' gives every network a way to tell how an image stands, so that none has a "
                "symmetry to be searched for. Set search='none', or coordinates='radius'."
            )
        if architecture.streams:
            raise ValueError(
                f"architecture has streams ({architecture}); a search begins with one subgroup in each layer. Use "
                "search='none'."
            )
        if architecture.is_mixed:
            raise ValueError(f"architecture has mixed layers ({architecture}); a search begins with one subgroup each.")

    @abstractmethod
    def propose(self) -> list[Proposal]:
        """The proposals of this generation, made with `proposal`."""

    def survivors(self, evaluations: list[Evaluation]) -> list[Evaluation]:
        """Who stays in the population after a generation."""
        return evaluations

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator that depends on seed, generation and purpose alone, so that resuming changes nothing."""
        return np.random.default_rng([self.seed_, self.generation_, *purpose.encode()])

    def save(self, path: str | PathLike[str]) -> None:
        """Write settings and state to one safetensors file, which holds arrays and JSON and nothing executable."""
        state, tensors = self.to_state()
        write_file(path, "search", state, tensors)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a search of this class back from a file that `save` wrote."""
        state, tensors = read_file(path, "search")
        if state.get("search") != cls.__name__:
            raise FileError(f"path={str(path)!r} holds {state.get('search')}, not {cls.__name__}.")
        with fitting_state(), reading(path, "search"):
            return cls.from_state(state, tensors)

    def to_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Settings and state as plain values and tensors."""
        tensors: dict[str, torch.Tensor] = {}
        rows = []
        for e in self.kept:
            row, own = e.to_state()
            rows.append(row)
            tensors |= {f"{e.proposal.number}/{name}": value for name, value in own.items()}
        state = {
            "search": type(self).__name__,
            "settings": self.get_params(),
            "architecture": self.architecture_.to_dict(),
            "epochs": self.epochs_,
            "training": asdict(self.training_),
            "seed": self.seed_,
            "by_curve": self.by_curve_,
            "curve_share": self.curve_share_,
            "generation": self.generation_,
            "records": self.records_,
            "shares": self.shares_,
            "share_history": self.share_history_,
            "evidence": self.evidence_,
            "population": rows[: len(self.population_)],
            "averaging": self.averaging_,
            "augmented": self.augmented_,
            "moves": None if self.moves_ is None else asdict(self.moves_),
            "settled": self.settled_,
            "ordinary": rows[len(self.population_) :],
        }
        return state, tensors

    @classmethod
    def from_state(cls, state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Self:
        """The inverse of `to_state`."""
        search = cls(**state["settings"])
        architecture = Architecture.from_dict(state["architecture"])
        training = TrainingSettings(**state["training"])
        search.start(
            architecture,
            state["epochs"],
            training,
            state["seed"],
            by_curve=state.get("by_curve", False),
            averaging=state.get("averaging", False),
            augmented=state.get("augmented", False),
        )
        settled, moves = state.get("settled"), state.get("moves")
        search.moves_ = None if moves is None else Moves(**moves)
        search.curve_share_ = state.get("curve_share", 1.0)
        for name in ("generation", "records", "shares", "share_history"):
            setattr(search, f"{name}_", state[name])
        if state["evidence"] is not None:
            search.evidence_ = evidence_from_json(state["evidence"], architecture.group)

        def restored(values: dict[str, Any]) -> Evaluation:
            prefix = f"{values['number']}/"
            return Evaluation.from_state(
                values, {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            )

        search.population_ = [restored(values) for values in state["population"]]
        for e in map(restored, state.get("ordinary", [])):
            setattr(search, "again_" if e.proposal.again else "ordinary_", e)
        if isinstance(settled, str):  # files of before do not tell the length, which was one
            settled = settled, 0.0 if search.ordinary_ is None else search.ordinary_.proposal.epochs
        search.settled_ = None if settled is None else (settled[0], settled[1])
        return search
