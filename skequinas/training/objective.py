"""What a network is trained for, and what counts in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CLASSIFICATION", "REGRESSION", "Objective"]


@dataclass(frozen=True)
class Objective:
    """What a network is trained for: a differentiable loss, and the error that counts, of every sample.

    An estimator takes its own from the class attribute ``objective``; a subclass may set another. Functions of a module
    can travel to other processes (``n_jobs``), lambdas cannot.

    Parameters
    ----------
    loss : callable
        From outputs (n, n_outputs) and targets to the loss of every sample, (n,).
    error : callable
        The same for the error, from which validation scores are computed.
    is_likelihood : bool
        Whether the loss is minus the logarithm of a probability of the target.
    penalty : callable, optional
        A regulariser: from the network to a number that is added to the loss of every mini-batch in training. Evidence
        and validation do not see it.
    smoothed : callable, optional
        The loss that is trained on where labels are smoothed: from outputs, targets and the share of the target that is
        spread evenly over all classes. Evidence and validation do not see it either.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    error: Callable[[Tensor, Tensor], Tensor]
    is_likelihood: bool
    penalty: Callable[[nn.Module], Tensor] | None = None
    smoothed: Callable[[Tensor, Tensor, float], Tensor] | None = None


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def _smoothed_cross_entropy(outputs: Tensor, targets: Tensor, share: float) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=share)


def _misclassified(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) != targets).to(outputs.dtype)


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets, reduction="none").mean(1)


CLASSIFICATION = Objective(_cross_entropy, _misclassified, is_likelihood=True, smoothed=_smoothed_cross_entropy)
REGRESSION = Objective(_squared_error, _squared_error, is_likelihood=False)
