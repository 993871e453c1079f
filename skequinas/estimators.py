"""The two estimators: how targets are encoded, and what an output means."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelEncoder, StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

from skequinas._base import BaseEquivariantNAS
from skequinas.training import CLASSIFICATION, REGRESSION

__all__ = ["EquivariantNASClassifier", "EquivariantNASRegressor"]


class EquivariantNASClassifier(ClassifierMixin, BaseEquivariantNAS):
    """Classify images, and learn which rotations and mirrors leave their classes unchanged.

    ``fit`` searches for the constraints of a convolutional network: which symmetries, layer by layer, the task really
    has. The chosen network is then trained on all of the data.

    Parameters
    ----------
    group : str, default="D4"
        The largest symmetry to consider. "C1", "C2" and "C4" hold rotations, "D1", "D2" and "D4" mirrors as well;
        "D1(90)" is the left-right mirror, whose axis stands upright. All subgroups are searched.
    search : {"evolutionary", "differentiable", "random", "none"} or search object, default="evolutionary"
        How to search; "none" keeps the whole group. An object such as ``EvolutionarySearch(n_generations=6)`` sets
        more.
    architecture : {"auto", "paper"} or Architecture, default="auto"
        The shape of the network. "auto" suits the images, "paper" is 8 layers of 16 and 32 fields with kernel 5.
    width : int or None, default=None
        Channels of the first layers of an "auto" architecture (it is an error with another); None lets it choose.
    image_shape : tuple of int or None, default=None
        (height, width), with the channels first or last if there are any: at the end that holds 1 to 4, else beside two
        equal sides, else at the smaller end. None reads rows as squares of one or three (last) channels, padded to the
        next square where necessary.
    max_epochs : float or None, default=None
        Passes over the data in the final training, to which those of the search are in proportion. None makes it about
        500 mini-batches of 64.
    batch_size : int, default=64
        Images in a mini-batch, at least 2.
    learning_rate : float, default=0.005
        The highest rate of the one-cycle schedule (AdamW).
    weight_decay : float, default=0.01
        Decoupled weight decay.
    validation_fraction : float, default=0.2
        The share of the data that is held out for the search and for early stopping.
    early_stopping : bool, default=False
        Hold the validation part out of the final training too, stop when its loss no longer falls, and keep the best
        weights.
    n_iter_no_change : int, default=10
        Epochs without a better validation loss before an early stop.
    device : str, default="auto"
        "auto" is CUDA when available, else the CPU; or "cpu", "cuda", "cuda:1".
    random_state : int, RandomState instance or None, default=None
        Fixes the split, the initial weights, the mini-batches and the search.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels.
    learned_symmetry_ : LearnedSymmetry
        The symmetry of the fitted function and of every layer, and the measured change under every element.
    architecture_ : Architecture
        The chosen architecture.
    network_ : EquivariantNetwork
        The constrained network.
    module_ : torch.nn.Sequential
        The same function of preprocessed images in plain torch layers, with batch norm folded in.
    preprocessing_ : torch.nn.Module
        Standardises and pads raw images.
    n_parameters_ : int
        Free parameters of the network.
    history_ : dict of ndarray
        The final training: one entry for each epoch. Empty where a learned mixture is the model.
    search_results_ : dict of ndarray
        One entry for each candidate of the search: constraints, parent, generation, parameters, validation score,
        seconds. Empty without a search.
    search_ : Search
        The search with its last population.
    n_features_in_ : int
        Values in one image.
    image_shape_ : tuple of int
        How one sample is read.

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

    _objective = CLASSIFICATION

    @property
    def _n_outputs(self) -> int:
        return len(self.classes_)

    @property
    def _target_checks(self) -> dict[str, Any]:
        return {}

    def _encode_targets(self, y: NDArray[Any]) -> Tensor:
        check_classification_targets(y)
        encoder = LabelEncoder()
        codes = encoder.fit_transform(y)
        if len(encoder.classes_) < 2:
            raise ValueError(
                f"Classifier can't train when only one class is present: y holds {encoder.classes_[0]!r} alone. "
                "Add samples of at least one other class."
            )
        self.classes_ = encoder.classes_
        return torch.from_numpy(codes.astype(np.int64))

    def _strata(self, y: NDArray[Any], n_validation: int) -> NDArray[Any] | None:
        counts = np.unique(y, return_counts=True)[1]
        possible = counts.min() >= 2 and len(counts) <= min(n_validation, len(y) - n_validation)
        return y if possible else None

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


