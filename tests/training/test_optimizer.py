"""Laws of Muon for constrained kernels."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import Architecture, EquivariantNetwork, GroupConv2d, MixedGroupConv2d
from skequinas.runtime.compiled import compiled
from skequinas.training import CLASSIFICATION, DataPart, DivergenceError, TrainingSettings, optimizer, train
from skequinas.training.optimizer import SGD, AdamW, Muon, polar_factor, polar_factors

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")


def newton_schulz(x: Tensor, n_steps: int = 5) -> Tensor:
    """The iteration as it is published, on the wide matrix itself."""
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    for _ in range(n_steps):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


def exact_polar_factor(x: Tensor) -> Tensor:
    """The polar factor, which leaves out what is zero."""
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    return (left * (values > 1e-9 * values.amax(-1, keepdim=True)).to(left).unsqueeze(-2)) @ right


def random_grads(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def network_of(*constraints: object) -> EquivariantNetwork:
    architecture = Architecture(D4, 8, 1, 3, (2, 3), (3, 3), (False, False), constraints or None)
    return EquivariantNetwork(architecture, torch.Generator().manual_seed(0))


# --- the polar factor ---


@pytest.mark.parametrize("shape", [(4, 6, 40), (2, 40, 6), (3, 8, 8), (1, 1, 5)])
def test_the_polar_factor_is_the_published_iteration_with_less_arithmetic(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    wide = shape[1] <= shape[2]
    expected = newton_schulz(x) if wide else newton_schulz(x.mT).mT
    torch.testing.assert_close(polar_factor(x), expected, rtol=0, atol=1e-4)
    values = torch.linalg.svdvals(polar_factor(x))
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_the_polar_factor_of_a_matrix_of_low_rank_is_finite_and_of_that_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, 2, generator=generator) @ torch.randn(1, 2, 100, generator=generator)
    values = torch.linalg.svdvals(polar_factor(x))[0]
    assert values[:2].min() > 0.6
    assert values[2:].max() < 0.1
    assert not polar_factor(torch.zeros(2, 3, 4)).any()


def test_matrices_of_several_shapes_are_worked_on_together_and_do_not_mix() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(shape, generator=generator) for shape in ((2, 3, 9), (1, 20, 50), (4, 30, 17), (3, 5, 5))]
    for x, found in zip(batches, polar_factors(batches), strict=True):
        torch.testing.assert_close(found, polar_factor(x), rtol=0, atol=1e-5)


# --- steps ---


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
@pytest.mark.parametrize("lifting", [False, True])
def test_an_equivariant_gradient_gives_an_equivariant_step(
    subgroup: Subgroup, kernel_size: int, lifting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the step that Muon makes on the dense kernel, knowing nothing of the constraint."""
    monkeypatch.setattr(optimizer, "polar_factors", lambda batches: [exact_polar_factor(x) for x in batches])
    layer = GroupConv2d(subgroup, 2, 3, kernel_size, regular_in=not lifting, bias=False).double()
    space, weight, before = layer.space(subgroup), layer.weights.weight, layer.kernel().detach()
    random_grads(layer, 0)
    assert weight.grad is not None
    gradient = space.sample(space.expand(weight.grad))
    Muon(layer, kernel_lr=0.03, momentum=0.0).step()
    direction = exact_polar_factor(gradient.reshape(1, len(before), -1)).reshape(before.shape)
    expected = before - 0.03 * before.norm() / direction.norm() * direction
    found = layer.kernel().detach()
    torch.testing.assert_close(found, expected * before.norm() / expected.norm(), rtol=0, atol=1e-9)
    torch.testing.assert_close(space.expand(space.tighten(space.coefficients(found))), space.coefficients(found))


def test_a_step_turns_a_kernel_by_the_rate_and_keeps_its_norm() -> None:
    network = network_of("D4", "D2(0)", "C1")
    muon = Muon(network, kernel_lr=0.02)
    kernels = [layer.weights.weight for layer in network.convolutions[:-1]]
    for seed in range(3):
        before = [p.detach().clone() for p in kernels]
        random_grads(network, seed)
        muon.step()
        for p, old in zip(kernels, before, strict=True):
            assert 0.01 < float((p.detach() - old).norm() / old.norm()) <= 0.0201  # less by what was along the kernel
            assert float(p.detach().norm() / old.norm()) == pytest.approx(1, abs=1e-6)


KERNELS = {
    "lifting": lambda h: GroupConv2d(h, 3, 4, 3, regular_in=False),
    "hidden": lambda h: GroupConv2d(h, 4, 3, 3),
    "to more fields than a block may have": lambda h: GroupConv2d(h, 40, 40, 1),
    "5x5": lambda h: GroupConv2d(h, 2, 5, 5),
    "harmonic": lambda h: GroupConv2d(h, 2, 3, 5, basis="harmonic"),
    "mixed": lambda h: MixedGroupConv2d((*h.subgroups,), 3, 2, 3),
}


