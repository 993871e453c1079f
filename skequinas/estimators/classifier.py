"""The classifier: how labels are encoded and weighted, and what an output means."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor, nn

from skequinas.estimators.base import BaseEquivariantNAS
from skequinas.estimators.parameters import ClassifierParameters, constraints_of, documented
from skequinas.estimators.preparation import relative_weights
from skequinas.training import CLASSIFICATION

__all__ = ["EquivariantNASClassifier"]


@documented
class EquivariantNASClassifier(ClassifierMixin, BaseEquivariantNAS, ClassifierParameters):
    """Classify images, and learn which rotations and mirrors leave their classes unchanged.

    ``fit`` searches for the constraints of a convolutional network: which symmetries, layer by layer, the task really
    has. The chosen network is then trained on all of the data.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels.
    {attributes}

    References
    ----------
    Maile, Wilson and Forré, Equivariance-aware Architectural Optimization of Neural Networks, ICLR 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skequinas import EquivariantNASClassifier
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> model = EquivariantNASClassifier(group="D4", search="none", max_epochs=3, random_state=0).fit(X, y)
    >>> model.learned_symmetry_.group
    'D4'
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = constraints_of(ClassifierParameters)
    objective = CLASSIFICATION
    classes_: NDArray[Any]

    @property
    def _n_outputs(self) -> int:
        return len(self.classes_)

    @property
    def _target_checks(self) -> dict[str, Any]:
        return {}

    def _weighted(self, y: NDArray[Any], weights: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        if self.class_weight is None:
            return weights
        counts = np.ones(len(y), dtype=bool) if weights is None else weights > 0
        of_classes = np.zeros(len(y))
        if isinstance(self.class_weight, str):  # "balanced" among the samples that count
            of_classes[counts] = compute_sample_weight(self.class_weight, y[counts])
        else:
            of_classes[:] = compute_sample_weight(self.class_weight, y)
        if not (np.isfinite(of_classes).all() and (of_classes >= 0).all()):
            raise ValueError(f"class_weight={self.class_weight!r} must hold finite weights >= 0.")
        if not of_classes[counts].any():
            raise ValueError(
                f"class_weight={self.class_weight!r} gives zero weight to every sample that counts. Give some classes "
                "a positive weight."
            )
        return relative_weights(of_classes if weights is None else of_classes * weights)

    def _encode_targets(self, y: NDArray[Any], weights: NDArray[np.float64] | None, earlier: Self | None) -> Tensor:
        words = np.array([isinstance(label, str) for label in y]) if y.dtype == object else np.zeros(1)
        if words.any() and not words.all():
            kinds = ", ".join(sorted({type(label).__name__ for label in y}))
            raise TypeError(
                f"y mixes labels of types that have no order ({kinds}). Convert them to one type, such as strings."
            )
        check_classification_targets(y)
        encoder = LabelEncoder()
        codes = encoder.fit_transform(y)
        present = codes if weights is None else codes[weights > 0]
        if len(np.unique(present)) < 2:
            raise ValueError(
                "Classifier can't train when only one class is present: "
                f"{'y' if len(present) == len(y) else 'y where the weights are positive'} holds "
                f"{encoder.classes_[present[0]]!r} alone. Add samples of at least one other class."
            )
        if earlier is not None and not np.array_equal(earlier.classes_, encoder.classes_):
            raise ValueError(
                f"warm_start=True needs the classes of the earlier fit, {earlier.classes_}; y has {encoder.classes_}. "
                "Set warm_start=False to start anew."
            )
        self.classes_ = encoder.classes_
        return torch.from_numpy(codes.astype(np.int64))

    def _known_targets(self, y: NDArray[Any]) -> Tensor:
        y = column_or_1d(y)
        known = np.isin(y, self.classes_)
        if not known.all():
            raise ValueError(f"y holds labels that were not seen in fit: {np.unique(y[~known])}. Leave them out.")
        return torch.from_numpy(np.searchsorted(self.classes_, y))

    def _strata(self, y: NDArray[Any], n_validation: int) -> NDArray[Any] | None:
        codes, counts = np.unique(y, return_inverse=True, return_counts=True)[1:]
        strata = np.where(counts[codes] < 2, counts.argmax(), codes)  # a single sample goes with the largest class
        possible = len(np.unique(strata)) <= min(n_validation, len(y) - n_validation)
        return strata if possible and counts.max() >= 2 else None

    def _output_layer(self) -> nn.Module:
        return nn.Softmax(1)

    def _respond(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """The probability of every class.

        Parameters
        ----------
        X : array-like
            Images as in `fit`.

        Returns
        -------
        ndarray of shape (n, n_classes)
            In the order of ``classes_``; each row sums to 1.
        """
        probabilities = self._outputs(X)
        normalised: NDArray[np.float64] = probabilities / probabilities.sum(axis=1, keepdims=True)
        return normalised

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of every image.

        Parameters
        ----------
        X : array-like
            Images as in `fit`.

        Returns
        -------
        ndarray of shape (n,)
            Labels from ``classes_``.
        """
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return labels
