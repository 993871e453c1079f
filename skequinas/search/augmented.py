"""A search over what images may be moved by: the probabilities of moves are learned with an ordinary network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

from skequinas.groups import Subgroup, pixel_elements
from skequinas.nn.architecture import Architecture
from skequinas.nn.networks import inherit
from skequinas.search.base import Search
from skequinas.search.checks import check_moves_instead
from skequinas.search.evaluation import Evaluation, Proposal

__all__ = ["LearnedAugmentation"]

_KEPT = 0.5
"""Of the greatest probability, what a move needs to belong to the support."""

_LEAST = 0.1
"""The least reward, in losses of images as they are."""


class LearnedAugmentation(Search):
    r"""Learn by which elements of the group training images may be moved.

    An ordinary network is trained on images that are moved at random, in rounds. After each it is asked about held-out
    images under every element of the group. For the losses :math:`L_g`, as they are then, the probabilities with the
    least :math:`\sum_g p_g L_g - r H(p)`, where r is the reward for the width of p (its entropy H), are

    .. math:: p_g \propto \exp(-L_g / r),

    and with these the next round goes on. In the first the identity has half of the probability, and all elements share
    the other half. The support, elements with at least half of the greatest probability, names the group: the largest
    subgroup in it. The model is an ordinary network that is trained on images moved by that subgroup, whose outputs are
    averaged over it (but with ``augment="group"``). ``search_results_`` has losses and probabilities of all rounds.

    Nothing is proven of the data, and a network that has learned nothing names the whole group, as no move changes what
    it does not know. Elements that are seen more often get lower losses, so the rounds strengthen what the first ones
    found.

    Parameters
    ----------
    n_rounds : int, default=4
    reward : float, default=4.0
        r in standard errors of the difference of two losses: an element whose loss is higher by :math:`\log 2` times as
        many falls out of the support. It is a tenth of the loss at least, so that what is rare does no harm.
    epochs_per_round : float or None, default=None
        None is a full training divided by the number of rounds.

    References
    ----------
    Benton, Finzi, Izmailov and Wilson, Learning Invariances in Neural Networks from Training Data, NeurIPS 2020, learns
    the extents of moves by gradients, on training images; here there are finitely many, for which the best
    probabilities have a formula, and held-out images are asked.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_rounds": [Interval(Integral, 1, None, closed="left")],
        "reward": [Interval(Real, 0, None, closed="neither")],
        "epochs_per_round": [Interval(Real, 0, None, closed="neither"), None],
    }

    def __init__(self, n_rounds: int = 4, reward: float = 4.0, epochs_per_round: float | None = None) -> None:
        self.n_rounds = n_rounds
        self.reward = reward
        self.epochs_per_round = epochs_per_round

    def check_start(self, architecture: Architecture) -> None:
        """Refuse an architecture that is constrained to anything but the whole group."""
        super().check_start(architecture)
        check_moves_instead(architecture, "augmentation")

    @property
    def _round(self) -> float:
        """The length of a round, in epochs."""
        return self.epochs_ / self.n_rounds if self.epochs_per_round is None else self.epochs_per_round

    def cost(self) -> float:
        """About how long the search takes, in full trainings of a constrained network."""
        return 2 * (self.n_rounds + 1) * self._round / self.epochs_

    def n_passes(self) -> int:
        """About how often all validation images go through a network, the evidence apart."""
        k = len(pixel_elements(self.architecture_.group))
        return (self.n_rounds + 1) * (1 + k) + k

    def propose(self) -> list[Proposal]:
        """The network for another round, and in the end for one with what was learned."""
        if self.generation_ > self.n_rounds:
            return []
        parent, group = self.population_[0] if self.population_ else None, self.architecture_.group
        architecture, moves = self.architecture_.ordinary(), self.probabilities_
        if self.generation_ == self.n_rounds:
            h = self.supported_
            architecture = self.architecture_.ordinary(averaged=h if h.order > 1 else None)
            moves = {group.element_name(g): (g in h) / h.order for g in pixel_elements(group)}
        proposal = self.proposal(architecture, self._round, self.training_, parent)
        return [replace(proposal, moves=tuple(moves.values()))]

    @property
    def probabilities_(self) -> dict[str, float]:
        """That of every element, by name, as the last round left them."""
        group = self.architecture_.group
        names = [group.element_name(g) for g in pixel_elements(group)]
        rounds = [record for record in self.records_ if record["generation"] < self.n_rounds]
        losses = np.array([rounds[-1][f"loss {name}"] for name in names]) if rounds else np.array([np.nan])
        if not np.isfinite(losses).all():  # before the first round, or where it diverged
            return {name: 0.5 / len(names) + 0.5 * (name == names[0]) for name in names}
        reward = max(self.reward * rounds[-1]["loss_error"], _LEAST * abs(losses[0]), 1e-12)
        return dict(zip(names, probabilities(losses, reward).tolist(), strict=True))

    @property
    def supported_(self) -> Subgroup:
        """The largest subgroup whose elements all have at least half of the greatest probability."""
        group, known = self.architecture_.group, self.probabilities_
        most = max(known.values())
        support = {g for g in pixel_elements(group) if g == 0 or known[group.element_name(g)] >= _KEPT * most}
        held = [h for h in group.subgroups if set(h.elements) <= support]
        return max(held, key=lambda h: (h.order, sum(known[group.element_name(g)] for g in h.elements)))

    @property
    def constrained(self) -> Evaluation | None:
        """The last network; where the search ended before the last round, averaged over what is known by then."""
        last = super().constrained
        if last is None or self.generation_ > self.n_rounds or not self.generation_ or self.supported_.order == 1:
            return last
        architecture = self.architecture_.ordinary(averaged=self.supported_)
        own = replace(last.proposal, architecture=architecture)
        return replace(last, proposal=own, network=inherit(last.network, architecture))


def probabilities(losses: Sequence[float] | NDArray[np.float64], reward: float) -> NDArray[np.float64]:
    r"""Those with the least :math:`\sum_g p_g L_g - r H(p)`.

    Examples
    --------
    >>> import numpy as np
    >>> from skequinas.search.augmented import probabilities
    >>> probabilities([0.2, 0.2 + 0.1 * np.log(3)], reward=0.1).round(3)
    array([0.75, 0.25])
    """
    weights = np.exp(-(np.asarray(losses) - np.min(losses)) / reward)
    found: NDArray[np.float64] = weights / weights.sum()
    return found
