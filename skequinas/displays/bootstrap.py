"""How often each group is named on resamples of the images, as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from skequinas.displays.style import SKY, new_figure
from skequinas.estimators.bootstrap import SymmetryBootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer

__all__ = ["BootstrapDisplay"]


class BootstrapDisplay:
    """A bar for each group that was named on some resample, with the interval of its share.

    Parameters
    ----------
    found : SymmetryBootstrap
        What `skequinas.bootstrap_symmetry` returns.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    bars_ : matplotlib BarContainer

    Examples
    --------
    >>> from skequinas import BootstrapDisplay, SymmetryBootstrap
    >>> found = SymmetryBootstrap("D4", ("C4", "C4", "D4", "C4"), (0, 1, 2, 3))
    >>> display = BootstrapDisplay(found).plot()
    >>> [float(bar.get_width()) for bar in display.bars_]
    [0.75, 0.25]
    """

    ax_: Axes
    figure_: Any
    bars_: BarContainer

    def __init__(self, found: SymmetryBootstrap) -> None:
        self.found = found

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the shares.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; on a new figure by default.

        Returns
        -------
        BootstrapDisplay
        """
        shares = self.found.shares
        if ax is None:
            ax = new_figure(1.2 + 0.4 * len(shares)).add_subplot()
        names, values = list(shares), list(shares.values())
        bounds = [self.found.interval(name) for name in names]
        errors = [[v - low for v, (low, _) in zip(values, bounds, strict=True)]]
        errors.append([high - v for v, (_, high) in zip(values, bounds, strict=True)])
        self.bars_ = ax.barh(names, values, xerr=errors, color=SKY, ecolor="black", capsize=3)
        ax.invert_yaxis()
        ax.set(xlim=(0, 1), xlabel=f"Share of {len(self.found.named)} resamples", ylabel="Group that is found")
        self.ax_, self.figure_ = ax, ax.figure
        return self
