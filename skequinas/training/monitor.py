"""What watches a fit: the clock, the progress bar, the log, and the callbacks of the user and of scikit-learn."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from skequinas.runtime.parallel import in_all

__all__ = ["CandidateStage", "Clock", "FitProgress", "Monitor", "SearchProgress"]

logger = logging.getLogger("skequinas")


@dataclass(frozen=True)
class FitProgress:
    """Where a fit stands, as a ``callback`` is told after every generation of the search and every epoch of training.

    Parameters
    ----------
    stage : {"search", "training"}
        The search, or the final training.
    generation : int
        Generations of the search that are over.
    epoch : float or None
        Epochs of the final training that are over; None in the search.
    n_candidates : int
        Networks that the search has tried.
    best_score : float or None
        The best validation score of the search so far: accuracy, or one minus the mean squared error in units of the
        targets' variance.
    symmetry : str or None
        The symmetry of the best candidate so far.
    seconds : float
        Since the fit began.
    """

    stage: str
    generation: int
    epoch: float | None
    n_candidates: int
    best_score: float | None
    symmetry: str | None
    seconds: float


@dataclass(frozen=True)
class CandidateStage:
    """Which candidate of a search is being trained.

    Parameters
    ----------
    generation, candidate : int
        Their numbers.
    constraints : str
        The architecture in short.
    """

    generation: int
    candidate: int
    constraints: str

    def __str__(self) -> str:
        return f"generation {self.generation}: {self.constraints}"


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands.

    Parameters
    ----------
    generation : int
        Generations that are over.
    n_candidates : int
        Networks that were tried.
    best_score : float or None
        The best validation score.
    symmetry : str or None
        The symmetry of the best candidate.
    """

    generation: int = 0
    n_candidates: int = 0
    best_score: float | None = None
    symmetry: str | None = None


class Clock:
    """Tells whether the time is up, and after how many questions it first was.

    Given that number from an earlier fit, it says the same at the same question, whatever the time is: all that a fit
    with a time budget does follows from these numbers and from its plan.

    Parameters
    ----------
    deadline : float or None
        On ``time.perf_counter``.
    replayed : bool, default=False
        Whether the deadline does not count, but ``cut`` alone.
    cut : int or None, default=None
        The question from which on time was up, if it ever was.
    """

    def __init__(self, deadline: float | None, *, replayed: bool = False, cut: int | None = None) -> None:
        self.deadline, self.replayed, self.cut, self.asked = deadline, replayed, cut, 0
        self.settled = 0  # so many questions were answered before the process was killed, with no

    def is_over(self) -> bool:
        """Whether the time is up."""
        self.asked += 1
        if self.cut is not None:
            return self.asked >= self.cut
        if self.replayed or self.asked <= self.settled:
            return False
        over = self.deadline is not None and time.perf_counter() >= self.deadline
        if over:
            self.cut = self.asked
        return over

    def state_dict(self) -> dict[str, int | None]:
        """How often it was asked, and from when on it said yes."""
        return {"asked": self.asked, "cut": self.cut}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.asked, self.cut = state["asked"], state["cut"]

    def begin_again(self, asked: int = 0) -> None:
        """As if it had been asked so often, and not more."""
        self.asked = asked


