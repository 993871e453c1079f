"""EquiNAS_D: differentiable search with mixed layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar

from sklearn.utils._param_validation import Interval, StrOptions

from skequinas.groups import PointGroup, Subgroup
from skequinas.search.evaluation import Proposal
from skequinas.search.tightening import TighteningSearch
from skequinas.training import TrainingSettings

__all__ = ["DifferentiableSearch"]


class DifferentiableSearch(TighteningSearch):
    """EquiNAS_D: learn in every layer how much each subgroup contributes, then tighten as far as the data allow.

    In the first stage every layer mixes kernels constrained to all subgroups of the group, in shares
    softmax(alpha). Weights and alphas are trained in alternating steps, on different mini-batches of the training
    part.

    In the second stage (not in the paper) the learned mixture is turned into constraints. What it says of the
    validation part, moved, tells which symmetries the data reject, see `skequinas.evidence.orbit`; the function is to
    have the largest H that is not. The layers are constrained in up to three ways: all to G but for the head; each
    to the largest subgroup containing H that at least half of its mixture obeys; all to H. Their kernels are projected,
    the networks are trained for a little longer, and the most symmetric one within the tolerance of the best is the
    result.

    Parameters
    ----------
    subgroups : {"all", "chain"} or sequence of str, default="all"
        What the mixed layers mix. "chain" takes one way down the lattice, rotations first, such as D8, C8, C4, C2, C1;
        names pick subgroups, to which the whole group and C1 are added. Large groups have many subgroups: D16 has 36.
        The evidence, and the verdict, are about all of them whatever is mixed.
    mixture_epochs : float or None, default=None
        Length of the first stage; None is that of a full training, or at most half of one where the curve of held-out
        errors tells how long it pays (without ``max_epochs``, unless the mixture is the model).
    epochs_per_generation : float or None, default=None
        Length of the training after tightening; None is a quarter of a full training.
    optimizer : {"muon", "adamw", "sgd"} or None, default=None
        For the weights of the mixture; None is that of a full training.
    learning_rate : float or None, default=None
        For the weights; None is that of a full training.
    schedule : {"one_cycle", "constant"}, default="one_cycle"
        For the weights of the mixture.
    alpha_learning_rate : float, default=0.01
        For the alphas (Adam).
    alpha_interval : int, default=4
        Steps of the weights for each step of the alphas.
    alpha_data : {"training", "validation"}, default="training"
        What the alphas are trained on: other mini-batches of the training part, as was published; or a third of the
        validation part, which the weights do not know by heart, and which then is no evidence.
    favour : float, default=2.0
        How far the alpha of the whole group starts above the others. With 0 all shares are equal at the start, as was
        published.
    skip : bool, default=False
        Whether layers mix in what goes into them as well, where as many fields come out, or a multiple, and pixels are
        the basis. When a mixture is tightened, that share goes into the constrained kernel.
    alphas : {"learned", "permuted", "drawn"}, default="learned"
        The controls of the paper: with "permuted" the gradients of a layer's alphas are shuffled among them, "drawn"
        takes alphas from the normal distribution and leaves them as they are.
    entropy : float, default=0.0
        What the mean entropy of a layer's shares adds to the loss of its alphas: with more of it shares are clearer.
    discretize : bool, default=True
        False makes the learned mixture itself the result, as in the paper.
    tolerance : float, default=1.0
        The most symmetric candidate within so many standard errors of the best is chosen.
    level : float, default=0.01
        The greatest probability of giving up a symmetry that images and targets together have, if the images are
        independent of each other: one is rejected when its p-value is at most this, from 0.001 to 0.5. Where costs
        decide, the greatest probability of imposing what costs the margin or more.
    criterion : {"evidence", "cost"}, default="evidence"
        What decides on a symmetry. By "evidence" the largest one is imposed that the data do not reject. By "cost" it
        is the largest that was shown to cost less than the margin, in held-out score: images that all stand upright
        do not look the same when they are mirrored, and a network may be made to treat them so all the same.
    margin : float, default=0.01
        With ``criterion="cost"``: the accuracy, or the share of the targets' variance, that a symmetry may cost. Where
        one class is much more common than others accuracy tells little of these.

    References
    ----------
    Maile, Wilson and Forré, Equivariance-aware Architectural Optimization of Neural Networks, ICLR 2023. Its
    settings, with ``label_smoothing=0`` in the estimator and a free head in its architecture, are
    ``DifferentiableSearch(mixture_epochs=50, optimizer="adamw", learning_rate=1e-3, schedule="constant",
    alpha_learning_rate=1e-3, alpha_interval=1, alpha_data="training", favour=0, discretize=False)``.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "subgroups": [StrOptions({"all", "chain"}), "array-like"],
        "mixture_epochs": [Interval(Real, 0, None, closed="neither"), None],
        "epochs_per_generation": [Interval(Real, 0, None, closed="neither"), None],
        "optimizer": [StrOptions({"muon", "adamw", "sgd"}), None],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), None],
        "schedule": [StrOptions({"one_cycle", "constant"})],
        "alpha_learning_rate": [Interval(Real, 0, None, closed="neither")],
        "alpha_interval": [Interval(Integral, 1, None, closed="left")],
        "alpha_data": [StrOptions({"training", "validation"})],
        "favour": [Interval(Real, None, None, closed="neither")],
        "skip": ["boolean"],
        "alphas": [StrOptions({"learned", "permuted", "drawn"})],
        "entropy": [Interval(Real, 0, None, closed="left")],
        "discretize": ["boolean"],
        "tolerance": [Interval(Real, 0, None, closed="left")],
        "level": [Interval(Real, 0.001, 0.5, closed="both")],
        "criterion": [StrOptions({"evidence", "cost"})],
        "margin": [Interval(Real, 0, None, closed="neither")],
    }

    optimizer: str | None = None  # searches that were pickled before there were these have none
    alpha_data: str = "training"
    favour: float = 2.0
    skip: bool = False
    alphas: str = "learned"
    entropy: float = 0.0

    def __init__(
        self,
        mixture_epochs: float | None = None,
        *,
        subgroups: str | Sequence[str] = "all",
        epochs_per_generation: float | None = None,
        optimizer: str | None = None,
        learning_rate: float | None = None,
        schedule: str = "one_cycle",
        alpha_learning_rate: float = 0.01,
        alpha_interval: int = 4,
        alpha_data: str = "training",
        favour: float = 2.0,
        skip: bool = False,
        alphas: str = "learned",
        entropy: float = 0.0,
        discretize: bool = True,
        tolerance: float = 1.0,
        level: float = 0.01,
        criterion: str = "evidence",
        margin: float = 0.01,
    ) -> None:
        self.mixture_epochs = mixture_epochs
        self.subgroups = subgroups
        self.epochs_per_generation = epochs_per_generation
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.alpha_learning_rate = alpha_learning_rate
        self.alpha_interval = alpha_interval
        self.alpha_data = alpha_data
        self.favour = favour
        self.skip = skip
        self.alphas = alphas
        self.entropy = entropy
        self.discretize = discretize
        self.tolerance = tolerance
        self.level = level
        self.criterion = criterion
        self.margin = margin

    @property
    def first_epochs(self) -> float | None:
        """The length of the first stage, if it is set."""
        return self.mixture_epochs

    @property
    def first_cost(self) -> float:
        """Of a step of the mixture, in those of a constrained network."""
        # a step of the alphas takes about as long as one of the weights
        return self.mixed_cost_ * (1 + (self.alphas != "drawn") / self.alpha_interval)

    def first(self, training: TrainingSettings, epochs: float) -> Proposal:
        """The mixture."""
        start, group = self.architecture_, self.architecture_.group
        mixed = replace(self.softened(self._mixed(group)), skips=self.skip or start.skips)
        training = replace(
            training,
            optimizer=training.optimizer if self.optimizer is None else self.optimizer,
            schedule=self.schedule,
            weight_decay=0.0,  # the norms of a mixture's weights are fixed
            alpha_learning_rate=self.alpha_learning_rate,
            alpha_interval=self.alpha_interval,
            alphas=self.alphas,
            alpha_entropy=self.entropy,
        )
        return replace(self.proposal(mixed, epochs, training), favour=self.favour, alpha_data=self.alpha_data)

    def _mixed(self, group: PointGroup) -> tuple[Subgroup, ...]:
        """The subgroups to mix, the whole group first and C1 last."""
        if self.subgroups == "all":
            return group.subgroups
        if self.subgroups == "chain":
            chain = [group.whole]
            while chain[-1].order > 1:
                chain.append(max(chain[-1].maximal_subgroups, key=lambda h: (h.order, h.n_rotations)))
            return tuple(chain)
        chosen = {group.subgroup(name) for name in self.subgroups} | {group.whole, group.trivial}
        return tuple(h for h in group.subgroups if h in chosen)
