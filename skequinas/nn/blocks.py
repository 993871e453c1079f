r"""Equivariant kernels as what they are to linear algebra: one small matrix for each irreducible representation.

A kernel maps the input's channels and filter atoms to the output's channels. If it is equivariant to H, it maps each
irreducible representation of H to its own kind alone, and does the same to all of its dimensions: in coordinates that
sort both sides by representations it falls into blocks, :math:`D = \bigoplus_\rho D_\rho \otimes 1_{d_\rho}`. Functions
of :math:`D D^T`, such as the polar factor :math:`(D D^T)^{-1/2} D`, are those of the blocks.

The blocks are linear in the free weights, by a sparse matrix T for each kernel space, with
:math:`\sum_\rho d_\rho \|D_\rho\|^2 = |H| \, \|w\|^2`; the way back is its transpose, weighted and divided by
:math:`|H|`. T uses that a row of D which belongs to the first element of a coset of H *is* free weights, and gives all
others of the coset.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import block_diag, csr_array, eye_array, hstack, kron, vstack
from torch import Tensor

from skequinas.groups import Irrep, irreps
from skequinas.nn.filters import KernelSpace, OrbitTables, gather, sparse_tables

__all__ = ["BlockShape", "KernelBlocks", "kernel_blocks"]


class BlockShape(NamedTuple):
    """So many blocks of one shape: rows for each output field, and columns for each input field."""

    n: int
    rows: int
    columns: int

    @property
    def size(self) -> int:
        """The entries of all of them for each pair of fields."""
        return self.n * self.rows * self.columns


@dataclass(frozen=True, eq=False)
class KernelBlocks:
    """From the free weights of one or several kernel spaces to their blocks, and back.

    Parameters
    ----------
    shapes : tuple of BlockShape
        Those of the first space, then of the next; blocks of one shape in a space are one entry.
    forward_tables, backward_tables : OrbitTables or None
        The sparse matrices; None where free weights are the entries of the blocks, in the same order.
    """

    shapes: tuple[BlockShape, ...]
    forward_tables: OrbitTables | None
    backward_tables: OrbitTables | None

    def split(self, weights: Tensor) -> list[Tensor]:
        """The blocks of free weights (n_free, out, in), each (n, rows * out, columns * in)."""
        n_out, n_in = weights.shape[1:]
        entries = weights if self.forward_tables is None else gather(weights, self._tables(weights)[0])
        parts = entries.split([shape.size for shape in self.shapes])
        return [
            part.reshape(s.n, s.rows, s.columns, n_out, n_in)
            .transpose(2, 3)
            .reshape(s.n, s.rows * n_out, s.columns * n_in)
            for part, s in zip(parts, self.shapes, strict=True)
        ]

    def join(self, blocks: list[Tensor], n_out: int, n_in: int) -> Tensor:
        """The inverse of `split`."""
        parts = [
            block.reshape(s.n, s.rows, n_out, s.columns, n_in).transpose(2, 3).reshape(s.size, n_out, n_in)
            for block, s in zip(blocks, self.shapes, strict=True)
        ]
        entries = torch.cat(parts) if len(parts) > 1 else parts[0]
        return entries if self.backward_tables is None else gather(entries, self._tables(entries)[1])

    def _tables(self, rows: Tensor) -> tuple[OrbitTables, OrbitTables]:
        """Both tables, where rows are and in their type."""
        return _placed(self, rows.device, rows.dtype)


@cache
def kernel_blocks(spaces: tuple[KernelSpace, ...]) -> KernelBlocks:
    """The blocks of kernel spaces whose free weights lie in one tensor, one space after the other."""
    shapes: list[BlockShape] = []
    forward, backward = [], []
    for space in spaces:
        found = sorted(_blocks(space), key=lambda block: block.shape)
        for shape, same in groupby(found, key=lambda block: block.shape):
            shapes.append(BlockShape(len(list(same)), *shape))
        forward.append(vstack([block.entries for block in found]))
        weights = np.concatenate([np.full(block.entries.shape[0], block.multiplicity) for block in found])
        backward.append(forward[-1].T.multiply(weights / space.constraint.order))
    if all(space.constraint.order == 1 or not space.regular_out for space in spaces):
        return KernelBlocks(tuple(shapes), None, None)
    return KernelBlocks(tuple(shapes), *(sparse_tables(csr_array(block_diag(m))) for m in (forward, backward)))


@cache
def _placed(blocks: KernelBlocks, device: torch.device, dtype: torch.dtype) -> tuple[OrbitTables, OrbitTables]:
    """The tables of blocks on a device, with factors of a type, made once."""
    assert blocks.forward_tables is not None
    assert blocks.backward_tables is not None
    with torch.inference_mode(False):
        placed = [
            tables._replace(
                orbit_factors=None if tables.orbit_factors is None else tables.orbit_factors.to(dtype),
                member_factors=None if tables.member_factors is None else tables.member_factors.to(dtype),
            ).to(device)
            for tables in (blocks.forward_tables, blocks.backward_tables)
        ]
    return placed[0], placed[1]


class _Block(NamedTuple):
    """The block of one representation: its shape for each pair of fields, and its entries from free weights."""

    shape: tuple[int, int]
    entries: csr_array
    multiplicity: int
    """How often it stands in the kernel."""


def _blocks(space: KernelSpace) -> list[_Block]:
    """The blocks of a kernel space."""
    subgroup, n_free = space.constraint, space.n_free
    if not space.regular_out:  # such outputs are invariant, and so is what reaches them
        return [_Block((1, n_free), csr_array(eye_array(n_free)), 1)]
    found = []
    for irrep in irreps(subgroup):
        partners = _sorted_inputs(space, irrep)
        n_columns = partners[0].shape[1]
        if n_columns:
            rows = vstack([partner.T for partner in partners]) * np.sqrt(subgroup.order / irrep.dimension)
            shape = (subgroup.index * irrep.dimension, n_columns)
            entries = csr_array(kron(eye_array(subgroup.index), rows))
            found.append(_Block(shape, entries, 1 if irrep.is_complex else irrep.dimension))
    return found


def _sorted_inputs(space: KernelSpace, irrep: Irrep) -> list[csr_array]:
    """Orthonormal vectors of inputs that move as the first dimension of a representation, and those of the others.

    The first matrix has the vectors as its columns, and so have the next, in the same order, for each dimension of the
    representation. For a complex one the first has all of them already, and the second their other halves.
    """
    moved, dimensions = _moved_inputs(space), range(irrep.dimension)
    share = irrep.dimension / space.constraint.order

    def summed(j: int, k: int) -> csr_array:
        """The sum over H of an entry of the representation times what the element makes of the first inputs."""
        coefficients = csr_array(irrep.matrices[:, j, k][:, None])
        return csr_array(moved @ kron(coefficients, eye_array(moved.shape[1] // space.constraint.order)))

    if space.regular_in:  # every orbit is a copy of the regular representation, and made from its first channel
        return [np.sqrt(share) * csr_array(hstack([summed(j, k) for k in dimensions])) for j in dimensions]
    values, vectors = np.linalg.eigh(share * summed(0, 0).toarray())
    return [share * summed(j, 0) @ csr_array(vectors[:, values > 0.5]) for j in dimensions]


@cache
def _moved_inputs(space: KernelSpace) -> csr_array:
    """What the elements of H make of a row of coefficients, one after the other: (inputs, |H| * first inputs).

    The first inputs are those of the first channel of each coset, or all where channels do not move.
    """
    group, n_atoms = space.constraint.group, space.basis.n_atoms
    first = np.sort([coset[0] for coset in space.constraint.right_cosets]) if space.regular_in else np.zeros(1, int)
    rows, columns, values = [], [], []
    for number, h in enumerate(space.constraint.elements):
        own = space.basis.action(group, h).tocoo()
        to = group.table[h, first] if space.regular_in else first
        rows.append((to[:, None] * n_atoms + own.row).ravel())
        columns.append(((number * len(first) + np.arange(len(first)))[:, None] * n_atoms + own.col).ravel())
        values.append(np.tile(own.data, len(first)))
    shape = space.multiplicity_in * n_atoms, space.constraint.order * len(first) * n_atoms
    return csr_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape)
