r"""Evidence that may be looked at after every batch: the orbit's likelihood ratios as e-values.

If images together with their targets look alike when they are moved by H, the copy of an image that was observed is any
of its orbit, with equal probability. Then

.. math:: e(x, y) = \frac{p(y | x)}{\frac{1}{|H|} \sum_{h \in H} p(y | h x)}

has the mean 1, given the orbit, whatever the network: it is an e-value, and so is the product over images that are
independent of each other (a unit counts as one image, with the product of its probabilities). An e-value of 100 or more
has at most the probability 1/100 (Markov), and that a product of them ever reaches 100, however often one looks, has
too (Ville). A network's confidence is not known beforehand, so the products at all scales of it are averaged.

Several hypotheses are asked at once. The least mean of any set of hypotheses that contains one of them is its e-value
adjusted for them all: the largest of those of true hypotheses has the mean 1 at most, so that a level may be chosen
after the data were seen. A group is spoken against by what speaks against any of its subgroups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from skequinas.groups import PointGroup, Subgroup
from skequinas.training.units import sums

__all__ = ["adjusted_e_values", "log_e_values", "mean_of_products"]

Name = TypeVar("Name")


def log_e_values(
    log_probabilities: NDArray[np.float64],
    group: PointGroup,
    weights: NDArray[np.float64] | None = None,
    units: NDArray[np.int64] | None = None,
) -> dict[Subgroup, NDArray[np.float64]]:
    """The logarithms of the products over all images, at every scale of the network's confidence.

    Parameters
    ----------
    log_probabilities : ndarray of shape (n_scales, order, n)
        What the network says about the targets of every image, given each copy.
    group : PointGroup
    weights : ndarray of shape (n,), optional
        Powers of the probabilities.
    units : ndarray of shape (n,), optional

    Returns
    -------
    dict
        From the subgroups, without the trivial one, to arrays of shape (n_scales,).
    """
    logs = sums(log_probabilities if weights is None else weights * log_probabilities, units)
    return {
        h: (np.log(h.order) + logs[:, 0] - logsumexp(logs[:, list(h.elements)], axis=1)).sum(1)
        for h in group.subgroups
        if h.order > 1
    }


def mean_of_products(log_e: NDArray[np.float64]) -> float:
    """The mean over the scales, which is an e-value again; the greatest number where it is larger than that."""
    return float(np.exp(min(logsumexp(log_e) - np.log(len(log_e)), np.log(np.finfo(float).max))))


def adjusted_e_values(e_values: Mapping[Name, float]) -> dict[Name, float]:
    """Each adjusted for the number of all: the least mean of any set that contains it.

    References
    ----------
    Vovk and Wang, E-values: calibration, combination and applications, 2021.
    """
    ascending = np.sort(np.array(list(e_values.values()), dtype=float))
    with np.errstate(over="ignore"):
        least = np.concatenate([[0.0], np.cumsum(ascending)])
    sizes = np.arange(1, len(ascending) + 1)

    def adjusted(value: float) -> float:
        n_below = int(np.searchsorted(ascending, value))  # others that are larger only raise a mean
        with np.errstate(over="ignore"):
            return float(np.min(value / sizes[: n_below + 1] + least[: n_below + 1] / sizes[: n_below + 1]))

    return {name: adjusted(value) for name, value in e_values.items()}
