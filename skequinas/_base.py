"""What the two estimators share: validate, split, search, train, report."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, _fit_context
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from tqdm.auto import tqdm

from skequinas.groups import PointGroup, Subgroup, parse_group
from skequinas.images import Preprocessing, as_images, infer_image_shape
from skequinas.networks import Architecture, EquivariantNetwork, default_architecture, paper_architecture
from skequinas.search import NoSearch, Proposal, Search, resolve_search, run_search
from skequinas.search.loop import SEARCHES
from skequinas.symmetry import LearnedSymmetry, measured_change
from skequinas.training import (
    DataPart,
    Objective,
    TrainingSettings,
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


class BaseEquivariantNAS(BaseEstimator, ABC):
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
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    _objective: ClassVar[Objective]

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
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Search for the symmetry of the task, then train the chosen network on all of the data.

        Parameters
        ----------
        X : array-like of shape (n, features), (n, H, W), (n, H, W, C) or (n, C, H, W)
            Images, or rows that `image_shape` says how to read.
        y : array-like of shape (n,) or (n, n_outputs)
            Class labels, or one or several numbers for each image.

        Returns
        -------
        self
        """
        search = resolve_search(self.search)
        needs_validation = self.early_stopping or not isinstance(search, NoSearch)
        X, y_checked = self._check(X, y, fitting=True, n_min=4 if needs_validation else 2)
        images = as_images(X, self.image_shape_)
        device = resolve_device(self.device)
        targets = self._encode_targets(y_checked).to(device)
        images = images.to(device)
        self.preprocessing_ = Preprocessing(images).to(device)
        # without a seed, fresh entropy: numpy's global state is left alone
        rng = np.random.RandomState() if self.random_state is None else check_random_state(self.random_state)
        seed = int(rng.randint(np.iinfo(np.int32).max))
        whole = DataPart(images, targets, self.preprocessing_, self._objective)
        split = self._split(whole, y_checked, seed) if needs_validation else _Split(whole, whole, None)
        architecture = self._initial_architecture(split.whole, device)
        epochs = self.max_epochs or float(np.clip(round(32_000 / len(images)), 4, 80))
        training = TrainingSettings(self.learning_rate, batch_size=self.batch_size, weight_decay=self.weight_decay)

        search.start(architecture, epochs, training, seed)
        with self._progress() as on_step:
            if split.validation is not None:
                run_search(search, split.training, split.validation, on_step)
            self._finish(search, split, epochs, training, seed, on_step)
        self._report(search, split)
        return self

    def _check(self, X: Any, y: Any = None, *, fitting: bool = False, n_min: int = 1) -> tuple[NDArray[Any], Any]:
        """X as finite rows, with y beside it when fitting; otherwise X must have the image shape that was fitted."""
        X = X.numpy(force=True) if isinstance(X, Tensor) else np.asarray(X) if isinstance(X, list | tuple) else X
        shape = tuple(X.shape[1:]) if getattr(X, "ndim", 2) > 2 else None
        if shape is not None:
            X = X.reshape(X.shape[0], math.prod(shape))
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

    def _finish(
        self, search: Search, split: _Split, epochs: float, training: TrainingSettings, seed: int, on_step: Any
    ) -> None:
        """Train the chosen architecture from the start on all data, or up to an early stop on the training part."""
        chosen = search.result()
        architecture = search.architecture_ if chosen is None else chosen.architecture
        if chosen is not None and architecture.is_mixed:
            self.network_, history = chosen.network, []  # the learned mixture itself is the model
        else:
            network = EquivariantNetwork(architecture, torch.Generator().manual_seed(seed))
            self.network_ = network.to(split.whole.images.device, torch.float32)
            last = Proposal(-1, None, search.generation_, architecture, epochs, training, seed)
            history = train(
                self.network_,
                split.training if self.early_stopping else split.whole,
                training,
                epochs,
                seed=seed,
                validation=split.validation if self.early_stopping else None,
                patience=self.n_iter_no_change if self.early_stopping else None,
                on_step=lambda: on_step(last),
            )
        self.network_.eval()
        self.history_ = _columns(history)

    def _report(self, search: Search, split: _Split) -> None:
        """Set the fitted attributes that tell what was found."""
        plain = self.network_.to_plain()
        self.architecture_ = self.network_.architecture
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
        self.module_ = plain.cpu()
        for module in (self.network_, self.preprocessing_, *(e.network for e in search.population_)):
            module.cpu()

    @contextmanager
    def _progress(self) -> Iterator[Any]:
        """A progress bar that counts mini-batches and says what is being trained."""
        with tqdm(disable=not self.verbose, unit="batch") as bar:

            def on_step(proposal: Proposal) -> None:
                stage = "final training" if proposal.number < 0 else f"generation {proposal.generation}"
                bar.set_description_str(f"{stage}: {proposal.architecture}", refresh=False)
                bar.update()

            yield on_step

    def _outputs(self, X: ArrayLike) -> NDArray[np.float64]:
        """The responses of the network to X, in float64."""
        check_is_fitted(self)
        X, _ = self._check(X)
        images = as_images(X, self.image_shape_)
        device = resolve_device(self.device)
        network = nn.Sequential(self.preprocessing_, self.module_)
        if device.type != "cpu":
            network = copy.deepcopy(network).to(device)
        with torch.inference_mode():
            parts = [self._respond(network(x.to(device))) for x in images.split(_PREDICTION_BATCH)]
        return torch.cat(parts).double().cpu().numpy()

    @property
    @abstractmethod
    def _n_outputs(self) -> int:
        """The width of the head."""

    @property
    @abstractmethod
    def _target_checks(self) -> dict[str, Any]:
        """How scikit-learn is to check y."""

    @abstractmethod
    def _encode_targets(self, y: NDArray[Any]) -> Tensor:
        """The targets as the objective takes them; sets what `predict` needs to go back."""

    @abstractmethod
    def _strata(self, y: NDArray[Any], n_validation: int) -> NDArray[Any] | None:
        """The labels whose shares the split keeps, if any."""

    @abstractmethod
    def _respond(self, outputs: Tensor) -> Tensor:
        """Outputs of the network to probabilities or scaled targets."""


def _columns(rows: list[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """Rows to columns."""
    return {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else {})}
