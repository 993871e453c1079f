"""How to train, as plain values."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch

from skequinas.training.invariance import InvarianceSettings
from skequinas.training.residuals import ResidualSettings

__all__ = ["PRECISIONS", "TrainingSettings", "halved", "remedy", "warn_of_memory"]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Parameters
    ----------
    learning_rate : float
        The rate, or the highest rate of the one-cycle schedule.
    optimizer : {"muon", "adamw", "sgd"}
        "muon" turns the kernels of equivariant convolutions, see `skequinas.training.optimizer.Muon`, by six times
        ``learning_rate`` of their norm, and trains all else by AdamW.
    schedule : {"one_cycle", "constant"}
        "one_cycle" rises for a quarter of the steps and falls to nearly zero with a cosine.
    batch_size : int
        Images in a mini-batch; the batches of an epoch differ in size by one at most.
    weight_decay : float
        The decoupled weight decay of AdamW, or that of SGD. Kernels that Muon turns have none.
    alpha_learning_rate : float
        The rate of Adam for the logits of mixed layers.
    alpha_interval : int
        Steps of the weights between two steps of the logits.
    alphas : {"learned", "permuted", "drawn"}
        What becomes of those logits. "permuted" shuffles the gradients of each layer's among them, "drawn"
        leaves the logits as they are: the controls for what is learned.
    alpha_entropy : float
        What is added to the loss of those logits for each unit of the mean entropy of a layer's shares.
    precision : {"float32", "bfloat16"}
        "bfloat16" computes convolutions in that type; weights, statistics and losses are float32.
    label_smoothing : float
        The share of each target that is spread evenly over all classes in training, where the objective has classes.
    momentum : float
        That of "sgd", Nesterov's unless it is 0. Muon and AdamW have their own.
    residuals : ResidualSettings or None
        How the residuals of layers that have any are held in check.
    invariance : InvarianceSettings or None
        What is added to the loss for how the network changes when images are moved.
    """

    learning_rate: float = 1e-2
    optimizer: str = "adamw"
    schedule: str = "one_cycle"
    batch_size: int = 64
    weight_decay: float = 1e-2
    alpha_learning_rate: float = 1e-2
    alpha_interval: int = 1
    alphas: str = "learned"
    alpha_entropy: float = 0.0
    precision: str = "float32"
    label_smoothing: float = 0.0
    momentum: float = 0.9
    residuals: ResidualSettings | None = None
    invariance: InvarianceSettings | None = None

    def __post_init__(self) -> None:
        kinds: dict[str, type] = {"residuals": ResidualSettings, "invariance": InvarianceSettings}
        for name, kind in kinds.items():
            own = getattr(self, name)
            if isinstance(own, dict):  # as files have them
                object.__setattr__(self, name, kind(**own))


def remedy(settings: TrainingSettings) -> str:
    """What to change after a training that diverged."""
    if settings.weight_decay > 1 and settings.learning_rate * settings.weight_decay > 1:  # it more than undoes weights
        return f"Reduce weight_decay={settings.weight_decay:g}: times learning_rate it must stay well below 1."
    return f"Reduce learning_rate={settings.learning_rate:g}, or scale X and y."


def halved(settings: TrainingSettings) -> TrainingSettings:
    """With mini-batches of half the size, for which memory may suffice."""
    return replace(settings, batch_size=max(2, settings.batch_size // 2))


def warn_of_memory(asked: TrainingSettings, what: str) -> None:
    """Say that something is done with mini-batches of half the size."""
    warnings.warn(
        f"Memory did not suffice for mini-batches of {asked.batch_size} images: {what} with "
        f"{halved(asked).batch_size}. Reduce batch_size, n_jobs or width.",
        stacklevel=3,
    )
