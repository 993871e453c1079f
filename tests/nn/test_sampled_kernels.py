"""Laws of compiled convolutions for kernels of other bases, and for subgroups with finer turns than those of pixels."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from skequinas.groups import PointGroup, Subgroup, pixel_elements
from skequinas.nn import GroupConv2d
from skequinas.nn.kernels.fused import FusedConvolution, on_pixels
from skequinas.nn.transforms import transform_images
from skequinas.runtime.compiled import compiled

pytestmark = pytest.mark.skipif(compiled() is None, reason="no compiler built the kernels here")

NAMES = "D4", "C4", "D8", "C8", "D6", "C6", "D3", "D1(0)"
SUBGROUPS = [h for name in NAMES for h in PointGroup.from_name(name).subgroups if on_pixels(h).order > 1]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def outcome(layer: GroupConv2d, x: Tensor) -> list[Tensor]:
    x = x.to(layer.weights.weight.dtype).requires_grad_()
    y = layer(x)
    grad = drawn(*y.shape, seed=1).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], grad)]


def test_the_part_that_permutes_pixels() -> None:
    D8, D6, C3 = (PointGroup.from_name(name) for name in ("D8", "D6", "C3"))
    assert [on_pixels(D8.subgroup(h)).name for h in ("D8", "C8", "D4(0)", "D4(22.5)", "D2(67.5)", "C1")] == [
        *("D4(0)", "C4", "D4(0)", "C4", "C2", "C1")
    ]
    assert set(on_pixels(D6.whole).elements) == set(pixel_elements(D6))
    assert on_pixels(C3.whole).order == 1


@pytest.mark.parametrize("subgroup", SUBGROUPS, ids=lambda h: f"{h.group.name}>{h.name}")
@pytest.mark.parametrize(("sides", "kernel_size"), [((7, 6), 3), ((5, 5), 5), ((3, 4), 1)])
def test_outputs_and_gradients_are_those_of_torch(
    subgroup: Subgroup, sides: tuple[int, int], kernel_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    original = FusedConvolution.convolve
    monkeypatch.setattr(
        FusedConvolution, "convolve", lambda self, *a, **k: (calls.append(self.sampled), original(self, *a, **k))[1]
    )
    layer = GroupConv2d(subgroup, 2, 3, kernel_size, basis="harmonic", generator=torch.Generator().manual_seed(2))
    x = drawn(6, 2 * subgroup.group.order, *sides)
    found = outcome(layer, x)
    assert calls == [True, True]  # forward, and the gradient by the inputs
    expected = outcome(copy.deepcopy(layer).double(), x)
    assert len(calls) == 2
    for own, other in zip(found, expected, strict=True):
        assert (own.double() - other).abs().max() <= 1e-5 * other.abs().max()


@pytest.mark.parametrize("name", ["D8", "C8", "D6"])
def test_outputs_move_with_the_inputs_under_what_permutes_pixels(name: str) -> None:
    group = PointGroup.from_name(name)
    layer = GroupConv2d(group.whole, 2, 2, 3, basis="harmonic", generator=torch.Generator().manual_seed(3))
    x = drawn(8, 2 * group.order, 6, 6)
    with torch.no_grad():
        y = layer(x)
        for h in on_pixels(group.whole).elements:
            order = torch.tensor(group.table[group.inverse(h)].tolist())

            def moved(v: Tensor, h: int = h, order: Tensor = order) -> Tensor:
                return transform_images(v, group, h).unflatten(1, (-1, group.order))[:, :, order].flatten(1, 2)

            assert torch.allclose(layer(moved(x)), moved(y), atol=1e-5)


def test_a_single_pixel_knows_every_group() -> None:
    D8 = PointGroup.from_name("D8")
    layer = GroupConv2d(D8.whole, 2, 3, 1)
    assert layer._fused is not None
    assert layer._fused.sampled
    x = drawn(5, 32, 4, 4)
    for own, other in zip(outcome(layer, x), outcome(copy.deepcopy(layer).double(), x), strict=True):
        assert (own.double() - other).abs().max() <= 1e-5 * other.abs().max()
