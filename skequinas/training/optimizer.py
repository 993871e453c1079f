r"""Muon for constrained kernels: steps along the polar factor of the momentum, one block for each representation.

The polar factor :math:`(D D^T)^{-1/2} D` of an equivariant momentum D is equivariant, so the constraint holds by
itself, and it is that of each block by itself (see `skequinas.nn.blocks`). A step changes a kernel by the learning rate
times its norm, and its norm not at all: batch norm follows every such kernel, so its direction alone means anything.

References
----------
K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skequinas.nn.blocks import kernel_blocks
from skequinas.nn.layers import EquivariantConv2d

__all__ = ["Muon", "polar_factor"]

_COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the polynomial that brings singular values near 1 fastest; they end between 0.7 and 1.2."""


def polar_factor(matrices: Tensor, n_steps: int = 5) -> Tensor:
    r"""About the polar factor :math:`(D D^T)^{-1/2} D` of each matrix of a batch, by Newton-Schulz iterations.

    All steps but the last multiplication are done on :math:`D D^T`, which is the smaller of the two.

    Parameters
    ----------
    matrices : Tensor of shape (n, rows, columns)
    n_steps : int, default=5
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    a, b, c = _COEFFICIENTS
    square = x @ x.mT
    scale = square.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(torch.finfo(x.dtype).tiny)[:, None, None]
    square = square / scale  # of the matrix divided by its norm, so that no singular value is above 1
    shift = a * torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    product = shift
    for step in range(n_steps):
        factor = torch.baddbmm(torch.add(shift, square, alpha=b), square, square, alpha=c)
        product = factor @ product if step else factor
        if step < n_steps - 1:
            square = factor @ square @ factor
    found: Tensor = (product * scale.rsqrt()) @ x
    return found if wide else found.mT


_LARGE = 100_000
"""Entries of a block from which on those of several kernels are not put together."""


class Muon(torch.optim.AdamW):
    """Muon for the kernels of equivariant convolutions, AdamW for all other parameters.

    Momentum is Nesterov's. Each subgroup's part of a mixed kernel is a kernel of its own, with a norm of its own. A
    layer that is relaxed is another tensor: its momentum begins at zero.

    Parameters
    ----------
    network : Module
        Its convolutions whose outputs are fields, and so followed by batch norm, are trained by Muon.
    lr : float, default=1e-2
        The rate of AdamW.
    kernel_lr : float, default=3e-2
        By how much of its norm a step changes a kernel.
    momentum : float, default=0.9
    weight_decay : float, default=1e-2
        That of AdamW.
    parameters : collection of Parameter, optional
        Those of the network that are trained; all of them by default.
    """

    def __init__(
        self,
        network: nn.Module,
        lr: float = 1e-2,
        kernel_lr: float = 3e-2,
        momentum: float = 0.9,
        weight_decay: float = 1e-2,
        parameters: list[nn.Parameter] | None = None,
    ) -> None:
        chosen = list(network.parameters()) if parameters is None else parameters
        wanted = {id(p) for p in chosen}
        layers = [m for m in network.modules() if isinstance(m, EquivariantConv2d) and m.regular_out]
        self._spaces = {m.weights.weight: m.weights.spaces for m in layers if id(m.weights.weight) in wanted}
        kernels = {id(p) for p in self._spaces}
        others = [p for p in chosen if id(p) not in kernels]
        own = {"lr": kernel_lr, "momentum": momentum, "weight_decay": 0.0}
        groups: list[dict[str, Any]] = [{"params": list(self._spaces)} | own] if self._spaces else []
        groups += [{"params": others}] if others else []
        super().__init__(groups, lr, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        kept: list[tuple[nn.Parameter, Tensor]] = []
        for group in self.param_groups:
            if "momentum" in group:
                kernels = [p for p in group["params"] if p.grad is not None]
                if kernels:
                    self._turn(kernels, group["lr"], group["momentum"])
                kept += [(p, p.grad) for p in kernels]
        for p, _ in kept:
            p.grad = None  # AdamW passes over these
        super().step()
        for p, grad in kept:
            p.grad = grad
        return loss

    def _turn(self, kernels: list[nn.Parameter], rate: float, momentum: float) -> None:
        """Turn kernels by the rate, each part of a mixture by itself."""
        for p in kernels:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros(()),  # AdamW looks for it in what it loads
                    "momentum_buffer": torch.zeros_like(p),
                    "norms": torch.stack(_norms(self._parts([p], [p]))),
                }
        grads = [p.grad for p in kernels if p.grad is not None]
        momenta = [self.state[p]["momentum_buffer"] for p in kernels]
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(momenta, grads)
        directions = self._polar(kernels, list(torch._foreach_add(grads, momenta, alpha=momentum)))
        steps, parts = self._parts(kernels, directions), self._parts(kernels, kernels)
        norms = torch.cat([self.state[p]["norms"] for p in kernels])
        tiny = torch.finfo(norms.dtype).tiny
        torch._foreach_mul_(steps, _each(rate * norms / (torch.stack(_norms(steps)) + tiny)))
        torch._foreach_sub_(parts, steps)
        torch._foreach_mul_(parts, _each(norms / (torch.stack(_norms(parts)) + tiny)))

    def _parts(self, kernels: Sequence[nn.Parameter], values: Sequence[Tensor]) -> list[Tensor]:
        """Of each kernel what belongs to each of its subgroups."""
        sizes = ([space.n_free for space in self._spaces[p]] for p in kernels)
        return [part for own, value in zip(sizes, values, strict=True) for part in value.split(own)]

    def _polar(self, kernels: list[nn.Parameter], momenta: list[Tensor]) -> list[Tensor]:
        """The polar factors of kernels, their blocks sorted by shape and worked on together."""
        blocks = [kernel_blocks(self._spaces[p]) for p in kernels]
        split = [own.split(m) for own, m in zip(blocks, momenta, strict=True)]
        places: dict[torch.Size, list[tuple[int, int]]] = {}
        for i, parts in enumerate(split):
            for j, part in enumerate(parts):
                places.setdefault(part.shape[1:], []).append((i, j))
        for shape, same in places.items():
            if shape.numel() > _LARGE:  # there is nothing to win by a copy
                for i, j in same:
                    split[i][j] = polar_factor(split[i][j])
                continue
            together = [split[i][j] for i, j in same]
            found = polar_factor(torch.cat(together)).split([len(part) for part in together])
            for (i, j), part in zip(same, found, strict=True):
                split[i][j] = part
        return [own.join(parts, *p.shape[1:]) for own, parts, p in zip(blocks, split, kernels, strict=True)]


def _norms(parts: list[Tensor]) -> list[Tensor]:
    return list(torch._foreach_norm(parts))


def _each(factors: Tensor) -> list[Tensor]:
    return list(factors.unbind())
