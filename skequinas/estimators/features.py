"""Features of a fitted network, in parts that stay and parts that move with the images; and measures of both.

References
----------
Garrido, Najman and LeCun, Self-supervised learning of Split Invariant Equivariant representations, 2023; Ericsson,
Gouk and Hospedales, Why Do Self-Supervised Models Transfer?, 2022.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skequinas.estimators.preparation import read_more
from skequinas.groups import Subgroup, irrep_coordinates, irrep_names, move_coordinates, pixel_elements
from skequinas.io.preprocessing import Preprocessing
from skequinas.io.stored import StoredImages, taken_from
from skequinas.nn import EquivariantNetwork, transform_images
from skequinas.nn.architecture import Architecture
from skequinas.runtime.process import full_precision, no_autocast, worker_threads
from skequinas.training.evaluation import EVALUATION_BATCH

__all__ = ["FeaturesMixin", "feature_invariance", "move_retrieval"]

Part = Literal["all", "invariant", "equivariant"]


class FeaturesMixin(TransformerMixin):
    """`transform` for an estimator with a fitted network."""

    image_shape_: tuple[int, ...]
    architecture_: Architecture
    network_: EquivariantNetwork
    preprocessing_: Preprocessing

    def transform(self, X: ArrayLike, part: Part = "all") -> NDArray[np.float64]:
        """Features of images: what the fitted network computes before its last layers.

        Parameters
        ----------
        X : array-like
            Images as in `fit`.
        part : {"all", "invariant", "equivariant"}, default="all"
            Invariant features are the same for an image that is moved by an element of the learned group. Equivariant
            ones move with it, by the group's irreducible representations; `move_features` does the same to them.

        Returns
        -------
        ndarray of shape (n, n_features)
            The invariant ones first; `get_feature_names_out` has the names of all.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from skequinas import EquivariantNASClassifier
        >>> X, y = load_digits(n_class=3, return_X_y=True)
        >>> model = EquivariantNASClassifier("C4", "none", max_epochs=2, random_state=0).fit(X, y)
        >>> model.transform(X, part="invariant").shape[1] * 4 == model.transform(X).shape[1]
        True
        """
        check_is_fitted(self)
        if part not in ("all", "invariant", "equivariant"):
            raise ValueError(f"part={part!r} must be 'all', 'invariant' or 'equivariant'.")
        images = taken_from(read_more(self, X, self.image_shape_), self.image_shape_)
        coordinates = self._features(images)
        m = coordinates.shape[1] // self._moves().order
        if part == "all":
            return coordinates
        return coordinates[:, :m] if part == "invariant" else coordinates[:, m:]

    def _features(self, images: torch.Tensor | StoredImages, move: int = 0) -> NDArray[np.float64]:
        """Those of images (n, channels, height, width), moved by an element of the search group."""
        found = []
        with worker_threads(), full_precision(), no_autocast(), torch.inference_mode():
            for batch in images.split(EVALUATION_BATCH):
                several = batch if len(batch) > 1 else torch.cat([batch, batch])  # one alone is rounded otherwise
                several = transform_images(several, self.architecture_.group, move)
                found.append(self._functions(several)[: len(batch)])
        return irrep_coordinates(np.concatenate(found).astype(np.float64), self._moves())

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the columns of `transform`: "invariant0" and so on, then "irrep1_0", "irrep4_0_1".

        Parameters
        ----------
        input_features : None
            Not used; scikit-learn passes it.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self)
        subgroup, architecture = self._moves(), self.architecture_
        n = architecture.layer_shape(architecture.n_layers - 1)["in_fields"] * architecture.group.order
        return np.array(irrep_names(n if architecture.averaged else n // subgroup.order, subgroup), dtype=object)

    def move_features(self, features: ArrayLike, element: int) -> NDArray[np.float64]:
        """The features that images would have if they were moved by an element of the learned group.

        Parameters
        ----------
        features : array-like of shape (n, n_features)
            All that `transform` returned.
        element : int
            Its number in the search group, ``architecture_.group``.

        Returns
        -------
        ndarray of shape (n, n_features)
        """
        check_is_fitted(self)
        subgroup = self._moves()
        if element not in subgroup:
            raise ValueError(
                f"element={element} is none of the learned group {subgroup.name}, whose elements are "
                f"{', '.join(map(str, subgroup.elements))}: features do not move by it."
            )
        return move_coordinates(np.asarray(features, dtype=np.float64), subgroup, element)

    def _moves(self) -> Subgroup:
        """The group that features move by."""
        return self.architecture_.averaged or self.architecture_.symmetry

    def _functions(self, images: torch.Tensor) -> NDArray[np.float32]:
        """Of every image the functions on the group that its features are, (n, m, order)."""
        subgroup, group, network = self._moves(), self.architecture_.group, self.network_
        inputs = self.preprocessing_(images)
        if self.architecture_.averaged is not None:  # of an ordinary network by all moves
            moved = (transform_images(inputs, group, group.inverse(h)) for h in subgroup.elements)
            return torch.stack([network.features(x) for x in moved], -1).numpy()
        fields = network.features(inputs).unflatten(1, (-1, group.order))
        values: NDArray[np.float32] = fields[:, :, torch.tensor(subgroup.right_cosets)].flatten(1, 2).numpy()
        return values


def feature_invariance(model: FeaturesMixin, X: ArrayLike) -> dict[str, float]:
    """How alike the invariant features of images and of moved images are.

    Parameters
    ----------
    model : EquivariantNASClassifier or EquivariantNASRegressor
        Fitted.
    X : array-like
        Images as in `fit`, best others.

    Returns
    -------
    dict
        From the name of every element of the search group that moves pixels to the mean cosine of the angle between the
        features, standardised by those of X: 1 for the elements of the learned group, and about 0 for features that
        have nothing to do with each other.
    """
    check_is_fitted(model)
    images = taken_from(read_more(model, X, model.image_shape_), model.image_shape_)
    m = model._features(images[:1]).shape[1] // model._moves().order
    own = model._features(images)[:, :m]
    mean, std = own.mean(0), own.std(0)
    varies = std > 1e-6 * np.abs(mean).max()
    if not varies.any():
        raise ValueError("X holds images that all have the same features. Pass different images.")

    def standardised(features: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = (features[:, varies] - mean[varies]) / std[varies]
        return scaled

    group = model.architecture_.group
    return {
        group.element_name(g): float(_cosine(standardised(own), standardised(model._features(images, g)[:, :m])).mean())
        for g in pixel_elements(group)
    }


def move_retrieval(model: FeaturesMixin, X: ArrayLike) -> float:
    """How well the equivariant features tell by which element of the learned group an image was moved.

    For every image and every element, the features that `move_features` predicts are compared with those of all moved
    copies of the image, by the cosine of the angle between them.

    Parameters
    ----------
    model : EquivariantNASClassifier or EquivariantNASRegressor
        Fitted, with a learned group that has a move.
    X : array-like
        Images as in `fit`, best others.

    Returns
    -------
    float
        The mean reciprocal rank of the copy that was moved by this element: 1 where it is always the nearest. Copies
        that are as near count by half, as those of an image that has the symmetry itself.
    """
    check_is_fitted(model)
    subgroup = model._moves()
    if subgroup.order == 1:
        raise ValueError("The learned group is C1, which has no move to be told by features.")
    images = taken_from(read_more(model, X, model.image_shape_), model.image_shape_)
    own = model._features(images)
    m = own.shape[1] // subgroup.order
    views = np.stack([model._features(images, h)[:, m:] for h in subgroup.elements])
    found = []
    for place, h in enumerate(subgroup.elements):
        near = np.stack([_cosine(model.move_features(own, h)[:, m:], view) for view in views]).round(6)
        rank = 1 + (near > near[place]).sum(0) + ((near == near[place]).sum(0) - 1) / 2
        found.append((1 / rank).mean())
    return float(np.mean(found))


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the angles between rows; 0 where one of them is 0."""
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine: NDArray[np.float64] = (a * b).sum(1) / np.where(length > 0, length, 1.0)
    return cosine
