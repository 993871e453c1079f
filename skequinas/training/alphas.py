"""Steps of the logits of mixed layers, and what they share with steps of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from skequinas.training.data import DataPart, EndlessBatches
from skequinas.training.objective import Objective
from skequinas.training.optimizer import AdamW
from skequinas.training.settings import PRECISIONS, TrainingSettings

__all__ = ["AlphaStep", "autocast", "forget", "penalised"]


def penalised(loss: Tensor, network: nn.Module, objective: Objective) -> Tensor:
    """A loss with the penalty of the objective, if it has one."""
    return loss if objective.penalty is None else loss + objective.penalty(network)


def autocast(data: DataPart, settings: TrainingSettings) -> torch.autocast:
    """The precision of the settings, as a context."""
    reduced = settings.precision != "float32"
    return torch.autocast(data.images.device.type, PRECISIONS[settings.precision], enabled=reduced)


def forget(parameters: list[nn.Parameter]) -> None:
    """What ``zero_grad`` of an optimiser does, which imports torch's compiler, and that of a network slowly."""
    for p in parameters:
        p.grad = None


class AlphaStep:
    """One step of the logits of mixed layers, on their own data. Weights and running statistics stay as they are.

    Parameters
    ----------
    network : Module
    alphas : list of Parameter
        The logits.
    data : DataPart
    settings : TrainingSettings
    seed : int
        The mini-batches follow from it.
    """

    def __init__(
        self, network: nn.Module, alphas: list[nn.Parameter], data: DataPart, settings: TrainingSettings, seed: int
    ) -> None:
        self.network, self.alphas, self.data, self.settings = network, alphas, data, settings
        self.forward: Callable[[Tensor], Tensor] = network
        self.norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.batches = EndlessBatches(data, settings.batch_size, seed)
        self.optimizer = AdamW(alphas, settings.alpha_learning_rate, weight_decay=0.0)  # which is Adam
        self.generator = torch.Generator().manual_seed(seed) if settings.alphas == "permuted" else None

    def __call__(self) -> None:
        """Make it."""
        momenta = [m.momentum for m in self.norms]
        for m in self.norms:
            m.momentum = 0.0
        batch = next(self.batches)
        with autocast(self.data, self.settings):
            loss = penalised(batch.loss(self.forward, self.data.objective), self.network, self.data.objective)
            if self.settings.alpha_entropy:
                shares = [torch.special.entr(p.softmax(0)).sum() for p in self.alphas]
                loss = loss + self.settings.alpha_entropy * torch.stack(shares).mean()
        for m, momentum in zip(self.norms, momenta, strict=True):
            m.momentum = momentum
        forget(self.alphas)
        loss.backward(inputs=self.alphas)
        if self.generator is not None:
            for p in self.alphas:
                assert p.grad is not None
                p.grad = p.grad[torch.randperm(len(p), generator=self.generator).to(p.device)]
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Where batches, optimiser and generator stand."""
        generator = None if self.generator is None else self.generator.get_state()
        return {"batches": self.batches.state_dict(), "optimizer": self.optimizer.state_dict(), "generator": generator}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.batches.load_state_dict(state["batches"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.generator is not None:
            self.generator.set_state(state["generator"])
