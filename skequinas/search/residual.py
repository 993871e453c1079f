"""Searches whose first network is nearly symmetric: its kernels have a residual that is held in check."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar

from sklearn.utils._param_validation import Interval, StrOptions

from skequinas.nn.architecture import Architecture
from skequinas.search.baselines import NoSearch
from skequinas.search.evaluation import Proposal
from skequinas.search.tightening import TighteningSearch
from skequinas.training import TrainingSettings
from skequinas.training.curve import GREATEST_SHARE
from skequinas.training.residuals import ResidualSettings

__all__ = ["AdaptiveSearch", "ConstraintRelaxation", "ResidualPathway"]

_POSITIVE = Interval(Real, 0, None, closed="neither")
_NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
_COMMON: dict[str, list[Any]] = {
    "relaxed_epochs": [_POSITIVE, None],
    "epochs_per_generation": [_POSITIVE, None],
    "optimizer": [StrOptions({"muon", "adamw", "sgd"}), None],
    "learning_rate": [_POSITIVE, None],
    "discretize": ["boolean"],
    "tolerance": [_NOT_NEGATIVE],
    "level": [Interval(Real, 0.001, 0.5, closed="both")],
    "criterion": [StrOptions({"evidence", "cost"})],
    "margin": [Interval(Real, 0, None, closed="neither")],
}


class _RelaxedSearch(TighteningSearch):
    """What the two with residuals have in common: the first network."""

    relaxed_epochs: float | None
    optimizer: str | None

    @property
    @abstractmethod
    def mixing(self) -> str:
        """Which kind of residual the layers have, see `Architecture`."""

    @property
    def first_epochs(self) -> float | None:
        """The length of the first stage, if it is set."""
        return self.relaxed_epochs

    @property
    def _by_curve(self) -> bool:
        return False  # a training in parts would begin with its prices anew

    @property
    def _first_share(self) -> float:
        as_by_curve = self.by_curve_ and self.relaxed_epochs is None and not self.keeps_network
        return GREATEST_SHARE if as_by_curve else 1.0

    @abstractmethod
    def residual_settings(self) -> ResidualSettings:
        """How residuals are held in check."""

    def first(self, training: TrainingSettings, epochs: float) -> Proposal:
        """The network with a residual in every layer."""
        group = self.architecture_.group
        soft = replace(self.softened((group.whole, group.trivial)), mixing=self.mixing)
        optimizer = training.optimizer if self.optimizer is None else self.optimizer
        training = replace(training, optimizer=optimizer, residuals=self.residual_settings())
        return replace(self.proposal(soft, epochs, training), alpha_data="training")


class AdaptiveSearch(_RelaxedSearch):
    r"""Approximately equivariant networks by constrained optimisation (ACE), and what they say of the data.

    In the first stage every kernel is one that is equivariant to the whole group, and a residual that breaks it, in
    parts of relative norm :math:`\gamma` that keep a subgroup each, see `skequinas.nn.ResidualGroupConv2d`. Weights go
    down the loss; in every layer but the head the :math:`\gamma` go down the Lagrangian, while their prices go up for
    as long as they are not 0: training begins free and ends symmetric. The head stays free, so that the network can
    tell what the data break.

    In the second stage the network is tightened to the largest symmetry that the data do not reject, in up to three
    ways, and trained on, as in `DifferentiableSearch`.

    Parameters
    ----------
    relaxed_epochs : float or None, default=None
        Length of the first stage; None is that of a full training, or half of it where that is the greatest length
        (without ``max_epochs``) and the network is not kept.
    rate : float, default=10.0
        Of descent and ascent, over the whole first stage: how many times :math:`\gamma` could fall to 1/e.
    slack : float, default=0.0
        How large :math:`|\gamma|` may be at no price. With 0 the constraint is that it is 0, and prices have any sign.
    price : float or None, default=None
        With a number the constraint is resilient: each :math:`\gamma` learns a slack of its own, whose square has this
        price.
    optimizer : {"muon", "adamw", "sgd"} or None, default=None
        For the weights of the first stage; None is that of a full training.
    learning_rate : float or None, default=None
        For the weights; None is that of a full training.
    epochs_per_generation : float or None, default=None
        Length of the training after tightening; None is a quarter of a full training.
    discretize : bool, default=True
        False makes the network of the first stage itself the model, its head constrained as its other layers.
    tolerance, level : float
    criterion : {"evidence", "cost"}, default="evidence"
    margin : float, default=0.01
        As in `DifferentiableSearch`.

    References
    ----------
    Manolache, Chamon and Niepert, Learning (Approximately) Equivariant Networks via Constrained Optimization, NeurIPS
    2025, where a layer has one :math:`\gamma`, which optimisers of their own train, and not one for each part.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = _COMMON | {
        "rate": [_POSITIVE],
        "slack": [_NOT_NEGATIVE],
        "price": [_POSITIVE, None],
    }

    def __init__(
        self,
        relaxed_epochs: float | None = None,
        *,
        rate: float = 10.0,
        slack: float = 0.0,
        price: float | None = None,
        optimizer: str | None = None,
        learning_rate: float | None = None,
        epochs_per_generation: float | None = None,
        discretize: bool = True,
        tolerance: float = 1.0,
        level: float = 0.01,
        criterion: str = "evidence",
        margin: float = 0.01,
    ) -> None:
        self.relaxed_epochs = relaxed_epochs
        self.rate = rate
        self.slack = slack
        self.price = price
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.epochs_per_generation = epochs_per_generation
        self.discretize = discretize
        self.tolerance = tolerance
        self.level = level
        self.criterion = criterion
        self.margin = margin

    @property
    def mixing(self) -> str:
        """Residuals whose norms are parameters."""
        return "residual"

    def residual_settings(self) -> ResidualSettings:
        """A price for every part."""
        return ResidualSettings(rate=self.rate, slack=self.slack, price=self.price, free_head=self.discretize)


