"""Networks at rest: the loss and the error of every sample."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestCentroid
from torch import nn
from torch.nn import functional as F

from skequinas.nn.networks import EquivariantNetwork
from skequinas.runtime.process import full_precision
from skequinas.training.data import DataPart, mean_with_error
from skequinas.training.objective import CLASSIFICATION

__all__ = ["EVALUATION_BATCH", "evaluate", "frozen", "simple_error"]

EVALUATION_BATCH = 128
"""Images at once where nothing is trained: on a CPU more are slower by torch, since their maps leave the cache."""

_MOST_AVERAGED = 20_000
"""Images, or units of them, that the class means of the pixels are of."""


def evaluate(network: nn.Module, data: DataPart) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The loss and the error of every sample, in eval mode."""
    losses, errors = [], []
    with torch.inference_mode(), full_precision():
        network = frozen(network)
        for rows in torch.arange(len(data), device=data.images.device).split(EVALUATION_BATCH):
            inputs, targets, _ = data.batch(rows)
            outputs = network(inputs)
            losses.append(data.objective.loss(outputs, targets))
            errors.append(data.objective.error(outputs, targets))
    return tuple(torch.cat(v).double().cpu().numpy() for v in (losses, errors))  # type: ignore[return-value]


def frozen(network: nn.Module) -> nn.Module:
    """The network in eval mode, by the fastest way there is: its kernels are expanded once."""
    network.eval()
    if not isinstance(network, EquivariantNetwork):
        return network
    return network.at_rest() if network.is_fused else network.to_plain()


def simple_error(training: DataPart, data: DataPart) -> float:
    """The mean error of the simplest models there are, which any network should beat.

    They are the most frequent class or the nearest class mean of the pixels, whichever is better; or the mean of the
    targets. It is infinite where classes have an error of their own, which these models know nothing of.

    Parameters
    ----------
    training : DataPart
        What they are made from.
    data : DataPart
        What they are tried on.
    """
    targets, known = (part.targets.cpu().numpy() for part in (training, data))
    weights = training.sample_weights()
    if targets.dtype.kind == "f":
        constant = (
            torch.from_numpy(np.average(targets, axis=0, weights=weights)).to(data.targets).expand_as(data.targets)
        )
        errors = [data.objective.error(constant, data.targets).double().cpu().numpy()]
    elif data.objective.error is not CLASSIFICATION.error:
        return np.inf  # in other units
    else:
        errors = [(known != np.bincount(targets, weights).argmax()).astype(float)]
        few = training.sample(_MOST_AVERAGED, 0)
        rows, targets = _rows(few), few.targets.cpu().numpy()
        if len(np.unique(targets)) > 1 and (rows != rows[0]).any():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pixels that are the same in all images of a class
                nearest = NearestCentroid().fit(rows, targets)
                errors.append((nearest.predict(_rows(data)) != known).astype(float))
    return min(mean_with_error(e, data.sample_weights())[0] for e in errors)


def _rows(data: DataPart) -> NDArray[np.float32]:
    """The preprocessed images as rows of pixels, shrunk to 16x16 at most."""
    size = min(16, data.images.shape[2]), min(16, data.images.shape[3])
    n_values = data.images.shape[1] * size[0] * size[1]
    found = torch.empty(len(data), n_values, dtype=torch.float32, device=data.images.device)
    # not in pieces, between which the memory of large images would lie when it is freed
    for rows in torch.arange(len(data), device=data.images.device).split(EVALUATION_BATCH):
        found[rows] = F.adaptive_avg_pool2d(data.preprocess(data.images[rows]), size).flatten(1)
    return found.cpu().numpy()
