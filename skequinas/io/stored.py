"""Images that stay where they are, in a file or a large array, and are read a mini-batch at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from os import PathLike, fspath
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skequinas.io.images import as_images

__all__ = ["ImageFiles", "StoredImages", "is_stored", "some", "taken_from"]

_LARGE = 2**28
"""Bytes from which on images are not copied into memory."""


def is_stored(X: Any) -> bool:
    """Whether X is large, and an array whose rows can be read a few at a time: of numpy, HDF5, zarr, or image files."""
    array = isinstance(X, np.ndarray | ImageFiles) or (hasattr(X, "chunks") and hasattr(X, "dtype"))
    shape = tuple(getattr(X, "shape", ()))
    if not array or isinstance(X, np.ma.MaskedArray) or len(shape) < 2:
        return False
    dtype = np.dtype(X.dtype)
    return dtype.kind in "biuf" and dtype.itemsize * math.prod(shape) >= _LARGE


class StoredImages:
    """Stands for a tensor (n, channels, height, width) of images that are read when they are asked for.

    Parameters
    ----------
    source : array-like of shape (n, ...)
        ``np.asarray(source[rows])`` are some of its rows, for increasing numbers.
    image_shape : tuple of int
        How a sample is read, as from `infer_image_shape`.
    rows : ndarray, optional
        Which of them, in order; all by default.
    device : torch.device, optional
        Where mini-batches are to lie.
    """

    def __init__(
        self,
        source: Any,
        image_shape: tuple[int, ...],
        rows: NDArray[np.int64] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.source, self.image_shape = source, image_shape
        self.rows = np.arange(source.shape[0]) if rows is None else rows
        self.device = torch.device("cpu") if device is None else device
        sample = as_images(np.zeros((0, *source.shape[1:]), dtype=source.dtype), image_shape)
        self.dtype, self.shape = sample.dtype, torch.Size((len(self.rows), *sample.shape[1:]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor | slice | int) -> Tensor:
        """Images by their numbers, on the device."""
        if isinstance(index, int):
            return self[torch.tensor([index])][0]
        wanted = self.rows[index if isinstance(index, slice) else index.cpu().numpy()]
        rows, place = np.unique(wanted, return_inverse=True)  # HDF5 wants them so
        block = np.asarray(self.source[rows])
        return as_images(block[place], self.image_shape).to(self.device)

    def subset(self, index: NDArray[np.int64]) -> StoredImages:
        """Some of them, which stay where they are too."""
        return StoredImages(self.source, self.image_shape, self.rows[index], self.device)

    def split(self, n: int) -> Iterator[Tensor]:
        """All of them, so many at a time."""
        return (self[start : start + n] for start in range(0, len(self), n))

    def numel(self) -> int:
        """How many values there are."""
        return math.prod(self.shape)

    def to(self, device: torch.device) -> StoredImages | Tensor:
        """For mini-batches on a device; on a GPU whose free memory is several times as large, all images at once."""
        there = StoredImages(self.source, self.image_shape, self.rows, device)
        if device.type == "cuda" and 4 * self.numel() * self.dtype.itemsize < torch.cuda.mem_get_info(device)[0]:
            return torch.cat(list(there.split(1024)))
        return there

    def first_not_finite(self) -> int | None:
        """The number of the first image with a value that is NaN or infinite, if there is one."""
        if not self.dtype.is_floating_point:
            return None
        for number, part in enumerate(self.split(32)):
            finite = part.isfinite().flatten(1).all(1)
            if not bool(finite.all()):
                return 32 * number + int((~finite).nonzero()[0])
        return None


def taken_from(X: NDArray[Any] | StoredImages, image_shape: tuple[int, ...]) -> Tensor | StoredImages:
    """Finite rows as images, see `as_images`; what is stored stays where it is."""
    return X if isinstance(X, StoredImages) else as_images(X, image_shape)


def some(images: Tensor | StoredImages, rows: NDArray[np.int64]) -> Tensor | StoredImages:
    """Some of the images; what is stored stays where it is."""
    if isinstance(images, StoredImages):
        return images.subset(rows)
    return images[torch.from_numpy(rows).to(images.device)]


class ImageFiles:
    """Image files as an array of shape (n, height, width) or (n, height, width, channels), decoded when it is read.

    Estimators take it as X. Below a quarter of a gigabyte all images are decoded once; above, a mini-batch at a time.
    Indexing by numbers or a slice gives some of the files; ``numpy.asarray`` decodes them. Photographs are turned
    upright where the file says how they were taken. Needs Pillow.

    Parameters
    ----------
    paths : sequence of path-like
        In any format that Pillow reads, with 8 bits a channel at most.
    size : int, (height, width) or None, default=None
        To which all images are resized (bicubic, with anti-aliasing), as they are asked for; None leaves them as they
        are, and then all must have the size of the first. Images that are resized, or were stored with losses, need not
        have the symmetry of what they show.
    mode : {"RGB", "L"}, default="RGB"
        Colours, or shades of grey.

    Raises
    ------
    ValueError
        When an image has another size, or cannot be decoded; the error names the file.

    Examples
    --------
    >>> import tempfile, pathlib, numpy as np
    >>> from PIL import Image
    >>> from skequinas.io import ImageFiles
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "image.png"
    ...     Image.fromarray(np.full((8, 8, 3), 7, dtype=np.uint8)).save(path)
    ...     X = ImageFiles([path, path], size=4)
    ...     print(X.shape, np.asarray(X[1:]).mean())
    (2, 4, 4, 3) 7.0
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        paths: Sequence[str | PathLike[str]],
        *,
        size: int | tuple[int, int] | None = None,
        mode: str = "RGB",
    ) -> None:
        if isinstance(paths, str) or not len(paths):
            raise ValueError(f"paths={paths!r} must be a sequence of at least one file, such as sorted(folder.glob()).")
        if mode not in ("RGB", "L"):
            raise ValueError(f"mode={mode!r} must be 'RGB' for colours or 'L' for shades of grey.")
        sides: tuple[int, ...] | None = (size, size) if isinstance(size, int) else size
        if sides is not None and (len(sides) != 2 or any(s < 1 for s in sides)):
            raise ValueError(f"size={size!r} must be a side, or (height, width), in pixels.")
        self.paths, self.mode, self.is_resized = [fspath(path) for path in paths], mode, sides is not None
        self.size = self._opened(self.paths[0]).shape[:2] if sides is None else (int(sides[0]), int(sides[1]))

    @property
    def shape(self) -> tuple[int, ...]:
        """That of all images as an array."""
        return (len(self.paths), *self.size, *(3,) * (self.mode == "RGB"))

    @property
    def ndim(self) -> int:
        """Axes of that array."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Self:
        """Some of the files."""
        chosen = type(self).__new__(type(self))
        vars(chosen).update(vars(self))
        chosen.paths = np.atleast_1d(np.array(self.paths, dtype=object)[index]).tolist()
        return chosen

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of them, decoded."""
        images = np.empty(self.shape, dtype=np.uint8)
        for image, path in zip(images, self.paths, strict=True):
            opened = self._opened(path)
            if opened.shape != image.shape:
                raise ValueError(
                    f"{path!r} has {opened.shape[0]}x{opened.shape[1]} pixels, and the first image {image.shape[0]}x"
                    f"{image.shape[1]}. Pass size=(height, width) to resize all of them."
                )
            image[...] = opened
        return images if dtype is None else images.astype(dtype, copy=False)

    def _opened(self, path: str) -> NDArray[np.uint8]:
        try:
            from PIL import Image, ImageOps, UnidentifiedImageError
        except ImportError as error:
            raise ImportError("ImageFiles needs Pillow: pip install skequinas[images].") from error
        try:
            with Image.open(path) as file:
                if file.mode[0] in "IF":
                    raise ValueError(
                        f"its pixels are of mode {file.mode!r}, with more than 8 bits; read it into an array"
                    )
                image = ImageOps.exif_transpose(file).convert(self.mode)
        except FileNotFoundError:
            raise
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise ValueError(f"{path!r} cannot be decoded ({error}). Leave it out of paths.") from error
        if self.is_resized and image.size != self.size[::-1]:
            image = image.resize(self.size[::-1], Image.Resampling.BICUBIC)
        return np.asarray(image)
