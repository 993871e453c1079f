"""What a symmetry buys, as learning curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from skequinas.displays.style import BLUE, ORANGE, VERMILLION, new_figure
from skequinas.estimators.base import BaseEquivariantNAS
from skequinas.estimators.gain import SymmetryGain, symmetry_gain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer

__all__ = ["SymmetryGainDisplay"]


class SymmetryGainDisplay:
    """The error by the number of images: with a symmetry, without it, and with moved images instead.

    Parameters
    ----------
    gain : SymmetryGain
        What `skequinas.symmetry_gain` returns.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    curves_ : dict of matplotlib ErrorbarContainer
        One for each way; bars are standard deviations over repeats.

    Examples
    --------
    >>> import numpy as np
    >>> from skequinas import SymmetryGain, SymmetryGainDisplay
    >>> errors = {"C4": np.array([[0.2], [0.1]]), "C1": np.array([[0.4], [0.3]])}
    >>> display = SymmetryGainDisplay(SymmetryGain("C4", (100, 1000), errors, errors)).plot()
    >>> list(display.curves_)
    ['C4', 'C1']
    """

    ax_: Axes
    figure_: Any
    curves_: dict[str, ErrorbarContainer]

    def __init__(self, gain: SymmetryGain) -> None:
        self.gain = gain

    @classmethod
    def from_estimator(
        cls, estimator: BaseEquivariantNAS, X: ArrayLike, y: ArrayLike, *, ax: Axes | None = None, **options: Any
    ) -> Self:
        """Fit all networks, and draw.

        Parameters
        ----------
        estimator, X, y
            As `skequinas.symmetry_gain` takes them.
        ax : matplotlib Axes, optional
            Where to draw; on a new figure by default.
        **options
            The others of `skequinas.symmetry_gain`.

        Returns
        -------
        SymmetryGainDisplay
        """
        return cls(symmetry_gain(estimator, X, y, **options)).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the curves, with their power laws.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; on a new figure by default.

        Returns
        -------
        SymmetryGainDisplay
        """
        if ax is None:
            ax = new_figure().add_subplot()
        n, self.curves_ = np.array(self.gain.n_images), {}
        for (way, errors), color in zip(self.gain.errors.items(), (BLUE, VERMILLION, ORANGE), strict=False):
            bars = errors.std(1, ddof=1) if errors.shape[1] > 1 else None
            a, b, _ = self.gain.power_law(way)
            label = f"{way}: $n^{{{-b:.2f}}}$"
            means = self.gain.positive(errors.mean(1))
            self.curves_[way] = ax.errorbar(n, means, bars, fmt="o", capsize=3, color=color, label=label)
            ax.plot(n, a * n**-b, "--", color=color)
        ax.set(xscale="log", yscale="log", xlabel="Images", ylabel="Error on other images")
        ax.set_xticks(n, [f"{k:,}" for k in n])
        ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
