"""Who can be asked about the symmetries of data: a fitted estimator and the network within it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from skequinas.groups import PointGroup
from skequinas.nn.networks import EquivariantNetwork
from skequinas.training.data import DataPart

__all__ = ["Witness", "check_witness"]


class Witness(Protocol):
    """A fitted estimator of skequinas."""

    network_: EquivariantNetwork

    def _held_out(
        self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, group: PointGroup | None = None
    ) -> DataPart:
        """Images and targets that were not in ``fit``, as the network takes them; copies are moved by a group."""
        ...

    def _cropped(
        self, X: ArrayLike, groups: ArrayLike | None, group: PointGroup, rng: np.random.RandomState
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Larger images, each cut at a random place to the size of those in ``fit``, and which belong together."""
        ...


def check_witness(model: Any) -> None:
    """Raise an error unless a model is a fitted estimator of skequinas itself.

    Raises
    ------
    TypeError
        When it is another estimator, such as one that holds ours.
    NotFittedError
        When it is not fitted.
    """
    if not hasattr(model, "_held_out"):
        raise TypeError(
            f"model is a {type(model).__name__}; only a fitted EquivariantNASClassifier or EquivariantNASRegressor can "
            "be asked. In a pipeline that is pipeline[-1] (give it images transformed as pipeline[:-1] does), in a "
            "grid search best_estimator_."
        )
    check_is_fitted(model)
