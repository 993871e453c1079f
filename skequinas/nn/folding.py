"""Constrained layers and the batch norms behind them as plain layers of torch."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from skequinas.nn.layers import EquivariantConv2d

__all__ = ["folded_kernel", "plain_convolution", "plain_linear", "undrawn"]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def undrawn(kind: type[Layer], *arguments: int, **options: Any) -> Layer:
    """A plain layer of torch whose weights are not drawn, so that no generator is touched.

    `torch.nn.utils.skip_init` gives the same, but imports half a second's worth of modules.
    """
    bare = type(kind.__name__, (kind,), {"reset_parameters": lambda self: None})
    layer: Layer = bare(*arguments, **options)
    layer.__class__ = kind
    return layer


def folded_kernel(
    conv: EquivariantConv2d, norm: nn.modules.batchnorm._BatchNorm | None, channels: int
) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution with the batch norm behind it, whose features have so many channels each."""
    kernel, offset = conv.kernel(), conv.offset()
    if offset is None:
        offset = torch.zeros_like(kernel[:, 0, 0, 0])
    if norm is None:
        return kernel, offset
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    scale, shift = (v.repeat_interleave(channels) for v in (scale, norm.bias - norm.running_mean * scale))
    return kernel * scale.reshape(-1, 1, 1, 1), shift + offset * scale


def plain_convolution(kernel: Tensor, bias: Tensor) -> nn.Conv2d:
    """The convolution with this kernel, padded so that maps keep their size."""
    n_out, n_in, size = kernel.shape[:3]
    plain = undrawn(nn.Conv2d, n_in, n_out, size, padding=size // 2, dtype=kernel.dtype)
    _fill(plain, kernel, bias)
    return plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def plain_linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """The dense layer with these weights."""
    plain = undrawn(nn.Linear, weight.shape[1], weight.shape[0], dtype=weight.dtype)
    _fill(plain, weight, bias)
    return plain


@torch.no_grad()
def _fill(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight)
    assert layer.bias is not None
    layer.bias.copy_(bias)