@pytest.mark.skipif(compiled() is None, reason="no compiler built the kernels here")
@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("subgroup", D4.subgroups, ids=str)
def test_compiled_steps_are_those_of_torch(subgroup: Subgroup, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    fast = nn.Sequential(KERNELS[kind](subgroup), KERNELS["hidden"](subgroup))
    slow = copy.deepcopy(fast).double()
    one, other = Muon(fast), Muon(slow)
    for _ in range(3):
        for p, q in zip(fast.parameters(), slow.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.double()
        one.step()
        other.step()
    for p, q in zip(fast.parameters(), slow.parameters(), strict=True):
        assert (p.double() - q).norm() <= 1e-5 * q.norm()


@pytest.mark.skipif(compiled() is None, reason="no compiler built the kernels here")
def test_compiled_steps_do_not_depend_on_the_number_of_threads() -> None:
    found, before = [], torch.get_num_threads()
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            torch.manual_seed(0)
            network = nn.Sequential(*(make(D4.whole) for make in KERNELS.values()))
            stepped = Muon(network)
            for p in network.parameters():
                p.grad = torch.randn_like(p)
            stepped.step()
            found.append(list(network.parameters()))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(p, q) for other in found[1:] for p, q in zip(found[0], other, strict=True))


def test_every_part_of_a_mixture_takes_a_step_of_its_own() -> None:
    mixed = MixedGroupConv2d(D4.subgroups, 2, 3, 3, bias=False).double()
    random_grads(mixed, 0)
    before, grads = mixed.weights.weight.detach().clone(), mixed.weights.weight.grad
    assert grads is not None
    Muon(mixed, kernel_lr=0.02).step()
    torch.testing.assert_close(mixed.weights.norms(), mixed.norms.double(), rtol=1e-6, atol=0)
    sizes = mixed.weights.sizes
    for h, old, grad, new in zip(
        D4.subgroups, before.split(sizes), grads.split(sizes), mixed.weights.weight.split(sizes), strict=True
    ):
        alone = GroupConv2d(h, 2, 3, 3, bias=False).double()
        with torch.no_grad():
            alone.weights.weight.copy_(old)
        alone.weights.weight.grad = grad.clone()
        Muon(alone, kernel_lr=0.02).step()
        torch.testing.assert_close(alone.weights.weight, new, rtol=1e-9, atol=1e-12)


def test_all_but_the_kernels_are_trained_by_adamw() -> None:
    one, two = network_of("D4", "C4", "C1"), network_of("D4", "C4", "C1")
    muon, adamw = (
        Muon(one, lr=0.01, weight_decay=0.1),
        torch.optim.AdamW(two.parameters(), 0.01, weight_decay=0.1, fused=True),
    )
    for seed in range(3):
        for network, own in ((one, muon), (two, adamw)):
            random_grads(network, seed)
            own.step()
    kernels = {id(layer.weights.weight) for layer in one.convolutions[:-1]}
    assert len(kernels) == 2
    pairs = dict(two.named_parameters())
    for name, p in one.named_parameters():
        assert torch.equal(p, pairs[name]) == (id(p) not in kernels), name


def test_a_state_that_was_saved_goes_on_bit_for_bit() -> None:
    network = network_of("D4", D4.subgroups, "C1")
    muon = Muon(network)
    random_grads(network, 0)
    muon.step()
    twin = copy.deepcopy(network)
    again = Muon(twin)
    again.load_state_dict(copy.deepcopy(muon.state_dict()))
    for own, its in ((network, muon), (twin, again)):
        random_grads(own, 1)
        its.step()
    for p, q in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_kernel_without_gradient_stays_as_it_is() -> None:
    network = network_of("D4", "C4", "C1")
    first = network.convolutions[0].weights.weight
    before = first.detach().clone()
    random_grads(network, 0)
    first.grad = None
    muon = Muon(network)
    muon.step()
    assert torch.equal(first, before)
    first.grad = torch.zeros_like(first)
    muon.step()
    torch.testing.assert_close(first, before)
    for group in muon.param_groups:
        group["lr"] = 100.0
    muon.step()
    torch.testing.assert_close(first, before)


# --- trainings ---


def stripes(n: int) -> DataPart:
    """Images of two kinds of stripes."""
    rng = np.random.default_rng(0)
    targets = np.arange(n) % 2
    images = rng.normal(size=(n, 1, 8, 8)) + np.where(targets, 1, -1)[:, None, None, None] * np.cos(
        np.arange(8) * np.pi
    )
    return DataPart(
        torch.from_numpy(images.astype(np.float32)), torch.from_numpy(targets), nn.Identity(), CLASSIFICATION
    )


def test_a_training_lowers_the_loss_and_is_reproducible() -> None:
    networks = [network_of(), network_of()]
    logs = [train(n, stripes(128), TrainingSettings(optimizer="muon", batch_size=16), 8, seed=0) for n in networks]
    assert logs[0][-1]["loss"] < 0.7 * logs[0][0]["loss"]
    for p, q in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_training_that_diverges_ends_in_a_clear_error() -> None:
    data = stripes(64)
    data.images[0] = torch.nan
    with pytest.raises(DivergenceError, match="became nan in epoch"):
        train(network_of(), data, TrainingSettings(optimizer="muon"), 1, seed=0)


@pytest.mark.parametrize("kind", ["muon", "adamw", "sgd"])
def test_hooks_run_once_a_step_whatever_was_made_before(kind: str) -> None:
    layer = GroupConv2d(D4.whole, 1, 1, 3)
    for other in (AdamW, SGD):
        other(GroupConv2d(D4.whole, 1, 1, 3).parameters(), 0.01)
    own = Muon(layer) if kind == "muon" else {"adamw": AdamW, "sgd": SGD}[kind](layer.parameters(), 0.01)
    calls: list[str] = []
    own.register_step_pre_hook(lambda *_: calls.append("before"))
    own.register_step_post_hook(lambda *_: calls.append("after"))
    layer.weights.weight.grad = torch.ones_like(layer.weights.weight)
    own.step()
    assert calls == ["before", "after"]
