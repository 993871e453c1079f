"""From p-values to a verdict: what is rejected at which level, and what the data leave open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from skequinas.evidence.costs import Cost, not_inferior
from skequinas.groups import PointGroup, Subgroup

__all__ = [
    "UNINFORMED",
    "Evidence",
    "accepted",
    "confidence_set",
    "evidence_from_json",
    "holm",
    "indistinct",
    "largest_accepted",
    "level_band",
]

Name = TypeVar("Name")

UNINFORMED = 0.05
"""A network whose outputs tell nothing about the targets with a p-value above this has nothing to say."""


class Evidence(NamedTuple):
    """What held-out images say about one subgroup.

    Parameters
    ----------
    score, score_error : float
        Accuracy, or 1 minus the mean squared error of the scaled targets, when the network's outputs are averaged over
        the subgroup, and its standard error.
    loss_rise, loss_rise_error : float
        By how much that raises the loss, and the standard error of it, image by image.
    p_value : float
        Of the hypothesis that images and targets together are alike when moved, adjusted for the number of subgroups;
        never larger than that of a smaller group.
    raw_p_value : float
        The p-value of the test of this subgroup alone.
    chance_p_value : float
        Of the hypothesis that the outputs, not averaged, tell nothing about the targets, by 199 random permutations:
        the same for every subgroup.
    cost, cost_low, cost_high : float
        By how much the score falls when the subgroup is imposed by averaging (negative: it rises), and the ends of its
        95 % interval, image by image, see `skequinas.evidence.costs`. NaN in files of before, as all that follows.
    lost, won : float
        The share of the images whose score falls by it, and of those whose score rises.
    n_effective : float
        As many independent images would tell the cost as surely.
    e_value : float
        Evidence against the subgroup that may be looked at at any time, adjusted for the number of subgroups; it is
        rejected at every level down to 1 divided by it, also one that is chosen afterwards, see
        `skequinas.evidence.evalues`.
    smallest_break : float
        The share of the images that would have to break the subgroup for the test to reject it with a probability of
        80 %, see `skequinas.evidence.breaks`; infinite where all of them would not do.
    end_p_value : float
        Of the hypothesis that the subgroup is all the symmetry there is, and every next larger one is broken by a fifth
        of the images or more.
    """

    score: float
    score_error: float
    loss_rise: float
    loss_rise_error: float
    p_value: float
    raw_p_value: float
    chance_p_value: float
    cost: float = math.nan
    cost_low: float = math.nan
    cost_high: float = math.nan
    lost: float = math.nan
    won: float = math.nan
    n_effective: float = math.nan
    e_value: float = math.nan
    smallest_break: float = math.nan
    end_p_value: float = math.nan

    def may_cost(self, margin: float) -> float:
        """The p-value of "to impose it costs the margin at least"."""
        own = (self.cost, self.cost_low, self.cost_high, self.lost, self.won, self.n_effective)
        return not_inferior(Cost(*own), margin)


def evidence_from_json(values: Mapping[str, list[float]], group: PointGroup) -> dict[str, Evidence]:
    """Evidence that was written to a file.

    Raises
    ------
    ValueError
        When it is not that of all subgroups of the group, in numbers.
    """
    names = [h.name for h in group.subgroups]
    if sorted(values) != sorted(names):
        raise ValueError(f"evidence for {', '.join(map(str, values))} is not that of the subgroups of {group.name}")
    return {name: Evidence(*(float(v) for v in values[name])) for name in values}


def accepted(
    group: PointGroup, evidence: Mapping[str, Evidence], level: float, margin: float | None = None
) -> list[Subgroup]:
    """The subgroups that may be imposed, the trivial one among them.

    Parameters
    ----------
    group : PointGroup
    evidence : mapping
    level : float
    margin : float, optional
        Where it is given, costs decide: accepted is what has been shown to cost less than the margin, at the level,
        adjusted for the number of subgroups (Holm), by a network that knows more than chance. Otherwise what the orbit
        test does not reject.
    """
    if margin is None:
        return [h for h in group.subgroups if h.order == 1 or evidence[h.name].p_value > level]
    if evidence["C1"].chance_p_value > UNINFORMED:
        return [group.trivial]
    p_values = holm({h: evidence[h.name].may_cost(margin) for h in group.subgroups if h.order > 1})
    return [h for h in group.subgroups if h.order == 1 or p_values[h] <= level]


def largest_accepted(
    group: PointGroup, evidence: Mapping[str, Evidence], level: float, margin: float | None = None
) -> Subgroup:
    """The largest subgroup that may be imposed; of several as large, the one with the lowest loss."""
    return min(accepted(group, evidence, level, margin), key=lambda h: (-h.order, evidence[h.name].loss_rise))


def confidence_set(group: PointGroup, evidence: Mapping[str, Evidence], level: float) -> list[Subgroup]:
    """The groups that may be all the symmetry there is, with a confidence of 1 - 2 ``level``.

    Left out are groups that are rejected at the level, and those with a next larger group that is not and an
    `Evidence.end_p_value` of at most the level. The truth is rejected with a probability of the level at most, and left
    out for the second reason with another, if larger symmetries are broken by a fifth of the images or more.
    """
    kept = accepted(group, evidence, level)
    larger = {h: [k for k in kept if h in k.maximal_subgroups] for h in kept}
    return [h for h in kept if not larger[h] or not evidence[h.name].end_p_value <= level]


def level_band(level: float) -> tuple[float, float]:
    """The levels, about ten times lower and higher, at which the verdict should be the same."""
    return min(level, max(level / 10, 0.001)), max(level, min(10 * level, 0.2))


def indistinct(
    group: PointGroup, evidence: Mapping[str, Evidence], level: float, margin: float | None = None
) -> list[Subgroup]:
    """The groups that the data cannot tell apart: the largest accepted, and others that might as well be the verdict.

    These are all groups that are accepted, and contained in no other that is, at the level or at either end of its
    band.
    """
    found = [largest_accepted(group, evidence, level, margin)]
    for one in (level, *level_band(level)):
        allowed = accepted(group, evidence, one, margin)
        found += [h for h in allowed if not any(h < k for k in allowed)]
    return list(dict.fromkeys(found))


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Holm's p-values: that any of them is at most the level by chance has at most the probability of the level."""
    order = sorted(p_values, key=p_values.__getitem__)
    scaled = [(len(order) - i) * p_values[name] for i, name in enumerate(order)]
    return dict(zip(order, np.minimum(np.maximum.accumulate(scaled), 1.0).tolist(), strict=True)) if order else {}
