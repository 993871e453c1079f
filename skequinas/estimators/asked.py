"""Images that a fitted model is asked about by tests of symmetry."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from torch import Tensor

from skequinas.estimators.preparation import read_more
from skequinas.estimators.units import checked_groups, units_of
from skequinas.groups import PointGroup, group_on_images
from skequinas.io.images import as_array, as_images, channel_axis, cut_at
from skequinas.io.preprocessing import Preprocessing
from skequinas.io.stored import taken_from
from skequinas.nn.architecture import Architecture
from skequinas.training import DataPart, Objective

__all__ = ["AskedMixin"]


class AskedMixin:
    """What `skequinas.evidence.witness.Witness` asks of an estimator."""

    n_features_in_: int
    image_shape_: tuple[int, ...]
    architecture_: Architecture
    preprocessing_: Preprocessing
    objective: ClassVar[Objective]

    def _known_targets(self, y: NDArray[Any]) -> Tensor:
        raise NotImplementedError

    def _held_out(
        self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, group: PointGroup | None = None
    ) -> DataPart:
        """Images and targets that were not in `fit`, as the fitted network takes them; copies are moved by a group."""
        check_is_fitted(self)
        rows = read_more(self, X, self.image_shape_)
        targets = np.asarray(as_array(y, "y"))
        check_consistent_length(rows, targets)
        images, known = taken_from(rows, self.image_shape_), self._known_targets(targets)
        moving = group_on_images(group or self.architecture_.group, *images.shape[2:])
        padded = self.n_features_in_ < math.prod(self.image_shape_)
        units = units_of(images, checked_groups(groups, rows), moving, near=not padded)
        return DataPart(images, known, self.preprocessing_, self.objective, units=units)

    def _cropped(
        self, X: ArrayLike, groups: ArrayLike | None, group: PointGroup, rng: np.random.RandomState
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Larger images, each cut at a random place to the size of those in `fit`, and which belong together."""
        check_is_fitted(self)
        whole, shape = np.asarray(as_array(X)), self.image_shape_
        axis = channel_axis(shape)
        places = [i for i in range(len(shape)) if i != axis]
        fits = whole.ndim == 1 + len(shape) and all(
            whole.shape[1 + i] >= side if i in places else whole.shape[1 + i] == side for i, side in enumerate(shape)
        )
        if not fits or self.n_features_in_ < math.prod(shape):
            raise ValueError(
                f"X has shape {whole.shape}; with crop='random' it must hold images at least as large as those that "
                f"the model was fitted with, {shape}, in the same order of axes and as images, not as rows of pixels."
            )
        sides = [whole.shape[1 + i] for i in places]
        labels = checked_groups(groups, whole)
        units = units_of(as_images(whole, whole.shape[1:]), labels, group_on_images(group, *sides))
        firsts = [rng.randint(whole.shape[1 + i] - shape[i] + 1, size=len(whole)) for i in places]
        last = np.moveaxis(whole, 1 + axis, -1) if axis is not None else whole
        tops, lefts = firsts
        cut = cut_at(last, tops, lefts, tuple(shape[i] for i in places))
        cut = np.moveaxis(cut, -1, 1 + axis) if axis is not None else cut
        return cut, np.arange(len(whole)) if units is None else units
