"""Wrappers that make any estimator of scikit-learn invariant to the moves of a group."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skequinas.symmetrized.base import BaseSymmetrized

__all__ = ["SymmetrizedClassifier", "SymmetrizedRegressor"]


def _has(method: str) -> Any:
    """Whether the estimator has a method."""

    def check(self: BaseSymmetrized) -> bool:
        getattr(self.estimator_ if hasattr(self, "estimator_") else self.estimator, method)
        return True

    return check


_PARAMETERS = """estimator : estimator
        Any {kind} of scikit-learn, a pipeline too. It is cloned.
    group : str, PointGroup or Subgroup, default="D4"
        What predictions are to be invariant to, by elements that move pixels: a part of "D4". "learned" asks the data:
        an `{searched}` with its defaults, whose verdict is taken. For one with other settings, or for images that
        belong together, pass the ``learned_symmetry_.group`` of your own.
    mode : {{"average", "augment", "canonical", "weighted"}}, default="average"
        What the estimator is fitted to, and asked about:

        - "average": fitted to the images as they are; asked about all copies, of which the mean is taken.
        - "augment": fitted to all copies; asked in the same way.
        - "canonical": fitted to every image in the pose that was learned for it, and asked about that copy alone.
        - "weighted": fitted to copies as often as they are probable by what was learned; asked about all, of which
          the mean is taken by these probabilities.
    flatten : bool, default=True
        Whether the estimator gets rows of pixels, as most of scikit-learn's need them, or images in the shape of those
        in X, as for a pipeline that begins with a computation of features.
    image_shape : tuple of int, optional
        How a row of X is read, as in `{searched}`.
    max_epochs : float, default=20
        Of the network that learns poses, in the modes "canonical" and "weighted".
    device : str, default="auto"
        Where that network is trained.
    random_state : int, RandomState instance or None, default=None
        Of that network, of the copies that are drawn, and of group="learned". The estimator has its own."""

_ATTRIBUTES = """estimator_ : estimator
        As fitted.
    group_ : PointGroup
        The group that predictions are invariant to.
    canonicalizer_ : Canonicalizer
        From copies to their probabilities, in the modes that learn them.
    learned_symmetry_ : LearnedSymmetry
        With group="learned".
    image_shape_ : tuple of int
        How a sample is read.
    n_features_in_ : int
        Values in a sample."""

_NOTES = """Copies of an image are asked about in an order that does not depend on which of them one has. So what is
    predicted for images and for the same images moved is equal to the last bit, as long as the estimator answers the
    same when it is asked the same. Beside other images its own answers may be rounded otherwise."""

_LOOKED_AT = 256
"""Images of the fit by which the rule is found, and as many between two of them."""

_AGREE = 0.9
"""Of the labels of several classes, what has to follow: pairs of classes vote for nearly what the largest sum says."""


def _best(said: NDArray[Any]) -> NDArray[np.int64]:
    """The class that answers are for."""
    best: NDArray[np.int64] = said.argmax(1) if said.ndim > 1 else (said > 0).astype(np.int64)
    return best


def _documented(cls: Any) -> Any:
    words = {"kind": "classifier", "searched": "EquivariantNASClassifier"}
    if issubclass(cls, RegressorMixin):
        words = {"kind": "regressor", "searched": "EquivariantNASRegressor"}
    cls.__doc__ = cls.__doc__.format(parameters=_PARAMETERS.format(**words), attributes=_ATTRIBUTES, notes=_NOTES)
    return cls


@_documented
class SymmetrizedClassifier(ClassifierMixin, BaseSymmetrized):
    """Make any classifier invariant to rotations and mirrors of images.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels.
    {attributes}

    Notes
    -----
    {notes}

    Labels follow from the mean of the probabilities, or of the decision function, where those are what the estimator
    itself goes by; else, as where it has a threshold of its own, from the votes of the copies.

    References
    ----------
    Kim, Nguyen, Suleymanzade, An and Hong, Learning Probabilistic Symmetrization for Architecture Agnostic
    Equivariance, NeurIPS 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from skequinas import SymmetrizedClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = SymmetrizedClassifier(RandomForestClassifier(random_state=0), group="C4", mode="augment")
    >>> images = X.reshape(-1, 8, 8)
    >>> model = model.fit(images[:1000], y[:1000])
    >>> turned = np.rot90(images[1000:], axes=(1, 2))
    >>> bool((model.predict_proba(turned) == model.predict_proba(images[1000:])).all())
    True
    """

    _rule: str

    @property
    def classes_(self) -> NDArray[Any]:
        """The class labels."""
        check_is_fitted(self)
        classes: NDArray[Any] = self.estimator_.classes_
        return classes

    def __sklearn_tags__(self) -> Any:
        """Those of the estimator."""
        tags = super().__sklearn_tags__()
        own = get_tags(self.estimator).classifier_tags
        if own is not None:
            tags.classifier_tags.poor_score, tags.classifier_tags.multi_class = own.poor_score, own.multi_class
        return tags

    def _as_numbers(self, said: Any, method: str) -> NDArray[Any]:
        return np.asarray(said) if method != "predict" else (np.asarray(said)[:, None] == self.classes_).astype(float)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The class that the copies of every image speak for.

        Parameters
        ----------
        X : array-like
            Images as in `fit`.

        Returns
        -------
        ndarray of shape (n,)
        """
        check_is_fitted(self)
        one = self.group_.order == 1 or self._asked_by == "canonical"
        found = self._answers(X, "predict" if one else self._rule)
        labels: NDArray[Any] = found if one else self.classes_[_best(found)]
        return labels

    def _learn_rule(self, shown: NDArray[Any]) -> None:
        """Of its own rules the estimator may have others than the largest: a threshold, votes of pairs of classes."""
        shown = shown[np.random.default_rng(0).permutation(len(shown))[:_LOOKED_AT]]
        between = ((shown.astype(np.float64) + shown[::-1]) / 2).astype(shown.dtype)  # about which it is less sure
        shown = np.concatenate([shown, between])
        labels, n_classes = np.asarray(self.estimator_.predict(shown)), len(self.classes_)
        self._rule = "predict"
        for method in ("decision_function", "predict_proba"):
            if hasattr(self.estimator_, method):
                said = np.asarray(getattr(self.estimator_, method)(shown))
                alike = said.ndim == 1 or said.shape[1] == n_classes
                agree = np.mean(self.classes_[_best(said)] == labels) if alike else 0.0
                if agree >= (1.0 if n_classes == 2 else _AGREE):
                    self._rule = method

    @available_if(_has("predict_proba"))
    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """The mean probability of every class.

        Parameters
        ----------
        X : array-like
            Images as in `fit`.

        Returns
        -------
        ndarray of shape (n, n_classes)
        """
        return self._answers(X, "predict_proba")

    @available_if(_has("decision_function"))
    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """The mean of the decision function.

        Parameters
        ----------
        X : array-like
            Images as in `fit`.

        Returns
        -------
        ndarray of shape (n,) or (n, n_classes)
        """
        return self._answers(X, "decision_function")


