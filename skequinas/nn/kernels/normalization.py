"""Batch norm of orbits, the addition of a shortcut, the rectifier and halving, in a few passes over memory."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skequinas.runtime.compiled import Compiled, Threads, check

__all__ = ["normalize", "rectify"]


class _Job(ctypes.Structure):
    """The same as in ``normalization.cpp``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "channels")),
        *((name, ctypes.c_int64) for name in ("order", "shortcut_channels", "halve")),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("x", "shortcut", "offset", "weight", "bias", "y", "mean", "variance")),
        *((name, ctypes.c_void_p) for name in ("channel_means", "slope", "shift", "gradient")),
        *((name, ctypes.c_void_p) for name in ("dx", "dshortcut", "dweight", "dbias", "doffset")),
        ("threads", Threads),
        *((name, ctypes.c_void_p) for name in ("sums", "level", "along")),
    )


def normalize(
    kernels: Compiled,
    x: Tensor,
    offset: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    shortcut: Tensor | None,
    eps: float,
    *,
    halve: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The rectified batch norm of fields, with the mean and the variance of each.

    Parameters
    ----------
    kernels : Compiled
    x : Tensor of shape (n, fields * order, height, width)
    offset : Tensor of shape (fields * order,) or None
        Is added to channels before.
    weight, bias : Tensor of shape (fields,)
    shortcut : Tensor of shape (n, channels, height, width) or None
        Is added to the first so many channels of the normalised maps.
    eps : float
    halve : bool
        Whether blocks of 2x2 positions are averaged in the end; then both sides are even.
    """
    y, mean, variance = _Normalization.apply(x, offset, weight, bias, shortcut, eps, halve, kernels)
    return y, mean, variance


def rectify(
    kernels: Compiled, x: Tensor, slope: Tensor, shift: Tensor, shortcut: Tensor | None, *, halve: bool
) -> Tensor:
    """The rectified affine map of each channel, as `normalize` but with what is known of the statistics; no gradients.

    Parameters
    ----------
    slope, shift : Tensor of shape (channels,)
    kernels, x, shortcut, halve
        As there.
    """
    x, shortcut, y = _maps(x, shortcut, halve)
    n, channels, height, width = x.shape
    slope, shift = slope.contiguous(), shift.contiguous()
    job = _Job(
        images=n,
        height=height,
        width=width,
        channels=channels,
        order=1,
        shortcut_channels=0 if shortcut is None else shortcut.shape[1],
        halve=halve,
        x=x.data_ptr(),
        shortcut=None if shortcut is None else shortcut.data_ptr(),
        y=y.data_ptr(),
        slope=slope.data_ptr(),
        shift=shift.data_ptr(),
        threads=kernels.threads(),
    )
    check(kernels.functions.skequinas_rectify(ctypes.byref(job)))
    return y


def _maps(x: Tensor, shortcut: Tensor | None, halve: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """Maps and shortcut with channels last, and where to put what comes out."""
    x = x.contiguous(memory_format=torch.channels_last)
    shortcut = None if shortcut is None else shortcut.contiguous(memory_format=torch.channels_last)
    n, channels, *sides = x.shape
    shape = n, channels, *(side // 2 if halve else side for side in sides)
    return x, shortcut, torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


class _Normalization(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        offset: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        shortcut: Tensor | None,
        eps: float,
        halve: bool,
        kernels: Compiled,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, shortcut, y = _maps(x, shortcut, halve)
        weight, bias = weight.contiguous(), bias.contiguous()
        offset = None if offset is None else offset.contiguous()
        mean, variance = torch.empty_like(weight), torch.empty_like(weight)
        means, slope, shift = weight.new_empty(3, x.shape[1]).unbind()
        ctx.save_for_backward(x, offset, weight, bias, shortcut, mean, variance, means, slope, shift)
        ctx.eps, ctx.halve, ctx.kernels = eps, halve, kernels
        ctx.mark_non_differentiable(mean, variance)
        job = _job(ctx, ctx.to_save)
        job.y = y.data_ptr()
        check(kernels.functions.skequinas_normalize(ctypes.byref(job)))
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        x, offset, weight, bias, shortcut = saved[:5]
        grad = grad.contiguous(memory_format=torch.channels_last)
        dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        dshortcut = None if shortcut is None else torch.empty_like(shortcut)
        doffset = None if offset is None else torch.empty_like(offset)
        job = _job(ctx, saved)
        job.gradient = grad.data_ptr()
        job.dx, job.dweight, job.dbias = dx.data_ptr(), dweight.data_ptr(), dbias.data_ptr()
        job.dshortcut = None if dshortcut is None else dshortcut.data_ptr()
        job.doffset = None if doffset is None else doffset.data_ptr()
        check(ctx.kernels.functions.skequinas_normalize_backward(ctypes.byref(job)))
        return dx, doffset, dweight, dbias, dshortcut, None, None, None


def _job(ctx: Any, tensors: tuple[Tensor | None, ...]) -> _Job:
    """What the compiled functions are told. It does not keep the tensors."""
    x, offset, weight, bias, shortcut, mean, variance, means, slope, shift = tensors
    assert x is not None
    assert weight is not None
    n, channels, height, width = x.shape

    def at(tensor: Tensor | None) -> int | None:
        return None if tensor is None else tensor.data_ptr()

    return _Job(
        images=n,
        height=height,
        width=width,
        channels=channels,
        order=channels // len(weight),
        shortcut_channels=0 if shortcut is None else shortcut.shape[1],
        halve=ctx.halve,
        eps=ctx.eps,
        x=at(x),
        shortcut=at(shortcut),
        offset=at(offset),
        weight=at(weight),
        bias=at(bias),
        mean=at(mean),
        variance=at(variance),
        channel_means=at(means),
        slope=at(slope),
        shift=at(shift),
        threads=ctx.kernels.threads(),
    )
