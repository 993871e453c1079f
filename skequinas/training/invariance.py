"""Training a network to be invariant, whatever its constraints: what is added to the loss for how moves change it.

References
----------
Elhag, Rusch, Di Giovanni and Bronstein, Relaxed Equivariance via Multitask Learning, 2024; Ali, Lio and Vicary,
Parameter-free approximate equivariance for tasks with finite group symmetry, 2025.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skequinas.groups import PointGroup, pixel_elements
from skequinas.nn.layers import OrbitConv2d
from skequinas.nn.networks import EquivariantNetwork
from skequinas.nn.transforms import transform_images
from skequinas.training.data import Batch
from skequinas.training.objective import Objective
from skequinas.training.optimizer import AdamW

__all__ = ["INVARIANCES", "InvariancePenalty", "InvarianceSettings", "latent_change", "moved_maps"]

INVARIANCES = "outputs", "labels", "latent"

_RATE = 0.025
"""Of Adam for the two weights, where they are adapted."""

_ASYMMETRY = 1.5
"""How much faster the task that lags behind is to be trained, where they are adapted: the exponent of GradNorm."""

_TINY = 1e-12


@dataclass(frozen=True)
class InvarianceSettings:
    """What is added to the loss for how a network changes under the elements of a group.

    Parameters
    ----------
    group : str
        Each mini-batch is moved by one of its elements that map pixels to pixels, but for the identity.
    weight : float
        What that is multiplied by.
    kind : {"outputs", "labels", "latent"}
        The squared change of the outputs; the loss of the moved images with their own targets; or the squared
        distance between the maps before the head and those of the moved images, moved back, over their mean square.
    adapted : bool
        Whether the weights of the loss and of this follow the norms of their gradients in the last weights that both
        depend on (GradNorm); their sum stays what it is.
    """

    group: str
    weight: float
    kind: str = "outputs"
    adapted: bool = False


def moved_maps(maps: Tensor, group: PointGroup, element: int) -> Tensor:
    """Maps of fields over the group, moved: pixels by the element, and the channels of a field as it moves elements."""
    fields = transform_images(maps, group, element).unflatten(1, (-1, group.order))
    moved = torch.empty_like(fields)
    moved[:, :, torch.tensor(group.table[element], device=maps.device)] = fields
    return moved.flatten(1, 2)


def latent_change(maps: Tensor, of_moved: Tensor, group: PointGroup, element: int) -> Tensor:
    """The squared distance of the maps of moved images from the maps, moved, over the mean square of both."""
    expected = moved_maps(maps, group, element)
    scale = (of_moved.square().mean() + expected.square().mean()) / 2
    return (of_moved - expected).square().mean() / scale.clamp_min(_TINY)


class InvariancePenalty:
    """The loss with that of `InvarianceSettings`.

    Parameters
    ----------
    settings : InvarianceSettings
    network : EquivariantNetwork
    seed : int
        The elements follow from it.
    """

    def __init__(self, settings: InvarianceSettings, network: nn.Module, seed: int) -> None:
        assert isinstance(network, EquivariantNetwork)
        self.settings, self.network = settings, network
        self.group = PointGroup.from_name(settings.group)
        self.elements = [g for g in pixel_elements(self.group) if g]
        self.generator = torch.Generator().manual_seed(seed)
        self.weights = nn.Parameter(torch.tensor([1.0, settings.weight]))
        self.optimizer = AdamW([self.weights], _RATE, weight_decay=0.0) if settings.adapted else None
        self.first: Tensor | None = None

    def loss(
        self, forward: Callable[[Tensor], Tensor], batch: Batch, objective: Objective, label_smoothing: float
    ) -> Tensor:
        """The weighted sum for a mini-batch."""
        if not self.elements or not self.settings.weight:
            return batch.loss(forward, objective, label_smoothing)
        if self.optimizer is not None:
            forward = self.network  # what is recorded can go back once for each time forward
        drawn = int(torch.randint(len(self.elements), (1,), generator=self.generator))
        element = self.elements[drawn]
        images = torch.cat([batch.inputs, transform_images(batch.inputs, self.group, element)])
        n = len(batch.inputs)
        if self.settings.kind == "latent":
            maps = self.network.maps(images)
            outputs = self.network.head(maps).float()
            change = latent_change(maps[:n].float(), maps[n:].float(), self.group, element)
        else:
            outputs = forward(images).float()
            change = F.mse_loss(outputs[n:], outputs[:n])
            if self.settings.kind == "labels":
                change = batch.loss_of(outputs[n:], objective, label_smoothing)
        losses = torch.stack([batch.loss_of(outputs[:n], objective, label_smoothing), change])
        weights = self._adapted(losses) if self.optimizer is not None else self.weights.detach().to(losses.device)
        return (weights * losses).sum()

    def _adapted(self, losses: Tensor) -> Tensor:
        """The weights of now, which then take a step of GradNorm."""
        assert self.optimizer is not None
        last = self.network.convolutions[-2 if self.settings.kind == "latent" else -1]
        assert isinstance(last, OrbitConv2d)
        weights, shared = self.weights.detach().clone(), last.weights.weight
        norms = torch.stack([torch.autograd.grad(loss, shared, retain_graph=True)[0].norm() for loss in losses]).cpu()
        now = losses.detach().cpu()
        self.first = now.clamp_min(_TINY) if self.first is None else self.first
        ratios = now / self.first
        own = self.weights * norms
        wanted = own.detach().mean() * (ratios / ratios.mean().clamp_min(_TINY)) ** _ASYMMETRY
        self.weights.grad = None
        (own - wanted).abs().sum().backward(inputs=[self.weights])
        self.optimizer.step()
        with torch.no_grad():
            self.weights.clamp_min_(0.0)
            self.weights.mul_((1.0 + self.settings.weight) / self.weights.sum().clamp_min(_TINY))
        return weights.to(losses.device)

    def state_dict(self) -> dict[str, Any]:
        """The weights, and where generator and optimiser stand."""
        optimizer = None if self.optimizer is None else self.optimizer.state_dict()
        own = {"weights": self.weights.detach(), "first": self.first, "generator": self.generator.get_state()}
        return own | {"optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        with torch.no_grad():
            self.weights.copy_(state["weights"])
        self.first = state["first"]
        self.generator.set_state(state["generator"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
