"""A guard of speed that counts operations, not seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from skequinas import DifferentiableSearch, EquivariantNASClassifier, EvolutionarySearch
from skequinas.groups import PointGroup
from skequinas.nn import Architecture, EquivariantNetwork, default_architecture, norm
from skequinas.nn.filters import orbit_tables
from skequinas.nn.kernels.fused import FusedConvolution
from skequinas.runtime.compiled import compiled

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")


class Counted(TorchDispatchMode):
    """Count the operations that reach torch's kernels, and note the largest tensor of floats that one makes."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.operations[function.overloadpacket.__name__] += 1
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor) and value.is_floating_point():
                self.largest = max(self.largest, value.numel())
        return result


@contextmanager
def counted() -> Iterator[Counted]:
    """Count within a context."""
    with Counted() as counts:
        yield counts


def step(architecture: Architecture) -> Counted:
    """What a forward and a backward pass of a network need."""
    network = EquivariantNetwork(architecture, torch.Generator().manual_seed(0))
    x = torch.randn(4, 1, architecture.image_size, architecture.image_size)
    with counted() as counts:
        network(x).square().sum().backward()
    return counts


def architectures() -> dict[str, Architecture]:
    """Constrained, mixed over few and over many subgroups, in both bases."""
    start = default_architecture("D4", 12, n_outputs=2, width=16)
    n = start.n_layers
    large = default_architecture("D8", 12, n_outputs=2, width=16)
    return {
        "constrained": start,
        "free": start.with_constraints((D4.trivial,) * n),
        "mixed over 2": start.with_constraints((D4.subgroups[:2],) * n),
        "mixed over 10": start.with_constraints((D4.subgroups,) * n),
        "harmonic": large,
        "harmonic, mixed over 19": large.with_constraints((large.group.subgroups,) * n),
    }


@pytest.mark.parametrize("name", architectures())
def test_a_step_takes_one_convolution_for_each_layer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FusedConvolution, "takes", lambda *_: False)
    monkeypatch.setattr(norm, "takes", lambda *_, **__: False)
    architecture = architectures()[name]
    operations = step(architecture).operations
    assert operations["convolution"] == len(architecture.fields)
    assert operations["convolution_backward"] == len(architecture.fields)


@pytest.mark.skipif(compiled() is None, reason="no compiler built the kernels here")
def test_compiled_kernels_take_the_place_of_all_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def spy(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def spied(*arguments: Any, **options: Any) -> Tensor:
            calls.append(name)
            found: Tensor = original(*arguments, **options)
            return found

        monkeypatch.setattr(owner, name, spied)

    spy(FusedConvolution, "convolve")
    spy(FusedConvolution, "correlate")
    spy(norm, "lift")
    architecture = architectures()["constrained"]
    operations = step(architecture).operations
    hidden = len(architecture.fields) - 1
    assert (calls.count("convolve"), calls.count("correlate")) == (2 * hidden, hidden)
    assert calls.count("lift") == 1
    assert operations["convolution"] == operations["convolution_backward"] == 0


@pytest.mark.parametrize("name", architectures())
def test_a_step_expands_each_kernel_by_one_gather_whatever_the_number_of_subgroups(name: str) -> None:
    architecture = architectures()[name]
    operations = step(architecture).operations
    gathers = sum(n for key, n in operations.items() if "embedding_bag" in key)
    weights = architecture.n_layers + sum(architecture.layer_shape(i)["bias"] for i in range(architecture.n_layers - 1))
    assert gathers <= 2 * weights  # forward and back


def test_a_convolution_for_each_subgroup_would_be_noticed() -> None:
    x, kernels = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 2, 3, 3)
    with counted() as counts:
        sum(torch.nn.functional.conv2d(x, k) for k in kernels)
    assert counts.operations["convolution"] == 3


def test_tables_are_made_once_in_a_process() -> None:
    architecture = architectures()["mixed over 10"]
    EquivariantNetwork(architecture)
    misses = orbit_tables.cache_info().misses
    EquivariantNetwork(architecture)
    assert orbit_tables.cache_info().misses == misses


@pytest.mark.parametrize(
    "search",
    ["none", DifferentiableSearch(), pytest.param(EvolutionarySearch(1), marks=pytest.mark.exhaustive)],
    ids=str,
)
def test_images_are_never_copied_to_floats_as_a_whole(search: Any) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 255, (6000, 16, 16), dtype=np.uint8), rng.integers(2, size=6000)
    model = EquivariantNASClassifier("D4", search, width=8, max_epochs=0.05, random_state=0)
    with counted() as counts:
        model.fit(X, y)
        model.predict(X)
    assert counts.largest < 0.75 * X.size
    with counted() as counts:
        torch.from_numpy(X).float()
    assert counts.largest == X.size
