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
    """All candidates of a search: their errors against parameters or generations, and how constraints were relaxed.

    Parameters
    ----------
    results : mapping of str to array-like of shape (n_candidates,)
        The ``search_results_`` of an estimator, of which "n_parameters", "n_plain_parameters", "validation_score",
        "validation_score_standard_error", "generation", "candidate", "parent" and "constraints" are drawn.
    chosen : int or None
        The row of the chosen candidate, if any.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    front_ : ndarray of int
        The rows of the Pareto front, the fewest parameters first: no other candidate has as few parameters and as low
        an error, and less of one. With ``kind="parameters"`` alone.
    lineage_ : ndarray of int
        With the two other kinds: the rows of the chosen candidate and its ancestors, the first network first; those of
        the one with the lowest error where none is chosen.
    """

    ax_: Axes
    figure_: Any
    front_: NDArray[np.int64]
    lineage_: NDArray[np.int64]

    def __init__(self, results: Mapping[str, ArrayLike], chosen: int | None) -> None:
        self.results = results
        self.chosen = chosen

    @classmethod
    def from_estimator(cls, estimator: BaseEquivariantNAS, *, kind: str = "parameters", ax: Axes | None = None) -> Self:
        """Draw the search of a fitted estimator.

        Parameters
        ----------
        estimator : EquivariantNASClassifier or EquivariantNASRegressor
        kind, ax
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
        result = estimator.search_.result() if len(rows) > 1 else None
        if result is not None and "candidate" in estimator.search_results_:  # one of several, with weights of its own
            same = rows[estimator.search_results_["candidate"][rows] == result.proposal.number]
            rows = same if len(same) else rows
        return cls(estimator.search_results_, int(rows[-1]) if len(rows) else None).plot(ax, kind=kind)

    def plot(self, ax: Axes | None = None, *, kind: str = "parameters") -> Self:
        """Draw it; candidates whose training diverged are left out.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; None makes a figure.
        kind : {"parameters", "generations", "constraints"}, default="parameters"
            "parameters": validation error against the free parameters, with the Pareto front, and where the same
            functions stand as plain layers. "generations": validation error by generation, each candidate joined to
            its parent, and the lineage that led to the chosen one. "constraints": the constraint of every layer along
            that lineage.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            When there is no candidate to draw.
        """
        draw = {
            "parameters": self._plot_parameters,
            "generations": self._plot_generations,
            "constraints": self._plot_constraints,
        }
        if kind not in draw:
            raise ValueError(f"kind={kind!r} is unknown. Use {', '.join(map(repr, draw))}.")
        error = 1 - np.asarray(self.results.get("validation_score", ()), dtype=float)
        rows = np.flatnonzero(np.isfinite(error))
        if not len(rows):
            raise ValueError(
                "There is no candidate to draw: search_results_ is empty, as after search='none'. Fit with "
                "search='evolutionary', 'differentiable' or 'random'."
            )
        self.ax_ = new_figure().subplots() if ax is None else ax
        self.figure_ = self.ax_.figure
        if kind != "parameters":
            self.lineage_ = self._lineage(int(rows[np.argmin(error[rows])]) if self.chosen is None else self.chosen)
        draw[kind](rows, error)
        return self

    def _parents(self) -> NDArray[np.int64]:
        """The row of every candidate's parent, -1 where there is none."""
        places = {int(number): i for i, number in enumerate(np.asarray(self.results["candidate"]))}
        return np.array([places.get(int(number), -1) for number in np.asarray(self.results["parent"])])

    def _lineage(self, row: int) -> NDArray[np.int64]:
        """The rows of a candidate and its ancestors, the first of them first."""
        parents, found = self._parents(), [row]
        while parents[found[-1]] >= 0:
            found.append(int(parents[found[-1]]))
        return np.array(found[::-1])

    def _plot_generations(self, rows: NDArray[np.int64], error: NDArray[np.float64]) -> None:
        from matplotlib.collections import LineCollection
        from matplotlib.ticker import MaxNLocator

        ax, generation = self.ax_, np.asarray(self.results["generation"], dtype=float)
        points = np.column_stack([generation, error])
        parents = self._parents()
        pairs = [[parents[row], row] for row in rows if parents[row] >= 0]
        lines = [points[pair] for pair in pairs if np.isfinite(points[pair]).all()]
        ax.add_collection(LineCollection(lines, colors="0.75", linewidths=1, zorder=1))
        ax.plot(*points[self.lineage_].T, color=VERMILLION, linewidth=2, label="led to the chosen one", zorder=2)
        ax.scatter(generation[rows], error[rows], s=25, color="0.35", zorder=3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="Generation", ylabel="Validation error", title="Candidates of the search and their parents")
        ax.legend(fontsize=9)

    def _plot_constraints(self, rows: NDArray[np.int64], error: NDArray[np.float64]) -> None:
        from matplotlib.colors import LogNorm

        ax, constraints = self.ax_, np.asarray(self.results["constraints"])[self.lineage_]
        names = np.array([str(own).split(",")[0].replace("| ", "").split() for own in constraints]).T
        orders = np.vectorize(_order)(names)
        picture = ax.imshow(orders, cmap="Blues", norm=LogNorm(1, max(2, orders.max())), aspect="auto")
        bar = self.figure_.colorbar(picture, ax=ax, label="Order of the subgroup", ticks=np.unique(orders), format="%g")
        bar.minorticks_off()
        for (row, column), name in np.ndenumerate(names if names.size <= 120 else names[:0]):
            colour = "white" if _order(name) ** 1.5 > orders.max() else "black"
            ax.text(column, row, "mixed" if "+" in name else name, ha="center", va="center", fontsize=8, color=colour)
        generation = np.asarray(self.results["generation"])[self.lineage_]
        shown = range(0, len(generation), max(1, len(generation) // 15))
        ax.set_xticks(shown, [str(generation[i]) for i in shown])
        ax.set_yticks(range(len(names)), [*(f"layer {i + 1}" for i in range(len(names) - 1)), "head"])
        ax.set(xlabel="Generation", title="Constraints on the way to the chosen candidate")

    def _plot_parameters(self, rows: NDArray[np.int64], error: NDArray[np.float64]) -> None:
        names = ("n_parameters", "validation_score_standard_error", "generation")
        size, spread, generation = (np.asarray(self.results[name], dtype=float) for name in names)
        ax, self.front_ = self.ax_, rows[_front(size[rows], error[rows])]
        from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

        ax.errorbar(size[rows], error[rows], spread[rows], fmt="none", ecolor="0.75", elinewidth=1, capsize=2, zorder=1)
        name = "Pareto front" if len(self.front_) > 1 else None  # a single point makes no line
        ax.plot(size[self.front_], error[self.front_], color="0.25", label=name, zorder=2)
        look: dict[str, Any] = {"cmap": "cividis", "s": 45, "edgecolor": "0.3", "linewidth": 0.7, "zorder": 3}
        dots = ax.scatter(size[rows], error[rows], c=generation[rows], **look)
        plain = self.results.get("n_plain_parameters", ())  # results of before have none
        for i, n in enumerate(np.unique(np.asarray(plain, dtype=float)[rows]) if len(plain) else ()):  # type: ignore[arg-type]
            ax.axvline(n, color="0.6", linestyle=":", linewidth=1.5, label=None if i else "as plain layers", zorder=0)
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


def _order(constraint: str) -> int:
    """The order of the subgroup of this name; of a mixture, of the smallest."""
    smallest = constraint.split("+")[-1]
    return int(smallest[1:].split("(")[0]) * (2 if smallest[0] == "D" else 1)


def _front(size: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.int64]:
    """Those that no other beats, by increasing size."""
    no_worse = (size[:, None] <= size) & (error[:, None] <= error)
    better = (size[:, None] < size) | (error[:, None] < error)
    front = np.flatnonzero(~(no_worse & better).any(axis=0))
    return front[np.lexsort((error[front], size[front]))]
