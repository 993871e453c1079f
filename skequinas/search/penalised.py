"""A search over how much a network is to change when images are moved: one without constraints, penalised for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from skequinas.groups import pixel_elements
from skequinas.nn.architecture import Architecture
from skequinas.search.base import Search
from skequinas.search.checks import check_moves_instead
from skequinas.search.evaluation import Evaluation, Proposal, clearly_better
from skequinas.training import TrainingSettings
from skequinas.training.invariance import INVARIANCES, InvarianceSettings

__all__ = ["PenalisedSearch"]


class PenalisedSearch(Search):
    """Ordinary networks that are trained to be invariant, by penalties of several weights.

    No layer is constrained; each mini-batch is seen a second time, moved by a random element of the group, and what
    changes is added to the loss. The result is the network that changes least of those whose held-out loss is within
    the tolerance of the best, and the model is trained with its penalty. ``search_results_`` has the error of each
    weight, and the change of outputs in the mean over the group. Nothing is proven of the data, and the model has no
    exact symmetry: ``learned_symmetry_`` is C1.

    Parameters
    ----------
    weights : sequence of float, default=(0.0, 0.1, 1.0, 10.0)
        The weights to try. With 0 it is an ordinary training.
    kind : {"outputs", "labels", "latent"}, default="outputs"
        What is added: the squared change of the outputs; the loss of the moved images with their own targets, which is
        augmentation (REMUL); or how far the maps before the head are from those that an equivariant network would have,
        relative to their size (parameter-free latent). Then the head is constrained to the whole group.
    adapted : bool, default=False
        Whether the weights of the loss and the penalty follow the norms of their gradients (GradNorm), beginning with
        these; their sum stays.
    epochs_per_weight : float or None, default=None
        Length of each training; None is half of a full one.
    tolerance : float, default=1.0
        The network that changes least within so many standard errors of the best is chosen.

    References
    ----------
    Elhag, Rusch, Di Giovanni and Bronstein, Relaxed Equivariance via Multitask Learning, 2024; Ali, Lio and Vicary,
    Parameter-free approximate equivariance for tasks with finite group symmetry, 2025; Chen, Badrinarayanan, Lee and
    Rabinovich, GradNorm, ICML 2018.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "weights": ["array-like"],
        "kind": [StrOptions(set(INVARIANCES))],
        "adapted": ["boolean"],
        "epochs_per_weight": [Interval(Real, 0, None, closed="neither"), None],
        "tolerance": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        weights: Sequence[float] = (0.0, 0.1, 1.0, 10.0),
        *,
        kind: str = "outputs",
        adapted: bool = False,
        epochs_per_weight: float | None = None,
        tolerance: float = 1.0,
    ) -> None:
        self.weights = weights
        self.kind = kind
        self.adapted = adapted
        self.epochs_per_weight = epochs_per_weight
        self.tolerance = tolerance

    def check_start(self, architecture: Architecture) -> None:
        """Refuse weights that are none, and an architecture that is constrained to anything but the whole group."""
        super().check_start(architecture)
        try:
            weights = np.asarray(self.weights, dtype=float)
        except (TypeError, ValueError):
            weights = np.array(np.nan)
        if weights.ndim != 1 or not len(weights) or not np.isfinite(weights).all() or weights.min() < 0:
            raise ValueError(f"weights={self.weights!r} must be a list of numbers from 0 on, with at least one.")
        check_moves_instead(architecture, "penalised")

    def cost(self) -> float:
        """About how long the search takes, in full trainings of a constrained network."""
        length = self.epochs_ / 2 if self.epochs_per_weight is None else self.epochs_per_weight
        return 2 * length * len(self.weights) / self.epochs_  # each image is seen twice

    def n_passes(self) -> int:
        """About how often all validation images go through a network, the evidence apart."""
        return (1 + len(pixel_elements(self.architecture_.group))) * len(self.weights)

    def propose(self) -> list[Proposal]:
        """A network for each weight."""
        if self.generation_:
            return []
        start = self.architecture_
        hidden = (start.group.trivial,) * (start.n_layers - 1)
        head = start.constraints[-1] if self.kind == "latent" else start.group.trivial
        free = start.with_constraints((*hidden, head))
        epochs = self.epochs_ / 2 if self.epochs_per_weight is None else self.epochs_per_weight
        return [self.proposal(free, epochs, self._penalised(self.training_, float(w))) for w in self.weights]

    def _penalised(self, training: TrainingSettings, weight: float) -> TrainingSettings:
        own = InvarianceSettings(self.architecture_.group.name, weight, self.kind, self.adapted)
        return replace(training, invariance=own)

    @property
    def constrained(self) -> Evaluation | None:
        """The candidate that changes least within the tolerance of the best."""
        candidates = self.population_ or [e for e in self.pending_ if not e.diverged]
        best = min(candidates, key=lambda e: e.loss, default=None)
        if best is None:
            return None
        near = [e for e in candidates if not clearly_better(best, e, self.tolerance)]
        return min(near, key=lambda e: (np.isnan(e.change), e.change))  # it is not known after an interruption

    def final_settings(self, training: TrainingSettings) -> TrainingSettings:
        """With the penalty that was chosen."""
        chosen = self.constrained
        invariance = None if chosen is None else chosen.proposal.training.invariance
        return replace(training, invariance=invariance)
