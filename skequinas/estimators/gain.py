"""What a symmetry buys: learning curves with it, without it, and with moved images instead.

References
----------
Brehmer, Behrends, de Haan and Cohen, Does equivariance matter at scale?, 2024.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone, is_classifier
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, indexable
from sklearn.utils._indexing import _safe_indexing

from skequinas.estimators.base import BaseEquivariantNAS
from skequinas.estimators.preparation import images_of, read_first
from skequinas.estimators.units import checked_groups, units_of
from skequinas.groups import PointGroup, group_on_images, parse_group

__all__ = ["SymmetryGain", "symmetry_gain"]


@dataclass(frozen=True, eq=False)
class SymmetryGain:
    """The errors of three ways to train one network, by the number of images.

    Parameters
    ----------
    group : str
        The symmetry that is built in, or that images are moved by.
    n_images : tuple of int
        How many images each was fitted to.
    errors : dict of ndarray of shape (n_sizes, n_repeats)
        On images that none was fitted to: the share that was misclassified, or the mean squared error over the
        variance.
    seconds : dict of ndarray of shape (n_sizes, n_repeats)
        Of each fit.
    least : float, default=0.0
        What an error without a mistake counts in power laws: half of one mistake.
    """

    group: str
    n_images: tuple[int, ...]
    errors: dict[str, NDArray[np.float64]]
    seconds: dict[str, NDArray[np.float64]]
    least: float = 0.0

    def positive(self, errors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Errors as they count where 0 has no place."""
        return np.maximum(errors, max(self.least, 1e-12))

    def power_law(self, way: str) -> tuple[float, float, float]:
        """The factor a and the exponent b of a line through the logarithms, error = a n**-b, and the spread of b.

        Parameters
        ----------
        way : str
            A key of ``errors``.

        Returns
        -------
        a, b, spread of b : float
            The last is the standard deviation of lines through one repeat each, which share images; NaN of one repeat.
        """
        lines = np.array([self._line(errors) for errors in self.errors[way].T])
        factor, exponent = self._line(self.errors[way].mean(1))
        return factor, exponent, float(lines[:, 1].std(ddof=1)) if len(lines) > 1 else np.nan

    def _line(self, errors: NDArray[np.float64]) -> tuple[float, float]:
        slope, level = np.polyfit(np.log(self.n_images), np.log(self.positive(errors)), 1)
        return float(np.exp(level)), float(-slope)

    def saved(self, way: str = "C1, moved images") -> float:
        """How many times as many images another way needs for the error that the symmetry reaches, by the power laws.

        It is taken in the middle of the sizes (of their logarithms). Where the errors of the other way do not fall
        beyond doubt, as where its exponent is no greater than twice its spread, it is infinite.
        """
        a, b, _ = self.power_law(self.group)
        other, slope, spread = self.power_law(way)
        if slope <= 2 * np.nan_to_num(spread) or slope <= 0:
            return np.inf
        n = np.exp(np.log(self.n_images).mean())
        return float((other / (a * n**-b)) ** (1 / slope) / n)

    def to_frame(self) -> Any:
        """A row for every way and size, with means and standard deviations over repeats; needs pandas."""
        import pandas as pd

        n_repeats = next(iter(self.errors.values())).shape[1]
        rows = [
            (
                way,
                n,
                errors[i].mean(),
                errors[i].std(ddof=1) if n_repeats > 1 else np.nan,
                self.seconds[way][i].mean(),
            )
            for way, errors in self.errors.items()
            for i, n in enumerate(self.n_images)
        ]
        return pd.DataFrame(rows, columns=["way", "n_images", "error", "error_std", "seconds"]).set_index(
            ["way", "n_images"]
        )

    def __str__(self) -> str:
        """A line for each way."""
        lines = []
        for way, errors in self.errors.items():
            a, b, spread = self.power_law(way)
            means = ", ".join(f"{e:.3g}" for e in errors.mean(1))
            doubt = "" if math.isnan(spread) else f" (+- {spread:.2f})"  # one repeat tells of none
            lines.append(f"{way}: errors {means}; about {a:.2g} n^-{b:.2f}{doubt}")
        sizes = ", ".join(f"{n:,}" for n in self.n_images)
        return "\n".join([f"n = {sizes}", *lines])


