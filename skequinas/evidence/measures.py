"""What can be measured of a fitted function: how it changes when images are moved, how far its layers are from more."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skequinas.groups import PointGroup, pixel_elements
from skequinas.nn.networks import EquivariantNetwork
from skequinas.nn.transforms import transform_images
from skequinas.runtime.process import full_precision
from skequinas.training.data import DataPart

__all__ = [
    "Measures",
    "effective_invariance",
    "layer_distances",
    "lie_derivative",
    "mean_change",
    "measure",
    "measured_change",
    "moved_outputs",
]


class Measures(NamedTuple):
    """What is measured of a fitted function, as `LearnedSymmetry` has it."""

    change: dict[str, float]
    effective_invariance: dict[str, float] | None
    lie_derivative: float

    @staticmethod
    def unknown(group: PointGroup) -> Measures:
        """Where nothing could be measured."""
        return Measures({group.element_name(g): math.nan for g in group.elements}, None, math.nan)


def measure(
    function: Callable[[Tensor], Tensor], images: Tensor, group: PointGroup, *, probabilities: bool
) -> Measures:
    """Measure how a function changes when images are moved by the elements of a group, and when they begin to turn.

    Parameters
    ----------
    function : callable
        From square images (n, channels, size, size) to outputs (n, n_outputs).
    images : Tensor of shape (n, channels, size, size)
    group : PointGroup
    probabilities : bool
        Whether the outputs are those of a classifier, which have an effective invariance.
    """
    outputs = moved_outputs(function, images, group)
    invariance = effective_invariance(outputs, group) if probabilities else None
    return Measures(measured_change(outputs, group), invariance, lie_derivative(function, images))


@full_precision()
def moved_outputs(
    function: Callable[[Tensor], Tensor], images: Tensor, group: PointGroup, batch_size: int = 128
) -> Tensor:
    """The outputs of a function for images under every element of a group, float64 of shape (order, n, n_outputs).

    Parameters
    ----------
    function : callable
        From square images (n, channels, size, size) to outputs (n, n_outputs).
    images : Tensor of shape (n, channels, size, size)
    group : PointGroup
        One that maps the pixel grid to itself.
    """
    with torch.inference_mode():
        return torch.stack(
            [
                torch.cat([function(transform_images(x, group, g)) for x in images.split(batch_size)]).double()
                for g in group.elements
            ]
        )


def measured_change(outputs: Tensor, group: PointGroup) -> dict[str, float]:
    """How much outputs change under every element of a group, relative to their variation.

    Parameters
    ----------
    outputs : Tensor of shape (order, n, n_outputs)
        Those of `moved_outputs`.
    group : PointGroup

    Returns
    -------
    dict
        From element names to the root mean square change over the root mean square deviation from the mean output.
        Where the outputs do not vary it is 0 for no change, else infinity.
    """
    variation = _variation(outputs[0])
    changes = (outputs - outputs[0]).square().sum(2).mean(1).sqrt().tolist()
    return {group.element_name(g): _relative(change, variation) for g, change in enumerate(changes)}


def mean_change(network: nn.Module, data: DataPart, group: str, n_images: int = 512) -> float:
    """How much a network's outputs change, in the mean over the elements of a group that map pixels to pixels.

    Parameters
    ----------
    network : Module
    data : DataPart
    group : str
    n_images : int, default=512
        So many of the images, the first, are asked.
    """
    moves = PointGroup.from_name(group)
    rows = torch.arange(min(len(data), n_images), device=data.images.device)
    inputs = data.batch(rows).inputs
    elements = [g for g in pixel_elements(moves) if g]
    if not elements:
        return 0.0 if moves.order == 1 else math.nan
    network.eval()
    chunks = inputs.split(128)
    with full_precision(), torch.inference_mode():
        before = torch.cat([network(x) for x in chunks]).double()
        moved = [torch.cat([network(transform_images(x, moves, g)) for x in chunks]).double() for g in elements]
    variation = _variation(before)
    changes = [float((outputs - before).square().sum(1).mean().sqrt()) for outputs in moved]
    return float(np.mean([_relative(change, variation) for change in changes]))


def effective_invariance(outputs: Tensor, group: PointGroup) -> dict[str, float]:
    """The effective invariance of probabilities (order, n, n_classes) under every element, from 0 to 1.

    The mean over images of the geometric mean of the two confidences where the predicted class is the same, else 0.
    """
    confidence, predicted = outputs.max(2)
    both = (confidence * confidence[0]).sqrt() * (predicted == predicted[0])
    return dict(zip([group.element_name(g) for g in group.elements], both.mean(1).tolist(), strict=True))


@full_precision()
def lie_derivative(
    function: Callable[[Tensor], Tensor], images: Tensor, step: float = 0.02, batch_size: int = 128
) -> float:
    """How fast the output of a function changes when images begin to turn, relative to its variation, by radian.

    Parameters
    ----------
    function : callable
        From square images (n, channels, size, size) to outputs (n, n_outputs).
    images : Tensor of shape (n, channels, size, size)
    step : float, default=0.02
        The images are turned by so many radians either way, with bilinear interpolation; the derivative is the central
        difference.

    Returns
    -------
    float
        The root mean square derivative over the root mean square deviation from the mean output.
    """

    def outputs(angle: float) -> Tensor:
        cos, sin = math.cos(angle), math.sin(angle)
        matrix = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], dtype=images.dtype, device=images.device)
        parts = []
        for x in images.split(batch_size):
            grid = F.affine_grid(matrix.expand(len(x), 2, 3), list(x.shape), align_corners=False)
            parts.append(function(F.grid_sample(x, grid, padding_mode="border", align_corners=False)))
        return torch.cat(parts).double()

    with torch.inference_mode():
        derivative = (outputs(step) - outputs(-step)) / (2 * step)
        still = outputs(0.0)
    return _relative(float(derivative.square().sum(1).mean().sqrt()), _variation(still))


@torch.no_grad()
def layer_distances(network: EquivariantNetwork) -> dict[str, dict[str, float]]:
    """For each layer the distance of its kernel to every larger group's kernels, relative to its length."""
    distances: dict[str, dict[str, float]] = {}
    for name, layer in zip(network.architecture.layer_names, network.convolutions, strict=True):
        own_coefficients = layer.coefficients().double()
        length = float(own_coefficients.norm())
        own = next(k for k in layer.constraints[0].group.subgroups if all(k <= h for h in layer.constraints))
        distances[name] = {}
        for h in own.group.subgroups:
            if own < h:
                space = layer.space(h)
                rest = float((own_coefficients - space.expand(space.tighten(own_coefficients))).norm())
                distances[name][h.name] = rest / length if length else 0.0
    return distances


def _variation(outputs: Tensor) -> float:
    return float((outputs - outputs.mean(0)).square().sum(1).mean().sqrt())


def _relative(change: float, variation: float) -> float:
    return change / variation if variation else (0.0 if change == 0 else math.inf)
