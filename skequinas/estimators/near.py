"""Images that are nearly copies of each other, as several shots of one object are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree
from torch import Tensor
from torch.nn import functional as F

from skequinas.groups import PointGroup, pixel_elements
from skequinas.io.stored import StoredImages
from skequinas.nn.transforms import transform_images
from skequinas.training.units import joined

__all__ = ["NearCopies", "at_once", "levels", "near_copies"]

_SIDE = 16
"""Near copies are looked for at this size."""

_FEWEST_PIXELS = 64
"""Of smaller images many are nearly alike by chance."""

_AT_ONCE = 128
"""Images that are compared at a time, so that no copy of all images is made."""

_VALUES_AT_ONCE = 2**21
"""Of larger images fewer are read at a time."""

_ALIKE = {0.97: 0.5, 0.99: 0.01}
"""Two of 1,500 images are near copies when they correlate by more than the first, if more than this share has one.

A smaller share is chance: of 1,500 images of each of eight public sets 0 to 11 % have one by 0.97, and 0 to 0.7 % by
0.99.
"""

_FEW = 1500
"""Among more images than these there are more that are alike by chance: they have to correlate by more."""

_POWER = 0.25
"""Of the number of images, by which what is missing to a correlation of 1 falls."""

_SAMPLED = 10_000
"""Of more images than these some are compared with all others first, for nothing more is to be done where few are."""

_SAMPLE, _BLOCK = 2048, 16
"""Images that are sampled, in blocks of neighbours: between two blocks there are fewer than one in a hundred."""

_MOST_PAIRS = 2**20
"""That are remembered at a time."""

_CHAIN = 0.1
"""Of many images: larger sets of near copies are no shots of one object, but images that have little to differ by."""


class NearCopies(NamedTuple):
    """Pairs that belong together: the places of images in ``among``, and how many images are in any of them.

    Of many pairs some are left out that join nothing which others do not.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    n_images: int