@_documented
class SymmetrizedRegressor(RegressorMixin, BaseSymmetrized):
    """Make any regressor invariant to rotations and mirrors of images.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    Notes
    -----
    {notes}

    References
    ----------
    Kim, Nguyen, Suleymanzade, An and Hong, Learning Probabilistic Symmetrization for Architecture Agnostic
    Equivariance, NeurIPS 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import Ridge
    >>> from skequinas import SymmetrizedRegressor
    >>> X, y = load_digits(return_X_y=True)
    >>> model = SymmetrizedRegressor(Ridge(), group="D1(0)").fit(X, X.sum(axis=1))
    >>> round(model.score(X, X.sum(axis=1)), 3)
    1.0
    """

    def __sklearn_tags__(self) -> Any:
        """Those of the estimator."""
        tags, own = super().__sklearn_tags__(), get_tags(self.estimator)
        if own.regressor_tags is not None:
            tags.regressor_tags = own.regressor_tags
        tags.target_tags.multi_output = True  # if the estimator takes it, which says so itself
        return tags

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """The mean of what is predicted for the copies.

        Parameters
        ----------
        X : array-like
            Images as in `fit`.

        Returns
        -------
        ndarray of shape (n,) or (n, n_outputs)
        """
        return self._answers(X, "predict")
