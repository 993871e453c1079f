r"""Spaces of equivariant kernels on the pixel grid: expand, relax and tighten.

A feature map has one channel for each field ``c`` and each element ``g`` of the search group G (a *regular*
type), or one for each field alone (*trivial*: an image, or the outputs of the head). The dense kernel K of a
convolution is equivariant to a subgroup H of G exactly when

.. math:: K[(o, h g), (i, h g'), h x] = K[(o, g), (i, g'), x] \quad \text{for every } h \in H ,

where h leaves a trivial index as it is. So H permutes the positions (g, g', x) of a kernel, K is constant on
the orbits, and the free weights w are one number for each orbit (and each pair of fields o, i):

* **expand** is K = w[index], with the orbit of every position (a mixture sums several such in one gather);
* **relax** reads the weights of H' <= H off K at one position of every orbit of H': no arithmetic, so
  the kernel stays the same bit for bit;
* **tighten** takes the mean of K over every orbit, which is the orthogonal projection.

All three need one small integer table for each (H, kernel size, types). It is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from skequinas.groups import PointGroup, Subgroup

__all__ = [
    "KernelSpace",
    "OrbitTables",
    "expand",
    "kernel_space",
    "orbit_tables",
    "require_pixel_group",
    "transform_images",
]


def require_pixel_group(group: PointGroup) -> PointGroup:
    """Return the group, or say which groups the pixel grid can turn exactly."""
    if not group.acts_on_pixels:
        raise ValueError(
            f"group={group.name!r} cannot turn the pixel grid exactly. Use 'C1', 'C2', 'C4', 'D1', 'D2' or 'D4'; "
            "the mirror axis of 'D1' and 'D2' may be a multiple of 45 degrees, such as 'D1(90)'."
        )
    return group


def _turns_and_flip(group: PointGroup, element: int) -> tuple[int, bool]:
    """The quarter turns that follow a flip of the y axis (or no flip) and make up the element."""
    mirror = group.is_mirror(element)
    degrees = group.angle(element) * (2 if mirror else 1)
    return int(degrees / 90) % 4, mirror


def transform_images(images: Tensor, group: PointGroup, element: int) -> Tensor:
    """Move square images by one element of a pixel group, without interpolation.

    Parameters
    ----------
    images : Tensor of shape (..., size, size)
        The rows run downwards, as in an image.
    group : PointGroup
        One whose elements map the pixel grid to itself.
    element : int
        The number of the element, as in ``group.elements``.

    Returns
    -------
    Tensor of shape (..., size, size)
    """
    turns, flip = _turns_and_flip(require_pixel_group(group), element)
    if flip:
        images = images.flip(-2)
    return images.rot90(turns, (-2, -1)) if turns else images


def _pixel_permutation(group: PointGroup, element: int, size: int) -> NDArray[np.int64]:
    """Where the element takes each pixel of a square grid, by flat index."""
    turns, flip = _turns_and_flip(group, element)
    grid = np.arange(size * size).reshape(size, size)
    source = np.rot90(grid[::-1] if flip else grid, turns)
    return np.argsort(source, axis=None)


@dataclass(frozen=True)
class KernelSpace:
    """All kernels of one size between two feature types that are equivariant to a subgroup.

    Parameters
    ----------
    constraint : Subgroup
        The subgroup H of the search group G.
    kernel_size : int
        The side of the kernel, odd.
    regular_in, regular_out : bool, default=True
        Whether the input and output channels are indexed by the elements of G. At least one of them must be:
        then H moves every position, and all of its orbits have ``|H|`` positions.
    """

    constraint: Subgroup
    kernel_size: int
    regular_in: bool = True
    regular_out: bool = True

    def __post_init__(self) -> None:
        require_pixel_group(self.constraint.group)
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size} must be odd, so that the kernel has a central pixel.")
        if not (self.regular_in or self.regular_out):
            raise ValueError("At least one of regular_in and regular_out must be True.")

    def __reduce__(self) -> tuple[Any, ...]:
        return kernel_space, (self.constraint, self.kernel_size, self.regular_in, self.regular_out)

    @property
    def multiplicity_in(self) -> int:
        """Channels for each input field."""
        return self.constraint.group.order if self.regular_in else 1

    @property
    def multiplicity_out(self) -> int:
        """Channels for each output field."""
        return self.constraint.group.order if self.regular_out else 1

    @property
    def n_positions(self) -> int:
        """The entries of a dense kernel for each pair of fields."""
        return self.multiplicity_in * self.multiplicity_out * self.kernel_size**2

    @property
    def n_free(self) -> int:
        """The dimension of the space for each pair of fields."""
        return self.n_positions // self.constraint.order

    @cached_property
    def members(self) -> Tensor:
        """The positions of every orbit, int32 of shape ``(n_free, |H|)``; the first stands for its orbit."""
        with torch.inference_mode(False):  # it is shared by all networks of the process, whoever asks first
            return torch.from_numpy(self._tables[0])

    @cached_property
    def index(self) -> Tensor:
        """The orbit of every position, int32 of shape (n_positions,)."""
        with torch.inference_mode(False):
            return torch.from_numpy(self._tables[1])

    @cached_property
    def moves(self) -> NDArray[np.int32]:
        """Where each element of H takes every position, int32 of shape ``(|H|, n_positions)``."""
        group, size = self.constraint.group, self.kernel_size
        g_out, g_in, x = np.ogrid[: self.multiplicity_out, : self.multiplicity_in, : size**2]
        moved = []
        for h in self.constraint.elements:
            to_out = group.table[h] if self.regular_out else np.zeros(1, dtype=np.int64)
            to_in = group.table[h] if self.regular_in else np.zeros(1, dtype=np.int64)
            to_x = _pixel_permutation(group, h, size)
            moved.append(((to_out[g_out] * self.multiplicity_in + to_in[g_in]) * size**2 + to_x[x]).ravel())
        return np.stack(moved).astype(np.int32)

    @cached_property
    def _tables(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        images = self.moves
        representatives, index = np.unique(images.min(axis=0), return_inverse=True)
        return (np.ascontiguousarray(images[:, representatives].T).astype(np.int32), index.astype(np.int32))

    def expand(self, weights: Tensor) -> Tensor:
        """The dense kernel of free weights (n_free, out, in)."""
        return self.fold(expand(weights, *(table.to(weights.device) for table in orbit_tables((self,)))))

    def relax(self, kernel: Tensor) -> Tensor:
        """The free weights of a dense kernel that is in this space already, without arithmetic."""
        return self.unfold(kernel).index_select(0, self.members[:, 0].to(kernel.device))

    def tighten(self, kernel: Tensor) -> Tensor:
        """The free weights of the nearest kernel in this space: the mean over every orbit."""
        members = self.members.to(kernel.device)
        rows = self.unfold(kernel).index_select(0, members.flatten())
        means: Tensor = rows.unflatten(0, members.shape).mean(1)
        return means

    def fold(self, rows: Tensor) -> Tensor:
        """From (n_positions, out, in) to a kernel ``(out * |G|, in * |G|, size, size)``.

        Its memory format is channels-last: a convolution follows that of its kernel, and this is the faster one.
        """
        n_out, n_in = rows.shape[1:]
        size, m_out, m_in = self.kernel_size, self.multiplicity_out, self.multiplicity_in
        kernel = rows.reshape(m_out, m_in, size, size, n_out, n_in).permute(4, 0, 2, 3, 5, 1)
        return kernel.reshape(n_out * m_out, size, size, n_in * m_in).permute(0, 3, 1, 2)

    def unfold(self, kernel: Tensor) -> Tensor:
        """The inverse of ``fold``."""
        size, m_out, m_in = self.kernel_size, self.multiplicity_out, self.multiplicity_in
        n_out, n_in = kernel.shape[0] // m_out, kernel.shape[1] // m_in
        rows = kernel.reshape(n_out, m_out, n_in, m_in, size, size).permute(1, 3, 4, 5, 0, 2)
        return rows.reshape(self.n_positions, n_out, n_in)


@cache
def kernel_space(
    constraint: Subgroup, kernel_size: int, regular_in: bool = True, regular_out: bool = True
) -> KernelSpace:
    """The kernel space with its tables, made once in a process."""
    return KernelSpace(constraint, kernel_size, regular_in, regular_out)


class OrbitTables(NamedTuple):
    """How one or several kernel spaces make up one kernel, as index tables for both directions.

    The free weights of the spaces lie in one tensor, one space after the other.

    Parameters
    ----------
    orbits : Tensor
        int32 of shape (n_positions, n_spaces): for every position its orbits, one of each space.
    members : Tensor
        int32 of shape (n_positions * n_spaces,): the positions of all orbits, one orbit after the other.
    starts : Tensor
        int32 of shape (sum of n_free,): where each orbit begins in ``members``.
    """

    orbits: Tensor
    members: Tensor
    starts: Tensor


@cache
def orbit_tables(spaces: tuple[KernelSpace, ...]) -> OrbitTables:
    """The tables of a sum of kernel spaces, made once in a process."""
    sizes = np.array([space.n_free for space in spaces])
    orders = np.array([space.constraint.order for space in spaces])
    orbits = np.stack([space.index.numpy() for space in spaces], axis=1) + (sizes.cumsum() - sizes)
    lengths = np.repeat(orders, sizes)
    tables = orbits, np.concatenate([space.members.numpy().ravel() for space in spaces]), lengths.cumsum() - lengths
    with torch.inference_mode(False):  # it is shared by all networks of the process, whoever asks first
        return OrbitTables(*(torch.from_numpy(table.astype(np.int32)) for table in tables))


class _Expand(torch.autograd.Function):
    """Gather and sum rows by orbit. The backward pass gathers too, so it is deterministic on every device."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, orbits: Tensor, members: Tensor, starts: Tensor) -> Tensor:
        ctx.save_for_backward(members, starts)
        ctx.shape = weights.shape
        rows: Tensor = F.embedding_bag(orbits, weights.flatten(1), mode="sum")
        return rows.reshape(len(rows), *weights.shape[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        members, starts = ctx.saved_tensors
        rows = grad.flatten(1).contiguous()
        return F.embedding_bag(members, rows, starts, mode="sum").reshape(ctx.shape), None, None, None


def expand(weights: Tensor, orbits: Tensor, members: Tensor, starts: Tensor) -> Tensor:
    """Give every position the sum of the weights of its orbits: (sum of n_free, ...) to (n_positions, ...).

    One fused gather, whatever the number of spaces. The tables are those of `orbit_tables`.
    """
    rows: Tensor = _Expand.apply(weights, orbits, members, starts)
    return rows
