"""Laws of recorded trainings that need no GPU; what is recorded is tested where there is one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from skequinas.training.recording import Recorded, recorded

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


def test_in_other_threads_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    own = network()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: recorded(own, GPU, 1000).__enter__()).result() is own
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    with recorded(own, torch.device("cuda:0"), 1000) as forward:
        assert forward is own
