"""What a search tries and what became of it: proposals, evaluations, and the choice between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from skequinas.evidence.verdict import Evidence
from skequinas.groups import Subgroup, pixel_elements
from skequinas.nn.architecture import Architecture
from skequinas.nn.networks import EquivariantNetwork, network_from_state
from skequinas.training import TrainingSettings, mean_with_error

__all__ = ["Evaluation", "Proposal", "choose", "clearly_better"]


@dataclass(frozen=True)
class Proposal:
    """An architecture to train and evaluate.

    Parameters
    ----------
    number : int
        Counts the proposals of a search from 0.
    parent : int or None
        The number of the evaluation whose network it inherits the weights from.
    generation : int
    architecture : Architecture
    epochs : float
        How long to train it.
    training : TrainingSettings
    seed : int
        For the mini-batches, the same for all proposals of a generation, and for the weights where there is no parent.
    probe : bool, default=False
        Whether to gather the evidence for and against every subgroup from it.
    by_curve : bool, default=False
        Whether ``epochs`` is the greatest length of a final training, and the held-out error decides how long the
        search's trainings are.
    toward : Subgroup or None, default=None
        To which subgroup relaxing its layers is to be tested, after the training, if it survives.
    ordinary : bool, default=False
        Whether it is the second way to a symmetry: no constraints, images moved at random, outputs averaged.
    again : bool, default=False
        Whether it is the chosen network, trained anew as the ordinary one of the second way, to be compared with it.
    favour : float, default=2.0
        How far the first logit of a mixed layer starts above the others.
    alpha_data : {"validation", "training"}, default="validation"
        Which part of the data the logits of mixed layers are trained on.
    moves : tuple of float or None, default=None
        The probabilities of the elements that map pixels to pixels, by which images are moved in the training; held-out
        ones are then evaluated under each.
    """

    number: int
    parent: int | None
    generation: int
    architecture: Architecture
    epochs: float
    training: TrainingSettings
    seed: int
    probe: bool = False
    by_curve: bool = False
    toward: Subgroup | None = None
    ordinary: bool = False
    again: bool = False
    favour: float = 2.0
    alpha_data: str = "validation"
    moves: tuple[float, ...] | None = None

    @property
    def like_the_model(self) -> bool:
        """Whether it is trained on images that are moved as those of the final training will be."""
        return self.ordinary or self.again

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        toward = None if self.toward is None else self.toward.name
        own = {"architecture": self.architecture.to_dict(), "training": asdict(self.training), "toward": toward}
        return {**vars(self), **own}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        architecture, toward = Architecture.from_dict(values["architecture"]), values["toward"]
        own = {
            "architecture": architecture,
            "training": TrainingSettings(**values["training"]),
            "toward": None if toward is None else architecture.group.subgroup(toward),
            "moves": None if values.get("moves") is None else tuple(values["moves"]),
        }
        return cls(**values | own)


@dataclass(eq=False)
class Evaluation:
    """A trained proposal, with the loss and the error of every validation sample, and the evidence if it is a probe.

    ``calls`` are the p-values of "relaxing this layer gains nothing", by the layer's number, once they are known;
    ``share_history`` holds the shares of mixed layers in the course of the training. The samples may have weights, and
    units of those that are not independent of each other. ``change`` is by how much of their variation outputs change
    when images are moved, in the mean, where the training is told to make that small. ``moved_losses`` are the mean
    losses under every element, where the proposal has probabilities of moves, and ``moved_error`` is the standard error
    of their differences from the first.
    """

    proposal: Proposal
    network: EquivariantNetwork
    losses: NDArray[np.float64]
    errors: NDArray[np.float64]
    seconds: float
    evidence: dict[str, Evidence] | None = None
    weights: NDArray[np.float64] | None = None
    calls: dict[int, float] | None = None
    share_history: dict[str, dict[str, list[float]]] | None = None
    units: NDArray[np.int64] | None = None
    change: float = float("nan")
    moved_losses: tuple[float, ...] | None = None
    moved_error: float = 0.0

    @property
    def architecture(self) -> Architecture:
        """The architecture that was proposed."""
        return self.proposal.architecture

    @property
    def diverged(self) -> bool:
        """Whether the training failed with a loss that is not finite."""
        return not np.isfinite(self.losses).all()

    @property
    def error(self) -> float:
        """The mean validation error."""
        return mean_with_error(self.errors, self.weights)[0]

    @property
    def loss(self) -> float:
        """The mean validation loss."""
        return mean_with_error(self.losses, self.weights)[0]

    def record(self) -> dict[str, Any]:
        """One row of ``search_results_``."""
        error, standard_error = mean_with_error(self.errors, self.weights, self.units)
        invariance = self.proposal.training.invariance
        own = {} if invariance is None else {"penalty": invariance.weight, "change": self.change}
        row = {
            "candidate": self.proposal.number,
            "parent": -1 if self.proposal.parent is None else self.proposal.parent,
            "generation": self.proposal.generation,
            "constraints": str(self.architecture),
            "symmetry": self.architecture.symmetry.name,
            "n_parameters": self.architecture.n_parameters,
            "n_plain_parameters": self.architecture.n_plain_parameters,
            "epochs": self.proposal.epochs,
            "validation_score": 1.0 - error,
            "validation_score_standard_error": standard_error,
            "validation_loss": self.loss,
            "seconds": self.seconds,
        }
        return row | own | self._moves()

    def _moves(self) -> dict[str, float]:
        """The probabilities of moves, and the losses under them."""
        group = self.architecture.group
        names = [group.element_name(g) for g in pixel_elements(group)]
        losses = self.moved_losses or (float("nan"),) * len(names)
        found: dict[str, float] = {}
        for name, probability, loss in zip(names, self.proposal.moves or (), losses, strict=False):
            found |= {f"probability {name}": probability, f"loss {name}": loss}
        return found | ({"loss_error": self.moved_error} if found else {})

    def to_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Plain values and tensors; evidence and the history of shares stand in the search."""
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        own = {"losses": self.losses, "errors": self.errors, "weights": self.weights, "units": self.units}
        tensors |= {name: torch.from_numpy(value) for name, value in own.items() if value is not None}
        calls = None if self.calls is None else list(self.calls.items())
        own_values: dict[str, Any] = {"seconds": self.seconds, "calls": calls, "change": self.change}
        own_values |= {"moved_losses": self.moved_losses, "moved_error": self.moved_error}
        return self.proposal.to_dict() | own_values, tensors

    @classmethod
    def from_state(cls, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Self:
        """The inverse of `to_state`."""
        values = dict(values)
        seconds, calls, change = values.pop("seconds"), values.pop("calls"), values.pop("change", float("nan"))
        moved_losses, moved_error = values.pop("moved_losses", None), values.pop("moved_error", 0.0)
        proposal = Proposal.from_dict(values)
        weights = {k.removeprefix("network/"): v for k, v in tensors.items() if k.startswith("network/")}
        return cls(
            proposal,
            network_from_state(proposal.architecture, weights),
            tensors["losses"].numpy(),
            tensors["errors"].numpy(),
            seconds,
            weights=tensors["weights"].numpy() if "weights" in tensors else None,
            units=tensors["units"].numpy() if "units" in tensors else None,
            calls=None if calls is None else {int(layer): p_value for layer, p_value in calls},
            change=change,
            moved_losses=None if moved_losses is None else tuple(moved_losses),
            moved_error=moved_error,
        )


def clearly_better(one: Evaluation, other: Evaluation, tolerance: float = 1.0) -> bool:
    """Whether the loss of one is lower than that of another by more than ``tolerance`` standard errors."""
    if one.diverged or other.diverged:
        return other.diverged and not one.diverged
    difference, standard_error = mean_with_error(other.losses - one.losses, one.weights, one.units)
    return difference > tolerance * standard_error


def choose(evaluations: Sequence[Evaluation], tolerance: float = 1.0, by: str = "losses") -> Evaluation:
    """The most symmetric candidate that is not worse than the best beyond doubt.

    A candidate qualifies when its validation loss exceeds the lowest one by at most ``tolerance`` standard errors of
    the difference, which is taken sample by sample (all candidates saw the same validation samples, so most of the
    noise cancels). Among those the largest symmetry group wins, then the fewest parameters, then the loss. The loss is
    compared, not the error, since it tells more about a few hundred samples; unless ``by="errors"``.
    """
    sound = [e for e in evaluations if not e.diverged]
    best = min(sound, key=lambda e: (e.error, e.loss) if by == "errors" else (e.loss,))

    def qualifies(e: Evaluation) -> bool:
        differences = getattr(e, by) - getattr(best, by)
        difference, standard_error = mean_with_error(differences, e.weights, e.units)
        return difference <= tolerance * standard_error

    return min(
        (e for e in sound if qualifies(e)),
        key=lambda e: (-e.architecture.symmetry.order, e.architecture.n_parameters, e.loss),
    )
