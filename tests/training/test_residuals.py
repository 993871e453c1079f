"""Laws of what holds residuals in check."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn

from skequinas.groups import PointGroup
from skequinas.nn import Architecture, EquivariantNetwork, inherit
from skequinas.training import CLASSIFICATION, DataPart, TrainingSettings, train
from skequinas.training.loop import refresh_statistics
from skequinas.training.residuals import DualAscent, ResidualSettings, residual_layers, residual_prior

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
START = Architecture(D4, 8, 1, 2, (2, 3), (3, 3), (False, True))
SOFT = replace(START.with_constraints(((D4.whole, D4.trivial),) * 3), mixing="residual")


def stripes(n: int = 64) -> DataPart:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(n) % 2
    row = (torch.arange(8) % 2).float().expand(8, 8)
    images = torch.stack([row if t else row.T for t in targets]) + 0.3 * torch.randn(n, 8, 8, generator=generator)
    return DataPart(images[:, None], targets, nn.Identity(), CLASSIFICATION)


def spots(n: int = 64) -> DataPart:
    """Bright in the middle or around it, which no move changes."""
    targets = torch.arange(n) % 2
    middle = torch.zeros(8, 8)
    middle[2:6, 2:6] = 1.0
    generator = torch.Generator().manual_seed(0)
    images = torch.stack([middle if t else 0.7 - middle for t in targets]) + 0.3 * torch.randn(
        n, 8, 8, generator=generator
    )
    return DataPart(images[:, None], targets, nn.Identity(), CLASSIFICATION)


def trained(
    settings: ResidualSettings, epochs: float = 30, data: DataPart | None = None, **options: object
) -> EquivariantNetwork:
    network = EquivariantNetwork(replace(SOFT, **options), torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    optimizer = "muon" if network.architecture.mixing == "residual" else "adamw"
    data = stripes() if data is None else data
    train(network, data, TrainingSettings(optimizer=optimizer, batch_size=16, residuals=settings), epochs, seed=0)
    return network


def gammas_of(network: nn.Module) -> list[Tensor]:
    return [layer.gammas.detach() for layer in residual_layers(network) if layer.gammas is not None]


def alone(settings: ResidualSettings, grad: float = 0.0, n_steps: int = 500) -> tuple[Tensor, DualAscent]:
    """What becomes of three of them when the loss has one gradient for ever."""
    p = nn.Parameter(torch.tensor([1.0, 0.5, -0.2], dtype=torch.float64))
    ascent = DualAscent([p], settings, n_steps)
    for _ in range(n_steps):
        p.grad = torch.full_like(p, grad)
        ascent.step()
    return p.detach(), ascent


def test_left_to_themselves_all_go_to_zero_and_the_price_stays() -> None:
    found, ascent = alone(ResidualSettings(rate=10))
    assert found.abs().max() < 1 / 2000
    assert ascent.prices[0].abs().max() < 1 / 2000
    found, ascent = alone(ResidualSettings(rate=20), grad=-0.3)
    assert found.abs().max() < 1e-5
    torch.testing.assert_close(ascent.prices[0], torch.full_like(found, 0.3), atol=1e-4, rtol=0)  # what it costs


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7])
def test_few_steps_do_not_swing(n_steps: int) -> None:
    found, _ = alone(ResidualSettings(rate=10), n_steps=n_steps)
    assert found.abs().max() <= 1.0


def test_a_price_grows_only_while_it_is_violated() -> None:
    p = nn.Parameter(torch.tensor([0.5, 0.05]))
    ascent = DualAscent([p], ResidualSettings(rate=1, slack=0.1), 100)
    for value in (0.5, 0.3, 0.05, 0.0):
        before = ascent.prices[0].clone()
        with torch.no_grad():
            p[0] = value
        p.grad = torch.zeros_like(p)
        ascent.step()
        grown = ascent.prices[0] - before
        assert (grown[0] > 0) == (value > 0.1)
        assert ascent.prices[0][1] == 0.0
    for _ in range(200):
        p.grad = torch.zeros_like(p)
        ascent.step()
    assert ascent.prices[0].min() == 0.0  # never below


def test_with_slack_they_may_stay_as_large_as_it() -> None:
    found, ascent = alone(ResidualSettings(rate=40, slack=0.1), grad=-0.3, n_steps=4000)
    torch.testing.assert_close(found, torch.full_like(found, 0.1), atol=5e-3, rtol=0)
    found, ascent = alone(ResidualSettings(rate=40, slack=0.1), n_steps=4000)
    assert found.abs().max() <= 0.1 + 5e-3


@pytest.mark.parametrize("price", [0.5, 2.0])
def test_the_resilient_form_is_a_ridge(price: float) -> None:
    found, ascent = alone(ResidualSettings(rate=80, price=price), grad=-0.4, n_steps=8000)
    torch.testing.assert_close(found, torch.full_like(found, 0.4 / (2 * price)), atol=1e-2, rtol=0)
    torch.testing.assert_close(ascent.slacks[0], found, atol=1e-2, rtol=0)


def test_a_training_with_prices_ends_nearly_constrained() -> None:
    data = spots()
    network = trained(ResidualSettings(rate=10, free_head=False), 60, data).eval()
    assert all(gammas.abs().max() < 0.05 for gammas in gammas_of(network))
    child = inherit(network, START)
    refresh_statistics(child, data, 16)
    with torch.no_grad():
        free, tight = network(data.images), child.eval()(data.images)
    torch.testing.assert_close(tight.softmax(1), free.softmax(1), atol=0.05, rtol=0)
    *hidden, head = gammas_of(trained(ResidualSettings(rate=10), 60))
    assert all(gammas.abs().max() < 0.05 for gammas in hidden)
    assert torch.equal(head, torch.full_like(head, 0.5))  # it is left free


def test_a_prior_makes_residuals_smaller() -> None:
    norms = [
        float(
            torch.cat(
                gammas_of(trained(ResidualSettings(residual_decay=decay, rate=10, constrained=False), 12))[:-1]
            ).norm()
        )
        for decay in (0.0, 0.1, 1.0)
    ]
    assert norms[0] > 2 * norms[1] > 4 * norms[2]
    sizes = []
    for decay in (0.0, 0.1):
        network = trained(ResidualSettings(1e-4, decay), mixing="pathway")
        sizes.append(float(residual_prior(network, ResidualSettings(0.0, 1.0)).detach()))
    assert sizes[1] < 0.2 * sizes[0]


@pytest.mark.parametrize("decay", [1.0, 1e2, 1e4])
def test_however_strong_a_prior_is_it_leads_to_the_constrained_network(decay: float) -> None:
    gammas = gammas_of(trained(ResidualSettings(residual_decay=decay, rate=10, constrained=False), 10, spots()))
    assert all(own.abs().max() < 0.5 / decay**0.5 for own in gammas[:-1])


def test_a_prior_is_the_sum_of_squares() -> None:
    network = EquivariantNetwork(replace(SOFT, mixing="pathway"), torch.Generator().manual_seed(0))
    expected = 0.0
    for layer in network.convolutions:
        for own in (layer.weights, layer.biases):
            if own is not None:
                w, v = own.parts()
                expected += 0.3 * float(w.detach().square().sum()) + 0.7 * float(v.detach().square().sum())
    assert float(residual_prior(network, ResidualSettings(0.3, 0.7)).detach()) == pytest.approx(expected, rel=1e-5)


def test_settings_come_back_from_plain_values() -> None:
    settings = TrainingSettings(residuals=ResidualSettings(rate=3.0, price=0.5))
    assert TrainingSettings(**asdict(settings)) == settings
    assert TrainingSettings(**asdict(TrainingSettings())) == TrainingSettings()


def test_networks_without_residuals_are_trained_as_before() -> None:
    states = []
    for residuals in (None, ResidualSettings(1e-4, 1e-2, rate=10)):
        network = EquivariantNetwork(START, torch.Generator().manual_seed(0))
        train(network, stripes(), TrainingSettings(optimizer="muon", batch_size=16, residuals=residuals), 2, seed=0)
        states.append(network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
