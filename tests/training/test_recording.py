"""Laws of recorded trainings that need no GPU; what is recorded is tested where there is one."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skequinas.training import CLASSIFICATION, DataPart, TrainingSettings, recording, train
from skequinas.training.recording import Recorded, RecordedUpdate, recorded

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def as_if_recorded(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """Warm up and replace the method, as torch does."""
    own: Callable[..., Tensor] = module.forward
    for _ in range(3):
        own(*inputs)
    module.forward = lambda x: own(x) + 100  # type: ignore[method-assign]
    return module


def test_on_a_cpu_and_in_short_trainings_nothing_is_recorded() -> None:
    own = network()
    for device, n_steps in ((torch.device("cpu"), 1000), (GPU, 5)):
        with recorded(own, device, n_steps) as forward:
            assert forward is own


def test_recording_moves_no_statistics_and_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", as_if_recorded)
    own, x = network(), torch.randn(4, 3)
    expected = network()
    expected.load_state_dict(own.state_dict())
    with recorded(own, GPU, 1000) as forward:
        for _ in range(2):
            assert torch.equal(forward(x), expected(x) + 100)
        shapes = [bool((forward(torch.randn(n, 3)) > 50).all()) for n in (5, 6, 7, 5)]
        assert shapes == [True, True, False, True]  # of too many shapes the last are not recorded
    for n in (5, 6, 7, 5):
        expected(torch.randn(n, 3))
    assert own[1].num_batches_tracked == expected[1].num_batches_tracked == 6
    assert isinstance(forward, Recorded)
    assert (own(x) < 50).all()
    assert "forward" not in own.__dict__


def test_what_cannot_be_recorded_is_done_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def refused(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls.append(len(inputs[0]))
        if len(calls) == 1:
            as_if_recorded(module, inputs)
            return
        module(*inputs)
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refused)
    own, other = network(), network()
    other.load_state_dict(own.state_dict())
    with recorded(own, GPU, 1000) as forward:
        for n, more in ((4, 100), (5, 0), (4, 0), (6, 0)):  # once it has failed nothing is
            x = torch.randn(n, 3)
            assert torch.equal(forward(x), other(x) + more)
    assert calls == [4, 5]
    assert own[1].num_batches_tracked == 4


class _Token:
    """Lives as long as the graph whose node knows it."""


class _Marked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, token: _Token) -> Tensor:
        ctx.token = token
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Watched(nn.Module):
    """A network that tells how many graphs of its former passes live while it makes another."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.logits = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.zeros(3))
        self._tokens: list[weakref.ref[_Token]] = []
        self.alive: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.alive.append(sum(token() is not None for token in self._tokens))
        token = _Token()
        self._tokens.append(weakref.ref(token))
        y: Tensor = _Marked.apply(x @ self.weight + self.logits, token)
        return y


def test_the_graph_of_a_pass_is_gone_when_another_may_be_recorded() -> None:
    own, generator = _Watched(), torch.Generator().manual_seed(0)
    targets = torch.randint(3, (20,), generator=generator)
    data = DataPart(torch.randn(20, 3, generator=generator), targets, nn.Identity(), CLASSIFICATION)
    train(own, data, TrainingSettings(batch_size=8), 2, seed=0, alpha_data=data)
    assert len(own.alive) == 2 * 4 + 1  # weights, logits, and a look at the end
    assert not any(own.alive)


class _Played:
    """Stands for a recorded graph: plays what was done while it was recorded."""

    def replay(self) -> None:
        self.played = getattr(self, "played", 0) + 1


def test_an_update_is_recorded_once_it_is_warm_and_given_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Played)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    calls: list[tuple[Tensor, ...]] = []
    update = RecordedUpdate(lambda *given: calls.append(given))
    for number in range(5):
        update(torch.tensor(float(number)), torch.full((2,), float(number)))
    assert [float(one) for one, _ in calls] == [0.0, 1.0, 4.0]  # the third is where later ones are put
    assert calls[-1][1].tolist() == [4.0, 4.0]
    assert isinstance(update._graph, _Played)
    assert update._graph.played == 3


def test_an_update_that_cannot_be_recorded_is_done_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def refused(graph: object) -> Iterator[None]:
        yield
        raise RuntimeError("operation not permitted when stream is capturing")

    back: list[object] = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Played)
    monkeypatch.setattr(torch.cuda, "graph", refused)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "stream")
    monkeypatch.setattr(recording, "_go_back", back.append)
    done: list[float] = []
    update = RecordedUpdate(lambda value: done.append(float(value)))
    for number in range(5):
        update(torch.tensor(float(number)))
    assert back == ["stream"]
    assert update._graph is None
    assert done == [0.0, 1.0, 2.0, 2.0, 3.0, 4.0]  # a GPU does nothing while it records; here 2 is done twice


def test_no_older_recording_is_freed_while_another_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Played)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", as_if_recorded)
    collecting: list[bool] = []
    update = RecordedUpdate(lambda _: collecting.append(gc.isenabled()))
    for _ in range(3):
        update(torch.zeros(()))
    own = network()
    own.register_forward_pre_hook(lambda *_: collecting.append(gc.isenabled()))
    Recorded(own)(torch.zeros(4, 3))
    assert collecting == [True, True, False, *[False] * 3, True]
    assert gc.isenabled()


def test_in_other_threads_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    own = network()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: recorded(own, GPU, 1000).__enter__()).result() is own
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    with recorded(own, torch.device("cuda:0"), 1000) as forward:
        assert forward is own
