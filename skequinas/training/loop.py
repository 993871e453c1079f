"""One training loop for everything: fixed networks, the candidates of a search, mixed networks, the final fit."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skequinas.io.checkpoints import Keeper
from skequinas.runtime.parallel import apart, processes
from skequinas.training.alphas import AlphaStep, autocast, forget, penalised
from skequinas.training.augmentation import Mover
from skequinas.training.data import DataPart, EndlessBatches, batches_per_epoch, mean_with_error, n_steps
from skequinas.training.evaluation import evaluate
from skequinas.training.invariance import InvariancePenalty
from skequinas.training.optimizer import SGD, AdamW, Muon
from skequinas.training.recording import Recorded, recorded
from skequinas.training.relaxation import Relaxation
from skequinas.training.residuals import DualAscent, ResidualSettings, residual_layers, residual_prior
from skequinas.training.settings import TrainingSettings, remedy

__all__ = ["DivergenceError", "refresh_statistics", "train"]

_KERNEL_RATE = 6.0
"""Muon's rate, which is relative to the norm of a kernel, over that of AdamW."""


class DivergenceError(ArithmeticError):
    """The training loss became NaN or infinite."""


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
    augmentation: Mover | None = None,
    on_step: Callable[[], bool | None] | None = None,
    on_epoch: Callable[[dict[str, float]], bool | None] | None = None,
    keeper: Keeper | None = None,
    log: list[dict[str, float]] | None = None,
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
    augmentation : Mover, optional
        From the inputs of a mini-batch to those that the network is trained on.
    on_step : callable, optional
        Called after each step; when it returns True, the training ends there.
    on_epoch : callable, optional
        Called with the row of each epoch; when it returns True, the training ends there.
    keeper : Keeper, optional
        Keeps the training while it goes on. A training that it knows goes on where it was, and nothing is called again
        for what was done before.
    log : list, optional
        Where the rows of the epochs are put, as each is over; a new list by default.

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
    together = processes() if invariance is None else None
    trained = weights if ascent is None else [*weights, *ascent.gammas]
    batches = EndlessBatches(data, settings.batch_size, seed)
    alpha_step = None
    if alphas and alpha_data is not None and settings.alphas != "drawn":
        # of the same data other mini-batches
        alpha_step = AlphaStep(network, alphas, alpha_data, settings, seed + (alpha_data is data))

    best = _Best(network)
    now = _Progress(torch.zeros((), device=data.images.device), [] if log is None else log)
    everything = {
        "network": network, "optimizer": optimizer, "schedule": schedule, "batches": batches, "best": best,
        "progress": now, "logits": alpha_step, "prices": ascent, "invariance": invariance, "moves": augmentation,
    }  # fmt: skip
    parts = {name: part for name, part in everything.items() if part is not None}
    if keeper is not None:
        _go_on(parts, keeper)
    network.train()
    started = time.perf_counter() - now.seconds
    stopped = False  # by a callback, whose answer is not kept
    # the network ends with its best weights, also when the loop is interrupted
    with relaxed, best, recorded(network, data.images.device, last - now.step, trained) as forward:
        if isinstance(forward, Recorded):
            if isinstance(optimizer, Muon):
                optimizer.record()
            if alpha_step is not None:
                alpha_step.forward = forward.beside(alphas)
        while not now.over:
            if not network.training:  # it was evaluated
                network.train()
            now.step += 1
            constrained = relaxed.step(now.step)
            batch = next(batches)
            if augmentation is not None:
                batch = batch._replace(inputs=augmentation(batch.inputs))
            n_rows = len(batch.inputs)
            shared = together if together is not None and n_rows >= together.n else None
            if shared is not None:
                batch = batch.rows(shared.own(n_rows))
            with autocast(data, settings), apart(shared):
                if invariance is None:
                    mean = batch.loss(forward, data.objective, settings.label_smoothing)
                else:
                    mean = invariance.loss(forward, batch, data.objective, settings.label_smoothing)
                loss = penalised(mean, network, data.objective)
                if prior is not None:
                    loss = loss + residual_prior(network, prior)
                if shared is not None:  # they sum to the mean, and once to what does not depend on data
                    loss = shared.share(n_rows) * mean + (loss - mean) / shared.n
            forget(trained)
            loss.backward(inputs=trained)
            if shared is not None:
                shared.add([p.grad for p in trained])
            optimizer.step()
            if ascent is not None:
                ascent.step()
            schedule.step()
            now.epoch_loss += loss.detach() if shared is None else shared.total(loss)
            del mean, loss  # while their graph lives nothing else can be recorded: it is of another stream
            now.in_epoch += 1
            if alpha_step is not None and now.step % settings.alpha_interval == 0:
                alpha_step()
            stop = on_step is not None and bool(on_step())
            if now.step % per_epoch == 0 or now.step == last or stop:
                row = now.row(per_epoch)
                if not np.isfinite(row["loss"]):
                    raise DivergenceError(
                        f"The training loss became {row['loss']} in epoch {row['epoch']:.3g}. {remedy(settings)}"
                    )
                if validation is not None:
                    losses, errors = evaluate(network, validation)
                    importance = validation.sample_weights()
                    row |= {
                        "validation_loss": mean_with_error(losses, importance)[0],
                        "validation_error": mean_with_error(errors, importance)[0],
                    }
                    if constrained:
                        now.waited = 0 if best.update(row["validation_loss"]) else now.waited + 1
                now.log.append(row | {"seconds": time.perf_counter() - started})
                stopped = on_epoch is not None and bool(on_epoch(now.log[-1]))
                impatient = patience is not None and now.waited >= patience
                now.over = stopped or stop or impatient or now.step >= last
            if keeper is not None and not stop and not stopped:
                now.seconds = time.perf_counter() - started
                keeper.step()
        if keeper is not None and not stopped:
            keeper.end()
    if isinstance(optimizer, Muon):
        optimizer.forget()
    if relaxed.was_cut:
        refresh_statistics(network, data, settings.batch_size, seed=seed, augmentation=augmentation)
    with torch.inference_mode():
        sample = network.eval()(data.batch(torch.arange(min(len(data), 16), device=data.images.device))[0])
    if not bool(sample.isfinite().all()):
        raise DivergenceError(f"The outputs of the trained network are NaN or infinite. {remedy(settings)}")
    return now.log


