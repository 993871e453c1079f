"""Laws of trainings by relaxation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from skequinas import ConstraintRelaxation, EquivariantNASClassifier
from skequinas.groups import PointGroup
from skequinas.nn import Architecture, EquivariantNetwork, GroupConv2d, ResidualGroupConv2d
from skequinas.training import CLASSIFICATION, DataPart, TrainingSettings, train
from skequinas.training.relaxation import Relaxation
from skequinas.training.residuals import ResidualSettings

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
START = Architecture(D4, 8, 1, 2, (2, 3, 3), (3, 3, 3), (False, True, False), ("D4", "C4", "C1", "D2(0)"))  # type: ignore[arg-type]


def network_of(seed: int = 0) -> EquivariantNetwork:
    return EquivariantNetwork(START, torch.Generator().manual_seed(seed))


def data(n: int = 48) -> DataPart:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 1, 8, 8, generator=generator)
    return DataPart(images, (images.square().mean((1, 2, 3)) > 1).long(), nn.Identity(), CLASSIFICATION)


def settings(height: float) -> TrainingSettings:
    return TrainingSettings(optimizer="muon", batch_size=16, residuals=ResidualSettings(relaxation=height))


def test_a_network_that_is_relaxed_by_nothing_computes_the_same_and_comes_back() -> None:
    network, x = network_of().eval(), data().images
    before, state = network(x), copy.deepcopy(network.state_dict())
    own = network.convolutions
    relaxation = Relaxation(network, 0.7, 100, 0)
    kinds = [ResidualGroupConv2d, ResidualGroupConv2d, GroupConv2d, ResidualGroupConv2d]  # C1 has nothing to give up
    assert [type(layer) for layer in network.convolutions] == kinds
    with relaxation:
        torch.testing.assert_close(network(x), before, atol=1e-5, rtol=0)
        assert not relaxation.step(45)
        assert (network(x) - before).abs().max() > 1e-3
        for _, _, soft in relaxation.layers:
            assert soft.gammas is not None
            assert float(soft.gammas.detach().norm()) == pytest.approx(0.7)
        assert relaxation.step(100)
    assert network.convolutions == own
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_the_residual_rises_and_falls_and_is_gone_for_the_last_tenth() -> None:
    relaxation = Relaxation(network_of(), 1.0, 100, 0)
    shares = [relaxation.share(step) for step in range(101)]
    assert shares[0] == 0.0
    assert shares[45] == 1.0
    assert all(a < b for a, b in zip(shares[:45], shares[1:46], strict=True))
    assert all(a > b for a, b in zip(shares[45:90], shares[46:91], strict=True))
    assert not any(shares[90:])
    for n_steps in (1, 2, 3):
        assert Relaxation(network_of(), 1.0, n_steps, 0).step(n_steps)


def test_it_ends_exactly_constrained() -> None:
    x = data().images
    whole = EquivariantNetwork(START.with_constraints((D4.whole,) * 4), torch.Generator().manual_seed(0))
    train(whole, data(), settings(0.8), 10, seed=0)
    assert all(isinstance(layer, GroupConv2d) for layer in whole.convolutions)
    y = whole(x)
    for moved in (x.flip(3), x.mT, x.rot90(1, (2, 3))):
        torch.testing.assert_close(whole(moved), y, atol=1e-5, rtol=0)
    other = EquivariantNetwork(START.with_constraints((D4.whole,) * 4), torch.Generator().manual_seed(0))
    train(other, data(), settings(0.0), 10, seed=0)
    assert (other(x) - y).abs().max() > 1e-2  # another training it was


def test_cut_short_it_is_projected_and_validation_waits_for_the_constrained_network() -> None:
    network, steps = EquivariantNetwork(START.with_constraints((D4.whole,) * 4), torch.Generator().manual_seed(0)), [0]

    def stop() -> bool:
        steps[0] += 1
        return steps[0] == 12

    train(network, data(), settings(0.8), 10, seed=0, on_step=stop)
    assert all(isinstance(layer, GroupConv2d) for layer in network.convolutions)
    x = data().images
    torch.testing.assert_close(network(x.mT), network(x), atol=1e-5, rtol=0)
    best = EquivariantNetwork(START.with_constraints((D4.whole,) * 4), torch.Generator().manual_seed(0))
    log = train(best, data(), settings(0.8), 30, seed=0, validation=data(), patience=1)
    assert len(log) >= 0.9 * 30  # before that no epoch counts
    with pytest.raises(KeyboardInterrupt):
        train(best, data(), settings(0.8), 10, seed=0, on_step=_interrupt)
    assert all(isinstance(layer, GroupConv2d) for layer in best.convolutions)


def _interrupt() -> bool:
    raise KeyboardInterrupt


def test_a_model_is_as_symmetric_as_without() -> None:
    X, y = load_digits(n_class=3, return_X_y=True)
    options: dict[str, Any] = {"width": 8, "max_epochs": 4, "random_state": 0}
    model = EquivariantNASClassifier("D4", ConstraintRelaxation(0.6), **options).fit(X[:200], y[:200])
    assert model.learned_symmetry_.group == "D4"
    assert max(model.learned_symmetry_.measured_change.values()) < 1e-4
    plain = EquivariantNASClassifier("D4", "none", **options).fit(X[:200], y[:200])
    assert plain.n_parameters_ == model.n_parameters_
    assert abs(plain.predict_proba(X) - model.predict_proba(X)).max() > 1e-3
