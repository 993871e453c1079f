"""What the two estimators share: validate, split, search, train, report."""

from __future__ import annotations

import copy
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from os import PathLike
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from skequinas._compat import CallbackSupportMixin
from skequinas.groups import PointGroup, Subgroup, parse_group
from skequinas.images import Preprocessing, as_images, infer_image_shape
from skequinas.monitor import FitProgress, Monitor
from skequinas.networks import Architecture, EquivariantNetwork, default_architecture, paper_architecture
from skequinas.search import NoSearch, Search, resolve_search, run_search
from skequinas.search.loop import SEARCHES
from skequinas.state import fitting_state, worker_threads
from skequinas.symmetry import LearnedSymmetry, measured_change
from skequinas.training import (
    DataPart,
    DivergenceError,
    Objective,
    TrainingSettings,
    evaluate,
    mean_with_error,
    n_steps,
    resolve_device,
    train,
)

_PREDICTION_BATCH = 512
_MEASURED_IMAGES = 512


@dataclass(frozen=True)
class _Split:
    """The whole of the data, and its two parts where something is held out."""

    whole: DataPart
    training: DataPart
    validation: DataPart | None


class _Session:
    """One fit, after all input is checked: the search, the final training, and how they share the time."""

    def __init__(
        self, search: Search, split: _Split, training: TrainingSettings, epochs: float, seed: int, monitor: Monitor
    ) -> None:
        self.search, self.split, self.training, self.epochs, self.seed = search, split, training, epochs, seed
        self.monitor = monitor
        self.network: EquivariantNetwork
        self.history: list[dict[str, float]] = []
        self._parent: EquivariantNetwork | None = None
        self._step_seconds = self._report_seconds = 0.0

    def n_batches(self, trainings: float) -> int:
        """The mini-batches of so many full trainings."""
        return n_steps(len(self.split.whole), trainings * self.epochs, self.training.batch_size)

    def shrink_to_budget(self) -> None:
        """With a time budget, time a few steps, and shorten search and training alike where they would not fit."""
        budget = self.monitor.time_budget
        if budget is None:
            return
        network = EquivariantNetwork(self.search.architecture_, torch.Generator().manual_seed(self.seed))
        network.to(self.split.whole.images.device, torch.float32)
        ticks = [time.perf_counter()]
        with suppress(DivergenceError):
            train(
                network,
                self.split.whole,
                self.training,
                6 / self.n_batches(1) * self.epochs,
                seed=self.seed,
                on_step=lambda: ticks.append(time.perf_counter()),
            )
        self._step_seconds = float(np.median(np.diff(ticks)))  # the first steps are slower
        # what follows the training: the change under every element, a forward pass (a third of a step) each
        measured = min(_MEASURED_IMAGES, len(self.split.validation or self.split.whole))
        passes = self.search.architecture_.group.order + 2
        self._report_seconds = passes * measured / self.training.batch_size / 3 * self._step_seconds
        self._shorten(
            1.15 * self.n_batches(1) * self._step_seconds, budget - self.monitor.seconds - self._report_seconds
        )

    def _shorten(self, training: float, available: float) -> None:
        """Shorten everything alike, given the seconds of a full training and those that are available.

        What the user has set in the search stays as it is. If it takes more than half of the time, the search will be
        cut off, and the final training gets the other half.
        """

        def search_seconds(share: float) -> float:
            self.search.epochs_ = share * self.epochs
            return share * self.search.cost() * training

        fixed = search_seconds(1e-6)
        final = 0.0 if self.search.keeps_network else training
        shared = final + search_seconds(1.0) - fixed
        share = (available - fixed) / shared if fixed <= available / 2 else available / 2 / training
        share = float(np.clip(share, 1e-3, 1.0))
        self.search.epochs_ = self.epochs = share * self.epochs

    def go_on(self, earlier: Search, network: EquivariantNetwork) -> None:
        """Take over an earlier search with its population, and its network as a start where the shape is the same."""
        mine, device = self.search, self.split.whole.images.device
        if type(earlier) is not type(mine) or earlier.architecture_ != mine.architecture_:
            raise ValueError(
                f"warm_start=True goes on with the {type(earlier).__name__} of the earlier fit, which began with "
                f"{earlier.architecture_!r}; this one is to be a {type(mine).__name__} that begins with "
                f"{mine.architecture_!r}. Keep search, group, image size, width and number of outputs, or set "
                "warm_start=False."
            )
        for name in ("generation_", "population_", "records_", "shares_", "evidence_"):
            setattr(mine, name, copy.copy(getattr(earlier, name)))
        for evaluation in mine.population_:
            evaluation.network.to(device)
        self._parent = copy.deepcopy(network).to(device)

    def search_symmetry(self) -> None:
        """Run the search, for as long as the budget allows beside the final training."""
        budget = self.monitor.time_budget
        if self.split.validation is None:
            return
        if budget is not None:
            final = 0.0 if self.search.keeps_network else 1.15 * self.n_batches(1) * self._step_seconds
            half = max(budget - self.monitor.seconds, 0.0) / 2
            self.monitor.reserve(min(final + self._report_seconds, half))
        run_search(self.search, self.split.training, self.split.validation, self.monitor)
        if self.monitor.out_of_time and not self.search.population_:
            warnings.warn(
                f"time_budget={budget:g} seconds ended the search before it had tried anything to its end: the "
                f"symmetry of the model is where the search began, not what it found. Increase time_budget, or reduce "
                "max_epochs or the search's own epochs.",
                ConvergenceWarning,
                stacklevel=5,
            )

    def train_finally(self, early_stopping: bool, patience: int | None) -> None:
        """Train the chosen architecture from the start on all data, or up to an early stop on the training part."""
        chosen = self.search.result()
        architecture = self.search.architecture_ if chosen is None else chosen.architecture
        if chosen is not None and architecture.is_mixed:
            self.network = chosen.network  # the learned mixture itself is the model
            return
        if self._parent is not None and self._parent.architecture == architecture:
            self.network = self._parent
        else:
            network = EquivariantNetwork(architecture, torch.Generator().manual_seed(self.seed))
            self.network = network.to(self.split.whole.images.device, torch.float32)
        epochs = self.epochs
        if self.monitor.time_budget is not None:
            self.monitor.reserve(self._report_seconds)
            left = self.monitor.time_budget - self._report_seconds - self.monitor.seconds
            epochs = min(epochs, epochs * left / (1.05 * self.n_batches(1) * self._step_seconds))
        self.monitor.expect(self.n_batches(1))

        def on_epoch(row: dict[str, float]) -> bool:
            self.history.append(row)
            return self.monitor.epoch_over(row, self.network)

        train(
            self.network,
            self.split.training if early_stopping else self.split.whole,
            self.training,
            max(epochs, 1e-9),
            seed=self.seed,
            validation=self.split.validation if early_stopping else None,
            patience=patience,
            on_step=self.monitor.step,
            on_epoch=on_epoch,
        )

    def keep_best(self) -> bool:
        """After an interruption: the better of the search's choice and the network in training, if there is any."""
        chosen = self.search.result()
        networks = [] if chosen is None else [chosen.network]
        if self.history:
            networks.append(self.network)
        if networks:
            whole = self.split.whole
            self.network = min(
                networks, key=lambda network: mean_with_error(evaluate(network, whole)[0], whole.sample_weights())[0]
            )
        return bool(networks)


