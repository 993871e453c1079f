"""The way of X, y and the weights into a fit: checked, read as images, encoded, weighted, on the device, and split."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import _check_sample_weight, validate_data
from torch import Tensor

from skequinas.groups import PointGroup, parse_group, pixel_elements
from skequinas.io.images import Preprocessing, as_images, as_rows, infer_image_shape
from skequinas.nn.transforms import transform_images
from skequinas.training import DataPart, Objective, Split

__all__ = ["Prepared", "Task", "prepare", "relative_weights"]


class Task(Protocol):
    """What an estimator tells of itself for its data to be prepared: some parameters, and how it treats targets."""

    group: Any
    image_shape: tuple[int, ...] | None
    validation_fraction: float
    objective: Objective

    @property
    def _target_checks(self) -> dict[str, Any]:
        """How scikit-learn is to check y."""
        ...

    def _weighted(self, y: NDArray[Any], weights: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        """The weights of the samples, given those that the user gave."""
        ...

    def _encode_targets(self, y: NDArray[Any], weights: NDArray[np.float64] | None, earlier: Any) -> Tensor:
        """The targets as the objective takes them; sets what `predict` needs to go back."""
        ...

    def _strata(self, y: NDArray[Any], n_validation: int) -> NDArray[Any] | None:
        """The labels whose shares the split keeps, if any."""
        ...


@dataclass(frozen=True)
class Prepared:
    """All that a fit was given, ready for it.

    Parameters
    ----------
    image_shape : tuple of int
        How a sample is read.
    split : Split
        The data of positive weight, and their parts for training and validation, if some are to be held out.
    preprocessing : Preprocessing
        From raw images to inputs of a network.
    """

    image_shape: tuple[int, ...]
    split: Split
    preprocessing: Preprocessing


def prepare(
    task: Task,
    X: Any,
    y: Any,
    sample_weight: Any,
    *,
    device: torch.device,
    seed: int,
    hold_out: bool,
    earlier: Any = None,
) -> Prepared:
    """Check everything and make it ready for a fit.

    Parameters
    ----------
    task : estimator
        The one that is fitted. It learns the names of its features and the encoding of its targets.
    X, y, sample_weight
        As ``fit`` takes them.
    device : torch.device
        Where images and targets are to lie.
    seed : int
        Fixes the split.
    hold_out : bool
        Whether a part is held out.
    earlier : estimator, optional
        The earlier fit that this one goes on with: images must have its shape, and are standardised as there.
    """
    n_min = 4 if hold_out else 2  # two samples on either side
    X, shape = as_rows(X)
    X, y = validate_data(task, X, y, ensure_min_samples=n_min, **task._target_checks)
    image_shape = infer_image_shape(shape or X.shape[1:], task.image_shape)
    if earlier is not None and earlier.image_shape_ != image_shape:
        raise ValueError(
            f"warm_start=True needs images of the shape of the earlier fit, {earlier.image_shape_}; X has images of "
            f"shape {image_shape}. Set warm_start=False to start anew."
        )
    images = as_images(X, image_shape)
    weights = task._weighted(y, _given_weights(X, sample_weight))
    targets = task._encode_targets(y, weights, earlier)
    importance = None
    if weights is not None:
        kept = np.flatnonzero(weights)
        if len(kept) < n_min:
            raise ValueError(
                f"sample_weight leaves {len(kept)} samples of positive weight, but {type(task).__name__} needs at "
                f"least {n_min} to be fitted. Give more samples a positive weight."
            )
        if len(kept) < len(weights):
            rows = torch.from_numpy(kept)
            images, targets, y, weights = images[rows], targets[rows], y[kept], weights[kept]
        importance = torch.from_numpy((weights / weights.mean()).astype(np.float32)).to(device)
    images = images.to(device)
    preprocessing = Preprocessing(images) if earlier is None else copy.deepcopy(earlier.preprocessing_)
    preprocessing.to(device)
    whole = DataPart(images, targets.to(device), preprocessing, task.objective, importance)
    split = _held_out(task, whole, y, seed) if hold_out else Split(whole, whole, None)
    return Prepared(image_shape, split, preprocessing)


def _given_weights(X: NDArray[Any], sample_weight: Any) -> NDArray[np.float64] | None:
    """The sample weights, not negative and not all zero, or None."""
    if sample_weight is None:
        return None
    weights: NDArray[np.float64] = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if not weights.any():
        raise ValueError("sample_weight is zero for every sample. Give some samples a positive weight.")
    return relative_weights(weights)


def relative_weights(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights relative to the largest; those that single precision cannot tell from 0 are 0."""
    relative: NDArray[np.float64] = weights / weights.max()
    relative[relative < np.finfo(np.float32).tiny] = 0.0
    return relative


def _held_out(task: Task, whole: DataPart, y: NDArray[Any], seed: int) -> Split:
    """Hold a part of the data out, with at least two samples on either side.

    Copies of an image, moved or not, stay together: a network that has seen one is no witness about another.
    """
    first, copy_of = _distinct(whole.images, parse_group(task.group))
    if len(first) < 4:  # too few to be kept apart
        first = copy_of = np.arange(len(whole))
    n = len(first)
    n_validation = min(n - 2, max(2, round(task.validation_fraction * n)))
    parts = train_test_split(
        np.arange(n), test_size=n_validation, stratify=task._strata(y[first], n_validation), random_state=seed
    )
    training, validation = (whole.subset(np.flatnonzero(np.isin(copy_of, part))) for part in parts)
    return Split(whole, training, validation)


def _distinct(images: Tensor, group: PointGroup) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first of every set of images that are copies of each other, moved or not, and to which set each belongs."""
    images, keys = images.cpu(), []
    for g in pixel_elements(group):
        moved = transform_images(images, group, g).contiguous().numpy()
        keys.append([int.from_bytes(blake2b(image.tobytes(), digest_size=8).digest(), "little") for image in moved])
    lowest = np.array(keys, dtype=np.uint64).min(0)
    _, first, copy_of = np.unique(lowest, return_index=True, return_inverse=True)
    order = np.argsort(first)  # numbered by the first of each, so that without copies nothing is reordered
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[copy_of]
