r"""The irreducible representations of planar point groups over the real numbers.

The rotation by the angle :math:`\theta` and the mirrors of a subgroup act on the coefficients of
:math:`\cos m \theta` and :math:`\sin m \theta` by 2x2 matrices. For the frequencies m between 0 and half the number of
rotations these are irreducible; where :math:`m \theta` is always a multiple of a half turn they fall into signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from skequinas.groups.points import Subgroup

__all__ = ["Irrep", "irreps"]


@dataclass(frozen=True, eq=False)
class Irrep:
    """An irreducible representation of a subgroup, by orthogonal matrices.

    Parameters
    ----------
    matrices : ndarray of shape (order, dimension, dimension)
        One for each element of the subgroup, in the order of ``subgroup.elements``. Read-only.
    is_complex : bool
        Whether its matrices commute with more than the multiples of the identity, as those of rotations alone do with
        each other. What commutes with it is then a complex number, and not a real one.
    """

    matrices: NDArray[np.float64]
    is_complex: bool = False

    @property
    def dimension(self) -> int:
        """The size of the matrices, 1 or 2."""
        return int(self.matrices.shape[1])


@cache
def irreps(subgroup: Subgroup) -> tuple[Irrep, ...]:
    r"""All of them, those of dimension 1 first.

    Their sizes add up as in every finite group: :math:`\sum d^2 = |H|`, where a complex one counts :math:`d^2 / 2`.

    Examples
    --------
    >>> from skequinas.groups import PointGroup, irreps
    >>> [irrep.dimension for irrep in irreps(PointGroup.from_name("D4").whole)]
    [1, 1, 1, 1, 2]
    >>> [(irrep.dimension, irrep.is_complex) for irrep in irreps(PointGroup.from_name("C4").whole)]
    [(1, False), (1, False), (2, True)]
    """
    group, n = subgroup.group, subgroup.n_rotations
    is_mirror = np.array([group.is_mirror(h) for h in subgroup.elements])
    alternating = np.tile((-1.0) ** np.arange(n), len(is_mirror) // n)  # neighbouring rotations, and mirrors, differ
    found = []
    for frequency in range(n // 2 + 1):
        if frequency in (0, n / 2):
            sign = alternating if frequency else np.ones(len(is_mirror))
            signs = [sign, np.where(is_mirror, -sign, sign)] if is_mirror.any() else [sign]
            found += [Irrep(_frozen(sign.reshape(-1, 1, 1))) for sign in signs]
        else:
            matrices = np.stack([group.harmonic(h, frequency) for h in subgroup.elements])
            found.append(Irrep(_frozen(matrices), is_complex=not is_mirror.any()))
    return tuple(sorted(found, key=lambda irrep: irrep.dimension))


def _frozen(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    matrices.flags.writeable = False
    return matrices
