"""One training loop for everything: fixed networks, the candidates of a search, mixed networks, the final fit."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skequinas.training.data import DataPart, batches_per_epoch, endless_batches, mean_with_error, n_steps
from skequinas.training.evaluation import evaluate
from skequinas.training.invariance import InvariancePenalty, InvarianceSettings
from skequinas.training.objective import Objective
from skequinas.training.optimizer import SGD, AdamW, Muon
from skequinas.training.recording import Recorded, recorded
from skequinas.training.relaxation import Relaxation
from skequinas.training.residuals import DualAscent, ResidualSettings, residual_layers, residual_prior

__all__ = ["PRECISIONS", "DivergenceError", "TrainingSettings", "refresh_statistics", "train"]

_KERNEL_RATE = 6.0
"""Muon's rate, which is relative to the norm of a kernel, over that of AdamW."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class DivergenceError(ArithmeticError):
    """The training loss became NaN or infinite."""


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


def train(
    network: nn.Module,
    data: DataPart,
    settings: TrainingSettings,
    epochs: float,
    *,
    seed: int,
    validation: DataPart | None = None,
    patience: int | None = None,
    alpha_data: DataPart | None = None,
    augmentation: Callable[[Tensor], Tensor] | None = None,
    on_step: Callable[[], bool | None] | None = None,
    on_epoch: Callable[[dict[str, float]], bool | None] | None = None,
) -> list[dict[str, float]]:
    """Train a network in place.

    Parameters
    ----------
    network : Module
    data : DataPart
        What the weights are trained on.
    settings : TrainingSettings
    epochs : float
        Passes over the data; a fraction is allowed, and at least one step is made.
    seed : int
        Fixes the order of the mini-batches.
    validation : DataPart, optional
        Evaluated after each epoch. The network ends with the weights of the best one.
    patience : int, optional
        Stop after so many epochs without a better validation loss.
    alpha_data : DataPart, optional
        For the logits of mixed layers, in steps of their own: held-out data, or ``data`` again, of which they get other
        mini-batches. Without it they stay as they are.
    augmentation : callable, optional
        From the inputs of a mini-batch to those that the network is trained on.
    on_step : callable, optional
        Called after each step; when it returns True, the training ends there.
    on_epoch : callable, optional
        Called with the row of each epoch; when it returns True, the training ends there.

    Returns
    -------
    list of dict
        A row for each epoch: the losses, the validation error where there is one, the seconds so far.

    Raises
    ------
    DivergenceError
        When the loss is no longer finite.
    """
    last = n_steps(len(data), epochs, settings.batch_size)
    relaxed = Relaxation(network, settings.residuals.relaxation if settings.residuals else 0.0, last, seed)
    parameters = dict(network.named_parameters())
    alphas = [p for name, p in parameters.items() if name.endswith("logits")]
    weights = [p for name, p in parameters.items() if not name.endswith(("logits", "gammas"))]
    optimizer = _optimizer(network, weights, settings)
    per_epoch = batches_per_epoch(len(data), settings.batch_size)
    schedule = _schedule(optimizer, settings, last)
    ascent = _ascent(network, settings.residuals, last)
    prior = settings.residuals if any(layer.gammas is None for layer in residual_layers(network)) else None
    invariance = None if settings.invariance is None else InvariancePenalty(settings.invariance, network, seed)
    trained = weights if ascent is None else [*weights, *ascent.gammas]
    batches = endless_batches(data, settings.batch_size, seed)
    if augmentation is not None:
        batches = (batch._replace(inputs=augmentation(batch.inputs)) for batch in batches)
    alpha_step = None
    if alphas and alpha_data is not None and settings.alphas != "drawn":
        # of the same data other mini-batches
        alpha_step = _AlphaStep(network, alphas, alpha_data, settings, seed + (alpha_data is data))

    log: list[dict[str, float]] = []
    best, waited = _Best(network), 0
    network.train()
    started, epoch_loss, in_epoch = time.perf_counter(), torch.zeros((), device=data.images.device), 0
    # the network ends with its best weights, also when the loop is interrupted
    with relaxed, best, recorded(network, data.images.device, last, trained) as forward:
        if isinstance(forward, Recorded):
            if isinstance(optimizer, Muon):
                optimizer.record()
            if alpha_step is not None:
                alpha_step.forward = forward.beside(alphas)
        for step in range(1, last + 1):
            if not network.training:  # it was evaluated
                network.train()
            constrained = relaxed.step(step)
            batch = next(batches)
            with _autocast(data, settings):
                if invariance is None:
                    mean = batch.loss(forward, data.objective, settings.label_smoothing)
                else:
                    mean = invariance.loss(forward, batch, data.objective, settings.label_smoothing)
                loss = _penalised(mean, network, data.objective)
                if prior is not None:
                    loss = loss + residual_prior(network, prior)
            _forget(trained)
            loss.backward(inputs=trained)
            optimizer.step()
            if ascent is not None:
                ascent.step()
            schedule.step()
            epoch_loss += loss.detach()
            del mean, loss  # while their graph lives nothing else can be recorded: it is of another stream
            in_epoch += 1
            if alpha_step is not None and step % settings.alpha_interval == 0:
                alpha_step()
            stop = on_step is not None and bool(on_step())
            if step % per_epoch and step < last and not stop:
                continue

            row = {"epoch": step / per_epoch, "loss": float(epoch_loss) / in_epoch}
            if not np.isfinite(row["loss"]):
                raise DivergenceError(
                    f"The training loss became {row['loss']} in epoch {row['epoch']:.3g}. {remedy(settings)}"
                )
            epoch_loss.zero_()
            in_epoch = 0
            if validation is not None:
                losses, errors = evaluate(network, validation)
                importance = validation.sample_weights()
                row |= {
                    "validation_loss": mean_with_error(losses, importance)[0],
                    "validation_error": mean_with_error(errors, importance)[0],
                }
                if constrained:
                    waited = 0 if best.update(row["validation_loss"]) else waited + 1
            log.append(row | {"seconds": time.perf_counter() - started})
            asked = on_epoch is not None and bool(on_epoch(log[-1]))
            if asked or stop or (patience is not None and waited >= patience):
                break
    if isinstance(optimizer, Muon):
        optimizer.forget()
    if relaxed.was_cut:
        refresh_statistics(network, data, settings.batch_size, seed=seed, augmentation=augmentation)
    with torch.inference_mode():
        sample = network.eval()(data.batch(torch.arange(min(len(data), 16), device=data.images.device))[0])
    if not bool(sample.isfinite().all()):
        raise DivergenceError(f"The outputs of the trained network are NaN or infinite. {remedy(settings)}")
    return log