class EquivariantNASRegressor(RegressorMixin, BaseEquivariantNAS):
    """Predict numbers from images, and learn which rotations and mirrors leave them unchanged.

    ``fit`` searches for the constraints of a convolutional network: which symmetries, layer by layer, the task really
    has. The chosen network is then trained on all of the data. The targets are standardised within.

    Parameters
    ----------
    group : str, default="D4"
        The largest symmetry to consider. "C1", "C2" and "C4" hold rotations, "D1", "D2" and "D4" mirrors as well;
        "D1(90)" is the left-right mirror, whose axis stands upright. All subgroups are searched.
    search : {"evolutionary", "differentiable", "random", "none"} or search object, default="evolutionary"
        How to search; "none" keeps the whole group. An object such as ``EvolutionarySearch(n_generations=6)`` sets
        more.
    architecture : {"auto", "paper"} or Architecture, default="auto"
        The shape of the network. "auto" suits the images, "paper" is 8 layers of 16 and 32 fields with kernel 5.
    width : int or None, default=None
        Channels of the first layers of an "auto" architecture (it is an error with another); None lets it choose.
    image_shape : tuple of int or None, default=None
        (height, width), with the channels first or last if there are any: at the end that holds 1 to 4, else beside two
        equal sides, else at the smaller end. None reads rows as squares of one or three (last) channels, padded to the
        next square where necessary.
    max_epochs : float or None, default=None
        Passes over the data in the final training, to which those of the search are in proportion. None makes it about
        500 mini-batches of 64.
    batch_size : int, default=64
        Images in a mini-batch, at least 2.
    learning_rate : float, default=0.005
        The highest rate of the one-cycle schedule (AdamW).
    weight_decay : float, default=0.01
        Decoupled weight decay.
    validation_fraction : float, default=0.2
        The share of the data that is held out for the search and for early stopping.
    early_stopping : bool, default=False
        Hold the validation part out of the final training too, stop when its loss no longer falls, and keep the best
        weights.
    n_iter_no_change : int, default=10
        Epochs without a better validation loss before an early stop.
    device : str, default="auto"
        "auto" is CUDA when available, else the CPU; or "cpu", "cuda", "cuda:1".
    random_state : int, RandomState instance or None, default=None
        Fixes the split, the initial weights, the mini-batches and the search.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    learned_symmetry_ : LearnedSymmetry
        The symmetry of the fitted function and of every layer, and the measured change under every element.
    architecture_ : Architecture
        The chosen architecture.
    network_ : EquivariantNetwork
        The constrained network.
    module_ : torch.nn.Sequential
        The same function of preprocessed images in plain torch layers, with batch norm folded in.
    preprocessing_ : torch.nn.Module
        Standardises and pads raw images.
    n_parameters_ : int
        Free parameters of the network.
    history_ : dict of ndarray
        The final training: one entry for each epoch. Empty where a learned mixture is the model.
    search_results_ : dict of ndarray
        One entry for each candidate of the search: constraints, parent, generation, parameters, validation score,
        seconds. Empty without a search.
    search_ : Search
        The search with its last population.
    n_features_in_ : int
        Values in one image.
    image_shape_ : tuple of int
        How one sample is read.

    References
    ----------
    Maile, Wilson and Forré, Equivariance-aware Architectural Optimization of Neural Networks, ICLR 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skequinas import EquivariantNASRegressor
    >>> X, _ = load_digits(n_class=3, return_X_y=True)
    >>> ink = X.sum(axis=1)
    >>> model = EquivariantNASRegressor(group="C4", search="none", max_epochs=3, random_state=0).fit(X, ink)
    >>> model.predict(X).shape
    (537,)
    """

    _objective = REGRESSION

    @property
    def _n_outputs(self) -> int:
        return len(self.target_scaler_.scale_)

    @property
    def _target_checks(self) -> dict[str, Any]:
        return {"multi_output": True, "y_numeric": True}

    def _encode_targets(self, y: NDArray[Any]) -> Tensor:
        self._flat_target = y.ndim == 1
        self.target_scaler_ = StandardScaler()
        columns = y.reshape(len(y), -1).astype(np.float64)
        return torch.from_numpy(self.target_scaler_.fit_transform(columns).astype(np.float32))

    def _strata(self, y: NDArray[Any], n_validation: int) -> NDArray[Any] | None:
        return None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _respond(self, outputs: Tensor) -> Tensor:
        return outputs

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """The predicted targets.

        Parameters
        ----------
        X : array-like
            Images as in `fit`.

        Returns
        -------
        ndarray of shape (n,) or (n, n_outputs)
            As y was in `fit`.
        """
        outputs = self._outputs(X)
        targets: NDArray[np.float64] = self.target_scaler_.inverse_transform(outputs)
        return targets.ravel() if self._flat_target else targets
