"""Laws of a training that is as long as it pays."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from skequinas import DifferentiableSearch, EquivariantNASClassifier, EvolutionarySearch
from skequinas.nn import Architecture, EquivariantNetwork
from skequinas.search import driver
from skequinas.training import CLASSIFICATION, DataPart, TrainingSettings, curve, evaluate
from skequinas.training.curve import GREATEST_SHARE, train_by_curve

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = TrainingSettings(optimizer="muon", batch_size=8, learning_rate=0.005)


def data(n: int, signal: float, seed: int = 0) -> DataPart:
    """Noise, and in half of it stripes of this strength."""
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % 2
    images = rng.normal(size=(n, 1, 8, 8)) + signal * targets[:, None, None, None] * np.cos(np.arange(8) * np.pi)
    return DataPart(
        torch.from_numpy(images.astype(np.float32)), torch.from_numpy(targets), nn.Identity(), CLASSIFICATION
    )


def network() -> EquivariantNetwork:
    architecture = Architecture("D1", 8, 1, 2, (2, 2), (3, 3), (False, False))
    return EquivariantNetwork(architecture, torch.Generator().manual_seed(0))


def length(signal: float, epochs: float = 32) -> tuple[float, EquivariantNetwork]:
    own = network()
    return train_by_curve(own, data(128, signal), SETTINGS, epochs, data(200, signal, 1), seed=0), own


def test_noise_is_learned_no_longer_than_the_least() -> None:
    assert length(0.0)[0] <= 8  # 16 steps an epoch: the first 128 are 8 epochs


def test_the_same_seed_gives_the_same_bits() -> None:
    one, other = (length(1.0, 16)[1] for _ in range(2))
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_task_that_is_learned_slowly_is_trained_for_longer_than_noise() -> None:
    own, slowly = network(), TrainingSettings(optimizer="muon", batch_size=16, learning_rate=0.002)
    epochs = train_by_curve(own, data(256, 0.6), slowly, 32, data(400, 0.6, 1), seed=0)
    assert epochs > length(0.0)[0]
    assert evaluate(own, data(400, 0.6, 2))[1].mean() < 0.05


def test_no_curve_is_trusted_before_ninety_mini_batches() -> None:
    assert length(0.0, 8)[0] >= 4  # 64 and 128 mini-batches
    steps = itertools.count()
    epochs = train_by_curve(
        network(), data(128, 0.0), SETTINGS, 8, data(200, 0.0, 1), seed=0, on_step=lambda: next(steps) < 0
    )
    assert next(steps) == 128, "half of the length would be too few"
    assert epochs in (4, 8)


def test_it_ends_at_half_of_the_greatest_length() -> None:
    slowly = TrainingSettings(optimizer="muon", batch_size=16, learning_rate=1e-3)
    for epochs in (12, 32):  # 16 mini-batches each
        found = train_by_curve(network(), data(256, 0.6), slowly, epochs, data(400, 0.6, 1), seed=0)
        assert 0 < found <= GREATEST_SHARE * epochs == epochs / 2


def test_the_clock_ends_a_part() -> None:
    steps = itertools.count(1)
    epochs = train_by_curve(
        network(), data(128, 1.0), SETTINGS, 64, data(64, 1.0, 1), seed=0, on_step=lambda: next(steps) >= 20
    )
    assert next(steps) == 21
    assert epochs == 20 / 16


@pytest.mark.parametrize(("last", "epochs"), [(0.7, 8), (0.4, 16)])
def test_a_part_that_did_not_pay_is_undone_if_it_raised_the_loss(
    last: float, epochs: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, states = iter([(1.0, 0.5), (0.5, 0.3), (last, 0.3)]), []

    def evaluated(own: nn.Module, part: DataPart) -> tuple[np.ndarray, np.ndarray]:
        states.append({name: value.clone() for name, value in own.state_dict().items()})
        loss, error = next(told)
        return np.full(len(part), loss), (np.arange(len(part)) < error * len(part)).astype(float)

    monkeypatch.setattr(curve, "evaluate", evaluated)
    own = network()
    assert train_by_curve(own, data(128, 1.0), SETTINGS, 32, data(64, 1.0, 1), seed=0) == epochs
    for name, value in own.state_dict().items():
        assert torch.equal(value, states[1 if epochs == 8 else 2][name])


@pytest.mark.parametrize(("found", "final"), [(0.125, 0.375), (0.25, 0.75), (0.5, 1.0)])
def test_the_final_training_is_three_times_as_long_as_the_search_found_to_pay(
    monkeypatch: pytest.MonkeyPatch, found: float, final: float
) -> None:
    X, y = np.random.default_rng(0).normal(size=(64, 8, 8)), np.arange(64) % 2

    monkeypatch.setattr(driver, "train_by_curve", lambda network, part, settings, epochs, *_, **__: found * epochs)
    model = EquivariantNASClassifier("D1", EvolutionarySearch(1, epochs_per_generation=0.01), width=4, random_state=0)
    model.fit(X, y)
    assert model.search_.epochs_ == found * 80
    assert len(model.history_["epoch"]) == final * 80


@pytest.mark.parametrize("discretize", [True, False])
def test_a_mixture_that_is_the_model_is_trained_in_full(discretize: bool) -> None:
    search = DifferentiableSearch(discretize=discretize)
    search.start(network().architecture, 8.0, SETTINGS, 0, by_curve=True)
    (mixture,) = search.ask()
    assert (mixture.by_curve, mixture.epochs) == (discretize, 8.0)
