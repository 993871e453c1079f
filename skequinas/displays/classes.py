"""Which classes break which symmetries, as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skequinas.displays.style import new_figure
from skequinas.evidence.classes import SymmetryByClass

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["SymmetryByClassDisplay"]


class SymmetryByClassDisplay:
    """What every symmetry costs each class, in held-out score; the broken ones are marked.

    Parameters
    ----------
    found : SymmetryByClass
        What `skequinas.symmetry_by_class` returns.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    image_ : matplotlib AxesImage

    Examples
    --------
    >>> from skequinas import SymmetryByClass, SymmetryByClassDisplay
    >>> found = SymmetryByClass(
    ...     "C2",
    ...     {"boot": 90, "shirt": 80},
    ...     {"boot": {"C2": 0.0001}, "shirt": {"C2": 0.4}},
    ...     {"boot": {"C2": (0.5, 0.4, 0.6)}, "shirt": {"C2": (0.0, -0.1, 0.1)}},
    ... )
    >>> display = SymmetryByClassDisplay(found).plot()
    >>> [text.get_text() for text in display.ax_.texts]
    ['50 *', '0']
    """

    ax_: Axes
    figure_: Any
    image_: AxesImage

    def __init__(self, found: SymmetryByClass) -> None:
        self.found = found

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw a row for each class and a column for each subgroup.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; on a new figure by default.

        Returns
        -------
        SymmetryByClassDisplay
        """
        classes = list(self.found.costs)
        names = list(self.found.costs[classes[0]])
        if ax is None:
            ax = new_figure(1.6 + 0.4 * len(classes)).add_subplot()
        costs = 100 * np.array([[self.found.costs[c][name][0] for name in names] for c in classes])
        limit = max(float(np.abs(costs).max()), 1.0)
        self.image_ = ax.imshow(costs, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
        for i, c in enumerate(classes):
            broken = self.found.broken[c]
            for j, name in enumerate(names):
                dark = abs(costs[i, j]) > 0.6 * limit
                text = f"{costs[i, j]:.0f}".replace("-0", "0") + (" *" if name in broken else "")
                ax.text(j, i, text, ha="center", va="center", color="white" if dark else "black", fontsize=9)
        ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
        ax.set_yticks(range(len(classes)), [str(c) for c in classes])
        ax.set(xlabel=f"Symmetry that is imposed; * is broken (level {self.found.level:g})", ylabel="Class")
        ax.figure.colorbar(self.image_, ax=ax, label="Cost in points of held-out score")
        self.ax_, self.figure_ = ax, ax.figure
        return self
