"""How far two ways to share weights are from each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from skequinas.groups.points import Subgroup

__all__ = ["partition_distance"]


def partition_distance(first: Subgroup | ArrayLike, second: Subgroup | ArrayLike) -> float:
    """How many items would have to change their part for two partitions to be the same, over the most that could.

    A subgroup H divides its group into orbits, the right cosets of H: the places of a kernel that share a weight.

    Parameters
    ----------
    first, second : Subgroup, or array-like of shape (n,)
        Subgroups of one group, or for every item a label of its part.

    Returns
    -------
    float
        From 0, where they are the same up to the names of parts, to 1, where all stands together in one and apart in
        the other. It is a metric.

    References
    ----------
    Yeh, Hu, Hasegawa-Johnson and Schwing, Equivariance Discovery by Learned Parameter-Sharing, AISTATS 2022.

    Examples
    --------
    >>> from skequinas.groups import PointGroup, partition_distance
    >>> d4 = PointGroup.from_name("D4")
    >>> [round(partition_distance(d4.whole, d4.subgroup(name)), 2) for name in ("D4", "C4", "C2", "C1")]
    [0.0, 0.57, 0.86, 1.0]
    """
    if isinstance(first, Subgroup) and isinstance(second, Subgroup) and first.group != second.group:
        raise ValueError(f"first={first!r} and second={second!r} must be subgroups of one group.")
    a, b = (_labels(own) for own in (first, second))
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"first has shape {a.shape} and second {b.shape}; both must hold a label for each item, (n,).")
    both = np.zeros((a.max() + 1, b.max() + 1), dtype=np.int64)
    np.add.at(both, (a, b), 1)
    kept = int(both[linear_sum_assignment(both, maximize=True)].sum())
    return (len(a) - kept) / max(1, len(a) - 1)


def _labels(partition: Subgroup | ArrayLike) -> NDArray[np.int64]:
    if not isinstance(partition, Subgroup):
        labels = np.asarray(partition)
        return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    found = np.empty(partition.group.order, dtype=np.int64)
    for number, coset in enumerate(partition.right_cosets):
        found[list(coset)] = number
    return found
