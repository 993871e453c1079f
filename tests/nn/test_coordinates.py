"""Laws of maps of coordinates: the radius keeps every symmetry, a frame none, and both go wherever networks go."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from skequinas import Architecture, EquivariantNASClassifier, EquivariantNASRegressor, EquivariantNetwork, load, save
from skequinas.groups import PointGroup
from skequinas.nn import inherit, transform_images
from skequinas.nn.transforms import coordinate_maps
from tests.conftest import GROUPS

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS, LABELS = load_digits(return_X_y=True)
D4 = PointGroup.from_name("D4")


def network_of(group: PointGroup, coordinates: str, **own: Any) -> EquivariantNetwork:
    architecture = Architecture(
        group, 9, 2, 3, (2, 3), (3, 5), (True, False), coordinates=coordinates, statistics="mean and maximum", **own
    )
    network = EquivariantNetwork(architecture, torch.Generator().manual_seed(0))
    network.train()(torch.randn(40, 2, 9, 9))  # statistics that are not those of the start
    return network.eval()


def test_maps_are_what_they_say() -> None:
    (radius,), (x, y) = (coordinate_maps(kind, 5, 7).numpy() for kind in ("radius", "frame"))
    assert (x[:, 1:] > x[:, :-1]).all()
    assert (y[1:] < y[:-1]).all()  # upwards
    assert np.sqrt((x**2 + y**2).mean() / 2) == pytest.approx(1, rel=1e-6)
    assert radius.mean() == pytest.approx(0, abs=1e-6)
    assert (radius**2).mean() == pytest.approx(1, rel=1e-6)
    assert radius.argmin() == 2 * 7 + 3
    assert torch.equal(coordinate_maps("radius", 1, 1), torch.zeros(1, 1, 1))


@pytest.mark.parametrize("group", [*GROUPS, PointGroup.from_name("D2")], ids=str)
def test_a_radius_keeps_the_symmetry_and_a_frame_does_not(group: PointGroup) -> None:
    x = torch.randn(8, 2, 9, 9)
    for coordinates in ("none", "radius", "frame"):
        network = network_of(group, coordinates)
        expected = network(x)
        changes = [(network(transform_images(x, group, g)) - expected).abs().max().item() for g in group.elements]
        if coordinates == "frame":
            assert network.architecture.symmetry.order == 1
            assert min(changes[1:]) > 1e-3
        else:
            assert network.architecture.symmetry == group.whole
            assert max(changes) < 1e-5 * expected.abs().max()


def test_a_frame_may_be_averaged_away() -> None:
    network, x = network_of(D4, "frame", averaged="C4"), torch.randn(8, 2, 9, 9)
    assert network.architecture.symmetry.name == "C4"
    for g in D4.subgroup("C4").elements:
        torch.testing.assert_close(network(transform_images(x, D4, g)), network(x), atol=1e-5, rtol=1e-5)


def test_a_radius_is_cut_to_the_disc_that_turns() -> None:
    c8 = PointGroup.from_name("C8")
    x = torch.nn.functional.avg_pool2d(torch.randn(16, 1, 31, 31), 11, 1)
    changes = []
    for coordinates in ("none", "radius"):
        network = EquivariantNetwork(
            Architecture(c8, 21, 1, 3, (2, 2), (5, 5), (True, False), coordinates=coordinates),
            torch.Generator().manual_seed(0),
        )
        network.train()(x)
        outputs = network.eval()(x)
        change = (network(transform_images(x, c8, 1)) - outputs).square().mean() / outputs.var(0).mean()
        changes.append(change.item())
        torch.testing.assert_close(network.to_plain()(x), outputs, atol=1e-4, rtol=1e-4)
    assert changes[1] < 2.5 * changes[0]


def test_networks_of_before_have_none() -> None:
    network, x = network_of(D4, "none"), torch.randn(2, 2, 9, 9)
    del network.__dict__["coordinates"]  # as those that were pickled then
    network = pickle.loads(pickle.dumps(network))
    torch.testing.assert_close(network(x), network.to_plain()(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("coordinates", ["radius", "frame"])
def test_they_go_wherever_networks_go(coordinates: str) -> None:
    network, x = network_of(D4, coordinates), torch.randn(5, 2, 9, 9)
    architecture = network.architecture
    assert Architecture.from_dict(architecture.to_dict()) == architecture
    assert architecture.n_parameters == sum(p.numel() for p in network.parameters())
    free = inherit(network, architecture.unconstrained())
    torch.testing.assert_close(free(x), network(x), atol=1e-5, rtol=1e-5)
    plain = network.to_plain()
    torch.testing.assert_close(plain(x), network(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pickle.loads(pickle.dumps(plain))(x[:1]), network(x[:1]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.double()(x.double()), plain(x).double(), atol=1e-4, rtol=1e-4)
    old = {
        name: value
        for name, value in replace(architecture, coordinates="none").to_dict().items()
        if name != "coordinates"
    }
    assert Architecture.from_dict(old).coordinates == "none"  # files of before have none


@pytest.mark.parametrize("coordinates", ["radius", "frame"])
def test_estimators_take_them(coordinates: Any, tmp_path: Path) -> None:
    model = EquivariantNASClassifier("D4", "none", coordinates=coordinates, max_epochs=1, random_state=0)
    model.fit(DIGITS[:100], LABELS[:100])
    assert model.architecture_.coordinates == coordinates
    assert model.learned_symmetry_.group == ("D4" if coordinates == "radius" else "C1")
    save(model, tmp_path / "model.safetensors")
    expected = model.predict_proba(DIGITS[:50])
    np.testing.assert_array_equal(load(tmp_path / "model.safetensors").predict_proba(DIGITS[:50]), expected)
    found = model.to_torch()(torch.from_numpy(DIGITS[:50]).reshape(-1, 1, 8, 8))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_constrained_network_knows_how_an_image_stands_by_its_frame_alone() -> None:
    """Is there more ink in the upper half?"""
    X = np.random.default_rng(0).random((600, 8, 8)).astype(np.float32)
    y = X[:, :4].sum((1, 2)) > X[:, 4:].sum((1, 2))
    X[y, :4] += 0.3
    X[~y, 4:] += 0.3
    scores = {}
    for coordinates in ("none", "radius", "frame"):
        model = EquivariantNASClassifier("D4", "none", coordinates=coordinates, max_epochs=12, random_state=0)
        scores[coordinates] = model.fit(X[:400], y[:400]).score(X[400:], y[400:])
    assert scores["frame"] > 0.9
    assert max(scores["none"], scores["radius"]) < 0.65


def test_a_search_sees_through_a_radius_and_refuses_a_frame() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 8, 8)).astype(np.float32)
    distance = np.hypot(*np.mgrid[-3.5:4, -3.5:4])
    y = (X * (distance < 3)).sum((1, 2))  # what lies near the centre: the same under D4
    for coordinates in ("none", "radius"):
        model = EquivariantNASRegressor("D4", coordinates=coordinates, max_epochs=8, random_state=0).fit(X, y)
        assert model.learned_symmetry_.group == "D4"
    with pytest.raises(ValueError, match=r"coordinates='frame' gives every network.*search='none'"):
        EquivariantNASClassifier("D4", coordinates="frame").fit(DIGITS[:50], LABELS[:50])
    with pytest.raises(ValueError, match="coordinates='frame' leaves no symmetry, and averaging='always'"):
        EquivariantNASClassifier("D4", "none", coordinates="frame", averaging="always").fit(DIGITS[:50], LABELS[:50])
    with pytest.raises(ValueError, match="coordinates='polar' must be one of 'none', 'radius', 'frame'"):
        Architecture(D4, 8, 1, 2, (1,), (3,), (False,), coordinates="polar")
    given = Architecture(D4, 8, 1, 10, (1,), (3,), (False,))
    with pytest.raises(ValueError, match="coordinates='radius', but the architecture has 'none'"):
        EquivariantNASClassifier(architecture=given, coordinates="radius").fit(DIGITS[:50], LABELS[:50])
