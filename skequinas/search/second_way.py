"""The second way to a symmetric model in a search: when the ordinary network is tried, and when it is the result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from skequinas.evidence.verdict import UNINFORMED, Evidence
from skequinas.groups import pixel_elements
from skequinas.nn.architecture import Architecture
from skequinas.search.evaluation import Evaluation, Proposal, choose, clearly_better
from skequinas.training import TrainingSettings

__all__ = ["TwoWays"]

_BEYOND_DOUBT = 2.0
"""How many tolerances the chosen network has to be ahead by, for the longer trainings to be spared."""


class TwoWays(ABC):
    """What a search does once nothing else is left to try: the network without constraints, averaged over moves.

    It is trained for as long as the first network was. Where it is ahead by then of the chosen network, that one is
    trained likewise; where it is not behind that one beyond doubt, both are trained once more, for as long as the model
    will be: the ordinary one has to learn from moved images what constraints know, and gains more by a longer training.
    """

    tolerance: float = 1.0
    averaging_: bool = False  # searches that were pickled before there was a second way have none of these
    ordinary_: Evaluation | None = None
    again_: Evaluation | None = None
    settled_: tuple[str, float] | None = None  # for which constraints, and what length, the two were compared
    architecture_: Architecture
    evidence_: dict[str, Evidence] | None
    population_: list[Evaluation]
    records_: list[dict[str, Any]]
    epochs_: float
    training_: TrainingSettings

    @property
    @abstractmethod
    def constrained(self) -> Evaluation | None:
        """The most symmetric candidate within the tolerance of the best, as the search trained it."""

    @property
    @abstractmethod
    def final_epochs(self) -> float:
        """How long to train the model."""

    @property
    @abstractmethod
    def gathers_evidence(self) -> bool:
        """Whether what the data say for and against symmetries leads to its result."""

    @property
    @abstractmethod
    def keeps_network(self) -> bool:
        """Whether the network of the result is the model, so that none is trained from the start."""

    @abstractmethod
    def proposal(self, architecture: Architecture, epochs: float, training: TrainingSettings) -> Proposal:
        """A proposal whose number, generation and seed are still to be filled in."""

    @property
    def _may_average(self) -> bool:
        """Whether there may be a second way."""
        may = self.averaging_ and self.gathers_evidence and not self.keeps_network
        return may and len(pixel_elements(self.architecture_.group)) > 1

    def _second_way(self) -> list[Proposal]:
        """The ordinary network, averaged over the symmetry of the result; before its longer training the chosen one."""
        known = self.evidence_ is not None and self.evidence_["C1"].chance_p_value <= UNINFORMED
        if not (self._may_average and known and self.population_):
            return []
        chosen, found = choose(self.population_, self.tolerance), self.ordinary_
        symmetry = chosen.architecture.symmetry
        if symmetry.order == 1 or not set(symmetry.elements) <= set(pixel_elements(symmetry.group)):
            return []
        ordinary = self.architecture_.ordinary(averaged=symmetry)
        tried = sum(record["constraints"] == str(ordinary) for record in self.records_)
        if not tried:
            return [replace(self.proposal(ordinary, self.epochs_, self.training_), ordinary=True)]
        if tried > 1 or self.epochs_ >= self.final_epochs or found is None or found.architecture != ordinary:
            return []
        if found.loss >= chosen.loss:
            return []
        if not self._is_settled(chosen):
            return [replace(self.proposal(chosen.architecture, self.epochs_, self.training_), again=True)]
        if self.again_ is not None and clearly_better(self.again_, found, _BEYOND_DOUBT * self.tolerance):
            return []
        return [replace(self.proposal(ordinary, self.final_epochs, self.training_), ordinary=True)]

    def _comparison(self) -> list[Proposal]:
        """The chosen network again, where an ordinary one is about to take its place that was trained better."""
        chosen, other = self.constrained, self.ordinary_
        if chosen is None or other is None or not self._loses(chosen) or self._is_settled(chosen):
            return []
        return [replace(self.proposal(chosen.architecture, other.proposal.epochs, self.training_), again=True)]

    def _is_settled(self, chosen: Evaluation) -> bool:
        """Whether the chosen network was trained like the ordinary one, and for as long."""
        other = self.ordinary_
        return other is not None and self.settled_ == (str(chosen.architecture), other.proposal.epochs)

    def _loses(self, constrained: Evaluation) -> bool:
        """Whether the ordinary network, averaged over the same symmetry, is better beyond doubt."""
        ordinary = self.ordinary_
        same = ordinary is not None and ordinary.architecture.symmetry == constrained.architecture.symmetry
        return ordinary is not None and same and clearly_better(ordinary, constrained, self.tolerance)
