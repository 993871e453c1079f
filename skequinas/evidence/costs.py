"""What it costs to impose a symmetry: a difference of held-out scores, image by image, with its interval.

Where scores are zeros and ones, as accuracies are, few images may have another score with the symmetry than without,
and the variance of their differences tells little. There the interval is Tango's for paired proportions: all costs that
his score test does not reject, whose variance is that under the hypothesis. With weights and units it is taken for as
many independent images of one weight as would tell the cost as surely, and no more than there are units.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm, t

from skequinas.training.units import sums

__all__ = ["COVERAGE", "Cost", "cost_with_interval", "not_inferior"]

COVERAGE = 0.95
"""Of the interval of a cost."""
_DEVIATIONS = float(norm.ppf((1 + COVERAGE) / 2))


class Cost(NamedTuple):
    """By how much a mean score falls.

    Parameters
    ----------
    cost, cost_low, cost_high : float
        With the ends of the 95 % interval.
    lost, won : float
        The share of the images whose score falls, and of those whose score rises.
    n_effective : float
        As many independent images of one weight would tell the cost as surely.
    """

    cost: float
    cost_low: float
    cost_high: float
    lost: float
    won: float
    n_effective: float

    @property
    def is_paired(self) -> bool:
        """Whether scores are zeros and ones, so that images lose and win one."""
        return abs(self.lost - self.won - self.cost) < 1e-9


def cost_with_interval(
    free: NDArray[np.float64],
    imposed: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
    units: NDArray[np.int64] | None = None,
) -> Cost:
    """By how much the mean score falls when a symmetry is imposed.

    Parameters
    ----------
    free, imposed : ndarray of shape (n,)
        The scores of all images, without the symmetry and with it.
    weights : ndarray of shape (n,), optional
        How much each image counts.
    units : ndarray of shape (n,), optional
        Which images are not independent of each other: a unit counts as one at most.

    Returns
    -------
    Cost

    References
    ----------
    Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design,
    1998.
    """
    of_images, differences = np.ones(len(free)) if weights is None else weights, free - imposed
    fallen, sizes = sums(of_images * differences, units), sums(of_images, units)
    cost = float(fallen.sum() / sizes.sum())
    error = float(np.sqrt(((fallen - cost * sizes) ** 2).sum()) / sizes.sum())
    n = float(sizes.sum() ** 2 / (sizes**2).sum())  # as many units of one weight
    lost, won = (float(np.average(np.sign(differences) == sign, weights=of_images)) for sign in (1, -1))
    if not (np.isin(free, (0.0, 1.0)).all() and np.isin(imposed, (0.0, 1.0)).all()):
        if n <= 1 + 1e-9:
            return Cost(cost, -math.inf, math.inf, lost, won, n)
        half = float(t.ppf((1 + COVERAGE) / 2, n - 1)) * error * math.sqrt(n / (n - 1))
        return Cost(cost, cost - half, cost + half, lost, won, n)
    if error > 0:
        n = min(n, (lost + won - cost**2) / error**2)
    score = partial(_score, lost, won, n)
    low = brentq(lambda c: score(c) - _DEVIATIONS, -1.0, cost) if cost > -1 else -1.0
    high = brentq(lambda c: score(c) + _DEVIATIONS, cost, 1.0) if cost < 1 else 1.0
    return Cost(cost, float(low), float(high), lost, won, n)


def _score(lost: float, won: float, n: float, cost: float) -> float:
    """Tango's statistic of the hypothesis that the cost is so large, from the shares of those who lose and win."""
    half = 2 - lost + won
    linear, constant = half * cost - lost - won, -won * cost * (1 - cost)
    likeliest = (math.sqrt(max(linear**2 - 8 * constant, 0.0)) - linear) / 4  # of those who win, if it is so large
    variance = max(2 * likeliest + cost * (1 - cost), 0.0) / n
    difference = lost - won - cost
    if variance == 0:
        return math.copysign(1e6, difference) if difference else 0.0
    return difference / math.sqrt(variance)


def not_inferior(cost: Cost, margin: float) -> float:
    """The p-value of "it costs the margin at least".

    Parameters
    ----------
    cost : Cost
    margin : float
        Above 0.

    Returns
    -------
    float
        By Tango's score test where scores are zeros and ones (at least the exact probability that none loses, if none
        does), else by a t-test.
    """
    if cost.is_paired:
        if margin >= 1:
            return 0.0
        p_value = float(norm.cdf(_score(cost.lost, cost.won, cost.n_effective, margin)))
        return p_value if cost.lost else max(p_value, (1 - margin) ** cost.n_effective)
    if math.isinf(cost.cost_high) or math.isnan(cost.cost):
        return 1.0
    degrees = cost.n_effective - 1
    error = (cost.cost_high - cost.cost) / float(t.ppf((1 + COVERAGE) / 2, degrees))
    if not error > 0:
        return float(not cost.cost < margin)
    return float(t.cdf((cost.cost - margin) / error, degrees))
