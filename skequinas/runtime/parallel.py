"""Several processes that train one network together, each by its part of every mini-batch."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["Processes", "apart", "data_parallel", "in_all", "is_apart", "processes", "summed"]


class _Here(threading.local):
    """What holds in a thread. In a process that was forked it does not: ``pid`` is another."""

    together: Processes | None = None
    is_apart = False
    pid = 0


_here = _Here()


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
    """Those that train together with this one, inside of `data_parallel`, in the thread that called it."""
    return _here.together if _here.pid == os.getpid() else None


@contextmanager
def apart(parts: Processes | None) -> Iterator[None]:
    """While each of the processes, if there are any, computes with its part of a mini-batch."""
    _here.is_apart = parts is not None
    try:
        yield
    finally:
        _here.is_apart = False


def is_apart() -> bool:
    """Whether what is computed now is of a part of a mini-batch, whose statistics are those of all parts."""
    return _here.is_apart


@contextmanager
def data_parallel() -> Iterator[None]:
    """Let the processes of ``torchrun`` train each network together, each by its part of every mini-batch.

    Each process calls the same ``fit`` with the same data and parameters, on machines of one kind, and has the same
    model at the end. Every step is that of a single process up to round-off, which grows in the course of a training.
    Batch norm takes its statistics over all parts. What is no training, such as the evidence, each process does for
    itself, and so the steps of the logits of mixed layers and the trainings of `PenalisedSearch`.

    The process group is yours, begun before: ``torch.distributed.init_process_group("gloo")``. Parameters that depend
    on the clock or on a process of their own are refused: ``time_budget`` in seconds, ``checkpoint``, ``n_jobs``. If
    one process asks to stop, by a ``callback``, all of them do. An error in one of them, such as memory that does not
    suffice, or Ctrl-C, ends the fit: the others wait until torchrun ends them, or for the group's ``timeout``.

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
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            'data_parallel needs a process group: call torch.distributed.init_process_group("gloo") first, in a script '
            "that torchrun starts."
        )
    before = _here.together, _here.pid
    _here.together, _here.pid = Processes(dist.get_rank(), dist.get_world_size()), os.getpid()
    try:
        yield
    finally:
        _here.together, _here.pid = before


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
    together = processes()
    if together is None:
        return [value]
    found: list[Any] = [None] * together.n
    dist.all_gather_object(found, value)
    return found
