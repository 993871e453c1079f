"""Images cut at random places, which hide where a camera's or a file's grid lies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from skequinas.io.images import cut_at

__all__ = ["random_crops"]


def random_crops(X: ArrayLike, size: int, *, random_state: int | np.random.RandomState | None = None) -> NDArray[Any]:
    """Cut every image to a square at a random place.

    What a pipeline did to images can break a symmetry that their objects have, by the place of every pixel in the
    pipeline's grid: that of a Bayer filter (2 pixels), of JPEG (8, or 16). Cut at random places, images have lost it if
    there are as many places to cut them at, in either direction, as the grid's period or a multiple of it: if they are
    smaller by 15 pixels for all three. So a symmetry that a model finds broken in whole images, and not in such crops,
    may be broken by the pipeline alone. Fit on crops, and ask about others by
    ``symmetry_evidence(..., crop="random")``.

    Parameters
    ----------
    X : array-like of shape (n, height, width) or (n, height, width, channels)
    size : int
        The side of what is left, in pixels.
    random_state : int, RandomState instance or None, default=None
        Draws the places.

    Returns
    -------
    ndarray of shape (n, size, size) or (n, size, size, channels)

    References
    ----------
    Lin, Sun, Davis and Snavely, Visual chirality, CVPR 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from skequinas.datasets import random_crops
    >>> random_crops(np.zeros((5, 23, 23, 3)), 16, random_state=0).shape
    (5, 16, 16, 3)
    """
    images = np.asarray(X)
    if images.ndim not in (3, 4):
        raise ValueError(
            f"X has shape {images.shape}; it must be (n, height, width) or (n, height, width, channels). "
            "Reshape rows of pixels."
        )
    height, width = images.shape[1:3]
    if not 1 <= size <= min(height, width):
        raise ValueError(f"size={size} must lie between 1 and the shorter side of the images, {min(height, width)}.")
    rng = check_random_state(random_state)
    tops, lefts = (rng.randint(side - size + 1, size=len(images)) for side in (height, width))
    return cut_at(images, tops, lefts, (size, size))
