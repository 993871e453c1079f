"""What all displays share: figures, and colours that can be told apart with any kind of colour vision."""

from __future__ import annotations

from typing import Any

__all__ = ["BLUE", "CYCLE", "GREEN", "ORANGE", "PURPLE", "SKY", "STYLES", "VERMILLION", "new_figure"]

# of Okabe and Ito
ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
CYCLE = ("black", ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE)
STYLES = ("-", "--", ":", "-.")


def new_figure(height: float = 4.8) -> Any:
    """A new figure of the usual width."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('The displays need matplotlib: pip install "skequinas[plot]"') from error
    return plt.figure(figsize=(6.4, height), layout="constrained")
