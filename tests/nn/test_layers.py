"""Laws of the layers: with what they commute, what relaxing keeps, and that a mixed layer is the sum it stands for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import EquivariantConv2d, GroupConv2d, MixedGroupConv2d, OrbitBatchNorm2d, SymmetricAvgPool2d

pytestmark = pytest.mark.usefixtures("one_thread")

Edge = tuple[Subgroup, Subgroup]
Act = Callable[..., Tensor]

D4 = PointGroup.from_name("D4")
FIELDS_IN, FIELDS_OUT = 2, 3
LAYERS: dict[str, dict[str, Any]] = {
    "lifting": {"kernel_size": 5, "regular_in": False},
    "hidden": {"kernel_size": 3},
    "hidden without bias": {"kernel_size": 3, "bias": False},
    "head": {"kernel_size": 1, "regular_out": False},
}


@pytest.fixture(params=list(LAYERS.values()), ids=list(LAYERS))
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Every form of a layer."""
    values: dict[str, Any] = request.param
    return values


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Draw all parameters, zero at the start or not, and all running statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith("running_var"):
                value.uniform_(0.5, 2, generator=generator)
            elif value.is_floating_point() and not name.endswith(("norms", "owner")):
                value.copy_(torch.randn(value.shape, generator=generator, dtype=value.dtype))


def layer_of(constraint: Subgroup, options: dict[str, Any], seed: int = 0) -> GroupConv2d:
    """A constrained layer in float64 with random weights and biases."""
    layer = GroupConv2d(constraint, FIELDS_IN, FIELDS_OUT, **options).double()
    randomize(layer, seed)
    return layer


def mixed_layer_of(constraints: tuple[Subgroup, ...], options: dict[str, Any]) -> MixedGroupConv2d:
    """A mixed layer in float64 with random biases, logits, and weights that have left their initial norms."""
    layer = MixedGroupConv2d(constraints, FIELDS_IN, FIELDS_OUT, **options).double()
    randomize(layer)
    return layer


def images_for(layer: EquivariantConv2d, size: int) -> Tensor:
    """Random input of a layer."""
    channels = layer.in_fields * (layer.constraints[0].group.order if layer.regular_in else 1)
    return torch.randn(2, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))


def equivariance_errors(
    act: Act,
    group: PointGroup,
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    regular_in: bool = True,
    regular_out: bool = True,
) -> list[float]:
    """For each element h, the largest difference between f(h x) and h f(x)."""
    dims_in, dims_out = ([1] if regular else [] for regular in (regular_in, regular_out))
    with torch.no_grad():
        y = f(x)
        return [
            float((f(act(x, group, h, *dims_in)) - act(y, group, h, *dims_out)).abs().max()) for h in group.elements
        ]


# Constrained convolutions


@pytest.mark.parametrize("size", [1, 4, 5, 8, 9])
def test_a_layer_commutes_with_exactly_the_elements_of_its_subgroup(
    subgroup: Subgroup, options: dict[str, Any], size: int, act: Act
) -> None:
    layer = layer_of(subgroup, options)
    x = images_for(layer, size)
    errors = equivariance_errors(act, subgroup.group, layer, x, layer.regular_in, layer.regular_out)
    assert max(errors[h] for h in subgroup.elements) <= 1e-10
    assert all(error > 1e-3 for h, error in enumerate(errors) if h not in subgroup)


def test_a_layer_does_not_commute_once_a_dense_bias_is_added(act: Act) -> None:
    layer = layer_of(D4.whole, LAYERS["hidden"])
    shift = torch.arange(24.0).reshape(24, 1, 1)
    assert min(equivariance_errors(act, D4, lambda x: layer(x) + shift, images_for(layer, 5))[1:]) > 1e-3


