"""Training a constrained network by relaxation: it is free for a while, and ends constrained.

References
----------
Pertigkiozoglou, Chatzipantazis, Trivedi and Daniilidis, Improving Equivariant Model Training via Constraint Relaxation,
NeurIPS 2024.
"""

from __future__ import annotations

from types import TracebackType

import torch
from torch import nn

from skequinas.nn.layers import GroupConv2d
from skequinas.nn.residual import ResidualGroupConv2d

__all__ = ["Relaxation"]

_CONSTRAINED_SHARE = 0.1
"""Of the steps, the last: there the network is constrained, and its statistics follow."""


class Relaxation:
    r"""The constrained layers of a network, which have a residual for as long as the context lasts.

    The residual's norm relative to the equivariant kernel rises from 0 to ``height`` by the middle, and falls to 0
    again; for the last tenth of the steps the network is constrained. When the context ends it has its own layers
    again, with the weights that were learned. Where it was cut short they are projected, and batch norms need new
    statistics.

    Parameters
    ----------
    network : Module
        It is changed at once.
    height : float
        The greatest relative norm; 0 does nothing.
    n_steps : int
    seed : int
        The residuals follow from it.
    """

    def __init__(self, network: nn.Module, height: float, n_steps: int, seed: int) -> None:
        self.height, self.n_steps = height, n_steps
        self.layers: list[tuple[nn.Module, GroupConv2d, ResidualGroupConv2d]] = []
        self.was_cut = False
        if not height:
            return
        generator = torch.Generator().manual_seed(seed)
        parents = [(m, m.conv) for m in network.modules() if isinstance(getattr(m, "conv", None), GroupConv2d)]
        for parent, own in parents:
            assert isinstance(own, GroupConv2d)
            if own.constraint.order > 1:
                self.layers.append((parent, own, _softened(own, generator)))
                parent.conv = self.layers[-1][2]
        self.step(0)

    def share(self, step: int) -> float:
        """How much of its height the residual has at a step."""
        middle = (1 - _CONSTRAINED_SHARE) * self.n_steps / 2
        return max(0.0, 1 - abs(step - middle) / middle) if middle else 0.0

    @torch.no_grad()
    def step(self, number: int) -> bool:
        """Give residuals the norm of a step; whether there is none."""
        share = self.share(number) if self.layers else 0.0
        for _, _, soft in self.layers:
            assert soft.gammas is not None
            soft.gammas.fill_(share * self.height * max(len(soft.parts), 1) ** -0.5)
        return share == 0.0

    def __enter__(self) -> None:
        pass

    @torch.no_grad()
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for parent, own, soft in self.layers:
            assert soft.gammas is not None
            if bool(soft.gammas.any()):
                self.was_cut = True
                own.inherit(soft)
            else:
                own.weights.weight.copy_(soft.weights.parts()[0])
                if own.biases is not None and soft.biases is not None:
                    own.biases.weight.copy_(soft.biases.parts()[0])
                if own.output_bias is not None and soft.output_bias is not None:
                    own.output_bias.copy_(soft.output_bias)
            parent.conv = own


@torch.no_grad()
def _softened(own: GroupConv2d, generator: torch.Generator) -> ResidualGroupConv2d:
    """The same layer with a residual whose norm is 0."""
    soft = ResidualGroupConv2d(
        own.constraint, own.in_fields, own.out_fields, own.kernel_size,
        regular_in=own.regular_in, regular_out=own.regular_out, basis=own.basis,
        bias=own.is_biased, generator=generator,
    )  # fmt: skip
    soft.to(own.weights.weight)
    soft.weights.parts()[0].copy_(own.weights.weight)
    if soft.biases is not None:
        assert own.biases is not None
        soft.biases.parts()[0].copy_(own.biases.weight)
    if soft.output_bias is not None:
        assert own.output_bias is not None
        soft.output_bias.copy_(own.output_bias)
    return soft.train(own.training)
