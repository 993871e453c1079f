"""From raw images to the input of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Self

import torch
from torch import Tensor, nn

from skequinas.io.stored import StoredImages

__all__ = ["Preprocessing"]

_AT_ONCE = 2**23
"""Values of which statistics are taken at a time."""


class Preprocessing(nn.Module):
    """Standardise every channel.

    Parameters
    ----------
    images : Tensor or StoredImages of shape (n, channels, height, width)
        The mean and the standard deviation are those of these images.
    """

    mean: Tensor
    std: Tensor
    like: Tensor

    def __init__(self, images: Tensor | StoredImages) -> None:
        super().__init__()
        # taken off first, so that a large offset does not drown the variance
        shift = images[:1].double().mean((0, 2, 3)).cpu()
        total = torch.zeros(2, images.shape[1], dtype=torch.float64)
        for chunk in images.split(max(1, min(1024, _AT_ONCE // max(1, math.prod(images.shape[1:]))))):
            values = chunk.double() - shift.to(chunk.device).reshape(-1, 1, 1)
            total += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))]).cpu()
        mean, square = total / (images.numel() / images.shape[1])
        if not (square + shift.square()).isfinite().all():
            raise ValueError("X has values so large that their squares overflow. Scale X to a smaller range.")
        # a channel that is constant, up to the round-off of the sums, keeps its scale
        variance = square - mean.square()
        varies = variance > 1e-12 * square + 1e-20 * shift.square()
        std = torch.where(varies, variance, torch.ones_like(variance)).sqrt()
        self.register_buffer("mean", (mean + shift).reshape(-1, 1, 1))
        self.register_buffer("std", std.reshape(-1, 1, 1))
        self.register_buffer("like", torch.zeros(0, dtype=torch.float32), persistent=False)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """One with the statistics of another, without images."""
        module = cls(torch.zeros(1, 1, 1, 1))
        module.mean, module.std = (state[name].double().reshape(-1, 1, 1) for name in ("mean", "std"))
        return module

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to a device or a type; the statistics stay exact, and only the results have the type."""
        exact = self.mean, self.std
        super()._apply(fn, recurse)
        self.mean, self.std = (own.to(self.mean.device) for own in exact)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) of any real type to the type that the module was given, float32 at first.

        On a CPU the arithmetic is that of float64, so that the same numbers in another type give the same bits.
        """
        exact = images.device.type == "cpu" and not torch.compiler.is_compiling()  # what is exported stays lean
        double = exact or torch.float64 in (images.dtype, self.like.dtype)
        working = torch.float64 if double else torch.float32
        return ((images.to(working) - self.mean.to(working)) / self.std.to(working)).to(self.like.dtype)
