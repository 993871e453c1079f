"""Convolutions of escnn with our harmonic basis, and the weights with which their filter is a given one."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, lsqr
from torch import Tensor, nn

from skequinas.interop.escnn.library import enn
from skequinas.nn.bases import HarmonicBasis

__all__ = ["convolution", "set_filter", "with_own_basis"]


def convolution(in_type: enn.FieldType, out_type: enn.FieldType, kernel_size: int, bias: bool) -> enn.R2Conv:
    """A convolution of escnn with the rings and the frequencies of our harmonic basis."""
    rings = HarmonicBasis(kernel_size).rings
    highest = {float(r): m for r, _, m in rings}
    conv = enn.R2Conv(
        in_type,
        out_type,
        kernel_size,
        padding=kernel_size // 2,
        bias=bias,
        rings=[float(r) for r, *_ in rings],
        sigma=[sigma for _, sigma, _ in rings],
        frequencies_cutoff=lambda r: highest[float(r)],
        initialize=False,
    )
    return with_own_basis(conv)


def with_own_basis(conv: enn.R2Conv) -> enn.R2Conv:
    """The convolution with a sampled basis of its own.

    Escnn lets all convolutions of the process share one, so that moving one network to another device or type breaks
    the others.
    """
    for name, block in conv.basisexpansion.named_children():
        own = copy.copy(block)
        own._buffers = {key: None if b is None else b.clone() for key, b in block._buffers.items()}
        conv.basisexpansion._modules[name] = own
    return conv


def set_filter(conv: enn.R2Conv, kernel: Tensor, bias: Tensor | None) -> None:
    """Give a convolution the weights with which its filter is a given one.

    Raises
    ------
    ValueError
        When the filter is not in the space of the convolution.
    """
    training = conv.training
    conv.train()  # in eval mode it keeps an expanded filter
    solution, rest = _solve(conv.basisexpansion, kernel, conv.weights)
    if rest > 1e-4:
        raise ValueError(
            f"The kernel of {conv} is not in the space of its convolution: a part of {rest:.1e} of it is left over."
        )
    conv.weights.data.copy_(solution)
    if conv.bias is not None:
        expansion = conv.bias_expansion.double().cpu()
        wanted = torch.zeros(len(expansion), dtype=torch.float64) if bias is None else bias.detach().double().cpu()
        conv.bias.data.copy_(torch.linalg.lstsq(expansion, wanted[:, None]).solution[:, 0])
    conv.train(training)


def _solve(expansion: nn.Module, kernel: Tensor, like: Tensor) -> tuple[Tensor, float]:
    """The weights of a basis expansion whose filter is nearest to a kernel, and what is left over, relative to it."""
    n_weights, wanted = like.numel(), kernel.detach().double().cpu().flatten()
    expansion.to("cpu", torch.float64)

    def expand(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        with torch.no_grad():
            filters: NDArray[np.float64] = expansion(torch.from_numpy(weights.ravel().copy())).flatten().numpy()
        return filters

    def back(filters: NDArray[np.float64]) -> NDArray[np.float64]:
        weights = torch.zeros(n_weights, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            product = (expansion(weights).flatten() * torch.from_numpy(filters.ravel().copy())).sum()
        gradient: NDArray[np.float64] = torch.autograd.grad(product, weights)[0].numpy()
        return gradient

    operator = LinearOperator((wanted.numel(), n_weights), matvec=expand, rmatvec=back, dtype=np.float64)
    solution = lsqr(operator, wanted.numpy(), atol=1e-12, btol=1e-12, iter_lim=1000)[0]
    rest = np.linalg.norm(expand(solution) - wanted.numpy()) / max(float(wanted.norm()), 1e-30)
    expansion.to(like.device, like.dtype)
    return torch.from_numpy(solution), float(rest)