@torch.no_grad()
def refresh_statistics(
    network: nn.Module,
    data: DataPart,
    batch_size: int = 64,
    *,
    seed: int = 0,
    n_batches: int = 16,
    augmentation: Mover | None = None,
) -> None:
    """Give all batch norms the statistics of data, as where kernels were projected and the old ones are of no use.

    They are those of so many mini-batches at most, each counted alike, moved as those of the training were.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta, training = [m.momentum for m in norms], network.training
    network.train()
    batches = EndlessBatches(data, batch_size, seed)
    for number in range(1, 1 + min(n_batches, batches_per_epoch(len(data), batch_size))):
        for m in norms:
            m.momentum = 1 / number
        inputs = next(batches).inputs
        network(inputs if augmentation is None else augmentation(inputs))
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
    network.train(training)


def _ascent(network: nn.Module, settings: ResidualSettings | None, n_steps: int) -> DualAscent | None:
    """What trains the norms of residuals, if there are any to train."""
    if settings is None or not settings.rate:
        return None
    layers = residual_layers(network)
    if settings.free_head:
        layers = [layer for layer in layers if layer.regular_out]
    gammas = [layer.gammas for layer in layers if layer.gammas is not None and len(layer.gammas)]
    return DualAscent(gammas, settings, n_steps) if gammas else None


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


def _go_on(parts: dict[str, Any], keeper: Keeper) -> None:
    """Let the parts of a training go on from where they were kept, if they were, and be kept from now on."""
    known = keeper.part("training", lambda: {name: part.state_dict() for name, part in parts.items()})
    for name, part in parts.items() if known is not None else ():
        part.load_state_dict(known[name])


class _Progress:
    """Where a training stands: its steps, the rows of its epochs, and what of the next row is known."""

    def __init__(self, epoch_loss: Tensor, log: list[dict[str, float]]) -> None:
        self.step, self.in_epoch, self.waited, self.seconds, self.over = 0, 0, 0, 0.0, False
        self.epoch_loss, self.log = epoch_loss, log

    def row(self, per_epoch: int) -> dict[str, float]:
        """The row of an epoch that is over; the next one begins."""
        row = {"epoch": self.step / per_epoch, "loss": float(self.epoch_loss) / self.in_epoch}
        self.epoch_loss.zero_()
        self.in_epoch = 0
        return row

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return vars(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.log[:] = state["log"]
        vars(self).update(state | {"epoch_loss": self.epoch_loss.copy_(state["epoch_loss"]), "log": self.log})


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

    def state_dict(self) -> dict[str, Any]:
        """The lowest loss and the weights that had it."""
        return {"loss": self.loss, "state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.loss, self.state = state["loss"], state["state"]
