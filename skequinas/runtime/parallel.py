"""Several processes that train one network together, each by its part of every mini-batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["Processes", "apart", "data_parallel", "in_all", "is_apart", "processes", "summed"]

_now: Processes | None = None
_apart = False


@dataclass(frozen=True)
class Processes:
    """Those of torch's process group.

    Parameters
    ----------
    rank : int
        Which one this is.
    n : int
    """

    rank: int
    n: int

    def own(self, n_rows: int) -> slice:
        """Which rows of a mini-batch are of this process."""
        return slice(self.rank * n_rows // self.n, (self.rank + 1) * n_rows // self.n)

    def share(self, n_rows: int) -> float:
        """What the mean over those rows counts in the sum over the processes, which is the mean over the mini-batch."""
        own = self.own(n_rows)
        return float(own.stop - own.start) / n_rows

    @torch.no_grad()
    def add(self, values: Sequence[Tensor | None]) -> None:
        """Sum tensors over the processes, in place."""
        known = [value for value in values if value is not None]
        if known:
            together = torch.cat([value.flatten() for value in known])
            dist.all_reduce(together)
            for value, total in zip(known, together.split([value.numel() for value in known]), strict=True):
                value.copy_(total.view_as(value))

    def total(self, value: Tensor) -> Tensor:
        """The sum of what they have, without a gradient."""
        total = value.detach().clone()
        self.add([total])
        return total


def processes() -> Processes | None:
    """Those that train together with this one, inside of `data_parallel`."""
    return _now


@contextmanager
def apart(parts: Processes | None) -> Iterator[None]:
    """While each of the processes, if there are any, computes with its part of a mini-batch."""
    global _apart
    _apart = parts is not None
    try:
        yield
    finally:
        _apart = False


def is_apart() -> bool:
    """Whether what is computed now is of a part of a mini-batch, whose statistics are those of all parts."""
    return _apart


@contextmanager
def data_parallel() -> Iterator[None]:
    """Let the processes of ``torchrun`` train each network together, each by its part of every mini-batch.

    Each process calls the same ``fit`` with the same data and parameters, and has the same model at the end: that of a
    single process, up to round-off. Batch norm takes its statistics over all parts. What is no training, such as the
    evidence, each process does for itself.

    The process group is yours, begun before: ``torch.distributed.init_process_group("gloo")``. Parameters that depend
    on the clock or on a process of their own are refused: ``time_budget`` in seconds, ``checkpoint``, ``n_jobs``.

    Raises
    ------
    RuntimeError
        Without a process group.

    Examples
    --------
    Saved as ``train.py`` and started by ``torchrun --nproc-per-node=2 train.py``::

        import torch.distributed
        from sklearn.datasets import load_digits
        from skequinas import EquivariantNASClassifier, data_parallel

        torch.distributed.init_process_group("gloo")
        X, y = load_digits(return_X_y=True)
        with data_parallel():
            model = EquivariantNASClassifier("D4", random_state=0).fit(X, y)
    """
    global _now
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            'data_parallel needs a process group: call torch.distributed.init_process_group("gloo") first, in a script '
            "that torchrun starts."
        )
    before, _now = _now, Processes(dist.get_rank(), dist.get_world_size())
    try:
        yield
    finally:
        _now = before


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def summed(x: Tensor) -> Tensor:
    """The sum of what the processes have, through which gradients go back to all of them."""
    total: Tensor = _Summed.apply(x)
    return total


def in_all(value: Any) -> list[Any]:
    """What each process has for a value, in their order; of a single one, its own."""
    if _now is None:
        return [value]
    found: list[Any] = [None] * _now.n
    dist.all_gather_object(found, value)
    return found
