"""Laws of an ordinary network whose outputs are averaged over moves, and of the random moves it is trained on."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import (
    Architecture,
    EquivariantNetwork,
    RandomMoves,
    default_architecture,
    inherit,
    transform_images,
)
from skequinas.nn.networks import network_from_state

D4 = PointGroup.from_name("D4")
D8 = PointGroup.from_name("D8")


def shape(size: int | tuple[int, int] = 9, group: PointGroup = D4) -> Architecture:
    values = {"shortcuts": (0, 0, 2), "statistics": "mean and maximum", "basis": "pixel" if group is D4 else "auto"}
    kernel_size = 3 if group.acts_on_pixels else 5
    return Architecture(group, size, 2, 3, (2, 2, 2), (kernel_size,) * 3, (True, False, False), **values)


def network_of(architecture: Architecture) -> EquivariantNetwork:
    """In eval mode and float64, with statistics that are not those of the start."""
    network = EquivariantNetwork(architecture, torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        network(images(*architecture.image_shape))
    return network.eval()


def images(height: int, width: int, n: int = 6) -> Tensor:
    return torch.randn(n, 2, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(height))


@pytest.mark.parametrize("group", ["D4", "C4", "D8", "C1"])
@pytest.mark.parametrize("size", [14, 48])
def test_an_ordinary_network_in_its_place_is_narrower_and_can_be_built(group: str, size: int) -> None:
    """A convolution takes 9/16 of the arithmetic; compiled kernels leave between a quarter and three quarters of it."""
    architecture = default_architecture(group, size, n_outputs=2)
    ordinary = architecture.ordinary(architecture.group.trivial)
    channels, other = (a.group.order * np.array(a.fields) for a in (architecture, ordinary))
    assert (other <= channels).all()
    share = 0.75 if architecture.group.acts_on_pixels else 1.0  # turned filters have no such kernels
    assert abs(other.sum() / channels.sum() - share) < 0.1
    assert set(ordinary.constraint_names) == {"C1"}
    assert replace(ordinary, fields=architecture.fields) == architecture.unconstrained(architecture.group.trivial)
    assert EquivariantNetwork(ordinary).eval()(torch.zeros(2, 1, size, size)).shape == (2, 2)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("averaged", D4.subgroups, ids=str)
@torch.no_grad()
def test_it_is_invariant_to_exactly_what_it_is_averaged_over(averaged: Subgroup, size: int) -> None:
    architecture = shape(size).unconstrained(averaged)
    network, x = network_of(architecture), images(size, size)
    y, kept = network(x), set()
    for g in D4.elements:
        error = (network(transform_images(x, D4, g)) - y).abs().max() / y.std()
        assert error < 1e-10 or error > 1e-3
        kept |= {g} if error < 1e-10 else set()
    assert kept == set(averaged.elements)
    assert architecture.symmetry == averaged
    assert architecture.constrained_to == D4.trivial


@torch.no_grad()
def test_the_average_is_that_of_the_ordinary_network_in_eval_mode_alone() -> None:
    ordinary = network_of(shape().unconstrained())
    averaged = inherit(ordinary, shape().unconstrained(D4.subgroup("C4")))
    x = images(9, 9)
    moved = [ordinary(x.rot90(k, (2, 3))) for k in range(4)]
    torch.testing.assert_close(averaged(x), torch.stack(moved).mean(0))
    assert torch.equal(averaged.train()(x), ordinary.train()(x))


@pytest.mark.parametrize(("size", "group"), [(9, "D4"), (8, "C4"), (9, "D1(135)"), ((8, 12), "D2")], ids=str)
@torch.no_grad()
def test_the_export_is_the_same_function(size: int | tuple[int, int], group: str) -> None:
    whole = D4 if isinstance(size, int) else PointGroup.from_name(group)
    network = network_of(shape(size, whole).unconstrained(whole.subgroup(group)))
    x = images(*network.architecture.image_shape)
    torch.testing.assert_close(network.to_plain()(x), network(x), rtol=1e-10, atol=1e-12)


def test_a_pickled_export_needs_torch_alone(tmp_path: Path) -> None:
    network, x = network_of(shape().unconstrained(D4.whole)), images(9, 9)
    with torch.no_grad():
        expected = network(x)
    path = tmp_path / "network.pkl"
    path.write_bytes(pickle.dumps((network.to_plain(), x, expected)))
    code = (
        "import sys; sys.modules['skequinas'] = None\n"
        "import pickle, torch\n"
        f"network, x, expected = pickle.loads(open({str(path)!r}, 'rb').read())\n"
        "torch.testing.assert_close(network(x), expected)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_finer_turns_are_left_to_constraints() -> None:
    eighth = shape(9, D8)
    assert eighth.unconstrained(D8.subgroup("C4")).symmetry.name == "C4"
    for name in ("C8", "D8"):
        with pytest.raises(ValueError, match="do not map the pixel grid to itself"):
            eighth.unconstrained(D8.subgroup(name))


def test_what_constraints_have_by_themselves_is_not_averaged_over() -> None:
    half = shape().relaxed(-1, D4.subgroup("C4"))
    values = half.to_dict()
    assert Architecture.from_dict(values | {"averaged": "C4"}) == half
    assert Architecture.from_dict(values | {"averaged": "D4"}).symmetry == D4.whole
    with pytest.raises(ValueError, match=r"averaged=D2\(0\) must be a subgroup of D4 that contains C4"):
        Architecture.from_dict(values | {"averaged": "D2(0)"})
    with pytest.raises(ValueError, match="averaged"):
        Architecture.from_dict(values | {"averaged": ["D4", "C4"]})


def test_values_and_states_go_through_files() -> None:
    architecture = shape().unconstrained(D4.whole)
    assert Architecture.from_dict(architecture.to_dict()) == architecture
    assert str(architecture) == "C1 C1 C1 | C1, averaged over D4"
    assert "averaged" not in str(architecture.unconstrained())
    network, x = network_of(architecture).float(), images(9, 9).float()
    assert torch.equal(network_from_state(architecture, network.state_dict())(x), network(x))


@pytest.mark.parametrize("name", ["D4", "C4", "D1(45)", "C1"])
def test_each_image_is_moved_by_an_element_drawn_for_it(name: str) -> None:
    subgroup = D4.subgroup(name)
    x = images(7, 7, 400)
    moved = RandomMoves(subgroup, 3)(x)
    ways = torch.stack([transform_images(x, D4, g) for g in subgroup.elements])
    same = (ways == moved).all(4).all(3).all(2)
    assert (same.sum(0) == 1).all()
    counts = same.sum(1)
    assert counts.min() > 0.5 * 400 / subgroup.order
    assert torch.equal(moved, RandomMoves(subgroup, 3)(x))
    again = RandomMoves(subgroup, 3)
    first, second = again(x), again(x)
    assert torch.equal(first, second) == (subgroup.order == 1)


@pytest.mark.parametrize(("size", "dtype"), itertools.product([(7, 7), (6, 8)], [torch.uint8, torch.float32]))
def test_moved_images_keep_their_shape_and_type(size: tuple[int, int], dtype: torch.dtype) -> None:
    group = D4 if size[0] == size[1] else PointGroup.from_name("D2")
    x = (100 * images(*size)).to(dtype)
    moved = RandomMoves(group.whole, 0)(x)
    assert (moved.shape, moved.dtype) == (x.shape, dtype)