class ResidualPathway(_RelaxedSearch):
    r"""Residual Pathway Priors (RPP), and what the network says of the data.

    In the first stage every kernel is an equivariant one and a residual with a Gaussian prior about 0: the network is
    as symmetric as the data let it be at little cost. Batch norm takes from a kernel its norm, and with it all that
    priors of weights could mean but for how fast they are learned; so here the prior is one of :math:`\gamma`, the norm
    of each part of the residual relative to the equivariant kernel. In the second stage it is tightened to the largest
    symmetry that the data do not reject, in up to three ways, and trained on, as in `DifferentiableSearch`.

    Parameters
    ----------
    relaxed_epochs : float or None, default=None
        Length of the first stage; None is that of a full training, or half of it where that is the greatest length
        (without ``max_epochs``) and the network is not kept.
    residual_decay : float, default=0.1
        What the square of each :math:`\gamma` adds to the loss.
    normalised : bool, default=True
        False gives w and v priors, as was published: ``normalised=False, equivariant_decay=1e-4, residual_decay=1e-2,
        optimizer="sgd"``. With Muon, which leaves the norms of kernels as they are, it would be no use.
    equivariant_decay : float, default=1e-4
        What the square of each weight of the equivariant kernels adds to the loss, if nothing is normalised.
    rate : float, default=10.0
        Of descent in :math:`\gamma`, over the whole first stage.
    optimizer : {"muon", "adamw", "sgd"} or None, default=None
        For the weights of the first stage; None is that of a full training, or AdamW where nothing is normalised.
    learning_rate : float or None, default=None
        For the weights; None is that of a full training.
    epochs_per_generation : float or None, default=None
        Length of the training after tightening; None is a quarter of a full training.
    discretize : bool, default=True
        False makes the network of the first stage itself the model, as in the paper.
    tolerance, level : float
    criterion : {"evidence", "cost"}, default="evidence"
    margin : float, default=0.01
        As in `DifferentiableSearch`.

    References
    ----------
    Finzi, Benton and Wilson, Residual Pathway Priors for Soft Equivariance Constraints, NeurIPS 2021.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = _COMMON | {
        "equivariant_decay": [_NOT_NEGATIVE],
        "residual_decay": [_NOT_NEGATIVE],
        "normalised": ["boolean"],
        "rate": [_POSITIVE],
    }

    def __init__(
        self,
        relaxed_epochs: float | None = None,
        *,
        residual_decay: float = 0.1,
        normalised: bool = True,
        equivariant_decay: float = 1e-4,
        rate: float = 10.0,
        optimizer: str | None = None,
        learning_rate: float | None = None,
        epochs_per_generation: float | None = None,
        discretize: bool = True,
        tolerance: float = 1.0,
        level: float = 0.01,
        criterion: str = "evidence",
        margin: float = 0.01,
    ) -> None:
        self.relaxed_epochs = relaxed_epochs
        self.residual_decay = residual_decay
        self.normalised = normalised
        self.equivariant_decay = equivariant_decay
        self.rate = rate
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.epochs_per_generation = epochs_per_generation
        self.discretize = discretize
        self.tolerance = tolerance
        self.level = level
        self.criterion = criterion
        self.margin = margin

    def residual_settings(self) -> ResidualSettings:
        """A prior, of relative norms or of weights."""
        if not self.normalised:
            return ResidualSettings(self.equivariant_decay, self.residual_decay)
        return ResidualSettings(
            residual_decay=self.residual_decay, rate=self.rate, constrained=False, free_head=self.discretize
        )

    @property
    def mixing(self) -> str:
        """Which kind of residual the layers have."""
        return "residual" if self.normalised else "pathway"

    def first(self, training: TrainingSettings, epochs: float) -> Proposal:
        """The network with a residual in every layer."""
        if not self.normalised:  # no other decay than that of the priors
            training = replace(training, weight_decay=0.0)
        if not self.normalised and self.optimizer is None and training.optimizer == "muon":
            training = replace(training, optimizer="adamw")
        return super().first(training, epochs)

    def check_start(self, architecture: Architecture) -> None:
        """Refuse what cannot work beside what `TighteningSearch` refuses: Muon and priors of weights."""
        super().check_start(architecture)
        if not self.normalised and self.optimizer == "muon":
            raise ValueError(
                "optimizer='muon' leaves the norms of kernels as they are, so that priors of weights (normalised=False)"
                " mean nothing. Use optimizer='adamw' or 'sgd', or normalised=True."
            )


class ConstraintRelaxation(NoSearch):
    """No search: the architecture as it is, whose training is relaxed.

    In the course of the training every constrained kernel has a residual without constraints, whose norm, relative to
    the kernel's, rises to ``height`` by the middle and falls to 0 again. The model ends constrained as it began.
    The published form lets the residual grow as it likes and penalises its size and its derivative along the group;
    here its norm is given, which leaves nothing to penalise.

    Parameters
    ----------
    height : float, default=0.1
        The greatest relative norm.

    References
    ----------
    Pertigkiozoglou, Chatzipantazis, Trivedi and Daniilidis, Improving Equivariant Model Training via Constraint
    Relaxation, NeurIPS 2024.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {"height": [_POSITIVE]}

    def __init__(self, height: float = 0.1) -> None:
        self.height = height

    def check_start(self, architecture: Architecture) -> None:
        """Refuse layers with several subgroups, whose training is not relaxed."""
        several = [c for c in architecture.constraints if isinstance(c, tuple)]
        if several:
            raise ValueError(
                f"architecture has layers with several subgroups ({architecture}), and search='relaxation' relaxes "
                "those with one. Use search='none'."
            )

    def final_settings(self, training: TrainingSettings) -> TrainingSettings:
        """With the relaxation."""
        return replace(training, residuals=ResidualSettings(relaxation=self.height))
