r"""Muon for constrained kernels: steps along the polar factor of the momentum, one block for each representation.

The polar factor :math:`(D D^T)^{-1/2} D` of an equivariant momentum D is equivariant, so the constraint holds by
itself, and it is that of each block by itself (see `skequinas.nn.blocks`). A step changes a kernel by the learning rate
times its norm, and its norm not at all: batch norm follows every such kernel, so its direction alone means anything.

References
----------
K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skequinas.nn.blocks import kernel_blocks
from skequinas.nn.kernels.muon import TurnedKernel, can_turn, turn
from skequinas.nn.layers import OrbitConv2d
from skequinas.runtime.compiled import compiled
from skequinas.training.recording import RecordedUpdate

__all__ = ["SGD", "AdamW", "Muon", "polar_factor", "polar_factors"]

_COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the polynomial that brings singular values near 1 fastest; they end between 0.7 and 1.2."""


def polar_factor(matrices: Tensor, n_steps: int = 5) -> Tensor:
    r"""About the polar factor :math:`(D D^T)^{-1/2} D` of each matrix of a batch, by Newton-Schulz iterations.

    Parameters
    ----------
    matrices : Tensor of shape (n, rows, columns)
    n_steps : int, default=5
    """
    return polar_factors([matrices], n_steps)[0]


def polar_factors(batches: Sequence[Tensor], n_steps: int = 5) -> list[Tensor]:
    r"""Those of several batches of matrices, of any shapes.

    The iterations are done on :math:`D D^T`, or :math:`D^T D` where that is smaller, and together for all matrices of
    about one size: what is filled up with zeros takes no part.
    """
    wide = [x if x.shape[-2] <= x.shape[-1] else x.mT for x in batches]
    squares = [x @ x.mT for x in wide]
    scales = [
        square.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(torch.finfo(square.dtype).tiny)[:, None, None]
        for square in squares
    ]  # by their root matrices have norm 1, so that no singular value is above 1
    sizes: dict[int, list[int]] = {}
    for i, square in enumerate(squares):
        sizes.setdefault(max(16, 1 << (square.shape[-1] - 1).bit_length()), []).append(i)
    found = list(wide)
    for same in sizes.values():
        largest = max(squares[i].shape[-1] for i in same)
        together = [F.pad(squares[i] / scales[i], (0, largest - squares[i].shape[-1]) * 2) for i in same]
        products = _iterated(torch.cat(together), n_steps).split([len(part) for part in together])
        for i, product in zip(same, products, strict=True):
            n = squares[i].shape[-1]
            found[i] = (product[:, :n, :n] * scales[i].rsqrt()) @ wide[i]
    return [y if y.shape == x.shape else y.mT for x, y in zip(batches, found, strict=True)]


def _iterated(square: Tensor, n_steps: int) -> Tensor:
    """By what matrices are multiplied in so many steps, given their squares."""
    a, b, c = _COEFFICIENTS
    shift = a * torch.eye(square.shape[-1], dtype=square.dtype, device=square.device)
    product = shift.expand_as(square)
    for step in range(n_steps):
        factor = torch.baddbmm(torch.add(shift, square, alpha=b), square, square, alpha=c)
        product = factor @ product if step else factor
        if step < n_steps - 1:
            square = factor @ square @ factor
    return product


_TINY = 1e-30
"""Of what is zero, the norm that it is divided by."""

_LARGE = 100_000
"""Entries of a block from which on those of several kernels are not put together."""


