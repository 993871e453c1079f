r"""Which symmetries the data reject, from one network that is free to break all of them.

For a network f and a subgroup H let :math:`f_H(x) = \frac{1}{|H|} \sum_{h \in H} f(h x)` be its outputs averaged
over H. If images and targets are distributed alike when they are moved by H, then, by Jensen's inequality for a
convex loss,

.. math:: E\,L(f_H(X), Y) \le E\,\frac{1}{|H|} \sum_h L(f(h X), Y) = E\,L(f(X), Y) :

averaging over a symmetry that the task has cannot hurt, however f was trained, while averaging over one that it does
not have mixes up what f has learned to tell apart. Both losses come from the same network and the same held-out
images, so the difference is free of the noise between one training and another. It takes |G| passes over the
held-out images for all subgroups at once.
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
from skequinas.training import EVALUATION_BATCH, DataPart

__all__ = ["Increase", "averaging_evidence", "largest_accepted"]


class Increase(NamedTuple):
    """By how much averaging over a subgroup raises the held-out loss, and the standard error of that."""

    mean: float
    standard_error: float

    def exceeds(self, n_standard_errors: float) -> bool:
        """Whether the loss rises by more than so many standard errors."""
        return self.mean > n_standard_errors * self.standard_error


def averaging_evidence(network: nn.Module, data: DataPart, group: PointGroup) -> dict[str, Increase]:
    """The increase of the loss when a network's outputs are averaged over each subgroup, by name."""
    losses = _averaged_losses(network, data, group)
    differences = {h.name: losses[h] - losses[group.trivial] for h in group.subgroups}
    return {
        name: Increase(float(d.mean()), float(d.std(ddof=1) / np.sqrt(len(d))) if len(d) > 1 else np.inf)
        for name, d in differences.items()
    }


def largest_accepted(group: PointGroup, evidence: Mapping[str, Increase], n_standard_errors: float) -> Subgroup:
    """The largest subgroup that the data do not reject; of several as large, the one with the lowest loss."""
    accepted = [h for h in group.subgroups if not evidence[h.name].exceeds(n_standard_errors)]
    return min(accepted, key=lambda h: (-h.order, evidence[h.name].mean))


@torch.inference_mode()
def _averaged_losses(network: nn.Module, data: DataPart, group: PointGroup) -> dict[Subgroup, NDArray[np.float64]]:
    network.eval()
    losses: dict[Subgroup, list[torch.Tensor]] = {h: [] for h in group.subgroups}
    for rows in torch.arange(len(data), device=data.images.device).split(EVALUATION_BATCH):
        inputs, targets = data.batch(rows)
        outputs = torch.stack([network(transform_images(inputs, group, g)) for g in group.elements])
        for h, parts in losses.items():
            parts.append(data.objective.loss(outputs[list(h.elements)].mean(0), targets))
    return {h: torch.cat(parts).double().cpu().numpy() for h, parts in losses.items()}
