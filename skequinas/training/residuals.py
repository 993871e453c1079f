r"""How the residuals of nearly constrained layers are held in check while a network is trained.

Two ways of the field: a prior, which makes residuals small without ever taking them away (Residual Pathway Priors), and
a constraint with a price of its own for each part, which rises for as long as it is violated (ACE).

References
----------
Finzi, Benton and Wilson, Residual Pathway Priors for Soft Equivariance Constraints, NeurIPS 2021; Manolache, Chamon and
Niepert, Learning (Approximately) Equivariant Networks via Constrained Optimization, NeurIPS 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skequinas.nn.residual import ResidualGroupConv2d

__all__ = ["DualAscent", "ResidualSettings", "residual_layers", "residual_prior"]

_GREATEST_STEP = 0.5
"""Of the rate, in trainings of few steps; from 2 on it would swing."""


@dataclass(frozen=True)
class ResidualSettings:
    r"""How residuals are held in check.

    Parameters
    ----------
    equivariant_decay, residual_decay : float
        What is added to the loss for each unit of the squares of w, and of v; in normalised layers for each unit of
        the squares of :math:`\gamma`.
    rate : float
        Of gradient descent in :math:`\gamma` and ascent in its price, over the whole training: each step has its share.
        0 leaves all :math:`\gamma` as they are.
    constrained : bool
        Whether there are prices; without them :math:`\gamma` goes down the loss with its prior.
    slack : float
        How large :math:`|\gamma|` may be at no price.
    price : float or None
        With a number, every :math:`\gamma` has a slack of its own, which is learned, and this is the price of its
        square.
    free_head : bool
        Whether the :math:`\gamma` of the last layer are left as they are.
    relaxation : float
        With a number above 0, layers that are constrained have a residual while they are trained, whose relative norm
        rises to this and falls to 0 again, see `skequinas.training.relaxation`.
    """

    equivariant_decay: float = 0.0
    residual_decay: float = 0.0
    rate: float = 0.0
    constrained: bool = True
    slack: float = 0.0
    price: float | None = None
    free_head: bool = True
    relaxation: float = 0.0


def residual_layers(network: nn.Module) -> list[ResidualGroupConv2d]:
    """The layers of a network that have a residual, in order."""
    return [m for m in network.modules() if isinstance(m, ResidualGroupConv2d)]


def residual_prior(network: nn.Module, settings: ResidualSettings) -> Tensor:
    """Minus the logarithm of the prior of w and v in layers that are not normalised, up to a constant."""
    terms = []
    for layer in residual_layers(network):
        if layer.gammas is not None:
            continue
        for own in (layer.weights, layer.biases):
            if own is not None:
                w, v = own.parts()
                terms += [settings.equivariant_decay * w.square().sum(), settings.residual_decay * v.square().sum()]
    return torch.stack(terms).sum()


class DualAscent:
    r"""Gradient descent in every :math:`\gamma`, and ascent in its price :math:`\lambda` if there are prices.

    The Lagrangian is the loss plus, for every part of every layer, :math:`\lambda s + s^2`, where s is
    :math:`\gamma` itself, or :math:`|\gamma|` less what it may have, which only counts while it is positive.
    Left to themselves and without slack, all :math:`\gamma` go to 0 as critically damped things do: they pass it once,
    by a seventh of where they began, and with rate 10 a two-thousandth is left at the end.

    Parameters
    ----------
    gammas : sequence of Parameter
        Those of each layer.
    settings : ResidualSettings
    n_steps : int
        Of the training.
    """

    def __init__(self, gammas: Sequence[nn.Parameter], settings: ResidualSettings, n_steps: int) -> None:
        self.gammas, self.settings = list(gammas), settings
        self.rate = min(settings.rate / n_steps, _GREATEST_STEP)
        self.prices = [torch.zeros_like(p) for p in self.gammas]
        self.slacks = [torch.full_like(p, settings.slack) for p in self.gammas]
        self._one_sided = settings.slack > 0 or settings.price is not None

    @torch.no_grad()
    def step(self) -> None:
        """One step of all of them, given the gradients of the loss."""
        for p, price, slack in zip(self.gammas, self.prices, self.slacks, strict=True):
            if not self.settings.constrained:  # the prior's own part of the step is implicit, however strong it is
                p.sub_(torch.zeros_like(p) if p.grad is None else p.grad, alpha=self.rate)
                p.div_(1 + 2 * self.rate * self.settings.residual_decay)
                continue
            violation = p.abs() - slack if self._one_sided else p.clone()
            sign = p.sign() if self._one_sided else torch.ones_like(p)
            excess = violation.clamp_min(0.0) if self._one_sided else violation
            grad = sign * (price + 2 * excess)
            if p.grad is not None:
                grad += p.grad
            own = self.settings.price
            if own is not None:
                slack.add_(price + 2 * excess - 2 * own * slack, alpha=self.rate).clamp_min_(0.0)
            price.add_(violation, alpha=self.rate)
            if self._one_sided:
                price.clamp_min_(0.0)
            p.sub_(grad, alpha=self.rate)

    def state_dict(self) -> dict[str, list[Tensor]]:
        """Prices and slacks."""
        return {"prices": self.prices, "slacks": self.slacks}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Go on from there."""
        for name, own in (("prices", self.prices), ("slacks", self.slacks)):
            for mine, kept in zip(own, state[name], strict=True):
                mine.copy_(kept)
