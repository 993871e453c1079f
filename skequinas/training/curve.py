"""A training that is as long as it pays: it goes on for as long as twice the length lowers the held-out error."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
from torch import nn

from skequinas.training.data import DataPart, batches_per_epoch, mean_with_error, n_steps
from skequinas.training.evaluation import evaluate
from skequinas.training.loop import TrainingSettings, train

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
) -> float:
    """Train a network in place, in parts that each double the length, until the held-out error no longer falls.

    Each part has a schedule of its own, at whose end the network is at rest; so it can end there without loss. If the
    last part raised the held-out loss, the network has the weights from before it again.

    Parameters
    ----------
    network, data, settings, seed, alpha_data, on_step
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
    steps, stopped, done, weights = 0, False, 0.0, validation.sample_weights()
    losses, errors = (np.full(len(validation), np.inf) for _ in range(2))

    def step() -> bool:
        nonlocal steps, stopped
        steps += 1
        stopped = on_step is not None and bool(on_step())
        return stopped

    for number, share in enumerate(_SHARES):
        if done >= GREATEST_SHARE * epochs and n_steps(len(data), done, settings.batch_size) >= _FEWEST_STEPS:
            break
        before = copy.deepcopy(network.state_dict())
        train(network, data, settings, share * epochs, seed=seed + number, alpha_data=alpha_data, on_step=step)
        if stopped:
            return steps / batches_per_epoch(len(data), settings.batch_size)
        losses_before, errors_before = losses, errors
        losses, errors = evaluate(network, validation)
        enough = n_steps(len(data), done + share * epochs, settings.batch_size) >= _FEWEST_STEPS
        if number and enough:
            gain, standard_error = mean_with_error(errors_before - errors, weights, validation.units)
            if gain <= _DOUBT * standard_error:
                if mean_with_error(losses_before - losses, weights)[0] < 0:
                    network.load_state_dict(before)
                    return done
                return done + share * epochs
        done += share * epochs
    return done
