"""Which classes break a symmetry: the orbit test for the images of each class, or of any parts of the data."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import check_consistent_length

from skequinas.evidence.costs import cost_with_interval
from skequinas.evidence.orbit import (
    averaged_over_subgroups,
    best_scale,
    orbit_log_probabilities,
    orbit_test,
    outputs_of_copies,
    outputs_to_test,
)
from skequinas.evidence.verdict import holm
from skequinas.evidence.witness import Witness, check_witness
from skequinas.groups import PointGroup, Subgroup, fair_offset, group_on_images, parse_group
from skequinas.io.images import as_array
from skequinas.runtime.process import fitting_state
from skequinas.training.units import numbered

__all__ = ["SymmetryByClass", "symmetry_by_class"]


_MOST_MOVES = 100_000


@dataclass(frozen=True, eq=False, repr=False)
class SymmetryByClass:
    """What held-out images of every class say about the subgroups of a group.

    Printed, it names the classes that break a symmetry.

    Parameters
    ----------
    group : str
        The symmetries that were asked about.
    n_images : dict
        From each class to the number of its images.
    p_values : dict
        From each class to a dict: from every subgroup but the trivial one to the p-value of "images of this class look
        alike when they are moved", adjusted for the number of classes and subgroups (Holm), and never larger than that
        of a smaller group.
    costs : dict
        From each class to a dict: from every subgroup to by how much the score of its images falls when the network is
        averaged over the subgroup, with the ends of the 95 % interval.
    level : float, default=0.01
        Those with a p-value of at most this are broken.
    """

    group: str
    n_images: Mapping[Hashable, int]
    p_values: Mapping[Hashable, Mapping[str, float]]
    costs: Mapping[Hashable, Mapping[str, tuple[float, float, float]]]
    level: float = 0.01

    @property
    def broken(self) -> dict[Hashable, list[str]]:
        """From each class to the subgroups that its images reject at the level."""
        return {c: [name for name, p in row.items() if p <= self.level] for c, row in self.p_values.items()}

    def __str__(self) -> str:
        lines = [f"Symmetry by class within {self.group}, at the level {self.level:g}, adjusted for all of them:"]
        for c, names in self.broken.items():
            if names:
                dearest = max(names, key=lambda name: self.costs[c][name][0])
                p_value = self.p_values[c][dearest]
                chance = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"
                cost = self.costs[c][dearest][0]
                lines.append(f"  {c} breaks {', '.join(names)}; {dearest} costs it {cost:.3f} ({chance})")
        whole = [str(c) for c, names in self.broken.items() if not names]
        if whole:
            lines.append(f"  nothing speaks against any symmetry of {', '.join(whole)}")
        return "\n".join(lines)

    __repr__ = __str__

    def to_frame(self) -> Any:
        """A row for every class and subgroup, as a pandas DataFrame, which needs pandas."""
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_frame needs pandas: pip install pandas.") from error
        rows = [
            {"class": c, "subgroup": name, "n_images": self.n_images[c], "p_value": p_value}
            | dict(zip(("cost", "cost_low", "cost_high"), self.costs[c][name], strict=True))
            | {"verdict": "rejected" if p_value <= self.level else "accepted"}
            for c, row in self.p_values.items()
            for name, p_value in row.items()
        ]
        return pd.DataFrame(rows).set_index(["class", "subgroup"])


def symmetry_by_class(
    model: Witness,
    X: ArrayLike,
    y: ArrayLike,
    *,
    by: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    group: str | PointGroup | Subgroup = "D4",
    level: float = 0.01,
    random_state: int | np.random.RandomState | None = None,
) -> SymmetryByClass:
    """Ask a fitted model, on images that it has not seen, which classes break which symmetries.

    Parameters
    ----------
    model, X, y, groups, group
        As in `symmetry_evidence`.
    by : array-like of shape (n,), optional
        Other parts of the data to ask about than classes, such as the region or the instrument that an image comes
        from. Needed where targets are numbers.
    level : float, default=0.01
        The greatest probability of calling any symmetry of any class broken that is not.
    random_state : int, RandomState instance or None, default=None
        Draws the moves of the test.

    Returns
    -------
    SymmetryByClass

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skequinas import EquivariantNASClassifier, symmetry_by_class
    >>> X, y = load_digits(n_class=4, return_X_y=True)
    >>> model = EquivariantNASClassifier("C1", "none", max_epochs=4, random_state=0).fit(X[:400], y[:400])
    >>> found = symmetry_by_class(model, X[400:], y[400:], group="C2", random_state=0)
    >>> sorted(found.n_images) == [0, 1, 2, 3]
    True
    """
    check_witness(model)
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1.")
    if by is None and not hasattr(model, "classes_"):
        raise ValueError(
            "y holds numbers, so there are no classes. Pass by=..., a label for each image, such as "
            "by=np.digitize(y, np.quantile(y, [0.25, 0.5, 0.75]))."
        )
    labels = column_or_1d(as_array(y if by is None else by, "y" if by is None else "by"))
    check_consistent_length(X, labels)
    with fitting_state():
        asked = parse_group(group)
        data = model._held_out(X, y, groups, asked)
        moves = group_on_images(asked, *data.images.shape[2:])
        if moves.order == 1:
            raise ValueError(f"group={asked.name!r} leaves no move of these images to ask about. Choose a larger one.")
        rng = np.random.default_rng(check_random_state(random_state).randint(np.iinfo(np.int32).max))
        outputs = outputs_of_copies(model.network_, data, moves)
        scores, _ = averaged_over_subgroups(outputs, data, moves)
        asked_outputs = outputs_to_test(model.network_, data, moves) if fair_offset(moves) else outputs
        logs = orbit_log_probabilities(asked_outputs, data)
    return _by_class(logs, scores, labels, data.units, moves, level, rng)


def _by_class(
    logs: NDArray[np.float64],
    scores: Mapping[Subgroup, NDArray[np.float64]],
    labels: NDArray[Any],
    units: NDArray[np.int64] | None,
    group: PointGroup,
    level: float,
    rng: np.random.Generator,
) -> SymmetryByClass:
    tested = [h for h in group.subgroups if h.order > 1]
    classes = np.unique(labels)
    number = len(classes) * len(tested)
    n_moves = max(999, math.ceil(2 * number / level))  # so that adjusted p-values can be small
    if n_moves > _MOST_MOVES:
        raise ValueError(
            f"level={level:g} is too small for {len(classes)} classes and {len(tested)} subgroups: {n_moves:,} random "
            f"moves would be needed. Set level={2 * number / _MOST_MOVES:.2g} or higher, or ask about fewer of them."
        )
    raw, costs = {}, {}
    rows_of = {c: np.flatnonzero(labels == c) for c in classes}
    scale = best_scale(logs, None)  # one for all classes, which moves do not change
    for c, rows in rows_of.items():
        together = None if units is None else numbered(units[rows])
        for h in tested:
            at_rows = logs[scale][list(h.elements)][None][..., rows]
            raw[c, h] = orbit_test(at_rows, None, rng, n_moves, together)
            costs[c, h] = cost_with_interval(scores[group.trivial][rows], scores[h][rows], None, together)[:3]
    adjusted = holm(raw)
    names = [c.item() if isinstance(c, np.generic) else c for c in classes]
    return SymmetryByClass(
        group.name,
        {n: len(rows_of[c]) for n, c in zip(names, classes, strict=True)},
        {
            n: {h.name: min(adjusted[c, k] for k in tested if k <= h) for h in tested}
            for n, c in zip(names, classes, strict=True)
        },
        {n: {h.name: costs[c, h] for h in tested} for n, c in zip(names, classes, strict=True)},
        level,
    )
