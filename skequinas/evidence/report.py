"""What was learned about the symmetry of a task: in a few lines, in tables, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from skequinas.evidence.conclusions import Conclusions
from skequinas.evidence.verdict import Evidence

__all__ = ["LearnedSymmetry"]


@dataclass(frozen=True, eq=False, repr=False)
class LearnedSymmetry(Conclusions):
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
        From the name of each layer ("layer 1", ..., "head") to the name of its constraint: of several, joined by "+",
        where it mixes them, and by "/" where it has streams.
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
    margin : float or None, default=None
        Where costs decided (``criterion="cost"`` of a search): accepted is what was shown to cost less than this, in
        held-out score. None where the evidence against a symmetry decided.
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
    margin: float | None = None

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
        sets = {"indistinct": list(self.indistinct), "confidence_set": list(self.confidence_set)}
        return values | {"verdicts": self.verdicts, "informed": self.informed, "confidence": self.confidence} | sets

    def alike(self) -> list[list[str]]:
        """The subgroups in sets of conjugates with the same verdict, in the order of the group's subgroups.

        Conjugate subgroups, such as the mirrors D1(0) and D1(90) of D4, differ by how the images are turned. The data
        do not tell such a set apart. The learned group stands by itself.
        """
        group, verdicts = self._group, self.verdicts
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
        group = self._group
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
            columns = ["subgroup", "held-out score", "rise of the loss", "cost (95 %)", "p-value", "verdict"]
            sets = {self._witness(names): names for names in self.alike()} if len(self.evidence) > 12 else {}
            rows = [
                {
                    "subgroup": escape(name)
                    + (f" and {len(sets[name]) - 1} alike" if len(sets.get(name, ())) > 1 else ""),
                    "held-out score": f"{e.score:.3f} &plusmn; {e.score_error:.3f}",
                    "rise of the loss": f"{e.loss_rise:+.3f} &plusmn; {e.loss_rise_error:.3f}",
                    "cost (95 %)": f"{e.cost:.3f} ({e.cost_low:.3f} to {e.cost_high:.3f})",
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
