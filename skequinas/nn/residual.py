r"""Convolutions that are nearly constrained: an equivariant kernel, and a residual that breaks the symmetry.

H moves kernels, and the space of all kernels falls into orthogonal parts, one for each irreducible representation of H.
The elements that leave a part as it is, the kernel of its representation, are a normal subgroup of H. Here the parts of
one such subgroup are taken together: those of H itself are the equivariant kernels, those of N are what a kernel that
is equivariant to N alone has beyond them. Which parts a kernel has says what it breaks.
"""

from __future__ import annotations

from functools import cache

import torch
from scipy.sparse import block_diag, csr_array, vstack
from torch import Tensor, nn

from skequinas.groups import Subgroup
from skequinas.nn.filters import KernelSpace, OrbitTables, expand, sparse_tables
from skequinas.nn.layers import OrbitConv2d, OrbitWeights

__all__ = ["ResidualGroupConv2d", "kept_by_parts"]

_TINY = 1e-12
"""Of a part that is zero, the norm that it is divided by."""


@cache
def kept_by_parts(constraint: Subgroup) -> tuple[Subgroup, ...]:
    """What the parts of a residual keep of a subgroup H: the kernels of its irreducible representations but H itself.

    The largest come first, C1 last. D4 has those of its other one-dimensional representations, C4, D2 and the other D2,
    and C1.
    """
    normal = [
        n
        for n in sorted(constraint.subgroups, key=lambda n: (-n.order, n.name))
        if all(n.conjugate(h) == n for h in constraint.elements)
    ]
    dimensions: dict[Subgroup, int] = {}  # of the functions on H that are of such representations
    for n in normal:
        dimensions[n] = constraint.order // n.order - sum(d for m, d in dimensions.items() if n < m)
    return tuple(n for n, dimension in dimensions.items() if dimension and n != constraint)


@cache
def split_tables(space: KernelSpace) -> OrbitTables:
    """From the free weights of a space, and then any coefficients, to its kernel and the parts of the latter.

    The kernel comes first, then the parts in the order of `kept_by_parts`, each with all of its coefficients.
    """
    constraint = space.constraint

    def projection(n: Subgroup) -> csr_array:
        matrix = KernelSpace(n, space.basis, space.regular_in, space.regular_out).matrix
        return csr_array(matrix @ matrix.T / n.order)

    parts = {constraint: projection(constraint)}
    for n in kept_by_parts(constraint):
        larger = [part for m, part in parts.items() if n < m]
        part = csr_array(projection(n) - sum(larger[1:], start=larger[0]))
        part.data[abs(part.data) < 1e-12] = 0.0
        part.eliminate_zeros()
        parts[n] = part
    del parts[constraint]
    below = [csr_array(vstack(list(parts.values()), format="csr"))] if parts else []
    if not below:  # no symmetry can be broken: what is there of a residual is left out
        below = [csr_array((0, space.n_coefficients))]
    return sparse_tables(csr_array(block_diag([space.matrix, *below], format="csr")))


class _SplitWeights(OrbitWeights):
    """Free weights of a space, and a kernel without constraints that is split into its parts."""

    def _exact_tables(self) -> OrbitTables:
        return split_tables(self.spaces[0])

    def split(self) -> Tensor:
        """The coefficients of the equivariant kernel and of every part: (1 + n_parts, n_coefficients, out, in)."""
        rows = expand(self.weight, *(self._buffers[name] for name in OrbitTables._fields))
        parts: Tensor = rows.unflatten(0, (-1, self.spaces[0].n_coefficients))
        return parts


class ResidualGroupConv2d(OrbitConv2d):
    r"""A convolution with an equivariant kernel and a residual in several parts, each of which keeps a subgroup.

    .. math:: K = \mathrm{expand}_H(w) + \sum_N \gamma_N \, \|\mathrm{expand}_H(w)\| \frac{Q_N v}{\|Q_N v\|},

    where :math:`Q_N` takes from a kernel v without constraints the part that N leaves as it is and no larger one of
    these subgroups does. So :math:`\gamma_N` is the norm of that part relative to the equivariant kernel; they start
    alike, and together at 1. With all of them 0 the layer is constrained to H. The bias has the same parts, times
    :math:`\gamma_N`. Without ``normalised`` there are no :math:`\gamma_N`, and the kernel is that of w plus v without
    its equivariant part; v starts a thousand times smaller.

    Parameters
    ----------
    constraint : Subgroup
        H.
    in_fields, out_fields, kernel_size, regular_in, regular_out, bias, basis, generator
        As in `GroupConv2d`.
    normalised : bool, default=True
        Whether the norm of each part is a parameter of its own.
    """

    _kind_of_weights = _SplitWeights

    def __init__(
        self,
        constraint: Subgroup,
        in_fields: int,
        out_fields: int,
        kernel_size: int,
        *,
        normalised: bool = True,
        **options: object,
    ) -> None:
        constraints = constraint, constraint.group.trivial
        super().__init__(constraints, in_fields, out_fields, kernel_size, **options)  # type: ignore[arg-type]
        self.parts = kept_by_parts(constraint)
        gammas = torch.full((len(self.parts),), max(len(self.parts), 1) ** -0.5)
        self.gammas = nn.Parameter(gammas) if normalised else None
        if not normalised:
            with torch.no_grad():
                for own in (self.weights, self.biases):
                    if own is not None:
                        own.parts()[1].mul_(1e-3)

    @property
    def constraint(self) -> Subgroup:
        """The subgroup H."""
        return self.constraints[0]

    def named_shares(self) -> dict[Subgroup, float]:
        """The share of H, and of what each part keeps, in the square of the kernel's norm; their sum is 1."""
        with torch.no_grad():
            squares = self._weighted(self.weights).double().square().flatten(1).sum(1)
            shares = squares / squares.sum().clamp_min(_TINY)
        return dict(zip((self.constraint, *self.parts), shares.tolist(), strict=True))

    def _weighted(self, weights: OrbitWeights) -> Tensor:
        """The coefficients of the equivariant kernel, or bias, and of each part, as they are added."""
        assert isinstance(weights, _SplitWeights)
        rows = weights.split()
        if self.gammas is None:
            return rows
        factors = self.gammas
        if weights is self.weights:
            norms = torch.linalg.vector_norm(rows.flatten(1), dim=1)
            factors = factors * norms[0].detach() / norms[1:].clamp_min(_TINY)
        return torch.cat([rows[:1], factors.reshape(-1, 1, 1, 1) * rows[1:]])

    def _rows(self, weights: OrbitWeights) -> Tensor:
        return self._weighted(weights).sum(0)

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        return f"{super().extra_repr()}, normalised={self.gammas is not None}"
