"""Laws of networks at rest: compiled kernels, a few images through all blocks, answer as the plain layers of torch."""

from __future__ import annotations

import copy
import os
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skequinas.groups import PointGroup
from skequinas.nn import Architecture, EquivariantNetwork, OrbitBatchNorm2d
from skequinas.nn.kernels.resting import RestingBlocks
from skequinas.nn.resting import RestingNetwork, resting_blocks
from skequinas.nn.transforms import transform_images
from skequinas.runtime.compiled import SWITCH, Compiled, compiled, load
from skequinas.training.evaluation import frozen

pytestmark = pytest.mark.skipif(compiled() is None, reason="no compiler built the kernels here")

D4 = PointGroup.from_name("D4")
PLAIN = Architecture(D4, 12, 2, 3, (2, 2, 2, 3), (3, 3, 5, 3), (True, False, True, False), shortcuts=(0, 0, 2, 0))
FREE = replace(PLAIN, constraints=(D4.trivial,) * 5)
TOGETHER = {"avx512": (1, 2, 4, 8, 16), "avx2": (1, 2, 4, 8), "portable": (1, 2, 4)}
"""How many images can be worked on together: as many as a vector has lanes, or fewer."""

ASKED = os.environ.get(SWITCH)
BUILT = [name for name in ("avx512", "avx2", "portable") if load(name) is not None and ASKED in (name, None)]


def kernels(name: str = "") -> Compiled:
    found = load(name) if name else compiled()
    assert found is not None
    return found


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(architecture: Architecture, seed: int = 0) -> EquivariantNetwork:
    """At rest, with statistics, affine maps and biases that are not those of the beginning."""
    generator = torch.Generator().manual_seed(seed)
    own = EquivariantNetwork(architecture, generator).eval()
    with torch.no_grad():
        for module in own.modules():
            if isinstance(module, OrbitBatchNorm2d):
                for values, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.3, 0.5),
                    (module.running_mean, -0.3, 0.3),
                    (module.running_var, 0.5, 1.5),
                ):
                    assert values is not None
                    values.uniform_(low, high, generator=generator)
        for name, parameter in own.named_parameters():
            if "biases" in name:
                parameter.normal_(std=0.3, generator=generator)
    return own


def packed(own: EquivariantNetwork, name: str = "", *, reduced: bool = False) -> RestingBlocks:
    maximum = own.head.statistics.maximum
    with torch.no_grad():
        shortcuts = own.architecture.shortcuts
        return resting_blocks(kernels(name), list(own.blocks), shortcuts, maximum=maximum, reduced=reduced)  # type: ignore[arg-type]


@torch.no_grad()
def answers(own: EquivariantNetwork, x: Tensor, name: str = "", *, together: int = 0, reduced: bool = False) -> Tensor:
    return packed(own, name, reduced=reduced)(own.inputs(x), together)


@torch.no_grad()
def expected(own: EquivariantNetwork, x: Tensor) -> Tensor:
    """The same features in double precision, by torch."""
    return copy.deepcopy(own).double().features(x.double())


