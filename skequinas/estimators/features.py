"""Features of a fitted network, in parts that stay and parts that move with the images; and measures of both.

References
----------
Garrido, Najman and LeCun, Self-supervised learning of Split Invariant Equivariant representations, 2023; Ericsson,
Gouk and Hospedales, Why Do Self-Supervised Models Transfer?, 2022.
"""

from __future__ import annotations

import copy
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
from skequinas.nn import EquivariantNetwork, RestingNetwork, transform_images
from skequinas.nn.architecture import Architecture
from skequinas.nn.streams import fields_of_stream
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

    def transform(self, X: ArrayLike) -> NDArray[np.float64]:
        """Features of images: what the fitted network computes before its last layers.

        Invariant features are the same for an image that is moved by an element of the learned group. Equivariant ones
        move with it, by the group's irreducible representations; `move_features` does the same to them.

        Parameters
        ----------
        X : array-like
            Images as in `fit`.

        Returns
        -------
        ndarray of shape (n, n_features)
            The invariant ones first; `get_feature_names_out` has the names of all, `features` either part.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from skequinas import EquivariantNASClassifier
        >>> X, y = load_digits(n_class=3, return_X_y=True)
        >>> model = EquivariantNASClassifier("C4", "none", max_epochs=2, random_state=0).fit(X, y)
        >>> model.features(X, "invariant").shape[1] * 4 == model.transform(X).shape[1]
        True
        """
        return self.features(X)

    def features(self, X: ArrayLike, part: Part = "all", *, stream: int | None = None) -> NDArray[np.float64]:
        """What `transform` returns, or one of its two parts.

        Parameters
        ----------
        X : array-like
            Images as in `fit`.
        part : {"all", "invariant", "equivariant"}, default="all"
        stream : int, optional
            Of a network in streams, the features of this one, from 0 on: they stay and move by its own subgroup,
            ``architecture_.streams[stream]``.

        Returns
        -------
        ndarray of shape (n, n_features)
        """
        check_is_fitted(self)
        if part not in ("all", "invariant", "equivariant"):
            raise ValueError(f"part={part!r} must be 'all', 'invariant' or 'equivariant'.")
        subgroup = self._moves(stream)
        images = taken_from(read_more(self, X, self.image_shape_), self.image_shape_)
        coordinates = self._features(images, stream=stream)
        m = coordinates.shape[1] // subgroup.order
        if part == "all":
            return coordinates
        return coordinates[:, :m] if part == "invariant" else coordinates[:, m:]

    def _features(
        self, images: torch.Tensor | StoredImages, move: int = 0, stream: int | None = None
    ) -> NDArray[np.float64]:
        """Those of images (n, channels, height, width), moved by an element of the search group."""
        found, device = [], self._prediction_device()
        preprocessing, network = self.preprocessing_, self.network_
        if device.type != "cpu":
            preprocessing, network = copy.deepcopy(preprocessing).to(device), copy.deepcopy(network).to(device)
        with worker_threads(), full_precision(), no_autocast(), torch.inference_mode():
            resting = network.at_rest()
            fewest = 1 if isinstance(resting, RestingNetwork) else 2  # one alone is rounded otherwise by torch
            for batch in images.split(EVALUATION_BATCH):
                several = batch if len(batch) >= fewest else torch.cat([batch, batch])
                inputs = preprocessing(transform_images(several.to(device), self.architecture_.group, move))
                found.append(self._functions(resting, inputs, stream)[: len(batch)].cpu().numpy())
        return irrep_coordinates(np.concatenate(found).astype(np.float64), self._moves(stream))

    def get_feature_names_out(self, input_features: Any = None, *, stream: int | None = None) -> NDArray[np.object_]:
        """Names of the columns of `transform`: "invariant0" and so on, then "irrep1_0", "irrep4_0_1".

        Parameters
        ----------
        input_features : None
            Not used; scikit-learn passes it.
        stream : int, optional
            Those of `features` with this stream.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self)
        subgroup, architecture = self._moves(stream), self.architecture_
        n = architecture.layer_shape(architecture.n_layers - 1)["in_fields"]
        n = (n if stream is None else len(self._fields(stream))) * architecture.group.order
        return np.array(irrep_names(n if architecture.averaged else n // subgroup.order, subgroup), dtype=object)

    def move_features(self, features: ArrayLike, element: int, *, stream: int | None = None) -> NDArray[np.float64]:
        """The features that images would have if they were moved by an element of the learned group.

        Parameters
        ----------
        features : array-like of shape (n, n_features)
            All that `transform` returned, or `features` of the stream.
        element : int
            Its number in the search group, ``architecture_.group``.
        stream : int, optional
            Where features are those of one stream, its number.

        Returns
        -------
        ndarray of shape (n, n_features)
        """
        check_is_fitted(self)
        subgroup, whose = self._moves(stream), "learned" if stream is None else "stream's"
        if element not in subgroup:
            raise ValueError(
                f"element={element} is none of the {whose} group {subgroup.name}, whose elements are "
                f"{', '.join(map(str, subgroup.elements))}: features do not move by it."
            )
        given = np.asarray(features, dtype=np.float64)
        n = len(self.get_feature_names_out(stream=stream))
        if given.ndim != 2 or given.shape[1] != n:
            raise ValueError(
                f"features has shape {given.shape}, but must hold all {n} that transform returns of each image."
            )
        return move_coordinates(given, subgroup, element)

    def _moves(self, stream: int | None = None) -> Subgroup:
        """The group that features move by, or those of one stream."""
        if stream is None:
            return self.architecture_.averaged or self.architecture_.symmetry
        known = self.architecture_.streams
        if not known:
            raise ValueError(
                f"stream={stream!r}, but the network has none. Leave it out, or fit with search='streams'."
            )
        if type(stream) is bool or stream not in range(len(known)):
            raise ValueError(
                f"stream={stream!r}, but the network has {len(known)} streams: give 0 to {len(known) - 1}."
            )
        return known[int(stream)]

    def _fields(self, stream: int) -> list[int]:
        """Which of the fields that the head is given are of a stream."""
        architecture = self.architecture_
        n = architecture.layer_shape(architecture.n_layers - 1)["in_fields"]
        return fields_of_stream(stream, len(architecture.streams), n, architecture.fields[-1])

    def _prediction_device(self) -> torch.device:
        raise NotImplementedError

    def _functions(
        self, network: EquivariantNetwork | RestingNetwork, inputs: torch.Tensor, stream: int | None
    ) -> torch.Tensor:
        """Of every image the functions on the group that its features are, (n, m, order)."""
        subgroup, architecture = self._moves(stream), self.architecture_
        group = architecture.group
        if self.architecture_.averaged is not None:  # of an ordinary network by all moves
            moved = (transform_images(inputs, group, group.inverse(h)) for h in subgroup.elements)
            return torch.stack([network.features(x) for x in moved], -1)
        fields = network.features(inputs).unflatten(1, (-1, group.order))
        if stream is not None:
            fields = fields[:, self._fields(stream)]
        cosets = torch.tensor(subgroup.right_cosets, device=fields.device)
        functions: torch.Tensor = fields[:, :, cosets].flatten(1, 2)
        return functions


def feature_invariance(model: FeaturesMixin, X: ArrayLike, *, stream: int | None = None) -> dict[str, float]:
    """How alike the invariant features of images and of moved images are.

    Parameters
    ----------
    model : EquivariantNASClassifier or EquivariantNASRegressor
        Fitted.
    X : array-like
        Images as in `fit`, best others.
    stream : int, optional
        Of a network in streams, the features of this one.

    Returns
    -------
    dict
        From the name of every element of the search group that moves pixels to the mean cosine of the angle between the
        features, standardised by those of X: 1 for the elements of the learned group, and about 0 for features that
        have nothing to do with each other.
    """
    check_is_fitted(model)
    images = taken_from(read_more(model, X, model.image_shape_), model.image_shape_)
    subgroup = model._moves(stream)
    own = model._features(images, stream=stream)
    m = own.shape[1] // subgroup.order
    own = own[:, :m]
    mean, std = own.mean(0), own.std(0)
    varies = std > 1e-6 * np.abs(mean).max()
    if not varies.any():
        raise ValueError("X holds images that all have the same features. Pass different images.")

    def standardised(features: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = (features[:, varies] - mean[varies]) / std[varies]
        return scaled

    group = model.architecture_.group
    return {
        group.element_name(g): float(
            _cosine(standardised(own), standardised(model._features(images, g, stream)[:, :m])).mean()
        )
        for g in pixel_elements(group)
    }


def move_retrieval(model: FeaturesMixin, X: ArrayLike, *, stream: int | None = None) -> float:
    """How well the equivariant features of an image tell by what it was moved, to one who does not know the image.

    For every image and every element of the learned group, the features of the moved image are compared with the mean
    features of all other images, moved likewise by each element, by the cosine of the angle between them.

    Parameters
    ----------
    model : EquivariantNASClassifier or EquivariantNASRegressor
        Fitted, with a learned group that has a move.
    X : array-like
        Images as in `fit`, best others, which all stand in one pose, such as upright.
    stream : int, optional
        Of a network in streams, the features of this one.

    Returns
    -------
    float
        The mean reciprocal rank of the true element: 1 where it always fits best. By chance it is the mean of 1, 1/2,
        1/3 and so on up to the order of the group, .34 for D4. As it is for images whose poses are random.

    References
    ----------
    Garrido, Najman and LeCun, 2023, rank the copies of the image itself, which a network with the symmetry built in
    tells apart by construction.
    """
    check_is_fitted(model)
    subgroup = model._moves(stream)
    if subgroup.order == 1:
        raise ValueError("The learned group is C1 (or that of the stream), which has no move to be told by features.")
    images = taken_from(read_more(model, X, model.image_shape_), model.image_shape_)
    if len(images) < 2:
        raise ValueError(f"X holds {len(images)} image; give at least two, as each is compared with the others.")
    own = model._features(images, stream=stream)
    m = own.shape[1] // subgroup.order
    others = (own.sum(0) - own) / (len(own) - 1)
    expected = np.stack([model.move_features(others, h, stream=stream)[:, m:] for h in subgroup.elements])
    found = []
    for place, h in enumerate(subgroup.elements):
        moved = model._features(images, h, stream)[:, m:]
        near = np.stack([_cosine(moved, view) for view in expected]).round(6)
        rank = 1 + (near > near[place]).sum(0) + ((near == near[place]).sum(0) - 1) / 2
        found.append((1 / rank).mean())
    return float(np.mean(found))


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the angles between rows; 0 where one of them is 0."""
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine: NDArray[np.float64] = (a * b).sum(1) / np.where(length > 0, length, 1.0)
    return cosine
