"""The first layer in a few passes over the images: convolution, batch norm of orbits, the rectifier and halving."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skequinas.runtime.compiled import Compiled, Threads, check

__all__ = ["lift", "lift_at_rest", "takes"]

_MOST_TAPS = 32
"""Inputs of a filter, up to which it pays to compute maps again instead of reading them."""


def takes(x: Tensor, kernel: Tensor, *, halve: bool) -> bool:
    """Whether it can be done here, and so few taps make it worth while. There is no gradient by the images."""
    if not x.dim() == kernel.dim() == 4 or x.requires_grad:
        return False
    inputs, height, width = kernel.shape[1:]
    odd = height == width and width % 2 == 1
    fits = x.shape[1] == inputs and not (halve and (x.shape[2] % 2 or x.shape[3] % 2))
    return odd and fits and inputs * height * width <= _MOST_TAPS


class _Job(ctypes.Structure):
    """The same as in ``lifting.cpp``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "inputs")),
        *((name, ctypes.c_int64) for name in ("channels", "order", "size", "halve")),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("x", "kernel", "offset", "weight", "bias", "y", "mean", "variance")),
        *((name, ctypes.c_void_p) for name in ("channel_means", "slope", "shift", "gradient")),
        *((name, ctypes.c_void_p) for name in ("dkernel", "dweight", "dbias", "doffset")),
        ("threads", Threads),
        *((name, ctypes.c_void_p) for name in ("sums", "kernel_sums", "packed", "reads", "pivot", "level", "along")),
    )


def lift(
    kernels: Compiled,
    x: Tensor,
    kernel: Tensor,
    offset: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    halve: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The rectified batch norm of convolved images, with the mean and the variance of each field.

    Parameters
    ----------
    kernels : Compiled
    x : Tensor of shape (n, inputs, height, width)
        Without a gradient.
    kernel : Tensor of shape (fields * order, inputs, size, size)
    offset : Tensor of shape (fields * order,) or None
        Is added to channels before.
    weight, bias : Tensor of shape (fields,)
    eps : float
    halve : bool
        Whether blocks of 2x2 positions are averaged in the end; then both sides are even.
    """
    y, mean, variance = _Lifting.apply(x, kernel, offset, weight, bias, eps, halve, kernels)
    return y, mean, variance


def lift_at_rest(kernels: Compiled, x: Tensor, kernel: Tensor, slope: Tensor, shift: Tensor, *, halve: bool) -> Tensor:
    """The rectified affine map of convolved images, as `lift` but with what is known of the statistics; no gradients.

    Parameters
    ----------
    slope, shift : Tensor of shape (channels,)
    kernels, x, kernel, halve
        As there.
    """
    x, kernel, slope, shift = (v.contiguous() for v in (x, kernel, slope, shift))
    job = _job(x, kernel, 1, halve, kernels)
    y = _outputs(x, kernel, halve)
    job.slope, job.shift, job.y = slope.data_ptr(), shift.data_ptr(), y.data_ptr()
    check(kernels.functions.skequinas_lift_at_rest(ctypes.byref(job)))
    return y


def _job(x: Tensor, kernel: Tensor, order: int, halve: bool, kernels: Compiled) -> _Job:
    """What the compiled functions are told of images and kernel. It does not keep the tensors."""
    n, inputs, height, width = x.shape
    return _Job(
        images=n,
        height=height,
        width=width,
        inputs=inputs,
        channels=len(kernel),
        order=order,
        size=kernel.shape[-1],
        halve=halve,
        x=x.data_ptr(),
        kernel=kernel.data_ptr(),
        threads=kernels.threads(),
    )


def _outputs(x: Tensor, kernel: Tensor, halve: bool) -> Tensor:
    shape = len(x), len(kernel), *(side // 2 if halve else side for side in x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


class _Lifting(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kernel: Tensor,
        offset: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        halve: bool,
        kernels: Compiled,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, kernel, weight, bias = (v.contiguous() for v in (x, kernel, weight, bias))
        offset = None if offset is None else offset.contiguous()
        mean, variance = torch.empty_like(weight), torch.empty_like(weight)
        means, slope, shift = weight.new_empty(3, len(kernel)).unbind()
        ctx.save_for_backward(x, kernel, offset, weight, bias, mean, variance, means, slope, shift)
        ctx.eps, ctx.halve, ctx.kernels = eps, halve, kernels
        ctx.mark_non_differentiable(mean, variance)
        job, y = _told(ctx, ctx.to_save), _outputs(x, kernel, halve)
        job.y = y.data_ptr()
        check(kernels.functions.skequinas_lift(ctypes.byref(job)))
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        _, kernel, offset, weight, bias = saved[:5]
        grad = grad.contiguous(memory_format=torch.channels_last)
        dkernel, dweight, dbias = torch.empty_like(kernel), torch.empty_like(weight), torch.empty_like(bias)
        doffset = None if offset is None else torch.empty_like(offset)
        job = _told(ctx, saved)
        job.gradient, job.dkernel = grad.data_ptr(), dkernel.data_ptr()
        job.dweight, job.dbias = dweight.data_ptr(), dbias.data_ptr()
        job.doffset = None if doffset is None else doffset.data_ptr()
        check(ctx.kernels.functions.skequinas_lift_backward(ctypes.byref(job)))
        return None, dkernel, doffset, dweight, dbias, None, None, None


def _told(ctx: Any, tensors: tuple[Tensor | None, ...]) -> _Job:
    """A job with all that is saved."""
    x, kernel, offset, weight, *others = tensors
    assert x is not None
    assert kernel is not None
    assert weight is not None
    job = _job(x, kernel, len(kernel) // len(weight), ctx.halve, ctx.kernels)
    job.eps, job.weight = ctx.eps, weight.data_ptr()
    job.offset = None if offset is None else offset.data_ptr()
    for name, tensor in zip(("bias", "mean", "variance", "channel_means", "slope", "shift"), others, strict=True):
        assert tensor is not None
        setattr(job, name, tensor.data_ptr())
    return job
