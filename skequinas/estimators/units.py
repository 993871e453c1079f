"""Which images are not independent of each other: copies, near copies, and what the user says belongs together."""

from __future__ import annotations

import logging
import math
import warnings
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import check_consistent_length
from torch import Tensor
from torch.nn import functional as F

from skequinas.groups import PointGroup, pixel_elements
from skequinas.io.images import as_array
from skequinas.io.stored import StoredImages, some
from skequinas.nn.transforms import transform_images
from skequinas.training.units import joined, numbered

__all__ = ["checked_groups", "n_seen", "units_of"]

logger = logging.getLogger("skequinas")

_SIDE = 16
"""Near copies are looked for at this size."""

_FEWEST_PIXELS = 64
"""Of smaller images many are nearly alike by chance."""

_AT_ONCE = 128
"""Images that are compared at a time, so that no copy of all images is made."""

_VALUES_AT_ONCE = 2**21
"""Of larger images fewer are read at a time."""

_MIXING = (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)

_ALIKE = {0.97: 0.5, 0.99: 0.01}
"""Two images are near copies when they correlate by more than the first, if more than this share of images has one.

A smaller share is chance: of 1,500 images of each of eight public sets 0 to 11 % have one by 0.97, and 0 to 0.7 % by
0.99.
"""


def checked_groups(groups: Any, X: Any) -> NDArray[np.int64] | None:
    """The user's groups as numbers, one for each image."""
    if groups is None:
        return None
    labels = check_array(as_array(groups, "groups"), ensure_2d=False, dtype=None, input_name="groups")
    if labels.ndim != 1:
        raise ValueError(f"groups has shape {labels.shape}; it must hold one label for each image, shape (n,).")
    check_consistent_length(X, labels)
    return numbered(labels)


def units_of(
    images: Tensor | StoredImages,
    groups: NDArray[np.int64] | None,
    group: PointGroup,
    *,
    near: bool = True,
    remedy: str = "groups=...",
) -> NDArray[np.int64] | None:
    """The units of images: copies, moved or not, belong together, and so do the images of a group.

    Without groups, images that are nearly copies of each other are looked for too, and a warning tells of them.

    Parameters
    ----------
    images : Tensor of shape (n, channels, height, width)
    groups : ndarray of shape (n,) or None
        Those of the user.
    group : PointGroup
        Its elements move copies. It must map images of this shape to such images.
    near : bool, default=True
        Whether near copies are looked for where there are no groups.
    remedy : str
        How the user can pass groups, for the warning.

    Returns
    -------
    ndarray of shape (n,) or None
        None where all images are independent, for all that one can see.
    """
    n, numbers = len(images), np.arange(len(images))
    first, copy_of = distinct(images, group)
    pairs = [(numbers, first[copy_of])] if len(first) < n else []
    if groups is not None:
        pairs.append((numbers, np.unique(groups, return_index=True)[1][groups]))
    elif near:
        *pairs_found, correlations = near_copies(images, group, torch.from_numpy(first))
        for least, noticeable in _ALIKE.items():
            one, other = (found[correlations > least] for found in pairs_found)
            n_near = len(np.union1d(one, other))
            if n_near <= noticeable * len(first):
                continue
            pairs.append((first[one], first[other]))
            warnings.warn(
                f"{n_near} of {len(first)} images are nearly equal to others, as several shots of one object are. "
                "They are kept together in every split and count as one in every test. "
                f"Pass {remedy} to say exactly which belong together, by a label for each image (all different where "
                "none do).",
                stacklevel=2,
            )
            break
    return joined(n, pairs) if pairs else None


