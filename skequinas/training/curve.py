"""A training that is as long as it pays: it goes on for as long as twice the length lowers the held-out error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from skequinas.io.checkpoints import Keeper
from skequinas.training.data import DataPart, batches_per_epoch, mean_with_error, n_steps
from skequinas.training.evaluation import evaluate
from skequinas.training.loop import train
from skequinas.training.settings import TrainingSettings

__all__ = ["GREATEST_SHARE", "train_by_curve"]

_SHARES = 1 / 8, 1 / 8, 1 / 4, 1 / 2
"""Of the greatest length of a final training: each part but the first doubles what was before it."""

GREATEST_SHARE = sum(_SHARES[:-1])
"""Of that length, what a training by the curve takes at most, unless that would be hardly any mini-batches."""

_DOUBT = 1.5
"""Standard errors by which the held-out error must fall for another doubling, taken sample by sample."""

_FEWEST_STEPS = 90
"""No curve is trusted before so many mini-batches, nor a network that has seen no more asked for anything."""


def train_by_curve(
    network: nn.Module,
    data: DataPart,
    settings: TrainingSettings,
    epochs: float,
    validation: DataPart,
    *,
    seed: int,
    alpha_data: DataPart | None = None,
    on_step: Callable[[], bool | None] | None = None,
    keeper: Keeper | None = None,
) -> float:
    """Train a network in place, in parts that each double the length, until the held-out error no longer falls.

    Each part has a schedule of its own, at whose end the network is at rest; so it can end there without loss. If the
    last part raised the held-out loss, the network has the weights from before it again.

    Parameters
    ----------
    network, data, settings, seed, alpha_data, on_step, keeper
        As in `skequinas.training.train`.
    epochs : float
        The greatest length of a final training. Half of it is the greatest length of this one, unless these are fewer
        than 90 mini-batches.
    validation : DataPart
        Held-out data, whose errors decide.

    Returns
    -------
    float
        The epochs that led to the network's weights.
    """
    weights, stopped = validation.sample_weights(), False
    now: dict[str, Any] = {
        "number": 0,
        "done": 0.0,
        "steps": 0,
        "losses": np.full(len(validation), np.inf),
        "errors": np.full(len(validation), np.inf),
        "before": copy.deepcopy(network.state_dict()),
    }
    if keeper is not None:
        now |= keeper.part("curve", lambda: now) or {}

    def step() -> bool:
        nonlocal stopped
        now["steps"] += 1
        stopped = on_step is not None and bool(on_step())
        return stopped

    for number, share in enumerate(_SHARES[now["number"] :], now["number"]):
        done = float(now["done"])
        if done >= GREATEST_SHARE * epochs and n_steps(len(data), done, settings.batch_size) >= _FEWEST_STEPS:
            break
        how: dict[str, Any] = {"seed": seed + number, "alpha_data": alpha_data, "on_step": step, "keeper": keeper}
        train(network, data, settings, share * epochs, **how)
        if stopped:
            return float(now["steps"] / batches_per_epoch(len(data), settings.batch_size))
        losses, errors = evaluate(network, validation)
        losses_before, errors_before = now["losses"], now["errors"]
        enough = n_steps(len(data), done + share * epochs, settings.batch_size) >= _FEWEST_STEPS
        if number and enough:
            gain, standard_error = mean_with_error(errors_before - errors, weights, validation.units)
            if gain <= _DOUBT * standard_error:
                if mean_with_error(losses_before - losses, weights)[0] < 0:
                    network.load_state_dict(now["before"])
                    return done
                return done + share * epochs
        now |= {"number": number + 1, "done": done + share * epochs, "losses": losses, "errors": errors}
        now["before"] = copy.deepcopy(network.state_dict())
    return float(now["done"])
