"""The loop that asks a search, trains what it proposes, and tells it the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs

from skequinas.evidence.gradients import relaxation_p_values
from skequinas.evidence.measures import mean_change
from skequinas.evidence.orbit import gather_evidence
from skequinas.io.checkpoints import Checkpoint
from skequinas.nn.networks import EquivariantNetwork, inherit
from skequinas.runtime.devices import is_out_of_memory
from skequinas.runtime.process import fitting_state, kept_memory, torch_threads
from skequinas.search.base import Search
from skequinas.search.evaluation import Evaluation, Proposal
from skequinas.search.keeping import identity_of, keep_candidate, known_candidate
from skequinas.training import DataPart, DivergenceError, Monitor, evaluate, train
from skequinas.training.augmentation import Moves, borne_moves, candidate_moves, losses_under_moves, weighted_mover
from skequinas.training.curve import GREATEST_SHARE, train_by_curve
from skequinas.training.data import n_steps
from skequinas.training.loop import refresh_statistics
from skequinas.training.monitor import CandidateStage, Clock
from skequinas.training.settings import halved, remedy, warn_of_memory

__all__ = ["run_search"]


def run_search(
    search: Search,
    data: DataPart,
    validation: DataPart,
    monitor: Monitor | None = None,
    n_jobs: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Drive a started search to its end, or until the monitor stops it.

    A candidate whose loss is no longer finite is dropped, and the search goes on. When the time is up, the candidate
    that was being trained is dropped, unless it is the model itself, and the generation stays open: the search can go
    on later where it began.

    Parameters
    ----------
    search : Search
    data, validation : DataPart
    monitor : Monitor, optional
    n_jobs : int or None, default=None
        How many candidates of a generation are trained at the same time, in processes of joblib's, on a CPU; -1 is one
        for each core. Each then has one thread of torch, and the result does not depend on the number. None is what a
        surrounding ``joblib.parallel_config`` says, and else trains them one after the other with all threads.
    checkpoint : Checkpoint, optional
        Keeps every candidate that is done, and longer trainings while they go on. What it knows is not done again.

    Raises
    ------
    DivergenceError
        When every candidate of a generation diverged.
    MemoryError
        When memory sufficed for none of them.
    """
    monitor = Monitor() if monitor is None else monitor
    while not _is_over(monitor, checkpoint):
        for e in search.untested_:
            e.calls = _calls(e, validation, checkpoint)
        proposals = search.ask()
        if not proposals:
            return
        parents = {e.proposal.number: e.network for e in search.population_}
        if search.augmented_ and search.moves_ is None and any(p.like_the_model for p in proposals):
            chosen = search.constrained
            assert chosen is not None
            candidates = candidate_moves(chosen.architecture.symmetry, *chosen.architecture.image_shape)
            search.moves_ = borne_moves(chosen.network, validation, candidates, search.seed_)
        tasks = [
            _Task(
                p,
                None if p.parent is None else parents[p.parent],
                monitor.candidate_clock(p.number),
                search.keeps_network and not search.population_,
                replace(search.moves_ or Moves(), elements=p.architecture.averaged) if p.like_the_model else Moves(),
                checkpoint,
                str(p.number) in monitor.halved,
            )
            for p in proposals
        ]
        search.pending_, cut_off = [], False
        for evaluation, trouble, clock in _evaluations(tasks, data, validation, monitor, n_jobs):
            monitor.note(str(evaluation.proposal.number), clock)
            if evaluation.proposal.training.batch_size < proposals[0].training.batch_size:
                monitor.halved.add(str(evaluation.proposal.number))
                became = "was dropped" if evaluation.diverged else "was trained"
                warn_of_memory(proposals[0].training, f"candidate {evaluation.proposal.number} {became}")
            _log(evaluation, trouble, monitor)
            if trouble == _INTERRUPTED:
                search.pending_.append(evaluation)
                raise KeyboardInterrupt
            if evaluation.diverged and monitor.out_of_time() and (search.population_ or not search.keeps_network):
                cut_off = True
            else:
                search.pending_.append(evaluation)
        if cut_off:
            return
        search.tell(search.pending_)
        if not search.population_:
            if all(str(p.number) in monitor.halved for p in proposals):
                raise MemoryError(
                    f"Memory does not suffice for any candidate, with mini-batches of half of "
                    f"{proposals[0].training.batch_size} images either. Reduce batch_size, n_jobs or width, or use "
                    "smaller images."
                )
            raise DivergenceError(
                f"Generation {search.generation_ - 1} left no candidate to go on with: the training loss became NaN or "
                f"infinite. {remedy(proposals[0].training)}"
            )
        best = search.result()
        assert best is not None
        if monitor.generation_over(search.progress(), best.network):
            return


_INTERRUPTED = "interrupted"


