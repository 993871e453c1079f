"""What the elements of a group do to a grid of pixels: some permute the pixels, others interpolate, or cannot be."""

from __future__ import annotations

import math

import numpy as np

from skequinas.groups.points import PointGroup

__all__ = ["fair_offset", "group_on_images", "pixel_elements", "quarter_turns_and_flip"]


def quarter_turns_and_flip(group: PointGroup, element: int) -> tuple[int, bool] | None:
    """The quarter turns after a flip of the y axis (or no flip) that make up an element; None if they do not."""
    mirror = group.is_mirror(element)
    degrees = group.angle(element) * (2 if mirror else 1)
    return None if degrees % 90 else (int(degrees / 90) % 4, mirror)


def pixel_elements(group: PointGroup) -> list[int]:
    """The elements of a group that map the square pixel grid to itself."""
    return [g for g in group.elements if quarter_turns_and_flip(group, g) is not None]


def group_on_images(group: PointGroup, height: int, width: int) -> PointGroup:
    """What of a group can move images of a shape to images of the same shape.

    For a square that is all of it (elements that do not map the pixels to themselves interpolate); otherwise half turns
    and the mirrors about upright and horizontal axes are left.

    Examples
    --------
    >>> from skequinas.groups import PointGroup, group_on_images
    >>> [group_on_images(PointGroup.from_name(name), 480, 640).name for name in ("D4", "C8", "D1(90)", "D1(45)")]
    ['D2', 'C2', 'D1(90)', 'C1']
    """
    if height == width:
        return group
    moves = ((g, quarter_turns_and_flip(group, g)) for g in group.elements)
    return group.generate(g for g, move in moves if move is not None and move[0] % 2 == 0).as_group


def fair_offset(group: PointGroup) -> float:
    """Degrees by which to turn all moved copies of an image, so that none is sharper than the others.

    It is 0 for groups that move pixels. Else some copies would be interpolated and others not, and one could tell them
    apart by that alone. With this offset the copy that is nearest to a quarter turn is as far from it as can be, but
    for offsets about half a step of the group: there the orbit of an image that looks the same under every other
    element would look the same under all.
    """
    if group.acts_on_pixels:
        return 0.0
    angles = np.array([float(group.angle(g)) * (2 if group.is_mirror(g) else 1) for g in group.elements])
    step = 360 / math.lcm(group.n_rotations, 4)
    offsets = step / 40 * np.array([k for k in range(1, 40) if abs(k - 20) >= 4])
    turned = (angles + offsets[:, None]) % 90
    return float(offsets[np.minimum(turned, 90 - turned).min(1).round(6).argmax()])
