"""Tasks whose symmetry a camera breaks: what image pipelines leave of the moves of a square."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import convolve
from sklearn.utils import check_random_state

from skequinas.datasets.crops import random_crops
from skequinas.groups import PointGroup

__all__ = ["camera_symmetry", "make_camera_symmetry"]

Pixels = NDArray[np.uint8]


def make_camera_symmetry(
    images: ArrayLike | None = None,
    pipeline: str = "jpeg",
    *,
    n: int = 1000,
    size: int = 16,
    quality: int = 75,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[Pixels, NDArray[np.int64]]:
    """Make a task whose symmetry is what an image pipeline leaves of D4.

    A random square of an image, moved by a random element of D4, goes through the pipeline. So what it shows looks the
    same under all of D4, and what the pipeline did to it under the moves that commute with the pipeline alone. Every
    second of them is moved once more, by a random element. The label tells which: 1 as the pipeline left it, 0 moved.
    Images and labels together look the same under exactly the moves that `camera_symmetry` names.

    Parameters
    ----------
    images : array-like of shape (n_images, height, width, 3), optional
        Colours from 0 to 255, of which squares are cut. None is noise, independent in every pixel.
    pipeline : {"demosaic", "jpeg", "jpeg 4:2:0", "demosaic + jpeg"}, default="jpeg"
        "demosaic" keeps one colour of every pixel, as a Bayer filter (RGGB) does, and interpolates the others
        bilinearly. "jpeg" writes and reads a JPEG whose colours have the full resolution (4:4:4), "jpeg 4:2:0" one
        with half of it, which most cameras write. JPEG needs pillow: ``pip install skequinas[images]``.
    n : int, default=1000
        How many squares.
    size : int, default=16
        Their side in pixels.
    quality : int, default=75
        Of JPEG, from 1 to 95.
    random_state : int, RandomState instance or None, default=None
        Draws noise, squares, moves and labels.

    Returns
    -------
    X : ndarray of shape (n, size, size, 3)
        In uint8.
    y : ndarray of shape (n,)

    References
    ----------
    Lin, Sun, Davis and Snavely, Visual chirality, CVPR 2020.

    Examples
    --------
    >>> from skequinas.datasets import camera_symmetry, make_camera_symmetry
    >>> X, y = make_camera_symmetry(pipeline="demosaic", n=10, size=16, random_state=0)
    >>> X.shape, camera_symmetry("demosaic", 16)
    ((10, 16, 16, 3), 'D1(135)')
    """
    process = _pipeline(pipeline, quality)
    if n < 1 or size < 2:
        raise ValueError(f"n={n} must be at least 1, and size={size} at least 2.")
    rng = check_random_state(random_state)
    if images is None:
        squares = rng.randint(256, size=(n, size, size, 3), dtype=np.uint8)
    else:
        photographs = np.asarray(images)
        if photographs.ndim != 4 or photographs.shape[3] != 3 or photographs.dtype != np.uint8:
            raise ValueError(
                f"images has shape {photographs.shape} and type {photographs.dtype}; it must be colours from 0 to 255 "
                "in uint8, shape (n_images, height, width, 3)."
            )
        squares = random_crops(photographs[rng.randint(len(photographs), size=n)], size, random_state=rng)
    y = rng.randint(2, size=n)
    before, after = rng.randint(8, size=n), np.where(y == 1, 0, rng.randint(8, size=n))
    X = np.stack([_moved(process(_moved(square, g)), h) for square, g, h in zip(squares, before, after, strict=True)])
    return X, y.astype(np.int64)


def camera_symmetry(pipeline: str, size: int) -> str:
    """The subgroup of D4 that commutes with a pipeline, for square images of this side.

    Demosaicing of a Bayer filter commutes with every move of images whose sides are odd, and of others with the mirror
    about the main diagonal alone. The blocks of JPEG are moved to blocks if the sides are multiples of 8; its
    quantisation is the same for half turns and both mirrors (libjpeg, which counts in whole numbers, rounds ties
    otherwise when left and right are exchanged: 2 % of the pixels of noise). At half the resolution colours are
    interpolated from their left and right neighbours alone, which leaves the up-down mirror, at multiples of 16. Two
    pipelines leave what both leave.

    Parameters
    ----------
    pipeline : {"demosaic", "jpeg", "jpeg 4:2:0", "demosaic + jpeg"}
    size : int

    Returns
    -------
    str
        The name of the subgroup.
    """
    _pipeline(pipeline, 75)
    d4 = PointGroup.from_name("D4")
    left = d4.whole
    if "demosaic" in pipeline and size % 2 == 0:
        left = left & d4.subgroup("D1(135)")
    if pipeline.endswith("jpeg"):
        left = left & d4.subgroup("D2(0)" if size % 8 == 0 else "C1")
    if pipeline.endswith("4:2:0"):
        left = left & d4.subgroup("D1(0)" if size % 16 == 0 else "C1")
    return left.name


def _pipeline(name: str, quality: int) -> Callable[[Pixels], Pixels]:
    pipelines: dict[str, Callable[[Pixels], Pixels]] = {
        "demosaic": _demosaiced,
        "jpeg": lambda square: _as_jpeg(square, quality, subsampling=0),
        "jpeg 4:2:0": lambda square: _as_jpeg(square, quality, subsampling=2),
        "demosaic + jpeg": lambda square: _as_jpeg(_demosaiced(square), quality, subsampling=0),
    }
    if name not in pipelines:
        raise ValueError(f"pipeline={name!r} is unknown. Use {', '.join(map(repr, pipelines))}.")
    if not 1 <= quality <= 95:
        raise ValueError(f"quality={quality} must lie between 1 and 95.")
    return pipelines[name]


def _moved(square: Pixels, number: int) -> Pixels:
    """By one of the eight moves of a square; 0 is none."""
    turned = np.rot90(square, number % 4)
    return np.ascontiguousarray(turned[::-1] if number >= 4 else turned)


_OF_GREEN = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
_OF_OTHERS = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4


def _demosaiced(square: Pixels) -> Pixels:
    rows, columns = np.indices(square.shape[:2]) % 2
    seen = ((rows == 0) & (columns == 0), rows != columns, (rows == 1) & (columns == 1))
    planes = [
        convolve(square[..., i] * seen[i].astype(float), _OF_GREEN if i == 1 else _OF_OTHERS, mode="mirror")
        for i in range(3)
    ]
    return np.stack(planes, -1).round().clip(0, 255).astype(np.uint8)


def _as_jpeg(square: Pixels, quality: int, subsampling: int) -> Pixels:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("pipeline='jpeg' needs pillow: pip install skequinas[images].") from error
    file = io.BytesIO()
    Image.fromarray(square).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file))
