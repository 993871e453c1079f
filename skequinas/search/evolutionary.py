"""EquiNAS_E: evolution by equivariance relaxation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar

from sklearn.utils._param_validation import Interval, StrOptions

from skequinas.architecture import Architecture
from skequinas.groups import Subgroup
from skequinas.search.base import Evaluation, Proposal, Search
from skequinas.training import TrainingSettings

__all__ = ["EvolutionarySearch", "pareto_front"]


class EvolutionarySearch(Search):
    """EquiNAS_E: relax the constraints of a fully equivariant network one by one, and keep what pays.

    Each generation, every parent yields itself, its head relaxed to smaller subgroups, and each earlier layer
    relaxed to the constraint of the layer after it. Children inherit the weights through the equivariance
    relaxation morphism, so they start from their parent's function. All are trained for a while on the same
    mini-batches. The next parents are the Pareto front of validation error and number of parameters, filled up by
    validation error.

    A guided search (not in the paper) also trains one unconstrained network from the start and asks it which symmetries
    the data reject, see `skequinas.search.evidence`. The head is then relaxed to just the largest symmetry that is
    not rejected, candidates with another symmetry are dropped, and the generations are spent on which layers before the
    head have to follow, one more in each generation.

    Parameters
    ----------
    n_generations : int, default=3
        Generations of relaxations.
    epochs_per_generation : float or None, default=None
        How long all candidates of a generation are trained; None is an eighth of a full training.
    warmup_epochs : float or None, default=None
        How long the first network is trained before; None is a half of a full training.
    probe_epochs : float or None, default=None
        How long the unconstrained network is trained; None is a full training. Before a network has learned to use
        what breaks a symmetry it cannot be asked.
    population_size : int, default=4
        Parents of a generation, at least; the Pareto front is never cut.
    guided : bool, default=True
        False explores all symmetries by relaxation alone, and chooses by validation loss.
    moves : {"maximal", "all"}, default="maximal"
        In a search that is not guided: whether the head is relaxed to the maximal subgroups of its constraint, one
        step down the lattice at a time, or to all proper subgroups at once.
    revisit : bool, default=False
        Whether a relaxation that was tried and did not survive may be tried again.
    optimizer : {"adamw", "sgd"}, default="adamw"
    learning_rate : float or None, default=None
        None is that of a full training for the first network, and 0.3 of it for the generations. The unconstrained
        network is always trained as in a full training.
    schedule : {"one_cycle", "constant"}, default="one_cycle"
        With "one_cycle" the rate rises and falls within each generation, so that candidates are compared at rest.
    tolerance : float, default=1.0
        The most symmetric candidate within so many standard errors of the best is chosen.
    rejection : float, default=2.0
        The data reject a symmetry when averaging over it raises the validation loss by more than so many standard
        errors.

    References
    ----------
    Maile, Wilson and Forré, Equivariance-aware Architectural Optimization of Neural Networks, ICLR 2023. Its
    settings, with ``weight_decay=0`` in the estimator, are ``EvolutionarySearch(n_generations=50,
    epochs_per_generation=0.2, warmup_epochs=0.2, population_size=5, guided=False, moves="all", revisit=True,
    optimizer="sgd", learning_rate=0.05, schedule="constant")``.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_generations": [Interval(Integral, 1, None, closed="left")],
        "epochs_per_generation": [Interval(Real, 0, None, closed="neither"), None],
        "warmup_epochs": [Interval(Real, 0, None, closed="neither"), None],
        "probe_epochs": [Interval(Real, 0, None, closed="neither"), None],
        "population_size": [Interval(Integral, 1, None, closed="left")],
        "guided": ["boolean"],
        "moves": [StrOptions({"maximal", "all"})],
        "revisit": ["boolean"],
        "optimizer": [StrOptions({"adamw", "sgd"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), None],
        "schedule": [StrOptions({"one_cycle", "constant"})],
        "tolerance": [Interval(Real, 0, None, closed="left")],
        "rejection": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_generations: int = 3,
        *,
        epochs_per_generation: float | None = None,
        warmup_epochs: float | None = None,
        probe_epochs: float | None = None,
        population_size: int = 4,
        guided: bool = True,
        moves: str = "maximal",
        revisit: bool = False,
        optimizer: str = "adamw",
        learning_rate: float | None = None,
        schedule: str = "one_cycle",
        tolerance: float = 1.0,
        rejection: float = 2.0,
    ) -> None:
        self.n_generations = n_generations
        self.epochs_per_generation = epochs_per_generation
        self.warmup_epochs = warmup_epochs
        self.probe_epochs = probe_epochs
        self.population_size = population_size
        self.guided = guided
        self.moves = moves
        self.revisit = revisit
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.tolerance = tolerance
        self.rejection = rejection

    def cost(self) -> float:
        """About how long the search takes, in full trainings of a constrained network."""
        warmup, probe, generation = (
            self.epochs_ / divisor if epochs is None else epochs
            for epochs, divisor in ((self.warmup_epochs, 2), (self.probe_epochs, 1), (self.epochs_per_generation, 8))
        )
        probed = self.guided and self.architecture_.group.order > 1
        candidates = 3 if probed else 2 * self.population_size  # the parents and about as many children
        return (warmup + probed * probe + self.n_generations * candidates * generation) / self.epochs_

    def _propose(self) -> list[Proposal]:
        if self.generation_ == 0:
            return self._first()
        if self.generation_ > self.n_generations:
            return []
        children = self._children()
        if not children and not self.revisit:
            return []  # nothing is left to try
        epochs = self.epochs_ / 8 if self.epochs_per_generation is None else self.epochs_per_generation
        parents = [(parent, parent.architecture) for parent in self.population_]
        return [self._proposal(a, epochs, self._training(0.3), parent) for parent, a in parents + children]

    def _training(self, share: float) -> TrainingSettings:
        """The settings of a training whose rate, if the user gives none, is a share of that of a full training."""
        rate = share * self.training_.learning_rate if self.learning_rate is None else self.learning_rate
        return replace(self.training_, learning_rate=rate, optimizer=self.optimizer, schedule=self.schedule)

    def _first(self) -> list[Proposal]:
        """The fully constrained network and, to guide the search, an unconstrained one."""
        start, group = self.architecture_, self.architecture_.group
        epochs = self.epochs_ / 2 if self.warmup_epochs is None else self.warmup_epochs
        proposals = [self._proposal(start, epochs, self._training(1.0))]
        if self.guided and group.order > 1:
            free = start.with_constraints((group.trivial,) * start.n_layers)
            epochs = self.epochs_ if self.probe_epochs is None else self.probe_epochs
            proposals.append(self._proposal(free, epochs, self.training_, probe=True))
        return proposals

    def _children(self) -> list[tuple[Evaluation, Architecture]]:
        """New architectures with their parents, each once."""
        seen = {e.architecture for e in self.population_}
        tried = set() if self.revisit else {record["constraints"] for record in self.records_}
        children = []
        for parent in self.population_:
            for child in self._relaxations(parent.architecture):
                if child not in seen and str(child) not in tried:
                    seen.add(child)
                    children.append((parent, child))
        return children

    def _relaxations(self, architecture: Architecture) -> Iterator[Architecture]:
        """The head relaxed, then each earlier layer relaxed to the constraint of the next."""
        constraints = architecture.constraints
        head, target = constraints[-1], self.symmetry_
        assert isinstance(head, Subgroup)
        smaller = head.maximal_subgroups if self.moves == "maximal" else head.subgroups[1:]
        if target is not None:
            smaller = (target & head,) if not head <= target else ()
        for subgroup in smaller:
            yield architecture.relaxed(-1, subgroup)
        for layer, (own, following) in enumerate(pairwise(constraints)):
            assert isinstance(own, Subgroup)
            assert isinstance(following, Subgroup)
            if not own <= following:
                yield architecture.relaxed(layer, own & following)

    def _survivors(self, evaluations: list[Evaluation]) -> list[Evaluation]:
        evaluations = [e for e in evaluations if not e.proposal.probe]
        called_for = [e for e in evaluations if e.architecture.symmetry == self.symmetry_]
        evaluations = called_for or evaluations
        front = pareto_front(evaluations)
        rest = sorted((e for e in evaluations if e not in front), key=lambda e: e.error)
        return front + rest[: max(0, self.population_size - len(front))]


def pareto_front(evaluations: list[Evaluation]) -> list[Evaluation]:
    """Those that no other beats in both validation error and number of parameters, the smallest first."""
    front: list[Evaluation] = []
    for e in sorted(evaluations, key=lambda e: (e.architecture.n_parameters, e.error)):
        if not front or e.error < front[-1].error:
            front.append(e)
    return front
