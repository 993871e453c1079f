"""All copies of an image that a group makes, in an order that does not depend on which of them one has."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skequinas.estimators.units import mixed
from skequinas.groups import PointGroup
from skequinas.io.images import channel_axis
from skequinas.nn.transforms import transform_images

__all__ = ["in_the_layout_of", "ordered_orbits"]

_STEP = 0x9E3779B97F4A7C15
"""Between the numbers of two places: 2**64 over the golden ratio, as splitmix64 has it."""


def ordered_orbits(images: Tensor, group: PointGroup) -> tuple[Tensor, NDArray[np.int64]]:
    """The orbits of images under a group that moves pixels.

    A set has no first element; so that a function of the orbit rounds in the same way for every image in it, its
    copies are put in the order of numbers that are computed from their pixels.

    Parameters
    ----------
    images : Tensor of shape (n, channels, height, width)
    group : PointGroup

    Returns
    -------
    copies : Tensor of shape (n, order of the group, channels, height, width)
        The same, to the bit, for an image and for any copy of it.
    elements : ndarray of shape (n, order of the group)
        By which element of the group the image is moved to become each copy.
    """
    copies = torch.stack([transform_images(images, group, g) for g in group.elements], 1).contiguous()
    keys = np.empty(copies.shape[:2], dtype=np.uint64)
    places = np.arange(1, 1 + images[0].numel(), dtype=np.uint64) * np.uint64(_STEP)
    for g in group.elements:
        keys[:, g] = mixed(copies[:, g].contiguous().flatten(1).numpy(), places).sum(1, dtype=np.uint64)
    order = np.argsort(keys, axis=1, kind="stable")
    rows = torch.arange(len(images))[:, None]
    return copies[rows, torch.from_numpy(order)], order


def in_the_layout_of(images: Tensor, image_shape: tuple[int, ...], *, flat: bool) -> NDArray[np.generic]:
    """Images (n, channels, height, width) as arrays of a shape that the user's have, or as rows of their values."""
    axis = channel_axis(image_shape)
    pixels: NDArray[np.generic] = images.numpy()
    pixels = pixels[:, 0] if axis is None else np.moveaxis(pixels, 1, axis + 1)
    return np.ascontiguousarray(pixels).reshape(len(pixels), *((-1,) if flat else image_shape))
