r"""Convolutions constrained to a subgroup, mixed convolutions, batch norm and pooling that keep every symmetry.

One convolution serves for all places of a network. The *lifting* layer takes an image (a trivial type) to fields over
the group, a hidden layer takes fields to fields, and the *head* takes the spatial mean of the fields (a
1x1 map) to the outputs (a trivial type): a dense layer whose weights are shared over the orbits of its subgroup.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from skequinas.filters import KernelSpace, OrbitTables, expand, kernel_space, mix, orbit_tables
from skequinas.groups import PointGroup, Subgroup
from skequinas.moves import circular_mask

__all__ = [
    "CircularMask",
    "EquivariantConv2d",
    "GroupConv2d",
    "MixedGroupConv2d",
    "OrbitBatchNorm2d",
    "SymmetricAvgPool2d",
]


class _OrbitWeights(nn.Module):
    """Free weights of one or several kernel spaces, with the tables that follow the module to its device."""

    owner: Tensor

    def __init__(self, spaces: Sequence[KernelSpace], in_fields: int, out_fields: int) -> None:
        super().__init__()
        self.spaces = tuple(spaces)
        self.sizes = [space.n_free for space in self.spaces]
        self.weight = nn.Parameter(torch.zeros(sum(self.sizes), out_fields, in_fields, dtype=torch.float32))
        for name, table in orbit_tables(self.spaces)._asdict().items():
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
        tables = orbit_tables(self.spaces)
        for name in ("orbit_factors", "member_factors"):
            exact = getattr(tables, name)
            if exact is not None:
                setattr(self, name, exact.to(self.weight))

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
        tables = [self._buffers[name] for name in OrbitTables._fields]
        if shares is None:
            return expand(self.weight, *tables)
        return mix(self.weight, shares, norms, self.owner, self.sizes, tables)


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
        basis: str = "pixel",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.constraints = tuple(constraints)
        if not self.constraints:
            raise ValueError("constraints is empty: a convolution needs at least one subgroup.")
        self.in_fields, self.out_fields, self.kernel_size = in_fields, out_fields, kernel_size
        self.regular_in, self.regular_out, self.basis = regular_in, regular_out, basis
        self.weights = _OrbitWeights([self.space(h) for h in self.constraints], in_fields, out_fields)
        space = self.weights.spaces[0]
        fan_in = in_fields * space.multiplicity_in * space.basis.n_atoms
        gain = 2.0 if regular_out else 1.0  # a rectifier follows, or the loss
        with torch.no_grad():
            for part in self.weights.parts():
                part.normal_(std=math.sqrt(gain / fan_in), generator=generator)
        self.biases: _OrbitWeights | None = None
        if bias and regular_out:
            self.biases = _OrbitWeights([kernel_space(h, 1, False, True) for h in self.constraints], 1, out_fields)
        self.output_bias = nn.Parameter(torch.zeros(out_fields)) if bias and not regular_out else None

    def space(self, constraint: Subgroup) -> KernelSpace:
        """The space of this layer's kernels that are equivariant to a subgroup."""
        return kernel_space(constraint, self.kernel_size, self.regular_in, self.regular_out, self.basis)

    def coefficients(self) -> Tensor:
        """The kernel in its filter basis: (n_coefficients, out fields, in fields)."""
        return self._rows(self.weights)

    def kernel(self) -> Tensor:
        """The dense kernel, of shape (out channels, in channels, kernel_size, kernel_size)."""
        return self.weights.spaces[0].sample(self.coefficients())

    def offset(self) -> Tensor | None:
        """The dense bias, of shape (out channels,), or None."""
        if self.biases is None:
            return self.output_bias
        return self._rows(self.biases).squeeze(2).T.flatten()

    def _rows(self, weights: _OrbitWeights) -> Tensor:
        """The coefficients of this layer's kernel, or of its bias."""
        rows: Tensor = weights()
        return rows

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, with zero padding that keeps the size of the map."""
        return F.conv2d(x, self.kernel(), self.offset(), padding=self.kernel_size // 2)

    def without_offset(self, x: Tensor) -> Tensor:
        """Convolve, and leave the bias to the batch norm that follows, where it costs nothing."""
        return F.conv2d(x, self.kernel(), padding=self.kernel_size // 2)

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
    basis : {"pixel", "harmonic"}, default="pixel"
        What a filter is made of, see `skequinas.bases`.
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

    @torch.no_grad()
    def inherit(self, parent: EquivariantConv2d) -> None:
        """Take over the kernel and bias of a layer of the same shape: exactly where it relaxes, else the nearest.

        Where H is contained in the constraint of the parent this is the equivariance relaxation morphism. Otherwise
        the parent's kernel is projected.
        """
        shape, own = (
            (c.constraints[0].group, c.in_fields, c.out_fields, c.kernel_size, c.regular_in, c.regular_out, c.basis)
            for c in (parent, self)
        )
        if shape != own:
            raise ValueError(f"{self} cannot take over the weights of {parent}: different groups or another shape.")
        relaxes = len(parent.constraints) == 1 and self.constraint <= parent.constraints[0]

        def read(own: _OrbitWeights, coefficients: Tensor) -> None:
            (space,) = own.spaces
            own.weight.copy_(space.relax(coefficients) if relaxes else space.tighten(coefficients))

        read(self.weights, parent.coefficients())
        if self.biases is not None:
            if parent.biases is None:
                nn.init.zeros_(self.biases.weight)
            else:
                read(self.biases, parent._rows(parent.biases))
        elif self.output_bias is not None:
            if parent.output_bias is None:
                nn.init.zeros_(self.output_bias)
            else:
                self.output_bias.copy_(parent.output_bias)


class MixedGroupConv2d(EquivariantConv2d):
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
            self.register_buffer("norms", self.weights.norms())

    def shares(self) -> Tensor:
        """The share z of every subgroup, of shape (n_constraints,)."""
        return self.logits.softmax(0)

    def _rows(self, weights: _OrbitWeights) -> Tensor:
        rows: Tensor = weights(self.shares(), self.norms if weights is self.weights else None)
        return rows


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

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """Normalise ``(batch, fields * |G|, height, width)``, to whose channels an offset may be added before."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        order = self.group.order
        if not self.training:
            slope = self.weight * (self.running_var + self.eps).rsqrt()
            slope, shift = _each(order, slope, self.bias - slope * self.running_mean)
            return _affine(x, slope, _shifted(shift, slope, offset))
        y: Tensor
        y, mean, var = _OrbitBatchNorm.apply(x, offset, self.weight, self.bias, order, self.eps)
        n = x.numel() // self.num_features
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (n / (n - 1)), self.momentum)
        return y


