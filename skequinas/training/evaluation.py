"""Networks at rest: the loss and the error of every sample."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skequinas.nn.networks import EquivariantNetwork
from skequinas.training.data import DataPart

__all__ = ["EVALUATION_BATCH", "evaluate", "frozen"]

EVALUATION_BATCH = 128
"""Images at once where nothing is trained: on a CPU more are slower, since their maps leave the cache."""


def evaluate(network: nn.Module, data: DataPart) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The loss and the error of every sample, in eval mode."""
    losses, errors = [], []
    with torch.inference_mode():
        network = frozen(network)
        for rows in torch.arange(len(data), device=data.images.device).split(EVALUATION_BATCH):
            inputs, targets, _ = data.batch(rows)
            outputs = network(inputs)
            losses.append(data.objective.loss(outputs, targets))
            errors.append(data.objective.error(outputs, targets))
    return tuple(torch.cat(v).double().cpu().numpy() for v in (losses, errors))  # type: ignore[return-value]


def frozen(network: nn.Module) -> nn.Module:
    """The network in eval mode, as plain layers where it can be: its kernels are expanded once."""
    network.eval()
    return network.to_plain() if isinstance(network, EquivariantNetwork) else network
