"""Laws of the compiled kernels: they do what the layers of torch do, whatever the shape and the number of threads."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import Architecture, EquivariantNetwork, GroupConv2d, MixedGroupConv2d, OrbitBatchNorm2d
from skequinas.nn.kernels.fused import FusedConvolution
from skequinas.nn.kernels.normalization import normalize
from skequinas.nn.transforms import transform_images
from skequinas.runtime import compiled as room
from skequinas.runtime.compiled import Compiled, compiled, load

pytestmark = pytest.mark.skipif(compiled() is None, reason="no compiler built the kernels here")

GROUPS = [PointGroup.from_name(name) for name in ("D4", "D2(45)", "C4", "D1(90)", "C2")]
SUBGROUPS = [h for group in GROUPS for h in group.subgroups if h.order > 1]
D4 = GROUPS[0]
BUILT = [name for name in ("avx512", "avx2", "portable") if load(name) is not None]


def kernels(name: str = "") -> Compiled:
    found = load(name) if name else compiled()
    assert found is not None
    return found


REDUCING = [name for name in BUILT if kernels(name).functions.skequinas_reduces()]


def fused(layer: GroupConv2d, name: str = "") -> FusedConvolution:
    return FusedConvolution(layer.space(layer.constraint), kernels(name))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def near(found: Tensor, expected: Tensor, bound: float = 1e-5) -> bool:
    """Whether values are the same but for round-off, relative to the largest of them."""
    assert found.shape == expected.shape
    return bool((found.double() - expected).abs().max() <= bound * expected.abs().max().clamp_min(1e-6))


def dense(layer: GroupConv2d, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs and both gradients in double precision, by torch."""
    exact = copy.deepcopy(layer).double()
    x = x.detach().double().requires_grad_()
    y = F.conv2d(x, exact.kernel(), padding=layer.kernel_size // 2)
    return y.detach(), *torch.autograd.grad(y, [x, exact.weights.weight], grad.double())


def convolved(layer: GroupConv2d, x: Tensor, grad: Tensor, name: str = "", *, reduced: bool = False) -> list[Tensor]:
    """The outputs and both gradients, by compiled kernels; if reduced, what they multiply is rounded to bfloat16."""
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
        y = fused(layer, name)(x, layer.weights.weight)
    return [y.detach(), *torch.autograd.grad(y, [x, layer.weights.weight], grad)]


def check(layer: GroupConv2d, x: Tensor, name: str = "", *, reduced: bool = False, bound: float = 1e-5) -> None:
    grad = drawn(len(x), layer.out_fields * layer.constraint.group.order, *x.shape[2:], seed=1)
    found = convolved(layer, x, grad, name, reduced=reduced)
    for own, expected in zip(found, dense(layer, x, grad), strict=True):
        assert near(own, expected, bound)


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("subgroup", SUBGROUPS, ids=lambda h: f"{h.group.name}>{h.name}")
@pytest.mark.parametrize(("size", "kernel_size"), [(8, 3), (7, 5), (4, 7), (3, 1)])
def test_convolutions_are_those_of_the_dense_kernel(subgroup: Subgroup, size: int, kernel_size: int, name: str) -> None:
    layer = GroupConv2d(subgroup, 2, 3, kernel_size, generator=torch.Generator().manual_seed(2))
    check(layer, drawn(9, 2 * subgroup.group.order, size, size), name)


@pytest.mark.parametrize("name", REDUCING)
@pytest.mark.parametrize("subgroup", SUBGROUPS, ids=lambda h: f"{h.group.name}>{h.name}")
@pytest.mark.parametrize(("size", "kernel_size"), [(8, 3), (7, 5), (4, 7), (3, 1)])
def test_reduced_convolutions_round_what_they_multiply_and_nothing_else(
    subgroup: Subgroup, size: int, kernel_size: int, name: str
) -> None:
    layer = GroupConv2d(subgroup, 3, 2, kernel_size, generator=torch.Generator().manual_seed(2))
    x = drawn(9, 3 * subgroup.group.order, size, size)
    check(layer, x, name, reduced=True, bound=1e-2)
    grad = drawn(9, 2 * subgroup.group.order, size, size, seed=1)
    exact = [near(a, b.double()) for a, b in zip(convolved(layer, x, grad, name), dense(layer, x, grad), strict=True)]
    rounded = convolved(layer, x, grad, name, reduced=True)
    assert all(exact)
    assert not any(near(a, b) for a, b in zip(rounded, dense(layer, x, grad), strict=True))
    for other in REDUCING:  # all round to the same values
        for own, expected in zip(convolved(layer, x, grad, other, reduced=True), rounded, strict=True):
            assert near(own, expected.double())
    with torch.no_grad():  # of few digits nothing is lost
        layer.weights.weight.copy_((3 * layer.weights.weight / layer.weights.weight.abs().max()).round())
    whole, few = x.clamp(-2, 2).round(), (2 * grad).clamp(-3, 3).round()
    for own, expected in zip(convolved(layer, whole, few, name, reduced=True), dense(layer, whole, few), strict=True):
        assert near(own, expected)


@given(
    subgroup=st.sampled_from(SUBGROUPS),
    n=st.integers(1, 20),
    sides=st.tuples(st.integers(1, 19), st.integers(1, 19)),
    fields=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel_size=st.sampled_from([1, 3, 5]),
    layout=st.sampled_from(["first", "last", "sliced", "expanded"]),
    name=st.sampled_from(BUILT or ["portable"]),
    reduced=st.booleans(),
)
@settings(deadline=None, max_examples=80)
def test_any_shape_and_any_strides(
    subgroup: Subgroup,
    n: int,
    sides: tuple[int, int],
    fields: tuple[int, int],
    kernel_size: int,
    layout: str,
    name: str,
    reduced: bool,
) -> None:
    channels = fields[0] * subgroup.group.order
    layer = GroupConv2d(subgroup, *fields, kernel_size)
    x = {
        "first": lambda: drawn(n, channels, *sides),
        "last": lambda: drawn(n, channels, *sides).to(memory_format=torch.channels_last),
        "sliced": lambda: drawn(2 * n, channels + 1, *sides).to(memory_format=torch.channels_last)[::2, 1:],
        "expanded": lambda: drawn(1, channels, *sides).expand(n, -1, -1, -1),
    }[layout]()
    reduced = reduced and name in REDUCING
    check(layer, x, name, reduced=reduced, bound=2e-2 if reduced else 1e-5)


@pytest.mark.parametrize("size", [(130, 8), (64, 64)])
def test_large_maps_are_worked_on_in_bands(size: tuple[int, int]) -> None:
    check(GroupConv2d(D4.subgroup("C2"), 6, 4, 3), drawn(3, 48, *size))


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("subgroup", [h for h in D4.subgroups if h.order > 1], ids=str)
def test_outputs_move_with_the_inputs(subgroup: Subgroup, reduced: bool) -> None:
    layer = GroupConv2d(subgroup, 3, 2, 3, bias=False)
    x = drawn(8, 24, 6, 6)

    def layered(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            return fused(layer)(x, layer.weights.weight)

    y = layered(x)
    for h in subgroup.elements:
        order = torch.tensor(D4.table[D4.inverse(h)].tolist())

        def moved(v: Tensor, h: int = h, order: Tensor = order) -> Tensor:
            return transform_images(v, D4, h).unflatten(1, (-1, 8))[:, :, order].flatten(1, 2)

        assert near(layered(moved(x)), moved(y).double())


def test_layers_use_them_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = FusedConvolution.convolve

    def spy(self: FusedConvolution, x: Tensor, weight: Tensor, **options: bool) -> Tensor:
        calls.append(len(x))
        return original(self, x, weight, **options)

    monkeypatch.setattr(FusedConvolution, "convolve", spy)
    D8 = PointGroup.from_name("D8")
    x, layer = drawn(8, 16, 6, 6), GroupConv2d(D4.whole, 2, 2, 3)
    layer(x)
    layer.without_offset(x)
    assert calls == [8, 8]
    layer.double()(x.double())
    layer.float()
    with torch.autocast("cpu", torch.float16):
        assert layer(x).dtype == torch.float16
    layer(x[:1])
    GroupConv2d(D4.trivial, 2, 2, 3)(x)
    GroupConv2d(D4.whole, 2, 2, 3, regular_in=False)(x[:, :2])
    MixedGroupConv2d(D4.subgroups, 2, 2, 3)(x)
    GroupConv2d(D8.subgroup("D1(22.5)"), 1, 1, 1)(x)  # of which nothing permutes pixels
    assert calls == [8, 8]


@pytest.mark.parametrize(
    ("name", "basis"), [("D8", "harmonic"), ("C8", "harmonic"), ("D4", "harmonic"), ("D4", "pixel")]
)
def test_reduced_convolutions_in_other_bases(name: str, basis: str) -> None:
    group = PointGroup.from_name(name)
    layer, x = GroupConv2d(group.whole, 2, 3, 5, basis=basis, bias=False), drawn(9, 2 * group.order, 7, 7)
    x.requires_grad_()
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.float32
    assert not near(y, expected.double())
    for own, other in zip(
        (y, *torch.autograd.grad(y.sin().sum(), [x, layer.weights.weight])),
        (expected, *torch.autograd.grad(expected.sin().sum(), [x, layer.weights.weight])),
        strict=True,
    ):
        assert own.dtype == torch.float32
        assert near(own, other.double(), 3e-2)


def test_a_processor_with_wide_vectors_and_without_bfloat16_has_others_for_it() -> None:
    layer, x = GroupConv2d(D4.whole, 2, 2, 3), drawn(8, 16, 6, 6)
    wide = Compiled("avx512", SimpleNamespace(skequinas_reduces=lambda: 0), kernels().parallel)  # type: ignore[arg-type]
    found = FusedConvolution(layer.space(layer.constraint), wide)
    with torch.autocast("cpu", torch.bfloat16):
        assert found.takes(x, layer.weights.weight)
        assert near(found(x, layer.weights.weight), fused(layer)(x, layer.weights.weight).double())


def test_under_autocast_they_take_maps_of_either_type() -> None:
    x, layer = drawn(8, 16, 6, 6), GroupConv2d(D4.whole, 2, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y, of_half = layer(x), layer(x.bfloat16().requires_grad_())
    assert y.dtype == of_half.dtype == torch.float32
    assert not near(y, layer(x).double())
    assert near(y, layer(x).double(), 1e-2)
    assert near(of_half, y.double(), 1e-2)
    assert (grad := torch.autograd.grad(of_half.sum(), layer.weights.weight)[0]).dtype == torch.float32
    assert grad.isfinite().all()
    with pytest.raises(RuntimeError):
        layer(x.bfloat16())


@pytest.mark.parametrize("group", ["D4", "C4", "D1(0)", "C1"])
@pytest.mark.parametrize(
    ("shape", "shortcut", "halve", "offset"),
    [
        ((5, 3, 6, 8), 0, False, True),
        ((4, 4, 5, 7), 2, False, True),
        ((8, 6, 8, 8), 6, True, False),
        ((3, 2, 2, 2), 1, True, True),
        ((70, 1, 1, 3), 1, False, False),
    ],
)
@pytest.mark.parametrize("name", BUILT)
def test_batch_norm_with_all_that_follows_it(
    group: str, shape: tuple[int, ...], shortcut: int, halve: bool, offset: bool, name: str
) -> None:
    order, fields = PointGroup.from_name(group).order, shape[1]
    full = shape[0], fields * order, *shape[2:]
    norm = OrbitBatchNorm2d(PointGroup.from_name(group), fields)
    with torch.no_grad():
        norm.weight.copy_(drawn(fields, seed=3))
        norm.bias.copy_(drawn(fields, seed=4))
    inputs = {"x": 2 * drawn(*full, seed=5) + 3}
    if offset:
        inputs["offset"] = drawn(full[1], seed=6)
    if shortcut:
        inputs["shortcut"] = drawn(full[0], shortcut * order, *full[2:], seed=7)

    def run(norm: OrbitBatchNorm2d, dtype: torch.dtype, function: Callable[..., Tensor]) -> list[Tensor]:
        own = {key: value.to(dtype).requires_grad_() for key, value in inputs.items()}
        y = function(norm, **own)
        grad = drawn(*y.shape, seed=8).to(dtype)
        return [y.detach(), *torch.autograd.grad(y, [*own.values(), norm.weight, norm.bias], grad)]

    def by_kernels(norm: OrbitBatchNorm2d, x: Tensor, **rest: Tensor) -> Tensor:
        rest = {"offset": None, "shortcut": None} | rest  # type: ignore[dict-item]
        y, *_ = normalize(kernels(name), x, weight=norm.weight, bias=norm.bias, eps=norm.eps, halve=halve, **rest)
        return y

    found = run(norm, torch.float32, by_kernels)
    exact = copy.deepcopy(norm).double()
    expected = run(exact, torch.float64, lambda norm, **own: norm.rectified(**own, halve=halve))
    scale = (
        expected[1].abs().max() + 1
    )  # what an offset of one channel for each field is told is zero but for round-off
    for own, other in zip(found, expected, strict=True):
        assert (own.double() - other).abs().max() <= 2e-5 * torch.maximum(other.abs().max(), scale)
    norm.rectified(**inputs, halve=halve)
    assert near(norm.running_mean, exact.running_mean)
    assert near(norm.running_var, exact.running_var)


def network() -> EquivariantNetwork:
    subgroups = D4.whole, D4.whole, D4.subgroup("C4"), D4.subgroup("D1(0)"), D4.whole
    architecture = Architecture(
        D4, 12, 3, 5, (3, 3, 4, 5), (3, 3, 3, 3), (True, False, False, True), hidden=4, shortcuts=(0, 0, 0, 2)
    )
    return EquivariantNetwork(architecture.with_constraints(subgroups), torch.Generator().manual_seed(0)).train()


def gradients(network: EquivariantNetwork, x: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    F.cross_entropy(network(x), torch.arange(len(x)) % 5).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_a_network_learns_as_by_torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    x = drawn(16, 3, 12, 12)
    fast, slow = network(), network().double()
    found, expected = gradients(fast, x), gradients(slow, x.double())
    assert found.keys() == expected.keys()
    scale = max(float(v.abs().max()) for v in expected.values())
    for name, value in expected.items():
        assert (found[name].double() - value).abs().max() <= 1e-4 * scale, name
    for own, other in zip(fast.buffers(), slow.buffers(), strict=True):
        assert near(own, other.double(), 1e-4)


def test_at_rest_a_network_answers_as_its_plain_layers() -> None:
    own, x = network(), drawn(11, 3, 12, 12)
    for _ in range(3):
        own(drawn(32, 3, 12, 12, seed=9))
    plain = copy.deepcopy(own).double().eval().to_plain()
    own.eval()
    assert own.is_fused
    with torch.no_grad():
        found = own(x)
        assert near(found, plain(x.double()))
        assert torch.equal(own.features(x)[3:8], own.features(x[3:8])), "whoever stands beside an image"
    assert near(own(x).detach(), plain(x.double())), "with gradients too"


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    x, before = drawn(37, 3, 12, 12), torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 3, 7):
            torch.set_num_threads(n)
            layer = GroupConv2d(D4.whole, 4, 5, 3, generator=torch.Generator().manual_seed(1))
            maps = drawn(37, 32, 12, 12).requires_grad_()
            y = layer.without_offset(maps)
            norm = OrbitBatchNorm2d(D4, 5)
            z = norm.rectified(y, None, halve=True)
            found.append([z, *torch.autograd.grad(z, [maps, layer.weights.weight, norm.weight], torch.ones_like(z))])
    finally:
        torch.set_num_threads(before)
    assert len(x) == 37
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_several_threads_of_python_at_once() -> None:
    networks = [network() for _ in range(8)]
    x = drawn(16, 3, 12, 12)
    alone = gradients(networks[0], x)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda own: gradients(own, x), networks))
    for other in together:
        assert all(torch.allclose(alone[name], other[name], atol=1e-6) for name in alone)


def test_without_the_threads_of_torch_others_are_started() -> None:
    layer = GroupConv2d(D4.whole, 4, 5, 3)
    x, before = drawn(64, 32, 8, 8), torch.get_num_threads()
    others = FusedConvolution(layer.space(D4.whole), kernels()._replace(parallel=None))
    try:
        torch.set_num_threads(3)
        assert torch.equal(others(x, layer.weights.weight), fused(layer)(x, layer.weights.weight))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))], ids=["copy", "pickle"])
