"""The classifier: how labels are encoded and weighted, and what an output means."""

from __future__ import annotations

from numbers import Real
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
from skequinas.nn.networks import EquivariantNetwork
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
    _class_order: NDArray[np.int64]
    _class_factors: NDArray[np.float64]

    @property
    def _n_outputs(self) -> int:
        return len(self.classes_)

    @property
    def _target_checks(self) -> dict[str, Any]:
        return {}

    def _weighted(self, y: NDArray[Any], weights: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        if self.class_weight is None:
            return weights
        self._check_class_weight(y)
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
        # the weight of a class is that of any of its samples that counts
        codes = np.unique(y, return_inverse=True)[1]
        self._class_factors = np.zeros(codes.max() + 1)
        self._class_factors[codes[counts]] = of_classes[counts]
        return relative_weights(of_classes if weights is None else of_classes * weights)

    def _check_class_weight(self, y: NDArray[Any]) -> None:
        if not isinstance(self.class_weight, dict):
            return
        classes = np.unique(y).tolist()
        weights: dict[object, object] = dict(self.class_weight)
        for label, weight in weights.items():
            if label not in classes:
                raise ValueError(f"class_weight names {label!r}, which is no class of y; its classes are {classes}.")
            if isinstance(weight, bool) or not isinstance(weight, Real):
                raise ValueError(f"class_weight[{label!r}]={weight!r} must be a number >= 0.")

    def _encode_targets(self, y: NDArray[Any], weights: NDArray[np.float64] | None, earlier: Self | None) -> Tensor:
        """Classes are coded by first appearance, so that their names change nothing; `_for_user` restores the order."""
        self._check_labels(y)
        encoder = LabelEncoder()
        codes = encoder.fit_transform(y)
        present = codes if weights is None else codes[weights > 0]
        if len(np.unique(present)) < 2:
            raise ValueError(
                "Classifier can't train when only one class is present: "
                f"{'y' if len(present) == len(y) else 'y where the weights are positive'} holds "
                f"{encoder.classes_[present[0]].tolist()!r} alone. Add samples of at least one other class."
            )
        if earlier is not None and not np.array_equal(earlier.classes_, encoder.classes_):
            raise ValueError(
                f"warm_start=True needs the classes of the earlier fit, {earlier.classes_}; y has {encoder.classes_}. "
                "Set warm_start=False to start anew."
            )
        self.classes_ = encoder.classes_
        # those without a sample that counts come last
        appearing = np.concatenate([present, codes])
        first = np.unique(appearing, return_index=True)[1]
        self._class_order = np.argsort(first) if earlier is None else earlier._class_order
        return self._as_trained(torch.from_numpy(codes.astype(np.int64)))

    @staticmethod
    def _check_labels(y: NDArray[Any]) -> None:
        if y.dtype == object:
            words = np.array([isinstance(label, str) for label in y])
            if words.any() and not words.all():
                kinds = ", ".join(sorted({type(label).__name__ for label in y}))
                raise TypeError(
                    f"y mixes labels of types that have no order ({kinds}). Convert them to one type, such as strings."
                )
        check_classification_targets(y)

    def _as_trained(self, targets: Tensor) -> Tensor:
        return torch.from_numpy(np.argsort(self._class_order))[targets]

    def _for_user(self, network: EquivariantNetwork) -> EquivariantNetwork:
        return network.with_outputs(torch.from_numpy(np.argsort(self._class_order)))

    def _for_training(self, network: EquivariantNetwork) -> EquivariantNetwork:
        return network.with_outputs(torch.from_numpy(self._class_order))

    def _known_targets(self, y: NDArray[Any]) -> Tensor:
        y = column_or_1d(y)
        code_of = {label: code for code, label in enumerate(self.classes_.tolist())}
        codes = np.array([code_of.get(label, -1) for label in y.tolist()], dtype=np.int64)
        if (codes < 0).any():
            raise ValueError(f"y holds labels that were not seen in fit: {np.unique(y[codes < 0])}. Leave them out.")
        return torch.from_numpy(codes)

    def _known_weights(self, codes: NDArray[np.int64]) -> NDArray[np.float64] | None:
        return None if self.class_weight is None else self._class_factors[codes]

    def _strata(self, targets: NDArray[Any], n_validation: int) -> NDArray[Any] | None:
        codes, counts = np.unique(targets, return_inverse=True, return_counts=True)[1:]
        strata = np.where(counts[codes] < 2, counts.argmax(), codes)  # a single sample goes with the largest class
        possible = len(np.unique(strata)) <= min(n_validation, len(targets) - n_validation)
        return strata if possible and counts.max() >= 2 else None

    def _output_layer(self) -> nn.Module:
        return nn.Softmax(1)

    def _respond(self, outputs: Tensor) -> Tensor:
        # summed in the order of the training: names of classes change no bit
        order = torch.from_numpy(self._class_order).to(outputs.device)
        return outputs[:, order].softmax(1)[:, order.argsort()]

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
