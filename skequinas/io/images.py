"""From X in any accepted form to images."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["as_array", "as_images", "as_rows", "infer_image_shape"]

_CHANNELS = (1, 2, 3, 4)


def as_array(X: Any, argument: str = "X") -> Any:
    """Tensors, lists, and anything else that is an array but no table, as arrays; tables are left to scikit-learn.

    Raises
    ------
    TypeError
        When pixels are masked.
    ValueError
        When images differ in size.
    """
    if isinstance(X, Tensor):
        return (X.float() if X.dtype == torch.bfloat16 else X).numpy(force=True)
    if isinstance(X, np.ma.MaskedArray):
        if np.ma.is_masked(X):
            raise TypeError(
                f"{argument} is a masked array with masked pixels, which a network cannot read. Give them a value, as "
                f"with {argument}.filled({argument}.mean())."
            )
        return X.data
    dimensions = len(getattr(X, "shape", (0, 0)))
    is_table = hasattr(X, "columns") or not (hasattr(X, "__array__") or isinstance(X, list | tuple))
    if is_table or (isinstance(X, np.ndarray) and (X.dtype != object or X.ndim != 1)) or dimensions == 0:
        return X
    try:
        array = np.asarray(X)
        if array.dtype == object and array.ndim == 1 and len(array) and np.ndim(array[0]) > 0:
            array = np.stack([np.asarray(image) for image in array])
    except ValueError as error:
        raise ValueError(
            f"{argument} is a {type(X).__name__} whose entries do not make one array ({error}). Give all images the "
            "same size and channels."
        ) from error
    return array


def as_rows(X: Any, argument: str = "X") -> tuple[Any, tuple[int, ...] | None]:
    """Images in any form as rows, for scikit-learn to check, and the shape that each had if it was more than a row.

    Raises
    ------
    TypeError
        When they hold dates or records.
    """
    X = as_array(X, argument)
    shape = tuple(X.shape[1:]) if getattr(X, "ndim", 2) > 2 else None
    if shape is not None:
        X = X.reshape(X.shape[0], math.prod(shape))
    kind = getattr(getattr(X, "dtype", None), "kind", "f")
    if kind in "mMV":
        raise TypeError(
            f"{argument} has dtype {X.dtype}, but images must hold numbers. Convert it, as with "
            f"{argument}.astype(float)."
        )
    return X, shape


def infer_image_shape(sample_shape: tuple[int, ...], image_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """How one sample is read: (height, width), or three numbers with the channels first or last.

    Parameters
    ----------
    sample_shape : tuple of int
        The shape of X without its first axis.
    image_shape : tuple of int or None
        What the user said. Without it, a row is a square with one channel, or with three (last), or else is padded with
        zeros to the next square; in a 4-D array the axis with 1 to 4 entries holds the channels.

    Raises
    ------
    ValueError
        When the shapes contradict each other, or when there is more than one reading.
    """
    if image_shape is not None:
        return _check_image_shape(sample_shape, image_shape)
    if len(sample_shape) == 1:
        n = sample_shape[0]
        side = math.isqrt(n)
        if side * side != n and n % 3 == 0 and math.isqrt(n // 3) ** 2 == n // 3:
            return (math.isqrt(n // 3),) * 2 + (3,)
        return (math.isqrt(n - 1) + 1,) * 2
    if len(sample_shape) == 2:
        return sample_shape
    if len(sample_shape) == 3:
        first, last = sample_shape[0] in _CHANNELS, sample_shape[2] in _CHANNELS
        if first != last:
            return sample_shape
        reason = (
            "the channels could be first or last"
            if first
            else "neither the first nor the last is a number of channels, 1 to 4"
        )
        raise ValueError(
            f"X with images of shape {sample_shape} can not be read: {reason}. Pass image_shape=(height, width, "
            "channels) or (channels, height, width)."
        )
    raise ValueError(
        "X must have shape (n, features), (n, height, width), (n, height, width, channels) or (n, channels, height, "
        f"width); its samples have shape {sample_shape}."
    )


def _check_image_shape(sample_shape: tuple[int, ...], image_shape: tuple[int, ...]) -> tuple[int, ...]:
    image_shape = tuple(image_shape)
    numbers: tuple[object, ...] = image_shape
    whole = all(not isinstance(s, bool) and isinstance(s, Integral) and int(s) > 0 for s in numbers)
    if len(image_shape) not in (2, 3) or not whole:
        raise ValueError(
            f"image_shape={image_shape} must be two or three positive whole numbers: height, width and channels."
        )
    fits = math.prod(sample_shape) == math.prod(image_shape)
    if not fits or (len(sample_shape) > 1 and sample_shape != image_shape):
        raise ValueError(
            f"image_shape={image_shape} does not fit X, whose samples have shape {sample_shape} "
            f"({math.prod(sample_shape)} values, not {math.prod(image_shape)})."
        )
    return tuple(int(s) for s in image_shape)


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Where the channels are in an image shape: None, 0 (first) or 2 (last)."""
    if len(shape) == 2:
        return None
    first, last = shape[0] in _CHANNELS, shape[2] in _CHANNELS
    if first != last:
        return 0 if first else 2
    if (shape[0] == shape[1]) != (shape[1] == shape[2]):  # one pair of equal sides: these are the height and width
        return 2 if shape[0] == shape[1] else 0
    return 0 if shape[0] < shape[2] else 2


def cut_at(
    images: NDArray[Any], tops: NDArray[np.integer], lefts: NDArray[np.integer], size: tuple[int, ...]
) -> NDArray[Any]:
    """Of every image (n, height, width, ...) the part of a size (height, width) at its own place."""
    rows, columns = (first[:, None] + np.arange(side) for first, side in zip((tops, lefts), size, strict=True))
    cut: NDArray[Any] = images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cut


def as_images(X: NDArray[Any], image_shape: tuple[int, ...]) -> Tensor:
    """Finite numbers of shape (n, ...) as a tensor (n, channels, height, width): uint8 and floats as they are.

    Parameters
    ----------
    X : ndarray
        Rows, or images of that shape.
    image_shape : tuple of int
        As from `infer_image_shape`.
    """
    n = X.shape[0]
    if X.dtype == np.bool_:
        X = X.view(np.uint8)
    elif X.dtype != np.uint8 and X.dtype not in (np.float16, np.float32, np.float64):
        X = X.astype(np.float32 if X.dtype.itemsize <= 2 else np.float64)  # exact for whole numbers
    if X.ndim == 2:
        missing = math.prod(image_shape) - X.shape[1]
        X = np.pad(X, ((0, 0), (0, missing))) if missing else X
    X = X.reshape(n, *image_shape)
    axis = channel_axis(image_shape)
    X = X[:, None] if axis is None else np.moveaxis(X, axis + 1, 1)
    X = np.ascontiguousarray(X)
    flat = torch.from_numpy((X if X.flags.writeable else X.copy()).ravel())
    return flat.view(X.shape)  # the strides of an axis of length 1 are torch's own again, whatever they were
