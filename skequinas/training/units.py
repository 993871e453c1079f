"""What counts once: images that are not independent of each other are one unit in every split and every test.

Units are numbers, one for each image, from 0 in the order of their first image; None stands for images that are all
independent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["joined", "members", "numbered", "parts", "sums"]

Units = NDArray[np.int64]


def numbered(labels: NDArray[np.generic]) -> Units:
    """Any labels as units: equal ones are one, numbered by the first of each."""
    _, first, codes = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    units: Units = place[codes.ravel()]
    return units


def joined(n: int, pairs: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Units:
    """The units of n images when pairs of them, (first, second), belong together."""
    rows, columns = (np.concatenate([np.zeros(0, np.int64), *(pair[i] for pair in pairs)]) for i in range(2))
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(n, n))
    return numbered(connected_components(graph, directed=False)[1])


def members(units: Units) -> list[NDArray[np.int64]]:
    """The images of every unit."""
    order = np.argsort(units, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(units[order])) + 1)


def parts(n: int, units: Units | None, n_parts: int) -> list[NDArray[np.int64]]:
    """The numbers of n images in so many parts, none of which divides a unit."""
    if units is None:
        return np.array_split(np.arange(n), n_parts)
    groups = members(units)
    return [np.sort(np.concatenate(groups[p[0] : p[-1] + 1])) for p in np.array_split(np.arange(len(groups)), n_parts)]


def sums(values: NDArray[np.float64], units: Units | None) -> NDArray[np.float64]:
    """Sums over the images of every unit, along the last axis."""
    if units is None:
        return values
    order = np.argsort(units, kind="stable")
    starts = np.flatnonzero(np.diff(units[order], prepend=-1))
    total: NDArray[np.float64] = np.add.reduceat(values[..., order], starts, axis=-1)
    return total