def _is_over(monitor: Monitor, checkpoint: Checkpoint | None) -> bool:
    """Whether the time for the search is up, which a checkpoint keeps."""
    over = monitor.out_of_time()
    if checkpoint is not None and monitor.time_budget is not None:
        checkpoint.write("clock", monitor.stage_state())
    return over


def _calls(e: Evaluation, validation: DataPart, checkpoint: Checkpoint | None) -> dict[int, float]:
    """Which layers ask to be relaxed, see `relaxation_p_values`."""

    def asked() -> dict[int, float]:
        assert e.proposal.toward is not None
        rng = np.random.default_rng(e.proposal.seed)
        return relaxation_p_values(e.network, validation, e.proposal.toward, rng)

    calls: dict[int, float] = (
        asked()
        if checkpoint is None
        else checkpoint.once(f"calls-{e.proposal.number}", identity_of(e.proposal, validation), asked)
    )
    return calls


class _Task(NamedTuple):
    """A proposal, the network that it inherits from, what says when to stop, and whether it is to be evaluated even so.

    And what the images that it is trained on are moved by, what keeps it, and whether its mini-batches are halved.
    """

    proposal: Proposal
    parent: EquivariantNetwork | None
    clock: Clock
    always: bool
    moves: Moves
    checkpoint: Checkpoint | None
    is_halved: bool

    @property
    def stage(self) -> CandidateStage:
        """What the monitor is told."""
        return CandidateStage(self.proposal.generation, self.proposal.number, str(self.proposal.architecture))


class _Done(NamedTuple):
    """What became of a task, what went wrong, and its clock."""

    evaluation: Evaluation
    trouble: str
    clock: Clock


def _evaluations(
    tasks: list[_Task], data: DataPart, validation: DataPart, monitor: Monitor, n_jobs: int | None
) -> Iterator[_Done]:
    """The evaluations of a generation, in order, each with what went wrong."""
    n_workers = effective_n_jobs(n_jobs)
    alone = len(tasks) == 1 or data.images.device.type != "cpu" or (n_jobs is None and n_workers == 1)
    if alone or n_workers == 1:
        for task in tasks:
            with torch_threads(torch.get_num_threads() if alone else 1):
                found = _known_or_done(task, data, validation, partial(monitor.step, task.stage))
            yield found
            if found.evaluation.diverged and found.clock.cut is not None:
                return  # it was cut off, and there is no time for others
        return
    # copy on write: torch wants arrays that may be written to
    workers = Parallel(n_jobs=min(n_workers, len(tasks)), mmap_mode="c")
    results = workers(delayed(_evaluation_elsewhere)(task, data, validation) for task in tasks)
    for task, found in zip(tasks, results, strict=True):
        monitor.step(task.stage, n_steps(len(data), task.proposal.epochs, task.proposal.training.batch_size))
        yield found


def _evaluation_elsewhere(task: _Task, data: DataPart, validation: DataPart) -> _Done:
    """Train and evaluate in another process or thread."""
    with fitting_state(), kept_memory(), torch_threads(1):
        return _known_or_done(task, data, validation, lambda: None)


def _known_or_done(task: _Task, data: DataPart, validation: DataPart, watch: Callable[[], object]) -> _Done:
    """What is known of a proposal from before the process was killed; or train and evaluate it, and keep that."""
    if task.checkpoint is None:
        return _with_enough_memory(task, data, validation, watch)
    identity = identity_of(task.proposal, validation)
    known = known_candidate(task.checkpoint, task.proposal, identity, task.clock)
    if known is not None:
        known[0].network.to(data.images.device)
        return _Done(*known, task.clock)
    found = _with_enough_memory(task, data, validation, watch)
    if found.trouble != _INTERRUPTED:
        keep_candidate(task.checkpoint, task.proposal, identity, *found)
    return found


