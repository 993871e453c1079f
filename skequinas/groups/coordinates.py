r"""Functions on a subgroup, sorted by its irreducible representations.

A subgroup H acts on functions z on itself by :math:`(h z)(h') = z(h^{-1} h')`. In the coordinates

.. math:: \hat z_\rho = \sqrt{d_\rho / |H|} \sum_{h \in H} \rho(h) \, z(h)

that is :math:`\hat z_\rho \mapsto \rho(h) \hat z_\rho`: every column of such a matrix is moved by the representation,
and lengths are kept. The trivial representation gives what does not move.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from skequinas.groups.points import Subgroup
from skequinas.groups.representations import Irrep, irreps

__all__ = ["irrep_coordinates", "irrep_names", "move_coordinates"]


def _copies(irrep: Irrep) -> int:
    """How often a representation is in functions on the subgroup: of a complex one both columns say the same."""
    return 1 if irrep.is_complex else irrep.dimension


def irrep_coordinates(values: NDArray[np.float64], subgroup: Subgroup) -> NDArray[np.float64]:
    """Functions on a subgroup in coordinates by its irreducible representations.

    Parameters
    ----------
    values : ndarray of shape (n, m, order)
        Of every sample m functions, by their values on ``subgroup.elements``.
    subgroup : Subgroup

    Returns
    -------
    ndarray of shape (n, m * order)
        First the m invariant ones, then for each other representation the components of all functions, those that move
        among each other next to each other. `irrep_names` has their names.

    Examples
    --------
    >>> import numpy as np
    >>> from skequinas.groups import PointGroup, irrep_coordinates
    >>> irrep_coordinates(np.ones((1, 1, 4)), PointGroup.from_name("C4").whole).round(9)
    array([[2., 0., 0., 0.]])
    """
    n, parts = len(values), []
    for irrep in irreps(subgroup):
        found = np.einsum("hab,nmh->nmba", irrep.matrices[..., : _copies(irrep)], values)
        parts.append(np.sqrt(irrep.dimension / subgroup.order) * found.reshape(n, -1))
    return np.concatenate(parts, 1)


def irrep_names(m: int, subgroup: Subgroup) -> list[str]:
    """Names of the coordinates of m functions: "invariant2", "irrep1_2", in two dimensions "irrep4_2_0" and so on."""
    names = []
    for number, irrep in enumerate(irreps(subgroup)):
        stem = f"irrep{number}_" if number else "invariant"
        for k in range(m * _copies(irrep)):
            names += [f"{stem}{k}"] if irrep.dimension == 1 else [f"{stem}{k}_{a}" for a in range(irrep.dimension)]
    return names


def move_coordinates(coordinates: NDArray[np.float64], subgroup: Subgroup, element: int) -> NDArray[np.float64]:
    """The coordinates of functions that were moved by an element of the subgroup.

    Parameters
    ----------
    coordinates : ndarray of shape (n, m * order)
        As from `irrep_coordinates`.
    subgroup : Subgroup
    element : int
        Its number in the group.
    """
    place, parts = subgroup.elements.index(element), []
    for irrep, part in _parts(coordinates, subgroup):
        vectors = part.reshape(len(part), -1, irrep.dimension)
        parts.append((vectors @ irrep.matrices[place].T).reshape(part.shape))
    return np.concatenate(parts, 1)


def _parts(coordinates: NDArray[np.float64], subgroup: Subgroup) -> Iterator[tuple[Irrep, NDArray[np.float64]]]:
    """The representations, with the columns that belong to each."""
    m, rest = divmod(coordinates.shape[1], subgroup.order)
    if rest:
        raise ValueError(
            f"coordinates have {coordinates.shape[1]} columns, which is no multiple of the {subgroup.order} elements "
            f"of {subgroup.name}. Pass all that irrep_coordinates returned."
        )
    start = 0
    for irrep in irreps(subgroup):
        stop = start + m * _copies(irrep) * irrep.dimension
        yield irrep, coordinates[:, start:stop]
        start = stop
