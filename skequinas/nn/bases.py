r"""Filter bases: what the coefficients of a kernel look like on the pixel grid, and how a group acts on them.

A filter is a sum of atoms. In the *pixel* basis every pixel is an atom of its own, and quarter turns and mirrors about
the axes and diagonals permute them: nothing is approximated. The *harmonic* basis holds rings with circular harmonics,

.. math:: R_\rho(r) \cos(m \theta), \quad R_\rho(r) \sin(m \theta), \quad R_\rho(r) = e^{-(r - \rho)^2 / 2 \sigma^2},

whose coefficients any rotation and any mirror turn into each other by a 2x2 matrix for each pair. It serves every group
exactly in its coefficients, and on pixels as well as the sampled atoms allow, so their frequencies are limited.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import block_diag, coo_array, csr_array

from skequinas.groups import PointGroup, quarter_turns_and_flip
from skequinas.runtime.registry import Registry

__all__ = ["BASES", "FilterBasis", "HarmonicBasis", "PixelBasis", "filter_basis", "register_basis"]

_SIGMA, _EDGE_SIGMA = 0.6, 0.4


@dataclass(frozen=True)
class FilterBasis(ABC):
    """A basis of filters of one size.

    Parameters
    ----------
    kernel_size : int
        The side of the filters, odd.
    """

    kernel_size: int

    def __post_init__(self) -> None:
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size} must be odd, so that the kernel has a central pixel.")

    @property
    @abstractmethod
    def n_atoms(self) -> int:
        """The number of atoms, that is of coefficients."""

    @property
    @abstractmethod
    def atoms(self) -> NDArray[np.float64] | None:
        """How the atoms look, of shape (n_atoms, kernel_size**2); None where each is a pixel, in reading order."""

    @abstractmethod
    def action(self, group: PointGroup, element: int) -> csr_array:
        """The orthogonal matrix by which an element moves coefficients, of shape (n_atoms, n_atoms)."""

    @abstractmethod
    def check_group(self, group: PointGroup) -> None:
        """Raise an error if the group cannot act on these filters."""


def moved_pixels(size: int, group: PointGroup, element: int) -> NDArray[np.int64]:
    """For each pixel of a square the one that an element, which maps the grid to itself, brings there."""
    turns, flip = quarter_turns_and_flip(group, element) or (0, False)  # nothing can move a single pixel
    grid = np.arange(size**2).reshape(size, size)
    return np.rot90(grid[::-1] if flip else grid, turns).ravel()


@dataclass(frozen=True)
class PixelBasis(FilterBasis):
    """Every pixel by itself. Quarter turns and the mirrors that map the grid to itself permute them."""

    @property
    def n_atoms(self) -> int:
        """The number of pixels."""
        return self.kernel_size**2

    @property
    def atoms(self) -> None:
        """None: a coefficient is a pixel."""
        return

    def action(self, group: PointGroup, element: int) -> csr_array:
        """The permutation of the pixels."""
        self.check_group(group)
        source = moved_pixels(self.kernel_size, group, element)
        return csr_array((np.ones(self.n_atoms), source, np.arange(self.n_atoms + 1)))

    def check_group(self, group: PointGroup) -> None:
        """Raise an error unless the group maps the pixel grid to itself, or there is one pixel alone."""
        if self.kernel_size > 1 and not group.acts_on_pixels:
            raise ValueError(
                f"group={group.name!r} cannot turn the pixel grid exactly, as basis='pixel' needs it. Use 'C1', 'C2', "
                "'C4', 'D1', 'D2' or 'D4' (the mirror axis of 'D1' and 'D2' may be a multiple of 45 degrees, such as "
                "'D1(90)'), or basis='harmonic'."
            )


@dataclass(frozen=True)
class HarmonicBasis(FilterBasis):
    """Rings with circular harmonics, for all rotations and mirrors.

    There is a ring at every whole distance from the centre. The one at the distance r holds the frequencies up to
    ``band_limit * r``; the outermost, which the square cuts, as if it were half a pixel smaller.

    Parameters
    ----------
    kernel_size : int
        The side of the filters, odd.
    band_limit : float, default=2.0
        The highest frequency for each pixel of distance. With more the filters can say more, and turn less well: at
        about 3 neighbouring pixels of a ring have opposite signs.
    """

    band_limit: float = 2.0

    @cached_property
    def rings(self) -> tuple[tuple[int, float, int], ...]:
        """For each ring its distance from the centre, its width sigma, and its highest frequency."""
        edge = self.kernel_size // 2
        inner = [(r, _SIGMA, int(self.band_limit * r)) for r in range(edge)]
        highest = int(self.band_limit * (edge - 0.5)) if edge else 0
        return (*inner, (edge, _EDGE_SIGMA if edge else _SIGMA, highest))

    @cached_property
    def frequencies(self) -> tuple[int, ...]:
        """The frequency of each block of one (frequency 0) or two (cosine and sine) atoms."""
        return tuple(m for *_, highest in self.rings for m in range(highest + 1))

    @property
    def n_atoms(self) -> int:
        """One for each ring, and two for each frequency above 0."""
        return sum(2 if m else 1 for m in self.frequencies)

    @cached_property
    def atoms(self) -> NDArray[np.float64]:
        """The sampled atoms, (n_atoms, kernel_size**2); cosine and sine of a block have the root mean square norm 1."""
        half = self.kernel_size // 2
        y, x = np.mgrid[half : -half - 1 : -1, -half : half + 1]  # the y axis points up
        distance, angle = np.hypot(x, y).ravel(), np.arctan2(y, x).ravel()
        blocks = []
        for r, sigma, highest in self.rings:
            profile = np.exp(-((distance - r) ** 2) / (2 * sigma**2))
            for m in range(highest + 1):
                waves = [np.cos(m * angle), np.sin(m * angle)] if m else [np.ones_like(angle)]
                block = np.stack(waves) * np.where((distance > 0) | (m == 0), profile, 0.0)
                blocks.append(block / np.sqrt(np.square(block).sum() / len(waves)))
        atoms: NDArray[np.float64] = np.concatenate(blocks)
        atoms.flags.writeable = False
        return atoms

    def action(self, group: PointGroup, element: int) -> csr_array:
        """A rotation, or reflection, of every pair of coefficients by its frequency times the angle."""
        turns = {m: group.harmonic(element, m) if m else np.ones((1, 1)) for m in set(self.frequencies)}
        matrix = csr_array(block_diag([coo_array(turns[m]) for m in self.frequencies], format="csr"))
        matrix.eliminate_zeros()
        return matrix

    def check_group(self, group: PointGroup) -> None:
        """Every group can act."""


BASES: Registry[type[FilterBasis]] = Registry("basis", {"pixel": PixelBasis, "harmonic": HarmonicBasis})


def register_basis(name: str, basis: type[FilterBasis]) -> None:
    """Make a filter basis available as ``basis=name``.

    Parameters
    ----------
    name : str
        A name that is not taken.
    basis : type
        A subclass of `FilterBasis` that is made from the size of the kernel alone. Other processes (``n_jobs``) know it
        if it is registered where its class is defined, in a module that they can import.
    """
    BASES.register(name, basis)
    filter_basis.cache_clear()


@cache
def filter_basis(name: str, kernel_size: int) -> FilterBasis:
    """The basis of that name made for a size of the kernel, once in a process."""
    return BASES.find(name)(kernel_size)
