"""Learning in which pose to look at an image: a distribution over its orbit, trained with a network that looks.

References
----------
Kim, Nguyen, Suleymanzade, An and Hong, Learning Probabilistic Symmetrization for Architecture Agnostic Equivariance,
NeurIPS 2023; Kaba, Mondal, Zhang, Bengio and Ravanbakhsh, Equivariance with Learned Canonicalization Functions, 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skequinas.estimators.predicting import alone_or_not
from skequinas.groups import PointGroup
from skequinas.io.preprocessing import Preprocessing
from skequinas.nn import EquivariantNetwork, default_architecture, transform_images
from skequinas.runtime.process import full_precision, no_autocast, worker_threads
from skequinas.training import CLASSIFICATION, DataPart, Objective, TrainingSettings, train

__all__ = ["Canonicalizer", "learn_poses"]

_TEMPERATURE = 0.1


@dataclass(frozen=True)
class Canonicalizer:
    """How much each copy of an image is to count.

    An ordinary network gives every copy a number, alone: so the numbers move with the copies, whatever its weights.

    Parameters
    ----------
    preprocessing : Preprocessing
    network : Sequential
        From images to outputs, the last of which is that number.
    """

    preprocessing: Preprocessing
    network: nn.Sequential

    def __call__(self, copies: Tensor) -> Tensor:
        """Copies of shape (n, order, channels, height, width) to their probabilities (n, order), float64."""
        with worker_threads(), full_precision(), no_autocast(), torch.inference_mode():
            numbers = alone_or_not(self.network)(self.preprocessing(copies.flatten(0, 1)))[:, -1]
        return (numbers.double().view(copies.shape[:2]) / _TEMPERATURE).softmax(1)


class _Looking(nn.Module):
    """A network that looks at all copies of an image; its answers count as its last output says."""

    def __init__(self, network: EquivariantNetwork, group: PointGroup, objective: Objective) -> None:
        super().__init__()
        self.network, self.group, self.objective = network, group, objective

    def forward(self, x: Tensor) -> Tensor:
        copies = torch.cat([transform_images(x, self.group, g) for g in self.group.elements])
        outputs = self.network(copies).unflatten(0, (self.group.order, len(x)))
        answers, numbers = outputs[..., :-1], outputs[..., -1:] / _TEMPERATURE
        if self.objective.is_likelihood:  # the logarithm of the mean probability
            return torch.logsumexp(F.log_softmax(answers, -1) + F.log_softmax(numbers, 0), 0)
        mean: Tensor = (answers * numbers.softmax(0)).sum(0)
        return mean


def learn_poses(
    images: Tensor,
    targets: Tensor,
    group: PointGroup,
    *,
    objective: Objective = CLASSIFICATION,
    n_outputs: int,
    weights: Tensor | None = None,
    epochs: float = 20,
    seed: int = 0,
    device: torch.device | None = None,
) -> Canonicalizer:
    """Learn which copies of images to look at.

    An ordinary network answers for every copy and says how much this answer is to count; it is trained for what the
    answers make together. What is kept of it is what it says of the copies.

    Parameters
    ----------
    images : Tensor of shape (n, channels, height, width)
        As they came.
    targets : Tensor
        As the objective takes them.
    group : PointGroup
        It must move pixels of these images.
    objective : Objective, default=CLASSIFICATION
    n_outputs : int
    weights : Tensor of shape (n,), optional
        Positive, with mean 1.
    epochs : float, default=20
    seed : int, default=0
    device : torch.device, optional
        Where to train; the CPU by default.

    Returns
    -------
    Canonicalizer
        On the CPU.
    """
    device = device or torch.device("cpu")
    preprocessing = Preprocessing(images)
    size = (images.shape[2], images.shape[3])
    architecture = default_architecture("C1", size, images.shape[1], n_outputs + 1, n_samples=len(images), light=True)
    network = EquivariantNetwork(architecture, torch.Generator().manual_seed(seed))
    looking = _Looking(network, group, objective).to(device)
    weights = None if weights is None else weights.to(device)
    data = DataPart(images.to(device), targets.to(device), preprocessing.to(device), objective, weights)
    train(looking, data, TrainingSettings(learning_rate=5e-3), epochs, seed=seed)
    return Canonicalizer(preprocessing.cpu(), network.cpu().eval().to_plain())