def symmetry_gain(
    model: BaseEquivariantNAS,
    X: ArrayLike,
    y: ArrayLike,
    *,
    train_sizes: Sequence[int | float] = (0.1, 0.22, 0.46, 1.0),
    test_size: float = 0.25,
    n_repeats: int = 3,
    groups: ArrayLike | None = None,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> SymmetryGain:
    """Fit a network with a symmetry, without it, and without it to moved images, to more and more images.

    Parameters
    ----------
    model : EquivariantNASClassifier or EquivariantNASRegressor
        If it is fitted, the group that it learned is the symmetry in question, else its ``group``. Fit it to images
        other than X: a group that test images have chosen makes their errors too low. Its parameters are taken but for
        the search, averaging and moved images, and ``architecture`` must be "auto", which gives all ways as many
        channels. With ``max_epochs`` all three have as many epochs, with ``time_budget`` as many seconds.
    X, y : array-like
        As in `fit`.
    train_sizes : sequence of float, default=(0.1, 0.22, 0.46, 1.0)
        How many images, or shares of those that are not held out (up to 1.0, a float).
    test_size : float, default=0.25
        The share of the images that all errors are measured on, drawn anew in every repeat.
    n_repeats : int, default=3
        How often it is done, by other images and seeds.
    groups : array-like of shape (n,), optional
        As in `fit`: images of one group are not divided between fit and test, and neither are copies.
    n_jobs : int, optional
        How many fits at the same time. With a ``time_budget`` best one.
    random_state : int, RandomState or None
        Draws the images and seeds.

    Returns
    -------
    SymmetryGain

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skequinas import EquivariantNASClassifier, symmetry_gain
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> gain = symmetry_gain(
    ...     EquivariantNASClassifier("C4", max_epochs=2), X, y, train_sizes=(60, 120), n_repeats=1, random_state=0
    ... )
    >>> list(gain.errors)
    ['C4', 'C1', 'C1, moved images']
    """
    if n_repeats < 1:
        raise ValueError(f"n_repeats={n_repeats} must be at least 1.")
    X, y = indexable(X, y)
    group = model.learned_symmetry_.group if hasattr(model, "module_") else parse_group(model.group).name
    if group == "C1":
        raise ValueError("The symmetry in question is C1, which buys nothing. Pass a model with another group.")
    if model.architecture != "auto":
        raise ValueError(
            f"architecture={model.architecture!r} has other channels for other groups. Set architecture='auto'."
        )
    if model.coordinates == "frame":
        raise ValueError("coordinates='frame' leaves no symmetry to be measured. Set coordinates='none' or 'radius'.")
    whole = parse_group(group)
    like_it = {} if whole.acts_on_pixels else {"basis": "harmonic", "circular_mask": True}
    ways: dict[str, dict[str, Any]] = {
        group: {"group": group, "augment": "none"},
        "C1": {"group": "C1", "augment": "none", **like_it},
        "C1, moved images": {"group": group, "augment": "group"},
    }
    units, rng = _units(model, X, y, groups, whole), check_random_state(random_state)
    labels = np.asarray(y) if is_classifier(model) else None
    parts, seeds = [], rng.randint(np.iinfo(np.int32).max, size=n_repeats).tolist()
    for seed in seeds:
        first = np.unique(units, return_index=True)[1]
        strata = None if labels is None else labels[first]
        if strata is not None and np.unique(strata, return_counts=True)[1].min() < 2:
            strata = None
        own = train_test_split(np.arange(len(first)), test_size=test_size, stratify=strata, random_state=seed)
        fit, test = (np.flatnonzero(np.isin(units, units[first[part]])) for part in own)
        parts.append((_spread(fit, labels, seed), test))
    most = min(len(fit) for fit, _ in parts)
    sizes = tuple(round(s * most) if isinstance(s, float | np.floating) else int(s) for s in train_sizes)
    if len(sizes) < 2 or list(sizes) != sorted(set(sizes)) or sizes[0] < 4 or sizes[-1] > most:
        raise ValueError(
            f"train_sizes={tuple(train_sizes)} are {sizes} images; they must grow, from 4 on to {most}, which are not "
            "held out, and be two at least."
        )
    common = {"search": "none", "averaging": "none", "warm_start": False, "checkpoint": None}
    tasks = (
        delayed(_error)(
            clone(model).set_params(**common, **own, random_state=seed), X, y, units, np.sort(fit[:size]), test
        )
        for own in ways.values()
        for size in sizes
        for seed, (fit, test) in zip(seeds, parts, strict=True)
    )
    found = np.array(Parallel(n_jobs=n_jobs)(tasks)).reshape(len(ways), len(sizes), n_repeats, 2)
    errors, seconds = (dict(zip(ways, found[..., i], strict=True)) for i in range(2))
    least = 0.0 if labels is None else 0.5 / len(parts[0][1])
    return SymmetryGain(group, sizes, errors, seconds, least)


def _units(model: BaseEquivariantNAS, X: Any, y: Any, groups: Any, group: PointGroup) -> NDArray[np.int64]:
    """Which images belong together: copies, moved or not, and those of a group."""
    reader = clone(model)
    rows, _, shape = read_first(reader, X, y, **reader._target_checks)
    images, padded = images_of(rows, shape), reader.n_features_in_ < math.prod(shape)
    moving = PointGroup(1) if padded else group_on_images(group, *images.shape[2:])
    units = units_of(images, checked_groups(groups, rows), moving, near=not padded)
    return np.arange(len(images)) if units is None else units


def _spread(rows: NDArray[np.int64], labels: NDArray[Any] | None, seed: int) -> NDArray[np.int64]:
    """Rows in random order, of which the first n have every class by its share."""
    rows = np.random.default_rng(seed).permutation(rows)
    if labels is None:
        return rows
    _, codes, counts = np.unique(labels[rows], return_inverse=True, return_counts=True)
    places = np.empty(len(rows))
    for code, count in enumerate(counts):
        places[codes == code] = (np.arange(count) + 0.5) / count
    return rows[np.argsort(places, kind="stable")]


def _error(
    model: BaseEquivariantNAS,
    X: Any,
    y: Any,
    units: NDArray[np.int64],
    fit: NDArray[np.int64],
    test: NDArray[np.int64],
) -> tuple[float, float]:
    """On held-out images, and the seconds of the fit."""
    started = time.perf_counter()
    model.fit(_safe_indexing(X, fit), _safe_indexing(y, fit), groups=units[fit])
    seconds = time.perf_counter() - started
    score: float = model.score(_safe_indexing(X, test), _safe_indexing(y, test))
    return 1 - score, seconds
