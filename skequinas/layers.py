r"""Convolutions constrained to a subgroup, mixed convolutions, batch norm and pooling that keep every symmetry.

One convolution serves for all places of a network. The *lifting* layer takes an image (a trivial type) to fields over
the group, a hidden layer takes fields to fields, and the *head* takes the spatial mean of the fields (a
1x1 map) to the outputs (a trivial type): a dense layer whose weights are shared over the orbits of its subgroup.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skequinas.filters import KernelSpace, expand, kernel_space
from skequinas.groups import PointGroup, Subgroup

__all__ = ["EquivariantConv2d", "GroupConv2d", "MixedGroupConv2d", "OrbitBatchNorm2d", "SymmetricAvgPool2d"]


class _OrbitWeights(nn.Module):
    """Free weights of one kernel space, with the index tables that follow the module to its device."""

    index: Tensor
    members: Tensor

    def __init__(self, space: KernelSpace, in_fields: int, out_fields: int) -> None:
        super().__init__()
        self.space = space
        self.weight = nn.Parameter(torch.zeros(space.n_free, out_fields, in_fields))
        self.register_buffer("index", space.index, persistent=False)
        self.register_buffer("members", space.members, persistent=False)

    def forward(self, scale: Tensor | None = None) -> Tensor:
        """One row for each position of the kernel: (n_positions, out_fields, in_fields)."""
        weight = self.weight if scale is None else self.weight * scale
        return expand(weight, self.index, self.members)


class EquivariantConv2d(nn.Module):
    """What constrained and mixed convolutions share: one ordinary convolution with ``kernel()`` and ``offset()``.

    The bias of an output channel is itself a 1x1 kernel from a trivial input, so it is constrained, relaxed and mixed
    by the same tables as the weights.
    """

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
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.constraints = tuple(constraints)
        if not self.constraints:
            raise ValueError("constraints is empty: a convolution needs at least one subgroup.")
        self.in_fields, self.out_fields, self.kernel_size = in_fields, out_fields, kernel_size
        self.regular_in, self.regular_out = regular_in, regular_out
        spaces = [kernel_space(h, kernel_size, regular_in, regular_out) for h in self.constraints]
        self.weights = nn.ModuleList(_OrbitWeights(s, in_fields, out_fields) for s in spaces)
        fan_in = in_fields * spaces[0].multiplicity_in * kernel_size**2
        gain = 2.0 if regular_out else 1.0  # a rectifier follows, or the loss
        for w in self.weights:
            assert isinstance(w, _OrbitWeights)
            nn.init.normal_(w.weight, std=math.sqrt(gain / fan_in), generator=generator)
        self.biases = nn.ModuleList(
            _OrbitWeights(kernel_space(h, 1, False, True), 1, out_fields)
            for h in (self.constraints if bias and regular_out else ())
        )
        self.output_bias = nn.Parameter(torch.zeros(out_fields)) if bias and not regular_out else None

    @property
    def space(self) -> KernelSpace:
        """The kernel space of the first constraint."""
        return kernel_space(self.constraints[0], self.kernel_size, self.regular_in, self.regular_out)

    def _total(self, parts: nn.ModuleList) -> Tensor:
        """The rows of the one kernel that the parts amount to."""
        raise NotImplementedError

    def kernel(self) -> Tensor:
        """The dense kernel, of shape (out channels, in channels, kernel_size, kernel_size)."""
        return self.space.fold(self._total(self.weights))

    def offset(self) -> Tensor | None:
        """The dense bias, of shape (out channels,), or None."""
        if not self.biases:
            return self.output_bias
        return self._total(self.biases).squeeze(2).T.flatten()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, with zero padding that keeps the size of the map."""
        return F.conv2d(x, self.kernel(), self.offset(), padding=self.kernel_size // 2)

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        names = ", ".join(h.name for h in self.constraints)
        return f"{names}, fields {self.in_fields} -> {self.out_fields}, kernel_size={self.kernel_size}"


class GroupConv2d(EquivariantConv2d):
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
    generator : torch.Generator, optional
        Draws the initial weights.

    Examples
    --------
    >>> import torch
    >>> from skequinas.groups import PointGroup
    >>> from skequinas.layers import GroupConv2d
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

    def _total(self, parts: nn.ModuleList) -> Tensor:
        rows: Tensor = parts[0]()
        return rows

    @torch.no_grad()
    def inherit(self, parent: EquivariantConv2d) -> None:
        """Take over the kernel and bias of a layer of the same shape: exactly where it relaxes, else the nearest.

        Where H is contained in the constraint of the parent this is the equivariance relaxation morphism. Otherwise
        the parent's kernel is projected.
        """
        shape, own = (
            (c.constraints[0].group, c.in_fields, c.out_fields, c.kernel_size, c.regular_in, c.regular_out)
            for c in (parent, self)
        )
        if shape != own:
            raise ValueError(f"{self} cannot take over the weights of {parent}: different groups or another shape.")
        relaxes = len(parent.constraints) == 1 and self.constraint <= parent.constraints[0]

        def read(part: nn.Module, kernel: Tensor) -> None:
            assert isinstance(part, _OrbitWeights)
            part.weight.copy_(part.space.relax(kernel) if relaxes else part.space.tighten(kernel))

        read(self.weights[0], parent.kernel())
        offset = parent.offset()
        if offset is None:
            offset = torch.zeros_like(parent.kernel()[:, 0, 0, 0])
        if self.biases:
            read(self.biases[0], offset.reshape(-1, 1, 1, 1))
        elif self.output_bias is not None:
            self.output_bias.copy_(offset)


class MixedGroupConv2d(EquivariantConv2d):
    r"""The [G]-mixed equivariant layer: a weighted sum of kernels constrained to several subgroups.

    .. math:: K = \sum_H z_H \, \mathrm{expand}_H(\hat w_H), \quad z = \mathrm{softmax}(\alpha),

    where :math:`\hat w_H` is :math:`w_H` scaled to the norm that it had at the start, so that :math:`\alpha` alone sets
    a subgroup's share. The sum is taken over kernels; the layer then costs one convolution.

    Parameters
    ----------
    constraints : sequence of Subgroup
        The subgroups to mix, the favoured one first.
    in_fields, out_fields, kernel_size, regular_in, regular_out, bias, generator
        As in `GroupConv2d`.
    favour : float, default=2.0
        How far the first logit starts above the others, which start at ``-favour``.
    """

    norms: Tensor

    def __init__(
        self,
        constraints: Sequence[Subgroup],
        in_fields: int,
        out_fields: int,
        kernel_size: int,
        *,
        favour: float = 2.0,
        **options: object,
    ) -> None:
        super().__init__(constraints, in_fields, out_fields, kernel_size, **options)  # type: ignore[arg-type]
        self.logits = nn.Parameter(torch.full((len(self.constraints),), -float(favour)))
        with torch.no_grad():
            self.logits[0] = 0.0
            norms = torch.stack([w.weight.norm() for w in self.weights])  # type: ignore[operator]
        self.register_buffer("norms", norms)

    def shares(self) -> Tensor:
        """The share z of every subgroup, of shape (n_constraints,)."""
        return self.logits.softmax(0)

    def _total(self, parts: nn.ModuleList) -> Tensor:
        scales = self.shares().unbind()
        if parts is self.weights:
            norms = [torch.linalg.vector_norm(w.weight) for w in parts]
            scales = tuple(z * n0 / n for z, n0, n in zip(scales, self.norms, norms, strict=True))
        total: Tensor = parts[0](scales[0])
        for part, scale in zip(list(parts)[1:], scales[1:], strict=True):
            total = total + part(scale)
        return total


class OrbitBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with one set of statistics and affine parameters for each field: for each orbit of G.

    The elements of G permute the channels of a field, so statistics over all of them commute with every subgroup. They
    do not depend on the constraint, which is why relaxing a layer preserves the function in training mode too. What a
    smaller subgroup may do beyond that (a shift for each of its own orbits) is the bias of the convolution.

    Parameters
    ----------
    group : PointGroup
        The search group G.
    fields : int
        The input has ``fields * |G|`` channels.
    """

    def __init__(self, group: PointGroup, fields: int) -> None:
        super().__init__(fields)
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, fields * |G|, height, width)."""
        batch, channels, height, width = x.shape
        grouped = x.reshape(batch, self.num_features, self.group.order * height, width)
        return super().forward(grouped).reshape(batch, channels, height, width)


class SymmetricAvgPool2d(nn.Module):
    """Halve a square map so that turns and mirrors of the input turn and mirror the output, at every size.

    An even side is averaged in 2x2 blocks; an odd side in 3x3 windows with stride 2 and padding 1 (which does not
    count), centred on every other pixel. Either way the windows are placed symmetrically about the centre.
    """

    @staticmethod
    def plain(size: int) -> nn.AvgPool2d:
        """The layer of torch that does the same for maps with a side of ``size`` pixels."""
        return nn.AvgPool2d(3, 2, 1, count_include_pad=False) if size % 2 else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, size, size) to (batch, channels, ceil(size / 2), ceil(size / 2))."""
        y: Tensor = self.plain(x.shape[-1])(x)
        return y
