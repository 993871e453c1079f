"""How sure a verdict is: the same search on resamples of the images, many times, on as many machines as there are."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples

from skequinas.estimators.base import BaseEquivariantNAS
from skequinas.estimators.units import checked_groups
from skequinas.groups import PointGroup
from skequinas.search import NoSearch, resolve_search
from skequinas.training import FitProgress

__all__ = ["SymmetryBootstrap", "bootstrap_symmetry"]


@dataclass(frozen=True)
class SymmetryBootstrap:
    """Which symmetries a search named on resamples of the images.

    Parameters
    ----------
    search_group : str
        The group that was searched in.
    named : tuple of str
        The symmetry that was found on each resample.
    seeds : tuple of int
        The ``random_state`` of each.
    """

    search_group: str
    named: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def shares(self) -> dict[str, float]:
        """How often each group was named, the most frequent first; all other subgroups never were."""
        counts = Counter(self.named)
        order = [h.name for h in PointGroup.from_name(self.search_group).subgroups]
        names = sorted(counts, key=lambda name: (-counts[name], order.index(name)))
        return {name: counts[name] / len(self.named) for name in names}

    def interval(self, name: str) -> tuple[float, float]:
        """Between what two shares the share of a group is, by 95 %, if there were endless resamples (Wilson's)."""
        n, share, z = len(self.named), self.shares.get(name, 0.0), 1.959964
        middle, spread = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        return max(0.0, (middle - spread) / (1 + z**2 / n)), min(1.0, (middle + spread) / (1 + z**2 / n))

    def to_frame(self) -> Any:
        """A table of all subgroups with their shares and intervals; needs pandas."""
        import pandas as pd

        names = [h.name for h in PointGroup.from_name(self.search_group).subgroups]
        rows = [(self.named.count(name), self.shares.get(name, 0.0), *self.interval(name)) for name in names]
        return pd.DataFrame(rows, pd.Index(names, name="group"), ["count", "share", "share_low", "share_high"])

    def __str__(self) -> str:
        """In a line or two."""
        (first, share), *others = self.shares.items()
        low, high = self.interval(first)
        text = f"{first} is found on {share:.0%} of {len(self.named)} resamples (95 %: {low:.0%} to {high:.0%})"
        if others:
            text += ", " + ", ".join(f"{name} on {share:.0%}" for name, share in others)
        return text + "."


def bootstrap_symmetry(
    model: BaseEquivariantNAS,
    X: ArrayLike,
    y: ArrayLike,
    *,
    n: int = 50,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> SymmetryBootstrap:
    """Search for the symmetry on resamples of the images, and tell how often each group is named.

    A resample draws as many images as there are, with replacement: an image that is drawn twice counts twice. With
    ``groups`` groups are drawn, with all their images. Each has its own split and seed too. Only the searches run, not
    the final trainings.

    Parameters
    ----------
    model : EquivariantNASClassifier or EquivariantNASRegressor
        Its parameters are taken; it need not be fitted, and stays as it is.
    X, y : array-like
        As in `fit`.
    n : int, default=50
        How many resamples.
    sample_weight, groups : array-like of shape (n_images,), optional
        As in `fit`.
    n_jobs : int or None, default=None
        How many at the same time, in processes of joblib's, or of what a surrounding ``joblib.parallel_config`` says,
        such as the machines of a Dask cluster. The result does not depend on it.
    random_state : int, RandomState or None, default=None
        Draws the resamples and seeds.

    Returns
    -------
    SymmetryBootstrap

    Raises
    ------
    ValueError
        When the model does not search.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skequinas import EquivariantNASClassifier, bootstrap_symmetry
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> model = EquivariantNASClassifier("C2", max_epochs=2)
    >>> sorted(bootstrap_symmetry(model, X, y, n=2, random_state=0).shares)
    ['C1']
    """
    if isinstance(resolve_search(model.search), NoSearch):
        raise ValueError(f"model has search={model.search!r}, which finds nothing. Set search='evolutionary'.")
    if n < 1:
        raise ValueError(f"n={n} must be at least 1.")
    n_images = _num_samples(X)
    labels = checked_groups(groups, np.empty((n_images, 0)))
    labels = np.arange(n_images) if labels is None else labels
    weights = np.ones(n_images) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    rng, n_units = check_random_state(random_state), int(labels.max()) + 1
    drawn = [rng.multinomial(n_units, np.full(n_units, 1 / n_units))[labels] for _ in range(n)]
    seeds = rng.randint(np.iinfo(np.int32).max, size=n).tolist()
    own = {"callback": _searched, "averaging": "none", "augment": "none", "warm_start": False, "checkpoint": None}
    tasks = (
        delayed(_found)(clone(model).set_params(**own, random_state=seed), X, y, weights * counts, groups)
        for counts, seed in zip(drawn, seeds, strict=True)
    )
    found = Parallel(n_jobs=n_jobs)(tasks)
    return SymmetryBootstrap(found[0][0], tuple(name for _, name in found), tuple(seeds))


def _searched(progress: FitProgress) -> bool:
    """Whether to stop: not in the search, but in the final training."""
    return progress.stage != "search"


def _found(
    model: BaseEquivariantNAS, X: ArrayLike, y: ArrayLike, weights: NDArray[np.float64], groups: ArrayLike | None
) -> tuple[str, str]:
    """The group that was searched in, and the symmetry that was found."""
    learned = model.fit(X, y, sample_weight=weights, groups=groups).learned_symmetry_
    return learned.search_group, learned.group
