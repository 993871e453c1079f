"""What fits in several processes have to agree on, see `skequinas.data_parallel`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import joblib
import torch
from joblib import effective_n_jobs
from torch import Tensor

from skequinas.estimators.keeping import differences, fingerprint_of
from skequinas.io.stored import StoredImages
from skequinas.runtime.parallel import in_all, processes

__all__ = ["check_alike", "check_can_be_shared", "tried_in_all"]

T = TypeVar("T")

_REASONS = {
    "time_budget": "the clocks of several processes do not agree. Set max_epochs, or the record of an earlier fit",
    "checkpoint": "several processes would each keep the fit. Leave it out",
    "n_jobs": "each process trains its part of every candidate. Leave it out",
}


def check_can_be_shared(model: Any) -> None:
    """Refuse what processes would do differently, or one of them alone.

    Raises
    ------
    ValueError
    """
    if processes() is None:
        return
    n_jobs = effective_n_jobs(model.n_jobs)  # also as a surrounding parallel_config says
    asked = {
        "time_budget": None if isinstance(model.time_budget, dict) else model.time_budget,
        "checkpoint": model.checkpoint,
        "n_jobs": None if n_jobs == 1 else n_jobs,
    }
    for name, value in asked.items():
        if value is not None:
            raise ValueError(f"{name}={value!r} cannot be used with data_parallel: {_REASONS[name]}.")


def check_alike(model: Any, seed: int, images: Tensor | StoredImages, given: dict[str, Any], earlier: Any) -> None:
    """Refuse processes that do not fit the same parameters to the same data, from the same start, in the same way.

    Raises
    ------
    ValueError
        In all of them.
    """
    if processes() is None:
        return
    weights = {} if earlier is None else earlier.network_.state_dict()
    start = {name: value.numpy(force=True) for name, value in weights.items()}
    own, words = fingerprint_of(model, seed, images, given)
    own["data"]["the earlier model"] = str(joblib.hash(start))
    own["torch"] = f"torch {torch.__version__} with {torch.get_num_threads()} threads"
    own["torch"] += f" on {torch.backends.cpu.get_cpu_capability()}"
    found = in_all((own, words))
    for rank, (own, words) in enumerate(found):
        if own != found[0][0]:
            told = differences(own, words, {**found[0][0], "words": found[0][1]}, "in process 0")
            told += "" if told else f"it is {own['torch']}, in process 0 {found[0][0]['torch']}"
            raise ValueError(f"The processes of data_parallel have to fit the same: in process {rank} {told}.")


def tried_in_all(function: Callable[[], T]) -> T:
    """What a function gives, in each of the processes for itself, or an error in all of them.

    Raises
    ------
    RuntimeError
        When another process could not.
    """
    if processes() is None:
        return function()
    found, own = None, None
    try:
        found = function()
    except Exception as error:
        own = error
    errors = in_all(None if own is None else f"{type(own).__name__}: {own}")
    if own is not None:
        raise own
    for rank, message in enumerate(errors):
        if message is not None:
            raise RuntimeError(f"Process {rank} of data_parallel cannot fit: {message}")
    return found  # type: ignore[return-value]
