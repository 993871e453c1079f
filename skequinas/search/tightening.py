"""Searches that train one soft network first, ask what it says of the data, and then tighten it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

from skequinas.groups import Subgroup
from skequinas.nn.architecture import Architecture
from skequinas.nn.constraints import Constraint
from skequinas.nn.layers import EquivariantConv2d, MixedGroupConv2d
from skequinas.nn.residual import ResidualGroupConv2d
from skequinas.search.base import Search
from skequinas.search.evaluation import Evaluation, Proposal
from skequinas.training import TrainingSettings

__all__ = ["TighteningSearch"]


class TighteningSearch(Search):
    """Base of searches of two stages, of which the first trains a soft network, which can break any symmetry.

    A strategy defines `first`, `first_epochs` and perhaps `first_cost`. In the second stage the network is turned into
    constraints, as `DifferentiableSearch` tells.
    """

    learning_rate: float | None
    epochs_per_generation: float | None
    discretize: bool
    tolerance: float
    level: float

    @property
    @abstractmethod
    def first_epochs(self) -> float | None:
        """The length of the first stage, if it is set."""

    @abstractmethod
    def first(self, training: TrainingSettings, epochs: float) -> Proposal:
        """The soft network, and how it is trained for so long."""

    @property
    def first_cost(self) -> float:
        """Of a step of the soft network, in those of a constrained one."""
        return self.mixed_cost_

    def softened(self, constraint: tuple[Subgroup, ...]) -> Architecture:
        """The architecture with several subgroups in each layer, but for a head that is free."""
        start = self.architecture_
        n_free = start.n_layers - len(start.chain)
        constraints: tuple[Constraint, ...] = (constraint,) * len(start.chain) + (start.group.trivial,) * n_free
        return start.with_constraints(constraints)

    def cost(self) -> float:
        """About how long the search takes, in full trainings of a constrained network."""
        length = self.epochs_ * self._first_share
        first = length if self.first_epochs is None else self.first_epochs
        tightened = length / 4 if self.epochs_per_generation is None else self.epochs_per_generation
        return (first * self.first_cost + self.discretize * 3 * tightened) / self.epochs_

    @property
    def _by_curve(self) -> bool:
        return self.by_curve_ and self.first_epochs is None and not self.keeps_network

    def n_passes(self) -> int:
        """About how often all validation images go through a network, the evidence apart."""
        return 1 + 3 * self.discretize

    @property
    def keeps_network(self) -> bool:
        """Whether the soft network itself is the result."""
        return not self.discretize

    @property
    def gathers_evidence(self) -> bool:
        """Whether what the data say for and against symmetries leads to its result: if the soft network is not kept."""
        return self.discretize

    def check_start(self, architecture: Architecture) -> None:
        """Refuse an architecture that is constrained to anything but the whole group, but for a free head."""
        super().check_start(architecture)
        if self.criterion == "cost" and not self.discretize:
            raise ValueError("criterion='cost' decides on nothing with discretize=False. Leave one of them out.")
        if architecture.head == "free" and self.discretize:
            raise ValueError(
                "architecture has head='free', so that its function has no symmetry, and the search is to tighten "
                "it to what the search finds. Set discretize=False, or head='constrained'."
            )
        if set(architecture.chain) != {architecture.group.whole}:
            raise ValueError(
                f"architecture has the constraints {architecture}, but this search begins with the whole group in "
                f"every layer. Leave its constraints out, or use search='evolutionary' or 'none'."
            )

    def propose(self) -> list[Proposal]:
        """The soft network first, then up to three ways of tightening it."""
        rate = self.training_.learning_rate if self.learning_rate is None else self.learning_rate
        training = replace(self.training_, learning_rate=rate)
        start, group = self.architecture_, self.architecture_.group
        if self.generation_ == 0:
            length = self.epochs_ if self._by_curve else self.epochs_ * self._first_share
            epochs = length if self.first_epochs is None else self.first_epochs
            return [replace(self.first(training, epochs), probe=True, by_curve=self._by_curve)]
        if self.generation_ > 1 or not self.discretize or not self.population_:
            return []
        soft, symmetry = self.population_[0], self.symmetry_
        assert symmetry is not None
        n_hidden = start.n_layers - 1
        ways = [(group.whole,) * n_hidden, self._majorities(soft, symmetry), (symmetry,) * n_hidden]
        architectures = dict.fromkeys(start.with_constraints((*way, symmetry)) for way in ways)
        epochs = self.epochs_ / 4 if self.epochs_per_generation is None else self.epochs_per_generation
        return [self.proposal(architecture, epochs, training, soft) for architecture in architectures]

    def _majorities(self, soft: Evaluation, symmetry: Subgroup) -> tuple[Subgroup, ...]:
        """For each hidden layer the largest subgroup that contains the symmetry and that half of it obeys."""

        def largest(layer: EquivariantConv2d) -> Subgroup:
            assert isinstance(layer, MixedGroupConv2d | ResidualGroupConv2d)
            shares = layer.named_shares()
            skip = layer.skip_share() if isinstance(layer, MixedGroupConv2d) else 0.0  # which obeys them all
            support = {k: skip + sum(share for h, share in shares.items() if k <= h) for k in shares if symmetry <= k}
            return max((k for k in support if support[k] >= 0.5), key=lambda k: (k.order, support[k]), default=symmetry)

        return tuple(largest(layer) for layer in soft.network.convolutions[:-1])
