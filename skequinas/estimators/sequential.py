"""A symmetry test that may be looked at after every batch of new images, and stopped at any time."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from skequinas.estimators.base import BaseEquivariantNAS
from skequinas.estimators.units import fingerprints
from skequinas.evidence.evalues import adjusted_e_values, log_e_values, mean_of_products
from skequinas.evidence.orbit import orbit_log_probabilities, outputs_to_test
from skequinas.evidence.witness import check_witness
from skequinas.groups import PointGroup, Subgroup, group_on_images, parse_group
from skequinas.runtime.process import fitting_state

__all__ = ["SequentialSymmetryTest"]


class SequentialSymmetryTest:
    r"""Gather evidence against symmetries batch by batch, as e-values.

    A p-value is good for one look at data whose number was settled before. An e-value may be looked at after every
    batch: if the data have a symmetry, its e-value ever reaches :math:`1 / \alpha` with a probability of
    :math:`\alpha` at most, whenever one stops. See `skequinas.evidence.evalues`.

    Parameters
    ----------
    group : str, PointGroup or Subgroup, default="D4"
        The symmetries to ask about.

    Attributes
    ----------
    e_values_ : dict
        From the name of every subgroup to its e-value, adjusted for the number of subgroups: all those of at least
        ``1 / level`` may be rejected, and the level may be chosen afterwards.
    n_images_ : int
        How many images were seen.

    References
    ----------
    Koning, Measuring evidence against exchangeability and group invariance with e-values, 2023. Ville, Étude critique
    de la notion de collectif, 1939.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skequinas import EquivariantNASClassifier, SequentialSymmetryTest
    >>> X, y = load_digits(n_class=4, return_X_y=True)
    >>> model = EquivariantNASClassifier("C1", "none", max_epochs=4, random_state=0).fit(X[:400], y[:400])
    >>> test = SequentialSymmetryTest("C4")
    >>> for start in range(400, 700, 50):
    ...     if "C4" not in test.update(model, X[start : start + 50], y[start : start + 50]).rejected(0.01):
    ...         continue
    ...     break
    >>> test.n_images_ < 300  # digits stand upright, which few images show
    True
    """

    e_values_: dict[str, float]

    def __init__(self, group: str | PointGroup | Subgroup = "D4") -> None:
        self.group = group
        self.n_images_ = 0
        self._asked = parse_group(group)
        self._logs: dict[Subgroup, NDArray[np.float64]] = {}
        self._known = np.zeros(0, dtype=np.uint64)
        self._moves: PointGroup | None = None
        self.e_values_ = {}

    def update(self, model: BaseEquivariantNAS, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Take new images, which neither the model nor an earlier update has seen.

        Parameters
        ----------
        model : EquivariantNASClassifier or EquivariantNASRegressor
            Fitted on other images. It may be another one each time, fitted on images of earlier updates too: what it
            says of new images is evidence all the same. So may the data: several data sets give evidence together.
        X, y, groups
            As in `symmetry_evidence`. Images of one group have to come in one update, and near copies of each other
            too: between updates exact ones alone are found.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            When images, moved or not, were in an earlier update.
        """
        check_witness(model)
        with fitting_state():
            data = model._held_out(X, y, groups, self._asked)
            moves = group_on_images(self._asked, *data.images.shape[2:])
            if self._moves is not None and moves != self._moves:
                raise ValueError(
                    f"X has images of {tuple(data.images.shape[2:])} pixels, which {moves.name} can move, but those of "
                    f"before were asked about {self._moves.name}. Begin another test for them."
                )
            own = fingerprints(data.images, moves, torch.float64)
            known = int(np.isin(own, self._known).sum())
            if known:
                raise ValueError(
                    f"X has {known} images that were in an earlier update, moved or not: they are no new evidence. "
                    "Leave them out."
                )
            logs = orbit_log_probabilities(outputs_to_test(model.network_, data, moves), data)
            found = log_e_values(logs, moves, data.sample_weights(), data.units)
        self._moves = moves
        self._logs = {h: log_e + self._logs.get(h, 0.0) for h, log_e in found.items()}
        self._known = np.union1d(self._known, own)
        self.n_images_ += len(own)
        adjusted = adjusted_e_values({h: mean_of_products(log_e) for h, log_e in self._logs.items()})
        self.e_values_ = {h.name: max((adjusted[k] for k in adjusted if k <= h), default=1.0) for h in moves.subgroups}
        return self

    def rejected(self, level: float = 0.01) -> list[str]:
        """The subgroups that the images speak against, at a level that may be chosen after a look at the e-values."""
        if not 0 < level < 1:
            raise ValueError(f"level={level} must lie between 0 and 1.")
        return [name for name, e in self.e_values_.items() if e >= 1 / level]

    def to_frame(self) -> Any:
        """A row for every subgroup with its e-value, as a pandas DataFrame, which needs pandas."""
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_frame needs pandas: pip install pandas. e_values_ gives the same without.") from error
        return pd.DataFrame({"e_value": self.e_values_}).rename_axis("subgroup")

    def __repr__(self) -> str:
        """The e-values in a line."""
        values = ", ".join(f"{name} {e:.3g}" for name, e in self.e_values_.items() if name != "C1")
        group = self._asked.name if self._moves is None else self._moves.name
        return f"SequentialSymmetryTest({group!r}) after {self.n_images_} images: {values or 'no evidence yet'}"