class Monitor:
    """Watches one fit. Every mini-batch, candidate, generation and epoch is reported to it, and it says when to stop.

    Parameters
    ----------
    verbose : int
        1 shows a progress bar, 2 logs a line for each candidate as well.
    time_budget : float or None
        Seconds for the whole fit.
    callback : callable or None
        Called with a `FitProgress`; when it returns a true value the search, or the training, ends.
    hooks : callable or None
        ``hooks(task, network)`` passes the end of a "generation" or an "epoch" on to the callbacks of scikit-learn, and
        returns whether one of them wants to stop.
    record : dict or None
        Of an earlier fit with that budget, which is done again: its "cuts" tell after how many questions the time of
        each stage was up.
    """

    def __init__(
        self,
        verbose: int = 0,
        time_budget: float | None = None,
        callback: Callable[[FitProgress], bool | None] | None = None,
        hooks: Callable[[str, Any], bool] | None = None,
        record: dict[str, Any] | None = None,
    ) -> None:
        self.record = record
        self.cuts: dict[str, int | None] = {} if record is None else dict(record["cuts"])
        self.clock, self.stage, self.reserved = Clock(None), "", 0.0
        self.halved: set[str] = set() if record is None else set(record["halved"])  # for want of memory
        self.was_stopped = False  # by a callback
        self.plan: dict[str, Any] | None = None  # of a time budget
        self.verbose, self.time_budget, self.callback, self.hooks = int(verbose), time_budget, callback, hooks
        self.started = time.perf_counter()
        self.search = SearchProgress()
        # not even a disabled one where none is wanted: tqdm's lock is shared with forked processes, which may be killed
        self._bar: tqdm | None = None

    def log(self, message: str, *values: object) -> None:
        """Log a line about a candidate, for everybody to see when the user asked for it."""
        logger.log(logging.INFO if self.verbose >= 2 else logging.DEBUG, message, *values)

    @property
    def seconds(self) -> float:
        """Since the fit began."""
        return time.perf_counter() - self.started

    def out_of_time(self) -> bool:
        """Whether the deadline of this stage has passed."""
        return self.clock.is_over()

    def begin(self, stage: str, reserved: float, known: dict[str, Any] | None = None) -> None:
        """Begin a stage, whose deadline leaves so many seconds of the budget.

        What `stage_state` told before the process was killed, if anything, is known: these questions are answered.
        """
        self.end_stage()
        self.stage, self.reserved = stage, reserved if known is None else known["reserved"]
        deadline = None if self.time_budget is None else self.started + self.time_budget - self.reserved
        self.clock = self._clock(stage, deadline)
        if known is not None:
            self.clock.settled, self.clock.cut = known["asked"], known["cut"]

    def stage_state(self) -> dict[str, Any]:
        """What is known of this stage's deadline."""
        return {**self.clock.state_dict(), "reserved": self.reserved, "plan": self.plan}

    def end_stage(self) -> None:
        """Remember when the time of this stage was up."""
        if self.stage:
            self.note(self.stage, self.clock)

    def candidate_clock(self, number: int) -> Clock:
        """A clock with the deadline of this stage for a candidate, which may be trained elsewhere."""
        return self._clock(str(number), self.clock.deadline)

    def note(self, stage: str, clock: Clock) -> None:
        """Remember when the time of a stage, or of a candidate, was up."""
        self.cuts[stage] = clock.cut

    def _clock(self, stage: str, deadline: float | None) -> Clock:
        replayed = self.record is not None
        return Clock(deadline, replayed=replayed, cut=self.cuts.get(stage) if replayed else None)

    @contextmanager
    def watching(self, n_batches: int) -> Iterator[None]:
        """Show the progress of about so many mini-batches while the context lasts."""
        bar = tqdm(total=n_batches, unit="batch") if self.verbose else None
        with _log_shown(self.verbose >= 2), nullcontext() if bar is None else bar as self._bar:
            yield

    def expect(self, n_batches: int) -> None:
        """So many mini-batches are still to come."""
        if self._bar is not None:
            self._bar.total = self._bar.n + n_batches

    def step(self, stage: CandidateStage | None = None, n_batches: int = 1) -> None:
        """After mini-batches of a candidate, or of the final training."""
        if self._bar is not None:
            self._bar.update(n_batches)
            self._bar.set_description_str("final training" if stage is None else str(stage), refresh=False)

    def generation_over(self, search: SearchProgress, network: Any) -> bool:
        """After a generation, of which this is the best network. Whether to stop the search."""
        self.search = search
        if self._bar is not None:
            self._bar.set_postfix_str(f"best score {search.best_score:.3f}, symmetry {search.symmetry}", refresh=False)
        return self._stop("generation", self._progress("search"), network)

    def epoch_over(self, row: dict[str, float], network: Any) -> bool:
        """After an epoch of the final training. Whether to stop it."""
        return self._stop("epoch", self._progress("training", row["epoch"]), network)

    def _progress(self, stage: str, epoch: float | None = None) -> FitProgress:
        now = self.search
        return FitProgress(stage, now.generation, epoch, now.n_candidates, now.best_score, now.symmetry, self.seconds)

    def _stop(self, task: str, progress: FitProgress, network: Any) -> bool:
        asked = self.hooks is not None and self.hooks(task, network)
        answer = self.callback is not None and bool(self.callback(progress))
        stop = any(in_all(asked or answer))
        self.was_stopped = self.was_stopped or stop
        return stop


@contextmanager
def _log_shown(wanted: bool) -> Iterator[None]:
    """Let the log's lines through, and show them on the standard error stream where nothing else would show them."""
    if not wanted:
        yield
        return
    level, handler = logger.level, None if _has_handler() else logging.StreamHandler()
    if not logger.isEnabledFor(logging.INFO):
        logger.setLevel(logging.INFO)
    if handler is not None:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(level)
        if handler is not None:
            logger.removeHandler(handler)


def _has_handler() -> bool:
    """Whether a record of the log reaches a handler that does something."""
    place: logging.Logger | None = logger
    while place is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in place.handlers):
            return True
        place = place.parent if place.propagate else None
    return False
