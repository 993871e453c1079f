"""Groups, spaces and fields of escnn, and ours."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skequinas.groups import PointGroup, Subgroup
from skequinas.interop.escnn.library import CyclicGroup, DihedralGroup, Group, Representation, gspaces

__all__ = ["field_of", "point_group", "space_of"]


def point_group(group: Group | gspaces.GSpace2D) -> PointGroup:
    """The point group of an escnn group or of a gspace of the plane.

    Parameters
    ----------
    group : escnn.group.Group or escnn.gspaces.GSpace2D
        A cyclic or dihedral group, or a space that one acts on. The mirror axis of a space is its own; that of a group
        alone is horizontal, at 0 degrees.

    Returns
    -------
    PointGroup

    Examples
    --------
    >>> from escnn import gspaces
    >>> from skequinas.interop.escnn import point_group
    >>> point_group(gspaces.flipRot2dOnR2(8)).name
    'D8'
    """
    if isinstance(group, gspaces.GSpace2D):
        matrices = [_matrix(group, e) for e in group.fibergroup.elements or ()]  # None if it is infinite
        if matrices:
            return _from_matrices(matrices)
        group = group.fibergroup
    elif isinstance(group, CyclicGroup):
        return PointGroup(group.order())
    elif isinstance(group, DihedralGroup):
        return PointGroup(group.rotation_order, True)
    raise ValueError(
        f"group={group!r} is not a finite group of rotations and reflections of the plane. Use "
        "escnn.gspaces.rot2dOnR2(N) or flipRot2dOnR2(N), or a name such as 'C8' or 'D8'."
    )


def _matrix(space: gspaces.GSpace2D, element: Any) -> NDArray[np.float64]:
    """How an element acts on the plane."""
    matrix: NDArray[np.float64] = np.asarray(space.basespace_action(element), dtype=float)
    return matrix


def _from_matrices(matrices: Iterable[NDArray[np.float64]]) -> PointGroup:
    """The group of these 2x2 matrices."""
    matrices = list(matrices)
    mirrors = [m for m in matrices if np.linalg.det(m) < 0]
    n = len(matrices) - len(mirrors)
    if not mirrors:
        return PointGroup(n)
    axes = [np.degrees(np.arctan2(m[1, 0], m[0, 0])) / 2 % (180 / n) for m in mirrors]
    axis = Fraction(axes[0]).limit_denominator(1000)
    return PointGroup(n, True, axis)


def space_of(subgroup: Subgroup) -> gspaces.GSpace2D:
    """The space of escnn on which a subgroup acts."""
    own = subgroup.as_group
    n, axis = own.n_rotations, float(np.radians(float(own.axis)))
    if own.mirrors:
        return gspaces.flip2dOnR2(axis) if n == 1 else gspaces.flipRot2dOnR2(n, axis=axis)
    return gspaces.trivialOnR2() if n == 1 else gspaces.rot2dOnR2(n)


def _numbers(space: gspaces.GSpace2D, subgroup: Subgroup) -> list[int]:
    """For each element of a space's group its number in the search group."""
    matrices = {g: subgroup.group.matrix(g) for g in subgroup.elements}

    def number(element: Any) -> int:
        matrix = _matrix(space, element)
        return min(matrices, key=lambda g: float(np.abs(matrices[g] - matrix).max()))

    return [number(element) for element in space.fibergroup.elements]


def field_of(space: gspaces.GSpace2D, subgroup: Subgroup) -> Representation:
    """What our field, indexed by the elements of the search group, is for escnn: it splits into cosets.

    It is built from regular representations by a permutation, so that nothing has to be decomposed numerically.
    """
    fiber, group = space.fibergroup, subgroup.group
    name = f"skequinas {subgroup.name} in {group.name}"  # turns by 180 degrees and a mirror are one group to escnn
    if name not in fiber.representations:
        regular = fiber.regular_representation
        numbers = _numbers(space, subgroup)
        channels = [group.multiply(h, coset[0]) for coset in subgroup.right_cosets for h in numbers]
        change = np.zeros((group.order, group.order))
        for i in range(subgroup.index):
            own = slice(i * subgroup.order, (i + 1) * subgroup.order)
            change[channels[own], own] = regular.change_of_basis
        fiber.representations[name] = Representation(
            fiber, name, regular.irreps * subgroup.index, change, regular.supported_nonlinearities
        )
    return fiber.representations[name]
