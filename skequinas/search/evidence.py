r"""Which symmetries the data reject, from one network that is free to break all of them.

For a network f and a subgroup H let :math:`f_H(x) = \frac{1}{|H|} \sum_{h \in H} f(h x)` be its outputs averaged
over H. If images and targets are distributed alike when they are moved by H, then, by Jensen's inequality for a
convex loss L,

.. math:: E\,L(f_H(X), Y) \le \frac{1}{|H|} \sum_h E\,L(f(h X), Y) = E\,L(f(X), Y)

for every f that does not depend on the images which the loss is measured on. So a loss that *rises* beyond chance
when the outputs are averaged is evidence against H. A loss that does not rise is only the absence of such evidence:
a network that has learned little cannot be asked.

Both losses come from the same network and the same held-out images, so the noise between one training and another
drops out. An overconfident network would gain from averaging merely because averages are smaller; its outputs are
therefore first scaled by the one factor that suits it best. A group counts as accepted only when none of its
subgroups is rejected. All this takes ``|G|`` passes over the held-out images.

For the mixture of a differentiable search the condition on f holds but for the alphas, a few numbers for each layer
that are trained on the same held-out images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skequinas.filters import transform_images
from skequinas.groups import PointGroup, Subgroup
from skequinas.training import EVALUATION_BATCH, DataPart, mean_with_error

__all__ = ["Increase", "averaging_evidence", "largest_accepted"]


_FACTORS = tuple(2.0 ** (k / 4) for k in range(-24, 9))


class Increase(NamedTuple):
    """By how much averaging over a subgroup raises the held-out loss, and the standard error of that."""

    mean: float
    standard_error: float

    def exceeds(self, n_standard_errors: float) -> bool:
        """Whether the loss rises by more than so many standard errors."""
        return not self.mean <= n_standard_errors * self.standard_error  # not a number counts as a rise


def averaging_evidence(network: nn.Module, data: DataPart, group: PointGroup) -> dict[str, Increase]:
    """The increase of the loss when a network's outputs are averaged over each subgroup, by name."""
    losses, weights = _averaged_losses(network, data, group), data.sample_weights()
    if len(data) < 2:
        return {h.name: Increase(0.0, np.inf) for h in group.subgroups}
    unbiased = np.sqrt(len(data) / (len(data) - 1))

    def increase(h: Subgroup) -> Increase:
        mean, standard_error = mean_with_error(losses[h] - losses[group.trivial], weights)
        return Increase(mean, standard_error * unbiased)

    return {h.name: increase(h) for h in group.subgroups}


def largest_accepted(group: PointGroup, evidence: Mapping[str, Increase], n_standard_errors: float) -> Subgroup:
    """The largest subgroup of which the data reject no part; of several as large, the one with the lowest loss."""
    rejected = [h for h in group.subgroups if h.order > 1 and evidence[h.name].exceeds(n_standard_errors)]
    accepted = [h for h in group.subgroups if not any(k <= h for k in rejected)]
    return min(accepted, key=lambda h: (-h.order, evidence[h.name].mean))


@torch.inference_mode()
def _averaged_losses(network: nn.Module, data: DataPart, group: PointGroup) -> dict[Subgroup, NDArray[np.float64]]:
    network.eval()
    parts = []
    for rows in torch.arange(len(data), device=data.images.device).split(EVALUATION_BATCH):
        inputs = data.batch(rows).inputs
        parts.append(torch.stack([network(transform_images(inputs, group, g)) for g in group.elements]))
    outputs = torch.cat(parts, 1)
    loss, targets = data.objective.loss, data.targets
    weights = torch.ones((), device=outputs.device) if data.weights is None else data.weights
    factor = min(_FACTORS, key=lambda s: float((loss(s * outputs[0], targets) * weights).mean()))
    return {
        h: loss(factor * outputs[list(h.elements)].mean(0), targets).double().cpu().numpy() for h in group.subgroups
    }