def test_a_layer_has_as_many_parameters_as_the_formula_says(subgroup: Subgroup, options: dict[str, Any]) -> None:
    layer = layer_of(subgroup, options)
    n, k, has_bias = subgroup.group.order, options["kernel_size"], options.get("bias", True)
    channels = (n if layer.regular_in else 1) * (n if layer.regular_out else 1)
    biases = FIELDS_OUT * (n // subgroup.order if layer.regular_out else 1)
    expected = FIELDS_IN * FIELDS_OUT * channels * k**2 // subgroup.order + has_bias * biases
    assert sum(p.numel() for p in layer.parameters()) == expected


def test_the_shapes_are_those_of_a_plain_convolution(subgroup: Subgroup, options: dict[str, Any]) -> None:
    layer = layer_of(subgroup, options)
    x = images_for(layer, 6)
    kernel, offset = layer.kernel(), layer.offset()
    assert layer(x).shape == (2, kernel.shape[0], 6, 6)
    assert kernel.shape[1] == x.shape[1]
    assert (offset is None) == (options.get("bias") is False)
    assert offset is None or offset.shape == kernel.shape[:1]
    assert torch.equal(layer(x), F.conv2d(x, kernel, offset, padding="same"))
    assert subgroup.name in repr(layer)


@pytest.mark.parametrize("make", [GroupConv2d, lambda h, *shape: MixedGroupConv2d([h], *shape)])
@pytest.mark.parametrize("name", ["C8", "D3", "D1(22.5)"])
def test_a_group_that_does_not_act_on_pixels_raises_an_error(make: Callable[..., nn.Module], name: str) -> None:
    with pytest.raises(ValueError, match="'C1', 'C2', 'C4', 'D1', 'D2' or 'D4'"):
        make(PointGroup.from_name(name).whole, 1, 1, 3)


@pytest.mark.parametrize(
    "make", [GroupConv2d, lambda h, *shape, **more: MixedGroupConv2d(D4.subgroups, *shape, **more)]
)
def test_a_seed_gives_the_same_weights_and_leaves_the_global_state_alone(make: Callable[..., nn.Module]) -> None:
    def weights(seed: int) -> Tensor:
        layer = make(D4.subgroup("C4"), 2, 3, 3, generator=torch.Generator().manual_seed(seed))
        return nn.utils.parameters_to_vector(layer.parameters())

    before = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_outputs_are_as_large_for_every_subgroup(subgroup: Subgroup) -> None:
    layer = GroupConv2d(subgroup, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 8 * subgroup.group.order, 12, 12, generator=torch.Generator().manual_seed(1))
    assert 1.0 < layer(x)[..., 1:-1, 1:-1].var() < 3.0  # 2, of which a rectifier leaves a second moment of 1


# Inheriting


def test_relaxing_a_layer_along_an_edge_keeps_its_kernel_and_bias_bit_for_bit(
    edge: Edge, options: dict[str, Any]
) -> None:
    parent, child = layer_of(edge[0], options, seed=0), layer_of(edge[1], options, seed=1)
    x = images_for(parent, 5)
    assert not torch.allclose(child(x), parent(x), atol=1e-3)
    child.inherit(parent)
    assert torch.equal(child.kernel(), parent.kernel())
    assert torch.equal(child(x), parent(x))
    assert options.get("bias") is False or torch.equal(child.offset(), parent.offset())


def test_relaxing_a_layer_down_to_C1_and_tightening_it_again_gives_it_back(
    chain: list[Subgroup], options: dict[str, Any]
) -> None:
    first = layer = layer_of(chain[0], options)
    for h in chain[1:]:
        layer, parent = layer_of(h, options, seed=1), layer
        layer.inherit(parent)
        assert torch.equal(layer.kernel(), first.kernel())
    last = layer_of(chain[0], options, seed=2)
    last.inherit(layer)
    for old, new in zip(first.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-14, atol=1e-14)


def test_a_layer_tightened_along_an_edge_is_the_mean_over_the_larger_subgroup(
    edge: Edge, options: dict[str, Any], act: Act
) -> None:
    parent, child = layer_of(edge[1], options, seed=0), layer_of(edge[0], options, seed=1)
    child.inherit(parent)
    x, group = images_for(parent, 5), edge[0].group
    dims_in, dims_out = ([1] if regular else [] for regular in (parent.regular_in, parent.regular_out))
    mean = torch.stack(
        [act(parent(act(x, group, group.inverse(h), *dims_in)), group, h, *dims_out) for h in edge[0].elements]
    ).mean(0)
    torch.testing.assert_close(child(x), mean, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(child(x), parent(x), atol=1e-3)


ANOTHER_SHAPE: dict[str, tuple[str, tuple[int, int, int], dict[str, Any]]] = {
    "fewer input fields": ("D4", (1, 3, 3), {}),
    "more input fields": ("D4", (4, 3, 3), {}),
    "fewer output fields": ("D4", (2, 1, 3), {}),
    "larger kernel": ("D4", (2, 3, 5), {}),
    "images with as many channels": ("D4", (16, 3, 3), {"regular_in": False}),
    "outputs as many as channels": ("D4", (2, 24, 3), {"regular_out": False}),
    "other search group": ("C4", (2, 3, 3), {}),
}


@pytest.mark.parametrize("case", ANOTHER_SHAPE)
def test_inheriting_from_a_layer_of_another_shape_raises_an_error(case: str) -> None:
    name, shape, more = ANOTHER_SHAPE[case]
    parent = GroupConv2d(PointGroup.from_name(name).whole, *shape, **more)
    with pytest.raises(ValueError, match="shape|different groups"):
        GroupConv2d(D4.subgroup("C4"), 2, 3, 3).inherit(parent)


def test_inheriting_from_a_layer_without_bias_gives_the_same_outputs() -> None:
    child = layer_of(D4.subgroup("C4"), LAYERS["hidden"])
    parent = layer_of(D4.whole, LAYERS["hidden without bias"])
    child.inherit(parent)
    x = images_for(parent, 5)
    assert torch.equal(child(x), parent(x))


# Mixed convolutions

MIXTURES = [
    D4.subgroups,
    (D4.whole, D4.subgroup("D1(45)")),
    (D4.subgroup("C4"), D4.subgroup("D2(45)"), D4.trivial),
    (D4.whole,),
]


@pytest.fixture(params=MIXTURES, ids=lambda mixture: "+".join(map(str, mixture)))
def mixture(request: pytest.FixtureRequest) -> tuple[Subgroup, ...]:
    """Some sets of subgroups of D4 to mix."""
    subgroups: tuple[Subgroup, ...] = request.param
    return subgroups


def part(layer: MixedGroupConv2d, i: int) -> GroupConv2d:
    """One subgroup of a mixed layer as a layer of its own: weights at their initial norm, biases as they are."""
    single = GroupConv2d(
        layer.constraints[i], layer.in_fields, layer.out_fields, layer.kernel_size,
        regular_in=layer.regular_in, regular_out=layer.regular_out, bias=layer.offset() is not None,
    ).double()  # fmt: skip
    with torch.no_grad():
        weight = layer.weights.parts()[i]
        single.weights.weight.copy_(weight / weight.square().sum().sqrt() * layer.norms[i])
        if layer.biases is not None:
            single.biases.weight.copy_(layer.biases.parts()[i])
        elif layer.output_bias is not None:
            single.output_bias.copy_(layer.output_bias)
    return single


def naive_forward(layer: MixedGroupConv2d, x: Tensor) -> Tensor:
    """One convolution for each subgroup, and the weighted sum of the outputs."""
    shares = torch.exp(layer.logits) / torch.exp(layer.logits).sum()
    total = torch.zeros((), dtype=x.dtype)
    for i, h in enumerate(layer.constraints):
        weight = layer.weights.parts()[i]
        single = GroupConv2d(
            h, layer.in_fields, layer.out_fields, layer.kernel_size,
            regular_in=layer.regular_in, regular_out=layer.regular_out, bias=False,
        )  # fmt: skip
        scaled = weight / weight.square().sum().sqrt() * layer.norms[i]
        y = F.conv2d(
            x, single.weights.spaces[0].sample(single.weights.spaces[0].expand(scaled)), padding=layer.kernel_size // 2
        )
        if layer.biases is not None:
            bias = layer.biases.spaces[i].expand(layer.biases.parts()[i])
            y = y + bias.reshape(-1, layer.out_fields).T.reshape(-1, 1, 1)
        total = total + shares[i] * y
    return total if layer.output_bias is None else total + layer.output_bias.reshape(-1, 1, 1)


@pytest.mark.parametrize("nothing", [-1e9, -torch.inf])
def test_a_mixed_layer_with_all_its_weight_on_one_subgroup_is_the_constrained_layer(
    subgroup: Subgroup, options: dict[str, Any], nothing: float, act: Act
) -> None:
    layer = mixed_layer_of(subgroup.group.subgroups, options)
    i = layer.constraints.index(subgroup)
    with torch.no_grad():
        layer.logits.fill_(nothing)
        layer.logits[i] = 0.0
    x = images_for(layer, 5)
    torch.testing.assert_close(layer(x), part(layer, i)(x), rtol=1e-12, atol=1e-12)
    errors = equivariance_errors(act, subgroup.group, layer, x, layer.regular_in, layer.regular_out)
    assert [error <= 1e-10 for error in errors] == [h in subgroup for h in subgroup.group.elements]


def test_a_mixed_layer_with_weight_on_all_subgroups_is_none_of_the_constrained_layers(options: dict[str, Any]) -> None:
    layer = mixed_layer_of(D4.subgroups, options)
    x = images_for(layer, 5)
    assert not any(torch.allclose(layer(x), part(layer, i)(x), atol=1e-3) for i in range(10))


def test_the_kernel_of_a_mixed_layer_is_the_weighted_sum(
    mixture: tuple[Subgroup, ...], options: dict[str, Any]
) -> None:
    layer = mixed_layer_of(mixture, options)
    shares = layer.shares()
    assert abs(shares.sum() - 1) < 1e-12
    assert (shares > 0).all()
    kernel = sum(share * part(layer, i).kernel() for i, share in enumerate(shares))
    torch.testing.assert_close(layer.kernel(), kernel, rtol=1e-12, atol=1e-12)


def test_a_mixed_layer_commutes_with_exactly_what_all_its_subgroups_share(
    mixture: tuple[Subgroup, ...], options: dict[str, Any], act: Act
) -> None:
    layer = mixed_layer_of(mixture, options)
    errors = equivariance_errors(act, D4, layer, images_for(layer, 6), layer.regular_in, layer.regular_out)
    for h, error in enumerate(errors):
        assert error <= 1e-10 if all(h in subgroup for subgroup in mixture) else error > 1e-3


def test_a_mixed_layer_and_its_gradients_are_those_of_one_convolution_for_each_subgroup(
    mixture: tuple[Subgroup, ...], options: dict[str, Any]
) -> None:
    layer = mixed_layer_of(mixture, options)
    x = images_for(layer, 5).requires_grad_()
    names, parameters = zip(*layer.named_parameters(), strict=True)
    target = torch.randn(layer(x).shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    outputs = layer(x), naive_forward(layer, x)
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    found, expected = (torch.autograd.grad((y * target).sum(), (x, *parameters)) for y in outputs)
    assert "logits" in names
    for name, a, b in zip(("x", *names), found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


def test_the_gradients_are_others_if_the_scale_to_the_initial_norm_is_taken_as_constant() -> None:
    layer = mixed_layer_of(D4.subgroups, LAYERS["hidden"])
    x, weight = images_for(layer, 5), layer.weights.parts()[0]
    scale = (layer.shares()[0] * layer.norms[0] / weight.norm()).detach()
    space = layer.weights.spaces[0]
    kernel = space.sample(space.expand(layer.weights.parts()[0] * scale))
    target = torch.randn(layer(x).shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gradients = (
        torch.autograd.grad((y * target).sum(), layer.weights.weight)[0][: len(weight)]
        for y in (F.conv2d(x, kernel, padding=1), layer(x))
    )
    constant, true = gradients
    assert (true - constant).norm() > 1e-3 * true.norm()
    assert abs((true * weight).sum()) < 1e-10 * true.norm() * weight.norm() < abs((constant * weight).sum())


def test_only_the_logits_set_the_shares_of_a_mixed_layer() -> None:
    layer = mixed_layer_of(D4.subgroups, LAYERS["hidden"])
    before = layer.kernel()
    with torch.no_grad():
        for i, weights in enumerate(layer.weights.parts()):
            weights.mul_(i + 0.5)
    torch.testing.assert_close(layer.kernel(), before, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        layer.logits[0] += 1.0
    assert not torch.allclose(layer.kernel(), before, atol=1e-3)


@pytest.mark.parametrize("favour", [2.0, 0.0, 5.0])
def test_a_mixed_layer_starts_with_its_first_subgroup_ahead(favour: float) -> None:
    layer = MixedGroupConv2d(D4.subgroups, 2, 3, 3, favour=favour)
    assert layer.logits.tolist() == [0.0] + [-favour] * 9
    torch.testing.assert_close(layer.shares()[0] / layer.shares()[1:], torch.full((9,), favour).exp())


@pytest.mark.parametrize("out_fields", [2, 4])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_mixed_layer_may_give_its_input_again_and_that_obeys_every_symmetry(
    out_fields: int, kernel_size: int, act: Act
) -> None:
    layer = MixedGroupConv2d(D4.subgroups, 2, out_fields, kernel_size, skip=True).double()
    assert len(layer.logits) == 11
    assert layer.shares().sum().item() == pytest.approx(1 - layer.logits.softmax(0)[-1].item())
    without = copy.deepcopy(layer)
    without.skip = False
    x = images_for(layer, 5)
    share = layer.logits.softmax(0)[-1]
    again = x.repeat(1, out_fields // 2, 1, 1)
    torch.testing.assert_close(layer(x), without(x) + share * again, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        layer.logits.fill_(-1e9)
        layer.logits[-1] = 0.0
    torch.testing.assert_close(layer(x), again, rtol=0, atol=0)
    assert max(equivariance_errors(act, D4, layer, x, True, True)) == 0
    layer(x).square().sum().backward()
    assert layer.logits.grad is not None


@pytest.mark.parametrize(
    "shape", [{"regular_in": False}, {"regular_out": False}, {"in_fields": 2, "out_fields": 3}, {"basis": "harmonic"}]
)
def test_a_layer_without_an_input_that_could_be_its_output_has_no_skip(shape: dict[str, Any]) -> None:
    own: dict[str, Any] = {"in_fields": 2, "out_fields": 2, "kernel_size": 5} | shape
    with pytest.raises(ValueError, match="skip=True needs fields in and out"):
        MixedGroupConv2d(D4.subgroups, **own, skip=True)


def test_a_mixture_of_no_subgroups_raises_an_error() -> None:
    with pytest.raises(ValueError, match="subgroup"):
        MixedGroupConv2d((), 2, 3, 3)


@pytest.mark.parametrize("target", D4.subgroups, ids=str)
def test_tightening_a_mixed_layer_gives_the_nearest_constrained_layer(
    mixture: tuple[Subgroup, ...], target: Subgroup, options: dict[str, Any]
) -> None:
    parent, child = mixed_layer_of(mixture, options), layer_of(target, options)
    child.inherit(parent)
    residue = parent.kernel() - child.kernel()
    assert abs((residue * child.kernel()).sum()) < 1e-10
    assert (residue.norm() < 1e-12) == all(target <= h for h in mixture)


# Batch norm and pooling


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("name", ["C4", "D4", "D1(90)", "D2(45)"])
def test_batch_norm_commutes_with_the_whole_group(name: str, size: int, training: bool, act: Act) -> None:
    group = PointGroup.from_name(name)
    norm = OrbitBatchNorm2d(group, FIELDS_IN).double().train(training)
    randomize(norm)
    x = torch.randn(3, FIELDS_IN * group.order, size, size, dtype=torch.float64)
    assert max(equivariance_errors(act, group, norm, x)) <= 1e-10


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_over_channels_does_not_commute(training: bool, act: Act) -> None:
    norm = nn.BatchNorm2d(FIELDS_IN * 8).double().train(training)
    randomize(norm)
    assert min(equivariance_errors(act, D4, norm, torch.randn(3, FIELDS_IN * 8, 5, 5, dtype=torch.float64))[1:]) > 1e-3


def test_batch_norm_normalises_each_field_over_the_group_and_keeps_running_statistics() -> None:
    norm = OrbitBatchNorm2d(D4, 2).double()
    x = torch.randn(3, 16, 5, 5, dtype=torch.float64) * torch.arange(1.0, 17).reshape(16, 1, 1) + 7
    fields = x.reshape(3, 2, 8, 5, 5)
    mean, var = (statistic((0, 2, 3, 4)) for statistic in (fields.mean, fields.var))
    y = norm(x).reshape(fields.shape)
    torch.testing.assert_close(y.mean((0, 2, 3, 4)), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(y.var((0, 2, 3, 4), correction=0), torch.ones(2, dtype=torch.float64), rtol=1e-5, atol=0)
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * var)
    assert y[:, :, 0].var() < 0.5
    assert y[:, :, -1].var() > 1.5
    assert sum(p.numel() for p in norm.parameters()) == 4


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("fields", [1, 3])
@pytest.mark.parametrize("name", ["C1", "C4", "D4"])
def test_batch_norm_and_its_gradients_are_those_of_a_view_with_a_field_in_one_dimension(
    name: str, fields: int, size: int, memory_format: torch.memory_format
) -> None:
    group = PointGroup.from_name(name)
    norm = OrbitBatchNorm2d(group, fields).double()
    randomize(norm)
    shape = (5, fields * group.order, size, size)
    generator = torch.Generator().manual_seed(0)
    x, target = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    x = x.contiguous(memory_format=memory_format).requires_grad_()
    running = norm.running_mean.clone(), norm.running_var.clone()
    view = x.reshape(5, fields, group.order * size, size)
    expected = F.batch_norm(view, *running, norm.weight, norm.bias, True).reshape(shape)
    outputs = norm(x), expected
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((norm.running_mean, norm.running_var), running, rtol=1e-12, atol=1e-12)
    found, wanted = (torch.autograd.grad((y * target).sum(), (x, norm.weight, norm.bias)) for y in outputs)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("fields", [1, 3])
@pytest.mark.parametrize("name", ["C1", "C4", "D4"])
def test_an_offset_given_to_batch_norm_is_one_added_before(
    name: str, fields: int, memory_format: torch.memory_format, training: bool
) -> None:
    group = PointGroup.from_name(name)
    channels = fields * group.order
    generator = torch.Generator().manual_seed(0)
    norms = [OrbitBatchNorm2d(group, fields).double().train(training) for _ in range(2)]
    randomize(norms[0])
    norms[1].load_state_dict(norms[0].state_dict())
    x, target = (torch.randn((5, channels, 3, 3), generator=generator, dtype=torch.float64) for _ in range(2))
    x = x.contiguous(memory_format=memory_format).requires_grad_()
    offset = torch.randn(channels, generator=generator, dtype=torch.float64).requires_grad_()
    outputs = norms[0](x, offset), norms[1](x + offset.reshape(-1, 1, 1))
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norms[0].state_dict(), norms[1].state_dict(), rtol=1e-12, atol=1e-12)
    found, wanted = (
        torch.autograd.grad((y * target).sum(), (x, offset, norm.weight, norm.bias))
        for y, norm in zip(outputs, norms, strict=True)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_batch_norm_of_half_precision_rounds_its_input_and_output_alone(
    with_offset: bool, memory_format: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, target = (torch.randn((6, 24, 9, 9), generator=generator) for _ in range(2))
    x = (x + 3).to(torch.bfloat16).contiguous(memory_format=memory_format)
    offset = torch.randn(24, generator=generator) if with_offset else None
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        norm = OrbitBatchNorm2d(D4, 3)
        randomize(norm, seed=1)
        inputs = x.to(dtype).requires_grad_()
        y = norm(inputs, offset)
        assert y.dtype == dtype
        gradients = torch.autograd.grad((y.float() * target).sum(), (inputs, norm.weight, norm.bias))
        found.append([y.detach().float(), *(g.float() for g in gradients), norm.running_mean, norm.running_var])
    for half, single in zip(*found, strict=True):
        torch.testing.assert_close(half, single, rtol=0.02, atol=0.02 * float(single.abs().max()))
    torch.testing.assert_close(found[0][-2:], found[1][-2:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", range(1, 13))
def test_pooling_commutes_with_D4_at_every_size(size: int, act: Act) -> None:
    pool, x = SymmetricAvgPool2d(), torch.randn(2, 16, size, size, dtype=torch.float64)
    assert pool(x).shape[-2:] == ((size + 1) // 2,) * 2
    assert max(equivariance_errors(act, D4, pool, x)) <= 1e-14


@pytest.mark.parametrize(
    ("window", "sizes"),
    [((3, 2, 1), range(4, 13, 2)), ((2, 2, 0), range(3, 13, 2))],
    ids=["3x3, even side", "2x2, odd side"],
)
def test_pooling_with_the_other_window_commutes_with_the_main_diagonal_alone(
    window: tuple[int, int, int], sizes: range, act: Act
) -> None:
    for size in sizes:
        x = torch.randn(2, 16, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        errors = equivariance_errors(act, D4, lambda x: F.avg_pool2d(x, *window), x)
        assert [error < 1e-3 for error in errors] == [h in D4.subgroup("D1(135)") for h in D4.elements]


def test_layers_can_be_copied(options: dict[str, Any]) -> None:
    for layer in (layer_of(D4.subgroup("C4"), options), mixed_layer_of(D4.subgroups, options)):
        other = copy.deepcopy(layer)
        x = images_for(layer, 5)
        assert torch.equal(other(x), layer(x))
        randomize(other, seed=9)
        assert not torch.allclose(other(x), layer(x), atol=1e-3)
