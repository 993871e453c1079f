"""One training loop for everything: fixed networks, the candidates of a search, mixed networks, the final fit."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from skequinas.networks import EquivariantNetwork

__all__ = [
    "Batch",
    "DataPart",
    "DivergenceError",
    "Objective",
    "TrainingSettings",
    "evaluate",
    "frozen",
    "mean_with_error",
    "n_steps",
    "resolve_device",
    "train",
]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

EVALUATION_BATCH = 128
"""Images at once where nothing is trained: on a CPU more are slower, since their maps leave the cache."""


class DivergenceError(ArithmeticError):
    """The training loss became NaN or infinite."""


@dataclass(frozen=True)
class Objective:
    """What a network is trained for: a differentiable loss, and the error that counts, of every sample.

    The loss may be minus the logarithm of a probability.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    error: Callable[[Tensor, Tensor], Tensor]
    is_likelihood: bool


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def _misclassified(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) != targets).to(outputs.dtype)


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets, reduction="none").mean(1)


CLASSIFICATION = Objective(_cross_entropy, _misclassified, is_likelihood=True)
REGRESSION = Objective(_squared_error, _squared_error, is_likelihood=False)


class Batch(NamedTuple):
    """Inputs of a network with their targets, and their weights where they differ."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None = None

    def loss(self, network: nn.Module, objective: Objective) -> Tensor:
        """The mean loss, weighted by the samples' weights, whose mean over all data is 1."""
        outputs = network(self.inputs)
        if outputs.dtype == torch.bfloat16:
            outputs = outputs.float()
        losses = objective.loss(outputs, self.targets)
        return losses.mean() if self.weights is None else (losses * self.weights).mean()


