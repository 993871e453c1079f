"""The loop that asks a search, trains what it proposes, and tells it the results."""

from __future__ import annotations

import time

import numpy as np
import torch
from sklearn.base import clone

from skequinas.gradients import relaxation_p_values
from skequinas.monitor import Monitor
from skequinas.networks import EquivariantNetwork, inherit
from skequinas.search.base import Evaluation, Proposal, Search
from skequinas.search.baselines import NoSearch, RandomSearch
from skequinas.search.differentiable import DifferentiableSearch
from skequinas.search.evidence import gather_evidence
from skequinas.search.evolutionary import EvolutionarySearch
from skequinas.training import DataPart, DivergenceError, evaluate, n_steps, train

__all__ = ["SEARCHES", "resolve_search", "run_search"]

SEARCHES: dict[str, type[Search]] = {
    "evolutionary": EvolutionarySearch,
    "differentiable": DifferentiableSearch,
    "random": RandomSearch,
    "none": NoSearch,
}


def resolve_search(search: str | Search) -> Search:
    """A search of that name with its default settings, or a fresh copy of a search object."""
    if isinstance(search, Search):
        copy: Search = clone(search)
        return copy
    if search not in SEARCHES:
        names = ", ".join(repr(name) for name in SEARCHES)
        raise ValueError(
            f"search={search!r} is unknown. Use one of {names}, or a search object such as EvolutionarySearch()."
        )
    return SEARCHES[search]()


def run_search(search: Search, data: DataPart, validation: DataPart, monitor: Monitor | None = None) -> None:
    """Drive a started search to its end, or until the monitor stops it.

    A candidate whose loss is no longer finite is dropped, and the search goes on. When the time is up, the candidate
    that was being trained is dropped, unless it is the model itself, and the generation stays open: the search can go
    on later where it began.

    Raises
    ------
    DivergenceError
        When every candidate of a generation diverged.
    """
    monitor = Monitor() if monitor is None else monitor
    while not monitor.out_of_time() and (proposals := search.ask()):
        parents = {e.proposal.number: e.network for e in search.population_}
        search.pending_ = []
        for proposal in proposals:
            evaluation = _evaluation(proposal, parents, data, validation, monitor, search.keeps_network)
            if evaluation.diverged and monitor.out_of_time() and not search.keeps_network:
                return  # it was cut off
            search.pending_.append(evaluation)
        search.tell(search.pending_)
        if not search.population_:
            raise DivergenceError(
                f"Generation {search.generation_ - 1} left no candidate to go on with: the training loss became NaN or "
                f"infinite. Reduce learning_rate={proposals[0].training.learning_rate:g}, or scale X and "
                "y."
            )
        if monitor.generation_over(search):
            return


def _evaluation(
    proposal: Proposal,
    parents: dict[int, EquivariantNetwork],
    data: DataPart,
    validation: DataPart,
    monitor: Monitor,
    always: bool,
) -> Evaluation:
    """Train a proposal and evaluate it, if its training was not cut off or it is to be evaluated always."""
    started = time.perf_counter()
    evidence = calls = None
    if proposal.parent is None:
        generator = torch.Generator().manual_seed(proposal.seed)
        network = EquivariantNetwork(proposal.architecture, generator)
    else:
        network = inherit(parents[proposal.parent], proposal.architecture)
    network.to(data.images.device, torch.float32)
    losses, errors = (np.full(len(validation), np.inf) for _ in range(2))
    for_alphas, unseen = _parted(validation, proposal.seed) if proposal.architecture.is_mixed else (None, validation)
    history = _ShareHistory(network, n_steps(len(data), proposal.epochs, proposal.training.batch_size))

    def on_step() -> bool:
        history.step()
        return monitor.step(proposal)

    try:
        train(
            network,
            data,
            proposal.training,
            proposal.epochs,
            seed=proposal.seed,
            alpha_data=for_alphas,
            on_step=on_step,
        )
        if always or not monitor.out_of_time():
            losses, errors = evaluate(network, validation)
            if proposal.probe:
                evidence = gather_evidence(network, unseen, proposal.architecture.group, proposal.seed)
            if proposal.toward is not None:
                rng = np.random.default_rng(proposal.seed)
                calls = relaxation_p_values(network, validation, proposal.toward, rng)
    except DivergenceError as error:
        monitor.log("candidate %d (%s) dropped: %s", proposal.number, proposal.architecture, error)
    evaluation = Evaluation(
        proposal,
        network,
        losses,
        errors,
        time.perf_counter() - started,
        evidence,
        validation.sample_weights(),
        calls,
        history.shares or None,
    )
    if not evaluation.diverged:
        monitor.log(
            "generation %d, candidate %d: %s, %d parameters, validation score %.4f, loss %.4f, %.1f s",
            proposal.generation,
            proposal.number,
            proposal.architecture,
            proposal.architecture.n_parameters,
            1 - evaluation.error,
            evaluation.loss,
            evaluation.seconds,
        )
    return evaluation


def _parted(validation: DataPart, seed: int) -> tuple[DataPart, DataPart]:
    """A third of the validation part to train alphas on, and the rest, of which the network then knows nothing."""
    n = len(validation)
    rows = np.random.default_rng(seed).permutation(n)
    n_alphas = max(2, n // 3)
    if n_alphas >= n:
        return validation, validation
    return validation.subset(np.sort(rows[:n_alphas])), validation.subset(np.sort(rows[n_alphas:]))


class _ShareHistory:
    """The shares of a network's mixed layers in the course of its training, at about fifty steps."""

    def __init__(self, network: EquivariantNetwork, n_steps: int) -> None:
        self.network, self.interval, self.n = network, max(1, n_steps // 50), 0
        self.shares: dict[str, dict[str, list[float]]] = {}

    def step(self) -> None:
        if self.network.architecture.is_mixed and self.n % self.interval == 0:
            for layer, shares in self.network.shares().items():
                for name, share in shares.items():
                    self.shares.setdefault(layer, {}).setdefault(name, []).append(share)
        self.n += 1
