r"""Convolutions constrained to a subgroup, and the mixed convolutions of a differentiable search.

One convolution serves for all places of a network. The *lifting* layer takes an image (a trivial type) to fields over
the group, a hidden layer takes fields to fields, and the *head* takes the spatial mean of the fields (a
1x1 map) to the outputs (a trivial type): a dense layer whose weights are shared over the orbits of its subgroup.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skequinas.groups import Subgroup
from skequinas.nn.filters import KernelSpace, OrbitTables, expand, kernel_space, mix, orbit_tables
from skequinas.nn.kernels import mixing
from skequinas.nn.kernels.fused import FusedConvolution, fused_convolution
from skequinas.nn.kernels.resting import KernelPart, dense_part
from skequinas.runtime.compiled import compiled

__all__ = ["EquivariantConv2d", "GroupConv2d", "MixedGroupConv2d", "OrbitConv2d"]


class OrbitWeights(nn.Module):
    """Free weights of one or several kernel spaces, with the tables that follow the module to its device."""

    owner: Tensor

    def __init__(self, spaces: Sequence[KernelSpace], in_fields: int, out_fields: int) -> None:
        super().__init__()
        self.spaces = tuple(spaces)
        self.sizes = [space.n_free for space in self.spaces]
        self.weight = nn.Parameter(torch.zeros(sum(self.sizes), out_fields, in_fields, dtype=torch.float32))
        for name, table in self._exact_tables()._asdict().items():
            self.register_buffer(name, table, persistent=False)
        self._round_factors()
        owner = torch.arange(len(self.sizes), dtype=torch.int32).repeat_interleave(torch.tensor(self.sizes))
        self.register_buffer("owner", owner, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._round_factors()
        return self

    def _round_factors(self) -> None:
        """Give the factors the type of the weights, from the exact ones: after float32, float64 is float64 again."""
        tables = self._exact_tables()
        for name in ("orbit_factors", "member_factors"):
            exact = getattr(tables, name)
            if exact is not None:
                setattr(self, name, exact.to(self.weight))

    def _exact_tables(self) -> OrbitTables:
        """The tables of the sum of all spaces."""
        return orbit_tables(self.spaces)

    def parts(self) -> tuple[Tensor, ...]:
        """Views of the weights of each space, of shape (n_free, out_fields, in_fields)."""
        return torch.split(self.weight, self.sizes)

    def norms(self) -> Tensor:
        """The norm of the weights of each space."""
        return torch.stack([part.norm() for part in self.parts()])

    def forward(self, shares: Tensor | None = None, norms: Tensor | None = None) -> Tensor:
        """The coefficients (n_coefficients, out, in) of the sum of the spaces' kernels.

        With shares they are weighted, and with norms the weights of each space are first scaled to its norm.
        """
        if shares is not None and mixing.takes(self.spaces, self.weight, shares, norms):
            fast = compiled()
            if fast is not None:
                return mixing.mix(fast, self.spaces, self.weight, shares, norms)
        tables = [self._buffers[name] for name in OrbitTables._fields]
        if shares is None:
            return expand(self.weight, *tables)
        return mix(self.weight, shares, norms, self.owner, self.sizes, tables)


_OrbitWeights = OrbitWeights  # as pickles of before know it


class EquivariantConv2d(nn.Module, ABC):
    """What all convolutions here share: each is one ordinary convolution with ``kernel()`` and ``offset()``."""

    def __init__(
        self,
        constraints: Sequence[Subgroup],
        in_fields: int,
        out_fields: int,
        kernel_size: int,
        regular_in: bool,
        regular_out: bool,
        basis: str,
    ) -> None:
        super().__init__()
        self.constraints = tuple(constraints)
        if not self.constraints:
            raise ValueError("constraints is empty: a convolution needs at least one subgroup.")
        self.in_fields, self.out_fields, self.kernel_size = in_fields, out_fields, kernel_size
        self.regular_in, self.regular_out, self.basis = regular_in, regular_out, basis

    def space(self, constraint: Subgroup) -> KernelSpace:
        """The space of this layer's kernels that are equivariant to a subgroup."""
        return kernel_space(constraint, self.kernel_size, self.regular_in, self.regular_out, self.basis)

    @abstractmethod
    def coefficients(self) -> Tensor:
        """The kernel in its filter basis: (n_coefficients, out fields, in fields)."""

    @abstractmethod
    def bias_coefficients(self) -> Tensor | None:
        """The bias as a kernel from a trivial input: (n_coefficients, out fields, 1), or None."""

    @abstractmethod
    def reorder_outputs(self, order: Tensor, factors: Tensor) -> None:
        """Make output j what output ``order[j]`` was, times ``factors[j]``; without regular_out alone."""

    @abstractmethod
    def kernel(self) -> Tensor:
        """The dense kernel, of shape (out channels, in channels, kernel_size, kernel_size)."""

    def offset(self) -> Tensor | None:
        """The dense bias, of shape (out channels,), or None."""
        rows = self.bias_coefficients()
        return None if rows is None else rows.squeeze(2).T.flatten()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, with zero padding that keeps the size of the map."""
        return F.conv2d(x, self.kernel(), self.offset(), padding=self.kernel_size // 2)

    def without_offset(self, x: Tensor) -> Tensor:
        """Convolve, and leave the bias to the batch norm that follows, where it costs nothing."""
        return F.conv2d(x, self.kernel(), padding=self.kernel_size // 2)

    @property
    def is_fused(self) -> bool:
        """Whether there are compiled kernels for it."""
        return False

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        names = ", ".join(h.name for h in self.constraints)
        return f"{names}, fields {self.in_fields} -> {self.out_fields}, kernel_size={self.kernel_size}"


class OrbitConv2d(EquivariantConv2d):
    """A convolution whose kernel is a sum of kernels that are constrained to one subgroup each.

    The bias of an output channel is itself a 1x1 kernel from a trivial input, so it is constrained, relaxed and mixed
    by the same tables as the weights.
    """

    _fused: FusedConvolution | None = None  # layers that were pickled before there was any have none
    _kind_of_weights: ClassVar[type[OrbitWeights]] = OrbitWeights

    def __init__(
        self,
        constraints: Sequence[Subgroup],
        in_fields: int,
        out_fields: int,
        kernel_size: int,
        *,
        regular_in: bool = True,
        regular_out: bool = True,
        bias: bool = True,
        basis: str = "pixel",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(constraints, in_fields, out_fields, kernel_size, regular_in, regular_out, basis)
        self.weights = self._kind_of_weights([self.space(h) for h in self.constraints], in_fields, out_fields)
        space = self.weights.spaces[0]
        fan_in = in_fields * space.multiplicity_in * space.basis.n_atoms
        gain = 2.0 if regular_out else 1.0  # a rectifier follows, or the loss
        with torch.no_grad():
            for part in self.weights.parts():
                part.normal_(std=math.sqrt(gain / fan_in), generator=generator)
        self.biases: OrbitWeights | None = None
        if bias and regular_out:
            spaces = [kernel_space(h, 1, False, True) for h in self.constraints]
            self.biases = self._kind_of_weights(spaces, 1, out_fields)
        self.output_bias = nn.Parameter(torch.zeros(out_fields)) if bias and not regular_out else None
        self._fused = fused_convolution(space) if len(self.constraints) == 1 else None

    @property
    def is_biased(self) -> bool:
        """Whether it has a bias."""
        return self.biases is not None or self.output_bias is not None

    def coefficients(self) -> Tensor:
        """The kernel in its filter basis: (n_coefficients, out fields, in fields)."""
        return self._rows(self.weights)

    def kernel(self) -> Tensor:
        """The dense kernel, of shape (out channels, in channels, kernel_size, kernel_size)."""
        return self.weights.spaces[0].sample(self.coefficients())

    def bias_coefficients(self) -> Tensor | None:
        """The bias as a kernel from a trivial input: (n_coefficients, out fields, 1), or None."""
        if self.biases is None:
            return None if self.output_bias is None else self.output_bias[None, :, None]
        return self._rows(self.biases)

    @torch.no_grad()
    def reorder_outputs(self, order: Tensor, factors: Tensor) -> None:
        """Make output j what output ``order[j]`` was, times ``factors[j]``; without regular_out alone."""
        weight, bias = self.weights.weight, self.output_bias
        factors = factors.to(weight)
        weight.copy_(weight[:, order] * factors[:, None])
        if bias is not None:
            bias.copy_(bias[order] * factors)

    def _rows(self, weights: OrbitWeights) -> Tensor:
        """The coefficients of this layer's kernel, or of its bias."""
        rows: Tensor = weights()
        return rows

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, with zero padding that keeps the size of the map."""
        if self._fused is None or not self._fused.takes(x, self.weights.weight):
            return super().forward(x)
        y, offset = self._fused(x, self._fused_weights(self._fused)), self.offset()
        return y if offset is None else y + offset.reshape(-1, 1, 1)

    def without_offset(self, x: Tensor) -> Tensor:
        """Convolve, and leave the bias to the batch norm that follows, where it costs nothing."""
        if self._fused is not None and self._fused.takes(x, self.weights.weight):
            return self._fused(x, self._fused_weights(self._fused))
        return super().without_offset(x)

    def part(self) -> KernelPart:
        """What compiled kernels are told of it at rest."""
        return dense_part(self.kernel()) if self._fused is None else self._fused.part(self._fused_weights(self._fused))

    def _fused_weights(self, fused: FusedConvolution) -> Tensor:
        """What the compiled convolution is given: pixels, where free weights are something else."""
        if not fused.sampled:
            return self.weights.weight
        with torch.autocast("cpu", enabled=False):  # what is sampled is rounded once, by the kernels
            return self.weights.spaces[0].sampled_rows(self.coefficients())

    @property
    def is_fused(self) -> bool:
        """Whether there are compiled kernels for it."""
        return self._fused is not None


class GroupConv2d(OrbitConv2d):
    r"""A convolution whose dense kernel is constrained to a subgroup H of the search group G.

    .. math:: K[(o, h g), (i, h g'), h x] = K[(o, g), (i, g'), x] \quad \text{for every } h \in H

    Parameters
    ----------
    constraint : Subgroup
        H. The trivial subgroup gives an ordinary convolution.
    in_fields, out_fields : int
        Fields; a regular type has ``|G|`` channels for each, in the order of the group's elements.
    kernel_size : int
        Odd.
    regular_in, regular_out : bool, default=True
        False for an image as the input (the lifting layer), or for the outputs of the head.
    bias : bool, default=True
        One bias for each orbit of output channels.
    basis : {"pixel", "harmonic"}, default="pixel"
        What a filter is made of, see `skequinas.nn.bases`.
    generator : torch.Generator, optional
        Draws the initial weights.

    Examples
    --------
    >>> import torch
    >>> from skequinas.groups import PointGroup
    >>> from skequinas.nn import GroupConv2d
    >>> D4 = PointGroup.from_name("D4")
    >>> layer = GroupConv2d(D4.subgroup("C4"), 2, 3, kernel_size=5)
    >>> layer(torch.randn(1, 2 * 8, 9, 9)).shape
    torch.Size([1, 24, 9, 9])
    """

    def __init__(
        self, constraint: Subgroup, in_fields: int, out_fields: int, kernel_size: int, **options: object
    ) -> None:
        super().__init__((constraint,), in_fields, out_fields, kernel_size, **options)  # type: ignore[arg-type]

    @property
    def constraint(self) -> Subgroup:
        """The subgroup H."""
        return self.constraints[0]

    @torch.no_grad()
    def inherit(self, parent: EquivariantConv2d) -> None:
        """Take over the kernel and bias of a layer of the same shape: exactly where it relaxes, else the nearest.

        Where H is contained in the constraint of the parent this is the equivariance relaxation morphism. Otherwise
        the parent's kernel is projected.
        """
        of_all = "in_fields", "out_fields", "kernel_size", "regular_in", "regular_out", "basis"
        shape, own = ((c.constraints[0].group, *(getattr(c, name) for name in of_all)) for c in (parent, self))
        if shape != own:
            raise ValueError(f"{self} cannot take over the weights of {parent}: different groups or another shape.")
        relaxes = len(parent.constraints) == 1 and self.constraint <= parent.constraints[0]

        def read(own: OrbitWeights, coefficients: Tensor) -> None:
            (space,) = own.spaces
            own.weight.copy_(space.relax(coefficients) if relaxes else space.tighten(coefficients))

        read(self.weights, parent.coefficients())
        bias = parent.bias_coefficients()
        if self.biases is not None and bias is not None:
            read(self.biases, bias)
        elif self.biases is not None:
            nn.init.zeros_(self.biases.weight)
        elif self.output_bias is not None:
            self.output_bias.copy_(torch.zeros(()) if bias is None else bias[0, :, 0])


class MixedGroupConv2d(OrbitConv2d):
    r"""The [G]-mixed equivariant layer: a weighted sum of kernels constrained to several subgroups.

    .. math:: K = \sum_H z_H \, \mathrm{expand}_H(\hat w_H), \quad z = \mathrm{softmax}(\alpha),

    where :math:`\hat w_H` is :math:`w_H` scaled to the norm that it had at the start, so that :math:`\alpha` alone sets
    a subgroup's share. The sum is taken over kernels; the layer then costs one convolution.

    Parameters
    ----------
    constraints : sequence of Subgroup
        The subgroups to mix, the favoured one first.
    in_fields, out_fields, kernel_size, regular_in, regular_out, bias, basis, generator
        As in `GroupConv2d`.
    favour : float, default=2.0
        How far the first logit starts above the others, which start at ``-favour``.
    skip : bool, default=False
        Whether the layer mixes its input in as well, with a share of its own, the last: the fields that go in, again
        from the first on where more come out. That is a kernel too, of ones at its centre, so it costs no convolution.
    """

    norms: Tensor
    input_rows: Tensor
    skip: bool = False  # layers that were pickled before there was any have none

    def __init__(
        self,
        constraints: Sequence[Subgroup],
        in_fields: int,
        out_fields: int,
        kernel_size: int,
        *,
        favour: float = 2.0,
        skip: bool = False,
        **options: object,
    ) -> None:
        super().__init__(constraints, in_fields, out_fields, kernel_size, **options)  # type: ignore[arg-type]
        self.skip = skip
        self.logits = nn.Parameter(torch.full((len(self.constraints) + skip,), -float(favour)))
        with torch.no_grad():
            self.logits[0] = 0.0
            self.register_buffer("norms", self.weights.norms())
            if skip:
                self.register_buffer("input_rows", self._input_rows(), persistent=False)

    def _input_rows(self) -> Tensor:
        """The coefficients of the kernel that gives the input itself."""
        space = self.weights.spaces[0]
        regular = self.regular_in and self.regular_out
        if not regular or self.out_fields % self.in_fields or self.basis != "pixel":
            raise ValueError(
                f"skip=True needs fields in and out, as many or a multiple, in the pixel basis, and the layer has "
                f"{self.extra_repr()}, regular_in={self.regular_in}, regular_out={self.regular_out}, "
                f"basis={self.basis!r}. Set skip=False."
            )
        kernel = torch.zeros(self.out_fields * space.multiplicity_out, self.in_fields * space.multiplicity_in)
        kernel[torch.arange(len(kernel)), torch.arange(len(kernel)) % kernel.shape[1]] = 1.0
        centre = self.kernel_size // 2
        return space.coefficients(F.pad(kernel[..., None, None], (centre,) * 4))

    def shares(self) -> Tensor:
        """The share z of every subgroup, of shape (n_constraints,); without skip their sum is 1."""
        return self.logits.softmax(0)[: len(self.constraints)]

    def named_shares(self) -> dict[Subgroup, float]:
        """The share of every subgroup."""
        return dict(zip(self.constraints, self.shares().tolist(), strict=True))

    def skip_share(self) -> float:
        """The share of the layer's input, 0 where there is none."""
        return self.logits.softmax(0)[-1].item() if self.skip else 0.0

    def _rows(self, weights: OrbitWeights) -> Tensor:
        shares = self.logits.softmax(0)
        own = shares[: len(self.constraints)]
        rows: Tensor = weights(own, self.norms if weights is self.weights else None)
        return rows + shares[-1] * self.input_rows if self.skip and weights is self.weights else rows
