"""From images to orbits, and from what an estimator says of copies to one answer about the image."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    MetaEstimatorMixin,
    _fit_context,
    clone,
    is_classifier,
    is_regressor,
)
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state, get_tags
from sklearn.utils._metadata_requests import _routing_enabled
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_method_params, _check_sample_weight, check_is_fitted, has_fit_parameter
from torch import Tensor

from skequinas.estimators.classifier import EquivariantNASClassifier
from skequinas.estimators.near import at_once
from skequinas.estimators.preparation import group_for, images_of, read_first, read_more
from skequinas.estimators.regressor import EquivariantNASRegressor
from skequinas.evidence import LearnedSymmetry
from skequinas.groups import PointGroup, Subgroup, parse_group, pixel_elements
from skequinas.io.stored import StoredImages, taken_from
from skequinas.runtime.devices import resolve_device
from skequinas.runtime.process import fitting_state
from skequinas.symmetrized.canonical import Canonicalizer, learn_poses
from skequinas.symmetrized.orbits import in_the_layout_of, ordered_orbits
from skequinas.training import CLASSIFICATION, REGRESSION, Objective

__all__ = ["BaseSymmetrized"]

MODES = "average", "augment", "canonical", "weighted"

_BYTES_AT_ONCE = 256 * 1024**2
"""Of the copies that the estimator is asked about at a time."""


class BaseSymmetrized(MetaEstimatorMixin, BaseEstimator):
    """What both wrappers share."""

    estimator_: Any
    group_: PointGroup
    image_shape_: tuple[int, ...]
    n_features_in_: int
    canonicalizer_: Canonicalizer
    learned_symmetry_: LearnedSymmetry
    _asked_by: str

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [HasMethods(["fit", "predict"])],
        "group": [str, PointGroup, Subgroup, HasMethods("irrep")],  # the last: of escnn
        "mode": [StrOptions(set(MODES))],
        "flatten": ["boolean"],
        "image_shape": [tuple, list, None],
        "max_epochs": [Interval(Real, 0, None, closed="neither")],
        "device": [str],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: Any,
        group: str | PointGroup | Subgroup = "D4",
        mode: Literal["average", "augment", "canonical", "weighted"] = "average",
        *,
        flatten: bool = True,
        image_shape: tuple[int, ...] | None = None,
        max_epochs: float = 20,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.group = group
        self.mode = mode
        self.flatten = flatten
        self.image_shape = image_shape
        self.max_epochs = max_epochs
        self.device = device
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, **fit_params: Any) -> Self:
        """Fit the estimator, and what else the mode needs.

        Parameters
        ----------
        X : array-like of shape (n, features), (n, H, W), (n, H, W, C) or (n, C, H, W)
            Images, or rows that `image_shape` says how to read.
        y : array-like of shape (n,), or what else the estimator takes
            Class labels, or numbers.
        sample_weight : array-like of shape (n,), optional
            Handed to the estimator, which must take it, and used where poses are learned.
        **fit_params
            Handed to the estimator's ``fit``, as ``svc__sample_weight`` for a pipeline; what has a value for each image
            is given for each of its copies.

        Returns
        -------
        self
        """
        before = dict(vars(self))
        try:
            return self._fit(X, y, sample_weight, fit_params)
        except BaseException:
            self.__dict__.clear()  # a fit that fails leaves an earlier model as it was
            self.__dict__.update(before)
            raise

    def _fit(self, X: Any, y: Any, sample_weight: Any, fit_params: dict[str, Any]) -> Self:
        self._check_kind()
        checks: dict[str, Any] = {} if is_classifier(self) else {"multi_output": True, "y_numeric": True}
        given = X
        X, y, self.image_shape_ = read_first(self, X, y, **checks)
        if is_classifier(self):
            check_classification_targets(y)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        if _routing_enabled():
            named = {} if weights is None else {"sample_weight": weights}
            own = dict(process_routing(self, "fit", **named, **fit_params).estimator.fit)
        else:
            own = dict(fit_params)
            if weights is not None and not has_fit_parameter(self.estimator, "sample_weight"):
                raise ValueError(
                    f"sample_weight was given, but {type(self.estimator).__name__} has none in its fit. Leave it out, "
                    "or name the step that takes it, as in fit(X, y, svc__sample_weight=...)."
                )
            own |= {} if weights is None else {"sample_weight": weights}
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        for name in ("learned_symmetry_", "canonicalizer_"):
            self.__dict__.pop(name, None)
        images = images_of(X, self.image_shape_)
        self.group_ = self._group(given, y, weights, images, seed)
        self._asked_by = self.mode
        with fitting_state():
            chosen, rows = self._chosen(images, y, weights, seed)
        shown = self._shown(chosen)
        own = _check_method_params(X, own, rows)
        self.estimator_ = clone(self.estimator).fit(shown, y[rows], **own)
        self._learn_rule(shown)
        return self

    def _check_kind(self) -> None:
        """Raise an error for an estimator of the other kind."""
        other, wrapper = (is_regressor, "Regressor") if is_classifier(self) else (is_classifier, "Classifier")
        if other(self.estimator):
            raise ValueError(
                f"estimator={self.estimator!r} is none for {type(self).__name__}. Take Symmetrized{wrapper}."
            )

    def _learn_rule(self, shown: NDArray[Any]) -> None:
        """Find out how predictions follow from what the estimator says, given what it was fitted to."""

    def _group(
        self, X: Any, y: NDArray[Any], weights: NDArray[np.float64] | None, images: Tensor | StoredImages, seed: int
    ) -> PointGroup:
        """The group to be invariant to: as the user says, or as the data do."""
        asked = self.group
        padded = self.n_features_in_ < math.prod(self.image_shape_)
        if isinstance(asked, str) and asked == "learned":
            kind = EquivariantNASClassifier if is_classifier(self) else EquivariantNASRegressor
            model: Any = kind("D4", image_shape=self.image_shape, device=self.device, random_state=seed)
            self.learned_symmetry_ = model.fit(X, y, weights).learned_symmetry_
            return PointGroup.from_name(self.learned_symmetry_.group)
        whole = parse_group(asked)
        pixels = whole.generate(pixel_elements(whole)).as_group
        if pixels != whole:
            raise ValueError(
                f"group={whole.name!r} has elements that interpolate pixels, after which predictions would not be the "
                f"same. Pass group={pixels.name!r}, whose elements move pixels."
            )
        return group_for(whole, self.n_features_in_, images, padded=padded)[0]

    def _chosen(
        self, images: Tensor | StoredImages, y: NDArray[Any], weights: NDArray[np.float64] | None, seed: int
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """The images that the estimator is fitted to, and of which rows of y they are."""
        n, order = len(images), self.group_.order
        rows, step = np.arange(n), max(1, at_once(images) // order)
        if self.mode == "average" or order == 1:
            return torch.cat(list(images.split(at_once(images)))), rows
        if self.mode == "augment":
            orbits = [ordered_orbits(part, self.group_)[0].flatten(0, 1) for part in images.split(step)]
            return torch.cat(orbits), np.repeat(rows, order)
        # the first is the same of all copies of an image, and so is what is learned of them
        first = torch.cat([ordered_orbits(part, self.group_)[0][:, 0] for part in images.split(step)])
        self.canonicalizer_ = self._learn_poses(first, y, weights, seed)
        generator, parts = torch.Generator().manual_seed(seed), []
        several = 1 if self.mode == "canonical" else order
        for part in first.split(step):
            copies, _ = ordered_orbits(part, self.group_)
            probabilities = self.canonicalizer_(copies)
            if self.mode == "canonical":
                drawn = probabilities.argmax(1, keepdim=True)
            else:
                drawn = torch.multinomial(probabilities, order, replacement=True, generator=generator)
            parts.append(copies[torch.arange(len(part))[:, None], drawn].flatten(0, 1))
        return torch.cat(parts), np.repeat(rows, several)

    def _learn_poses(
        self, images: Tensor, y: NDArray[Any], weights: NDArray[np.float64] | None, seed: int
    ) -> Canonicalizer:
        """What is known of images that count."""
        own = None
        if weights is not None:
            if (weights < 0).any() or not weights.any():
                raise ValueError(
                    f"sample_weight must not be negative, nor 0 for all, where mode={self.mode!r} learns poses."
                )
            kept = np.flatnonzero(weights)
            images, y, weights = images[torch.from_numpy(kept)], y[kept], weights[kept]
            own = torch.from_numpy((weights / weights.mean()).astype(np.float32))
        targets, n_outputs, objective = self._for_poses(y)
        return learn_poses(
            images,
            targets,
            self.group_,
            objective=objective,
            n_outputs=n_outputs,
            weights=own,
            epochs=self.max_epochs,
            seed=seed,
            device=resolve_device(self.device),
        )

    def _for_poses(self, y: NDArray[Any]) -> tuple[Tensor, int, Objective]:
        """Targets of the network that learns poses, their number, and what it is trained for."""
        if is_classifier(self):
            classes, codes = np.unique(y, return_inverse=True)
            return torch.from_numpy(codes.ravel().astype(np.int64)), len(classes), CLASSIFICATION
        scaled = StandardScaler().fit_transform(np.reshape(y, (len(y), -1)))
        return torch.from_numpy(scaled.astype(np.float32)), scaled.shape[1], REGRESSION

    def _shown(self, images: Tensor) -> NDArray[Any]:
        """Images as the estimator gets them."""
        shown = in_the_layout_of(images, self.image_shape_, flat=self.flatten)
        return shown[:, : self.n_features_in_] if self.flatten else shown  # rows that are no images were filled up

    def _answers(self, X: ArrayLike, method: str) -> NDArray[Any]:
        """What the estimator says about images, as one answer of those about their copies."""
        check_is_fitted(self)
        ask = getattr(self.estimator_, method)
        images = taken_from(read_more(self, X, self.image_shape_), self.image_shape_)
        values = 8 * self.group_.order * math.prod(images.shape[1:])
        found = []
        for part in images.split(max(1, _BYTES_AT_ONCE // values)):
            copies, weights = self._asked_about(part)
            said = ask(self._shown(copies.flatten(0, 1)))
            if copies.shape[1] == 1:
                found.append(np.asarray(said))
                continue
            said = self._as_numbers(said, method)
            said = said.reshape(*copies.shape[:2], *said.shape[1:])
            found.append(np.einsum("nk,nk...->n...", weights, said))
        return np.concatenate(found)

    def _asked_about(self, images: Tensor) -> tuple[Tensor, NDArray[np.float64]]:
        """The copies that the estimator is asked about, and how much its answers count."""
        order = self.group_.order
        if order == 1:
            return images[:, None], np.ones((len(images), 1))
        copies, weights = [], []
        for part in images.split(max(1, at_once(images) // order)):
            own, _ = ordered_orbits(part, self.group_)
            if hasattr(self, "canonicalizer_"):
                probabilities = self.canonicalizer_(own)
                if self._asked_by == "canonical":
                    own = own[torch.arange(len(part)), probabilities.argmax(1)][:, None]
                    probabilities = torch.ones(len(part), 1)
                weights.append(probabilities.numpy())
            copies.append(own)
        if not weights:
            return torch.cat(copies), np.full((len(images), order), 1 / order)
        return torch.cat(copies), np.concatenate(weights)

    def _as_numbers(self, said: Any, method: str) -> NDArray[Any]:
        return np.asarray(said)

    def canonicalize(self, X: ArrayLike) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Bring images into the pose that was learned.

        Parameters
        ----------
        X : array-like
            Images as in `fit`.

        Returns
        -------
        elements : ndarray of shape (n,)
            The number of the element of ``group_`` that moves the image returned to the one in X, as
            ``group_.element_name(number)`` says it. An image that has a symmetry of its own has several.
        images : ndarray of the shape of X
            The same for an image and for all its copies. Whole numbers of more than 8 bits come back as floats, and
            truth values as 0 and 1.

        Raises
        ------
        ValueError
            When the mode learns no poses.
        """
        check_is_fitted(self)
        if self._asked_by not in ("canonical", "weighted"):
            raise ValueError(
                f"mode={self._asked_by!r} learns no pose. Fit with mode='canonical' or mode='weighted' to canonicalize."
            )
        images = taken_from(read_more(self, X, self.image_shape_), self.image_shape_)
        inverse = np.array([self.group_.inverse(g) for g in self.group_.elements])
        elements, found = [], []
        for part in images.split(max(1, at_once(images) // self.group_.order)):
            copies, moves = ordered_orbits(part, self.group_)
            best = torch.zeros(len(part), dtype=torch.int64)
            if hasattr(self, "canonicalizer_"):  # there is none where nothing moves
                best = self.canonicalizer_(copies).argmax(1)
            elements.append(inverse[moves[np.arange(len(part)), best.numpy()]])
            found.append(copies[torch.arange(len(part)), best])
        pixels = in_the_layout_of(torch.cat(found), self.image_shape_, flat=len(np.shape(X)) == 2)
        return np.concatenate(elements), pixels[:, : self.n_features_in_] if pixels.ndim == 2 else pixels

    def get_metadata_routing(self) -> MetadataRouter:
        """What is handed to the estimator, as scikit-learn's metadata routing asks."""
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=self).add(estimator=self.estimator, method_mapping=mapping)

    def __sklearn_tags__(self) -> Any:
        """Those of the estimator that are about targets."""
        tags, own = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.target_tags.positive_only = own.target_tags.positive_only
        tags.non_deterministic = own.non_deterministic
        return tags
