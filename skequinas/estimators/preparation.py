"""The way of X, y and the weights into a fit: checked, read as images, encoded, weighted, on the device, and split."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, validate_data
from torch import Tensor

from skequinas.estimators.units import checked_groups, n_seen, units_of
from skequinas.groups import PointGroup, group_on_images, parse_group
from skequinas.io.images import as_array, as_images, as_rows, infer_image_shape
from skequinas.io.preprocessing import Preprocessing
from skequinas.io.stored import StoredImages, is_stored, some, taken_from
from skequinas.training import DataPart, Objective, Split
from skequinas.training.units import numbered

__all__ = [
    "Prepared",
    "Task",
    "check_numbers",
    "group_for",
    "images_of",
    "prepare",
    "read_first",
    "read_more",
    "relative_weights",
]


class Task(Protocol):
    """What an estimator tells of itself for its data to be prepared: some parameters, and how it treats targets."""

    group: Any
    image_shape: tuple[int, ...] | None
    n_features_in_: int
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

    def _known_targets(self, y: NDArray[Any]) -> Tensor:
        """The targets of other images, encoded as those in `fit` were."""
        ...

    def _known_weights(self, codes: NDArray[Any]) -> NDArray[np.float64] | None:
        """The weights of other images, given their targets by `_known_targets`."""
        ...

    def _as_trained(self, targets: Tensor) -> Tensor:
        """Targets of `_known_targets` as `_encode_targets` codes them."""
        ...

    def _strata(self, targets: NDArray[Any], n_validation: int) -> NDArray[Any] | None:
        """The encoded targets whose shares the split keeps, if any."""
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
    group : PointGroup
        The group to search in: of the user's group what can move such images.
    remark : str
        Why that is less than the user's, or "".
    is_padded : bool
        Whether the samples are no images, but rows that were filled up to squares.
    """

    image_shape: tuple[int, ...]
    split: Split
    preprocessing: Preprocessing
    group: PointGroup
    remark: str
    is_padded: bool


