"""Laws of compiled mixtures: they are those of torch, in outputs and gradients, whatever the number of threads."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import MixedGroupConv2d
from skequinas.nn.kernels import mixing
from skequinas.runtime.compiled import compiled

pytestmark = pytest.mark.skipif(compiled() is None, reason="no compiler built the kernels here")

D4, C8 = PointGroup.from_name("D4"), PointGroup.from_name("C8")
MIXTURES = {
    "all": (D4.subgroups, "pixel"),
    "two": ((D4.subgroup("C4"), D4.trivial), "pixel"),
    "one": ((D4.subgroup("D1(45)"),), "pixel"),
    "harmonic": (C8.subgroups, "harmonic"),
}
FORMS = {"lifting": (False, True), "hidden": (True, True), "head": (True, False)}


@pytest.fixture
def threads() -> Iterator[None]:
    """What the number of threads is again afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def layer_of(mixture: tuple[tuple[Subgroup, ...], str], form: tuple[bool, bool], fields: int = 3) -> MixedGroupConv2d:
    """A mixed layer whose weights, logits and biases are far from those at the start."""
    (subgroups, basis), (regular_in, regular_out) = mixture, form
    generator = torch.Generator().manual_seed(0)
    layer = MixedGroupConv2d(
        subgroups, 2, fields, 3, regular_in=regular_in, regular_out=regular_out, basis=basis, generator=generator
    )
    with torch.no_grad():
        for p in layer.parameters():
            p += torch.randn(p.shape, generator=generator)
    return layer


def outcome(layer: MixedGroupConv2d) -> list[Tensor]:
    """Kernel and bias, and the gradients of all parameters."""
    kernel, offset = layer.kernel(), layer.offset()
    assert offset is not None
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(v.shape, generator=generator).to(v.dtype) for v in (kernel, offset)]
    return [kernel.detach(), offset.detach(), *torch.autograd.grad([kernel, offset], list(layer.parameters()), grads)]


def near(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(
        bool((own.double() - other).abs().max() <= 1e-5 * other.abs().max())
        for own, other in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_kernels_and_gradients_are_those_of_torch(
    mixture: tuple[tuple[Subgroup, ...], str], form: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    original = mixing.mix
    monkeypatch.setattr(mixing, "mix", lambda *a: (calls.append(a[-1] is None), original(*a))[1])
    layer = layer_of(mixture, form)
    found = outcome(layer)
    assert calls == ([False, True] if form[1] else [False])  # kernels have norms, and biases, where they are mixed
    n = len(calls)
    assert near(found, outcome(copy.deepcopy(layer).double()))
    assert len(calls) == n


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("fields", [1, 7, 12])
def test_every_number_of_threads_gives_the_same_bits(fields: int) -> None:
    layer = layer_of(MIXTURES["all"], FORMS["hidden"], fields)
    every = []
    for number in (1, 2, 3, 5):
        torch.set_num_threads(number)
        every.append(outcome(layer))
    for other in every[1:]:
        assert all(torch.equal(own, first) for own, first in zip(other, every[0], strict=True))


def test_a_share_of_zero_has_finite_gradients() -> None:
    layer = layer_of(MIXTURES["two"], FORMS["hidden"])
    with torch.no_grad():
        layer.logits.copy_(torch.tensor([0.0, -2000.0]))
    assert layer.shares()[1] == 0
    found = outcome(layer)
    assert all(values.isfinite().all() for values in found)
    assert near(found, outcome(copy.deepcopy(layer).double()))


def test_a_part_of_norm_zero_is_not_a_number_as_with_torch() -> None:
    layer = layer_of(MIXTURES["two"], FORMS["hidden"])
    with torch.no_grad():
        layer.weights.parts()[1].zero_()
    assert layer.kernel().isnan().all()
    assert layer.double().kernel().isnan().all()


@pytest.mark.parametrize("what", ["double", "strided"])
def test_torch_does_what_they_are_not_made_for(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of(MIXTURES["two"], FORMS["head"])
    expected = copy.deepcopy(layer).double().kernel().detach()
    weight = layer.weights.weight
    if what == "strided":
        layer.weights.weight = torch.nn.Parameter(weight.detach().transpose(1, 2).contiguous().transpose(1, 2))
        assert not layer.weights.weight.is_contiguous()
    else:
        layer.double()
    monkeypatch.setattr(mixing, "mix", None)
    torch.testing.assert_close(layer.kernel().double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["weights.weight", "logits", "norms"])
def test_values_of_another_shape_are_refused_by_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of(MIXTURES["all"], FORMS["head"])
    *path, last = name.split(".")
    owner = layer.get_submodule(".".join(path))
    value = getattr(owner, last)
    shorter = value.detach()[:-1]
    setattr(owner, last, torch.nn.Parameter(shorter) if isinstance(value, torch.nn.Parameter) else shorter)
    monkeypatch.setattr(mixing, "mix", None)
    with pytest.raises((RuntimeError, IndexError)):
        layer.kernel()


def test_threads_that_ask_for_the_same_spaces_at_once_each_have_their_tables() -> None:
    layer = layer_of(MIXTURES["all"], FORMS["hidden"])
    expected = outcome(layer)
    mixing._tables.cache_clear()
    barrier, found = threading.Barrier(4), []

    def ask() -> None:
        own = copy.deepcopy(layer)
        barrier.wait()
        for _ in range(20):
            found.append(outcome(own))

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(found) == 80
    for own in found:
        assert all(torch.equal(value, first) for value, first in zip(own, expected, strict=True))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own tracing does so
def test_a_mixed_layer_can_be_exported() -> None:
    layer = layer_of(MIXTURES["two"], FORMS["hidden"])
    x = torch.randn(2, 16, 5, 5)
    exported = torch.export.export(layer, (x,), strict=True).module()
    torch.testing.assert_close(exported(x), layer(x), rtol=0, atol=1e-5)


def test_second_derivatives_are_refused() -> None:
    layer = layer_of(MIXTURES["two"], FORMS["hidden"])
    (once,) = torch.autograd.grad(layer.kernel().square().sum(), layer.weights.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        once.sum().backward()


def test_weights_that_changed_in_between_are_noticed() -> None:
    layer = layer_of(MIXTURES["two"], FORMS["hidden"])
    kernel = layer.kernel()
    with torch.no_grad():
        layer.weights.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kernel.sum().backward()
