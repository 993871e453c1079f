"""Pictures of what was learned, in scikit-learn's Display convention.

The constructor takes plain data, ``from_estimator`` makes a display of a fitted estimator and draws it, and ``plot``
draws it again. All need matplotlib: ``pip install "skequinas[plot]"``.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from skequinas._base import _as_array
from skequinas.estimators import EquivariantNASClassifier, EquivariantNASRegressor
from skequinas.groups import PointGroup, Subgroup
from skequinas.images import as_images
from skequinas.moves import transform_images
from skequinas.symmetry import LearnedSymmetry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

__all__ = ["OrbitDisplay", "SearchDisplay", "SymmetryDisplay"]

_Estimator = EquivariantNASClassifier | EquivariantNASRegressor

# Okabe and Ito's colours, which can be told apart with any kind of colour vision
_ORANGE, _SKY, _GREEN, _BLUE, _VERMILLION, _PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
_CYCLE = ("black", _ORANGE, _SKY, _GREEN, _BLUE, _VERMILLION, _PURPLE)
_STYLES = ("-", "--", ":", "-.")
_FILLS = {"accepted": "#BFE1F6", "rejected": "#F6DA9C"}  # sky blue and orange, paler
_LEARNED: dict[str, Any] = {"edgecolor": "black", "linewidth": 3}
_DOUBTFUL: dict[str, Any] = {"edgecolor": "black", "linewidth": 1.8, "linestyle": "--"}
_FRAMES: dict[str, dict[str, Any]] = {
    "same prediction": {"color": _BLUE, "linestyle": "-", "linewidth": 3.5},
    "same class, other probability": {"color": _ORANGE, "linestyle": "--", "linewidth": 3.5},
    "other class": {"color": _VERMILLION, "linestyle": ":", "linewidth": 3.5},
    "other prediction": {"color": _VERMILLION, "linestyle": ":", "linewidth": 3.5},
}


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
        estimator: _Estimator,
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
        ax = self._draw_on(_figure().subplots() if ax is None else ax)
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
        ax = self._draw_on(_figure().subplots() if ax is None else ax)
        from matplotlib.patches import Rectangle

        layers, weights = list(self.learned.constraints), self.learned.layer_weights
        names = [h.name for h in PointGroup.from_name(self.learned.search_group).subgroups]
        if weights is not None:
            shares = np.array([[weights[layer].get(name, 0.0) for layer in layers] for name in names])
            picture = ax.imshow(shares, cmap="Blues", vmin=0, aspect="auto")
            self.figure_.colorbar(picture, ax=ax, label="Learned share")
            for (row, column), share in np.ndenumerate(shares if shares.size <= 100 else shares[:0]):
                colour = "white" if share > 0.6 * shares.max() else "black"
                ax.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=8, color=colour)
        for column, constraint in enumerate(self.learned.constraints.values()):
            for name in constraint.split("+"):
                corner = (column - 0.45, names.index(name) - 0.42)
                fill = "none" if weights else _SKY
                ax.add_patch(Rectangle(corner, 0.9, 0.84, facecolor=fill, edgecolor=_VERMILLION, linewidth=2.5))
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
        names = list(next(iter(history.values())))
        curves = {layer: np.array([shares[name] for name in names]) for layer, shares in history.items()}
        legend: dict[str, Any] = {"fontsize": 8, "frameon": False, "ncols": 1 + len(names) // 25}
        labels = {"xlabel": "Course of the training (%)", "ylabel": "Share of the subgroup"}
        if ax is None:
            grid = _figure().subplots(-(-len(curves) // 2), 2, sharex=True, sharey=True, squeeze=False).ravel()
            for unused in grid[len(curves) :]:
                unused.remove()
            self._draw_on(grid[: len(curves)])
            self.figure_.supxlabel(labels["xlabel"], fontsize=10)
            self.figure_.supylabel(labels["ylabel"], fontsize=10)
        else:
            curves = {"Mean over the layers": np.mean(list(curves.values()), axis=0)}
            self._draw_on(ax).set(**labels)
        from matplotlib.ticker import LogLocator, NullLocator

        for axes, (title, shares) in zip(self.axes_, curves.items(), strict=True):
            for i, (name, share) in enumerate(zip(names, shares, strict=True)):
                look = {"color": _CYCLE[i % len(_CYCLE)], "linestyle": _STYLES[i // len(_CYCLE) % len(_STYLES)]}
                axes.plot(np.linspace(0, 100, len(share)), share, label=name, **look)
            axes.set_yscale("log")
            ticks = LogLocator(subs=(1, 2, 5))
            axes.yaxis.set(major_locator=ticks, major_formatter="{x:g}", minor_locator=NullLocator())
            axes.set_title(title, fontsize=10)
        if ax is None:
            self.figure_.legend(*self.ax_.get_legend_handles_labels(), loc="outside right upper", **legend)
        else:
            ax.legend(**legend | {"ncols": 2})


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
    def from_estimator(cls, estimator: _Estimator, *, ax: Axes | None = None) -> Self:
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
        self.ax_ = ax = _figure().subplots() if ax is None else ax
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
            ring: dict[str, Any] = {"facecolor": "none", "edgecolor": _VERMILLION, "linewidth": 2.5, "zorder": 4}
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
    def from_estimator(cls, estimator: _Estimator, image: ArrayLike, *, axes: Any = None) -> Self:
        """Draw an image under every element of a fitted estimator's search group.

        Parameters
        ----------
        estimator : EquivariantNASClassifier or EquivariantNASRegressor
        image : array-like of shape (features,), (H, W), (H, W, C) or (C, H, W)
            One sample as `predict` takes them, without the axis of the samples, or a data frame of one row. Where it
            is not a square it is padded as the model does, and the square is moved.
        axes
            As in `plot`.

        Returns
        -------
        OrbitDisplay
        """
        check_is_fitted(estimator)
        image = _as_array(image)
        X, _ = estimator._check(image if hasattr(image, "columns") else np.asarray(image)[None])
        group, preprocessing = estimator.architecture_.group, estimator.preprocessing_
        with torch.inference_mode():
            square = preprocessing(as_images(X, estimator.image_shape_))
            moved = torch.cat([transform_images(square, group, g) for g in group.elements])
            outputs = estimator._respond(estimator.module_(moved)).double().numpy()
            images = (moved * preprocessing.std + preprocessing.mean).movedim(1, -1).numpy()
        names = [group.element_name(g) for g in group.elements]
        if isinstance(estimator, EquivariantNASClassifier):
            display = cls(images, estimator.classes_[outputs.argmax(1)], names, probabilities=outputs.max(1))
        else:
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
            figure = _figure((2.15 if n <= 8 else 1.6) * n_rows + 0.4)
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


def _figure(height: float = 4.8) -> Any:
    """A new figure of the usual width."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('The displays need matplotlib: pip install "skequinas[plot]"') from error
    return plt.figure(figsize=(6.4, height), layout="constrained")


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


def _front(size: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.int64]:
    """Those that no other beats, by increasing size."""
    no_worse = (size[:, None] <= size) & (error[:, None] <= error)
    better = (size[:, None] < size) | (error[:, None] < error)
    front = np.flatnonzero(~(no_worse & better).any(axis=0))
    return front[np.lexsort((error[front], size[front]))]


def _drawable(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Grey images (n, size, size), or colours between 0 and 1, (n, size, size, 3)."""
    if images.ndim == 3:
        return images
    if images.shape[-1] < 3:
        grey: NDArray[np.float64] = images.mean(axis=-1)
        return grey
    colours = images[..., :3] - images[..., :3].min()
    return np.asarray(colours / (colours.max() or 1.0))
