"""The learned symmetry as a picture: evidence, constraints by layer, and shares in the course of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from skequinas.displays.style import CYCLE, SKY, STYLES, VERMILLION, new_figure
from skequinas.estimators.base import BaseEquivariantNAS
from skequinas.evidence.report import LearnedSymmetry
from skequinas.groups import PointGroup, Subgroup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

__all__ = ["SymmetryDisplay"]

_FILLS = {"accepted": "#BFE1F6", "rejected": "#F6DA9C"}  # sky blue and orange, paler
_LEARNED: dict[str, Any] = {"edgecolor": "black", "linewidth": 3}
_DOUBTFUL: dict[str, Any] = {"edgecolor": "black", "linewidth": 1.8, "linestyle": "--"}


class SymmetryDisplay:
    """The learned symmetry: the evidence for it, the constraint of every layer, or how it came about.

    Parameters
    ----------
    learned : LearnedSymmetry
        The ``learned_symmetry_`` of an estimator.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The first, where there are several.
    axes_ : ndarray of matplotlib Axes
    figure_ : matplotlib Figure
    nodes_ : dict
        After ``kind="evidence"``: from the name of every subgroup to its text.
    """

    ax_: Axes
    axes_: NDArray[np.object_]
    figure_: Any
    nodes_: dict[str, Text]

    def __init__(self, learned: LearnedSymmetry) -> None:
        self.learned = learned

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEquivariantNAS,
        *,
        kind: str = "evidence",
        ax: Axes | None = None,
        merge_conjugates: bool = False,
    ) -> Self:
        """Draw the learned symmetry of a fitted estimator.

        Parameters
        ----------
        estimator : EquivariantNASClassifier or EquivariantNASRegressor
        kind, ax, merge_conjugates
            As in `plot`.

        Returns
        -------
        SymmetryDisplay
        """
        check_is_fitted(estimator)
        return cls(estimator.learned_symmetry_).plot(kind, ax, merge_conjugates=merge_conjugates)

    def plot(self, kind: str = "evidence", ax: Axes | None = None, *, merge_conjugates: bool = False) -> Self:
        """Draw it.

        Parameters
        ----------
        kind : {"evidence", "layers", "training"}, default="evidence"
            "evidence": the subgroups of the search group, each joined to its maximal subgroups, with the error on
            held-out images when it is imposed (in percent, with the standard error; the score in a regression). Only
            the names after a search without evidence. "layers": the constraint of every layer, and after a
            differentiable search the learned shares. "training": the shares in the course of a differentiable search.
        ax : matplotlib Axes, optional
            Where to draw; None makes a figure. ``kind="training"`` draws one panel for each layer in a figure of its
            own, or the mean over the layers in ``ax``.
        merge_conjugates : bool, default=False
            With ``kind="evidence"``: one node for each set of conjugate subgroups with the same verdict, by the name of
            the one that the data speak against most, and their number. Large groups have many.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            With ``kind="training"``, when no shares were recorded.
        """

        def evidence(ax: Axes | None) -> None:
            self._plot_evidence(ax, merge_conjugates)

        draw = {"evidence": evidence, "layers": self._plot_layers, "training": self._plot_training}
        if kind not in draw:
            raise ValueError(f"kind={kind!r} is unknown. Use 'evidence', 'layers' or 'training'.")
        draw[kind](ax)
        return self

    def _draw_on(self, axes: Any) -> Axes:
        self.axes_ = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
        self.ax_ = self.axes_[0]
        self.figure_ = self.ax_.figure
        return self.ax_

    def _plot_evidence(self, ax: Axes | None, merge_conjugates: bool) -> None:
        ax = self._draw_on(new_figure().subplots() if ax is None else ax)
        from matplotlib.collections import LineCollection
        from matplotlib.patches import Patch

        learned, group = self.learned, PointGroup.from_name(self.learned.search_group)
        verdicts, doubtful = learned.verdicts, set(learned.indistinct if len(learned.indistinct) > 1 else ())
        sets = learned.alike() if merge_conjugates else [[h.name] for h in group.subgroups]
        shown = {learned._witness(names): names for names in sets}
        place = {name: witness for witness, names in shown.items() for name in names}
        at = _lattice(group, set(shown))
        orders = sorted({h.order for h in group.subgroups})
        width = max(sum(y == row for _, y in at.values()) for row in range(len(orders))) + 0.2
        ax.set(xlim=(-width / 2, width / 2), ylim=(-0.75, len(orders) - 0.4), xticks=[])
        ax.set_yticks(range(len(orders)), [str(order) for order in orders])
        ax.set_ylabel("Order of the subgroup")
        ax.tick_params(axis="y", length=0)
        ax.spines[:].set_visible(False)
        lines = {(at[place[h.name]], at[place[k.name]]) for h in group.subgroups for k in h.maximal_subgroups}
        ax.add_collection(LineCollection(sorted(lines), colors="0.6", linewidths=1, zorder=1))

        texts = {name: self._node_text(name, len(shown[name])) for name in at}
        room = ax.get_window_extent().width / self.figure_.dpi * 72 / width  # points
        size = room / (0.65 * max(len(line) for text in texts.values() for line in text.splitlines()))
        style: dict[str, Any] = {"fontsize": min(size, 9)}
        if size < 4.5:  # too many in a row: the names alone, upright
            texts, style = dict(zip(at, at, strict=True)), {"fontsize": 6, "rotation": "vertical"}
        self.nodes_ = {}
        for name, (x, y) in at.items():
            edge = (
                _LEARNED
                if name == learned.group
                else _DOUBTFUL
                if doubtful.intersection(shown[name])
                else {"edgecolor": "0.4"}
            )
            box = {"boxstyle": "round,pad=0.3", "facecolor": _FILLS.get(verdicts.get(name, ""), "white"), **edge}
            self.nodes_[name] = ax.text(x, y, texts[name], ha="center", va="center", bbox=box, **style)
        handles = [Patch(facecolor=_FILLS[v], edgecolor="0.4", label=v) for v in _FILLS if v in verdicts.values()]
        handles.append(Patch(facecolor="white", label="learned", **_LEARNED))
        if doubtful - {learned.group}:
            handles.append(Patch(facecolor="white", label="not told apart by the data", **_DOUBTFUL))
        ax.legend(handles=handles, loc="lower center", ncols=4, frameon=False, fontsize=9)
        ax.set_title(self._evidence_title(), fontsize=11)

    def _node_text(self, name: str, n_alike: int) -> str:
        title = name if n_alike == 1 else f"{name} and {n_alike - 1} alike"
        if self.learned.evidence is None:
            return title
        evidence = self.learned.evidence[name]
        if self.learned.regression:
            return f"{title}\n{evidence.score:.3f} ± {evidence.score_error:.3f}"
        return f"{title}\n{100 * (1 - evidence.score):.1f} ± {100 * evidence.score_error:.1f}"

    def _evidence_title(self) -> str:
        if self.learned.evidence is None:
            return f"Subgroups of {self.learned.search_group}"
        measure = "score" if self.learned.regression else "error in %"
        doubt = "" if self.learned.informed else "\n(the network that was asked is no better than chance)"
        return f"Held-out {measure} with each subgroup of {self.learned.search_group} imposed{doubt}"

    def _plot_layers(self, ax: Axes | None) -> None:
        ax = self._draw_on(new_figure().subplots() if ax is None else ax)
        from matplotlib.patches import Rectangle

        layers, weights = list(self.learned.constraints), self.learned.layer_weights
        names = [h.name for h in PointGroup.from_name(self.learned.search_group).subgroups]
        if weights is not None:
            names += ["skip"] * any("skip" in own for own in weights.values())
            shares = np.array([[weights.get(layer, {}).get(name, 0.0) for layer in layers] for name in names])
            picture = ax.imshow(shares, cmap="Blues", vmin=0, aspect="auto")
            self.figure_.colorbar(picture, ax=ax, label="Learned share")
            for (row, column), share in np.ndenumerate(shares if shares.size <= 100 else shares[:0]):
                colour = "white" if share > 0.6 * shares.max() else "black"
                ax.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=8, color=colour)
        for column, constraint in enumerate(self.learned.constraints.values()):
            for name in dict.fromkeys(constraint.replace("/", "+").split("+")):
                corner = (column - 0.45, names.index(name) - 0.42)
                fill = "none" if weights else SKY
                ax.add_patch(Rectangle(corner, 0.9, 0.84, facecolor=fill, edgecolor=VERMILLION, linewidth=2.5))
        ax.set_xticks(range(len(layers)), layers, rotation=0 if len(layers) <= 6 else 45, fontsize=9)
        ax.set_yticks(range(len(names)), names, fontsize=9 if len(names) <= 12 else 6)
        ax.set(xlim=(-0.5, len(layers) - 0.5), ylim=(len(names) - 0.5, -0.5), ylabel="Subgroup")
        title = "Constraint of every layer" if weights is None else "Learned shares, and (framed) the constraints"
        ax.set_title(title, fontsize=11)

    def _plot_training(self, ax: Axes | None) -> None:
        history = self.learned.share_history
        if not history:
            raise ValueError(
                "There is no history of shares to draw: only a differentiable search records one. Fit with "
                "search='differentiable', or use kind='evidence' or kind='layers'."
            )
        names = list(dict.fromkeys(name for shares in history.values() for name in shares))  # some layers have a skip
        nothing = np.full(len(next(iter(history.values()))[names[0]]), np.nan)
        curves = {layer: np.array([shares.get(name, nothing) for name in names]) for layer, shares in history.items()}
        legend: dict[str, Any] = {"fontsize": 8, "frameon": False, "ncols": 1 + len(names) // 25}
        labels = {"xlabel": "Course of the training (%)", "ylabel": "Share of the subgroup"}
        if ax is None:
            grid = new_figure().subplots(-(-len(curves) // 2), 2, sharex=True, sharey=True, squeeze=False).ravel()
            for unused in grid[len(curves) :]:
                unused.remove()
            self._draw_on(grid[: len(curves)])
            self.figure_.supxlabel(labels["xlabel"], fontsize=10)
            self.figure_.supylabel(labels["ylabel"], fontsize=10)
        else:
            curves = {"Mean over the layers": np.nanmean(list(curves.values()), axis=0)}
            self._draw_on(ax).set(**labels)
        from matplotlib.ticker import LogLocator, NullLocator

        for axes, (title, shares) in zip(self.axes_, curves.items(), strict=True):
            for i, (name, share) in enumerate(zip(names, shares, strict=True)):
                look = {"color": CYCLE[i % len(CYCLE)], "linestyle": STYLES[i // len(CYCLE) % len(STYLES)]}
                axes.plot(np.linspace(0, 100, len(share)), share, label=name, **look)
            axes.set_yscale("log")
            ticks = LogLocator(subs=(1, 2, 5))
            axes.yaxis.set(major_locator=ticks, major_formatter="{x:g}", minor_locator=NullLocator())
            axes.set_title(title, fontsize=10)
        if ax is None:
            self.figure_.legend(*self.ax_.get_legend_handles_labels(), loc="outside right upper", **legend)
        else:
            ax.legend(**legend | {"ncols": 2})


def _lattice(group: PointGroup, shown: set[str]) -> dict[str, tuple[float, int]]:
    """Where each subgroup stands, as (x, row): a row for each order, each subgroup near the mean of those above it."""
    subgroups = [h for h in group.subgroups if h.name in shown]
    orders = sorted({h.order for h in group.subgroups})
    width = max(sum(h.order == order for h in subgroups) for order in orders)
    x: dict[Subgroup, float] = {}
    for order in reversed(orders):
        row = [h for h in subgroups if h.order == order]
        means = {h: np.mean([x[k] for k in x if h in k.maximal_subgroups] or [0.0]).round(6) for h in row}
        mirrors = sorted((h for h in row if h.mirror is not None), key=means.__getitem__)
        turns = [h for h in row if h.mirror is None]  # one at most, in the middle
        middle = len(mirrors) // 2
        for i, h in enumerate([*mirrors[:middle], *turns, *mirrors[middle:]]):
            x[h] = (i - (len(row) - 1) / 2) * width / len(row)
    return {h.name: (x[h], orders.index(h.order)) for h in subgroups}
