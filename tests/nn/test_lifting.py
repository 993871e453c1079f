"""Laws of the compiled first layer: it is the convolution, batch norm, rectifier and halving of torch, in one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from skequinas.groups import PointGroup
from skequinas.nn import Architecture, EquivariantNetwork
from skequinas.nn import norm as room
from skequinas.nn.norm import OrbitBatchNorm2d
from skequinas.runtime.compiled import compiled, load

pytestmark = pytest.mark.skipif(compiled() is None, reason="no compiler built the kernels here")

D4 = PointGroup.from_name("D4")
BUILT = [name for name in ("avx512", "avx2", "portable") if load(name) is not None]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drawn_norm(group: PointGroup, fields: int) -> OrbitBatchNorm2d:
    norm = OrbitBatchNorm2d(group, fields)
    with torch.no_grad():
        norm.weight.copy_(drawn(fields, seed=3))
        norm.bias.copy_(drawn(fields, seed=4))
    return norm


def outcome(norm: OrbitBatchNorm2d, x: Tensor, kernel: Tensor, offset: Tensor | None, halve: bool) -> list[Tensor]:
    """Outputs, gradients by all that has any, running statistics, and outputs at rest."""
    dtype = norm.weight.dtype
    norm.train()
    own = [v.to(dtype).requires_grad_() for v in (kernel, offset) if v is not None]
    y = norm.lifted(x.to(dtype), *own, halve=halve)
    grads = torch.autograd.grad(y, [*own, norm.weight, norm.bias], drawn(*y.shape, seed=8).to(dtype))
    norm.eval()
    with torch.no_grad():
        rest = norm.lifted(x.to(dtype), *own, halve=halve)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return [y.detach(), *grads, norm.running_mean.clone(), norm.running_var.clone(), rest]


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    for name in ("lift", "lift_at_rest"):
        own = getattr(room, name)
        monkeypatch.setattr(room, name, lambda *a, own=own, name=name, **k: (calls.append(name), own(*a, **k))[1])
    return calls


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize(("group", "fields"), [("D4", 3), ("C4", 5), ("D1(0)", 6), ("C1", 7), ("D4", 13)])
@pytest.mark.parametrize(
    ("shape", "kernel_size", "halve"),
    [
        ((5, 1, 8, 10), 3, True),
        ((4, 3, 5, 7), 3, False),
        ((3, 1, 6, 4), 5, True),
        ((70, 2, 3, 2), 3, False),
        ((1, 4, 2, 2), 1, True),
        ((2, 1, 1, 9), 5, False),
    ],
)
@pytest.mark.parametrize("with_offset", [False, True])
def test_it_is_what_torch_computes(
    group: str,
    fields: int,
    shape: tuple[int, ...],
    kernel_size: int,
    halve: bool,
    with_offset: bool,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = count_calls(monkeypatch)
    monkeypatch.setattr(room, "compiled", lambda: load(name))
    norm = drawn_norm(PointGroup.from_name(group), fields)
    channels = fields * norm.group.order
    x, kernel = drawn(*shape) + 0.5, drawn(channels, shape[1], kernel_size, kernel_size, seed=1) / kernel_size
    offset = drawn(channels, seed=2) if with_offset else None
    found = outcome(copy.deepcopy(norm), x, kernel, offset, halve)
    assert calls == ["lift", "lift_at_rest"]
    expected = outcome(norm.double(), x, kernel, offset, halve)
    assert len(calls) == 2, "double precision is torch's"
    # what the bias of a field's only channel is told is zero but for round-off, so that gradients are compared with all
    scale = max(float(v.abs().max()) for v in expected[1:-3])
    for number, (own, other) in enumerate(zip(found, expected, strict=True)):
        assert own.shape == other.shape
        bound = scale if 0 < number < len(found) - 3 else float(other.abs().max())
        assert (own.double() - other).abs().max() <= 2e-5 * bound


def test_what_does_not_fit_or_pay_is_done_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, norm = count_calls(monkeypatch), OrbitBatchNorm2d(D4, 2)
    norm.lifted(drawn(4, 3, 8, 8), drawn(16, 3, 5, 5))  # many taps
    norm.lifted(drawn(4, 1, 8, 8).requires_grad_(), drawn(16, 1, 3, 3))  # somebody asks what the image does
    norm.lifted(drawn(4, 1, 8, 8), drawn(16, 1, 2, 2))  # nothing keeps the size
    norm.lifted(drawn(4, 1, 8, 8), drawn(16, 1, 3, 1))
    norm.lifted(drawn(4, 1, 7, 8), drawn(16, 1, 3, 3), halve=True)
    norm.double().lifted(drawn(4, 1, 8, 8).double(), drawn(16, 1, 3, 3).double())
    norm.float().eval().lifted(drawn(4, 1, 8, 8), drawn(16, 1, 3, 3).requires_grad_())  # gradients at rest
    norm.train()
    assert calls == []
    images, kernel = drawn(4, 1, 8, 8), drawn(16, 1, 3, 3)
    expected = norm.lifted(images, kernel)
    with torch.autocast("cpu", torch.bfloat16):  # it is done in single precision, which costs little
        assert torch.equal(norm.lifted(images, kernel), expected)
    assert len(calls) == 2
    calls.clear()
    for wrong in ((drawn(4, 2, 8, 8), kernel), (images, drawn(12, 1, 3, 3)), (images, kernel, torch.zeros(3))):
        with pytest.raises(RuntimeError):
            norm.lifted(*wrong)
    with pytest.raises(RuntimeError):
        norm.rectified(drawn(4, 16, 8, 8), torch.zeros(3))
    assert calls == []


def test_parameters_may_have_strides() -> None:
    """Those of a larger tensor, which addresses alone would misread."""
    norm, other = drawn_norm(D4, 2), drawn_norm(D4, 2)
    other.weight, other.bias = (
        nn.Parameter(torch.stack([v, v + 9], 1).detach()[:, 0]) for v in (norm.weight, norm.bias)
    )
    x, kernel = drawn(4, 1, 8, 8), drawn(16, 1, 3, 3, seed=1)
    assert torch.equal(norm.lifted(x, kernel), other.lifted(x, kernel))
    maps = drawn(4, 16, 6, 6)
    assert torch.equal(norm.rectified(maps), other.rectified(maps))


def test_any_strides_give_the_same() -> None:
    norm, kernel = drawn_norm(D4, 2), drawn(16, 3, 3, 3, seed=1)
    x = drawn(6, 3, 8, 8)
    wide = torch.zeros(6, 3, 8, 16)
    wide[..., ::2] = x
    for other in (x.contiguous(memory_format=torch.channels_last), wide[..., ::2]):
        assert torch.equal(norm.lifted(other, kernel), norm.lifted(x, kernel))
    turned = kernel.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    assert torch.equal(norm.lifted(x, turned), norm.lifted(x, kernel))


def test_results_depend_neither_on_threads_nor_at_rest_on_other_images() -> None:
    x, kernel, before = drawn(37, 1, 12, 12), drawn(24, 1, 3, 3, seed=1), torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 3, 7):
            torch.set_num_threads(n)
            found.append(outcome(drawn_norm(D4, 3), x, kernel, None, True))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    norm = drawn_norm(D4, 3).eval()
    with torch.no_grad():
        assert torch.equal(norm.lifted(x, kernel)[5:6], norm.lifted(x[5:6], kernel))


def test_what_is_not_a_number_stays_so() -> None:
    norm, x, kernel = OrbitBatchNorm2d(D4, 2), drawn(4, 1, 4, 4), drawn(16, 1, 3, 3, seed=1)
    x[1, 0, 2, 2] = float("nan")
    assert norm.lifted(x, kernel, halve=True).isnan().all()
    norm.eval()
    norm.running_mean, norm.running_var = torch.zeros(2), torch.ones(2)
    with torch.no_grad():
        assert norm.lifted(x, kernel)[1].isnan().any()
        assert not norm.lifted(x, kernel)[[0, 2, 3]].isnan().any()


def test_a_network_begins_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch)
    architecture = Architecture(D4, 12, 1, 3, (2, 2), (3, 3), (True, False))
    mixed = architecture.with_constraints((D4.subgroups, *architecture.constraints[1:]))
    for own in (architecture, mixed):
        network = EquivariantNetwork(own, torch.Generator().manual_seed(0))
        optimizer = torch.optim.SGD(network.parameters(), 0.01)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(drawn(12, 1, 12, 12)), torch.arange(12) % 3).backward()
            optimizer.step()
        assert all(
            p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.blocks[0].conv.weights.parameters()
        )
        with torch.no_grad():
            found = network.eval()(drawn(5, 1, 12, 12, seed=1))
            expected = copy.deepcopy(network).double()(drawn(5, 1, 12, 12, seed=1).double())
        assert torch.allclose(found.double(), expected, atol=1e-5)
    assert calls == [*["lift"] * 3, "lift_at_rest"] * 2
