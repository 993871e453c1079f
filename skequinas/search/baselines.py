"""The controls: a search that looks nowhere, and one that looks at random."""

from __future__ import annotations

from skequinas.networks import Architecture
from skequinas.search.base import Evaluation, Search
from skequinas.search.evolutionary import EvolutionarySearch
from skequinas.training import TrainingSettings

__all__ = ["NoSearch", "RandomSearch"]


class NoSearch(Search):
    """No search: the architecture stays constrained to the whole group."""

    def _propose(self) -> list[tuple[int | None, Architecture, float, TrainingSettings]]:
        return []


class RandomSearch(EvolutionarySearch):
    """Random relaxations and random survivors, with the moves and the budget of the evolutionary search.

    Each generation holds as many candidates as a population of the evolutionary search usually has with its children; the
    survivors are drawn at random, whatever their error. The final choice is the same as there.

    Parameters
    ----------
    n_generations, epochs_per_generation, warmup_epochs, population_size, moves, revisit, optimizer, learning_rate, \
schedule, tolerance
        As in `EvolutionarySearch`.
    """

    def _children(self) -> list[tuple[int, Architecture]]:
        children = super()._children()
        n = min(len(children), 2 * self.population_size)
        chosen = self._rng("children").choice(len(children), size=n, replace=False) if n else []
        return [children[i] for i in sorted(chosen)]

    def _survivors(self, evaluations: list[Evaluation]) -> list[Evaluation]:
        n = min(len(evaluations), self.population_size)
        chosen = self._rng("survivors").choice(len(evaluations), size=n, replace=False)
        return [evaluations[i] for i in sorted(chosen)]