def test_layers_can_be_copied(copied: Callable[[GroupConv2d], GroupConv2d]) -> None:
    layer, x = GroupConv2d(D4.whole, 2, 2, 3), drawn(8, 16, 5, 5)
    other = copied(layer)
    assert other._fused is layer._fused, "one for each space of kernels in a process"
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize(
    "shape",
    [(8, 8, 6, 6), (8, 32, 6, 6), (16, 6, 6), (8, 16, 0, 5)],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_maps_that_do_not_fit_are_those_of_torch(shape: tuple[int, ...]) -> None:
    """An error, or what torch makes of them, and never what lies beside them in memory."""
    layer, norm = GroupConv2d(D4.whole, 2, 2, 3), OrbitBatchNorm2d(D4, 2)
    x = drawn(*shape)
    if shape == (16, 6, 6):
        assert torch.equal(layer(x), layer(x[None])[0])
        return
    with pytest.raises(RuntimeError):
        layer(x)
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        norm.rectified(x)


def test_halves_of_odd_maps_are_those_of_torch() -> None:
    x = drawn(4, 16, 7, 6)
    found = OrbitBatchNorm2d(D4, 2).rectified(x, halve=True)
    assert torch.equal(found, F.avg_pool2d(OrbitBatchNorm2d(D4, 2)(x).relu_(), 2))


@pytest.mark.parametrize("shortcut", [(4, 24, 4, 4), (4, 8, 3, 4), (3, 8, 4, 4)])
def test_a_shortcut_that_does_not_fit_is_an_error(shortcut: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError):
        OrbitBatchNorm2d(D4, 2).rectified(drawn(4, 16, 4, 4), None, drawn(*shortcut))


def test_what_is_recorded_is_done_by_torch() -> None:
    own, x = network().eval().requires_grad_(False), drawn(8, 3, 12, 12)
    with torch.no_grad():
        expected = own(drawn(8, 3, 12, 12, seed=1))
        exported = torch.export.export(own, (x,)).module()
        assert torch.allclose(exported(drawn(8, 3, 12, 12, seed=1)), expected, atol=1e-4)


def test_what_is_not_a_number_stays_so() -> None:
    norm, x = OrbitBatchNorm2d(D4, 2), drawn(4, 16, 4, 4)
    x[1, 3, 2, 2] = float("nan")
    y = norm.rectified(x, None)
    assert y[:, :8].isnan().all()
    assert not y[:, 8:].isnan().any()
    layer = GroupConv2d(D4.whole, 2, 1, 3)
    assert layer(x).isnan().any()
    for value in (float("nan"), -float("nan"), float("inf")):
        with torch.autocast("cpu", torch.bfloat16):
            assert not layer(torch.full((4, 16, 4, 4), value)).isfinite().any()
    worst = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)  # whose digits would be carried over
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(worst.expand(4, 16, 4, 4)).isnan().all()


def test_they_can_be_switched_off() -> None:
    code = (
        "import torch, skequinas; from skequinas.groups import PointGroup; from skequinas.nn import GroupConv2d;"
        "layer = GroupConv2d(PointGroup.from_name('D4').whole, 1, 1, 3); layer(torch.zeros(8, 8, 4, 4));"
        "print(layer._fused); skequinas.show_versions()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"SKEQUINAS_FUSED": "0", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("None\n")
    assert "Compiled kernels: none" in done.stdout


def test_a_machine_without_them_does_without(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(room, "_FOLDER", tmp_path)
    load.cache_clear()
    try:
        assert [load(name) for name in ("avx512", "avx2", "portable")] == [None] * 3
        assert compiled.__wrapped__() is None
    finally:
        load.cache_clear()


def test_kernels_of_another_version_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_LAYOUT", -1)
    load.cache_clear()
    try:
        assert [load(name) for name in BUILT] == [None] * len(BUILT)
    finally:
        load.cache_clear()


def test_no_memory_is_an_error() -> None:
    with pytest.raises(MemoryError, match="memory"):
        room.check(1)
