"""Laws of nearly constrained convolutions: how a kernel falls into parts, and what they keep."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import Architecture, EquivariantNetwork, GroupConv2d, KernelSpace, ResidualGroupConv2d, inherit
from skequinas.nn.residual import kept_by_parts

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
START = Architecture(D4, 9, 1, 3, (2, 3), (3, 3), (True, False))
SOFT = replace(START.with_constraints(((D4.whole, D4.trivial),) * 3), mixing="residual")
TYPES = [(False, True), (True, True), (True, False)]


def layer_of(constraint: Subgroup, regular: tuple[bool, bool] = (True, True), **options: object) -> ResidualGroupConv2d:
    generator = torch.Generator().manual_seed(0)
    size = 3 if regular[1] else 1
    shape: dict[str, object] = {"in_fields": 2, "out_fields": 3, "kernel_size": size, "generator": generator}
    shape |= {"regular_in": regular[0], "regular_out": regular[1]}
    return ResidualGroupConv2d(constraint, **shape | options).double()  # type: ignore[arg-type]


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 1, 9, 9, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("C1", []), ("D1(0)", ["C1"]), ("C4", ["C2", "C1"]), ("D2(0)", ["C2", "D1(0)", "D1(90)"]),
        ("D4", ["C4", "D2(0)", "D2(45)", "C1"]),
        ("C8", ["C4", "C2", "C1"]), ("D3", ["C3", "C1"]), ("D8", ["C8", "D4(0)", "D4(22.5)", "C2", "C1"]),
    ],
)  # fmt: skip
def test_a_part_keeps_the_kernel_of_a_representation(name: str, expected: list[str]) -> None:
    group = PointGroup.from_name(name)
    assert [h.name for h in kept_by_parts(group.whole)] == expected


@pytest.mark.parametrize("regular", TYPES, ids=str)
@pytest.mark.parametrize("basis", ["pixel", "harmonic"])
def test_parts_are_orthogonal_and_sum_to_the_kernel(subgroup: Subgroup, regular: tuple[bool, bool], basis: str) -> None:
    layer = layer_of(subgroup, regular, basis=basis, normalised=False)
    with torch.no_grad():
        layer.weights.parts()[1].mul_(1e3)
        own, *parts = layer._weighted(layer.weights)
        v = layer.weights.parts()[1]

    def space(h: Subgroup) -> KernelSpace:
        return layer.space(h)

    torch.testing.assert_close(own, space(subgroup).expand(layer.weights.parts()[0]))
    projected = space(subgroup).expand(space(subgroup).tighten(v))
    torch.testing.assert_close(sum(parts, start=projected), v)
    everything = [projected, *parts]
    for i, one in enumerate(everything):
        for other in everything[:i]:
            assert abs(float((one * other).detach().sum())) < 1e-9
    for kept, part in zip(layer.parts, parts, strict=True):
        assert part.norm() > 0.1
        torch.testing.assert_close(space(kept).expand(space(kept).tighten(part)), part)  # it keeps this
        for larger in (subgroup, *layer.parts):
            if kept < larger:
                assert space(larger).tighten(part).abs().max() < 1e-12  # and nothing more
    torch.testing.assert_close(layer.coefficients(), own + v - projected)


@pytest.mark.parametrize("regular", TYPES, ids=str)
def test_gamma_is_the_norm_of_a_part_relative_to_the_equivariant_kernel(regular: tuple[bool, bool]) -> None:
    layer = layer_of(D4.whole, regular)
    gammas = torch.tensor([0.3, 0.0, 1.5, 0.2], dtype=torch.float64)
    with torch.no_grad():
        assert layer.gammas is not None
        assert float(layer.gammas.norm()) == pytest.approx(1.0)
        layer.gammas.copy_(gammas)
        own, *parts = layer._weighted(layer.weights)
    torch.testing.assert_close(torch.stack([part.norm() / own.norm() for part in parts]), gammas)
    shares = layer.named_shares()
    assert list(shares) == [D4.whole, *layer.parts]
    expected = torch.cat([torch.ones(1, dtype=torch.float64), gammas.square()])
    torch.testing.assert_close(torch.tensor(list(shares.values()), dtype=torch.float64), expected / expected.sum())


@pytest.mark.parametrize("regular", TYPES, ids=str)
@pytest.mark.parametrize("normalised", [True, False])
def test_gradients_are_those_of_the_function(regular: tuple[bool, bool], normalised: bool) -> None:
    layer = layer_of(D4.whole, regular, normalised=normalised, in_fields=1, out_fields=1)
    n_in, n_out = (8**is_regular for is_regular in regular)
    with torch.no_grad():
        layer.weights.parts()[1].mul_(1 if normalised else 1e3)
    names = [name for name, _ in layer.named_parameters()]
    weights = torch.randn(n_out, n_in, *(layer.kernel_size,) * 2, dtype=torch.float64)

    def found(*values: Tensor) -> Tensor:
        kernel = torch.func.functional_call(
            _Kernel(layer), {f"layer.{n}": v for n, v in zip(names, values, strict=True)}, ()
        )
        return (kernel * weights).sum()

    if normalised:  # the norm of w is taken as it is: it does not count
        w, v = layer.weights.parts()
        assert layer.gammas is not None
        (grad_w,) = torch.autograd.grad((layer.kernel() * weights).sum(), layer.weights.weight, retain_graph=True)
        radial = (grad_w[len(w) :] * v.detach()).sum()
        assert abs(float(radial)) < 1e-9  # nor does the norm of each part of v
        (grad,) = torch.autograd.grad((layer.kernel() * weights).sum(), layer.gammas)
        for i in range(len(grad)):
            with torch.no_grad():
                layer.gammas[i] += 1
                after = (layer.kernel() * weights).sum()
                layer.gammas[i] -= 1
                torch.testing.assert_close(grad[i], after - (layer.kernel() * weights).sum())
        return
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(found, values)


class _Kernel(torch.nn.Module):
    def __init__(self, layer: ResidualGroupConv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> Tensor:
        return self.layer.kernel()


def test_without_gammas_the_network_is_the_constrained_one() -> None:
    soft = EquivariantNetwork(SOFT, torch.Generator().manual_seed(0))
    x = images()
    assert not torch.allclose(soft.eval()(x), soft(x.rot90(1, (2, 3))), atol=1e-3)
    with torch.no_grad():
        for layer in soft.convolutions:
            assert isinstance(layer, ResidualGroupConv2d)
            assert layer.gammas is not None
            layer.gammas.zero_()
    child = inherit(soft, START)
    assert all(isinstance(layer, GroupConv2d) for layer in child.convolutions)
    torch.testing.assert_close(child(x), soft(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(soft(x.rot90(1, (2, 3))), soft(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(soft(x.flip(3)), soft(x), rtol=0, atol=1e-5)


def test_one_gamma_alone_breaks_what_its_part_does_not_keep() -> None:
    soft = EquivariantNetwork(SOFT, torch.Generator().manual_seed(0)).eval()
    x = images()
    for number, kept in enumerate(kept_by_parts(D4.whole)):
        with torch.no_grad():
            for layer in soft.convolutions:
                assert isinstance(layer, ResidualGroupConv2d)
                assert layer.gammas is not None
                layer.gammas.zero_()
                layer.gammas[number] = 1.0
        turned = torch.allclose(soft(x.rot90(1, (2, 3))), soft(x), rtol=0, atol=1e-5)
        upside_down = torch.allclose(soft(x.rot90(2, (2, 3))), soft(x), rtol=0, atol=1e-5)
        mirrored = torch.allclose(soft(x.flip(3)), soft(x), rtol=0, atol=1e-5)
        diagonally = torch.allclose(soft(x.mT), soft(x), rtol=0, atol=1e-5)
        expected = {
            "C4": (True, True, False, False),
            "D2(0)": (False, True, True, False),
            "D2(45)": (False, True, False, True),
            "C1": (False, False, False, False),
        }
        assert (turned, upside_down, mirrored, diagonally) == expected[kept.name]


@pytest.mark.parametrize("mixing", ["residual", "pathway"])
def test_networks_with_residuals_are_values_like_others(mixing: str) -> None:
    architecture = replace(SOFT, mixing=mixing)
    network = EquivariantNetwork(architecture, torch.Generator().manual_seed(0)).eval()
    x = images()
    assert sum(p.numel() for p in network.parameters()) == architecture.n_parameters
    assert Architecture.from_dict(architecture.to_dict()) == architecture
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(x), network(x))
    torch.testing.assert_close(network.to_plain()(x), network(x), rtol=1e-4, atol=1e-5)
    again = EquivariantNetwork(architecture, torch.Generator().manual_seed(1)).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x), network(x))
    assert {name: list(shares) for name, shares in network.shares().items()} == {
        name: ["D4", "C4", "D2(0)", "D2(45)", "C1"] for name in architecture.layer_names
    }


def test_what_residuals_mean_is_told_where_it_is_unclear() -> None:
    assert replace(START, mixing="residual") == START  # without any there is no difference
    with pytest.raises(ValueError, match=r"mixing='soft' must be one of 'shares', 'residual', 'pathway'"):
        replace(SOFT, mixing="soft")
    with pytest.raises(ValueError, match=r"mixing='residual' needs a subgroup and C1 .* has D4, C4, C1"):
        START.with_constraints(((D4.whole, D4.subgroup("C4"), D4.trivial),) * 3).__class__(
            **START.to_dict() | {"constraints": [["D4", "C4", "C1"]] * 3, "mixing": "residual"}
        )
