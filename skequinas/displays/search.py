"""The candidates of a search as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from skequinas.displays.style import VERMILLION, new_figure
from skequinas.estimators.base import BaseEquivariantNAS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SearchDisplay"]


class SearchDisplay:
    """All candidates of a search: validation error against the number of parameters.

    Parameters
    ----------
    results : mapping of str to array-like of shape (n_candidates,)
        The ``search_results_`` of an estimator, of which "n_parameters", "validation_score",
        "validation_score_standard_error", "generation" and "constraints" are drawn.
    chosen : int or None
        The row of the chosen candidate, if any.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    front_ : ndarray of int
        The rows of the Pareto front, the fewest parameters first: no other candidate has as few parameters and as low
        an error, and less of one.
    """

    ax_: Axes
    figure_: Any
    front_: NDArray[np.int64]

    def __init__(self, results: Mapping[str, ArrayLike], chosen: int | None) -> None:
        self.results = results
        self.chosen = chosen

    @classmethod
    def from_estimator(cls, estimator: BaseEquivariantNAS, *, ax: Axes | None = None) -> Self:
        """Draw the search of a fitted estimator.

        Parameters
        ----------
        estimator : EquivariantNASClassifier or EquivariantNASRegressor
        ax
            As in `plot`.

        Returns
        -------
        SearchDisplay

        Raises
        ------
        ValueError
            When the search tried nothing, as with ``search="none"``.
        """
        check_is_fitted(estimator)
        constraints = estimator.search_results_.get("constraints", np.array([], dtype=str))
        rows = np.flatnonzero(constraints == str(estimator.architecture_))
        return cls(estimator.search_results_, int(rows[-1]) if len(rows) else None).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw it; candidates whose training diverged are left out.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; None makes a figure.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            When there is no candidate to draw.
        """
        error = 1 - np.asarray(self.results.get("validation_score", ()), dtype=float)
        rows = np.flatnonzero(np.isfinite(error))
        if not len(rows):
            raise ValueError(
                "There is no candidate to draw: search_results_ is empty, as after search='none'. Fit with "
                "search='evolutionary', 'differentiable' or 'random'."
            )
        names = ("n_parameters", "validation_score_standard_error", "generation")
        size, spread, generation = (np.asarray(self.results[name], dtype=float) for name in names)
        self.front_ = rows[_front(size[rows], error[rows])]
        self.ax_ = ax = new_figure().subplots() if ax is None else ax
        self.figure_ = ax.figure
        from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

        ax.errorbar(size[rows], error[rows], spread[rows], fmt="none", ecolor="0.75", elinewidth=1, capsize=2, zorder=1)
        name = "Pareto front" if len(self.front_) > 1 else None  # a single point makes no line
        ax.plot(size[self.front_], error[self.front_], color="0.25", label=name, zorder=2)
        look: dict[str, Any] = {"cmap": "cividis", "s": 45, "edgecolor": "0.3", "linewidth": 0.7, "zorder": 3}
        dots = ax.scatter(size[rows], error[rows], c=generation[rows], **look)
        if self.chosen is not None:
            constraints = str(np.asarray(self.results["constraints"])[self.chosen])
            label = "chosen: " + ("mixture" if "+" in constraints else constraints)
            ring: dict[str, Any] = {"facecolor": "none", "edgecolor": VERMILLION, "linewidth": 2.5, "zorder": 4}
            ax.scatter(size[self.chosen], error[self.chosen], s=210, label=textwrap.fill(label, 36), **ring)
        handles, labels = ax.get_legend_handles_labels()
        of_generations, numbers = dots.legend_elements(num="auto", fmt="{x:.0f}")
        labels += [f"generation {number}" for number in numbers]
        ax.legend([*handles, *of_generations], labels, loc="upper center", ncols=3, fontsize=9)
        ax.set(xscale="log", xlabel="Free parameters", ylabel="Validation error", title="Candidates of the search")
        ax.margins(0.08)
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.25 * (high - low))  # room for the legend
        if size[rows].max() < 10 * size[rows].min():  # no more than one power of ten, so other numbers are needed
            ax.xaxis.set(major_locator=MaxNLocator(5), minor_locator=NullLocator())
        ax.xaxis.set(major_formatter="{x:,.0f}", minor_formatter=NullFormatter())
        return self


def _front(size: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.int64]:
    """Those that no other beats, by increasing size."""
    no_worse = (size[:, None] <= size) & (error[:, None] <= error)
    better = (size[:, None] < size) | (error[:, None] < error)
    front = np.flatnonzero(~(no_worse & better).any(axis=0))
    return front[np.lexsort((error[front], size[front]))]
