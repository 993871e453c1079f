"""Laws of streams: each keeps its own symmetry and sees no other, and all are one convolution."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from skequinas.groups import PointGroup, pixel_elements
from skequinas.nn import Architecture, EquivariantNetwork, GroupConv2d, StreamedGroupConv2d, inherit, transform_images
from skequinas.nn.networks import network_from_state
from skequinas.nn.streams import fields_of_stream
from skequinas.training.optimizer import Muon

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
PAIRS = [("C4", "D1(90)"), ("D4", "C1"), ("D2", "C4", "C1"), ("D1", "D1")]


def architecture(names: tuple[str, ...], group: str = "D4", **own: object) -> Architecture:
    """Fields that no number of streams divides, a shortcut to more of them, and two statistics."""
    shape = {"fields": (3, 3, 4, 5), "shortcuts": (0, 0, 2, 0), "statistics": "mean and maximum", "hidden": 6}
    settings = shape | {"mixing": "streams", "constraints": (names,) * 5} | own
    layers = (3,) * 4, (False, False, True, False)
    return Architecture(group, 9, 2, 3, settings.pop("fields"), *layers, **settings)  # type: ignore[arg-type]


def network(names: tuple[str, ...], group: str = "D4", **own: object) -> EquivariantNetwork:
    """One whose batch norms and biases are not those of the start."""
    made = EquivariantNetwork(architecture(names, group, **own), torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    made(torch.randn(20, 2, 9, 9, generator=generator, dtype=torch.float64))
    return made.eval()


IMAGES = torch.randn(4, 2, 9, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def features(made: EquivariantNetwork, stream: int, images: torch.Tensor) -> torch.Tensor:
    """Of a stream, averaged over its own subgroup."""
    known = made.architecture.streams
    fields = made.features(images).unflatten(1, (-1, made.architecture.group.order))
    own = fields[:, fields_of_stream(stream, len(known), fields.shape[1], made.architecture.fields[-1])]
    return own[:, :, torch.tensor(known[stream].right_cosets)].mean(-1)


@given(n_streams=st.integers(1, 5), n_fields=st.integers(1, 20), n_periods=st.integers(1, 3))
def test_every_field_belongs_to_one_stream(n_streams: int, n_fields: int, n_periods: int) -> None:
    total = n_fields * n_periods
    own = [fields_of_stream(i, n_streams, total, n_fields) for i in range(n_streams)]
    assert sorted(f for fields in own for f in fields) == list(range(total))
    sizes = [len(fields) for fields in own]
    assert max(sizes) - min(sizes) <= n_periods
    assert all(own[f % n_fields % n_streams].count(f) == 1 for f in range(total))


@pytest.mark.parametrize("names", PAIRS, ids="/".join)
def test_each_stream_has_its_own_symmetry_and_no_more(names: tuple[str, ...]) -> None:
    made = network(names)
    for stream, h in enumerate(made.architecture.streams):
        still = features(made, stream, IMAGES)
        for g in D4.elements:
            change = (features(made, stream, transform_images(IMAGES, D4, g)) - still).abs().max().item()
            assert change < 1e-12 if g in h else change > 1e-3, (h, D4.element_name(g))


@pytest.mark.parametrize("names", PAIRS, ids="/".join)
def test_the_function_has_what_all_streams_have_in_common(names: tuple[str, ...]) -> None:
    made = network(names)
    symmetry = made.architecture.symmetry
    assert set(symmetry.elements) == set.intersection(*(set(h.elements) for h in made.architecture.streams))
    for g in D4.elements:
        change = (made(transform_images(IMAGES, D4, g)) - made(IMAGES)).abs().max().item()
        assert change < 1e-12 if g in symmetry else change > 1e-3


def test_constraints_may_differ_by_layer() -> None:
    constraints = (("D4", "C4"),) * 3 + (("C4", "C2"),) * 2
    made = network((), constraints=constraints)
    assert [h.name for h in made.architecture.streams] == ["C4", "C2"]
    assert made.architecture.symmetry.name == "C2"
    assert made.architecture.constraint_names[0] == "D4/C4"
    still = features(made, 0, IMAGES)
    torch.testing.assert_close(features(made, 0, transform_images(IMAGES, D4, 1)), still, rtol=0, atol=1e-12)


@pytest.mark.parametrize("group", ["C8", "D3"])
def test_groups_that_interpolate_have_streams_too(group: str) -> None:
    made = network((group, "C1"), group)
    whole = made.architecture.group
    still = features(made, 0, IMAGES)
    for g in pixel_elements(whole):
        moved = features(made, 0, transform_images(IMAGES, whole, g))
        torch.testing.assert_close(moved, still, rtol=0, atol=1e-9)


def test_no_stream_sees_another() -> None:
    made = network(("C4", "D1(90)"))
    for stream in (0, 1):
        made.zero_grad()
        features(made, stream, IMAGES).sum().backward()
        for conv in made.convolutions[:-1]:
            assert isinstance(conv, StreamedGroupConv2d)
            of_streams = [part.weights.weight.grad for part in conv.each]
            assert of_streams[stream] is not None
            assert float(of_streams[stream].abs().max()) > 0  # type: ignore[union-attr]
            other = of_streams[1 - stream]
            assert other is None or not other.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("regular_in", [False, True])
@pytest.mark.parametrize("n_out", [2, 5, 8])
def test_streams_are_one_convolution(n_out: int, regular_in: bool, dtype: torch.dtype) -> None:
    subgroups = [D4.whole, D4.subgroup("C2")]
    layer = StreamedGroupConv2d(subgroups, 7, n_out, 3, regular_in=regular_in).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += torch.randn_like(parameter)
    x = torch.randn(3, 7 * (8 if regular_in else 1), 6, 8, dtype=dtype, requires_grad=True)
    kernel, offset = layer.kernel(), layer.offset()
    assert kernel.shape == (n_out * 8, x.shape[1], 3, 3)
    y, expected = layer(x), F.conv2d(x, kernel, offset, padding=1)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(y, expected, **tolerance)
    torch.testing.assert_close(layer.without_offset(x), F.conv2d(x, kernel, padding=1), **tolerance)
    direction = torch.randn_like(y)
    inputs = [x, *layer.parameters()]
    own = torch.autograd.grad((y * direction).sum(), inputs)
    others = torch.autograd.grad((expected * direction).sum(), inputs)
    for one, other in zip(own, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 if dtype == torch.float32 else 1e-10)


def test_only_streams_that_biases_can_serve_have_them() -> None:
    layer = StreamedGroupConv2d([D4.whole, D4.subgroup("C2")], 2, 4, 3)
    assert [part.is_biased for part in layer.each] == [False, True]
    assert StreamedGroupConv2d([D4.whole, D4.whole], 2, 4, 3).offset() is None


def test_the_head_starts_as_large_as_one_without_streams() -> None:
    generator = torch.Generator().manual_seed(0)
    options = {"regular_out": False, "generator": generator}
    one = GroupConv2d(D4.trivial, 64, 400, 1, **options).kernel()
    streamed = StreamedGroupConv2d([D4.trivial] * 4, 64, 400, 1, **options).kernel()  # type: ignore[arg-type]
    assert streamed.std().item() == pytest.approx(one.std().item(), rel=0.02)


@pytest.mark.parametrize("hidden", [0, 6])
@pytest.mark.parametrize("names", PAIRS, ids="/".join)
def test_parameters_are_counted_and_read_back(names: tuple[str, ...], hidden: int) -> None:
    made = network(names, hidden=hidden)
    own = made.architecture
    assert own.n_parameters == sum(p.numel() for p in made.parameters())
    assert Architecture.from_dict(own.to_dict()) == own
    state = made.float().state_dict()
    again = network_from_state(own, state)
    assert torch.equal(again(IMAGES.float()), made(IMAGES.float()))
    torch.testing.assert_close(made.to_plain()(IMAGES.float()), made(IMAGES.float()), rtol=1e-4, atol=1e-4)
    weight = "blocks.1.conv.streams.1.weights.weight"
    with pytest.raises(ValueError, match=r"weights of blocks\.1"):
        network_from_state(own, state | {weight: state[weight][:1]})


def test_outputs_may_change_places() -> None:
    made = network(("C4", "C1"), hidden=0)
    order, signs = torch.tensor([2, 0, 1]), torch.tensor([1.0, -1.0, 1.0])
    assert torch.equal(made.with_outputs(order, signs)(IMAGES), made(IMAGES)[:, order] * signs)


def test_the_ordinary_network_takes_the_weights() -> None:
    made = network(("C4", "D1(90)"))
    free = inherit(made, made.architecture.unconstrained())
    assert not free.architecture.streams
    torch.testing.assert_close(free(IMAGES), made(IMAGES), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="cannot take over"):
        inherit(free, made.architecture)


def test_muon_turns_the_kernels_of_every_stream() -> None:
    made = network(("C4", "D1(90)")).float().train()
    kernels = {id(p) for p in Muon(made).param_groups[0]["params"]}
    streams = [part for conv in made.convolutions[:-1] for part in conv.each]  # type: ignore[attr-defined]
    assert kernels == {id(part.weights.weight) for part in streams}


def test_a_layer_needs_as_many_streams_as_the_others() -> None:
    with pytest.raises(ValueError, match=r"as many subgroups, two at least, in every layer.*D4/C1"):
        architecture((), constraints=(("D4", "C1"),) * 4 + ("D4",))
    with pytest.raises(ValueError, match="two at least"):
        architecture(("D4",))
    with pytest.raises(ValueError, match="head='free'"):
        architecture((), constraints=(("D4", "C1"),) * 4 + ("C1",), head="free")
    with pytest.raises(ValueError, match=r"fields=\(3, 3, 4, 5\) must be at least 4"):
        architecture(("D4", "C4", "C2", "C1"))
    with pytest.raises(ValueError, match="averaged=D4 is for networks without streams"):
        architecture(("D4", "C1"), averaged="D4")
    with pytest.raises(ValueError, match="period=3 is for heads"):
        StreamedGroupConv2d([D4.whole, D4.trivial], 6, 4, 3, period=3)
    with pytest.raises(ValueError, match="period=1 is for heads .* at least 2"):
        StreamedGroupConv2d([D4.whole, D4.trivial], 6, 4, 1, regular_out=False, period=1)
    with pytest.raises(ValueError, match="subgroups of one group"):
        StreamedGroupConv2d([D4.whole, PointGroup.from_name("C4").whole], 4, 4, 3)
    with pytest.raises(ValueError, match="in_fields=1"):
        StreamedGroupConv2d([D4.whole, D4.trivial], 1, 4, 3)
    assert not replace(architecture(("D4", "C1")), constraints=()).streams


def test_a_frame_leaves_no_stream_a_symmetry() -> None:
    with pytest.raises(ValueError, match="coordinates='frame' leaves no stream a symmetry"):
        architecture(("D4", "C4"), coordinates="frame")
    assert [h.name for h in architecture(("D4", "C4"), coordinates="radius").streams] == ["D4", "C4"]
