"""What the two estimators share: validate, split, search, train, report."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from numbers import Integral, Real
from os import PathLike
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, _fit_context, is_classifier
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted, validate_data
from torch import Tensor, nn

from skequinas._compat import CallbackSupportMixin
from skequinas._session import Session, Split
from skequinas.architecture import Architecture, default_architecture, paper_architecture
from skequinas.bases import BASES
from skequinas.groups import PointGroup, Subgroup, parse_group
from skequinas.images import Preprocessing, as_images, infer_image_shape
from skequinas.monitor import FitProgress, Monitor
from skequinas.moves import pixel_elements, transform_images
from skequinas.networks import EquivariantNetwork
from skequinas.search import NoSearch, Search, resolve_search
from skequinas.search.loop import SEARCHES
from skequinas.state import fitting_state, kept_memory, no_autocast, worker_threads
from skequinas.symmetry import (
    LearnedSymmetry,
    effective_invariance,
    layer_distances,
    lie_derivative,
    measured_change,
    moved_outputs,
)
from skequinas.training import EVALUATION_BATCH, PRECISIONS, DataPart, Objective, TrainingSettings, resolve_device


class BaseEquivariantNAS(CallbackSupportMixin, BaseEstimator, ABC):
    """What the classifier and the regressor share.

    They differ in the targets, the objective and what an output means.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "group": [str, PointGroup, Subgroup, HasMethods("irrep")],  # the last: of escnn
        "search": [StrOptions(set(SEARCHES)), Search],
        "architecture": [StrOptions({"auto", "paper"}), Architecture],
        "width": [Interval(Integral, 1, None, closed="left"), None],
        "basis": [StrOptions({"auto", *BASES})],
        "circular_mask": ["boolean", StrOptions({"auto"})],
        "augment": [StrOptions({"none", "continuous"})],
        "image_shape": ["array-like", None],
        "max_epochs": [Interval(Real, 0, None, closed="neither"), None],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "early_stopping": ["boolean"],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "time_budget": [Interval(Real, 0, None, closed="neither"), None],
        "warm_start": ["boolean"],
        "callback": [callable, None],
        "device": [str],
        "precision": [StrOptions(set(PRECISIONS))],
        "n_jobs": [Interval(Integral, None, -1, closed="right"), Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    _objective: ClassVar[Objective]
    preprocessing_: Preprocessing
    module_: nn.Sequential
    _seed: int
    _n_samples: int

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
        self.group = group
        self.search = search
        self.architecture = architecture
        self.width = width
        self.basis = basis
        self.circular_mask = circular_mask
        self.augment = augment
        self.image_shape = image_shape
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.n_iter_no_change = n_iter_no_change
        self.time_budget = time_budget
        self.warm_start = warm_start
        self.callback = callback
        self.device = device
        self.precision = precision
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Search for the symmetry of the task, then train the chosen network on all of the data.

        Parameters
        ----------
        X : array-like of shape (n, features), (n, H, W), (n, H, W, C) or (n, C, H, W)
            Images, or rows that `image_shape` says how to read.
        y : array-like of shape (n,) or (n, n_outputs)
            Class labels, or one or several numbers for each image.
        sample_weight : array-like of shape (n,), optional
            How much each sample counts, in training and in validation. A sample of weight 0 is left out.

        Returns
        -------
        self
        """
        monitor = Monitor(self.verbose, self.time_budget, self.callback)
        told: dict[str, Any] = {"estimator": self, "X": X, "y": y}
        if sample_weight is not None:
            told["metadata"] = {"sample_weight": sample_weight}
        with fitting_state(), kept_memory():
            context = self._init_callback_context(max_subtasks=None)
            before = dict(vars(self))
            try:
                context.call_on_fit_task_begin(**told)
                monitor.hooks = partial(self._call_hooks, context, told)
                self._fit(X, y, sample_weight, monitor)
            except BaseException:
                self.__dict__.clear()  # a fit that fails leaves an earlier model as it was
                self.__dict__.update(before)
                raise
            context.call_on_fit_task_end(**told, reconstruction_attributes=dict)
        return self

    def _fit(self, X: Any, y: Any, sample_weight: Any, monitor: Monitor) -> None:
        search = resolve_search(self.search)
        earlier = copy.copy(self) if self.warm_start and hasattr(self, "module_") else None
        self.__dict__.pop("module_", None)
        needs_validation = self.early_stopping or not isinstance(search, NoSearch)
        n_min = 4 if needs_validation else 2
        X, y = self._check(X, y, fitting=True, n_min=n_min)
        if earlier is not None and earlier.image_shape_ != self.image_shape_:
            raise ValueError(
                f"warm_start=True needs images of the shape of the earlier fit, {earlier.image_shape_}; X has images "
                f"of shape {self.image_shape_}. Set warm_start=False to start anew."
            )
        device = resolve_device(self.device)
        images = as_images(X, self.image_shape_)
        weights = self._check_weights(X, y, sample_weight)
        targets = self._encode_targets(y, weights, earlier)
        data, y = self._data(images, targets, y, weights, device, earlier, n_min)
        self._seed = self._draw_seed() if earlier is None else earlier._seed
        self._n_samples = len(data) if earlier is None else earlier._n_samples
        split = self._split(data, y, self._seed) if needs_validation else Split(data, data, None)
        architecture = self._initial_architecture(data, device)
        training = TrainingSettings(
            self.learning_rate,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            precision=self.precision,
        )
        epochs = self.max_epochs or float(np.clip(round(32_000 / len(data)), 4, 80))

        search.start(architecture, epochs, training, self._seed)
        session = Session(search, split, training, epochs, self._seed, monitor)
        session.shrink_to_budget()
        if earlier is not None:
            session.go_on(earlier.search_, earlier.network_)
        try:
            with monitor.watching(session.n_batches(1 + search.cost())):
                session.search_symmetry(self.n_jobs)
                session.train_finally(
                    self.early_stopping,
                    self.n_iter_no_change if self.early_stopping else None,
                    augment=self.augment == "continuous",
                )
        except KeyboardInterrupt:
            if not session.keep_best():
                raise
            warnings.warn(
                f"fit was interrupted; the model is the best network so far ({session.network.architecture}), trained "
                f"in part. With warm_start=True another fit goes on.",
                stacklevel=4,
            )
        self.history_ = _columns(session.history)
        self._report(session)

    def _call_hooks(self, context: Any, told: dict[str, Any], task: str, network: EquivariantNetwork) -> bool:
        """Pass the end of a generation or an epoch on to scikit-learn's callbacks. Whether one wants to stop."""
        subcontext = context.subcontext(task_name=task)
        subcontext.call_on_fit_task_begin(**told)
        training = network.training
        try:
            return bool(
                subcontext.call_on_fit_task_end(
                    **told, reconstruction_attributes=lambda: {"module_": network.eval().to_plain().cpu()}
                )
            )
        finally:
            network.train(training)

    def _check(self, X: Any, y: Any = None, *, fitting: bool = False, n_min: int = 1) -> tuple[NDArray[Any], Any]:
        """X as finite rows, with y beside it when fitting; otherwise X must have the image shape that was fitted."""
        X = _as_array(X)
        shape = tuple(X.shape[1:]) if getattr(X, "ndim", 2) > 2 else None
        if shape is not None:
            X = X.reshape(X.shape[0], math.prod(shape))
        kind = getattr(getattr(X, "dtype", None), "kind", "f")
        if kind in "mMV":
            raise TypeError(
                f"X has dtype {X.dtype}, but images must hold numbers. Convert it, as with X.astype(float)."
            )
        if fitting:
            X, y = validate_data(self, X, y, ensure_min_samples=n_min, **self._target_checks)
            self.image_shape_ = infer_image_shape(shape or X.shape[1:], self.image_shape)
            return X, y
        X = validate_data(self, X, reset=False)
        if shape is not None and shape != self.image_shape_:
            raise ValueError(
                f"X has images of shape {shape}, but {type(self).__name__} was fitted with images of shape "
                f"{self.image_shape_}."
            )
        return X, None

    def _check_weights(self, X: NDArray[Any], y: NDArray[Any], sample_weight: Any) -> NDArray[np.float64] | None:
        """The sample weights, not negative and not all zero, or None."""
        if sample_weight is None:
            return None
        weights: NDArray[np.float64] = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        if not weights.any():
            raise ValueError("sample_weight is zero for every sample. Give some samples a positive weight.")
        return relative_weights(weights)

    def _data(
        self,
        images: Tensor,
        targets: Tensor,
        y: NDArray[Any],
        weights: NDArray[np.float64] | None,
        device: torch.device,
        earlier: Self | None,
        n_min: int,
    ) -> tuple[DataPart, NDArray[Any]]:
        """All data of positive weight, on the device, and their y."""
        importance = None
        if weights is not None:
            kept = np.flatnonzero(weights)
            if len(kept) < n_min:
                raise ValueError(
                    f"sample_weight leaves {len(kept)} samples of positive weight, but {type(self).__name__} needs at "
                    f"least {n_min} to be fitted. Give more samples a positive weight."
                )
            if len(kept) < len(weights):
                rows = torch.from_numpy(kept)
                images, targets, y, weights = images[rows], targets[rows], y[kept], weights[kept]
            importance = torch.from_numpy((weights / weights.mean()).astype(np.float32)).to(device)
        images = images.to(device)
        preprocessing = Preprocessing(images) if earlier is None else copy.deepcopy(earlier.preprocessing_)
        self.preprocessing_ = preprocessing.to(device)
        return DataPart(images, targets.to(device), self.preprocessing_, self._objective, importance), y

    def _draw_seed(self) -> int:
        """The number that everything random in a fit follows from."""
        # without a seed, fresh entropy: numpy's global state is left alone
        rng = np.random.RandomState() if self.random_state is None else check_random_state(self.random_state)
        return int(rng.randint(np.iinfo(np.int32).max))

    def _split(self, whole: DataPart, y: NDArray[Any], seed: int) -> Split:
        """Hold a part of the data out, with at least two samples on either side.

        Copies of an image, moved or not, stay together: a network that has seen one is no witness about another.
        """
        first, copy_of = _distinct(whole.images, parse_group(self.group))
        if len(first) < 4:  # too few to be kept apart
            first = copy_of = np.arange(len(whole))
        n = len(first)
        n_validation = min(n - 2, max(2, round(self.validation_fraction * n)))
        parts = train_test_split(
            np.arange(n), test_size=n_validation, stratify=self._strata(y[first], n_validation), random_state=seed
        )
        training, validation = (whole.subset(np.flatnonzero(np.isin(copy_of, part))) for part in parts)
        return Split(whole, training, validation)

    def _initial_architecture(self, data: DataPart, device: torch.device) -> Architecture:
        channels, size = data.images.shape[1], max(data.images.shape[2:])
        n_outputs = self._n_outputs
        if self.width is not None and self.architecture != "auto":
            raise ValueError(f"width={self.width} goes with architecture='auto' only. Set one of the two.")
        if isinstance(self.architecture, Architecture):
            given = self.architecture
            if given.group != parse_group(self.group):
                raise ValueError(
                    f"architecture has the search group {given.group}, but group={str(self.group)!r}. Pass "
                    f"group={given.group.name!r} too."
                )
            if (given.image_size, given.in_channels, given.n_outputs) != (size, channels, n_outputs):
                raise ValueError(
                    f"architecture is for {given.in_channels} channels of {given.image_size}x{given.image_size} pixels "
                    f"and {given.n_outputs} outputs; the data need {channels} channels of {size}x{size} pixels and "
                    f"{n_outputs} outputs."
                )
            for name, value in (("basis", self.basis), ("circular_mask", self.circular_mask)):
                if value not in ("auto", getattr(given, name)):
                    raise ValueError(
                        f"{name}={value!r}, but the architecture has {getattr(given, name)!r}. Leave {name}='auto'."
                    )
            return given
        group = parse_group(self.group)
        mask = None if self.circular_mask == "auto" else bool(self.circular_mask)
        options: dict[str, Any] = {"basis": self.basis, "circular_mask": mask}
        if self.architecture == "paper":
            return paper_architecture(group, size, channels, n_outputs, **options)
        options |= {"n_samples": self._n_samples, "device": device, "width": self.width}
        return default_architecture(group, size, channels, n_outputs, **options)

    def _report(self, session: Session) -> None:
        """Set the fitted attributes that tell what was found."""
        search, split = session.search, session.split
        self.network_ = session.network.eval()
        plain = self.network_.to_plain()
        self.architecture_ = self.network_.architecture
        self.n_parameters_ = self.architecture_.n_parameters
        self.search_ = search
        self.search_results_ = _columns(search.records_)
        images = (split.validation or split.whole).images[: session.n_measured]
        group = self.architecture_.group
        changes, invariance, derivative = {group.element_name(g): math.nan for g in group.elements}, None, math.nan
        try:
            inputs = self.preprocessing_(images)
            outputs = moved_outputs(lambda x: self._respond(plain(x)), inputs, group)
            changes = measured_change(outputs, group)
            if is_classifier(self):
                invariance = effective_invariance(outputs, group)
            derivative = lie_derivative(lambda x: self._respond(plain(x)), inputs)
        except KeyboardInterrupt:
            warnings.warn(
                "fit was interrupted after the training: the change of the output is not measured.", stacklevel=5
            )
        self.learned_symmetry_ = LearnedSymmetry(
            group.name,
            self.architecture_.symmetry.name,
            dict(zip(self.architecture_.layer_names, self.architecture_.constraint_names, strict=True)),
            changes,
            layer_weights=search.shares_,
            evidence=search.evidence_,
            level=search.level,
            lie_derivative=derivative,
            effective_invariance=invariance,
            layer_distances=layer_distances(self.network_),
            share_history=search.share_history_,
            regression=not is_classifier(self),
        )
        # what is kept lies on the CPU, so that a model can be loaded where there is no GPU
        search.pending_ = []
        for module in (self.network_, self.preprocessing_, *(e.network for e in search.population_)):
            module.cpu()
        self.module_ = plain.cpu()

    def __getstate__(self) -> Any:
        """What is pickled: a group of escnn, which cannot be, becomes ours."""
        state = super().__getstate__()
        if type(state["group"]).__module__.startswith("escnn."):
            state = state | {"group": parse_group(state["group"])}
        return state

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a model to predict with."""
        return hasattr(self, "module_")

    def _outputs(self, X: ArrayLike) -> NDArray[np.float64]:
        """The responses of the network to X, in float64."""
        check_is_fitted(self)
        X, _ = self._check(X)
        images = as_images(X, self.image_shape_)
        device = self._prediction_device()
        network = nn.Sequential(self.preprocessing_, self.module_)
        if device.type != "cpu":
            network = copy.deepcopy(network).to(device)
        with worker_threads(), no_autocast(), torch.inference_mode():
            parts = [self._respond(network(x.to(device))) for x in images.split(EVALUATION_BATCH)]
            return torch.cat(parts).double().cpu().numpy()

    def _held_out(self, X: ArrayLike, y: ArrayLike) -> DataPart:
        """Images and targets that were not in `fit`, as the fitted network takes them."""
        check_is_fitted(self)
        X, _ = self._check(X)
        check_consistent_length(X, y)
        targets = self._known_targets(np.asarray(y))
        return DataPart(as_images(X, self.image_shape_), targets, self.preprocessing_, self._objective)

    def _prediction_device(self) -> torch.device:
        """The device to predict on: a model that was trained with CUDA predicts without it too."""
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            warnings.warn(f"device={self.device!r} is not available here; the CPU predicts instead.", stacklevel=5)
            return torch.device("cpu")
        return resolve_device(self.device)

    def to_torch(self) -> nn.Sequential:
        """The fitted model as one plain torch network, with the preprocessing and the meaning of the outputs inside.

        Returns
        -------
        torch.nn.Sequential
            From raw images (n, channels, height, width) of any real type, on the scale that they had in `fit`, to
            probabilities in the order of ``classes_``, or to targets (n, n_outputs). It is on the CPU, in eval mode.

        Examples
        --------
        >>> import torch
        >>> from sklearn.datasets import load_digits
        >>> from skequinas import EquivariantNASClassifier
        >>> X, y = load_digits(n_class=3, return_X_y=True)
        >>> model = EquivariantNASClassifier(search="none", max_epochs=1, random_state=0).fit(X, y)
        >>> network = model.to_torch()
        >>> network(torch.from_numpy(X[:5]).reshape(5, 1, 8, 8)).shape
        torch.Size([5, 3])
        """
        check_is_fitted(self)
        with fitting_state():
            parts = copy.deepcopy([self.preprocessing_, *self.module_])
            return nn.Sequential(*parts, self._output_layer()).eval().requires_grad_(False)

    def to_onnx(self, path: str | PathLike[str]) -> None:
        """Write the network of `to_torch` to an ONNX file, for any number of images.

        Needs the packages of ``pip install "skequinas[onnx]"``.

        Parameters
        ----------
        path : str or path-like
            The model there takes float32 "images" (n, channels, height, width) and gives "outputs".
        """
        check_is_fitted(self)
        try:
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ImportError('to_onnx needs onnx and onnxscript: pip install "skequinas[onnx]"') from error
        images = as_images(np.zeros((2, self.n_features_in_), dtype=np.float32), self.image_shape_)
        batch = torch.export.Dim("n", min=1)
        with warnings.catch_warnings(), fitting_state(), _quiet("torch.onnx"):
            warnings.simplefilter("ignore")  # of the exporter's own making
            torch.onnx.export(
                self.to_torch(),
                (images,),
                str(path),
                input_names=["images"],
                output_names=["outputs"],
                dynamic_shapes=({0: batch},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )

    @property
    @abstractmethod
    def _n_outputs(self) -> int:
        """The width of the head."""

    @property
    @abstractmethod
    def _target_checks(self) -> dict[str, Any]:
        """How scikit-learn is to check y."""

    @abstractmethod
    def _encode_targets(self, y: NDArray[Any], weights: NDArray[np.float64] | None, earlier: Self | None) -> Tensor:
        """The targets as the objective takes them; sets what `predict` needs to go back.

        After an earlier fit that this one goes on with, what goes back is as it was there.
        """

    @abstractmethod
    def _known_targets(self, y: NDArray[Any]) -> Tensor:
        """The targets of other images, encoded as those in `fit` were."""

    @abstractmethod
    def _strata(self, y: NDArray[Any], n_validation: int) -> NDArray[Any] | None:
        """The labels whose shares the split keeps, if any."""

    @abstractmethod
    def _output_layer(self) -> nn.Module:
        """From what the network puts out to what the user asks for, as a layer."""

    @abstractmethod
    def _respond(self, outputs: Tensor) -> Tensor:
        """Outputs of the network to probabilities or scaled targets."""


def _columns(rows: list[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """Rows to columns."""
    return {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else {})}


def _distinct(images: Tensor, group: PointGroup) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first of every set of images that are copies of each other, moved or not, and to which set each belongs."""
    images, keys = images.cpu(), []
    for g in pixel_elements(group):
        moved = transform_images(images, group, g).contiguous().numpy()
        keys.append([int.from_bytes(blake2b(image.tobytes(), digest_size=8).digest(), "little") for image in moved])
    lowest = np.array(keys, dtype=np.uint64).min(0)
    _, first, copy_of = np.unique(lowest, return_index=True, return_inverse=True)
    order = np.argsort(first)  # numbered by the first of each, so that without copies nothing is reordered
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[copy_of]


def relative_weights(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights relative to the largest; those that single precision cannot tell from 0 are 0."""
    relative: NDArray[np.float64] = weights / weights.max()
    relative[relative < np.finfo(np.float32).tiny] = 0.0
    return relative


def _as_array(X: Any) -> Any:
    """Tensors and lists as arrays; anything else is left to scikit-learn."""
    if isinstance(X, Tensor):
        return (X.float() if X.dtype == torch.bfloat16 else X).numpy(force=True)
    if not isinstance(X, list | tuple):
        return X
    try:
        return np.asarray(X)
    except ValueError as error:
        raise ValueError(
            f"X is a list whose entries do not make one array ({error}). Give all images the same size and channels."
        ) from error


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence a logger for a while."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
