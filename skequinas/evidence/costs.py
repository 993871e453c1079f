"""What it costs to impose a symmetry: a difference of held-out scores, image by image, with its interval.

Where scores are zeros and ones, as accuracies are, few images may have another score with the symmetry than without,
and the variance of their differences tells little. So two more units are counted, one that lost and one that gained:
the interval of Bonett and Price for paired proportions, here for images with weights and in units as well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from skequinas.training.units import sums

__all__ = ["COVERAGE", "cost_with_interval", "not_inferior"]

COVERAGE = 0.95
"""Of the interval of a cost."""


def cost_with_interval(
    free: NDArray[np.float64],
    imposed: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
    units: NDArray[np.int64] | None = None,
) -> tuple[float, float, float]:
    """By how much the mean score falls when a symmetry is imposed, and the ends of its 95 % interval.

    Parameters
    ----------
    free, imposed : ndarray of shape (n,)
        The scores of all images, without the symmetry and with it.
    weights : ndarray of shape (n,), optional
        How much each image counts.
    units : ndarray of shape (n,), optional
        Which images are not independent of each other: a unit counts as one.

    Returns
    -------
    cost, low, high : float

    References
    ----------
    Bonett and Price, Adjusted Wald confidence interval for a difference of binomial proportions based on paired data,
    2012.
    """
    of_images = np.ones(len(free)) if weights is None else weights
    differences, sizes = sums(of_images * (free - imposed), units), sums(of_images, units)
    cost = float(differences.sum() / sizes.sum())
    if np.isin(free, (0.0, 1.0)).all() and np.isin(imposed, (0.0, 1.0)).all():
        usual = sizes.mean()
        sizes, differences = np.append(sizes, [usual, usual]), np.append(differences, [usual, -usual])
    middle = differences.sum() / sizes.sum()
    half = norm.ppf((1 + COVERAGE) / 2) * np.sqrt(((differences - middle * sizes) ** 2).sum()) / sizes.sum()
    return cost, float(min(middle - half, cost)), float(max(middle + half, cost))


def not_inferior(low: float, high: float, margin: float) -> float:
    """The p-value of "it costs the margin at least", from the interval of the cost: low, if it costs less."""
    error = (high - low) / (2 * norm.ppf((1 + COVERAGE) / 2))
    if not error > 0:
        return float(not low < margin)
    return float(norm.cdf(((low + high) / 2 - margin) / error))
