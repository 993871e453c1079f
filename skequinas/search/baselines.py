"""The controls: a search that looks nowhere, one that draws constraints, and one that looks at random."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from skequinas.groups import Subgroup
from skequinas.nn.architecture import Architecture
from skequinas.search.base import Search
from skequinas.search.evaluation import Evaluation, Proposal
from skequinas.search.evolutionary import EvolutionarySearch

__all__ = ["NoSearch", "RandomConstraints", "RandomSearch"]


class NoSearch(Search):
    """No search: the architecture stays as it is, constrained to the whole group unless the user gives another one."""

    def check_start(self, architecture: Architecture) -> None:
        """Take any architecture, one with mixed layers too."""

    def propose(self) -> list[Proposal]:
        """Nothing."""
        return []


class RandomConstraints(NoSearch):
    """No search: constraints drawn once, of which each contains the next, from the image to the head.

    All such chains of subgroups are as likely; the network is then trained as any fixed one. It is the control for what
    a search finds: whether its constraints are better than any. Those of the architecture do not matter; a head that
    is free stays so.
    """

    def check_start(self, architecture: Architecture) -> None:
        """Refuse what has no place for constraints: mixed layers, and outputs that are averaged."""
        Search.check_start(self, architecture)

    def start(self, architecture: Architecture, *args: Any, **options: Any) -> Self:
        """Begin with constraints drawn by the seed, as `Search.start`."""
        super().start(architecture, *args, **options)
        subgroups = architecture.group.subgroups
        ways = [dict.fromkeys(subgroups, 1)]  # how many chains of 1, 2, ... subgroups begin with each
        for _ in architecture.chain[1:]:
            ways.append({h: sum(ways[-1][k] for k in h.subgroups) for h in subgroups})
        rng, chain = self.rng("chain"), list[Subgroup]()
        for counts in reversed(ways):
            choices = chain[-1].subgroups if chain else subgroups
            total = sum(counts[h] for h in choices)
            chain.append(choices[rng.choice(len(choices), p=[counts[h] / total for h in choices])])
        self.architecture_ = architecture.with_constraints((*chain, *architecture.constraints[len(chain) :]))
        return self


class RandomSearch(EvolutionarySearch):
    """Random relaxations and random survivors, with the moves and the budget of the evolutionary search.

    Each generation trains one child more than half the parents. With the default settings the search takes about 1.9
    full trainings; a guided evolutionary search takes 1.1 to 1.6. The survivors are drawn at random, whatever their
    error. The final choice is made as there, without evidence.

    Parameters
    ----------
    n_generations : int, default=3
    epochs_per_generation : float or None, default=None
    warmup_epochs : float or None, default=None
    population_size : int, default=2
    moves : {"maximal", "all"}, default="maximal"
    tolerance : float, default=1.0
        All as in `EvolutionarySearch`.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        name: EvolutionarySearch._parameter_constraints[name]
        for name in (
            "n_generations",
            "epochs_per_generation",
            "warmup_epochs",
            "population_size",
            "moves",
            "tolerance",
        )
    }

    def __init__(
        self,
        n_generations: int = 3,
        *,
        epochs_per_generation: float | None = None,
        warmup_epochs: float | None = None,
        population_size: int = 2,
        moves: str = "maximal",
        tolerance: float = 1.0,
    ) -> None:
        super().__init__(
            n_generations,
            epochs_per_generation=epochs_per_generation,
            warmup_epochs=warmup_epochs,
            population_size=population_size,
            guided=False,
            moves=moves,
            tolerance=tolerance,
        )

    def _children(self) -> list[tuple[Evaluation, Architecture]]:
        children = super()._children()
        n = self.population_size // 2 + 1
        return [children[i] for i in sorted(self.rng("children").permutation(len(children))[:n])]

    def survivors(self, evaluations: list[Evaluation]) -> list[Evaluation]:
        """As many as the population holds, drawn at random."""
        order = self.rng("survivors").permutation(len(evaluations))
        return [evaluations[i] for i in sorted(order[: self.population_size])]
