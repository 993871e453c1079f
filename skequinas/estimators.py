"""The two estimators: how targets are encoded, and what an output means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelEncoder, StandardScaler
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor, nn

from skequinas._base import BaseEquivariantNAS, relative_weights
from skequinas.architecture import Architecture
from skequinas.groups import PointGroup, Subgroup
from skequinas.monitor import FitProgress
from skequinas.networks import undrawn
from skequinas.search import Search
from skequinas.training import CLASSIFICATION, REGRESSION

__all__ = ["EquivariantNASClassifier", "EquivariantNASRegressor"]


class EquivariantNASClassifier(ClassifierMixin, BaseEquivariantNAS):
    """Classify images, and learn which rotations and mirrors leave their classes unchanged.

    ``fit`` searches for the constraints of a convolutional network: which symmetries, layer by layer, the task really
    has. The chosen network is then trained on all of the data.

    Parameters
    ----------
    group : str, PointGroup, Subgroup, or a group or gspace of escnn, default="D4"
        The largest symmetry to consider. "C4" holds the four quarter turns, "D4" mirrors as well; in general, "C" and
        "D" with the number of rotations, such as "C8" for multiples of 45 degrees. "D1(90)" is the left-right mirror,
        whose axis stands upright. All subgroups are searched.
    search : {"evolutionary", "differentiable", "random", "none"} or search object, default="evolutionary"
        How to search; "none" keeps the whole group. An object such as ``EvolutionarySearch(n_generations=6)`` sets
        more.
    architecture : {"auto", "paper"} or Architecture, default="auto"
        The shape of the network. "auto" suits the images, "paper" is 8 layers of 16 and 32 fields with kernel 5.
    width : int or None, default=None
        Channels of the first layers of an "auto" architecture (it is an error with another); None lets it choose.
    basis : {"auto", "pixel", "harmonic"}, default="auto"
        What filters are made of. "pixel" is exact for quarter turns and mirrors; "harmonic", rings with waves around
        them, can turn by any angle, to a few percent on pixels. "auto" is "pixel" where that is exact.
    circular_mask : bool or "auto", default="auto"
        Whether the images are cut to a disc, as their corners cannot turn by any angle. "auto" does where the group
        has other elements than quarter turns and the mirrors in between.
    augment : {"none", "continuous"}, default="none"
        "continuous" turns the images of the final training by random angles, if the model is to look the same under
        all rotations of the group (and there are any), and mirrors them at random, if under mirrors too. With
        ``search="none"`` and ``group="C1"``, an ordinary CNN, they are always turned. The search, which is to find out
        what the images look like, never turns any, nor is a learned mixture (``discretize=False``) trained so.
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
    class_weight : dict, "balanced" or None, default=None
        The weight of each class, which multiplies the weights of its samples. "balanced" makes all classes count alike.
    validation_fraction : float, default=0.2
        The share of the data that is held out for the search and for early stopping.
    early_stopping : bool, default=False
        Hold the validation part out of the final training too, stop when its loss no longer falls, and keep the best
        weights.
    n_iter_no_change : int, default=10
        Epochs without a better validation loss before an early stop.
    time_budget : float or None, default=None
        Seconds for the whole of ``fit``, checked at every mini-batch. Search and final training are shortened alike
        where they would take longer. What was tried then depends on the speed of the machine.
    warm_start : bool, default=False
        Another ``fit`` goes on with the search where the last one ended (it was interrupted or out of time, or may now
        have more generations), and with the network's weights where its constraints stay. What is random follows from
        the first fit's ``random_state``.
    callback : callable or None, default=None
        Called with a `FitProgress` after each generation of the search and each epoch of the final training. When it
        returns True, the search, or the training, ends there.
    device : str, default="auto"
        "auto" is CUDA when available, else the CPU; or "cpu", "cuda", "cuda:1".
    precision : {"float32", "bfloat16"}, default="float32"
        "bfloat16" trains with convolutions in half the bits: faster on GPUs and on processors with instructions for it
        (AVX512-BF16, AMX), slower elsewhere. Evidence and predictions are computed in float32 either way.
    n_jobs : int or None, default=None
        How many candidates of a generation of the search are trained at the same time, in processes of joblib's, on a
        CPU; -1 is one for each core. Each has one thread then, and the result is the same whatever the number. None is
        what a surrounding ``joblib.parallel_config`` says, and else trains them one after the other with all threads of
        torch.
    random_state : int, RandomState instance or None, default=None
        Fixes the split, the initial weights, the mini-batches and the search.
    verbose : int, default=0
        1 shows a progress bar; 2 also logs a line for each candidate.

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

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseEquivariantNAS._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }
    _objective = CLASSIFICATION
    classes_: NDArray[Any]

    def __init__(
        self,
        group: str | PointGroup | Subgroup = "D4",
        search: str | Search = "evolutionary",
        *,
        architecture: str | Architecture = "auto",
        width: int | None = None,
        basis: str = "auto",
        circular_mask: bool | str = "auto",
        augment: str = "none",
        image_shape: tuple[int, ...] | None = None,
        max_epochs: float | None = None,
        batch_size: int = 64,
        learning_rate: float = 0.005,
        weight_decay: float = 0.01,
        class_weight: dict[Any, float] | str | None = None,
        validation_fraction: float = 0.2,
        early_stopping: bool = False,
        n_iter_no_change: int = 10,
        time_budget: float | None = None,
        warm_start: bool = False,
        callback: Callable[[FitProgress], bool | None] | None = None,
        device: str = "auto",
        precision: str = "float32",
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            group,
            search,
            architecture=architecture,
            width=width,
            basis=basis,
            circular_mask=circular_mask,
            augment=augment,
            image_shape=image_shape,
            max_epochs=max_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            validation_fraction=validation_fraction,
            early_stopping=early_stopping,
            n_iter_no_change=n_iter_no_change,
            time_budget=time_budget,
            warm_start=warm_start,
            callback=callback,
            device=device,
            precision=precision,
            n_jobs=n_jobs,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    @property
    def _n_outputs(self) -> int:
        return len(self.classes_)

    @property
    def _target_checks(self) -> dict[str, Any]:
        return {}

    def _check_weights(self, X: NDArray[Any], y: NDArray[Any], sample_weight: Any) -> NDArray[np.float64] | None:
        weights = super()._check_weights(X, y, sample_weight)
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


class EquivariantNASRegressor(RegressorMixin, BaseEquivariantNAS):
    """Predict numbers from images, and learn which rotations and mirrors leave them unchanged.

    ``fit`` searches for the constraints of a convolutional network: which symmetries, layer by layer, the task really
    has. The chosen network is then trained on all of the data. The targets are standardised within.

    Parameters
    ----------
    group : str, PointGroup, Subgroup, or a group or gspace of escnn, default="D4"
        The largest symmetry to consider. "C4" holds the four quarter turns, "D4" mirrors as well; in general, "C" and
        "D" with the number of rotations, such as "C8" for multiples of 45 degrees. "D1(90)" is the left-right mirror,
        whose axis stands upright. All subgroups are searched.
    search : {"evolutionary", "differentiable", "random", "none"} or search object, default="evolutionary"
        How to search; "none" keeps the whole group. An object such as ``EvolutionarySearch(n_generations=6)`` sets
        more.
    architecture : {"auto", "paper"} or Architecture, default="auto"
        The shape of the network. "auto" suits the images, "paper" is 8 layers of 16 and 32 fields with kernel 5.
    width : int or None, default=None
        Channels of the first layers of an "auto" architecture (it is an error with another); None lets it choose.
    basis : {"auto", "pixel", "harmonic"}, default="auto"
        What filters are made of. "pixel" is exact for quarter turns and mirrors; "harmonic", rings with waves around
        them, can turn by any angle, to a few percent on pixels. "auto" is "pixel" where that is exact.
    circular_mask : bool or "auto", default="auto"
        Whether the images are cut to a disc, as their corners cannot turn by any angle. "auto" does where the group
        has other elements than quarter turns and the mirrors in between.
    augment : {"none", "continuous"}, default="none"
        "continuous" turns the images of the final training by random angles, if the model is to look the same under
        all rotations of the group (and there are any), and mirrors them at random, if under mirrors too. With
        ``search="none"`` and ``group="C1"``, an ordinary CNN, they are always turned. The search, which is to find out
        what the images look like, never turns any, nor is a learned mixture (``discretize=False``) trained so.
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
    time_budget : float or None, default=None
        Seconds for the whole of ``fit``, checked at every mini-batch. Search and final training are shortened alike
        where they would take longer. What was tried then depends on the speed of the machine.
    warm_start : bool, default=False
        Another ``fit`` goes on with the search where the last one ended (it was interrupted or out of time, or may now
        have more generations), and with the network's weights where its constraints stay. What is random follows from
        the first fit's ``random_state``.
    callback : callable or None, default=None
        Called with a `FitProgress` after each generation of the search and each epoch of the final training. When it
        returns True, the search, or the training, ends there.
    device : str, default="auto"
        "auto" is CUDA when available, else the CPU; or "cpu", "cuda", "cuda:1".
    precision : {"float32", "bfloat16"}, default="float32"
        "bfloat16" trains with convolutions in half the bits: faster on GPUs and on processors with instructions for it
        (AVX512-BF16, AMX), slower elsewhere. Evidence and predictions are computed in float32 either way.
    n_jobs : int or None, default=None
        How many candidates of a generation of the search are trained at the same time, in processes of joblib's, on a
        CPU; -1 is one for each core. Each has one thread then, and the result is the same whatever the number. None is
        what a surrounding ``joblib.parallel_config`` says, and else trains them one after the other with all threads of
        torch.
    random_state : int, RandomState instance or None, default=None
        Fixes the split, the initial weights, the mini-batches and the search.
    verbose : int, default=0
        1 shows a progress bar; 2 also logs a line for each candidate.

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
    target_scaler_: StandardScaler

    @property
    def _n_outputs(self) -> int:
        return len(self.target_scaler_.scale_)

    @property
    def _target_checks(self) -> dict[str, Any]:
        return {"multi_output": True, "y_numeric": True}

    def _encode_targets(self, y: NDArray[Any], weights: NDArray[np.float64] | None, earlier: Self | None) -> Tensor:
        self._flat_target = y.ndim == 1
        columns = y.reshape(len(y), -1).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            if earlier is not None and len(earlier.target_scaler_.scale_) != columns.shape[1]:
                raise ValueError(
                    f"warm_start=True needs targets as in the earlier fit, {len(earlier.target_scaler_.scale_)} for "
                    f"each image; y has {columns.shape[1]}. Set warm_start=False to start anew."
                )
            if earlier is None:
                self.target_scaler_ = StandardScaler().fit(columns, sample_weight=weights)
            scaled = self.target_scaler_.transform(columns).astype(np.float32)
        if not (np.isfinite(scaled).all() and np.isfinite(self.target_scaler_.scale_).all()):
            raise ValueError("y has values so large that their squares overflow. Scale y to a smaller range.")
        return torch.from_numpy(scaled)

    def _known_targets(self, y: NDArray[Any]) -> Tensor:
        columns = y.reshape(len(y), -1).astype(np.float64)
        if columns.shape[1] != self._n_outputs:
            raise ValueError(f"y has {columns.shape[1]} targets for each image; in fit there were {self._n_outputs}.")
        return torch.from_numpy(self.target_scaler_.transform(columns).astype(np.float32))

    def _strata(self, y: NDArray[Any], n_validation: int) -> NDArray[Any] | None:
        return None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _output_layer(self) -> nn.Module:
        layer = undrawn(nn.Linear, self._n_outputs, self._n_outputs, dtype=torch.float32)
        with torch.no_grad():
            layer.weight.copy_(torch.diag(torch.from_numpy(self.target_scaler_.scale_)))
            layer.bias.copy_(torch.from_numpy(self.target_scaler_.mean_))
        return layer

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
