r"""Spaces of equivariant kernels: expand, relax and tighten.

A feature map has one channel for each field ``c`` and each element ``g`` of the search group G (a *regular*
type), or one for each field alone (*trivial*: an image, or the outputs of the head). The kernel K of a
convolution is equivariant to a subgroup H of G exactly when

.. math:: K[(o, h g), (i, h g')] = h \cdot K[(o, g), (i, g')] \quad \text{for every } h \in H ,

where h moves a filter, and leaves a trivial index as it is. In the pixel basis it moves pixels; in the harmonic basis
it turns pairs of coefficients, see `skequinas.nn.bases`. The blocks (g, g') fall into orbits of ``|H|``, and one of
each, its representative, can be anything: its coefficients are the free weights w.

* **expand** gives every block of an orbit the representative's coefficients, moved: K = E w with a sparse matrix E;
* **relax** reads the weights of H' <= H off K at its representatives: no arithmetic, so K stays the same (bit for
  bit in the pixel basis, where E is an index table);
* **tighten** takes the mean over every orbit, moved back: E transposed over ``|H|``, the orthogonal projection.

All three need one small sparse matrix for each (H, basis, types). It is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from skequinas.groups import Subgroup
from skequinas.nn.bases import FilterBasis, filter_basis

__all__ = ["KernelSpace", "OrbitTables", "expand", "kernel_space", "mix", "orbit_tables"]


@dataclass(frozen=True)
class KernelSpace:
    """All kernels in one filter basis between two feature types that are equivariant to a subgroup.

    Parameters
    ----------
    constraint : Subgroup
        The subgroup H of the search group G.
    basis : FilterBasis
        What a filter is made of. The space's *coefficients* are those of all filters: rows of a matrix, in the order
        output element, input element, atom.
    regular_in, regular_out : bool, default=True
        Whether the input and output channels are indexed by the elements of G. At least one of them must be:
        then H moves every block, and all of the orbits have ``|H|`` blocks.
    """

    constraint: Subgroup
    basis: FilterBasis
    regular_in: bool = True
    regular_out: bool = True

    def __post_init__(self) -> None:
        self.basis.check_group(self.constraint.group)
        if not (self.regular_in or self.regular_out):
            raise ValueError("At least one of regular_in and regular_out must be True.")

    @cached_property
    def _hash(self) -> int:
        return hash((self.constraint, self.basis, self.regular_in, self.regular_out))

    def __hash__(self) -> int:
        return self._hash  # tables are looked up in every step

    def __reduce__(self) -> tuple[Any, ...]:
        return KernelSpace, (self.constraint, self.basis, self.regular_in, self.regular_out)

    @property
    def multiplicity_in(self) -> int:
        """Channels for each input field."""
        return self.constraint.group.order if self.regular_in else 1

    @property
    def multiplicity_out(self) -> int:
        """Channels for each output field."""
        return self.constraint.group.order if self.regular_out else 1

    @property
    def n_coefficients(self) -> int:
        """The coefficients of a kernel for each pair of fields."""
        return self.multiplicity_in * self.multiplicity_out * self.basis.n_atoms

    @property
    def n_free(self) -> int:
        """The dimension of the space for each pair of fields."""
        return self.n_coefficients // self.constraint.order

    @cached_property
    def representatives(self) -> NDArray[np.int64]:
        """The coefficients that are the free weights, by number: those of the first block of every orbit."""
        n_atoms = self.basis.n_atoms
        numbers: NDArray[np.int64] = (self._first_blocks[:, None] * n_atoms + np.arange(n_atoms)).ravel()
        return numbers

    @cached_property
    def matrix(self) -> csr_array:
        """E, from free weights to coefficients: (n_coefficients, n_free), with orthogonal columns of length sqrt|H|."""
        return csr_array(sum(self._moves(h, self._first_blocks) for h in self.constraint.elements))

    def action(self, element: int) -> csr_array:
        """The orthogonal matrix by which an element of G moves the coefficients of any kernel."""
        return self._moves(element, np.arange(self.multiplicity_in * self.multiplicity_out))

    @cached_property
    def _first_blocks(self) -> NDArray[np.int64]:
        """The first block of every orbit."""
        moved = np.stack([self._moved(h) for h in self.constraint.elements])
        return np.flatnonzero(moved.min(0) == np.arange(moved.shape[1]))

    def _moves(self, element: int, blocks: NDArray[np.int64]) -> csr_array:
        """Where an element takes some of the blocks: the columns of its action that belong to them."""
        own = self.basis.action(self.constraint.group, element).tocoo()
        rows = self._moved(element)[blocks, None] * self.basis.n_atoms + own.row
        columns = np.arange(len(blocks))[:, None] * self.basis.n_atoms + own.col
        values = np.broadcast_to(own.data, rows.shape)
        shape = (self.n_coefficients, len(blocks) * self.basis.n_atoms)
        return csr_array((values.ravel(), (rows.ravel(), columns.ravel())), shape=shape)

    def _moved(self, element: int) -> NDArray[np.int64]:
        """Where an element takes each block (output element, input element)."""
        own = self.constraint.group.table[element]
        to_out, to_in = (own if regular else np.zeros(1, np.int64) for regular in (self.regular_out, self.regular_in))
        places: NDArray[np.int64] = (to_out[:, None] * self.multiplicity_in + to_in).ravel()
        return places

    def expand(self, weights: Tensor) -> Tensor:
        """The coefficients, (n_coefficients, out, in), of free weights (n_free, out, in)."""
        return expand(weights, *orbit_tables((self,)).to(weights.device))

    def relax(self, coefficients: Tensor) -> Tensor:
        """The free weights of coefficients that are in this space already, without arithmetic."""
        return coefficients[torch.from_numpy(self.representatives).to(coefficients.device)]

    def tighten(self, coefficients: Tensor) -> Tensor:
        """The free weights of the nearest kernel in this space: the mean over every orbit, moved back."""
        back = orbit_tables((self,)).transposed().to(coefficients.device)
        return gather(coefficients, back) / self.constraint.order

    def sample(self, coefficients: Tensor) -> Tensor:
        """From coefficients (n_coefficients, out, in) to a kernel ``(out * |G|, in * |G|, size, size)``.

        Its memory format is channels-last: a convolution follows that of its kernel, and this is the faster one.
        """
        n_out, n_in = coefficients.shape[1:]
        size, m_out, m_in = self.basis.kernel_size, self.multiplicity_out, self.multiplicity_in
        rows = self.sampled_rows(coefficients)
        kernel = rows.reshape(m_out, m_in, size, size, n_out, n_in).permute(4, 0, 2, 3, 5, 1)
        return kernel.reshape(n_out * m_out, size, size, n_in * m_in).permute(0, 3, 1, 2)

    def sampled_rows(self, coefficients: Tensor) -> Tensor:
        """From coefficients to pixels: a row for each pair of elements (output, input) and each pixel."""
        if self.basis.atoms is None:
            return coefficients
        atoms, fields = _atoms(self.basis, coefficients.dtype, coefficients.device), coefficients.shape[1:]
        rows = atoms.T @ coefficients.reshape(self.multiplicity_out * self.multiplicity_in, self.basis.n_atoms, -1)
        return rows.reshape(-1, *fields)

    def coefficients(self, kernel: Tensor) -> Tensor:
        """The inverse of `sample`: the coefficients whose atoms come nearest to a kernel."""
        size, m_out, m_in = self.basis.kernel_size, self.multiplicity_out, self.multiplicity_in
        n_out, n_in = kernel.shape[0] // m_out, kernel.shape[1] // m_in
        rows = kernel.reshape(n_out, m_out, n_in, m_in, size, size).permute(1, 3, 4, 5, 0, 2)
        if self.basis.atoms is not None:
            inverse = torch.from_numpy(np.linalg.pinv(self.basis.atoms).T.copy()).to(kernel)
            rows = inverse @ rows.reshape(m_out * m_in, size * size, n_out * n_in)
        return rows.reshape(self.n_coefficients, n_out, n_in)


@cache
def kernel_space(
    constraint: Subgroup, kernel_size: int, regular_in: bool = True, regular_out: bool = True, basis: str = "pixel"
) -> KernelSpace:
    """The kernel space in the basis of that name with its tables, made once in a process."""
    return KernelSpace(constraint, filter_basis(basis, kernel_size), regular_in, regular_out)


@cache
def _atoms(basis: FilterBasis, dtype: torch.dtype, device: torch.device) -> Tensor:
    """How the atoms look, (n_atoms, pixels), made once for a type and a device."""
    with torch.inference_mode(False):  # it is shared by all networks of the process, whoever asks first
        return torch.tensor(basis.atoms, dtype=dtype, device=device)


class OrbitTables(NamedTuple):
    """How the free weights of one or several kernel spaces make up the coefficients of one kernel, in both directions.

    These are the rows of the sparse matrix (E_1, E_2, ...), and of its transpose. The free weights of the spaces lie in
    one tensor, one space after the other.

    Parameters
    ----------
    orbits : Tensor
        int32: the free weights of every coefficient, one coefficient after the other.
    orbit_starts : Tensor
        int32 of shape (n_coefficients,): where each coefficient begins in ``orbits``.
    members : Tensor
        int32: the coefficients of every free weight, one free weight after the other.
    member_starts : Tensor
        int32 of shape (sum of n_free,): where each free weight begins in ``members``.
    orbit_factors, member_factors : Tensor or None
        float64: by what each of ``orbits`` and ``members`` is multiplied; None where that is one.
    """

    orbits: Tensor
    orbit_starts: Tensor
    members: Tensor
    member_starts: Tensor
    orbit_factors: Tensor | None
    member_factors: Tensor | None

    def to(self, device: torch.device) -> OrbitTables:
        """The tables on a device."""
        return OrbitTables(*(None if table is None else table.to(device) for table in self))  # type: ignore[arg-type]

    def transposed(self) -> OrbitTables:
        """The tables of the transposed matrix."""
        orbits, orbit_starts, members, member_starts, orbit_factors, member_factors = self
        return OrbitTables(members, member_starts, orbits, orbit_starts, member_factors, orbit_factors)


@cache
def orbit_tables(spaces: tuple[KernelSpace, ...]) -> OrbitTables:
    """The tables of a sum of kernel spaces, made once in a process."""
    return sparse_tables(csr_array(hstack([space.matrix for space in spaces], format="csr")))


def sparse_tables(matrix: csr_array) -> OrbitTables:
    """The tables of any sparse matrix, for `gather`."""
    matrix.sort_indices()
    back = csr_array(matrix.T.tocsr())
    back.sort_indices()
    with torch.inference_mode(False):  # it is shared by all networks of the process, whoever asks first
        orbits, orbit_starts, members, member_starts = (
            torch.from_numpy(table.astype(np.int32))
            for own in (matrix, back)
            for table in (own.indices, own.indptr[:-1])
        )
        factors = [None if (own.data == 1).all() else torch.from_numpy(own.data) for own in (matrix, back)]
        return OrbitTables(orbits, orbit_starts, members, member_starts, *factors)


def gather(rows: Tensor, tables: OrbitTables, factors: Tensor | None = None) -> Tensor:
    """Sum rows by the sparse matrix, whose entries may be multiplied by factors: one fused gather."""
    if tables.orbit_factors is not None:
        own = tables.orbit_factors.to(rows.dtype)
        factors = own if factors is None else own * factors
    flat = rows.flatten(1).contiguous()
    sums: Tensor = F.embedding_bag(tables.orbits, flat, tables.orbit_starts, mode="sum", per_sample_weights=factors)
    return sums.reshape(sums.shape[0], *rows.shape[1:])


class _Expand(torch.autograd.Function):
    """Gather and sum rows by orbit. The backward pass gathers too, so it is deterministic on every device."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, *tables: Tensor | None) -> Tensor:
        ctx.save_for_backward(*tables)
        return gather(weights.detach(), OrbitTables(*tables))  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return gather(grad, OrbitTables(*ctx.saved_tensors).transposed()), *(None,) * 6