def _with_enough_memory(task: _Task, data: DataPart, validation: DataPart, watch: Callable[[], object]) -> _Done:
    """Train and evaluate; with mini-batches of half the size where memory does not suffice, or not at all."""
    name, checkpoint = f"halved-{task.proposal.number}", task.checkpoint
    if not task.is_halved and (checkpoint is None or checkpoint.read(name) is None):
        try:
            return _evaluation(task, data, validation, watch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        task.clock.begin_again()
        if checkpoint is not None:
            checkpoint.write(name, True)
    halves = replace(task.proposal, training=halved(task.proposal.training))
    try:
        return _evaluation(task._replace(proposal=halves), data, validation, watch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        nothing = np.full(len(validation), np.inf)
        network = EquivariantNetwork(halves.architecture)
        return _Done(Evaluation(halves, network, nothing, nothing, 0.0), f"memory ran out ({error})", task.clock)


def _evaluation(task: _Task, data: DataPart, validation: DataPart, watch: Callable[[], object]) -> _Done:
    """Train a proposal and evaluate it, if its training was not cut off or it is to be evaluated always."""
    started, proposal, trouble = time.perf_counter(), task.proposal, ""
    evidence, change, moved, moved_error = None, float("nan"), None, 0.0
    if task.parent is None:
        generator = torch.Generator().manual_seed(proposal.seed)
        network = EquivariantNetwork(proposal.architecture, generator)
        network.start_mixtures(proposal.favour, generator if proposal.training.alphas == "drawn" else None)
    else:
        network = inherit(task.parent, proposal.architecture)
    network.to(data.images.device, torch.float32)
    if task.parent is not None and not proposal.architecture.relaxes(task.parent.architecture):
        refresh_statistics(network, data, proposal.training.batch_size, seed=proposal.seed)
    losses, errors = (np.full(len(validation), np.inf) for _ in range(2))
    for_alphas, unseen = (data if proposal.architecture.is_mixed else None), validation
    if for_alphas is not None and proposal.alpha_data == "validation" and proposal.training.alphas != "drawn":
        for_alphas, unseen = _parted(validation, proposal.seed)
    longest = proposal.epochs * (GREATEST_SHARE if proposal.by_curve else 1.0)
    keeper = None
    if task.checkpoint is not None:
        keeper = task.checkpoint.keeper(f"training-{proposal.number}", identity_of(proposal, validation))
    history = _ShareHistory(network, n_steps(len(data), longest, proposal.training.batch_size))
    if keeper is not None:
        vars(history).update(keeper.part("shares", history.state_dict) or {})
        task.clock.load_state_dict(keeper.part("clock", task.clock.state_dict) or task.clock.state_dict())

    def on_step() -> bool:
        history.step()
        watch()
        return task.clock.is_over()

    try:
        how: dict[str, Any] = {"seed": proposal.seed, "alpha_data": for_alphas, "on_step": on_step, "keeper": keeper}
        if proposal.like_the_model:
            how["augmentation"] = task.moves.start(proposal.seed)
        elif proposal.moves is not None:
            how["augmentation"] = weighted_mover(proposal.architecture.group, proposal.moves, proposal.seed)
        if proposal.by_curve:
            epochs = train_by_curve(network, data, proposal.training, proposal.epochs, unseen, **how)
            proposal = replace(proposal, epochs=epochs)
        else:
            train(network, data, proposal.training, proposal.epochs, **how)
        if not task.clock.is_over() or task.always:
            losses, errors = evaluate(network, validation)
            if proposal.probe:
                evidence = gather_evidence(network, unseen, proposal.architecture.group, proposal.seed)
            if proposal.training.invariance is not None:
                change = mean_change(network, validation, proposal.training.invariance.group)
            if proposal.moves is not None:  # of the network itself, not of the mean of its outputs
                alone = inherit(network, replace(proposal.architecture, averaged=None)).eval()
                moved, moved_error = losses_under_moves(alone, validation, proposal.architecture.group)
    except DivergenceError as error:
        trouble = str(error)
        losses, errors = (np.full(len(validation), np.inf) for _ in range(2))
    except KeyboardInterrupt:
        if history.n < n_steps(len(data), 1, proposal.training.batch_size):
            raise
        losses, errors = evaluate(network, validation)  # it has seen all data, so it may be the best there is
        trouble = _INTERRUPTED
    seconds = time.perf_counter() - started
    weights, shares = validation.sample_weights(), history.shares or None
    evaluation = Evaluation(
        proposal, network, losses, errors, seconds, evidence, weights,
        share_history=shares, units=validation.units, change=change, moved_losses=moved, moved_error=moved_error,
    )  # fmt: skip
    return _Done(evaluation, trouble, task.clock)


def _log(evaluation: Evaluation, trouble: str, monitor: Monitor) -> None:
    """A line about a candidate."""
    proposal = evaluation.proposal
    if trouble:
        monitor.log("candidate %d (%s) dropped: %s", proposal.number, proposal.architecture, trouble)
    elif not evaluation.diverged:
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


def _parted(validation: DataPart, seed: int) -> tuple[DataPart, DataPart]:
    """A third of the validation part to train alphas on, and the rest, of which the network then knows nothing."""
    n = validation.n_units
    order = np.random.default_rng(seed).permutation(n)
    n_alphas = max(2, n // 3)
    if n_alphas >= n:
        return validation, validation
    units = np.arange(n) if validation.units is None else validation.units
    for_alphas = np.isin(units, order[:n_alphas])
    return validation.subset(np.flatnonzero(for_alphas)), validation.subset(np.flatnonzero(~for_alphas))


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

    def state_dict(self) -> dict[str, Any]:
        """How many steps there were, and the shares so far."""
        return {"n": self.n, "shares": self.shares}