def prepare(
    task: Task,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    groups: Any = None,
    validation_data: Any = None,
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
    X, y, sample_weight, groups, validation_data
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
    held_out = hold_out and validation_data is None
    n_min = 4 if held_out else 2  # two samples on either side
    X, y, image_shape = read_first(task, X, y, ensure_min_samples=n_min, **task._target_checks)
    if earlier is not None and earlier.image_shape_ != image_shape:
        raise ValueError(
            f"warm_start=True needs images of the shape of the earlier fit, {earlier.image_shape_}; X has images of "
            f"shape {image_shape}. Set warm_start=False to start anew."
        )
    images = images_of(X, image_shape)
    labels = checked_groups(groups, X)
    padded = task.n_features_in_ < math.prod(image_shape)
    group, remark = group_for(task.group, task.n_features_in_, images, padded=padded)
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
            images, targets, weights = some(images, kept), targets[rows], weights[kept]
            labels = None if labels is None else numbered(labels[kept])
        importance = torch.from_numpy((weights / weights.mean()).astype(np.float32)).to(device)
    units = units_of(images, labels, group, near=not padded) if hold_out else None
    images = images.to(device)
    preprocessing = Preprocessing(images) if earlier is None else copy.deepcopy(earlier.preprocessing_)
    preprocessing.to(device)
    whole = DataPart(images, targets.to(device), preprocessing, task.objective, importance, units)
    split = Split(whole, whole, None)
    if held_out:
        split = _held_out(task, whole, seed, named=labels is not None)
    elif validation_data is not None:
        split = Split(whole, whole, _given_validation(task, validation_data, image_shape, whole, group))
    return Prepared(image_shape, split, preprocessing, group, remark, padded)


def read_first(task: Any, X: Any, y: Any, **checks: Any) -> tuple[Any, NDArray[Any], tuple[int, ...]]:
    """The images of a fit as finite rows, or where they are, its targets, and how a row is read."""
    X, shape = _rows(X)
    X, y = _validated(task, X, as_array(y, "y"), **checks)
    return X, y, infer_image_shape(shape or X.shape[1:], task.image_shape)


def images_of(X: Any, image_shape: tuple[int, ...]) -> Tensor | StoredImages:
    """What `read_first` read, as finite images."""
    return _stored(X, image_shape, "X") if is_stored(X) else as_images(X, image_shape)


def _rows(X: Any, argument: str = "X") -> tuple[Any, tuple[int, ...] | None]:
    """As `as_rows`; what is large and can be read in parts stays as it is."""
    if not is_stored(X):
        return as_rows(X, argument)
    return X, tuple(X.shape[1:]) if len(X.shape) > 2 else None


def read_more(task: Any, X: Any, image_shape: tuple[int, ...], argument: str = "X") -> NDArray[Any] | StoredImages:
    """Images of another array as finite rows, or where they are; they must be as those in `fit`."""
    X, shape = _rows(X, argument)
    single = len(image_shape) == 2 and shape is None and tuple(getattr(X, "shape", ())) == image_shape
    single = single and image_shape[1] != task.n_features_in_
    if single or (shape is not None and shape != image_shape):
        found = f"is one image of shape {image_shape}" if single else f"has images of shape {shape}"
        one = f" For a single image pass {argument}[None]." if single or shape == image_shape[1:] else ""
        raise ValueError(
            f"{argument} {found}, but {type(task).__name__} was fitted with images of shape {image_shape}.{one}"
        )
    rows: NDArray[Any] = _validated(task, X, argument=argument, reset=False)
    return _stored(rows, image_shape, argument) if is_stored(rows) else rows


def _stored(X: Any, image_shape: tuple[int, ...], argument: str) -> StoredImages:
    """Images that stay where they are, all finite."""
    images = StoredImages(X, image_shape)
    bad = images.first_not_finite()
    if bad is not None:
        kind = "NaN" if bool(images[bad].isnan().any()) else "infinity"
        raise ValueError(f"Input {argument} contains {kind} (image {bad}). {_FOR_PIXELS}")
    return images


def _shaped_like(X: Any) -> NDArray[np.uint8]:
    """An array without memory that has as many rows as a stored one, and as many values in each."""
    return np.broadcast_to(np.uint8(0), (X.shape[0], math.prod(X.shape[1:])))


def _validated(task: Any, X: Any, y: Any = None, *, argument: str = "X", **checks: Any) -> Any:
    """What scikit-learn checks, with words for those who have images."""
    numeric = bool(checks.get("y_numeric")) and y is not None
    if y is not None:
        _check_missing(y)
        if numeric and np.asarray(y).dtype.kind in "US":
            _explain("y", y, _FOR_LABELS)
    stored = X if is_stored(X) else None
    given = X if stored is None else _shaped_like(X)
    try:
        if checks.get("reset", True):
            known, y = validate_data(task, given, y, **checks)
            return (known if stored is None else stored), y
        known = validate_data(task, given, **checks)
        return known if stored is None else stored
    except (ValueError, TypeError):
        _explain(argument, given, _FOR_PIXELS)
        if numeric:
            _explain("y", y, _FOR_LABELS)
        raise


_FOR_PIXELS = "Fill missing pixels, as with numpy.nan_to_num, or leave such images out."
_FOR_LABELS = "A regressor needs numbers; for labels there is EquivariantNASClassifier."


def check_numbers(y: Any) -> None:
    """Raise an error for targets that are missing or no finite numbers."""
    _check_missing(y)
    _explain("y", y, _FOR_LABELS)


def _check_missing(y: Any) -> None:
    """Raise an error where some images have no label."""
    if getattr(getattr(y, "dtype", None), "kind", "") != "O" and not isinstance(y, list | tuple):
        return
    for label in np.asarray(y, dtype=object).ravel().tolist():
        if label is None or (isinstance(label, float) and label != label):
            raise ValueError(
                f"Input y contains NaN: y holds {label} for some image. Leave out images without a label, or give them "
                "one, such as 'unknown'."
            )


def _explain(argument: str, values: Any, remedy: str) -> None:
    """Raise an error for values that are no finite numbers, if that is what they are."""
    array = np.asarray(values)
    if array.dtype.kind in "OUS":
        words = [v for v in array.ravel().tolist() if isinstance(v, str | bytes)]
        unreadable = [v for v in words if not _is_number(v)]
        if unreadable:
            raise ValueError(
                f"{argument} holds text, such as {unreadable[0]!r}, where numbers are needed. "
                + (remedy if argument == "y" else "Convert it, or leave such columns out.")
            ) from None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        kind = "NaN" if np.isnan(array).any() else "infinity"
        raise ValueError(f"Input {argument} contains {kind}. {remedy}") from None


def _is_number(text: str | bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def group_for(asked: Any, n_values: int, images: Tensor | StoredImages, *, padded: bool) -> tuple[PointGroup, str]:
    """Of a group what can move these images, and why that is less."""
    whole, (height, width) = parse_group(asked), images.shape[2:]
    group = PointGroup(1) if padded else group_on_images(whole, height, width)
    if group == whole:
        return group, ""
    if padded:
        remark = (
            f"rows of {n_values} values are no square image of one or three channels (they were filled up with zeros "
            f"to {height}x{width})"
        )
        remedy = "If they are images, pass image_shape=(height, width) or (height, width, channels)."
    else:
        remark = f"images of {height}x{width} pixels cannot be moved by all of {whole.name}"
        remedy = "Crop or pad them to squares to consider it."
    warnings.warn(f"{remark[0].upper()}{remark[1:]}: group={group.name!r} is considered. {remedy}", stacklevel=2)
    return group, remark


def _given_validation(
    task: Task, given: Any, image_shape: tuple[int, ...], whole: DataPart, group: PointGroup
) -> DataPart:
    """The user's validation data, as those in `fit` are taken."""
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise ValueError("validation_data must be a tuple (X, y) of images and targets as in fit, or (X, y, groups).")
    X = read_more(task, given[0], image_shape, "validation_data[0]")
    y = np.asarray(as_array(given[1], "validation_data[1]"))
    check_consistent_length(X, y)
    labels = checked_groups(given[2] if len(given) == 3 else None, X)
    padded = task.n_features_in_ < math.prod(image_shape)
    images, targets = taken_from(X, image_shape), task._known_targets(y)
    weights = task._known_weights(targets.numpy())
    if weights is not None and not weights.all():  # images of classes that do not count
        rows = np.flatnonzero(weights)
        weights, images, targets = weights[rows], some(images, rows), targets[torch.from_numpy(rows)]
        labels = None if labels is None else numbered(labels[rows])
    if len(images) < 2:
        raise ValueError(f"validation_data holds {len(images)} image that counts; give at least two.")
    n_copies = n_seen(images, whole.images, group)
    if n_copies:
        warnings.warn(
            f"{n_copies} of {len(images)} images in validation_data are copies of images in X, moved or not: what a "
            "network says of images that it has seen is no evidence. Leave them out of one of the two.",
            stacklevel=2,
        )
    units = units_of(images, labels, group, near=not padded, remedy="validation_data=(X, y, groups)")
    device = whole.images.device
    importance = None
    if weights is not None:
        importance = torch.from_numpy((weights / weights.mean()).astype(np.float32)).to(device)
    coded = task._as_trained(targets).to(device)
    return DataPart(images.to(device), coded, whole.preprocess, whole.objective, importance, units)


def _given_weights(X: NDArray[Any], sample_weight: Any) -> NDArray[np.float64] | None:
    """The sample weights, not negative and not all zero, or None."""
    if sample_weight is None:
        return None
    weights: NDArray[np.float64] = _check_sample_weight(
        as_array(sample_weight, "sample_weight"), X, dtype=np.float64, ensure_non_negative=True
    )
    if not weights.any():
        raise ValueError("sample_weight is zero for every sample. Give some samples a positive weight.")
    return relative_weights(weights)


def relative_weights(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights relative to the largest; those that single precision cannot tell from 0 are 0."""
    relative: NDArray[np.float64] = weights / weights.max()
    relative[relative < np.finfo(np.float32).tiny] = 0.0
    return relative


def _held_out(task: Task, whole: DataPart, seed: int, *, named: bool) -> Split:
    """Hold a part of the data out, with at least two units on either side, none of which is divided.

    A network that has seen one image of a unit is no witness about another.
    """
    units = np.arange(len(whole)) if whole.units is None else whole.units
    if whole.n_units < 4:
        if named:
            raise ValueError(
                f"groups, and copies of images, leave {whole.n_units} independent units, but at least 4 are needed, so "
                "that two can be held out. Use search='none' without early stopping, or pass validation_data."
            )
        units = np.arange(len(whole))  # copies, but too few to be kept apart
    first = np.unique(units, return_index=True)[1]
    n = len(first)
    n_validation = min(n - 2, max(2, round(task.validation_fraction * n)))
    strata = task._strata(whole.targets[torch.from_numpy(first).to(whole.targets.device)].cpu().numpy(), n_validation)
    parts = train_test_split(np.arange(n), test_size=n_validation, stratify=strata, random_state=seed)
    training, validation = (whole.subset(np.flatnonzero(np.isin(units, part))) for part in parts)
    return Split(whole, training, validation)
