"""Laws of penalties for what moves change."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from skequinas import EquivariantNASClassifier, PenalisedSearch, load, save
from skequinas.evidence.measures import mean_change, measured_change, moved_outputs
from skequinas.groups import PointGroup
from skequinas.nn import Architecture, EquivariantNetwork, transform_images
from skequinas.training import CLASSIFICATION, DataPart, TrainingSettings, train
from skequinas.training.data import Batch
from skequinas.training.invariance import InvariancePenalty, InvarianceSettings, latent_change, moved_maps

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
START = Architecture(D4, 8, 1, 2, (2, 3), (3, 3), (False, True))


def noise(n: int = 64) -> DataPart:
    """Bright or dark above a line: nothing that a move leaves as it is."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 1, 8, 8, generator=generator)
    targets = (images[:, 0, :4].mean((1, 2)) > images[:, 0, 4:].mean((1, 2))).long()
    return DataPart(images, targets, nn.Identity(), CLASSIFICATION)


def network_of(constraint: str, seed: int = 0) -> EquivariantNetwork:
    h = D4.subgroup(constraint)
    return EquivariantNetwork(START.with_constraints((h,) * 3), torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any]:
    X, y = load_digits(n_class=3, return_X_y=True)
    return X[:200], y[:200]


def penalty(network: EquivariantNetwork, **settings: Any) -> InvariancePenalty:
    return InvariancePenalty(InvarianceSettings("D4", **settings), network, 0)


def batch() -> Batch:
    data = noise()
    return data.batch(torch.arange(len(data)))


def trained(weight: float, kind: str, *, adapted: bool = False) -> EquivariantNetwork:
    head = D4.whole if kind == "latent" else D4.trivial
    architecture = START.with_constraints((D4.trivial, D4.trivial, head))
    network = EquivariantNetwork(architecture, torch.Generator().manual_seed(0))
    settings = TrainingSettings(batch_size=16, invariance=InvarianceSettings("D4", weight, kind, adapted))
    train(network, noise(), settings, 20, seed=0)
    return network.eval()


@pytest.mark.parametrize("kind", ["outputs", "latent"])
def test_an_invariant_network_pays_nothing(kind: str) -> None:
    network, own = network_of("D4").eval(), batch()
    plain = own.loss(network, CLASSIFICATION)
    for weight in (1.0, 100.0):
        one = penalty(network, weight=weight, kind=kind)
        for _ in range(6):  # elements
            torch.testing.assert_close(one.loss(network, own, CLASSIFICATION, 0.0), plain, atol=1e-5, rtol=0)
    free = network_of("C1").eval()
    assert (
        penalty(free, weight=1.0, kind=kind).loss(free, own, CLASSIFICATION, 0.0)
        > own.loss(free, CLASSIFICATION) + 1e-4
    )


def test_what_is_added_is_what_it_says() -> None:
    network, own = network_of("C1").eval(), batch()
    plain = own.loss(network, CLASSIFICATION, 0.1)
    found = {kind: set[float]() for kind in ("outputs", "labels")}
    expected: dict[str, list[float]] = {kind: [] for kind in found}
    with torch.no_grad():
        for kind in found:
            one = penalty(network, weight=0.5, kind=kind)
            for _ in range(40):
                found[kind].add(round(float(2 * (one.loss(network, own, CLASSIFICATION, 0.1) - plain)), 6))
        for element in list(D4.elements)[1:]:
            moved = own._replace(inputs=transform_images(own.inputs, D4, element))
            expected["outputs"].append(float((network(moved.inputs) - network(own.inputs)).square().mean()))
            expected["labels"].append(float(moved.loss(network, CLASSIFICATION, 0.1)))
    for kind, values in found.items():
        assert len(values) == 7  # each element but the identity
        np.testing.assert_allclose(sorted(values), sorted(expected[kind]), atol=1e-5)


def test_maps_are_moved_as_a_representation() -> None:
    maps = torch.randn(2, 3 * 8, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(moved_maps(maps, D4, 0), maps)
    for g in D4.elements:
        for h in D4.elements:
            twice = moved_maps(moved_maps(maps, D4, h), D4, g)
            assert torch.equal(twice, moved_maps(maps, D4, D4.multiply(g, h)))
    network = network_of("D4").eval()
    x = noise().images
    free = network_of("C1").eval()
    with torch.no_grad():
        for g in D4.elements:
            moved = transform_images(x, D4, g)
            assert latent_change(network.maps(x), network.maps(moved), D4, g) < 1e-10
            if g:
                change = latent_change(free.maps(x), free.maps(moved), D4, g)
                assert change > 0.01
                torch.testing.assert_close(latent_change(7 * free.maps(x), 7 * free.maps(moved), D4, g), change)


@pytest.mark.parametrize("kind", ["outputs", "labels", "latent"])
def test_networks_change_the_less_the_more_they_pay(kind: str) -> None:
    data = noise()
    change = [
        mean_change(trained(weight, kind), data, "D4") for weight in (0.0, 0.3, 100.0 if kind == "latent" else 10.0)
    ]
    bound = 0.9 if kind == "labels" else 0.6
    assert change[2] < bound * change[0]
    assert change[2] < change[1] * 1.02


@pytest.mark.parametrize("kind", ["outputs", "labels", "latent"])
def test_a_weight_of_zero_is_no_penalty(kind: str) -> None:
    states = []
    for invariance in (None, InvarianceSettings("D4", 0.0, kind), InvarianceSettings("D4", 0.0, kind, True)):
        network = network_of("C1")
        train(network, noise(), TrainingSettings(batch_size=16, invariance=invariance), 2, seed=0)
        states.append(network.state_dict())
    for state in states[1:]:
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())


