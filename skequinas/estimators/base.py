"""What the two estimators share: prepare the data, search, train, report, predict."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, _fit_context, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skequinas.estimators.asked import AskedMixin
from skequinas.estimators.budget import begin_watching
from skequinas.estimators.callbacks import CallbackSupportMixin
from skequinas.estimators.export import ExportMixin
from skequinas.estimators.features import FeaturesMixin
from skequinas.estimators.keeping import begin, first_seed
from skequinas.estimators.parameters import Parameters, constraints_of
from skequinas.estimators.predicting import alone_or_not, versions
from skequinas.estimators.preparation import prepare, read_more
from skequinas.estimators.session import Session
from skequinas.estimators.start import check_averaging, initial_architecture, training_settings
from skequinas.estimators.together import check_alike, check_can_be_shared, tried_in_all
from skequinas.evidence.measures import Measures, layer_distances, measure
from skequinas.evidence.report import LearnedSymmetry
from skequinas.groups import is_foreign, parse_group
from skequinas.io.preprocessing import Preprocessing
from skequinas.io.stored import StoredImages, taken_from
from skequinas.nn.networks import EquivariantNetwork
from skequinas.runtime.devices import resolve_device
from skequinas.runtime.process import fitting_state, full_precision, kept_memory, no_autocast, worker_threads
from skequinas.search import NoSearch, resolve_search
from skequinas.training import Monitor, Objective
from skequinas.training.evaluation import EVALUATION_BATCH

__all__ = ["BaseEquivariantNAS"]

DOC_LINK = "https://skequinas.readthedocs.io/en/stable/api/skequinas.{estimator_name}.html"
"""Where the page of a class stands, for the link in the diagram of an estimator in a notebook."""


class BaseEquivariantNAS(AskedMixin, FeaturesMixin, ExportMixin, CallbackSupportMixin, BaseEstimator, Parameters, ABC):
    """What the classifier and the regressor share.

    They differ in the targets, the objective and what an output means.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = constraints_of(Parameters)
    _doc_link_module = "skequinas"
    _doc_link_template = DOC_LINK
    objective: ClassVar[Objective]
    label_smoothing: float = 0.0  # what a regressor has, which has no labels
    learned_symmetry_: LearnedSymmetry
    preprocessing_: Preprocessing
    module_: nn.Sequential
    _seed: int
    _n_samples: int

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        validation_data: tuple[ArrayLike, ...] | None = None,
    ) -> Self:
        """Search for the symmetry of the task, then train the chosen network on all of the data.

        Parameters
        ----------
        X : array-like of shape (n, features), (n, H, W), (n, H, W, C) or (n, C, H, W)
            Images, or rows that `image_shape` says how to read.
        y : array-like of shape (n,) or (n, n_outputs)
            Class labels, or one or several numbers for each image.
        sample_weight : array-like of shape (n,), optional
            How much each sample counts, in training and in validation. A sample of weight 0 is left out.
        groups : array-like of shape (n,), optional
            Which images are not independent of each other, by a label for each: the patient, the object, the field of
            view. A group never stands on both sides of a split, and counts as one in every test of a symmetry. Copies
            of an image, moved or not, are found without; images that are nearly copies too, with a warning.
        validation_data : tuple (X, y) or (X, y, groups), optional
            What is held out for the search and for early stopping, instead of a ``validation_fraction`` of X; then all
            of X is for training.

        Returns
        -------
        self
        """
        monitor = begin_watching(self.verbose, self.time_budget, self.callback)
        told: dict[str, Any] = {"estimator": self, "X": X, "y": y}
        given = {"sample_weight": sample_weight, "groups": groups, "validation_data": validation_data}
        metadata = {name: value for name, value in given.items() if value is not None}
        if metadata:
            told["metadata"] = metadata
        with fitting_state(), kept_memory():
            context = self._init_callback_context(max_subtasks=None)
            before = dict(vars(self))
            try:
                context.call_on_fit_task_begin(**told)
                monitor.hooks = partial(self._call_hooks, context, told)
                self._fit(X, y, monitor, metadata)
            except BaseException:
                self.__dict__.clear()  # a fit that fails leaves an earlier model as it was
                self.__dict__.update(before)
                raise
            context.call_on_fit_task_end(**told, reconstruction_attributes=dict)
        return self

    def _fit(self, X: Any, y: Any, monitor: Monitor, metadata: dict[str, Any]) -> None:
        search = resolve_search(self.search)
        check_can_be_shared(self)
        earlier = copy.copy(self) if self.warm_start and hasattr(self, "module_") else None
        self.__dict__.pop("module_", None)
        self._seed = first_seed(self.random_state, self.checkpoint, None if earlier is None else earlier._seed)
        hold_out = self.early_stopping or not isinstance(search, NoSearch)
        data: dict[str, Any] = {"X": X, "y": y, **metadata}
        device, seed = resolve_device(self.device), self._seed
        prepared = tried_in_all(
            lambda: prepare(self, **data, device=device, seed=seed, hold_out=hold_out, earlier=earlier)
        )
        given, checkpoint = {"y": y, **metadata}, None
        check_alike(self, self._seed, prepared.split.whole.images, given, earlier)
        if self.checkpoint is not None:
            checkpoint = begin(self.checkpoint, self, self._seed, prepared.split.whole.images, given)
            monitor.started -= checkpoint.spent()
            checkpoint.set_clock(monitor.seconds)
        self.__dict__.pop("_class_factors", None)  # of use for the data alone
        self.image_shape_, self.preprocessing_, split = prepared.image_shape, prepared.preprocessing, prepared.split
        self._n_samples = len(split.whole) if earlier is None else earlier._n_samples
        start = partial(
            initial_architecture,
            self,
            split.whole,
            prepared.group,
            n_outputs=self._n_outputs,
            n_samples=self._n_samples,
            least_fields=search.least_fields,
        )
        architecture, lighter = start(), None
        if self.architecture == "auto" and self.width is None and (self.time_budget is not None or earlier is not None):
            lighter = start(light=True)
        if earlier is not None and earlier.search_.architecture_.with_constraints(()) == lighter:
            architecture = earlier.search_.architecture_
        training = training_settings(self)
        epochs = self.max_epochs or float(np.clip(round(32_000 / len(split.whole)), 4, 80))

        augment = "none" if prepared.is_padded and self.augment == "auto" else self.augment
        check_averaging(self, search, prepared.group)
        # small networks, and those that the user has chosen, stay as they are
        averaging = self.averaging == "auto" and self.architecture == "auto" and any(architecture.shortcuts)
        search.start(
            architecture,
            epochs,
            training,
            self._seed,
            by_curve=self.max_epochs is None,
            averaging=averaging and self.augment != "group",
            augmented=augment == "auto",
        )
        session = Session(search, split, training, epochs, self._seed, monitor, checkpoint)
        session.plan_budget(lighter if earlier is None else None)
        if earlier is not None:
            session.go_on(earlier.search_, self._for_training(earlier.network_))
        try:
            with monitor.watching(session.n_batches(1 + search.full_cost())):
                session.search_symmetry(self.n_jobs)
                session.train_finally(
                    self.early_stopping,
                    self.n_iter_no_change if self.early_stopping else None,
                    augment=augment,
                    always_averaged=self.averaging == "always",
                )
                session.compare_with_simple_models()
        except KeyboardInterrupt:
            if self.on_interrupt == "raise" or not session.keep_best():
                raise
            warnings.warn(
                f"fit was interrupted; the model is the best network so far ({session.network.architecture}), trained "
                f"in part. With warm_start=True another fit goes on.",
                stacklevel=4,
            )
        self.history_, self.augmentation_ = _columns(session.history), str(session.moves)
        self.budget_record_ = session.budget_record()
        self._report(session, prepared.remark)

    def _call_hooks(self, context: Any, told: dict[str, Any], task: str, network: EquivariantNetwork) -> bool:
        """Pass the end of a generation or an epoch on to scikit-learn's callbacks. Whether one wants to stop."""
        subcontext = context.subcontext(task_name=task)
        subcontext.call_on_fit_task_begin(**told)
        training = network.training

        def model() -> dict[str, nn.Module]:
            own = copy.deepcopy(network).cpu().eval()
            return {"network_": own, "module_": own.to_plain()}

        try:
            return bool(subcontext.call_on_fit_task_end(**told, reconstruction_attributes=model))
        finally:
            network.train(training)

    def _report(self, session: Session, remark: str) -> None:
        """Set the fitted attributes that tell what was found."""
        search, split = session.search, session.split
        self.network_ = self._for_user(session.network).eval()
        plain = self.network_.to_plain()
        self.architecture_ = self.network_.architecture
        self.n_parameters_ = self.architecture_.n_parameters
        self.search_ = search
        self.search_results_ = _columns(search.records_)
        group, averaged = self.architecture_.group, self.architecture_.averaged
        n_measured = session.n_measured
        if averaged is not None:  # each image takes as many passes
            n_measured = max(min(16, n_measured), n_measured // averaged.order)
        inputs = self.preprocessing_((split.validation or split.whole).images[:n_measured])
        measures = Measures.unknown(group)
        try:
            respond, settings = lambda x: self._respond(plain(x)), {"probabilities": is_classifier(self)}
            measures = Measures(*session.once("measures", lambda: [*measure(respond, inputs, group, **settings)]))
            if bool((split.whole.targets != split.whole.targets[0]).any()):
                self._warn_of_constant(plain, inputs)
        except KeyboardInterrupt:
            if session.interrupted or self.on_interrupt == "raise":
                raise
            warnings.warn(
                "fit was interrupted after the training: the change of the output is not measured.", stacklevel=5
            )
        self.learned_symmetry_ = LearnedSymmetry(
            group.name,
            self.architecture_.symmetry.name,
            dict(zip(self.architecture_.layer_names, self.architecture_.constraint_names, strict=True)),
            measures.change,
            layer_weights=search.shares_,
            evidence=search.evidence_,
            level=search.level,
            lie_derivative=measures.lie_derivative,
            effective_invariance=measures.effective_invariance,
            layer_distances=layer_distances(self.network_),
            share_history=search.share_history_,
            regression=not is_classifier(self),
            remark=remark,
            n_batches=session.asked_batches(),
            averaged=averaged is not None,
            margin=search.margin_,
        )
        # what is kept lies on the CPU, so that a model can be loaded where there is no GPU
        search.pending_, search.best_ = [], None
        for module in (self.network_, self.preprocessing_, *(e.network for e in search.kept)):
            module.cpu()
        self.module_ = plain.cpu()
        self._fitted_versions = versions(self.network_, self.module_)

    def _warn_of_constant(self, network: nn.Module, inputs: Tensor) -> None:
        """Say so where the network gives the same for every image, as after a training with too high a rate."""
        with torch.inference_mode():
            outputs = network(inputs[:EVALUATION_BATCH])
        if bool((outputs == outputs[0]).all()) and bool((inputs != inputs[0]).any()):
            warnings.warn(
                f"The network gives the same output for every image: nothing was learned. Reduce "
                f"learning_rate={self.learning_rate:g}, or weight_decay={self.weight_decay:g}, or train for longer.",
                ConvergenceWarning,
                stacklevel=5,
            )

    def __getstate__(self) -> Any:
        """What is pickled: a group of another library, which may not be able to, becomes ours."""
        state = super().__getstate__()
        if self.__sklearn_is_fitted__() and not self._is_as_fitted():
            state = state | {"_fitted_versions": None}
        if is_foreign(state["group"]):
            state = state | {"group": parse_group(state["group"])}
        return state

    def __setstate__(self, state: Any) -> None:
        """Networks that come from elsewhere belong together if they did so there."""
        super().__setstate__(state)
        if self.__dict__.get("_fitted_versions") is not None:
            self._fitted_versions = versions(self.network_, self.module_)

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a model to predict with."""
        return hasattr(self, "module_")

    def _rows(self, X: Any) -> NDArray[Any] | StoredImages:
        """Images to predict for, as finite rows or where they are; they must be as those in `fit`."""
        return read_more(self, X, self.image_shape_)

    def _is_as_fitted(self) -> bool:
        """Whether ``network_`` and ``module_`` are as `fit` left them, and so the same function."""
        return self.__dict__.get("_fitted_versions") == versions(self.network_, self.module_)

    def _outputs(self, X: ArrayLike) -> NDArray[np.float64]:
        """The responses of the network to X, in float64."""
        check_is_fitted(self)
        images = taken_from(self._rows(X), self.image_shape_)
        device = self._prediction_device()
        preprocessing, plain = self.preprocessing_, self.module_
        fast = self.network_ if device.type == "cpu" and self._is_as_fitted() else None
        if device.type != "cpu":
            preprocessing, plain = copy.deepcopy(preprocessing).to(device), copy.deepcopy(plain).to(device)
        several = kept_memory() if len(images) > EVALUATION_BATCH else nullcontext()
        with worker_threads(), several, full_precision(), no_autocast(), torch.inference_mode():
            respond = alone_or_not(plain, fast, reduced=self.precision == "bfloat16")
            parts = [self._respond(respond(preprocessing(x.to(device)))) for x in images.split(EVALUATION_BATCH)]
            outputs: NDArray[np.float64] = torch.cat(parts).double().cpu().numpy()
        if not np.isfinite(outputs).all():
            row = int(np.flatnonzero(~np.isfinite(outputs).all(axis=1))[0])
            raise ValueError(
                f"X has values so large that the network's outputs are not finite (row {row}). Scale X as it was in "
                "fit."
            )
        return outputs

    def _known_weights(self, codes: NDArray[Any]) -> NDArray[np.float64] | None:
        """The weights of other images, given their targets by `_known_targets`."""
        return None

    def _prediction_device(self) -> torch.device:
        """The device to predict on: a model that was trained with CUDA predicts without it too."""
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            warnings.warn(f"device={self.device!r} is not available here; the CPU predicts instead.", stacklevel=5)
            return torch.device("cpu")
        return resolve_device(self.device)

    @property
    @abstractmethod
    def _n_outputs(self) -> int:
        """The width of the head."""

    @property
    @abstractmethod
    def _target_checks(self) -> dict[str, Any]:
        """How scikit-learn is to check y."""

    def _weighted(self, y: NDArray[Any], weights: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        """The weights of the samples, given those that the user gave."""
        return weights

    @abstractmethod
    def _encode_targets(self, y: NDArray[Any], weights: NDArray[np.float64] | None, earlier: Self | None) -> Tensor:
        """The targets as the objective takes them; sets what `predict` needs to go back.

        After an earlier fit that this one goes on with, what goes back is as it was there.
        """

    @abstractmethod
    def _known_targets(self, y: NDArray[Any]) -> Tensor:
        """The targets of other images, encoded as those in `fit` were."""

    @abstractmethod
    def _strata(self, targets: NDArray[Any], n_validation: int) -> NDArray[Any] | None:
        """The encoded targets whose shares the split keeps, if any."""

    @abstractmethod
    def _for_user(self, network: EquivariantNetwork) -> EquivariantNetwork:
        """The network with its outputs as users know them, not as they were coded for training."""

    @abstractmethod
    def _for_training(self, network: EquivariantNetwork) -> EquivariantNetwork:
        """The inverse of `_for_user`."""

    @abstractmethod
    def _as_trained(self, targets: Tensor) -> Tensor:
        """Targets of `_known_targets` as they are coded for training."""

    @abstractmethod
    def _respond(self, outputs: Tensor) -> Tensor:
        """Outputs of the network to probabilities or scaled targets."""


def _columns(rows: list[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """Rows to columns."""
    names = [name for name in (rows[0] if rows else {}) if name in rows[-1]]  # rows from files of before have fewer
    return {name: np.array([row[name] for row in rows]) for name in names}