def distinct(images: Tensor | StoredImages, group: PointGroup) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first of every set of images that are copies of each other, moved or not, and to which set each belongs."""
    keys = contents(images)
    _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts[which.ravel()] > 1)
    keys[several] = fingerprints(some(images, several), group)
    copy_of = numbered(keys)
    return np.unique(copy_of, return_index=True)[1], copy_of


def n_seen(images: Tensor | StoredImages, known: Tensor | StoredImages, group: PointGroup) -> int:
    """How many images are copies of known ones, moved or not."""
    dtype = torch.promote_types(known.dtype, images.dtype)
    keys, known_keys = contents(images, dtype), contents(known, dtype)
    alike, known_alike = np.flatnonzero(np.isin(keys, known_keys)), np.flatnonzero(np.isin(known_keys, keys))
    found = fingerprints(some(images, alike), group, dtype), fingerprints(some(known, known_alike), group, dtype)
    return int(np.isin(*found).sum())


def _at_once(images: Tensor | StoredImages) -> int:
    """How many images are read at a time."""
    return max(1, min(_AT_ONCE, _VALUES_AT_ONCE // max(1, math.prod(images.shape[1:]))))


def contents(images: Tensor | StoredImages, dtype: torch.dtype | None = None) -> NDArray[np.uint64]:
    """A number for every image, (n,), equal for those that have the same values in each channel, in whatever order.

    It is the sum of a number for each value, which wraps around and so does not depend on the order. Few images that
    are no copies have the same, unless they hold few different values.
    """
    found = [np.zeros(0, dtype=np.uint64)]
    for part in images.split(_at_once(images)):
        values = part.cpu().to(dtype or part.dtype).flatten(2).numpy()
        bits = values.view(f"u{values.dtype.itemsize}").astype(np.uint64)
        bits += np.arange(1, 1 + bits.shape[1], dtype=np.uint64)[:, None] << np.uint64(56)  # channels differ
        for shift, factor in _MIXING:  # of splitmix64
            bits ^= bits >> np.uint64(shift)
            bits *= np.uint64(factor)
        bits ^= bits >> np.uint64(31)
        found.append(bits.sum((1, 2), dtype=np.uint64))
    return np.concatenate(found)


def fingerprints(
    images: Tensor | StoredImages, group: PointGroup, dtype: torch.dtype | None = None
) -> NDArray[np.uint64]:
    """A number for every image, (n,), equal for those that are copies of each other, moved or not.

    Numbers of images of two data types are comparable when both are taken in the same ``dtype``.
    """
    found = [np.zeros(0, dtype=np.uint64)]
    for part in images.split(_at_once(images)):
        keys = []
        for g in pixel_elements(group):
            moved = transform_images(part.cpu().to(dtype or part.dtype), group, g).contiguous().numpy()
            keys.append([int.from_bytes(blake2b(image.tobytes(), digest_size=8).digest(), "little") for image in moved])
        found.append(np.array(keys, dtype=np.uint64).min(0))
    return np.concatenate(found)


def near_copies(
    images: Tensor | StoredImages, group: PointGroup, among: Tensor | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Pairs of images that are nearly copies of each other, moved or not: their places in ``among``, or all images.

    Images are averaged over their channels and shrunk to 16x16 pixels at most; their own mean and what all images have
    in common are taken off. Two are pairs when the rest, of one moved as suits best, correlates by more than 0.97. That
    is so for copies that differ by noise of up to an eighth of the images' spread.

    Returns
    -------
    first, second : ndarray of shape (n_pairs,)
    correlations : ndarray of shape (n_pairs,)
    """
    nothing = np.zeros(0, dtype=np.int64)
    size = min(images.shape[2], _SIDE), min(images.shape[3], _SIDE)
    among = torch.arange(len(images)) if among is None else among
    if len(among) < 2 or size[0] * size[1] < _FEWEST_PIXELS:
        return nothing, nothing, nothing.astype(np.float32)

    def shrunk(rows: Tensor) -> Tensor:
        grey = F.adaptive_avg_pool2d(images[among[rows]].float().mean(1, keepdim=True), size).flatten(1)
        grey = grey - grey.mean(1, keepdim=True)
        return grey / grey.abs().amax(1, keepdim=True).clamp_min(1e-12)

    def small(rows: Tensor) -> Tensor:
        return shrunk(rows) if known is None else known[rows]

    def move(rows: Tensor, g: int) -> Tensor:
        return transform_images(rows.unflatten(1, size), group, g).flatten(1)

    def rest(rows: Tensor) -> Tensor:
        return F.normalize(rows - common, dim=1)

    elements, chunks = pixel_elements(group), torch.arange(len(among)).split(_AT_ONCE)
    # what is not in memory is read once
    few = torch.arange(len(among)).split(_at_once(images))
    known = torch.cat([shrunk(rows) for rows in few]) if isinstance(images, StoredImages) else None
    n_pixels = size[0] * size[1]
    average = torch.stack([move(torch.eye(n_pixels), g) for g in elements]).mean(0)  # over the group
    total, covariance = torch.zeros(n_pixels), torch.zeros(n_pixels, n_pixels)
    for rows in chunks:
        total += small(rows).sum(0)
    common = total / len(among) @ average
    for rows in chunks:
        own = rest(small(rows))
        covariance += own.T @ own
    # near copies lie within this distance, and so do their coordinates along any direction that the group leaves alone
    least = min(_ALIKE)
    reach = (2 - 2 * least) ** 0.5
    direction = torch.linalg.eigh(average @ covariance @ average)[1][:, -1]
    places, order = torch.cat([rest(small(rows)) @ direction for rows in chunks]).sort()
    ends = torch.searchsorted(places, places + reach, right=True)
    found, correlations = [torch.zeros(2, 0, dtype=torch.int64)], [torch.zeros(0)]
    for start in range(0, len(order), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(order))
        still, end = small(order[start:stop]), int(ends[stop - 1])
        moved = [rest(move(still, g)) for g in elements]
        for begin in range(start, end, 8 * _AT_ONCE):
            others = rest(small(order[begin : min(begin + 8 * _AT_ONCE, end)]))
            alike = torch.stack([own @ others.T for own in moved]).amax(0)
            pair = (alike > least).nonzero().T
            values, pair = alike[pair[0], pair[1]], pair + torch.tensor([[start], [begin]])
            once = pair[0] < pair[1]
            found.append(order[pair[:, once]])
            correlations.append(values[once])
    pairs = torch.cat(found, 1).numpy()
    return pairs[0], pairs[1], torch.cat(correlations).numpy()
