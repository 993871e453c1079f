"""Laws of shortcuts, and of a head that is given means and maxima: nothing that held without them is lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skequinas.evidence.gradients import score_gradients
from skequinas.groups import PointGroup
from skequinas.nn import Architecture, EquivariantNetwork, inherit, relax, transform_images
from skequinas.nn.kernels.fused import FusedConvolution
from skequinas.nn.networks import network_from_state
from skequinas.training import CLASSIFICATION, DataPart

D4 = PointGroup.from_name("D4")
CONSTRAINTS = [
    ("D4",) * 6,
    ("D4",) * 5 + ("C4",),
    ("D4", "D4", "C4", "C4", "C2", "C2"),
    ("D2(0)", "D4", "D1(90)", "D4", "D4", "D4"),
    (("D4", "C4"),) * 5 + ("C4",),
    *(("D4", "D4", "D4", "D4", "D4", h.name) for h in D4.subgroups[2:]),
]


def residual(constraints: tuple[Any, ...] = (), size: int = 9, group: PointGroup = D4, **shape: Any) -> Architecture:
    """A layer that pools, a block of as many fields that pools, and one of more."""
    values: dict[str, Any] = {
        "fields": (2, 2, 2, 3, 3),
        "kernel_sizes": (3,) * 5,
        "pools": (True, False, True, False, False),
        "shortcuts": (0, 0, 2, 0, 2),
        "statistics": "mean and maximum",
        "constraints": constraints,
    }
    return Architecture(group, size, 2, 3, **values | shape)


def images(size: int, n: int = 6) -> Tensor:
    return torch.randn(n, 2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))


@torch.enable_grad()
def trained(architecture: Architecture) -> EquivariantNetwork:
    """A network in eval mode after a few steps, in float64."""
    network = EquivariantNetwork(architecture, torch.Generator().manual_seed(1)).double()
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    x = images(architecture.image_shape[0])
    for _ in range(3):
        optimizer.zero_grad()
        (network(x) - x.mean((1, 2, 3))[:, None]).square().mean().backward()
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize("size", [8, 9, 27, 28])
@pytest.mark.parametrize("constraints", CONSTRAINTS, ids=lambda c: "-".join(map(str, c)))
@torch.no_grad()
def test_a_trained_network_is_invariant_to_exactly_what_its_constraints_share(
    constraints: tuple[Any, ...], size: int
) -> None:
    network = trained(residual(constraints, size))
    x = images(size)
    y, kept = network(x), set()
    for g in D4.elements:
        error = (network(transform_images(x, D4, g)) - y).abs().max() / y.std()
        assert error < 1e-10 or error > 1e-3
        kept |= {g} if error < 1e-10 else set()
    assert kept == set(network.architecture.symmetry.elements)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("constraints", CONSTRAINTS[:5], ids=lambda c: "-".join(map(str, c)))
@torch.no_grad()
def test_the_export_is_the_same_function(constraints: tuple[Any, ...], size: int) -> None:
    network = trained(residual(constraints, size))
    difference = network.to_plain()(images(size)) - network(images(size))
    assert difference.abs().max() < 1e-11 * network(images(size)).abs().max()


@pytest.mark.parametrize("training", [True, False])
def test_relaxation_keeps_the_function_bit_for_bit_at_every_step(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the layers of torch. Compiled kernels work in the coordinates of the subgroup, and round otherwise."""
    monkeypatch.setattr(FusedConvolution, "takes", lambda *_: False)
    network, x = trained(residual()).float().train(training), images(9).float()
    expected = EquivariantNetwork(network.architecture).train(training)
    expected.load_state_dict(network.state_dict())
    y = expected(x)
    for layer in (-1, 4, 3, 2, 1, 0):
        for name in ("C4", "C2", "C1"):
            network = relax(network, layer, D4.subgroup(name))
            copied = inherit(network, network.architecture)
            assert torch.equal(copied(x), y)