@torch.no_grad()
def refresh_statistics(
    network: nn.Module,
    data: DataPart,
    batch_size: int = 64,
    *,
    seed: int = 0,
    n_batches: int = 16,
    augmentation: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Give all batch norms the statistics of data, as where kernels were projected and the old ones are of no use.

    They are those of so many mini-batches at most, each counted alike, moved as those of the training were.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta, training = [m.momentum for m in norms], network.training
    network.train()
    batches = endless_batches(data, batch_size, seed)
    for number in range(1, 1 + min(n_batches, batches_per_epoch(len(data), batch_size))):
        for m in norms:
            m.momentum = 1 / number
        inputs = next(batches).inputs
        network(inputs if augmentation is None else augmentation(inputs))
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
    network.train(training)


def _penalised(loss: Tensor, network: nn.Module, objective: Objective) -> Tensor:
    return loss if objective.penalty is None else loss + objective.penalty(network)


def _ascent(network: nn.Module, settings: ResidualSettings | None, n_steps: int) -> DualAscent | None:
    """What trains the norms of residuals, if there are any to train."""
    if settings is None or not settings.rate:
        return None
    layers = residual_layers(network)
    if settings.free_head:
        layers = [layer for layer in layers if layer.regular_out]
    gammas = [layer.gammas for layer in layers if layer.gammas is not None and len(layer.gammas)]
    return DualAscent(gammas, settings, n_steps) if gammas else None


def _autocast(data: DataPart, settings: TrainingSettings) -> torch.autocast:
    reduced = settings.precision != "float32"
    return torch.autocast(data.images.device.type, PRECISIONS[settings.precision], enabled=reduced)


def _forget(parameters: list[nn.Parameter]) -> None:
    """What ``zero_grad`` of an optimiser does, which imports torch's compiler, and that of a network slowly."""
    for p in parameters:
        p.grad = None


def _optimizer(network: nn.Module, weights: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "muon":
        rate = settings.learning_rate
        return Muon(network, rate, _KERNEL_RATE * rate, weight_decay=settings.weight_decay, parameters=weights)
    if settings.optimizer == "sgd":
        own: dict[str, Any] = {"momentum": settings.momentum, "nesterov": settings.momentum > 0}
        return SGD(weights, settings.learning_rate, weight_decay=settings.weight_decay, **own)
    return AdamW(weights, settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def _schedule(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, n_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    def one_cycle(step: int) -> float:
        rise = 0.25 * n_steps
        if step < rise:
            return 0.05 + 0.95 * step / rise
        return 0.5 * (1 + float(np.cos(np.pi * (step - rise) / (n_steps - rise))))

    factor = one_cycle if settings.schedule == "one_cycle" else lambda step: 1.0
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def remedy(settings: TrainingSettings) -> str:
    """What to change after a training that diverged."""
    if settings.weight_decay > 1 and settings.learning_rate * settings.weight_decay > 1:  # it more than undoes weights
        return f"Reduce weight_decay={settings.weight_decay:g}: times learning_rate it must stay well below 1."
    return f"Reduce learning_rate={settings.learning_rate:g}, or scale X and y."


class _AlphaStep:
    """One step of the logits of mixed layers, on their own data. Weights and running statistics stay as they are."""

    def __init__(
        self, network: nn.Module, alphas: list[nn.Parameter], data: DataPart, settings: TrainingSettings, seed: int
    ) -> None:
        self.network, self.alphas, self.data, self.settings = network, alphas, data, settings
        self.forward: Callable[[Tensor], Tensor] = network
        self.norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.batches = endless_batches(data, settings.batch_size, seed)
        self.optimizer = AdamW(alphas, settings.alpha_learning_rate, weight_decay=0.0)  # which is Adam
        self.generator = torch.Generator().manual_seed(seed) if settings.alphas == "permuted" else None

    def __call__(self) -> None:
        momenta = [m.momentum for m in self.norms]
        for m in self.norms:
            m.momentum = 0.0
        batch = next(self.batches)
        with _autocast(self.data, self.settings):
            loss = _penalised(batch.loss(self.forward, self.data.objective), self.network, self.data.objective)
            if self.settings.alpha_entropy:
                shares = [torch.special.entr(p.softmax(0)).sum() for p in self.alphas]
                loss = loss + self.settings.alpha_entropy * torch.stack(shares).mean()
        for m, momentum in zip(self.norms, momenta, strict=True):
            m.momentum = momentum
        _forget(self.alphas)
        loss.backward(inputs=self.alphas)
        if self.generator is not None:
            for p in self.alphas:
                assert p.grad is not None
                p.grad = p.grad[torch.randperm(len(p), generator=self.generator).to(p.device)]
        self.optimizer.step()


class _Best:
    """The weights with the lowest validation loss so far, which the network has again when the context ends."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.loss = network, np.inf
        self.state: dict[str, Any] | None = None

    def update(self, loss: float) -> bool:
        """Whether this is the best loss so far; its weights are kept."""
        better = loss < self.loss
        if better:
            self.loss, self.state = loss, copy.deepcopy(self.network.state_dict())
        return better

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self.state is not None:
            self.network.load_state_dict(self.state)