def _each(order: int, *values: Tensor) -> tuple[Tensor, ...]:
    """Each of several values for a field to the values for its channels."""
    return torch.stack(values).repeat_interleave(order, 1).unbind()


def _affine(x: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    """An affine map of every channel, in one pass."""
    if x.dtype == slope.dtype:
        return torch.addcmul(shift.reshape(-1, 1, 1), x, slope.reshape(-1, 1, 1))
    # of half precision: the result has the type of x, and is rounded once
    return F.batch_norm(x, torch.zeros_like(slope), torch.ones_like(slope), slope, shift, eps=0.0)


def _statistics(x: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel, in the type of another tensor."""
    running = (None, None) if x.dtype == like.dtype else like.new_zeros(2, x.shape[1]).unbind()
    means, variances = torch.ops.aten.batch_norm_update_stats(x, *running, 0.0)
    return means, variances


def _shifted(shift: Tensor, slope: Tensor, offset: Tensor | None) -> Tensor:
    """The shift of an affine map that is given x without the offset."""
    return shift if offset is None else torch.addcmul(shift, slope, offset)


class _OrbitBatchNorm(torch.autograd.Function):
    """Batch norm with statistics over all channels of a field, by torch's kernels for those of a channel.

    A view that puts a field's channels into one dimension would do too, but is several times slower in channels-last
    memory format. Statistics of channels are cheap to pool, and with given statistics batch norm is an affine map.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, offset: Tensor | None, weight: Tensor, bias: Tensor, order: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        means, variances = _statistics(x, weight)
        if offset is not None:
            means += offset
        between, mean = torch.var_mean(means.unflatten(0, (-1, order)), 1, correction=0)
        var = variances.unflatten(0, (-1, order)).mean(1).add_(between)
        precision = (var + eps).rsqrt_()
        slope = weight * precision
        ctx.save_for_backward(x, offset, slope, means, mean, precision)
        ctx.order = order
        ctx.mark_non_differentiable(mean, var)
        slope_each, shift_each = _each(order, slope, bias - slope * mean)
        return _affine(x, slope_each, _shifted(shift_each, slope_each, offset)), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor, None, None]:
        x, offset, slope, means, mean, precision = ctx.saved_tensors
        mean_each, precision_each = _each(ctx.order, mean, precision)
        # sums over a channel, in one pass, of dy along the normalised x, and of dy; what weights are given matters not
        # to them, but without any the sums are left out on CUDA
        _, *sums = torch.ops.aten.native_batch_norm_backward(
            grad,
            x,
            precision_each,
            None,
            None,
            mean_each if offset is None else mean_each - offset,
            precision_each,
            True,
            0.0,
            [False, True, True],
        )
        along, level = torch.stack(sums).unflatten(1, (-1, ctx.order)).sum(2)
        # slope (dy - mean of dy - normalised x * mean of dy along it), of the field: an affine map of x, plus dy
        n = x.numel() // len(slope)
        curb = slope * precision * along / -n
        slope_each, curb_each, shift_each = _each(ctx.order, slope, curb, slope * level / -n - curb * mean)
        grad_offset = None
        if offset is not None:  # the sum over a channel of the gradient for x
            grad_offset = slope_each * sums[1] + (curb_each * means + shift_each) * (n // ctx.order)
        shift_each = _shifted(shift_each, curb_each, offset)
        grad_x = _affine(x, curb_each, shift_each).addcmul_(grad, slope_each.to(grad.dtype).reshape(-1, 1, 1))
        return grad_x, grad_offset, along, level, None, None


class CircularMask(nn.Module):
    """Cut square maps to a disc, which looks the same however it is turned.

    Parameters
    ----------
    size : int
        The side of the maps.
    """

    mask: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mask", circular_mask(size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, size, size) to the same, 0 outside of the disc."""
        return x * self.mask


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
