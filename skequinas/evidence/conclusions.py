"""What follows from evidence: verdicts, the groups that are left, and all of it in a few sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from operator import and_

from skequinas.evidence.verdict import (
    UNINFORMED,
    Evidence,
    accepted,
    confidence_set,
    indistinct,
    largest_accepted,
    level_band,
)
from skequinas.evidence.words import in_words, not_in_words
from skequinas.groups import PointGroup

__all__ = ["Conclusions"]


_FEW_BATCHES = 50
"""Fewer mini-batches than these are too short a training: the next order of the rows may give another verdict."""


class Conclusions:
    """Base of `LearnedSymmetry`: what follows from the evidence, and how it is printed."""

    search_group: str
    group: str
    constraints: Mapping[str, str]
    evidence: Mapping[str, Evidence] | None
    level: float
    regression: bool
    remark: str
    n_batches: int | None
    averaged: bool
    margin: float | None

    @property
    def verdicts(self) -> dict[str, str]:
        """From the name of every subgroup to "accepted" or "rejected"; empty without evidence."""
        if self.evidence is None:
            return {}
        allowed = {h.name for h in accepted(self._group, self.evidence, self.level, self.margin)}
        return {name: "accepted" if name in allowed else "rejected" for name in self.evidence}

    @property
    def _group(self) -> PointGroup:
        return PointGroup.from_name(self.search_group)

    @property
    def streams(self) -> tuple[str, ...]:
        """What each stream keeps by itself, whatever the others do; empty for networks without streams."""
        layers = [constraint.split("/") for constraint in self.constraints.values()]
        if len(layers[0]) < 2:
            return ()
        each = zip(*layers, strict=True)
        return tuple(reduce(and_, (self._group.subgroup(name) for name in own)).name for own in each)

    @property
    def indistinct(self) -> tuple[str, ...]:
        """The groups that the data cannot tell apart, the verdict first; empty without evidence."""
        if self.evidence is None:
            return ()
        return tuple(h.name for h in indistinct(self._group, self.evidence, self.level, self.margin))

    @property
    def confidence_set(self) -> tuple[str, ...]:
        """The groups that may be all the symmetry that the task has, with `confidence`, the verdict by evidence first.

        Those that the data reject are left out, and those with a next larger group that is not rejected and an
        `Evidence.end_p_value` of at most the level, which rules out that a fifth of the images break larger groups.
        Empty without evidence.
        """
        if self.evidence is None:
            return ()
        names = [h.name for h in confidence_set(self._group, self.evidence, self.level)]
        called = largest_accepted(self._group, self.evidence, self.level)
        return tuple(sorted(names, key=lambda name: name != called.name))

    @property
    def confidence(self) -> float:
        """That of `confidence_set`: 1 minus twice the level."""
        return 1 - 2 * self.level

    @property
    def informed(self) -> bool:
        """Whether the network that was asked could predict held-out targets better than chance."""
        return self.evidence is None or self.evidence["C1"].chance_p_value <= UNINFORMED

    def __str__(self) -> str:
        lines = [self._verdict(), *self._reasons(), self._doubt()]
        if self.averaged:
            lines.append(
                f"The model is an ordinary network, trained on images moved by {self.group} and averaged over them."
            )
        return "\n".join(lines)

    __repr__ = __str__

    def _verdict(self) -> str:
        """The line on the symmetry."""
        because = f" ({self.remark})" if self.remark else ""
        return f"{self.search_group} -> {self.group}: {self._verdict_in_words()}{because}."

    def _verdict_in_words(self) -> str:
        group = self._group
        if group.order == 1:
            return "no symmetry was looked for"
        built = in_words(group.subgroup(self.group))
        model = f"the model is built to look the same under {built}" if built else "no symmetry is built into the model"
        if self.evidence is None:
            return model
        if not self.informed:
            return f"nothing was learned about the symmetry of the task; {model}"
        called = group.subgroup(self.indistinct[0])
        same, different = in_words(called), not_in_words(called)
        if self.margin is not None:
            cheap = f"to look the same under {same} costs less than {self._amount(self.margin)}"
            none = f"no symmetry was shown to cost less than {self._amount(self.margin)}"
            return f"{model}; {cheap if same else none}"
        task = f"the task looks the same under {same}" if same else f"the task does not look the same under {different}"
        if same and different:
            task += f", not under {different}"
        return task if called.name == self.group else f"{model}; {task}"

    def _reasons(self) -> list[str]:
        """The line on the evidence: what the learned group costs, and what the next larger one would."""
        if self.evidence is None:
            return ["The data were not tested for symmetries."]
        group = self._group
        learned = group.subgroup(self.group)
        evidence, name = self.evidence, "squared error" if self.regression else "error"
        larger = [h.name for h in group.subgroups if learned in h.maximal_subgroups]
        if not larger:
            own, free, chance = self._cost(self.group), self._cost("C1"), self._chance(self.group)
            cost = self._at_most(self.group)
            return [f"The held-out {name} is {own} with {self.group} imposed, {free} without ({chance}).{cost}"]
        least = min(larger, key=lambda name: evidence[name].loss_rise)
        verb = "rises" if evidence[least].score < evidence[self.group].score else "goes"
        free = (
            " It is broken, but so slightly that imposing it costs nothing." if evidence[least].loss_rise <= 0 else ""
        )
        return [
            f"The held-out {name} {verb} from {self._cost(self.group)} to {self._cost(least)} when {least}, the next "
            f"larger group, is imposed ({self._chance(least)}).{free}{self._at_most(self.group)}"
        ]

    def _at_most(self, name: str) -> str:
        """A sentence on what a group costs at most, where one is imposed."""
        assert self.evidence is not None
        high = self.evidence[name].cost_high
        if name == "C1" or not math.isfinite(high):
            return ""
        if high <= 0:
            return f" To impose {name} costs nothing (95 %)."
        return f" To impose {name} costs at most {self._amount(high)} (95 %)."

    def _amount(self, score: float) -> str:
        """A difference of scores in words."""
        if self.regression:
            return f"{score:.2g} of the variance" if score < 0.001 else f"{score:.3f} of the variance"
        return f"{100 * score:.2g} points" if score < 0.001 else f"{100 * score:.1f} points"

    def _chance(self, name: str) -> str:
        """The p-value in words."""
        assert self.evidence is not None
        p_value = self.evidence[name].p_value
        return f"p {'< 0.001' if p_value < 0.001 else f'= {p_value:.2g}'} if the task has {name}"

    def _cost(self, name: str) -> str:
        """The error with a group imposed."""
        assert self.evidence is not None
        error = 1 - self.evidence[name].score
        return f"{error:.3f} of the variance" if self.regression else f"{100 * error:.1f} %"

    def _doubt(self) -> str:
        """The line on what the data leave open."""
        if self.evidence is None:
            layers = ", ".join(f"{layer} {constraint}" for layer, constraint in self.constraints.items())
            streams = f" Streams that keep a symmetry each: {', '.join(self.streams)}." if self.streams else ""
            return f"Constraints: {layers}.{streams}"
        if self.search_group == "C1":
            return "Constraints: all layers C1."
        if not self.informed:
            return (
                "The network could not predict held-out targets better than chance, so nothing speaks for or against "
                "any symmetry: more images or longer training are needed."
            )
        return self._doubt_by_level() + self._shortness()

    def _shortness(self) -> str:
        """A sentence where the network that was asked was trained too little for a verdict that lasts."""
        if self.n_batches is None or self.n_batches >= _FEW_BATCHES:
            return ""
        return f" The network that was asked was trained on {self.n_batches} mini-batches only: train for longer."

    def _doubt_by_level(self) -> str:
        assert self.evidence is not None
        called, *others = self.indistinct
        low, high = level_band(self.level)
        if others:
            if len(others) > 4:
                others = [*others[:3], f"{len(others) - 3} other groups"]
            names = f"{', '.join([called, *others[:-1]])} and {others[-1]}"
            return f"In doubt: at levels from {low:g} to {high:g} the data do not settle between {names}."
        rejected = [e for name, e in self.evidence.items() if self.verdicts[name] == "rejected"]
        anytime = self.margin is None and rejected and all(e.e_value >= 1 / low for e in rejected)
        afterwards = ", also at one that is chosen afterwards" if anytime else ""
        return f"The answer is the same at every level from {low:g} to {high:g}{afterwards}.{self._proof(called)}"

    def _proof(self, called: str) -> str:
        """Sentences on what speaks for a group that is not rejected."""
        assert self.evidence is not None
        share = self.evidence[called].smallest_break
        if called == "C1" or self.margin is not None:
            return ""
        if math.isnan(share):
            return f" Nothing speaks against {called}; that is no proof of it."
        if math.isinf(share):
            return f" Nothing speaks against {called}, but this network would not have seen every break of it."
        percent = f"{100 * share:.0f}" if share > 0.095 else f"{100 * share:.1f}"
        how = "power 80 %" if self.level == 0.01 else "power 80 %, level 0.01"
        seen = f"a break of it in {percent} % of the images would have been seen ({how})"
        names = ", ".join(self.confidence_set)
        sure = f"{100 * self.confidence:g} % confidence set if breaks are of 20 % or more: {names}"
        return f" Nothing speaks against {called}, and {seen}; {sure}."
