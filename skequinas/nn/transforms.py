"""Turned and mirrored images: without interpolation where the pixel grid allows it, else with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from skequinas.groups import PointGroup, Subgroup, quarter_turns_and_flip

__all__ = ["RandomMoves", "RandomShifts", "RandomTurns", "circular_mask", "transform_images", "warp_images"]


def transform_images(images: Tensor, group: PointGroup, element: int, offset: float = 0.0) -> Tensor:
    """Move images by one element of a group.

    Elements that map the pixel grid to itself move pixels, and nothing is lost. For all others the images are
    interpolated, see `warp_images`.

    Parameters
    ----------
    images : Tensor of shape (..., height, width)
        The rows run downwards, as in an image. Images that are to be interpolated must be square and hold floats.
    group : PointGroup
    element : int
        The number of the element, as in ``group.elements``.
    offset : float, default=0.0
        Degrees by which the images are turned after the move, within the same interpolation.

    Returns
    -------
    Tensor of shape (..., height, width)
        With height and width exchanged after a quarter turn.
    """
    moves = quarter_turns_and_flip(group, element)
    if moves is None or offset:
        angle = math.radians(offset)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = torch.from_numpy(turn @ group.matrix(element))
        planes = images.reshape(-1, 1, *images.shape[-2:])
        return warp_images(planes, matrix[None].expand(len(planes), 2, 2)).reshape(images.shape)
    turns, flip = moves
    if flip:
        images = images.flip(-2)
    return images.rot90(turns, (-2, -1)) if turns else images


def warp_images(images: Tensor, matrices: Tensor) -> Tensor:
    """Move each image by its own matrix, by bicubic interpolation.

    Parameters
    ----------
    images : Tensor of shape (n, channels, size, size)
        What lies outside is taken to be like the nearest pixel of the edge.
    matrices : Tensor of shape (n, 2, 2)
        Orthogonal, with the x axis to the right and the y axis up.
    """
    flip = torch.tensor([1.0, -1.0], dtype=torch.float64, device=matrices.device)
    back = (flip[:, None] * matrices.double().mT * flip).to(images)  # from output to input; rows run downwards
    grid = F.affine_grid(F.pad(back, (0, 1)), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)


class RandomMoves:
    """Move each image of a batch by a random element of a subgroup.

    Parameters
    ----------
    subgroup : Subgroup
        Of elements that map images of the shape to others of the shape.
    seed : int
        Everything random follows from it.
    probabilities : sequence of float, optional
        Of the elements; all are as likely by default.
    """

    def __init__(self, subgroup: Subgroup, seed: int, probabilities: Sequence[float] | None = None) -> None:
        self.subgroup, self.generator = subgroup, torch.Generator().manual_seed(seed)
        self.probabilities = None if probabilities is None else torch.tensor(probabilities, dtype=torch.float64)

    def __call__(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) to the same."""
        if self.probabilities is None:
            drawn = torch.randint(self.subgroup.order, (len(images),), generator=self.generator)
        else:
            drawn = torch.multinomial(self.probabilities, len(images), replacement=True, generator=self.generator)
        drawn = drawn.to(images.device)
        moved = torch.empty_like(images)
        for number, element in enumerate(self.subgroup.elements):
            rows = (drawn == number).nonzero()[:, 0]
            moved[rows] = transform_images(images[rows], self.subgroup.group, element)
        return moved


class RandomTurns:
    """Turn each image of a batch by a random angle, and mirror every other.

    Parameters
    ----------
    mirrors : bool
        Whether to mirror.
    seed : int
        Everything random follows from it.
    """

    def __init__(self, mirrors: bool, seed: int) -> None:
        self.mirrors, self.generator = mirrors, torch.Generator().manual_seed(seed)

    def __call__(self, images: Tensor) -> Tensor:
        """(n, channels, size, size) to the same."""
        angles, coins = torch.rand(2, len(images), dtype=torch.float64, generator=self.generator)
        cos, sin = (2 * math.pi * angles).cos(), (2 * math.pi * angles).sin()
        sign = torch.where(coins < 0.5, -1.0, 1.0) if self.mirrors else torch.ones_like(coins)
        matrices = torch.stack([cos, -sign * sin, sin, sign * cos], 1).unflatten(1, (2, 2))
        return warp_images(images, matrices.to(images.device))


class RandomShifts:
    """Shift each image of a batch by a random number of pixels, up or down and left or right.

    What comes in at an edge is the image mirrored there.

    Parameters
    ----------
    pixels : int
        The greatest shift, at least 1. Images of fewer pixels are shifted by less.
    seed : int
        Everything random follows from it.
    """

    def __init__(self, pixels: int, seed: int) -> None:
        self.pixels, self.generator = pixels, torch.Generator().manual_seed(seed)

    def __call__(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) to the same."""
        n, _, height, width = images.shape
        most = min(self.pixels, height - 1, width - 1)
        down, right = torch.randint(2 * most + 1, (2, n, 1), generator=self.generator).to(images.device)
        rows, columns = down + torch.arange(height).to(down), right + torch.arange(width).to(right)
        padded = F.pad(images, (most,) * 4, mode="reflect").permute(0, 2, 3, 1)
        numbers = torch.arange(n).to(down)
        return padded[numbers[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@cache
def circular_mask(size: int) -> Tensor:
    """A disc that turning leaves as it is: 1 inside, 0 outside, in between for about a pixel: (size, size)."""
    with torch.inference_mode(False):  # it is shared by all of the process, whoever asks first
        places = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
        distances = (places[:, None].square() + places.square()).sqrt()
        return (size / 2 + 0.5 - distances).clamp(0, 1).float()


def coordinate_maps(kind: str, height: int, width: int) -> Tensor:
    """The distance from the centre ("radius"), or x to the right and y upwards ("frame"): (1 or 2, height, width).

    In units of the root mean square of x and y over the pixels, the radius less its mean.
    """
    with torch.inference_mode(False):
        y, x = ((side - 1) / 2 - torch.arange(side, dtype=torch.float64) for side in (height, width))
        maps = torch.stack([-x.expand(height, width), y[:, None].expand(height, width)])
        if kind == "radius":
            maps = maps.square().sum(0, keepdim=True).sqrt()
            maps = maps - maps.mean()
        scale = maps.square().mean().sqrt()
        return (maps / scale if scale > 0 else maps).float()
