"""EquiNAS_E: evolution by equivariance relaxation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar

from sklearn.utils._param_validation import Interval, StrOptions

from skequinas.groups import Subgroup
from skequinas.nn.architecture import Architecture
from skequinas.nn.networks import inherit
from skequinas.search.base import Search
from skequinas.search.evaluation import Evaluation, Proposal, choose
from skequinas.training import TrainingSettings

__all__ = ["EvolutionarySearch", "pareto_front"]


class EvolutionarySearch(Search):
    """EquiNAS_E: relax the constraints of a fully equivariant network one by one, and keep what pays.

    Each generation, every parent yields itself, its head relaxed to smaller subgroups, and each earlier layer
    relaxed to the constraint of the layer after it. Children inherit the weights through the equivariance
    relaxation morphism, so they start from their parent's function. All are trained for a while on the same
    mini-batches. The next parents are the Pareto front of validation error and number of parameters, filled up by
    validation error, or what else ``selection`` says.

    A guided search (not in the paper) begins further down and comes back up. Its first network has a head that is free
    to break every symmetry, behind layers that have them all; held-out images tell which symmetries it is right
    to break, see `skequinas.evidence.orbit`. Then its head is tightened to the largest symmetry that is not
    rejected. In the following generations the layers before the head are relaxed where the gradients of held-out images
    call for it, see `skequinas.evidence.gradients`, the most significant first, until none is called for any more.

    Parameters
    ----------
    n_generations : int, default=3
        Generations of candidates after the first network, at most. In a guided search the first of them tightens the
        head, the others relax layers.
    epochs_per_generation : float or None, default=None
        How long all candidates of a generation are trained; None is an eighth of a full training.
    warmup_epochs : float or None, default=None
        How long the first network of a search that is not guided is trained before; None is a half of a full training.
    probe_epochs : float or None, default=None
        How long the first network of a guided search is trained; None is a full training, or at most half of one where
        the curve of held-out errors tells how long it pays (without ``max_epochs``). Before a network has learned to
        use what breaks a symmetry it cannot be asked.
    population_size : int, default=4
        In a search that is not guided: parents of a generation, at least; a Pareto front is never cut.
    selection : {"pareto", "two fronts", "accuracy"}, default="pareto"
        In a search that is not guided: who the next parents are. The Pareto front of validation error and number of
        parameters; that and the front of what is behind it; or those of the lowest error alone, which then decides
        about the result too. Where fronts are smaller than the population, those of the lowest error fill it up.
    unique : bool, default=True
        In a search that is not guided: whether an architecture that several parents lead to is tried once. With False
        each gives its own weights, and all of them may survive; with ``revisit`` so does a relaxation of one parent to
        the architecture of another.
    final : {"retrain", "evolved"}, default="retrain"
        Whether the architecture that was chosen is trained anew from the start on all data, or the network that evolved
        is the model, as the search trained it on its part of the data.
    guided : bool, default=True
        False explores all symmetries by relaxation alone, and chooses by validation loss.
    call_level : float or None, default=0.05
        In a guided search: a layer is called for when the p-value of "relaxing it gains nothing" is at most this; None
        tries all layers, each generation one more.
    moves : {"maximal", "all"}, default="maximal"
        In a search that is not guided: whether the head is relaxed to the maximal subgroups of its constraint, one
        step down the lattice at a time, or to all proper subgroups at once.
    merge_conjugates : bool, default=False
        In a search that is not guided: whether of several subgroups that are conjugate in the group, such as the
        mirrors D1(0) and D1(90) of D4, one alone is tried. That is right for images that come in all orientations of
        the group, which cannot tell them apart; large groups have many such.
    revisit : bool, default=False
        Whether a relaxation that was tried and did not survive may be tried again.
    optimizer : {"muon", "adamw", "sgd"} or None, default=None
        None is that of a full training.
    momentum : float, default=0.9
        That of "sgd", Nesterov's unless it is 0.
    learning_rate : float or None, default=None
        None is that of a full training for the first network, and 0.3 of it for the generations. The first network of
        a guided search is always trained as in a full training.
    schedule : {"one_cycle", "constant"}, default="one_cycle"
        With "one_cycle" the rate rises and falls within each generation, so that candidates are compared at rest.
    tolerance : float, default=1.0
        The most symmetric candidate within so many standard errors of the best is chosen: in the end, and in a guided
        search in every generation.
    level : float, default=0.01
        The greatest probability of giving up a symmetry that images and targets together have, if the images are
        independent of each other: one is rejected when its p-value is at most this, from 0.001 to 0.5. Where costs
        decide, the greatest probability of imposing what costs the margin or more.
    criterion : {"evidence", "cost"}, default="evidence"
        What decides on a symmetry. By "evidence" the largest one is imposed that the data do not reject. By "cost" it
        is the largest that was shown to cost less than the margin, in held-out score: images that all stand upright
        do not look the same when they are mirrored, and a network may be made to treat them so all the same.
    margin : float, default=0.01
        With ``criterion="cost"``: the accuracy, or the share of the targets' variance, that a symmetry may cost. Where
        one class is much more common than others accuracy tells little of these.

    References
    ----------
    Maile, Wilson and Forré, Equivariance-aware Architectural Optimization of Neural Networks, ICLR 2023. Its
    settings, with ``weight_decay=0, label_smoothing=0`` in the estimator and a free head in its architecture, are
    ``EvolutionarySearch(n_generations=50, epochs_per_generation=0.2, warmup_epochs=0.2, population_size=5,
    selection="accuracy", unique=False, final="evolved", guided=False, moves="all", revisit=True, optimizer="sgd",
    momentum=0, learning_rate=0.05, schedule="constant", tolerance=0)``.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_generations": [Interval(Integral, 1, None, closed="left")],
        "epochs_per_generation": [Interval(Real, 0, None, closed="neither"), None],
        "warmup_epochs": [Interval(Real, 0, None, closed="neither"), None],
        "probe_epochs": [Interval(Real, 0, None, closed="neither"), None],
        "population_size": [Interval(Integral, 1, None, closed="left")],
        "selection": [StrOptions({"pareto", "two fronts", "accuracy"})],
        "unique": ["boolean"],
        "final": [StrOptions({"retrain", "evolved"})],
        "guided": ["boolean"],
        "call_level": [Interval(Real, 0, 1, closed="both"), None],
        "moves": [StrOptions({"maximal", "all"})],
        "merge_conjugates": ["boolean"],
        "revisit": ["boolean"],
        "optimizer": [StrOptions({"muon", "adamw", "sgd"}), None],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), None],
        "schedule": [StrOptions({"one_cycle", "constant"})],
        "tolerance": [Interval(Real, 0, None, closed="left")],
        "level": [Interval(Real, 0.001, 0.5, closed="both")],
        "criterion": [StrOptions({"evidence", "cost"})],
        "margin": [Interval(Real, 0, None, closed="neither")],
    }

    selection: str = "pareto"  # searches that were pickled before there were these have none
    unique: bool = True
    final: str = "retrain"
    momentum: float = 0.9

    def __init__(
        self,
        n_generations: int = 3,
        *,
        epochs_per_generation: float | None = None,
        warmup_epochs: float | None = None,
        probe_epochs: float | None = None,
        population_size: int = 4,
        selection: str = "pareto",
        unique: bool = True,
        final: str = "retrain",
        guided: bool = True,
        call_level: float | None = 0.05,
        moves: str = "maximal",
        merge_conjugates: bool = False,
        revisit: bool = False,
        optimizer: str | None = None,
        momentum: float = 0.9,
        learning_rate: float | None = None,
        schedule: str = "one_cycle",
        tolerance: float = 1.0,
        level: float = 0.01,
        criterion: str = "evidence",
        margin: float = 0.01,
    ) -> None:
        self.n_generations = n_generations
        self.epochs_per_generation = epochs_per_generation
        self.warmup_epochs = warmup_epochs
        self.probe_epochs = probe_epochs
        self.population_size = population_size
        self.selection = selection
        self.unique = unique
        self.final = final
        self.guided = guided
        self.call_level = call_level
        self.moves = moves
        self.merge_conjugates = merge_conjugates
        self.revisit = revisit
        self.optimizer = optimizer
        self.momentum = momentum
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.tolerance = tolerance
        self.level = level
        self.criterion = criterion
        self.margin = margin

    def cost(self) -> float:
        """About how long the search takes, in full trainings of a constrained network."""
        length = self.epochs_ * self._first_share
        warmup, probe, generation = (
            length / divisor if epochs is None else epochs
            for epochs, divisor in ((self.warmup_epochs, 2), (self.probe_epochs, 1), (self.epochs_per_generation, 8))
        )
        candidates = 2 if self._is_guided else 2 * self.population_size  # the parents and about as many children
        return ((probe if self._is_guided else warmup) + self.n_generations * candidates * generation) / self.epochs_

    @property
    def _by_curve(self) -> bool:
        return self._is_guided and self.by_curve_ and self.probe_epochs is None

    def n_passes(self) -> int:
        """About how often all validation images go through a network, the evidence apart."""
        if self._is_guided:  # an evaluation for each candidate, and gradients, which take about three passes
            return 2 * self.n_generations + (0 if self.call_level is None else 3 * (self.n_generations - 1))
        return 1 + 2 * self.population_size * self.n_generations

    def result(self) -> Evaluation | None:
        """The chosen candidate, the most symmetric within the tolerance of the best.

        Where a guided search ended before any candidate was ready, it is the first network with its head tightened; the
        losses are then those from before.
        """
        chosen = super().result()
        if chosen is None or not chosen.proposal.probe:
            return chosen
        architecture = self._tightened()
        return replace(
            chosen,
            proposal=replace(chosen.proposal, architecture=architecture, probe=False),
            network=inherit(chosen.network, architecture),
        )

    def check_start(self, architecture: Architecture) -> None:
        """Refuse a head that is free where the search would have to constrain it."""
        super().check_start(architecture)
        if self.criterion == "cost" and not self.guided:
            raise ValueError("criterion='cost' decides on nothing with guided=False. Leave one of them out.")
        if architecture.head == "free" and self.guided and architecture.group.order > 1:
            raise ValueError(
                "architecture has head='free', so that its function has no symmetry, and a guided search constrains "
                "the head to what it finds. Set guided=False, or head='constrained'."
            )

    @property
    def gathers_evidence(self) -> bool:
        """Whether what the data say for and against symmetries leads to its result: if it is guided."""
        return self._is_guided

    @property
    def _chosen_by(self) -> str:
        return "errors" if self.selection == "accuracy" and not self._is_guided else "losses"

    @property
    def _once(self) -> bool:
        """Whether no architecture is tried twice in a generation."""
        return self.unique or self._is_guided

    @property
    def keeps_network(self) -> bool:
        """Whether the network that evolved is the model."""
        return self.final == "evolved"

    @property
    def _is_guided(self) -> bool:
        return self.guided and self.architecture_.group.order > 1

    def propose(self) -> list[Proposal]:
        """The first network, or the parents of this generation and their children."""
        if self.generation_ == 0:
            return [self._first()]
        if self.generation_ > self.n_generations or not self.population_:
            return []
        epochs = self.epochs_ / 8 if self.epochs_per_generation is None else self.epochs_per_generation
        if self._is_guided and self.generation_ == 1:
            return [self._candidate(self._tightened(), epochs, self.population_[0])]
        children = self._children()
        if not children and (self._is_guided or not self.revisit):
            return []  # nothing is left to try
        parents = [(parent, parent.architecture) for parent in self.population_]
        return [self._candidate(a, epochs, parent) for parent, a in parents + children]

    def _candidate(self, architecture: Architecture, epochs: float, parent: Evaluation) -> Proposal:
        toward = self.symmetry_ if self._is_guided and self.call_level is not None else None
        return replace(self.proposal(architecture, epochs, self._training(0.3), parent), toward=toward)

    def _tightened(self) -> Architecture:
        """Where a guided search begins to relax: as constrained as at the start, but for the head."""
        head = self.architecture_.constraints[-1]
        assert isinstance(head, Subgroup)
        return self.architecture_.relaxed(-1, head if self.symmetry_ is None else head & self.symmetry_)

    def _training(self, share: float) -> TrainingSettings:
        """The settings of a training whose rate, if the user gives none, is a share of that of a full training."""
        rate = share * self.training_.learning_rate if self.learning_rate is None else self.learning_rate
        optimizer = self.training_.optimizer if self.optimizer is None else self.optimizer
        training = replace(self.training_, learning_rate=rate, optimizer=optimizer, momentum=self.momentum)
        return replace(training, schedule=self.schedule)

    def _first(self) -> Proposal:
        """The fully constrained network, or one whose head is free to break every symmetry."""
        start = self.architecture_
        if self._is_guided:
            epochs = self.epochs_ if self.probe_epochs is None else self.probe_epochs
            free = start.relaxed(-1, start.group.trivial)
            return replace(self.proposal(free, epochs, self.training_), probe=True, by_curve=self._by_curve)
        epochs = self.epochs_ / 2 if self.warmup_epochs is None else self.warmup_epochs
        return self.proposal(start, epochs, self._training(1.0))

    def _children(self) -> list[tuple[Evaluation, Architecture]]:
        """New architectures with their parents, each once."""
        seen = {e.architecture for e in self.population_}
        tried = set() if self.revisit and not self._is_guided else {record["constraints"] for record in self.records_}
        children = []
        for parent in self.population_:
            relaxations = self._called_for(parent) if self._is_guided else self._relaxations(parent.architecture)
            new = [child for child in relaxations if str(child) not in tried and (child not in seen or not self._once)]
            for child in new[:1] if self._is_guided else new:
                seen.add(child)
                children.append((parent, child))
        return children

    def _called_for(self, parent: Evaluation) -> Iterator[Architecture]:
        """Layers before the head relaxed, with all that follow, to the symmetry that is not rejected."""
        assert self.symmetry_ is not None
        architecture = parent.architecture
        constraints = [c for c in architecture.constraints if isinstance(c, Subgroup)]
        layers = list(range(len(constraints) - 2, -1, -1))
        if self.call_level is not None:
            calls = parent.calls or {}
            layers = sorted((i for i in layers if i in calls and calls[i] <= self.call_level), key=calls.__getitem__)
        for first in layers:
            yield architecture.with_constraints(
                tuple(c if i < first else c & self.symmetry_ for i, c in enumerate(constraints))
            )

    def _relaxations(self, architecture: Architecture) -> Iterator[Architecture]:
        """The last layer relaxed, then each earlier one to the constraint of the next."""
        chain = architecture.chain
        last = chain[-1]
        assert isinstance(last, Subgroup)
        smaller = last.maximal_subgroups if self.moves == "maximal" else last.subgroups[1:]
        if self.merge_conjugates:
            smaller = tuple({h.conjugates: h for h in reversed(smaller)}.values())[::-1]
        for subgroup in smaller:
            yield architecture.relaxed(len(chain) - 1, subgroup)
        for layer, (own, following) in enumerate(pairwise(chain)):
            assert isinstance(own, Subgroup)
            assert isinstance(following, Subgroup)
            if not own <= following:
                yield architecture.relaxed(layer, own & following)

    @property
    def untested_(self) -> list[Evaluation]:
        """Those of the population whose gradients the next proposals depend on, and are not known yet."""
        if not self._is_guided or self.generation_ > self.n_generations:
            return []
        return [e for e in self.population_ if e.proposal.toward is not None and e.calls is None]

    def survivors(self, evaluations: list[Evaluation]) -> list[Evaluation]:
        """The best one where the search is guided, else what ``selection`` says, filled up by validation error."""
        if self._is_guided and evaluations:
            return [choose(evaluations, self.tolerance)]
        chosen: list[Evaluation] = []
        for _ in range({"accuracy": 0, "pareto": 1, "two fronts": 2}[self.selection]):
            chosen += pareto_front([e for e in evaluations if e not in chosen])
        rest = sorted((e for e in evaluations if e not in chosen), key=lambda e: e.error)
        return chosen + rest[: max(0, self.population_size - len(chosen))]


def pareto_front(evaluations: list[Evaluation]) -> list[Evaluation]:
    """Those that no other beats in both validation error and number of parameters, the smallest first."""
    front: list[Evaluation] = []
    for e in sorted(evaluations, key=lambda e: (e.architecture.n_parameters, e.error)):
        if not front or e.error < front[-1].error:
            front.append(e)
    return front
