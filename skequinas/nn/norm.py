"""Batch norm that commutes with every subgroup of the search group."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from skequinas.groups import PointGroup
from skequinas.nn.kernels.lifting import lift, lift_at_rest, takes
from skequinas.nn.kernels.normalization import normalize, rectify
from skequinas.nn.pooling import add_fields
from skequinas.runtime.compiled import can_be_told, compiled
from skequinas.runtime.parallel import is_apart, summed

__all__ = ["OrbitBatchNorm2d", "normalised"]


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
        if not self.training:
            return _affine(x, *self.slope_and_shift(offset))
        if is_apart():
            return normalised(self, x, offset, self.group.order)
        y: Tensor
        y, mean, var = _OrbitBatchNorm.apply(x, offset, self.weight, self.bias, self.group.order, self.eps)
        self._keep(mean, var, x.numel() // x.shape[1])
        return y

    def rectified(
        self, x: Tensor, offset: Tensor | None = None, shortcut: Tensor | None = None, *, halve: bool = False
    ) -> Tensor:
        """Normalise, add a shortcut to the first channels, rectify, and, if asked, average blocks of 2x2 positions."""
        kernels = compiled() if self._can_be_fused(x, offset, shortcut, halve) else None
        if kernels is not None and not (self.training or torch.is_grad_enabled()):
            return rectify(kernels, x, *self.slope_and_shift(offset), shortcut, halve=halve)
        if kernels is not None and self.training:
            y, mean, var = normalize(kernels, x, offset, self.weight, self.bias, shortcut, self.eps, halve=halve)
            self._keep(mean, var, x.numel() // x.shape[1])
            return y
        y = self(x, offset)
        if shortcut is not None:
            add_fields(y, shortcut)
        y = y.relu_()
        return F.avg_pool2d(y, 2) if halve else y

    def lifted(self, images: Tensor, kernel: Tensor, offset: Tensor | None = None, *, halve: bool = False) -> Tensor:
        """Convolve images, with zero padding that keeps their size, and do as `rectified` with the maps.

        The maps of few channels are quickly computed, and never written where compiled kernels do it.
        """
        known = self._can_be_told(images, kernel, offset=offset) and len(kernel) == self.num_features * self.group.order
        kernels = compiled() if known and takes(images, kernel, halve=halve) else None
        if kernels is not None and not (self.training or torch.is_grad_enabled()):
            return lift_at_rest(kernels, images, kernel, *self.slope_and_shift(offset), halve=halve)
        if kernels is not None and self.training:
            y, mean, var = lift(kernels, images, kernel, offset, self.weight, self.bias, self.eps, halve=halve)
            self._keep(mean, var, len(images) * images.shape[2] * images.shape[3])
            return y
        return self.rectified(F.conv2d(images, kernel, padding=kernel.shape[-1] // 2), offset, halve=halve)

    def _can_be_told(self, *tensors: Tensor, offset: Tensor | None) -> bool:
        """Whether compiled kernels can be told of some tensors, the parameters, and an offset."""
        if is_apart():
            return False
        offsets = [] if offset is None else [offset]
        fits = offset is None or offset.shape == (self.num_features * self.group.order,)
        return fits and can_be_told(*tensors, self.weight, self.bias, *offsets)

    def _can_be_fused(self, x: Tensor, offset: Tensor | None, shortcut: Tensor | None, halve: bool) -> bool:
        """Whether compiled kernels can be told of these maps; if not, torch says what is wrong with them."""
        tensors = [x] if shortcut is None else [x, shortcut]
        fits = shortcut is None or (
            shortcut.shape[:1] + shortcut.shape[2:] == x.shape[:1] + x.shape[2:] and shortcut.shape[1] <= x.shape[1]
        )
        fits = fits and x.dim() == 4 and x.shape[1] == self.num_features * self.group.order
        return (
            fits and self._can_be_told(*tensors, offset=offset) and not (halve and (x.shape[2] % 2 or x.shape[3] % 2))
        )

    def slope_and_shift(self, offset: Tensor | None) -> tuple[Tensor, Tensor]:
        """The slope and the shift of each channel at rest, to which an offset may be added before."""
        assert self.running_mean is not None
        assert self.running_var is not None
        slope = self.weight * (self.running_var + self.eps).rsqrt()
        slope, shift = _each(self.group.order, slope, self.bias - slope * self.running_mean)
        return slope, _shifted(shift, slope, offset)

    def _keep(self, mean: Tensor, var: Tensor, n_positions: int) -> None:
        """Let the running statistics follow those of a mini-batch, whose maps have so many positions."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        n = n_positions * self.group.order
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (n / (n - 1)), self.momentum)


def normalised(
    norm: nn.modules.batchnorm._BatchNorm, x: Tensor, offset: Tensor | None = None, order: int = 1
) -> Tensor:
    """Batch norm of channels, so many of which share a statistic, over all parts of a mini-batch in training.

    Parameters
    ----------
    norm : BatchNorm
    x : Tensor
        (n, channels, ...)
    offset : Tensor, optional
        Of the channels, added before.
    order : int
        How many channels a field has.
    """
    if not (norm.training and is_apart()):
        y: Tensor = norm(x)
        return y
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    over = tuple(d for d in range(x.dim()) if d != 1)
    var, mean = torch.var_mean(x.to(norm.weight.dtype), over, correction=0)
    mean = mean if offset is None else mean + offset
    # in double precision sums of squares lose nothing, and one round between the processes suffices
    mean, var = mean.double(), var.double()
    moments = torch.stack([mean, var + mean.square(), torch.ones_like(mean)]).unflatten(1, (-1, order)).sum(2)
    total, square, n = summed(moments * (x.numel() // x.shape[1]))
    mean = total / n
    var = square / n - mean.square()
    with torch.no_grad():
        norm.running_mean.lerp_(mean.to(norm.running_mean), norm.momentum)
        norm.running_var.lerp_((var * (n / (n - 1))).to(norm.running_var), norm.momentum)
    slope = norm.weight * (var + norm.eps).rsqrt().to(norm.weight)
    slope, shift = _each(order, slope, norm.bias - slope * mean.to(slope))
    if x.dim() == 2:
        return torch.addcmul(_shifted(shift, slope, offset), x, slope)
    return _affine(x, slope, _shifted(shift, slope, offset))


def _each(order: int, *values: Tensor) -> tuple[Tensor, ...]:
    """Each of several values for a field to the values for its channels."""
    return torch.stack(values).repeat_interleave(order, 1).unbind()


def _affine(x: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    """An affine map of every channel, in one pass."""
    if x.dtype == slope.dtype:
        return torch.addcmul(shift.reshape(-1, 1, 1), x, slope.reshape(-1, 1, 1))
    # of half precision: the result has the type of x, and is rounded once
    zeros, ones = torch.zeros_like(slope), torch.ones_like(slope)
    return torch.batch_norm(x, slope, shift, zeros, ones, False, 0.0, 0.0, x.is_cuda)  # F.batch_norm may refuse eps=0


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
