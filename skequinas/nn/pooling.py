"""What has no weights: outlines, halving, statistics and sums of maps. It commutes with every turn and mirror."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace
from torch.nn import functional as F

from skequinas.groups import Subgroup
from skequinas.nn.transforms import circular_mask, coordinate_maps, transform_images

__all__ = [
    "AveragedOverMoves",
    "CircularMask",
    "CoordinateMaps",
    "MapStatistics",
    "Shortcut",
    "SymmetricAvgPool2d",
    "add_fields",
    "in_torch_alone",
    "mean_over_moves",
]


def add_fields(x: Tensor, shortcut: Tensor) -> None:
    """Add the channels of one map to the first of another, in place."""
    n = shortcut.shape[1]
    (x if x.shape[1] == n else x[:, :n]).add_(shortcut)


class Shortcut(nn.Sequential):
    """Layers in a row, to the first channels of whose outputs the inputs are added.

    Parameters
    ----------
    *layers : Module
    n_more : int
        How many more channels come out than go in.
    """

    def __init__(self, *layers: nn.Module, n_more: int) -> None:
        super().__init__(*layers)
        self.n_more = n_more

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same with ``n_more`` channels more."""
        y: Tensor = super().forward(x)
        return y.add_(F.pad(x, (0, 0, 0, 0, 0, self.n_more)) if self.n_more else x)


class MapStatistics(nn.Module):
    """The mean of every channel over its map, and behind those of all channels the maxima, if they are wanted."""

    def __init__(self, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to (batch, channels) or twice as many."""
        mean = x.mean((-2, -1))
        return torch.cat([mean, x.amax((-2, -1))], 1) if self.maximum else mean


class CircularMask(nn.Module):
    """Cut square maps to a disc, which looks the same however it is turned.

    Parameters
    ----------
    size : int
        The side of the maps.
    """

    mask: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mask", circular_mask(size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, size, size) to the same, 0 outside of the disc."""
        return x * self.mask


class CoordinateMaps(nn.Module):
    """Put maps of coordinates behind the channels of images.

    Parameters
    ----------
    kind : {"radius", "frame"}
        As the ``coordinates`` of `skequinas.nn.Architecture`.
    height, width : int
        Of the images.
    """

    maps: Tensor

    def __init__(self, kind: str, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer("maps", coordinate_maps(kind, height, width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same with one or two channels more."""
        return torch.cat([x, self.maps.to(x.dtype).expand(x.shape[0], -1, -1, -1)], 1)


class SymmetricAvgPool2d(nn.Module):
    """Halve a map so that turns and mirrors of the input turn and mirror the output, at every size.

    An even side is averaged in 2x2 blocks; an odd side in 3x3 windows with stride 2 and padding 1 (which does not
    count), centred on every other pixel. Either way the windows are placed symmetrically about the centre.
    """

    @staticmethod
    def plain(height: int, width: int) -> nn.AvgPool2d:
        """The layer of torch that does the same for maps of this size."""
        odd = height % 2, width % 2
        if odd[0] == odd[1]:
            return nn.AvgPool2d(3, 2, 1, count_include_pad=False) if odd[0] else nn.AvgPool2d(2)
        return nn.AvgPool2d((2 + odd[0], 2 + odd[1]), 2, odd, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to (batch, channels, ceil(height / 2), ceil(width / 2))."""
        y: Tensor = self.plain(*x.shape[-2:])(x)
        return y


def mean_over_moves(function: Callable[[Tensor], Tensor], images: Tensor, subgroup: Subgroup) -> Tensor:
    """The outputs of a function, averaged over the images moved by every element of a subgroup."""
    moved = (transform_images(images, subgroup.group, g) for g in subgroup.elements)
    total: Tensor = sum(function(x.contiguous(memory_format=torch.channels_last)) for x in moved)  # type: ignore[assignment]
    return total / subgroup.order


class AveragedOverMoves(nn.Module):
    """A network whose outputs are averaged over the images moved by every element of a subgroup.

    Parameters
    ----------
    network : Module
        From images (n, channels, height, width) to outputs (n, n_outputs).
    subgroup : Subgroup
        Of elements that map the pixel grid to itself.
    """

    def __init__(self, network: nn.Module, subgroup: Subgroup) -> None:
        super().__init__()
        self.network, self.subgroup = network, subgroup

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) to (n, n_outputs)."""
        return mean_over_moves(self.network, x, self.subgroup)


def in_torch_alone(module: nn.Module) -> GraphModule:
    """A module that calls layers and functions of torch, as code that needs nothing but torch to be unpickled."""
    traced = symbolic_trace(module)
    for node in traced.graph.nodes:
        node.type = None  # annotations, which are strings here and cannot be pickled
    traced.recompile()
    return traced
