"""What searches that take all constraints away, and move images instead, cannot begin with."""

from __future__ import annotations

from skequinas.groups import pixel_elements
from skequinas.nn.architecture import Architecture

__all__ = ["check_moves_instead"]


def check_moves_instead(architecture: Architecture, name: str) -> None:
    """Refuse a group that moves no pixels, and constraints to anything but the whole group.

    Parameters
    ----------
    architecture : Architecture
        Where the search is to begin.
    name : str
        That of the search.
    """
    group = architecture.group
    if group.order > 1 and len(pixel_elements(group)) == 1:
        raise ValueError(
            f"group={group.name!r} has no element that maps pixels to pixels, and search={name!r} moves images by "
            "those. Take a group with quarter or half turns or mirrors, or another search."
        )
    if set(architecture.chain) != {group.whole}:
        raise ValueError(
            f"architecture has the constraints {architecture}, but search={name!r} takes all away. Leave its "
            "constraints out, or use search='none'."
        )
