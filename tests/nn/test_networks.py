"""Laws of whole networks: invariance, relaxation, projection, export, and architectures as values."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from functools import cache
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import (
    Architecture,
    Constraint,
    EquivariantNetwork,
    GroupConv2d,
    MixedGroupConv2d,
    SymmetricAvgPool2d,
    default_architecture,
    inherit,
    paper_architecture,
    plain_architecture,
    relax,
    transform_images,
)

pytestmark = pytest.mark.usefixtures("one_thread")

Edge = tuple[Subgroup, Subgroup]
Act = Callable[..., Tensor]

C4, D4 = PointGroup.from_name("C4"), PointGroup.from_name("D4")
SIZES = [8, 9, 27, 28, 29, 32]


def architecture_of(
    *constraints: Constraint, group: PointGroup = D4, image_size: int = 9, **shape: Any
) -> Architecture:
    """A small architecture: two hidden layers that pool, and the head."""
    values = {
        "in_channels": 2,
        "n_outputs": 3,
        "fields": (2, 3),
        "kernel_sizes": (5, 3),
        "pools": (True, True),
        **shape,
    }
    return Architecture(group, image_size, constraints=constraints, **values)


def images_for(architecture: Architecture, n: int = 4, seed: int = 0) -> Tensor:
    """Random images with structure at all scales: noise and a random slope."""
    generator = torch.Generator().manual_seed(seed)
    size, channels = architecture.image_size, architecture.in_channels
    noise = torch.randn(n, channels, size, size, dtype=torch.float64, generator=generator)
    slope = torch.randn(n, channels, 2, dtype=torch.float64, generator=generator)
    ramp = torch.linspace(-2, 2, size, dtype=torch.float64)
    return noise + slope[..., :1, None] * ramp + slope[..., 1:, None] * ramp[:, None]


@cache
def trained(architecture: Architecture) -> EquivariantNetwork:
    """A network in eval mode and float64 after a few steps of training. Shared by the tests: not to be changed."""
    # a seed with which no small random network is nearly more symmetric than it must be
    network = EquivariantNetwork(architecture, torch.Generator().manual_seed(2)).double()
    for name, parameter in network.named_parameters():
        if name.endswith("logits"):
            parameter.data.zero_()  # equal shares, so that no subgroup's part is lost in the others
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    x = images_for(architecture, 4, seed=1)
    y = torch.randn(4, architecture.n_outputs, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for _ in range(3):
        optimizer.zero_grad()
        (network(x) - y).square().mean().backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def invariance_errors(network: nn.Module, group: PointGroup, x: Tensor) -> list[float]:
    """For each element h, the largest difference between f(h x) and f(x), relative to the spread of the outputs."""
    y = network(torch.cat([transform_images(x, group, h) for h in group.elements])).unflatten(0, (group.order, -1))
    return [float(error) for error in (y - y[0]).abs().amax((1, 2)) / y.std()]


def assert_same_function(a: EquivariantNetwork, b: EquivariantNetwork) -> None:
    """Equal outputs in eval and in training mode, to 1e-12 relative, and equal running statistics after it."""
    x = images_for(a.architecture)
    for training in (False, True):
        outputs = [copy.deepcopy(network).train(training)(x) for network in (a, b)]
        assert (outputs[0] - outputs[1]).abs().max() <= 1e-12 * outputs[0].abs().max()
    norms = [copy.deepcopy(network).blocks[0].norm.state_dict() for network in (a, b)]
    assert all(torch.equal(norms[0][key], norms[1][key]) for key in norms[0])


def parameters_by_formula(a: Architecture) -> int:
    """The number of free parameters, from the orders of the subgroups alone."""
    g, total = a.group.order, 0
    widths = [a.in_channels, *a.fields, a.hidden or a.n_outputs]
    for i, constraint in enumerate(a.constraints):
        lifting, head = i == 0, i == len(a.fields)
        subgroups = constraint if isinstance(constraint, tuple) else (constraint,)
        dense = widths[i] * widths[i + 1] * g ** (2 - lifting - head) * (1 if head else a.kernel_sizes[i] ** 2)
        total += sum(dense // h.order for h in subgroups)
        if head and not a.hidden:
            total += a.n_outputs
        elif head:
            total += 2 * a.hidden + (a.hidden + 1) * a.n_outputs  # batch norm and the dense layer
        else:
            total += 2 * widths[i + 1]  # batch norm
            if constraint != a.group.whole:
                total += sum(widths[i + 1] * g // h.order for h in subgroups)
        if isinstance(constraint, tuple):
            total += len(subgroups)  # the logits
    return total


# Invariance

CASES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "only the head broken": ("D4", ("D4", "D4", "C1")),
    "only the head, to mirrors": ("D4", ("D4", "D4", "D1(90)")),
    "only the first layer broken": ("D4", ("D1(0)", "D4", "D4")),
    "three that share C2": ("D4", ("D4", "C4", "D2(0)")),
    "three that share nothing": ("D4", ("C4", "D2(45)", "D1(45)")),
    "mixed, sharing C4": ("D4", (("D4", "C4"), "D4", "C4")),
    "mixed, sharing D1(45)": ("D4", (("D4", "D2(45)"), ("D4", "D1(45)"), ("D4",))),
    "all of C4 mixed": ("C4", (("C4", "C2", "C1"),) * 3),
} | {
    f"all {h} of {group}": (group, (h.name,) * 3)
    for group in ("C4", "D4", "D1(90)", "D2(45)")
    for h in PointGroup.from_name(group).subgroups
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Callable[[int], Architecture]:
    """Return a network of the case as a function of the image size."""
    name, constraints = CASES[request.param]
    group = PointGroup.from_name(name)
    subgroups = [group.subgroup(c) if isinstance(c, str) else tuple(map(group.subgroup, c)) for c in constraints]
    return lambda size: architecture_of(*subgroups, group=group, image_size=size)


@pytest.mark.parametrize("size", [8, 9, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in SIZES if n > 9)])
def test_a_trained_network_is_invariant_to_exactly_what_its_constraints_share(
    case: Callable[[int], Architecture], size: int
) -> None:
    architecture = case(size)
    group, constraints = architecture.group, architecture.constraints
    flat = [h for c in constraints for h in (c if isinstance(c, tuple) else (c,))]
    shared = set.intersection(*(set(h.elements) for h in flat))
    assert set(architecture.symmetry.elements) == shared
    for h, error in enumerate(invariance_errors(trained(architecture), group, images_for(architecture))):
        assert error <= 1e-10 if h in shared else error > 1e-3


def test_a_network_that_pools_3x3_windows_of_an_even_side_is_not_invariant() -> None:
    architecture = architecture_of(image_size=28)
    network = copy.deepcopy(trained(architecture))
    network.blocks[0].pool = nn.AvgPool2d(3, 2, 1)
    errors = invariance_errors(network, D4, images_for(architecture))
    assert [error < 1e-3 for error in errors] == [h in D4.subgroup("D1(135)") for h in D4.elements]


# Export


@pytest.mark.parametrize("size", [9, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in SIZES if n != 9)])
def test_the_export_is_the_same_function_of_plain_torch_layers(case: Callable[[int], Architecture], size: int) -> None:
    architecture = case(size)
    network, x = copy.deepcopy(trained(architecture)).float(), images_for(architecture).float()
    plain = network.to_plain()
    assert (plain(x) - network(x)).abs().max() <= 1e-5 * network(x).abs().max()
    kinds = {type(module) for module in plain}
    assert kinds == {nn.Conv2d, nn.ReLU, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear}
    assert not plain.training
    assert not any(module.training for module in plain)


def test_the_export_is_exact_in_float64_a_copy_and_that_of_the_eval_mode() -> None:
    architecture = architecture_of(D4.whole, D4.subgroup("C4"), D4.subgroup("C2"))
    network, x = copy.deepcopy(trained(architecture)), images_for(architecture)
    plain = network.to_plain()
    before = network(x).detach()
    torch.testing.assert_close(plain(x), before, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(network.train()(x), plain(x), atol=1e-3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(plain(x), before, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(network.eval()(x), plain(x), atol=1e-3)


# Relaxing


@pytest.mark.parametrize("layer", [0, -1, *(pytest.param(i, marks=pytest.mark.exhaustive) for i in (1, 2))])
def test_relaxing_any_layer_along_an_edge_keeps_the_function(edge: Edge, layer: int) -> None:
    constraints = [edge[0].group.whole] * 3
    constraints[layer] = edge[0]
    parent = trained(architecture_of(*constraints, group=edge[0].group))
    before = copy.deepcopy(parent.state_dict())
    child = relax(parent, layer, edge[1])
    assert child.architecture == parent.architecture.relaxed(layer, edge[1])
    assert not child.training
    assert [conv.constraints[0] for conv in child.convolutions] == list(child.architecture.constraints)
    for old, new in zip(parent.convolutions, child.convolutions, strict=True):
        assert torch.equal(new.kernel(), old.kernel())
    assert_same_function(parent, child)
    for network in (parent, child):
        count = parameters_by_formula(network.architecture)
        assert count == network.architecture.n_parameters == sum(p.numel() for p in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in parent.state_dict().items())


@pytest.mark.parametrize("size", [9, pytest.param(8, marks=pytest.mark.exhaustive)])
def test_relaxing_all_layers_down_to_C1_keeps_the_function_at_every_step(chain: list[Subgroup], size: int) -> None:
    first = network = trained(architecture_of(group=chain[0].group, image_size=size))
    for h in chain[1:]:
        for layer in (2, 0, 1):
            network = relax(network, layer, h)
            assert_same_function(first, network)
            assert network.architecture.n_parameters == parameters_by_formula(network.architecture)
    assert set(network.architecture.constraints) == {chain[0].group.trivial}
    assert all(
        torch.equal(a.kernel(), b.kernel()) for a, b in zip(first.convolutions, network.convolutions, strict=True)
    )
    back = inherit(network, first.architecture)
    torch.testing.assert_close(back.state_dict(), first.state_dict(), rtol=1e-14, atol=1e-14)


def test_a_relaxed_network_trains_where_its_parent_cannot_go(edge: Edge) -> None:
    child = relax(trained(architecture_of(edge[0], edge[0], edge[0], group=edge[0].group)), 0, edge[1])
    x = images_for(child.architecture)
    moved = copy.deepcopy(child).train()
    moved(x).square().sum().backward()
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter -= 0.1 * parameter.grad
    errors = invariance_errors(moved.eval(), edge[0].group, x)
    assert all((error <= 1e-10) == (h in edge[1]) for h, error in enumerate(errors))


def test_constraining_a_network_again_does_not_keep_its_function(edge: Edge) -> None:
    narrow = trained(architecture_of(edge[1], edge[1], edge[1], group=edge[0].group))
    with pytest.raises(AssertionError):
        assert_same_function(narrow, inherit(narrow, narrow.architecture.with_constraints((edge[0],) * 3)))


@pytest.mark.parametrize("training", [True, False])
def test_the_child_is_in_the_mode_and_precision_of_its_parent_and_shares_no_memory(training: bool) -> None:
    parent = EquivariantNetwork(architecture_of()).train(training).double()
    child = relax(parent, 0, D4.subgroup("C4"))
    assert all(module.training == training for module in child.modules())
    assert {p.dtype for p in child.parameters()} == {torch.float64}
    assert not {p.data_ptr() for p in child.parameters()} & {p.data_ptr() for p in parent.parameters()}


# Inheriting otherwise


@pytest.mark.parametrize("target", D4.subgroups, ids=str)
@pytest.mark.parametrize(
    "mixture", [D4.subgroups, (D4.subgroup("C4"), D4.subgroup("D2(45)"))], ids=lambda m: "+".join(map(str, m))
)
def test_a_mixed_network_gives_every_constrained_one_its_projection(
    mixture: tuple[Subgroup, ...], target: Subgroup, act: Act
) -> None:
    parent = trained(architecture_of(mixture, mixture, mixture))
    child = inherit(parent, parent.architecture.with_constraints((target,) * 3))
    for old, new, dims in zip(parent.convolutions, child.convolutions, ([0], [0, 1], [1]), strict=True):
        assert isinstance(old, MixedGroupConv2d)
        assert isinstance(new, GroupConv2d)
        mean = torch.stack([act(old.kernel(), D4, h, *dims) for h in target.elements]).mean(0)
        torch.testing.assert_close(new.kernel(), mean, rtol=1e-12, atol=1e-12)
        assert torch.allclose(new.kernel(), old.kernel(), atol=1e-6) == all(target <= h for h in mixture)
    errors = invariance_errors(child, D4, images_for(parent.architecture))
    assert max(errors[h] for h in target.elements) <= 1e-10
    assert D4.trivial not in mixture or all(error > 1e-3 for h, error in enumerate(errors) if h not in target)


@pytest.mark.parametrize("target", D4.subgroups, ids=str)
def test_a_mixed_network_with_all_its_weight_on_a_subgroup_gives_the_constrained_one_its_function(
    target: Subgroup,
) -> None:
    parent = copy.deepcopy(trained(architecture_of(D4.subgroups, D4.subgroups, D4.subgroups)))
    with torch.no_grad():
        for conv in parent.convolutions:
            conv.logits.fill_(-torch.inf)[conv.constraints.index(target)] = 0.0
    child = inherit(parent, parent.architecture.with_constraints((target,) * 3))
    x = images_for(parent.architecture)
    torch.testing.assert_close(child(x), parent(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_constraining_layers_that_are_symmetric_already_keeps_the_function(training: bool) -> None:
    first = trained(architecture_of())
    parent = relax(relax(first, 0, D4.subgroup("C4")), 1, D4.subgroup("D2(0)")).train(training)
    with torch.no_grad():
        for conv in parent.convolutions[:-1]:
            conv.biases.weight.fill_(0.7)
    child = inherit(parent, first.architecture)
    x = images_for(first.architecture)
    torch.testing.assert_close(child(x), parent(x), rtol=1e-12, atol=1e-12)


def test_inheriting_with_the_same_constraints_is_a_copy() -> None:
    for constraints in ((), (D4.subgroups, D4.subgroup("C4"), D4.subgroups)):
        parent = trained(architecture_of(*constraints))
        child = inherit(parent, parent.architecture)
        torch.testing.assert_close(child.state_dict(), parent.state_dict(), rtol=0, atol=0)
        assert child is not parent


def test_a_mixed_layer_cannot_take_over_the_weights_of_another_kind() -> None:
    parent = EquivariantNetwork(architecture_of())
    with pytest.raises(ValueError, match="layer with several subgroups .* cannot take over"):
        inherit(parent, architecture_of(D4.subgroups, D4.whole, D4.whole))


@pytest.mark.parametrize(
    "other",
    [
        {"image_size": 10},
        {"in_channels": 1},
        {"n_outputs": 4},
        {"fields": (2, 4)},
        {"kernel_sizes": (3, 3)},
        {"pools": (True, False)},
        {"fields": (2, 3, 3), "kernel_sizes": (5, 3, 3), "pools": (True, True, False)},
        {"group": C4},
    ],
    ids=", ".join,
)
def test_a_network_of_another_shape_cannot_inherit(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="other shape|must have one entry|not a subgroup"):
        inherit(EquivariantNetwork(architecture_of()), architecture_of(**other))


# Building


@pytest.mark.parametrize("constraints", [(), (D4.subgroups,) * 3, (D4.subgroup("C4"),) * 3], ids=["D4", "mixed", "C4"])
def test_a_seed_gives_the_same_network_and_leaves_the_global_state_alone(constraints: tuple[Constraint, ...]) -> None:
    def weights(seed: int) -> Tensor:
        network = EquivariantNetwork(architecture_of(*constraints), torch.Generator().manual_seed(seed))
        return nn.utils.parameters_to_vector(network.parameters())

    before = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda network: relax(network, 0, D4.subgroup("C4")), id="relax"),
        pytest.param(lambda network: network.to_plain(), id="to_plain"),
        pytest.param(lambda network: network(images_for(network.architecture)), id="forward"),
    ],
)
def test_using_a_network_leaves_the_global_state_alone(use: Callable[[EquivariantNetwork], object]) -> None:
    network, before = trained(architecture_of()), torch.get_rng_state()
    use(network)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))], ids=["deepcopy", "pickle"])
def test_networks_can_be_copied_and_their_state_loaded(copied: Callable[[Any], Any]) -> None:
    for constraints in ((D4.whole, D4.subgroup("C4"), D4.subgroup("C2")), (D4.subgroups,) * 3):
        network = trained(architecture_of(*constraints))
        x, fresh = images_for(network.architecture), EquivariantNetwork(network.architecture).double().eval()
        assert torch.equal(copied(network)(x), network(x))
        assert not torch.allclose(fresh(x), network(x), atol=1e-3)
        fresh.load_state_dict(copied(network.state_dict()))
        assert torch.equal(fresh(x), network(x))
        assert copied(network).architecture == network.architecture


# Architectures


@pytest.mark.parametrize(
    "constraints",
    [
        pytest.param((), id="D4 everywhere"),
        pytest.param((D4.subgroups,) * 3, id="all mixed"),
        pytest.param((D4.whole, D4.subgroups[:2], D4.trivial), id="one mixed"),
        pytest.param(((D4.whole,), D4.whole, D4.whole), id="a mixture of one"),
    ],
)
def test_the_number_of_parameters_is_that_of_the_formula(constraints: tuple[Constraint, ...]) -> None:
    architecture = architecture_of(*constraints)
    count = sum(p.numel() for p in EquivariantNetwork(architecture).parameters())
    assert count == parameters_by_formula(architecture) == architecture.n_parameters


@pytest.mark.parametrize(
    "constraints",
    [(), (D4.subgroup("C4"), D4.subgroup("D1(135)"), D4.trivial), (D4.subgroups, D4.whole, D4.subgroups[3:5])],
)
def test_architectures_are_values_that_go_through_json(constraints: tuple[Constraint, ...]) -> None:
    architecture = architecture_of(*constraints)
    text = json.dumps(architecture.to_dict())
    for other in (Architecture.from_dict(json.loads(text)), copy.deepcopy(architecture), architecture_of(*constraints)):
        assert other == architecture
        assert hash(other) == hash(architecture)
        assert json.dumps(other.to_dict()) == text
        assert str(other) == str(architecture)
    assert dataclasses.replace(architecture, fields=[2, 3]) == architecture
    assert dataclasses.replace(architecture, fields=(3, 2)) != architecture
    with pytest.raises(dataclasses.FrozenInstanceError):
        architecture.image_size = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", ["C1", "D1", "D1(45)", "D1(90)", "D1(135)", "C2", "D2", "D2(45)", "C4"])
def test_architectures_of_every_search_group_go_through_json(name: str) -> None:
    group = PointGroup.from_name(name)
    subgroups = cycle(reversed(group.subgroups))
    architecture = architecture_of(next(subgroups), next(subgroups), group.subgroups, group=group)
    assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "kernel_sizes too short": ({"kernel_sizes": (3,)}, "one entry for each hidden layer"),
    "pools too long": ({"pools": (True,) * 3}, "one entry for each hidden layer"),
    "no constraint for the head": ({"constraints": (D4.whole,) * 2}, "for the head"),
    "no layers": ({"fields": (), "kernel_sizes": (), "pools": (), "constraints": (D4.whole,)}, "at least one"),
    "no fields": ({"fields": (2, 0)}, "at least one"),
    "no image": ({"image_size": 0}, "at least one"),
    "no channels": ({"in_channels": 0}, "at least one"),
    "no outputs": ({"n_outputs": 0}, "at least one"),
    "constraint of another group": (
        {"constraints": (D4.whole, C4.whole, D4.whole)},
        "not a subgroup of the search group D4",
    ),
    "mixture with another group": ({"constraints": ((D4.whole, C4.whole), D4.whole, D4.whole)}, "not a subgroup"),
    "C8": ({"group": "C8", "basis": "pixel", "constraints": ()}, "'C1', 'C2', 'C4', 'D1', 'D2' or 'D4'"),
    "D3": ({"group": "D3", "basis": "pixel", "constraints": ()}, "'C1', 'C2', 'C4', 'D1', 'D2' or 'D4'"),
    "D1(22.5)": ({"group": "D1(22.5)", "basis": "pixel", "constraints": ()}, "'C1', 'C2', 'C4', 'D1', 'D2' or 'D4'"),
    "even kernel": ({"kernel_sizes": (3, 4)}, "odd"),
    "mixture of nothing": ({"constraints": ((), D4.whole, D4.whole)}, "subgroup"),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_architecture_that_cannot_be_built_raises_an_error(name: str) -> None:
    changes, message = INVALID[name]
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(architecture_of(), **changes)


def test_architectures_say_what_they_are() -> None:
    mixed = architecture_of(D4.subgroup("C4"), (D4.whole, D4.subgroup("D1(45)")), D4.subgroup("C2"))
    assert (mixed.n_layers, mixed.layer_names) == (3, ("layer 1", "layer 2", "head"))
    assert mixed.constraint_names == ("C4", "D4+D1(45)", "C2")
    assert str(mixed) == "C4 D4+D1(45) | C2"
    assert mixed.is_mixed
    assert not architecture_of().is_mixed
    assert mixed.symmetry == D4.trivial
    assert architecture_of().symmetry == D4.whole


def test_the_head_is_the_last_layer_counted_from_the_end() -> None:
    architecture = architecture_of(fields=(2, 3))
    assert architecture.layer_shape(-1) == architecture.layer_shape(2)


def test_a_network_tells_the_shares_of_its_mixed_layers_alone() -> None:
    network = trained(architecture_of(D4.whole, D4.subgroups, D4.subgroups[:2]))
    shares = network.shares()
    assert {layer: list(values) for layer, values in shares.items()} == {
        "layer 2": [h.name for h in D4.subgroups],
        "head": ["D4", "C4"],
    }
    assert list(shares["head"].values()) == network.head.conv.shares().tolist()
    assert trained(architecture_of()).shares() == {}


def test_relaxed_changes_one_constraint() -> None:
    architecture = architecture_of(D4.whole, D4.subgroup("C4"), D4.subgroup("C4"))
    assert architecture.relaxed(1, D4.subgroup("C2")).constraints == (D4.whole, D4.subgroup("C2"), D4.subgroup("C4"))
    assert architecture.relaxed(-1, D4.trivial) == architecture.relaxed(2, D4.trivial)
    assert architecture.relaxed(0, D4.whole) == architecture


@pytest.mark.parametrize(
    ("layer", "subgroup", "error"),
    [
        (0, D4.whole, ValueError),
        (0, D4.subgroup("D1(45)"), ValueError),
        (0, C4.trivial, ValueError),
        (1, D4.trivial, ValueError),
        (3, D4.trivial, IndexError),
    ],
    ids=["larger", "not contained", "other group", "mixed layer", "no such layer"],
)
def test_what_cannot_be_relaxed_raises_an_error(layer: int, subgroup: Subgroup, error: type[Exception]) -> None:
    architecture = architecture_of(D4.subgroup("C4"), D4.subgroups, D4.whole)
    with pytest.raises(error):
        architecture.relaxed(layer, subgroup)
    with pytest.raises(error):
        relax(EquivariantNetwork(architecture), layer, subgroup)


@pytest.mark.parametrize(
    ("size", "light"), [*((n, False) for n in range(1, 65)), *((n, True) for n in range(1, 50, 3))]
)
def test_the_default_architecture_builds_runs_and_is_invariant_at_every_size(size: int, light: bool) -> None:
    architecture = default_architecture("D4", size, in_channels=2, n_outputs=3, light=light)
    network = EquivariantNetwork(architecture, torch.Generator().manual_seed(0)).double()
    x = images_for(architecture, 1)
    errors = invariance_errors(network.eval(), D4, x)
    assert max(errors) <= 1e-9
    assert size == 1 or invariance_errors(nn.Flatten(), D4, x)[1] > 1e-3
    sizes = [size]
    for pool in architecture.pools:
        sizes += [(sizes[-1] + 1) // 2] if pool else []
    assert size <= 3 or sizes[-1] >= 3  # some space is left for the last kernels


@pytest.mark.parametrize("group", ["C1", "D1", "C2", "D2", "C4", "D4"])
def test_the_default_width_is_that_of_all_channels_whatever_the_group(group: str) -> None:
    order = PointGroup.from_name(group).order
    assert [f * order for f in default_architecture(group, 28).fields] == [64, 64, 64, 96, 96, 128, 128]
    assert [f * order for f in default_architecture(group, 20).fields] == [64, 64, 64, 128, 128]
    assert [f * order for f in plain_architecture(group, 28).fields] == [48, 48, 64, 64, 64]
    assert default_architecture(group, 11) == plain_architecture(group, 11)
    assert default_architecture(group, 28, width=32).fields[0] * order == 32
    assert default_architecture(group, 28, width=1).fields[0] == 1
    assert default_architecture(group, 28, device="cuda", n_samples=50_000).fields[0] * order == 96


def test_larger_images_are_pooled_before_the_blocks() -> None:
    for size, n_stem in ((28, 1), (32, 1), (33, 2), (64, 2), (128, 3), (256, 4)):
        architecture = default_architecture("C2", size)
        assert architecture.shortcuts == (0,) * n_stem + (0, 2) * 3
        assert all(architecture.pools[:n_stem])
        assert size / 2**n_stem <= 16
    assert set(default_architecture("D4", 28).kernel_sizes) == {3}
    assert set(default_architecture("D8", 28).kernel_sizes) == {5}  # waves around rings cannot turn on 3x3 pixels


def multiplications(a: Architecture) -> int:
    """Those of a pass through the convolutions."""
    side, channels, total = a.image_shape[0], a.in_channels, 0
    for fields, kernel_size, pool in zip(a.fields, a.kernel_sizes, a.pools, strict=True):
        total += side**2 * kernel_size**2 * channels * fields * a.group.order
        channels, side = fields * a.group.order, (side + 1) // 2 if pool else side
    return total


def test_the_cost_of_large_images_stays_in_proportion() -> None:
    costs = {size: multiplications(default_architecture("D4", size, 3)) for size in (28, 64, 128, 256)}
    assert costs[64] < 2.5 * costs[28]
    assert costs[256] < 8 * costs[28]  # for 84 times as many pixels
    same_width = default_architecture("D4", 28, 3, width=48)
    assert multiplications(same_width) < 0.5 * multiplications(plain_architecture("D4", 28, 3, width=48))


def test_the_architecture_of_the_paper_has_eight_layers_of_kernel_5() -> None:
    architecture = paper_architecture("C4", 9, in_channels=2, n_outputs=3)
    assert architecture.fields == (16,) * 4 + (32,) * 4
    assert set(architecture.kernel_sizes) == {5}
    network = EquivariantNetwork(architecture, torch.Generator().manual_seed(0)).double().eval()
    assert max(invariance_errors(network, C4, images_for(architecture, 1))) <= 1e-9
    assert sum(isinstance(module, SymmetricAvgPool2d) for module in network.modules()) == 3


@pytest.mark.parametrize("make", [default_architecture, paper_architecture, plain_architecture])
@pytest.mark.parametrize(("group", "size"), [("X4", 28), ("D4", 0)])
def test_ready_made_architectures_of_nothing_raise_an_error(make: Callable[..., object], group: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"group=|needs at least"):
        make(group, size)