@pytest.mark.parametrize("kind", ["labels", "latent"])
def test_adapted_weights_keep_their_sum_and_even_out_gradients(kind: str) -> None:
    network, own = network_of("C1").train(), batch()
    one = penalty(network, weight=3.0, kind=kind, adapted=True)
    shared = network.convolutions[-1 if kind == "labels" else -2].weights.weight
    norms: list[float] = []
    plain = torch.autograd.grad

    def watched(outputs: Any, inputs: Any, **options: Any) -> Any:
        found = plain(outputs, inputs, **options)
        if inputs is shared:
            norms.append(float(found[0].norm()))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", watched)
        for _ in range(150):
            loss = one.loss(network, own, CLASSIFICATION, 0.0)
    assert loss.requires_grad
    assert float(one.weights.detach().sum()) == pytest.approx(4.0, rel=1e-5)
    assert one.weights.min() > 0.05  # neither task is given up
    # nothing is trained here, so both are as far as they were, and their weighted gradients become about alike
    task, change = (np.mean(norms[-40 + i :: 2]) for i in (0, 1))
    weights = one.weights.detach().tolist()
    assert weights[0] * task == pytest.approx(weights[1] * change, rel=0.5)


def test_the_mean_change_is_that_of_the_report() -> None:
    network, data = network_of("C1").eval(), noise()
    report = measured_change(moved_outputs(network, data.images, D4), D4)
    assert mean_change(network, data, "D4") == pytest.approx(np.mean(list(report.values())[1:]), rel=1e-4)
    assert mean_change(network, data, "C1") == 0.0
    assert np.isnan(mean_change(network, data, "C3"))  # nothing of it can be measured on pixels
    assert mean_change(network_of("D4").eval(), data, "D4") < 1e-5


def test_settings_come_back_from_plain_values() -> None:
    settings = TrainingSettings(invariance=InvarianceSettings("D4", 0.3, "latent", True))
    assert TrainingSettings(**asdict(settings)) == settings


def test_the_model_is_trained_with_the_penalty_that_was_chosen(digits: tuple[Any, Any]) -> None:
    X, y = digits
    model = EquivariantNASClassifier("C4", PenalisedSearch([0.0, 1.0]), max_epochs=20, width=8, random_state=0)
    strict = copy.deepcopy(model).set_params(search__tolerance=1e6).fit(X, y)
    results = strict.search_results_
    assert results["penalty"].tolist() == [0.0, 1.0]
    assert results["change"][1] < results["change"][0]
    assert strict.learned_symmetry_.group == "C1"
    lax = copy.deepcopy(model).set_params(search__weights=[0.0]).fit(X, y)
    change = [np.mean(list(m.learned_symmetry_.measured_change.values())[1:]) for m in (strict, lax)]
    assert change[0] < 0.7 * change[1]


@pytest.mark.parametrize("weights", [[], [-1.0], [np.nan], [[1.0]], ["a"]])
def test_weights_that_are_none_are_refused(weights: Any) -> None:
    with pytest.raises(ValueError, match=r"weights=.*must be a list of numbers"):
        PenalisedSearch(weights).start(START, 1.0, TrainingSettings(), 0)


def test_a_group_without_pixel_moves_is_refused() -> None:
    start = Architecture(PointGroup.from_name("C3"), 8, 1, 2, (2, 3), (3, 3), (False, True))
    with pytest.raises(ValueError, match=r"group='C3' has no element that maps pixels to pixels"):
        PenalisedSearch().start(start, 1.0, TrainingSettings(), 0)


def test_an_array_of_weights_is_saved(digits: tuple[Any, Any], tmp_path: Path) -> None:
    X, y = digits
    search = PenalisedSearch(np.array([0.0, 1.0]))
    model = EquivariantNASClassifier("C4", search, max_epochs=1, width=8, random_state=0).fit(X, y)
    save(model, tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").predict_proba(X), model.predict_proba(X))


def test_an_architecture_with_constraints_is_refused() -> None:
    other = START.with_constraints(("C4", "C4", "C4"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"search='penalised' takes all away"):
        PenalisedSearch().start(other, 1.0, TrainingSettings(), 0)
