"""From images to orbits, and from what an estimator says of copies to one answer about the image."""

from __future__ import annotations

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
)
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state, get_tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, has_fit_parameter
from torch import Tensor

from skequinas.estimators.classifier import EquivariantNASClassifier
from skequinas.estimators.near import at_once
from skequinas.estimators.preparation import group_for, read_first, read_more
from skequinas.estimators.regressor import EquivariantNASRegressor
from skequinas.evidence import LearnedSymmetry
from skequinas.groups import PointGroup, Subgroup, parse_group, pixel_elements
from skequinas.io.stored import taken_from
from skequinas.runtime.devices import resolve_device
from skequinas.runtime.process import fitting_state
from skequinas.symmetrized.canonical import Canonicalizer, learn_poses
from skequinas.symmetrized.orbits import in_the_layout_of, ordered_orbits
from skequinas.training import CLASSIFICATION, REGRESSION

__all__ = ["BaseSymmetrized"]

MODES = "average", "augment", "canonical", "weighted"


class BaseSymmetrized(MetaEstimatorMixin, BaseEstimator):
    """What both wrappers share."""

    estimator_: Any
    group_: PointGroup
    image_shape_: tuple[int, ...]
    n_features_in_: int
    canonicalizer_: Canonicalizer
    learned_symmetry_: LearnedSymmetry

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [HasMethods(["fit", "predict"])],
        "group": [str, PointGroup, Subgroup, object],  # other libraries have groups too
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
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the estimator, and what else the mode needs.

        Parameters
        ----------
        X : array-like of shape (n, features), (n, H, W), (n, H, W, C) or (n, C, H, W)
            Images, or rows that `image_shape` says how to read.
        y : array-like of shape (n,), or what else the estimator takes
            Class labels, or numbers.
        sample_weight : array-like of shape (n,), optional
            Handed to the estimator, which must take it.

        Returns
        -------
        self
        """
        several = get_tags(self).target_tags.multi_output
        checks: dict[str, Any] = {} if is_classifier(self) else {"multi_output": several, "y_numeric": True}
        X, y, self.image_shape_ = read_first(self, X, y, **checks)
        if is_classifier(self):
            check_classification_targets(y)
        weights = None
        if sample_weight is not None:
            if not has_fit_parameter(self.estimator, "sample_weight"):
                raise ValueError(
                    f"sample_weight was given, but {type(self.estimator).__name__} has none in its fit. Leave it out, "
                    "or take another estimator."
                )
            weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        self.group_ = self._group(X, y, weights, seed)
        with fitting_state():
            images = _in_memory(X, self.image_shape_)
            chosen, rows = self._chosen(images, y, weights, seed)
        own = {} if weights is None else {"sample_weight": weights[rows]}
        self.estimator_ = clone(self.estimator).fit(self._shown(chosen), y[rows], **own)
        return self

    def _group(self, X: Any, y: NDArray[Any], weights: NDArray[np.float64] | None, seed: int) -> PointGroup:
        """The group to be invariant to: as the user says, or as the data do."""
        self.__dict__.pop("learned_symmetry_", None)
        asked = self.group
        if isinstance(asked, str) and asked == "learned":
            kind = EquivariantNASClassifier if is_classifier(self) else EquivariantNASRegressor
            model: Any = kind("D4", image_shape=self.image_shape_, device=self.device, random_state=seed)
            self.learned_symmetry_ = model.fit(X, y, weights).learned_symmetry_
            return PointGroup.from_name(self.learned_symmetry_.group)
        whole = parse_group(asked)
        pixels = whole.generate(pixel_elements(whole)).as_group
        if pixels != whole:
            raise ValueError(
                f"group={whole.name!r} has elements that interpolate pixels, after which predictions would not be the "
                f"same. Pass group={pixels.name!r}, whose elements move pixels."
            )
        images = _in_memory(X[:1], self.image_shape_)
        padded = self.n_features_in_ < int(np.prod(self.image_shape_))
        return group_for(whole, self.n_features_in_, images, padded=padded)[0]

    def _chosen(
        self, images: Tensor, y: NDArray[Any], weights: NDArray[np.float64] | None, seed: int
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """The images that the estimator is fitted to, and of which rows of y they are."""
        self.__dict__.pop("canonicalizer_", None)
        n, order = len(images), self.group_.order
        rows = np.arange(n)
        if self.mode == "average" or order == 1:
            return images, rows
        copies, _ = ordered_orbits(images, self.group_)
        if self.mode == "augment":
            return copies.flatten(0, 1), np.repeat(rows, order)
        first = copies[:, 0]  # the same of all copies of an image, and so is what is learned of them
        counts = np.ones(n, dtype=bool) if weights is None else weights > 0
        own = None if weights is None else torch.from_numpy((weights[counts] / weights[counts].mean()).astype("f4"))
        targets, n_outputs, objective = self._for_poses(y)
        kept = torch.from_numpy(np.flatnonzero(counts))
        self.canonicalizer_ = learn_poses(
            first[kept],
            targets[kept],
            self.group_,
            objective=objective,
            n_outputs=n_outputs,
            weights=own,
            epochs=self.max_epochs,
            seed=seed,
            device=resolve_device(self.device),
        )
        probabilities = self._probabilities(copies)
        if self.mode == "canonical":
            return copies[torch.arange(n), probabilities.argmax(1)], rows
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(probabilities, order, replacement=True, generator=generator)
        return copies[torch.arange(n)[:, None], drawn].flatten(0, 1), np.repeat(rows, order)

    def _for_poses(self, y: NDArray[Any]) -> tuple[Tensor, int, Any]:
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

    def _probabilities(self, copies: Tensor) -> Tensor:
        """Those of ordered copies."""
        step = at_once(copies[:, 0]) // copies.shape[1] + 1
        return torch.cat([self.canonicalizer_(part) for part in copies.split(step)])

    def _answers(self, X: ArrayLike, method: str) -> NDArray[np.float64]:
        """What the estimator says about images, as one answer of those about their copies."""
        check_is_fitted(self)
        ask = getattr(self.estimator_, method)
        images = taken_from(read_more(self, X, self.image_shape_), self.image_shape_)
        found = []
        for part in images.split(at_once(images) // self.group_.order + 1):
            copies, weights = self._asked_about(part)
            said = ask(self._shown(copies.flatten(0, 1)))
            said = self._as_numbers(said, method)
            said = said.reshape(*copies.shape[:2], *said.shape[1:])
            found.append(np.einsum("nk,nk...->n...", weights, said))
        return np.concatenate(found)

    def _asked_about(self, images: Tensor) -> tuple[Tensor, NDArray[np.float64]]:
        """The copies that the estimator is asked about, and how much its answers count."""
        copies, _ = ordered_orbits(images, self.group_)
        n, order = copies.shape[:2]
        if not hasattr(self, "canonicalizer_"):
            return copies, np.full((n, order), 1 / order)
        probabilities = self._probabilities(copies)
        if self.mode == "weighted":
            return copies, probabilities.numpy()
        return copies[torch.arange(n), probabilities.argmax(1)][:, None], np.ones((n, 1))

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
            The same for an image and for all its copies.

        Raises
        ------
        ValueError
            When the mode learns no poses.
        """
        check_is_fitted(self)
        if self.mode not in ("canonical", "weighted"):
            raise ValueError(
                f"mode={self.mode!r} learns no pose. Fit with mode='canonical' or mode='weighted' to canonicalize."
            )
        images = taken_from(read_more(self, X, self.image_shape_), self.image_shape_)
        elements, found = [np.zeros(0, dtype=np.int64)], []
        for part in images.split(at_once(images) // self.group_.order + 1):
            copies, moves = ordered_orbits(part, self.group_)
            best = torch.zeros(len(part), dtype=torch.int64)
            if hasattr(self, "canonicalizer_"):
                best = self._probabilities(copies).argmax(1)
            inverse = np.array([self.group_.inverse(g) for g in self.group_.elements])
            elements.append(inverse[moves[np.arange(len(part)), best.numpy()]])
            found.append(copies[torch.arange(len(part)), best])
        pixels = in_the_layout_of(torch.cat(found), self.image_shape_, flat=len(np.shape(X)) == 2)
        return np.concatenate(elements), pixels[:, : self.n_features_in_] if pixels.ndim == 2 else pixels

    def __sklearn_tags__(self) -> Any:
        """Those of the estimator that are about targets."""
        tags, own = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.target_tags.positive_only = own.target_tags.positive_only
        tags.non_deterministic = own.non_deterministic
        return tags


def _in_memory(X: Any, image_shape: tuple[int, ...]) -> Tensor:
    images = taken_from(X, image_shape)
    return images if isinstance(images, Tensor) else torch.cat(list(images.split(at_once(images))))