@dataclass(frozen=True)
class DataPart:
    """Images and targets on the device, raw as they came, and how a batch of them becomes an input.

    The sample weights, if any, are positive, with mean 1 over all data.
    """

    images: Tensor
    targets: Tensor
    preprocess: nn.Module
    objective: Objective
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor) -> Batch:
        """Inputs, targets and weights of some rows."""
        weights = None if self.weights is None else self.weights[rows]
        return Batch(self.preprocess(self.images[rows]), self.targets[rows], weights)

    def subset(self, rows: NDArray[np.int64]) -> DataPart:
        """The part that holds these rows."""
        index = torch.from_numpy(rows).to(self.images.device)
        weights = None if self.weights is None else self.weights[index]
        return DataPart(self.images[index], self.targets[index], self.preprocess, self.objective, weights)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as arrays, which joblib hands to other processes without a copy for each."""
        arrays = (None if t is None else t.numpy(force=True) for t in (self.images, self.targets, self.weights))
        return _unpickled, (*arrays, self.preprocess, self.objective)

    def sample_weights(self) -> NDArray[np.float64] | None:
        """The weights as numpy takes them."""
        return None if self.weights is None else self.weights.double().cpu().numpy()


def _unpickled(
    images: NDArray[Any],
    targets: NDArray[Any],
    weights: NDArray[Any] | None,
    preprocess: nn.Module,
    objective: Objective,
) -> DataPart:
    sample_weights = None if weights is None else torch.from_numpy(weights)
    return DataPart(torch.from_numpy(images), torch.from_numpy(targets), preprocess, objective, sample_weights)


def mean_with_error(values: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> tuple[float, float]:
    """The mean, weighted if need be, and its standard error."""
    if weights is None:
        mean = float(values.mean())
        return mean, float(values.std() / np.sqrt(len(values))) if np.isfinite(mean) else np.nan
    mean = float(np.average(values, weights=weights))
    if not np.isfinite(mean):
        return mean, np.nan
    return mean, float(np.sqrt((weights**2 * (values - mean) ** 2).sum()) / weights.sum())


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Parameters
    ----------
    learning_rate : float
        The rate, or the highest rate of the one-cycle schedule.
    optimizer : {"adamw", "sgd"}
        SGD has Nesterov momentum 0.9.
    schedule : {"one_cycle", "constant"}
        "one_cycle" rises for a quarter of the steps and falls to nearly zero with a cosine.
    batch_size : int
        Images in a mini-batch; the batches of an epoch differ in size by one at most.
    weight_decay : float
        The decoupled weight decay of AdamW, or that of SGD.
    alpha_learning_rate : float
        The rate of Adam for the logits of mixed layers.
    alpha_interval : int
        Steps of the weights between two steps of the logits.
    precision : {"float32", "bfloat16"}
        "bfloat16" computes convolutions in that type; weights, statistics and losses are float32.
    """

    learning_rate: float = 1e-2
    optimizer: str = "adamw"
    schedule: str = "one_cycle"
    batch_size: int = 64
    weight_decay: float = 1e-2
    alpha_learning_rate: float = 1e-2
    alpha_interval: int = 1
    precision: str = "float32"


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of that name, a CPU or CUDA one; "auto" is CUDA when it is available, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        if resolved.type not in ("cpu", "cuda"):
            raise NotImplementedError("only 'cpu' and 'cuda' devices are supported")
        torch.zeros(1, device=resolved).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device={device!r} is not available ({error}). Use 'auto' or 'cpu'.") from error
    return resolved


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
        Held-out data for the logits of mixed layers, in steps of their own. Without it they stay as they are.
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
    parameters = dict(network.named_parameters())
    alphas = [p for name, p in parameters.items() if name.endswith("logits")]
    weights = [p for name, p in parameters.items() if not name.endswith("logits")]
    optimizer = _optimizer(weights, settings)
    per_epoch = _batches_per_epoch(len(data), settings.batch_size)
    last = n_steps(len(data), epochs, settings.batch_size)
    schedule = _schedule(optimizer, settings, last)
    batches = _endless(data, settings.batch_size, seed)
    if augmentation is not None:
        batches = (batch._replace(inputs=augmentation(batch.inputs)) for batch in batches)
    alpha_step = None
    if alphas and alpha_data is not None:
        alpha_step = _AlphaStep(network, alphas, alpha_data, settings, seed)

    log: list[dict[str, float]] = []
    best, waited = _Best(network), 0
    started, epoch_loss, in_epoch = time.perf_counter(), torch.zeros((), device=data.images.device), 0
    with best:  # the network ends with its best weights, also when the loop is interrupted
        for step in range(1, last + 1):
            network.train()
            batch = next(batches)
            with _autocast(data, settings):
                loss = batch.loss(network, data.objective)
            optimizer.zero_grad()
            loss.backward(inputs=weights)
            optimizer.step()
            schedule.step()
            epoch_loss += loss.detach()
            in_epoch += 1
            if alpha_step is not None and step % settings.alpha_interval == 0:
                alpha_step()
            stop = on_step is not None and bool(on_step())
            if step % per_epoch and step < last and not stop:
                continue

            row = {"epoch": step / per_epoch, "loss": float(epoch_loss) / in_epoch}
            if not np.isfinite(row["loss"]):
                raise DivergenceError(
                    f"The training loss became {row['loss']} in epoch {row['epoch']:.3g}. {_remedy(settings)}"
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
                waited = 0 if best.update(row["validation_loss"]) else waited + 1
            log.append(row | {"seconds": time.perf_counter() - started})
            asked = on_epoch is not None and bool(on_epoch(log[-1]))
            if asked or stop or (patience is not None and waited >= patience):
                break
    with torch.inference_mode():
        sample = network.eval()(data.batch(torch.arange(min(len(data), 16), device=data.images.device))[0])
    if not bool(sample.isfinite().all()):
        raise DivergenceError(f"The outputs of the trained network are NaN or infinite. {_remedy(settings)}")
    return log


def evaluate(network: nn.Module, data: DataPart) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The loss and the error of every sample, in eval mode."""
    losses, errors = [], []
    with torch.inference_mode():
        network = frozen(network)
        for rows in torch.arange(len(data), device=data.images.device).split(EVALUATION_BATCH):
            inputs, targets, _ = data.batch(rows)
            outputs = network(inputs)
            losses.append(data.objective.loss(outputs, targets))
            errors.append(data.objective.error(outputs, targets))
    return tuple(torch.cat(v).double().cpu().numpy() for v in (losses, errors))  # type: ignore[return-value]


def _autocast(data: DataPart, settings: TrainingSettings) -> torch.autocast:
    reduced = settings.precision != "float32"
    return torch.autocast(data.images.device.type, PRECISIONS[settings.precision], enabled=reduced)


def frozen(network: nn.Module) -> nn.Module:
    """The network in eval mode, as plain layers where it can be: its kernels are expanded once."""
    network.eval()
    return network.to_plain() if isinstance(network, EquivariantNetwork) else network


def _optimizer(weights: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            weights, settings.learning_rate, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(weights, settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


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


def _remedy(settings: TrainingSettings) -> str:
    return f"Reduce learning_rate={settings.learning_rate:g}, or scale X and y."


def _batches_per_epoch(n: int, batch_size: int) -> int:
    """As many as give batches of about the size, and of two samples at least, which batch norm needs."""
    return max(1, min(round(n / batch_size), n // 2))


def n_steps(n: int, epochs: float, batch_size: int) -> int:
    """How many mini-batches that many passes over n samples take."""
    return max(1, round(epochs * _batches_per_epoch(n, batch_size)))


def _endless(data: DataPart, batch_size: int, seed: int) -> Iterator[Batch]:
    """Mini-batches, epoch after epoch, each in a new order."""
    generator = torch.Generator().manual_seed(seed)
    n_batches = _batches_per_epoch(len(data), batch_size)
    while True:
        order = torch.randperm(len(data), generator=generator).to(data.images.device)
        for rows in order.tensor_split(n_batches):
            yield data.batch(rows)


class _AlphaStep:
    """One step of the logits of mixed layers, on held-out data. Weights and running statistics stay as they are."""

    def __init__(
        self, network: nn.Module, alphas: list[nn.Parameter], data: DataPart, settings: TrainingSettings, seed: int
    ) -> None:
        self.network, self.alphas, self.data, self.settings = network, alphas, data, settings
        self.norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.batches = _endless(data, settings.batch_size, seed)
        self.optimizer = torch.optim.Adam(alphas, lr=settings.alpha_learning_rate)

    def __call__(self) -> None:
        momenta = [m.momentum for m in self.norms]
        for m in self.norms:
            m.momentum = 0.0
        batch = next(self.batches)
        with _autocast(self.data, self.settings):
            loss = batch.loss(self.network, self.data.objective)
        for m, momentum in zip(self.norms, momenta, strict=True):
            m.momentum = momentum
        self.optimizer.zero_grad()
        loss.backward(inputs=self.alphas)
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