def at_once(images: Tensor | StoredImages) -> int:
    """How many images are read at a time."""
    return max(1, min(_AT_ONCE, _VALUES_AT_ONCE // max(1, math.prod(images.shape[1:]))))


def levels(n: int) -> dict[float, float]:
    """By how much two of n images have to correlate, and which share of images, for that to be no chance."""
    factor = min(1.0, _FEW / max(n, 1)) ** _POWER
    return {1 - (1 - level) * factor: share for level, share in _ALIKE.items()}


def near_copies(images: Tensor | StoredImages, group: PointGroup, among: Tensor | None = None) -> NearCopies | None:
    """Images that are nearly copies of each other, moved or not, if there are more of them than chance makes.

    Images are averaged over their channels and shrunk to 16x16 pixels at most; their own mean and what all images have
    in common are taken off. Two are alike when the rest, of one moved as suits best, correlates by more than 0.97 (of
    few images, see `levels`). That is so for copies that differ by noise of up to an eighth of the images' spread.

    Parameters
    ----------
    images : Tensor or StoredImages
        (n, channels, height, width).
    group : PointGroup
    among : Tensor, optional
        The numbers of the images to be compared; all of them by default.
    """
    among = torch.arange(len(images)) if among is None else among
    n, size = len(among), (min(images.shape[2], _SIDE), min(images.shape[3], _SIDE))
    if n < 2 or size[0] * size[1] < _FEWEST_PIXELS:
        return None
    known = _Sketches(images, group, among, size)
    wanted = levels(n)
    reach = (2 - 2 * min(wanted)) ** 0.5
    if n > _SAMPLED:
        shares = known.sampled_shares(list(wanted), reach)
        if all(share + 2 * error < wanted[level] for level, (share, error) in shares.items()):
            return None
    guard = max(_CHAIN * n, _FEW)
    first, second, correlations = known.pairs(min(wanted), reach, chain=(max(wanted), guard))
    chain = ""
    for level, noticeable in wanted.items():
        one, other = first[correlations > level], second[correlations > level]
        n_near = len(np.union1d(one, other))
        if n_near <= noticeable * n:
            continue
        largest = int(np.bincount(joined(n, [(one, other)])).max())
        if largest <= guard:
            return NearCopies(one, other, n_near)
        chain = (
            f"{n_near} or more of {n} images are nearly equal to others, but {largest} of them in one chain, which are "
            "no shots of one object: they are taken for independent. Pass groups=... if they are not."
        )
    if chain:
        warnings.warn(chain, stacklevel=3)
    return None


class _Sketches:
    """Small images without what all have in common, sorted along the direction in which they differ most.

    Near copies lie near each other, and so do their places along any direction that the group leaves alone.
    """

    def __init__(self, images: Tensor | StoredImages, group: PointGroup, among: Tensor, size: tuple[int, int]) -> None:
        self.images, self.group, self.among, self.size = images, group, among, size
        self.elements = pixel_elements(group)
        self._known: Tensor | None = None
        every = torch.arange(len(among))
        if isinstance(images, StoredImages):  # which are read once
            # not in pieces, between which freed memory would lie
            sketches = torch.empty(len(among), size[0] * size[1], dtype=torch.float32)
            for rows in every.split(at_once(images)):
                sketches[rows] = self._shrunk(rows)
            self._known = sketches
        n_pixels, chunks = size[0] * size[1], every.split(_AT_ONCE)
        average = torch.stack([self._move(torch.eye(n_pixels), g) for g in self.elements]).mean(0)  # over the group
        total, covariance = torch.zeros(n_pixels), torch.zeros(n_pixels, n_pixels)
        for rows in chunks:
            total += self._small(rows).sum(0)
        self.common = total / len(among) @ average
        for rows in chunks:
            own = self._rest(self._small(rows))
            covariance += own.T @ own
        direction = torch.linalg.eigh(average @ covariance @ average)[1][:, -1]
        along = torch.cat([self._rest(self._small(rows)) @ direction for rows in chunks])
        self.places, self.order = along.sort()

    def _shrunk(self, rows: Tensor) -> Tensor:
        grey = self.images[self.among[rows]].float().mean(1, keepdim=True)
        grey = F.adaptive_avg_pool2d(grey, self.size).flatten(1)
        grey = grey - grey.mean(1, keepdim=True)
        return grey / grey.abs().amax(1, keepdim=True).clamp_min(1e-12)

    def _small(self, rows: Tensor) -> Tensor:
        return self._shrunk(rows) if self._known is None else self._known[rows]

    def _move(self, rows: Tensor, g: int) -> Tensor:
        return transform_images(rows.unflatten(1, self.size), self.group, g).flatten(1)

    def _rest(self, rows: Tensor) -> Tensor:
        return F.normalize(rows - self.common, dim=1)

    def _compare(self, start: int, stop: int, begin: int, end: int, take: Callable[[Tensor, int], None]) -> None:
        """Give the correlations of some in order with others, of the best of all moves, (some, others), and where."""
        still = self._small(self.order[start:stop])
        moved = [self._rest(self._move(still, g)) for g in self.elements]
        for at in range(begin, end, 8 * _AT_ONCE):
            others = self._rest(self._small(self.order[at : min(at + 8 * _AT_ONCE, end)]))
            take(torch.stack([own @ others.T for own in moved]).amax(0), at)

    def sampled_shares(self, wanted: list[float], reach: float) -> dict[float, tuple[float, float]]:
        """The share of images that are alike with another, by each level, of some blocks of them, and its error."""
        n = len(self.order)
        starts = torch.linspace(0, n - _BLOCK, _SAMPLE // _BLOCK).long().tolist()
        best = []
        for start in starts:
            own, stop = torch.zeros(_BLOCK), start + _BLOCK
            begin = int(torch.searchsorted(self.places, self.places[start] - reach))
            end = int(torch.searchsorted(self.places, self.places[stop - 1] + reach, right=True))

            def take(alike: Tensor, at: int, start: int = start, own: Tensor = own) -> None:
                rows = torch.arange(start, start + _BLOCK)
                itself = rows[:, None] == torch.arange(at, at + alike.shape[1])
                torch.maximum(own, alike.masked_fill_(itself, -1.0).amax(1), out=own)

            self._compare(start, stop, begin, end, take)
            best.append(own)
        highest = torch.stack(best)
        shares = {level: (highest > level).double().mean(1) for level in wanted}
        return {level: (float(s.mean()), float(s.std()) * len(s) ** -0.5) for level, s in shares.items()}

    def pairs(
        self, least: float, reach: float, chain: tuple[float, float] = (2.0, np.inf)
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Pairs that are alike by more than a level, and by how much.

        No more are looked for once more images than are given are in one chain by a level that is given.
        """
        ends = torch.searchsorted(self.places, self.places + reach, right=True)
        found, correlations = [torch.zeros(2, 0, dtype=torch.int64)], [torch.zeros(0)]
        for start in range(0, len(self.order), _AT_ONCE):
            stop = min(start + _AT_ONCE, len(self.order))

            def take(alike: Tensor, at: int, start: int = start) -> None:
                pair = (alike > least).nonzero().T
                values, pair = alike[pair[0], pair[1]], pair + torch.tensor([[start], [at]])
                once = pair[0] < pair[1]
                found.append(self.order[pair[:, once]])
                correlations.append(values[once])
                if sum(map(len, correlations)) > _MOST_PAIRS:
                    forest, strengths = _forest(torch.cat(found, 1), torch.cat(correlations), len(self.order))
                    found[:], correlations[:] = [forest], [strengths]

            self._compare(start, stop, start, int(ends[stop - 1]), take)
            many = start // _AT_ONCE % 16 == 15 and sum(map(len, correlations)) > chain[1]
            if many and self._longest(found, correlations, chain[0]) > chain[1]:
                break
        first, second = torch.cat(found, 1).numpy()
        return first, second, torch.cat(correlations).numpy()

    def _longest(self, found: list[Tensor], correlations: list[Tensor], level: float) -> int:
        """The most images in one chain by a level."""
        one, other = torch.cat(found, 1)[:, torch.cat(correlations) > level].numpy()
        return int(np.bincount(joined(len(self.order), [(one, other)])).max())


def _forest(pairs: Tensor, correlations: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Of pairs those that join, at every level, what all of them join: the forest of the highest correlations."""
    one, other = pairs.numpy()
    tree = minimum_spanning_tree(coo_array((2.0 - correlations.double().numpy(), (one, other)), shape=(n, n)).tocsr())
    edges = tree.tocoo()
    kept = torch.from_numpy(np.stack([edges.row, edges.col]).astype(np.int64))
    return kept, torch.from_numpy((2.0 - edges.data).astype(np.float32))
