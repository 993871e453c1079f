"""Which images are not independent of each other: copies, near copies, and what the user says belongs together."""

from __future__ import annotations

import warnings
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import check_consistent_length
from torch import Tensor

from skequinas.estimators.near import at_once, near_copies
from skequinas.groups import PointGroup, pixel_elements
from skequinas.io.images import as_array
from skequinas.io.stored import StoredImages, some
from skequinas.nn.transforms import transform_images
from skequinas.training.units import joined, numbered

__all__ = ["checked_groups", "mixed", "n_seen", "units_of"]

_MIXING = (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)


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
        found = near_copies(images, group, torch.from_numpy(first))
        if found is not None:
            pairs.append((first[found.first], first[found.second]))
            warnings.warn(
                f"{found.n_images} of {len(first)} images are nearly equal to others, as several shots of one object "
                "are. They are kept together in every split and count as one in every test. "
                f"Pass {remedy} to say exactly which belong together, by a label for each image (all different where "
                "none do).",
                stacklevel=2,
            )
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


def contents(images: Tensor | StoredImages, dtype: torch.dtype | None = None) -> NDArray[np.uint64]:
    """A number for every image, (n,), equal for those that have the same values in each channel, in whatever order.

    It is the sum of a number for each value, which wraps around and so does not depend on the order. Few images that
    are no copies have the same, unless they hold few different values.
    """
    found = [np.zeros(0, dtype=np.uint64)]
    for part in images.split(at_once(images)):
        values = part.cpu().to(dtype or part.dtype).flatten(2).numpy()
        channels = np.arange(1, 1 + values.shape[1], dtype=np.uint64)[:, None] << np.uint64(56)
        found.append(mixed(values, channels).sum((1, 2), dtype=np.uint64))
    return np.concatenate(found)


def mixed(values: NDArray[Any], places: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A number for each value at a place, as if drawn at random: the last steps of splitmix64."""
    bits = values.view(f"u{values.dtype.itemsize}").astype(np.uint64)
    bits += places
    for shift, factor in _MIXING:
        bits ^= bits >> np.uint64(shift)
        bits *= np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return bits


def fingerprints(
    images: Tensor | StoredImages, group: PointGroup, dtype: torch.dtype | None = None
) -> NDArray[np.uint64]:
    """A number for every image, (n,), equal for those that are copies of each other, moved or not.

    Numbers of images of two data types are comparable when both are taken in the same ``dtype``.
    """
    found = [np.zeros(0, dtype=np.uint64)]
    for part in images.split(at_once(images)):
        keys = []
        for g in pixel_elements(group):
            moved = transform_images(part.cpu().to(dtype or part.dtype), group, g).contiguous().numpy()
            keys.append([int.from_bytes(blake2b(image.tobytes(), digest_size=8).digest(), "little") for image in moved])
        found.append(np.array(keys, dtype=np.uint64).min(0))
    return np.concatenate(found)
