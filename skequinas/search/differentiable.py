"""EquiNAS_D: differentiable search with mixed layers."""

from __future__ import annotations

from dataclasses import replace

import torch

from skequinas.groups import Subgroup
from skequinas.layers import MixedGroupConv2d
from skequinas.networks import Architecture
from skequinas.search.base import Evaluation, Search
from skequinas.training import TrainingSettings

__all__ = ["DifferentiableSearch"]


class DifferentiableSearch(Search):
    """EquiNAS_D: learn in every layer how much each subgroup contributes, then tighten as far as the data allow.

    In the first stage every layer mixes kernels constrained to all subgroups of the group, in shares
    softmax(alpha). Weights are trained on the training part and alphas on the validation part, in alternating steps.
    In the second stage the learned mixture is turned into constraints, for each subgroup H of the group: a layer gets the largest
    subgroup containing H that at least half of its mixture obeys, its kernel is projected, and the network is trained for
    a little longer. The most symmetric one that is not worse than the best beyond the tolerance is the result.

    Parameters
    ----------
    mixture_epochs : float or None, default=None
        Length of the first stage; None is that of a full training.
    epochs_per_generation : float or None, default=None
        Length of the training after tightening; None is an eighth of a full training.
    learning_rate : float or None, default=None
        For the weights of the mixture (Adam); None is a third of that of a full training.
    alpha_learning_rate : float, default=0.01
        For the alphas (Adam).
    alpha_interval : int, default=4
        Steps of the weights for each step of the alphas. With 4, an epoch passes about once over the validation part.
    discretize : bool, default=True
        False makes the learned mixture itself the result, as in the paper.
    tolerance : float, default=1.0
        The most symmetric candidate within so many standard errors of the best is chosen.

    References
    ----------
    Maile, Wilson and Forré, Equivariance-aware Architectural Optimization of Neural Networks, ICLR 2023. Its
    settings are ``DifferentiableSearch(mixture_epochs=50, learning_rate=1e-3, alpha_learning_rate=1e-3, alpha_interval=1,
    discretize=False)``.
    """

    def __init__(
        self,
        mixture_epochs: float | None = None,
        *,
        epochs_per_generation: float | None = None,
        learning_rate: float | None = None,
        alpha_learning_rate: float = 0.01,
        alpha_interval: int = 4,
        discretize: bool = True,
        tolerance: float = 1.0,
    ) -> None:
        self.mixture_epochs = mixture_epochs
        self.epochs_per_generation = epochs_per_generation
        self.learning_rate = learning_rate
        self.alpha_learning_rate = alpha_learning_rate
        self.alpha_interval = alpha_interval
        self.discretize = discretize
        self.tolerance = tolerance

    def _propose(self) -> list[tuple[int | None, Architecture, float, TrainingSettings]]:
        rate = self.training_.learning_rate / 3 if self.learning_rate is None else self.learning_rate
        training = replace(self.training_, learning_rate=rate)
        if self.generation_ == 0:
            mixed = self.architecture_.with_constraints((self.architecture_.group.subgroups,) * self.architecture_.n_layers)
            training = replace(
                training,
                schedule="constant",
                weight_decay=0.0,
                alpha_learning_rate=self.alpha_learning_rate,
                alpha_interval=self.alpha_interval,
            )
            return [(None, mixed, self.epochs_ if self.mixture_epochs is None else self.mixture_epochs, training)]
        if self.generation_ > 1 or not self.discretize or not self.population_:
            return []
        epochs = self.epochs_ / 8 if self.epochs_per_generation is None else self.epochs_per_generation
        mixture = self.population_[0]
        return [
            (mixture.proposal.number, self._tightened(mixture, h), epochs, training)
            for h in self.architecture_.group.subgroups
        ]

    def _tightened(self, mixture: Evaluation, symmetry: Subgroup) -> Architecture:
        """Constraints with the given intersection, each as large as a majority of the layer's mixture."""
        constraints: list[Subgroup] = []
        for layer in mixture.network.convolutions[:-1]:
            assert isinstance(layer, MixedGroupConv2d)
            shares = layer.shares().tolist()

            def support(k: Subgroup, layer: MixedGroupConv2d = layer, shares: list[float] = shares) -> float:
                return sum(share for h, share in zip(layer.constraints, shares, strict=True) if k <= h)

            larger = [k for k in layer.constraints if symmetry <= k and support(k) >= 0.5]
            constraints.append(max(larger, key=lambda k: (k.order, support(k)), default=symmetry))
        return self.architecture_.with_constraints((*constraints, symmetry))
