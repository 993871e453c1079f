"""What fits in several processes have to agree on, see `skequinas.data_parallel`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from skequinas.estimators.keeping import differences, fingerprint_of
from skequinas.io.stored import StoredImages
from skequinas.runtime.parallel import in_all, processes

__all__ = ["check_alike", "check_can_be_shared"]


def check_can_be_shared(model: Any) -> None:
    """Refuse what processes would do differently, or one of them alone.

    Raises
    ------
    ValueError
    """
    if processes() is None:
        return
    reasons = {
        "time_budget": "the clocks of several processes do not agree. Set max_epochs, or the record of an earlier fit",
        "checkpoint": "several processes would each keep the fit. Leave it out",
        "n_jobs": "each process trains its part of every candidate. Leave it out",
    }
    refused = {
        "time_budget": model.time_budget is not None and not isinstance(model.time_budget, dict),
        "checkpoint": model.checkpoint is not None,
        "n_jobs": model.n_jobs not in (None, 1),
    }
    for name, wrong in refused.items():
        if wrong:
            raise ValueError(f"{name}={getattr(model, name)!r} cannot be used with data_parallel: {reasons[name]}.")


def check_alike(model: Any, seed: int, images: Tensor | StoredImages, given: dict[str, Any]) -> None:
    """Refuse processes that do not fit the same parameters to the same data.

    Raises
    ------
    ValueError
        In all of them.
    """
    if processes() is None:
        return
    found = in_all(fingerprint_of(model, seed, images, given))
    for rank, (own, words) in enumerate(found):
        if own != found[0][0]:
            told = differences(own, words, {**found[0][0], "words": found[0][1]}, "in process 0")
            raise ValueError(f"The processes of data_parallel have to fit the same: in process {rank} {told}.")