class _Bare(torch.optim.Optimizer):
    """An optimiser of torch without what is wrapped around it for the compiler, whose import takes seconds.

    What is wrapped around ``zero_grad`` is still there. Steps are not differentiable.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters to those that are trained."""
        _unwrapped(super().add_param_group)(self, param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step."""
        loss: float | None = _unwrapped(super().step)(self, closure)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Momenta, steps and rates."""
        state: dict[str, Any] = _unwrapped(super().state_dict)(self)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        _unwrapped(super().load_state_dict)(self, state_dict)


def _unwrapped(method: Any) -> Callable[..., Any]:
    """The function of a bound method, without hooks either."""
    function: Callable[..., Any] = inspect.unwrap(method.__func__)
    return function


class AdamW(_Bare, torch.optim.AdamW):
    """AdamW, without torch's compiler."""


class SGD(_Bare, torch.optim.SGD):
    """SGD, without torch's compiler."""


class Muon(AdamW):
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
        layers = [m for m in network.modules() if isinstance(m, OrbitConv2d) and m.regular_out]
        self._spaces = {m.weights.weight: m.weights.spaces for m in layers if id(m.weights.weight) in wanted}
        kernels = {id(p) for p in self._spaces}
        others = [p for p in chosen if id(p) not in kernels]
        own = {"lr": kernel_lr, "momentum": momentum, "weight_decay": 0.0}
        groups: list[dict[str, Any]] = [{"params": list(self._spaces)} | own] if self._spaces else []
        groups += [{"params": others}] if others else []
        super().__init__(groups, lr, weight_decay=weight_decay, fused=True)
        self._records = False
        self._updates: dict[tuple[nn.Parameter, ...], RecordedUpdate] = {}

    def record(self) -> None:
        """From now on turn kernels that are on a GPU by a recording."""
        self._records = True

    def forget(self) -> None:
        """Free the recordings, which know this object."""
        self._records = False
        self._updates.clear()

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
        inspect.unwrap(torch.optim.AdamW.step)(self)
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
        fast = compiled()
        if fast is not None:
            state = [self.state[p] for p in kernels]
            turned = [
                TurnedKernel(p, grad, own["momentum_buffer"], own["norms"], self._spaces[p])
                for p, grad, own in zip(kernels, grads, state, strict=True)
            ]
            if can_turn(turned):
                turn(fast, turned, rate, momentum)
                return
        if not self._records or not kernels[0].is_cuda:
            self._change(kernels, momentum, rate, *grads)
            return
        known = self._updates.get(tuple(kernels))
        if known is None:
            known = self._updates[tuple(kernels)] = RecordedUpdate(partial(self._change, kernels, momentum))
        known(torch.full((), rate, device=kernels[0].device), *grads)

    def _change(self, kernels: list[nn.Parameter], momentum: float, rate: float | Tensor, *gradients: Tensor) -> None:
        """The turn, by torch's operations."""
        grads = list(gradients)
        momenta = [self.state[p]["momentum_buffer"] for p in kernels]
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(momenta, grads)
        directions = self._polar(kernels, list(torch._foreach_add(grads, momenta, alpha=momentum)))
        steps, parts = self._parts(kernels, directions), self._parts(kernels, kernels)
        norms = torch.cat([self.state[p]["norms"] for p in kernels])
        lengths = torch.stack(_norms(steps)).clamp_min(_TINY)
        torch._foreach_mul_(steps, _each(rate * norms / lengths))
        torch._foreach_sub_(parts, steps)
        torch._foreach_mul_(parts, _each(norms / torch.stack(_norms(parts)).clamp_min(_TINY)))

    def _parts(self, kernels: Sequence[nn.Parameter], values: Sequence[Tensor]) -> list[Tensor]:
        """Of each kernel what belongs to each of its subgroups."""
        sizes = ([space.n_free for space in self._spaces[p]] for p in kernels)
        return [part for own, value in zip(sizes, values, strict=True) for part in value.split(own)]

    def _polar(self, kernels: list[nn.Parameter], momenta: list[Tensor]) -> list[Tensor]:
        """The polar factors of kernels, their blocks sorted by shape and worked on together."""
        blocks = [kernel_blocks(self._spaces[p]) for p in kernels]
        split = [own.split(m) for own, m in zip(blocks, momenta, strict=True)]
        places: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for i, parts in enumerate(split):
            for j, part in enumerate(parts):
                shape = tuple(part.shape[1:])
                alone = (i, j) if shape[0] * shape[1] > _LARGE else ()  # there is nothing to win by a copy
                places.setdefault((*shape, *alone), []).append((i, j))
        batches = [[split[i][j] for i, j in same] for same in places.values()]
        factors = polar_factors([batch[0] if len(batch) == 1 else torch.cat(batch) for batch in batches])
        for same, batch, factor in zip(places.values(), batches, factors, strict=True):
            for (i, j), part in zip(same, factor.split([len(part) for part in batch]), strict=True):
                split[i][j] = part
        return [own.join(parts, *p.shape[1:]) for own, parts, p in zip(blocks, split, kernels, strict=True)]


def _norms(parts: list[Tensor]) -> list[Tensor]:
    return list(torch._foreach_norm(parts))


def _each(factors: Tensor) -> list[Tensor]:
    return list(factors.unbind())
