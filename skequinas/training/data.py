"""What a network is trained on: images and targets on the device, and the mini-batches made of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skequinas.io.stored import StoredImages, some
from skequinas.training.objective import Objective
from skequinas.training.units import numbered, parts, sums

__all__ = ["Batch", "DataPart", "EndlessBatches", "Split", "batches_per_epoch", "mean_with_error", "n_steps"]


class Batch(NamedTuple):
    """Inputs of a network with their targets, and their weights where they differ."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None = None

    def rows(self, rows: slice) -> Batch:
        """Some of it."""
        return Batch(*(None if own is None else own[rows] for own in self))  # type: ignore[arg-type]

    def loss(self, network: Callable[[Tensor], Tensor], objective: Objective, label_smoothing: float = 0.0) -> Tensor:
        """The mean loss, weighted by the samples' weights, whose mean over all data is 1; without the penalty."""
        return self.loss_of(network(self.inputs), objective, label_smoothing)

    def loss_of(self, outputs: Tensor, objective: Objective, label_smoothing: float = 0.0) -> Tensor:
        """The same of outputs that are known."""
        if outputs.dtype == torch.bfloat16:
            outputs = outputs.float()
        if label_smoothing and objective.smoothed is not None:
            losses = objective.smoothed(outputs, self.targets, label_smoothing)
        else:
            losses = objective.loss(outputs, self.targets)
        return losses.mean() if self.weights is None else (losses * self.weights).mean()


@dataclass(frozen=True)
class DataPart:
    """Images and targets on the device, raw as they came, and how a batch of them becomes an input.

    Images that are too large for memory stay where they are; each batch is read when it is made.

    The sample weights, if any, are positive, with mean 1 over all data. Units say which images are not independent of
    each other, see `skequinas.training.units`.
    """

    images: Tensor | StoredImages
    targets: Tensor
    preprocess: nn.Module
    objective: Objective
    weights: Tensor | None = None
    units: NDArray[np.int64] | None = None

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
        units = None if self.units is None else numbered(self.units[rows])
        return DataPart(some(self.images, rows), self.targets[index], self.preprocess, self.objective, weights, units)

    def sample(self, n_units: int, seed: int) -> DataPart:
        """So many of the units, drawn at random; all where there are not more."""
        if n_units >= self.n_units:
            return self
        chosen = np.random.default_rng(seed).permutation(self.n_units)[:n_units]
        units = np.arange(len(self)) if self.units is None else self.units
        return self.subset(np.flatnonzero(np.isin(units, chosen)))

    @property
    def n_units(self) -> int:
        """How many independent units there are."""
        return len(self) if self.units is None else int(self.units.max()) + 1

    def parts(self, n_parts: int) -> list[Tensor]:
        """The numbers of the images in so many parts, none of which divides a unit."""
        return [torch.from_numpy(p).to(self.images.device) for p in parts(len(self), self.units, n_parts)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as arrays, which joblib hands to other processes without a copy for each."""
        arrays = (None if t is None else t.numpy(force=True) for t in (self.targets, self.weights))
        images = self.images if isinstance(self.images, StoredImages) else self.images.numpy(force=True)
        return _unpickled, (images, *arrays, self.preprocess, self.objective, self.units)

    def sample_weights(self) -> NDArray[np.float64] | None:
        """The weights as numpy takes them."""
        return None if self.weights is None else self.weights.double().cpu().numpy()


def _unpickled(
    images: NDArray[Any] | StoredImages,
    targets: NDArray[Any],
    weights: NDArray[Any] | None,
    preprocess: nn.Module,
    objective: Objective,
    units: NDArray[np.int64] | None,
) -> DataPart:
    with warnings.catch_warnings():  # they are shared with other processes, and nobody writes to them
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        sample_weights = None if weights is None else torch.from_numpy(weights)
        own = images if isinstance(images, StoredImages) else torch.from_numpy(images)
        return DataPart(own, torch.from_numpy(targets), preprocess, objective, sample_weights, units)


def mean_with_error(
    values: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
    units: NDArray[np.int64] | None = None,
) -> tuple[float, float]:
    """The mean, weighted if need be, and its standard error, for which the values of a unit count as one."""
    if units is not None:
        weights = np.ones(len(values)) if weights is None else weights
    if weights is None:
        mean = float(values.mean())
        return mean, float(values.std() / np.sqrt(len(values))) if np.isfinite(mean) else np.nan
    mean = float(np.average(values, weights=weights))
    if not np.isfinite(mean):
        return mean, np.nan
    deviations = weights * (values - mean)
    return mean, float(np.sqrt((sums(deviations, units) ** 2).sum()) / weights.sum())


@dataclass(frozen=True)
class Split:
    """The whole of the data, and its two parts where something is held out."""

    whole: DataPart
    training: DataPart
    validation: DataPart | None


def batches_per_epoch(n: int, batch_size: int) -> int:
    """As many as give batches of about the size, and of two samples at least, which batch norm needs."""
    return max(1, min(round(n / batch_size), n // 2))


def n_steps(n: int, epochs: float, batch_size: int) -> int:
    """How many mini-batches that many passes over n samples take."""
    return max(1, round(epochs * batches_per_epoch(n, batch_size)))


class EndlessBatches(Iterator[Batch]):
    """Mini-batches, epoch after epoch, each in a new order.

    Parameters
    ----------
    data : DataPart
    batch_size : int
    seed : int
        The orders follow from it.
    """

    def __init__(self, data: DataPart, batch_size: int, seed: int) -> None:
        self.data, self.n_drawn = data, 0
        self._generator = torch.Generator().manual_seed(seed)
        self._n_batches = batches_per_epoch(len(data), batch_size)
        self._rows: tuple[Tensor, ...] = ()

    def __next__(self) -> Batch:
        return self.data.batch(self._next_rows())

    def _next_rows(self) -> Tensor:
        number = self.n_drawn % self._n_batches
        if number == 0:
            order = torch.randperm(len(self.data), generator=self._generator).to(self.data.images.device)
            self._rows = order.tensor_split(self._n_batches)
        self.n_drawn += 1
        return self._rows[number]

    def state_dict(self) -> dict[str, int]:
        """How many were drawn, from which all else follows."""
        return {"n_drawn": self.n_drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there, which a new object alone can."""
        while self.n_drawn < state["n_drawn"]:
            self._next_rows()