class BaseEquivariantNAS(CallbackSupportMixin, BaseEstimator, ABC):
    """What the classifier and the regressor share.

    They differ in the targets, the objective and what an output means.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "group": [str, PointGroup, Subgroup],
        "search": [StrOptions(set(SEARCHES)), Search],
        "architecture": [StrOptions({"auto", "paper"}), Architecture],
        "width": [Interval(Integral, 1, None, closed="left"), None],
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
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    _objective: ClassVar[Objective]
    preprocessing_: Preprocessing
    module_: nn.Sequential
    _seed: int

    def __init__(
        self,
        group: str | PointGroup | Subgroup = "D4",
        search: str | Search = "evolutionary",
        *,
        architecture: str | Architecture = "auto",
        width: int | None = None,
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
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.group = group
        self.search = search
        self.architecture = architecture
        self.width = width
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
        with fitting_state():
            context = self._init_callback_context(max_subtasks=None)
            context.call_on_fit_task_begin(estimator=self, X=X, y=y, metadata={"sample_weight": sample_weight})
            monitor.hooks = partial(self._call_hooks, context, X, y, sample_weight)
            self._fit(X, y, sample_weight, monitor)
            context.call_on_fit_task_end(
                estimator=self, X=X, y=y, metadata={"sample_weight": sample_weight}, reconstruction_attributes=dict
            )
        return self

    def _fit(self, X: Any, y: Any, sample_weight: Any, monitor: Monitor) -> None:
        search = resolve_search(self.search)
        goes_on = self.warm_start and hasattr(self, "module_")
        earlier = copy.copy(self) if goes_on else None
        self.__dict__.pop("module_", None)  # a fit that fails leaves no model of earlier data behind
        needs_validation = self.early_stopping or not isinstance(search, NoSearch)
        X, y_checked = self._check(X, y, fitting=True, n_min=4 if needs_validation else 2)
        device = resolve_device(self.device)
        images = as_images(X, self.image_shape_)
        weights = self._check_weights(X, y_checked, sample_weight)
        targets = self._encode_targets(y_checked, weights, earlier)
        data, y_checked = self._data(images, targets, y_checked, weights, device, earlier, 4 if needs_validation else 2)
        seed = self._draw_seed() if earlier is None else earlier._seed
        split = self._split(data, y_checked, seed) if needs_validation else _Split(data, data, None)
        architecture = self._initial_architecture(data, device)
        training = TrainingSettings(self.learning_rate, batch_size=self.batch_size, weight_decay=self.weight_decay)
        epochs = self.max_epochs or float(np.clip(round(32_000 / len(data)), 4, 80))

        search.start(architecture, epochs, training, seed)
        session = _Session(search, split, training, epochs, seed, monitor)
        session.shrink_to_budget()
        if earlier is not None:
            session.go_on(earlier.search_, earlier.network_)
        self._seed = seed
        try:
            with monitor.watching(session.n_batches(1 + search.cost())):
                session.search_symmetry()
                session.train_finally(self.early_stopping, self.n_iter_no_change if self.early_stopping else None)
        except KeyboardInterrupt:
            if not session.keep_best():
                raise
            warnings.warn(
                f"fit was interrupted; the model is the best network so far ({session.network.architecture}), trained "
                f"in part. With warm_start=True another fit goes on.",
                stacklevel=4,
            )
        self.history_ = _columns(session.history)
        self._report(search, split, session.network)

    def _call_hooks(
        self, context: Any, X: Any, y: Any, sample_weight: Any, task: str, network: EquivariantNetwork
    ) -> bool:
        """Pass the end of a generation or an epoch on to scikit-learn's callbacks. Whether one wants to stop."""
        subcontext = context.subcontext(task_name=task)
        values = {"estimator": self, "X": X, "y": y, "metadata": {"sample_weight": sample_weight}}
        subcontext.call_on_fit_task_begin(**values)
        training = network.training
        try:
            return bool(
                subcontext.call_on_fit_task_end(
                    **values, reconstruction_attributes=lambda: {"module_": network.eval().to_plain().cpu()}
                )
            )
        finally:
            network.train(training)

    def _check(self, X: Any, y: Any = None, *, fitting: bool = False, n_min: int = 1) -> tuple[NDArray[Any], Any]:
        """X as finite rows, with y beside it when fitting; otherwise X must have the image shape that was fitted."""
        X = X.numpy(force=True) if isinstance(X, Tensor) else np.asarray(X) if isinstance(X, list | tuple) else X
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
        return weights

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

    def _split(self, whole: DataPart, y: NDArray[Any], seed: int) -> _Split:
        """Hold a part of the data out, with at least two samples on either side."""
        n = len(whole)
        n_validation = min(n - 2, max(2, round(self.validation_fraction * n)))
        rows = train_test_split(
            np.arange(n), test_size=n_validation, stratify=self._strata(y, n_validation), random_state=seed
        )
        training, validation = (whole.subset(np.sort(part)) for part in rows)
        return _Split(whole, training, validation)

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
            return given
        group = parse_group(self.group)
        if self.architecture == "paper":
            return paper_architecture(group, size, channels, n_outputs)
        return default_architecture(
            group, size, channels, n_outputs, n_samples=len(data), device=device, width=self.width
        )

    def _report(self, search: Search, split: _Split, network: EquivariantNetwork) -> None:
        """Set the fitted attributes that tell what was found."""
        self.network_ = network.eval()
        plain = network.to_plain()
        self.architecture_ = network.architecture
        self.n_parameters_ = self.architecture_.n_parameters
        self.search_ = search
        self.search_results_ = _columns(search.records_)
        images = (split.validation or split.whole).images[:_MEASURED_IMAGES]
        self.learned_symmetry_ = LearnedSymmetry(
            self.architecture_.group.name,
            self.architecture_.symmetry.name,
            dict(zip(self.architecture_.layer_names, self.architecture_.constraint_names, strict=True)),
            measured_change(lambda x: self._respond(plain(x)), self.preprocessing_(images), self.architecture_.group),
            search.shares_,
            search.evidence_,
        )
        # what is kept lies on the CPU, so that a model can be loaded where there is no GPU
        search.pending_ = []
        for module in (self.network_, self.preprocessing_, *(e.network for e in search.population_)):
            module.cpu()
        self.module_ = plain.cpu()

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a model to predict with."""
        return hasattr(self, "module_")

    def _outputs(self, X: ArrayLike) -> NDArray[np.float64]:
        """The responses of the network to X, in float64."""
        check_is_fitted(self)
        X, _ = self._check(X)
        images = as_images(X, self.image_shape_)
        device = resolve_device(self.device)
        network = nn.Sequential(self.preprocessing_, self.module_)
        if device.type != "cpu":
            network = copy.deepcopy(network).to(device)
        with worker_threads(), torch.inference_mode():
            parts = [self._respond(network(x.to(device))) for x in images.split(_PREDICTION_BATCH)]
            return torch.cat(parts).double().cpu().numpy()

    def to_torch(self) -> nn.Sequential:
        """The fitted model as one plain torch network, with the preprocessing and the meaning of the outputs inside.

        Returns
        -------
        torch.nn.Sequential
            From raw images (n, channels, height, width) of any real type, as they were in `fit`, to probabilities in
            the order of ``classes_``, or to targets (n, n_outputs). It lies on the CPU, in eval mode.

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
        with warnings.catch_warnings():
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
