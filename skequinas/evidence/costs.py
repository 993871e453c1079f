"""What it costs to impose a symmetry: a difference of held-out scores, image by image, with its interval.

Where scores are zeros and ones, as accuracies are, few images may have another score with the symmetry than without,
and the variance of their differences tells little. There the interval is Tango's for paired proportions: all costs that
his score test does not reject, whose variance is that under the hypothesis. With weights and units it is taken for as
many independent images of one weight as would tell the cost as surely.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from skequinas.training.units import sums

__all__ = ["COVERAGE", "cost_with_interval", "not_inferior"]

COVERAGE = 0.95
"""Of the interval of a cost."""
_DEVIATIONS = float(norm.ppf((1 + COVERAGE) / 2))


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
    Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design,
    1998.
    """
    of_images, differences = np.ones(len(free)) if weights is None else weights, free - imposed
    lost, sizes = sums(of_images * differences, units), sums(of_images, units)
    cost = float(lost.sum() / sizes.sum())
    error = float(np.sqrt(((lost - cost * sizes) ** 2).sum()) / sizes.sum())
    if not (np.isin(free, (0.0, 1.0)).all() and np.isin(imposed, (0.0, 1.0)).all()):
        return cost, cost - _DEVIATIONS * error, cost + _DEVIATIONS * error
    losers, winners = (float(np.average(differences == sign, weights=of_images)) for sign in (1, -1))
    n = float(of_images.sum() ** 2 / (of_images**2).sum())  # as many of one weight
    n_units = float(sizes.sum() ** 2 / (sizes**2).sum())
    spread = losers + winners - cost**2
    n = min(n, spread / error**2) if error > 0 else n_units
    score = partial(_score, losers, winners, n)
    low = brentq(lambda c: score(c) - _DEVIATIONS, -1.0, cost) if cost > -1 else -1.0
    high = brentq(lambda c: score(c) + _DEVIATIONS, cost, 1.0) if cost < 1 else 1.0
    return cost, float(low), float(high)


def _score(losers: float, winners: float, n: float, cost: float) -> float:
    """Tango's statistic of the hypothesis that the cost is so large, from the shares of those who lose and win."""
    half = 2 - losers + winners
    linear, constant = half * cost - losers - winners, -winners * cost * (1 - cost)
    won = (math.sqrt(max(linear**2 - 8 * constant, 0.0)) - linear) / 4  # most likely, if the cost is so large
    variance = max(2 * won + cost * (1 - cost), 0.0) / n
    difference = losers - winners - cost
    if variance == 0:
        return math.copysign(1e6, difference) if difference else 0.0
    return difference / math.sqrt(variance)


def not_inferior(cost: float, low: float, high: float, margin: float) -> float:
    """The p-value of "it costs the margin at least", from the cost and its interval.

    It is that of the test that the interval belongs to where the margin is its end, and nearly so elsewhere.
    """
    error = (high - cost if margin > cost else cost - low) / _DEVIATIONS
    if not error > 0:
        return float(not cost < margin)
    return float(norm.cdf((cost - margin) / error))