@pytest.mark.parametrize("training", [True, False])
def test_relaxation_keeps_the_function_at_every_step(training: bool) -> None:
    network, x = trained(residual()).float().train(training), images(9).float()
    y = inherit(network, network.architecture)(x)
    for layer in (-1, 4, 3, 2, 1, 0):
        for name in ("C4", "C2", "C1"):
            network = relax(network, layer, D4.subgroup(name))
            found = inherit(network, network.architecture)(x)
            assert (found - y).abs().max() <= 1e-5 * y.abs().max()


@pytest.mark.parametrize("element", D4.elements)
def test_the_gradient_of_a_moved_image_is_the_moved_gradient(element: int) -> None:
    network, x = trained(residual()), images(9)
    y = torch.arange(len(x)) % 3
    still, after = (
        score_gradients(network, DataPart(z, y, nn.Identity(), CLASSIFICATION), 2)
        for z in (x, transform_images(x, D4, element))
    )
    for layer, before, moved in zip(network.convolutions, still, after, strict=True):
        expected = layer.space(D4.whole).action(element).toarray() @ before
        torch.testing.assert_close(torch.from_numpy(moved), torch.from_numpy(expected), rtol=1e-8, atol=1e-12)


def test_a_shortcut_adds_what_went_into_its_layers_to_the_first_fields() -> None:
    architecture = residual(size=9)
    network = trained(architecture)
    with torch.no_grad():
        for layer in (1, 2, 3, 4):  # convolutions that give nothing, and batch norms that leave nothing of the shift
            network.blocks[layer].conv.weights.weight.zero_()
            network.blocks[layer].norm.running_mean.zero_()
            network.blocks[layer].norm.bias.zero_()
        x = network.blocks[0](images(9))
        halved = network.blocks[2].pool(x)
        seen: list[Tensor] = []
        network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        network(images(9))
    torch.testing.assert_close(seen[0][:, : 2 * 8], halved)
    assert (seen[0][:, 2 * 8 :] == 0).all()


def test_the_head_is_given_means_and_then_maxima() -> None:
    network = trained(residual())
    x = torch.randn(4, 3 * 8, 5, 5, dtype=torch.float64)
    expected = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
    torch.testing.assert_close(network.head.statistics(x), expected)
    assert network.convolutions[-1].in_fields == 2 * 3
    assert sum(p.numel() for p in network.parameters()) == network.architecture.n_parameters


def test_values_go_through_json_and_old_ones_are_read() -> None:
    architecture = residual()
    assert Architecture.from_dict(architecture.to_dict()) == architecture
    old = {k: v for k, v in architecture.to_dict().items() if k not in ("shortcuts", "statistics")}
    read = Architecture.from_dict(old)
    assert (read.shortcuts, read.statistics) == ((0,) * 5, "mean")
    network = trained(architecture)
    again = network_from_state(architecture, network.float().state_dict())
    assert torch.equal(again(images(9).float()), network(images(9).float()))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"shortcuts": (0, 0, 2)}, "one entry for each of 5 layers"),
        ({"shortcuts": (1, 0, 0, 0, 0)}, "layer 1 must not begin at the image"),
        ({"shortcuts": (0, 2, 0, 0, 0)}, "layer 2 must not begin at the image"),
        ({"shortcuts": (0, 0, 0, 2, 0)}, "pass a pooling"),
        ({"shortcuts": (0, 0, 2, 2, 0), "pools": (True,) + (False,) * 4}, "overlap"),
        ({"shortcuts": (0, 0, 2, 0, 2), "fields": (2, 2, 2, 3, 1)}, "lead to fewer fields"),
        ({"shortcuts": (0, 0, -1, 0, 0)}, "layer 3"),
        ({"statistics": "median"}, "statistics='median' must be one of 'mean', 'mean and maximum'"),
    ],
)
def test_what_cannot_be_built_raises_an_error(shape: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        residual(**shape)