def near(found: Tensor, wanted: Tensor, bound: float = 1e-5) -> bool:
    assert found.shape == wanted.shape
    return bool((found.double() - wanted).abs().max() <= bound * wanted.abs().max())


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """Networks of any shape, constrained, mixed, with residuals or in streams."""
    group = PointGroup.from_name(draw(st.sampled_from(["D4", "D4", "C4", "D1(90)", "D2(45)", "C8", "D8"])))
    n = draw(st.integers(1, 4))
    fields = draw(st.lists(st.integers(2, 4), min_size=n, max_size=n))
    pools = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    subgroup = st.sampled_from(group.subgroups)
    mixing = draw(st.sampled_from(["shares", "shares", "residual", "streams"]))
    sizes = [1, 3, 5, 7] if group.acts_on_pixels else [5]
    if mixing == "streams":
        constraints = tuple(draw(st.tuples(subgroup, subgroup)) for _ in range(n + 1))
    elif mixing == "residual":
        constraints = tuple((draw(subgroup), group.trivial) for _ in range(n + 1))
    else:
        one = st.one_of(subgroup, subgroup, st.tuples(subgroup, subgroup).filter(lambda pair: pair[0] != pair[1]))
        constraints = tuple(draw(one) for _ in range(n + 1))
    shortcuts, number = [0] * n, 1
    while number < n:  # over one to three layers that pass no pooling, to as many fields or more
        length = draw(st.integers(1, 3))
        last = number + length - 1
        if last < n and not any(pools[number:last]) and fields[number - 1] <= fields[last] and draw(st.booleans()):
            shortcuts[last] = length
        number = last + 1
    return Architecture(
        group,
        draw(st.integers(3, 19)),
        draw(st.integers(1, 3)),
        2,
        tuple(fields),
        tuple(draw(st.lists(st.sampled_from(sizes), min_size=n, max_size=n))),
        tuple(pools),
        constraints,
        shortcuts=tuple(shortcuts),
        statistics=draw(st.sampled_from(["mean", "mean and maximum"])),
        mixing=mixing,
        coordinates=draw(st.sampled_from(["none", "radius"])),
    )


