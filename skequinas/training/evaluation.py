"""Networks at rest: the loss and the error of every sample."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestCentroid
from torch import Tensor, nn

from skequinas.nn.networks import EquivariantNetwork
from skequinas.training.data import DataPart, mean_with_error

__all__ = ["EVALUATION_BATCH", "evaluate", "frozen", "simple_error"]

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


def simple_error(training: DataPart, data: DataPart) -> float:
    """The mean error of the simplest models there are, which any network should beat.

    They are the most frequent class or the nearest class mean of the pixels, whichever is better; or the mean of the
    targets.

    Parameters
    ----------
    training : DataPart
        What they are made from.
    data : DataPart
        What they are tried on.
    """
    targets, known = (part.targets.cpu().numpy() for part in (training, data))
    if targets.dtype.kind == "f":
        constant = training.targets.mean(0).expand_as(data.targets)
        errors = [data.objective.error(constant, data.targets).double().cpu().numpy()]
    else:
        errors = [(known != np.bincount(targets).argmax()).astype(float)]
        if len(np.unique(targets)) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pixels that are the same in all images of a class
                nearest = NearestCentroid().fit(_rows(training), targets)
                errors.append((nearest.predict(_rows(data)) != known).astype(float))
    return min(mean_with_error(e, data.sample_weights())[0] for e in errors)


def _rows(data: DataPart) -> NDArray[np.float32]:
    """The preprocessed images as rows of pixels."""
    rows: Tensor = data.preprocess(data.images).flatten(1)
    return rows.cpu().numpy()