def expand(weights: Tensor, *tables: Tensor | None) -> Tensor:
    """The coefficients that free weights make up: (sum of n_free, ...) to (n_coefficients, ...).

    One fused gather, whatever the number of spaces. The tables are those of `orbit_tables`.
    """
    rows: Tensor = _Expand.apply(weights, *tables)
    return rows


class _Mix(torch.autograd.Function):
    """`mix`, which scales the entries of the sparse matrix and not the weights, of which there are many more."""

    @staticmethod
    def forward(
        ctx: Any,
        weights: Tensor,
        shares: Tensor,
        norms: Tensor | None,
        owner: Tensor,
        sizes: Sequence[int],
        *tables: Tensor | None,
    ) -> Tensor:
        ratios = torch.ones_like(shares)
        if norms is not None:
            ratios = norms / torch.stack(torch._foreach_norm(weights.split(sizes)))
        factors = (shares * ratios).index_select(0, owner)
        ctx.save_for_backward(weights, shares, norms, ratios, factors, owner, *tables)
        ctx.sizes = sizes
        own = OrbitTables(*tables)  # type: ignore[arg-type]
        return gather(weights.detach(), own, factors.index_select(0, own.orbits))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, shares, norms, ratios, factors, owner, *tables = ctx.saved_tensors
        back = OrbitTables(*tables).transposed()
        counts = F.pad(back.orbit_starts[1:], (0, 1), value=len(back.orbits)) - back.orbit_starts
        each = factors.repeat_interleave(counts, output_size=len(back.orbits))
        grad_weights = gather(grad, back, each)
        parts = zip(grad_weights.split(ctx.sizes), weights.split(ctx.sizes), strict=True)
        along = torch.stack([torch.dot(g.flatten(), w.flatten()) for g, w in parts])
        grad_shares = torch.where(shares > 0, along / shares, torch.zeros_like(shares))
        if norms is not None:  # a part's norm is fixed, so growing it gains nothing
            shrink = along * (ratios / norms).square()
            grad_weights.addcmul_(weights, shrink.index_select(0, owner).reshape(-1, 1, 1), value=-1)
        return grad_weights, grad_shares, *(None,) * 9


def mix(
    weights: Tensor,
    shares: Tensor,
    norms: Tensor | None,
    owner: Tensor,
    sizes: Sequence[int],
    tables: Sequence[Tensor | None],
) -> Tensor:
    r"""A weighted sum of the coefficients of several spaces, in one fused gather.

    .. math:: \sum_H z_H \frac{n_H}{\|w_H\|} \, \mathrm{expand}_H(w_H)

    Parameters
    ----------
    weights : Tensor
        The free weights of the spaces, one space after the other: (sum of n_free, out, in).
    shares : Tensor
        z, one for each space.
    norms : Tensor or None
        n, to which the weights of each space are scaled; None leaves them as they are.
    owner : Tensor
        int32: the number of the space of every free weight.
    sizes : sequence of int
        n_free of each space.
    tables : sequence of Tensor
        Those of `orbit_tables`.
    """
    rows: Tensor = _Mix.apply(weights, shares, norms, owner, sizes, *tables)
    return rows
