"""Networks whose work on a GPU is recorded once and played again, since its launches take longer than the work."""

from __future__ import annotations

import gc
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from skequinas.runtime.parallel import processes

__all__ = ["Recorded", "RecordedUpdate", "recorded"]

_logger = logging.getLogger(__name__)

_FEWEST_STEPS = 30
"""Below, recording takes longer than it saves."""

_MOST_SHAPES = 3
"""Of mini-batches: they differ by one image at most."""

_WARM_CALLS = 2
"""Of an update, before it is recorded."""


class Recorded:
    """A network in training mode, by CUDA graphs of its forward and backward passes, one for each shape of inputs.

    The first call with a shape records them. Running statistics are moved by each call as without it, and those that
    recording moves are put back. Where something cannot be recorded, or memory does not suffice, nothing is any more.

    Parameters
    ----------
    network : Module
        On a CUDA device. It is not changed.
    parameters : sequence of Parameter, optional
        Those of the network that get gradients; all of them by default.
    """

    def __init__(self, network: nn.Module, parameters: Sequence[nn.Parameter] | None = None) -> None:
        self.network = network
        wanted = None if parameters is None else {id(p) for p in parameters}
        self._fixed = [] if wanted is None else [p for p in network.parameters() if id(p) not in wanted]
        self._known: dict[torch.Size, nn.Module] = {}
        self._most = _MOST_SHAPES
        self._others: list[Recorded] = []

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs for a mini-batch, without a gradient by it."""
        if x.shape not in self._known and len(self._known) < self._most:
            self._record(x)
        y: Tensor = self._known.get(x.shape, self.network)(x)
        return y

    def beside(self, parameters: Sequence[nn.Parameter]) -> Recorded:
        """The same network with gradients for others of its parameters, which is forgotten with this one."""
        self._others.append(Recorded(self.network, parameters))
        return self._others[-1]

    def forget(self) -> None:
        """Free the recordings, whose modules and methods know each other."""
        for known in self._known.values():
            known.__dict__.pop("forward", None)
        self._known.clear()
        for other in self._others:
            other.forget()

    def _record(self, x: Tensor) -> None:
        recording = _Within(self.network)
        before = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        stream = torch.cuda.current_stream(x.device) if x.is_cuda else None
        enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        fixed = [p for p in self._fixed if p.requires_grad]
        try:
            for p in fixed:
                p.requires_grad_(False)
            uncached = torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False)
            with uncached, warnings.catch_warnings(), _nothing_collected():
                # the thread of the backward pass begins with a product of matrices, for which torch finds a context
                warnings.filterwarnings("ignore", "Attempting to run cuBLAS", UserWarning)
                torch.cuda.make_graphed_callables(recording, (x,))  # its method is replaced
            self._known[x.shape] = recording
        except RuntimeError as error:
            _logger.debug("a training step cannot be recorded: %s", error)
            self._most = 0
            self.forget()
            if stream is not None:
                _go_back(stream)
        finally:
            for p in fixed:
                p.requires_grad_(True)
            with torch.no_grad():
                for buffer, value in before:
                    buffer.copy_(value)


class RecordedUpdate:
    """What changes tensors in place, given others, as a CUDA graph once it is warm.

    The tensors that it changes must stay where they are; those that are given are copied to where they were when it was
    recorded. Where it cannot be recorded it is done as it is.

    Parameters
    ----------
    update : callable
        Takes the tensors that are given. All of its work is on their CUDA device, and the same each time.
    """

    def __init__(self, update: Callable[..., None]) -> None:
        self._update = update
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: list[Tensor] = []

    def __call__(self, *given: Tensor) -> None:
        """Make one update."""
        self._calls += 1
        if self._calls == _WARM_CALLS + 1:
            self._record(given)
        if self._graph is None:
            self._update(*given)
            return
        torch._foreach_copy_(self._given, list(given))
        self._graph.replay()

    def _record(self, given: Sequence[Tensor]) -> None:
        stream = torch.cuda.current_stream(given[0].device)
        own = [x.clone() for x in given]
        graph = torch.cuda.CUDAGraph()
        try:
            with _nothing_collected(), torch.cuda.graph(graph):
                self._update(*own)
        except RuntimeError as error:
            _logger.debug("an update cannot be recorded: %s", error)
            _go_back(stream)
        else:
            self._graph, self._given = graph, own


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """No search for what only knows itself: an older recording that is freed meanwhile breaks this one off."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _go_back(stream: torch.cuda.Stream) -> None:
    """To the stream of before: a recording that breaks off may leave its own behind."""
    torch.cuda.set_stream(stream)
    torch.cuda.synchronize(stream.device)


class _Within(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x)
        return y


def _records(device: torch.device) -> bool:
    """Whether torch would record on that device, and no other thread is in its way."""
    stream = torch.cuda.graph.default_capture_stream  # one for all, of the device that was the first
    current = torch.cuda.current_device()
    known = device.index in (None, current) and (stream is None or stream.device.index == current)
    return known and threading.current_thread() is threading.main_thread()


@contextmanager
def recorded(
    network: nn.Module, device: torch.device, n_steps: int, parameters: Sequence[nn.Parameter] | None = None
) -> Iterator[Callable[[Tensor], Tensor]]:
    """The network to train with while the context lasts: recorded where that pays, else itself."""
    if device.type != "cuda" or n_steps < _FEWEST_STEPS or processes() is not None or not _records(device):
        yield network
        return
    # gradients are made in the stream of the recording, and autograd says so
    told = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", lambda _: None)
    told(False)
    recording = Recorded(network, parameters)
    try:
        yield recording
    finally:
        recording.forget()
        told(True)
