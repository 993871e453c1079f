r"""How small a break of a symmetry would have been seen, and which breaks the data rule out.

That a symmetry is not rejected says little unless a break of it would have been noticed. So a break is imagined, as
large as one likes, and asked about with the same network, images and test: a share of the images *break* a group K down
to a subgroup H if, moved by an element of K that H lacks, each of them looks to the network like an image of another
class: of the one whose images are most easily mistaken for its own (like any other image, where targets are numbers).
What the network says of such an image is known from the held-out images of that class. A network that cannot tell the
classes apart would notice no break, and that is what comes out. Neither would a network that hardly changes when images
are moved, whether it was built so or trained so on moved images: where outputs change by less than a tenth of their
variation between images, no break counts as seen. So the witness has to be free to break the symmetries, and trained on
images as they are.

Two numbers follow for every subgroup. The *smallest break* is the share of images for which the orbit test would reject
the group with a probability of 80 %. And the other way round, a group that is larger than the truth is broken, by
definition: if its statistic is smaller than a break of a fifth of the images would leave it, with a small p-value, then
such a break is ruled out, and the smaller group is not all the symmetry there is. Sums over images are taken as normal.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import softmax
from scipy.stats import norm
from torch import Tensor

from skequinas.groups import PointGroup, Subgroup
from skequinas.training.units import sums

__all__ = ["BROKEN_SHARE", "Breaks", "breaks", "rivals"]

BROKEN_SHARE = 0.2
"""A symmetry that is broken counts as broken by this share of the images at least."""
_LEVEL, _POWER = 0.01, 0.8
_SEEN = 0.1
"""Of the variation of the outputs between images, what moves have to change for a break to be seen at all."""
_FEWEST = 20
"""Sums over fewer units than these are not taken as normal."""


class Breaks(NamedTuple):
    """What is known of breaks of every subgroup.

    Parameters
    ----------
    smallest : dict
        The share of the images that would have to break a subgroup for the test to reject it with a probability of
        80 %, at the level 0.01 adjusted for the number of subgroups; infinite where all of them would not do.
    end_p_values : dict
        Of the hypothesis that a subgroup is all the symmetry there is, and every next larger one is broken by a fifth
        of the images or more.
    """

    smallest: dict[Subgroup, float]
    end_p_values: dict[Subgroup, float]


def rivals(probabilities: NDArray[np.float64] | None, targets: Tensor, rng: np.random.Generator) -> NDArray[np.int64]:
    """For every image another, of the class whose images are most easily mistaken for its own.

    Parameters
    ----------
    probabilities : ndarray of shape (n, n_classes) or None
        What the network says of the classes; None where there are none.
    targets : Tensor of shape (n, ...)
    rng : Generator

    Returns
    -------
    ndarray of shape (n,)
        Any image, where there are no classes.
    """
    n = len(targets)
    if probabilities is None:
        return (np.arange(n) + rng.integers(1, max(n, 2), size=n)) % n
    classes = targets.cpu().numpy()
    present = np.unique(classes)
    rows = {c: np.flatnonzero(classes == c) for c in present}
    chosen = rng.integers(n, size=n)
    for c in present:
        taken_for_it = {k: probabilities[rows[k], c].mean() for k in present if k != c}
        if taken_for_it:
            rival = rows[max(taken_for_it, key=lambda k: taken_for_it[k])]
            chosen[rows[c]] = rival[rng.integers(len(rival), size=len(rows[c]))]
    return chosen


def breaks(
    own: NDArray[np.float64],
    others: NDArray[np.float64],
    group: PointGroup,
    weights: NDArray[np.float64] | None = None,
    units: NDArray[np.int64] | None = None,
    changes: NDArray[np.float64] | None = None,
) -> Breaks:
    """Imagine breaks of all subgroups.

    Parameters
    ----------
    own : ndarray of shape (order, n)
        What the network says about the target of every image, given each copy of it, as logarithms.
    others : ndarray of shape (order, n)
        The same given each copy of its rival.
    group : PointGroup
    weights, units : ndarray of shape (n,), optional
        How much each image counts, and which are not independent of each other.
    changes : ndarray of shape (order,), optional
        How much the outputs change under each element, relative to how they vary between images.
    """
    number = len(group.subgroups) - 1
    smallest = dict.fromkeys(group.subgroups, math.inf)
    ends = dict.fromkeys(group.subgroups, 1.0)
    covers = {h: [k for k in group.subgroups if h in k.maximal_subgroups] for h in group.subgroups}
    for k in group.subgroups:
        if k.order == 1:
            continue
        found = [_Break(own, others, k, h, weights, units, changes) for h in k.maximal_subgroups]
        smallest[k] = max(one.smallest(_LEVEL / number) for one in found)
        for h, one in zip(k.maximal_subgroups, found, strict=True):
            ends[h] = min(ends[h], len(covers[h]) * one.p_value(BROKEN_SHARE))
    return Breaks(smallest, ends)


class _Break:
    """The orbit test's statistic of one group where a share of the units break it down to a subgroup of it."""

    def __init__(
        self,
        own: NDArray[np.float64],
        others: NDArray[np.float64],
        group: Subgroup,
        subgroup: Subgroup,
        weights: NDArray[np.float64] | None,
        units: NDArray[np.int64] | None,
        changes: NDArray[np.float64] | None,
    ) -> None:
        elements = np.array(group.elements)
        stays = np.isin(elements, subgroup.elements)
        kept = stays[:, None]
        factors = 1.0 if weights is None else weights
        whole = sums(factors * softmax(own[elements], axis=0), units)
        broken = sums(factors * softmax(np.where(kept, own[elements], others[elements]), axis=0), units)
        more = broken[0] - broken.mean(0)
        self.seen = changes is None or float(changes[elements[~stays]].mean()) >= _SEEN
        self.n_units = more.size
        self.excess = float((whole[0] - whole.mean(0)).sum())
        self.shift, self.squares = float(more.sum()), float((more**2).sum())
        self.variance, self.broken_variance = float(whole.var(0).sum()), float(broken.var(0).sum())

    def _error(self, share: float) -> float:
        return math.sqrt(max((1 - share) * self.variance + share * (1 - share) * self.squares, 0.0))

    def smallest(self, level: float) -> float:
        """The share that would be seen with the power."""

        def surplus(share: float) -> float:
            under_moves = math.sqrt((1 - share) * self.variance + share * self.broken_variance)
            critical = float(norm.isf(level)) * under_moves
            return share * self.shift - critical - float(norm.ppf(_POWER)) * self._error(share)

        if not self.seen or self.shift <= 0 or surplus(0.0) >= 0 or surplus(1.0) < 0:
            return math.inf
        return float(brentq(surplus, 0.0, 1.0, xtol=1e-4))

    def p_value(self, share: float) -> float:
        """Of the hypothesis that so large a share, or a larger one, break it."""
        error = self._error(share)
        if not self.seen or self.shift <= 0 or error == 0 or self.n_units < _FEWEST:
            return 1.0
        return float(norm.cdf((self.excess - share * self.shift) / error))
