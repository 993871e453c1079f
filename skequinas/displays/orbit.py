"""One image under every element of a group as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from skequinas.displays.style import BLUE, ORANGE, VERMILLION, new_figure
from skequinas.estimators.base import BaseEquivariantNAS
from skequinas.estimators.classifier import EquivariantNASClassifier
from skequinas.estimators.regressor import EquivariantNASRegressor
from skequinas.io.images import as_array, as_images
from skequinas.nn.transforms import transform_images

__all__ = ["OrbitDisplay"]

_FRAMES: dict[str, dict[str, Any]] = {
    "same prediction": {"color": BLUE, "linestyle": "-", "linewidth": 3.5},
    "same class, other probability": {"color": ORANGE, "linestyle": "--", "linewidth": 3.5},
    "other class": {"color": VERMILLION, "linestyle": ":", "linewidth": 3.5},
    "other prediction": {"color": VERMILLION, "linestyle": ":", "linewidth": 3.5},
}


class OrbitDisplay:
    """One image under every element of a group, with the predictions.

    Parameters
    ----------
    images : ndarray of shape (n_elements, size, size) or (n_elements, size, size, channels)
        The moved images, the unmoved one first. Of three channels or more the first three are red, green and blue,
        stretched to the full range; one or two are drawn in grey.
    predictions : ndarray of shape (n_elements,) or (n_elements, n_outputs)
        The predicted classes, or numbers.
    names : sequence of str
        The elements' names.
    probabilities : ndarray of shape (n_elements,), optional
        Those of the predicted classes; None for a regression.
    tolerance : float or ndarray of shape (n_outputs,), default=1e-4
        By how much probabilities, or predicted numbers, may differ by round-off and count as equal.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        One for each element.
    figure_ : matplotlib Figure
    """

    axes_: NDArray[np.object_]
    figure_: Any

    def __init__(
        self,
        images: NDArray[Any],
        predictions: NDArray[Any],
        names: Sequence[str],
        *,
        probabilities: NDArray[np.float64] | None = None,
        tolerance: float | NDArray[np.float64] = 1e-4,
    ) -> None:
        self.images = images
        self.predictions = predictions
        self.names = names
        self.probabilities = probabilities
        self.tolerance = tolerance

    @classmethod
    def from_estimator(cls, estimator: BaseEquivariantNAS, image: ArrayLike, *, axes: Any = None) -> Self:
        """Draw an image under every element of a fitted estimator's search group.

        Parameters
        ----------
        estimator : EquivariantNASClassifier or EquivariantNASRegressor
        image : array-like of shape (features,), (H, W), (H, W, C) or (C, H, W)
            One sample as `predict` takes them, without the axis of the samples, or a data frame of one row.
        axes
            As in `plot`.

        Returns
        -------
        OrbitDisplay
        """
        check_is_fitted(estimator)
        image = as_array(image)
        X = estimator._rows(image if hasattr(image, "columns") else np.asarray(image)[None])
        group, preprocessing = estimator.architecture_.group, estimator.preprocessing_
        with torch.inference_mode():
            square = preprocessing(as_images(np.asarray(X), estimator.image_shape_))
            moved = torch.cat([transform_images(square, group, g) for g in group.elements])
            outputs = estimator._respond(estimator.module_(moved)).double().numpy()
            images = (moved * preprocessing.std + preprocessing.mean).movedim(1, -1).numpy()
        names = [group.element_name(g) for g in group.elements]
        if isinstance(estimator, EquivariantNASClassifier):
            display = cls(images, estimator.classes_[outputs.argmax(1)], names, probabilities=outputs.max(1))
        else:
            assert isinstance(estimator, EquivariantNASRegressor)
            scaler = estimator.target_scaler_
            display = cls(images, scaler.inverse_transform(outputs), names, tolerance=1e-3 * scaler.scale_)
        return display.plot(axes)

    @property
    def agreement(self) -> list[str]:
        """How each prediction compares with that for the unmoved image.

        "same prediction"; or else "same class, other probability" or "other class" in a classification, and "other
        prediction" in a regression.
        """
        if self.probabilities is None:
            close = (np.abs(self._numbers - self._numbers[0]) <= self.tolerance).all(axis=1)
            return ["same prediction" if c else "other prediction" for c in close]
        close = np.abs(self.probabilities - self.probabilities[0]) <= self.tolerance
        kinds = ["same prediction" if c else "same class, other probability" for c in close]
        return [k if p == self.predictions[0] else "other class" for k, p in zip(kinds, self.predictions, strict=True)]

    @property
    def _numbers(self) -> NDArray[np.float64]:
        """The predictions of a regression, (n_elements, n_outputs)."""
        return np.asarray(self.predictions, dtype=float).reshape(len(self.predictions), -1)

    def _texts(self) -> list[str]:
        """What stands below each image."""
        if self.probabilities is not None:
            labels = [str(label) for label in self.predictions]
            labels = [label if len(label) <= 12 else f"{label[:11]}…" for label in labels]
            return [f"{label} ({p:.3f})" for label, p in zip(labels, self.probabilities, strict=True)]
        tolerance = np.broadcast_to(np.maximum(self.tolerance, 1e-9), self._numbers.shape[1])
        digits = [max(0, round(-math.log10(t)) - 1) for t in tolerance]  # down to ten times the tolerance
        return ["\n".join(f"{v:.{n}f}" for v, n in zip(row, digits, strict=True)) for row in self._numbers]

    def plot(self, axes: Any = None) -> Self:
        """Draw it. The colour and the line of a frame tell whether the prediction is that for the unmoved image.

        Parameters
        ----------
        axes : array-like of matplotlib Axes, optional
            Where to draw, one for each element. None makes a figure, with a legend.

        Returns
        -------
        self
        """
        agreement, n = self.agreement, len(self.names)
        if axes is None:
            n_rows = 1 if n <= 4 else max(2, -(-n // 6))
            figure = new_figure((2.15 if n <= 8 else 1.6) * n_rows + 0.4)
            figure.get_layout_engine().set(w_pad=0.08)
            axes = figure.subplots(n_rows, -(-n // n_rows), squeeze=False).ravel()
            for unused in axes[n:]:
                unused.remove()
            axes = axes[:n]
            from matplotlib.lines import Line2D

            handles = [Line2D([], [], label=k, **_FRAMES[k]) for k in _FRAMES if k in agreement]
            figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        self.axes_ = np.asarray(axes, dtype=object).ravel()
        if len(self.axes_) != n:
            raise ValueError(f"axes has {len(self.axes_)} axes, but there are {n} elements, with one image each.")
        self.figure_ = self.axes_[0].figure
        images = _drawable(np.asarray(self.images, dtype=float))
        limits = {"vmin": images.min(), "vmax": images.max()}
        texts = self._texts()
        for i, ax in enumerate(self.axes_):
            ax.imshow(images[i], cmap="gray", **limits)
            for side in ax.spines.values():
                side.set(**_FRAMES[agreement[i]])
            ax.set(xticks=[], yticks=[])
            ax.set_title(self.names[i], fontsize=10)
            ax.set_xlabel(texts[i], fontsize=9)
        return self


def _drawable(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Grey images (n, size, size), or colours between 0 and 1, (n, size, size, 3)."""
    if images.ndim == 3:
        return images
    if images.shape[-1] < 3:
        grey: NDArray[np.float64] = images.mean(axis=-1)
        return grey
    colours = images[..., :3] - images[..., :3].min()
    return np.asarray(colours / (colours.max() or 1.0))