@given(architecture=architectures(), n=st.integers(1, 37), name=st.sampled_from(BUILT), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=50)
def test_any_network_answers_as_by_torch_in_double_precision(
    architecture: Architecture, n: int, name: str, seed: int
) -> None:
    own = network(architecture, seed)
    height, width = architecture.image_shape
    x = drawn(n, architecture.in_channels, height, width, seed=seed)
    found = answers(own, x, name)
    assert near(found, expected(own, x))
    for together in TOGETHER[name]:
        assert torch.equal(answers(own, x, name, together=together), found), "however many are worked on together"
    assert torch.equal(answers(own, x[n // 2 :], name), found[n // 2 :]), "whoever stands beside an image"


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("size", [28, 33, (20, 30), 64], ids=str)
def test_large_maps_are_worked_on_in_bands(size: int | tuple[int, int], name: str) -> None:
    group = D4 if isinstance(size, int) else PointGroup.from_name("D2")
    own = network(Architecture(group, size, 3, 2, (8, 8, 12), (3, 3, 5), (True, True, False)))
    x = drawn(5, 3, *own.architecture.image_shape)
    assert near(answers(own, x, name), expected(own, x))
    for together in TOGETHER[name]:
        assert torch.equal(answers(own, x, name, together=together), answers(own, x, name))


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("constraint", ["D4", "D2(0)", "C4", "D1(45)", "C1"])
def test_rounded_products(constraint: str, name: str) -> None:
    if not kernels(name).functions.skequinas_reduces():
        pytest.skip("this processor has no instructions for bfloat16")
    own = network(replace(PLAIN, constraints=(D4.subgroup(constraint),) * 5))
    x = drawn(21, 2, 12, 12)
    found = answers(own, x, name, reduced=True)
    assert near(found, expected(own, x), 2e-2)
    assert not near(found, expected(own, x), 1e-4)
    assert torch.equal(found, answers(own, x, name, reduced=True, together=2))


@pytest.mark.parametrize("reduced", [False, True])
def test_features_move_with_the_images(reduced: bool) -> None:
    if reduced and not kernels().functions.skequinas_reduces():
        pytest.skip("this processor has no instructions for bfloat16")
    own, x = network(PLAIN), drawn(9, 2, 12, 12)
    found = answers(own, x, reduced=reduced).unflatten(1, (-1, 8))
    for g in D4.elements:
        moved = answers(own, transform_images(x, D4, g).contiguous(), reduced=reduced).unflatten(1, (-1, 8))
        assert near(moved[:, :, D4.table[g].tolist()], found.double())


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    own, x, before = network(PLAIN), drawn(70, 2, 12, 12), torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 3, 7):
            torch.set_num_threads(n)
            found += [answers(own, x), answers(own, x, together=1)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_what_is_not_a_number_stays_so() -> None:
    own, x = network(PLAIN), drawn(20, 2, 12, 12)
    x[3, 0, 5, 5] = float("nan")
    found = answers(replace_statistics(own), x)
    assert found[3].isnan().all()
    assert found[:3].isfinite().all()
    assert found[4:].isfinite().all()


def replace_statistics(own: EquivariantNetwork) -> EquivariantNetwork:
    """The network with the largest values too."""
    other = EquivariantNetwork(replace(own.architecture, statistics="mean and maximum")).eval()
    other.blocks.load_state_dict(own.blocks.state_dict())
    return other


def test_a_network_is_put_to_rest_where_kernels_do_most_of_it() -> None:
    own, x = network(PLAIN), drawn(8, 2, 12, 12)
    resting = own.at_rest()
    assert isinstance(resting, RestingNetwork)
    with torch.no_grad():
        assert near(resting(x), copy.deepcopy(own).double()(x.double()))
        assert torch.equal(resting.features(x), answers(own, x))
        assert not torch.equal(resting.features(x), own.features(x)), "rounded in another order"
        assert resting.blocks.takes(x)
        assert not resting.blocks.takes(x.double())
        assert not resting.blocks.takes(x[:, :1])
    assert not resting.blocks.takes(x)
    assert resting(x).requires_grad, "by the network itself"
    for other in (copy.deepcopy(own).train(), copy.deepcopy(own).double(), network(FREE)):
        assert other.at_rest() is other


def test_rest_is_of_the_weights_that_there_are() -> None:
    own, x = network(PLAIN), drawn(8, 2, 12, 12)
    with torch.no_grad():
        before = own.at_rest()(x)
        own.blocks[1].conv.weights.weight.mul_(2)  # type: ignore[union-attr,operator]
        after = own.at_rest()(x)
        assert not torch.allclose(before, after)
        assert near(after, copy.deepcopy(own).double()(x.double()))


def test_outputs_are_averaged_over_moves() -> None:
    constraints = (*(D4.subgroup("C2"),) * 4, D4.subgroup("C2"))
    own, x = network(replace(PLAIN, constraints=constraints, averaged=D4.whole)), drawn(8, 2, 12, 12)
    resting = own.at_rest()
    assert isinstance(resting, RestingNetwork)
    with torch.no_grad():
        assert near(resting(x), copy.deepcopy(own).double()(x.double()))
        moved = resting(transform_images(x, D4, 3))
        assert near(moved, resting(x).double())


def test_means_of_large_maps_are_not_rounded_more_than_others() -> None:
    own = network(Architecture(D4, 128, 1, 2, (1, 1), (3, 3), (False, False)))
    x = torch.full((4, 1, 128, 128), 0.3)
    x[:, :, 20:60, 50:100] = drawn(4, 1, 40, 50)
    found = answers(own, x)
    assert near(found, expected(own, x), 1e-5)
    turned = answers(own, transform_images(x, D4, 1).contiguous()).unflatten(1, (-1, 8))
    assert near(turned[:, :, D4.table[1].tolist()], found.unflatten(1, (-1, 8)).double())


def test_what_is_not_known_is_left_to_the_network() -> None:
    class Other(EquivariantNetwork):
        def maps(self, x: Tensor) -> Tensor:
            return super().maps(x) * 2

    other = Other(PLAIN).eval()
    assert other.at_rest() is other
    own = network(PLAIN)
    own.blocks[0].pool = torch.nn.MaxPool2d(2)  # type: ignore[union-attr]
    assert own.at_rest() is own


def test_evidence_and_evaluation_are_of_networks_at_rest() -> None:
    own = network(PLAIN).train()
    resting = frozen(own)
    assert isinstance(resting, RestingNetwork)
    assert not resting.training
    with torch.no_grad():
        x = drawn(3, 2, 12, 12)
        at_rest = resting(x)
        own.train()
        assert not torch.allclose(resting(x), at_rest), "in training mode by the network"
