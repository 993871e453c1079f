"""What was learned about the symmetry of a task: in a few lines, in tables, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from skequinas.evidence.verdict import UNINFORMED, Evidence, indistinct, level_band
from skequinas.evidence.words import in_words, not_in_words
from skequinas.groups import PointGroup

__all__ = ["LearnedSymmetry"]


_FEW_BATCHES = 50
"""Fewer mini-batches than these are too short a training: the next order of the rows may give another verdict."""


@dataclass(frozen=True, eq=False)
class LearnedSymmetry:
    """The symmetry that a fitted model has, its layers' constraints, the evidence for it, and what was measured.

    Printed, it is three lines: the symmetry, the evidence, and the doubt; and a fourth one where the model has its
    symmetry from averaging. `to_frame` and `to_dict` give everything;
    `SymmetryDisplay` draws it.

    Parameters
    ----------
    search_group : str
        The group in which the search looked.
    group : str
        The group that leaves the fitted function alone, by constraints or by averaging: its value for an image cannot
        change under the elements of this group, but for those that the pixel grid cannot do exactly, such as turns by
        45 degrees; how much it does then stands in ``measured_change``.
    constraints : dict
        From the name of each layer ("layer 1", ..., "head") to the name of its constraint.
    measured_change : dict
        From the name of each element of the search group to how much the output changes when the images are moved by
        it, relative to how much it varies between images: root mean square over up to 512 of the images given to
        ``fit`` (with averaging, over fewer: 512 divided by the order of the group), those of the validation part where
        there is one. 0 is no change; about 1.4 is as different as another image's output; NaN where an interruption
        left it unmeasured. Elements that the pixel grid cannot do exactly move images by interpolation, whose traces
        count too.
    layer_weights : dict or None
        After searches with mixed layers or residuals: from the name of each layer to a dict with the learned share of
        every subgroup.
    evidence : dict or None
        From the name of every subgroup to its `Evidence`: the held-out score of a network that is free to break all
        symmetries when it is averaged over the subgroup, and the p-value of "the task has this symmetry" (images and
        targets together look alike when the images are moved). None after searches without such a network.
    level : float, default=0.01
        Symmetries with a p-value of at most this are rejected.
    lie_derivative : float
        How fast the output changes when the images begin to turn: as ``measured_change``, for each radian (Gruver et
        al., The Lie derivative for measuring learned equivariance, 2022).
    effective_invariance : dict or None
        Classifiers: from the name of each element to the mean, over images, of the geometric mean of the two
        confidences where the predicted class is the same, else 0 (Deng et al., On the strong correlation between
        model invariance and generalization, 2022). No labels are used.
    layer_distances : dict
        From the name of each layer to a dict: for every larger group than its constraint, the length of what the kernel
        lacks to obey it, relative to the kernel's own. 0 would be no more than a name; 1 is as far as can be.
    share_history : dict or None
        The same in the course of the training, a list for each subgroup of each layer.
    regression : bool, default=False
        Whether the targets are numbers.
    remark : str, default=""
        Why less was considered than the user's group, if it was.
    n_batches : int or None, default=None
        On how many mini-batches the network that was asked had been trained.
    averaged : bool, default=False
        Whether the model has its symmetry from averaging an ordinary network over moved images, not by constraints.
    """

    search_group: str
    group: str
    constraints: Mapping[str, str]
    measured_change: Mapping[str, float]
    layer_weights: Mapping[str, Mapping[str, float]] | None = None
    evidence: Mapping[str, Evidence] | None = None
    level: float = 0.01
    lie_derivative: float = math.nan
    effective_invariance: Mapping[str, float] | None = None
    layer_distances: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    share_history: Mapping[str, Mapping[str, Sequence[float]]] | None = None
    regression: bool = False
    remark: str = ""
    n_batches: int | None = None
    averaged: bool = False

    @property
    def verdicts(self) -> dict[str, str]:
        """From the name of every subgroup to "accepted" or "rejected"; empty without evidence."""
        if self.evidence is None:
            return {}
        return {n: "accepted" if n == "C1" or e.p_value > self.level else "rejected" for n, e in self.evidence.items()}

    @property
    def indistinct(self) -> tuple[str, ...]:
        """The groups that the data cannot tell apart, the verdict first; empty without evidence."""
        if self.evidence is None:
            return ()
        return tuple(h.name for h in indistinct(PointGroup.from_name(self.search_group), self.evidence, self.level))

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
        group = PointGroup.from_name(self.search_group)
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
        task = f"the task looks the same under {same}" if same else f"the task does not look the same under {different}"
        if same and different:
            task += f", not under {different}"
        return task if called.name == self.group else f"{model}; {task}"

    def _reasons(self) -> list[str]:
        """The line on the evidence: what the learned group costs, and what the next larger one would."""
        if self.evidence is None:
            return ["The data were not tested for symmetries."]
        group = PointGroup.from_name(self.search_group)
        learned = group.subgroup(self.group)
        evidence, name = self.evidence, "squared error" if self.regression else "error"
        larger = [h.name for h in group.subgroups if learned in h.maximal_subgroups]
        if not larger:
            own, free, chance = self._cost(self.group), self._cost("C1"), self._chance(self.group)
            return [f"The held-out {name} is {own} with {self.group} imposed, {free} without ({chance})."]
        least = min(larger, key=lambda name: evidence[name].loss_rise)
        verb = "rises" if evidence[least].score < evidence[self.group].score else "goes"
        free = (
            " It is broken, but so slightly that imposing it costs nothing." if evidence[least].loss_rise <= 0 else ""
        )
        return [
            f"The held-out {name} {verb} from {self._cost(self.group)} to {self._cost(least)} when {least}, the next "
            f"larger group, is imposed ({self._chance(least)}).{free}"
        ]

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
            return f"Constraints: {layers}."
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
        called, *others = self.indistinct
        low, high = level_band(self.level)
        if others:
            if len(others) > 4:
                others = [*others[:3], f"{len(others) - 3} other groups"]
            names = f"{', '.join([called, *others[:-1]])} and {others[-1]}"
            return f"In doubt: at levels from {low:g} to {high:g} the data do not settle between {names}."
        proof = "" if called == "C1" else f" Nothing speaks against {called}; that is no proof of it."
        return f"The answer is the same at every level from {low:g} to {high:g}.{proof}"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values that JSON can hold; what is not finite is None.

        Examples
        --------
        >>> import json
        >>> from sklearn.datasets import load_digits
        >>> from skequinas import EquivariantNASClassifier
        >>> X, y = load_digits(n_class=3, return_X_y=True)
        >>> model = EquivariantNASClassifier(search="none", max_epochs=1, random_state=0).fit(X, y)
        >>> json.loads(json.dumps(model.learned_symmetry_.to_dict()))["group"]
        'D4'
        """
        values = {name: _plain(value) for name, value in vars(self).items()}
        if self.evidence is not None:
            values["evidence"] = {name: _plain(e._asdict()) for name, e in self.evidence.items()}
        return values | {"verdicts": self.verdicts, "indistinct": list(self.indistinct), "informed": self.informed}

    def alike(self) -> list[list[str]]:
        """The subgroups in sets of conjugates with the same verdict, in the order of the group's subgroups.

        Conjugate subgroups, such as the mirrors D1(0) and D1(90) of D4, differ by how the images are turned. The data
        do not tell such a set apart. The learned group stands by itself.
        """
        group, verdicts = PointGroup.from_name(self.search_group), self.verdicts
        sets: dict[object, list[str]] = {}
        for h in group.subgroups:
            key = (h.conjugates, verdicts.get(h.name)) if h.name != self.group else h
            sets.setdefault(key, []).append(h.name)
        return list(sets.values())

    def to_frame(self, of: str = "subgroups", *, merge_conjugates: bool = False) -> Any:
        """A table as a pandas DataFrame, which needs pandas.

        Parameters
        ----------
        of : {"subgroups", "elements", "layers"}, default="subgroups"
            A row for each subgroup with the evidence and the verdict; for each element with what was measured of the
            fitted model; or for each layer with its constraint, its distance to the larger groups, and the learned
            shares.
        merge_conjugates : bool, default=False
            With ``of="subgroups"``: one row for each set of `alike`, with what was found of the one with the lowest
            p-value, and the names of all.

        Returns
        -------
        pandas.DataFrame
        """
        if of not in ("subgroups", "elements", "layers"):
            raise ValueError(f"of={of!r} is unknown. Use 'subgroups', 'elements' or 'layers'.")
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_frame needs pandas: pip install pandas. to_dict gives the same without.") from error
        group = PointGroup.from_name(self.search_group)
        if of == "elements":
            columns: dict[str, Any] = {"measured_change": self.measured_change}
            if self.effective_invariance is not None:
                columns["effective_invariance"] = self.effective_invariance
            return pd.DataFrame(columns, index=pd.Index(list(self.measured_change), name="element"))
        if of == "layers":
            rows = [
                {"constraint": constraint}
                | {f"distance to {name}": d for name, d in self.layer_distances.get(layer, {}).items()}
                | {f"share of {name}": z for name, z in (self.layer_weights or {}).get(layer, {}).items()}
                for layer, constraint in self.constraints.items()
            ]
            return pd.DataFrame(rows, index=pd.Index(list(self.constraints), name="layer"))
        names = [h.name for h in group.subgroups]
        rows = [{"order": h.order, "learned": h.name == self.group} for h in group.subgroups]
        if self.evidence is not None:
            rows = [
                row | self.evidence[name]._asdict() | {"verdict": self.verdicts[name]}
                for row, name in zip(rows, names, strict=True)
            ]
        frame = pd.DataFrame(rows, index=pd.Index(names, name="subgroup"))
        if not merge_conjugates:
            return frame
        sets = {self._witness(names): names for names in self.alike()}
        merged = frame.loc[list(sets)]
        merged.insert(0, "alike", [", ".join(names) for names in sets.values()])
        return merged

    def _witness(self, names: Sequence[str]) -> str:
        """Of several subgroups the one that the data speak against most."""
        evidence = self.evidence
        return names[0] if evidence is None else min(names, key=lambda name: evidence[name].p_value)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        lines = "<br>".join(escape(line) for line in str(self).splitlines())
        changes = {name: f"{change:.2g}" for name, change in self.measured_change.items()}
        parts = [
            f"<p>{lines}</p>",
            _table("Measured change of the output when the image is moved (0: none)", list(changes), [changes]),
        ]
        if self.evidence is not None:
            columns = ["subgroup", "held-out score", "rise of the loss", "p-value", "verdict"]
            sets = {self._witness(names): names for names in self.alike()} if len(self.evidence) > 12 else {}
            rows = [
                {
                    "subgroup": escape(name)
                    + (f" and {len(sets[name]) - 1} alike" if len(sets.get(name, ())) > 1 else ""),
                    "held-out score": f"{e.score:.3f} &plusmn; {e.score_error:.3f}",
                    "rise of the loss": f"{e.loss_rise:+.3f} &plusmn; {e.loss_rise_error:.3f}",
                    "p-value": f"{e.p_value:.2g}",
                    "verdict": escape(self.verdicts[name]),
                }
                for name, e in self.evidence.items()
                if not sets or name in sets
            ]
            parts.append(_table("Evidence: a free network averaged over each subgroup", columns, rows))
        rows = [{"layer": escape(layer), "constraint": escape(c)} for layer, c in self.constraints.items()]
        columns = ["layer", "constraint"]
        if self.layer_weights is not None:
            for row, layer in zip(rows, self.constraints, strict=True):
                row.update({name: f"{share:.2f}" for name, share in self.layer_weights.get(layer, {}).items()})
            columns = list(dict.fromkeys(name for row in rows for name in row))
        title = "Constraint of every layer" + ("" if self.layer_weights is None else ", and the learned shares")
        return "\n".join([*parts, _table(title, columns, rows)])


def _plain(value: Any) -> Any:
    """Values that JSON can hold."""
    if isinstance(value, Mapping):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _table(title: str, columns: list[str], rows: Sequence[Mapping[str, str]]) -> str:
    """A table of HTML whose cells are HTML already."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{row.get(column, '')}</td>" for column in columns) + "</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
