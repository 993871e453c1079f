"""From p-values to a verdict: what is rejected at which level, and what the data leave open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from skequinas.groups import PointGroup, Subgroup

__all__ = ["UNINFORMED", "Evidence", "evidence_from_json", "holm", "indistinct", "largest_accepted", "level_band"]

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
    """

    score: float
    score_error: float
    loss_rise: float
    loss_rise_error: float
    p_value: float
    raw_p_value: float
    chance_p_value: float


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


def largest_accepted(group: PointGroup, evidence: Mapping[str, Evidence], level: float) -> Subgroup:
    """The largest subgroup that is not rejected at the level; of several as large, the one with the lowest loss."""
    accepted = [h for h in group.subgroups if h.order == 1 or evidence[h.name].p_value > level]
    return min(accepted, key=lambda h: (-h.order, evidence[h.name].loss_rise))


def level_band(level: float) -> tuple[float, float]:
    """The levels, about ten times lower and higher, at which the verdict should be the same."""
    return min(level, max(level / 10, 0.001)), max(level, min(10 * level, 0.2))


def indistinct(group: PointGroup, evidence: Mapping[str, Evidence], level: float) -> list[Subgroup]:
    """The groups that the data cannot tell apart: the largest accepted, and others that might as well be the verdict.

    These are all groups that are accepted, and contained in no other that is, at the level or at either end of its
    band.
    """
    found = [largest_accepted(group, evidence, level)]
    for one in (level, *level_band(level)):
        accepted = [h for h in group.subgroups if h.order == 1 or evidence[h.name].p_value > one]
        found += [h for h in accepted if not any(h < k for k in accepted)]
    return list(dict.fromkeys(found))


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Holm's p-values: that any of them is at most the level by chance has at most the probability of the level."""
    order = sorted(p_values, key=p_values.__getitem__)
    scaled = [(len(order) - i) * p_values[name] for i, name in enumerate(order)]
    return dict(zip(order, np.minimum(np.maximum.accumulate(scaled), 1.0).tolist(), strict=True)) if order else {}
