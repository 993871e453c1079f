"""Laws of the one training loop."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skequinas.groups import PointGroup
from skequinas.nn import Architecture, EquivariantNetwork, RandomTurns
from skequinas.runtime.devices import resolve_device
from skequinas.training import CLASSIFICATION, REGRESSION, DataPart, DivergenceError, TrainingSettings, evaluate, train

pytestmark = pytest.mark.usefixtures("one_thread")

C4 = PointGroup.from_name("C4")
SETTINGS = TrainingSettings(learning_rate=0.01, batch_size=16, alpha_learning_rate=0.1)
CONSTANT = replace(SETTINGS, schedule="constant")
State = dict[str, Tensor]


def toy_data(n: int = 64, seed: int = 0, flipped: bool = False) -> DataPart:
    """Two classes of 5x5 images, which differ in brightness; ``flipped`` swaps the labels."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % 2
    images = torch.randn(n, 1, 5, 5, generator=generator) + targets.reshape(-1, 1, 1, 1)
    return DataPart(images, 1 - targets if flipped else targets, nn.Identity(), CLASSIFICATION)


def network_of(mixed: bool = False, seed: int = 0, **shape: Any) -> EquivariantNetwork:
    constraints = (C4.subgroups,) * 3 if mixed else ()
    architecture = Architecture(C4, 5, 1, 2, (2, 2), (3, 3), (False, True), constraints, **shape)
    return EquivariantNetwork(architecture, torch.Generator().manual_seed(seed))


def state_of(network: nn.Module) -> State:
    return copy.deepcopy(network.state_dict())


def assert_same_state(a: State, b: State, but: str | tuple[str, ...] = ()) -> None:
    assert a.keys() == b.keys()
    differ = [name for name in a if not name.endswith(but or "\n") and not torch.equal(a[name], b[name])]
    assert not differ


def logits_of(network: nn.Module) -> Tensor:
    return torch.cat([p.detach() for name, p in network.named_parameters() if name.endswith("logits")])


# --- the loop ---


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
def test_the_loss_falls(optimizer: str, schedule: str) -> None:
    network, data = network_of(), toy_data()
    before = evaluate(network, data)[0].mean()
    log = train(network, data, replace(SETTINGS, optimizer=optimizer, schedule=schedule), 10, seed=0)
    losses, errors = evaluate(network, data)
    assert losses.mean() < 0.5 * before
    assert errors.mean() < 0.1
    assert log[-1]["loss"] < log[0]["loss"]


def test_the_squared_error_falls_for_every_output() -> None:
    data = toy_data()
    targets = torch.stack([data.images.mean((1, 2, 3)), -data.images.mean((1, 2, 3))], 1)
    data = DataPart(data.images, targets, nn.Identity(), REGRESSION)
    network = network_of()
    before = evaluate(network, data)[0].mean()
    train(network, data, SETTINGS, 15, seed=0)
    losses, errors = evaluate(network, data)
    np.testing.assert_array_equal(losses, errors)
    assert losses.mean() < 0.5 * before


@pytest.mark.parametrize("mixed", [False, True], ids=["constrained", "mixed"])
def test_the_seed_fixes_the_training_bit_for_bit(mixed: bool) -> None:
    def trained(seed: int) -> State:
        network = network_of(mixed)
        train(network, toy_data(), SETTINGS, 2, seed=seed, alpha_data=toy_data(24, seed=1))
        return state_of(network)

    first, again, other = trained(3), trained(3), trained(4)
    assert_same_state(first, again)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_global_random_states_are_left_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    network = network_of(mixed=True)
    train(network, toy_data(), SETTINGS, 1, seed=0, validation=toy_data(16, 1), alpha_data=toy_data(16, 1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


class _Recorder(nn.Module):
    """Remembers the number that each image consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(images[:, 0, 0, 0].int().tolist())
        return images / len(images)


@pytest.mark.parametrize("n", [5, 16, 17, 23, 25, 64])
def test_every_epoch_sees_every_sample_once_in_a_new_order(n: int) -> None:
    images = torch.arange(n, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(n, 1, 5, 5)
    recorder = _Recorder()
    log = train(network_of(), DataPart(images, torch.arange(n) % 2, recorder, CLASSIFICATION), SETTINGS, 3, seed=0)
    assert [row["epoch"] for row in log] == [1, 2, 3]
    recorder.batches.pop()  # the check of the trained network's outputs
    sizes = {len(batch) for batch in recorder.batches}
    assert max(sizes) - min(sizes) <= 1
    seen = np.reshape([i for batch in recorder.batches for i in batch], (3, n))
    np.testing.assert_array_equal(np.sort(seen), np.tile(np.arange(n), (3, 1)))
    assert not (seen[0] == seen[1]).all()


@pytest.mark.parametrize(
    ("epochs", "n_steps", "n_rows"), [(2, 8, 2), (0.5, 2, 1), (1.25, 5, 2), (0.01, 1, 1), (2.5, 10, 3)]
)
def test_epochs_may_be_fractions_of_at_least_one_step(epochs: float, n_steps: int, n_rows: int) -> None:
    steps: list[int] = []
    log = train(network_of(), toy_data(64), SETTINGS, epochs, seed=0, on_step=lambda: steps.append(1))
    assert (len(steps), len(log)) == (n_steps, n_rows)
    assert log[-1]["epoch"] == n_steps / 4
    assert all(math.isfinite(value) for row in log for value in row.values())


def test_a_fraction_of_an_epoch_is_the_beginning_of_a_longer_training() -> None:
    in_two, at_once = network_of(), network_of()
    counts = iter(range(100))
    at_half: list[State] = []
    train(in_two, toy_data(), CONSTANT, 0.5, seed=0)
    train(
        at_once,
        toy_data(),
        CONSTANT,
        1,
        seed=0,
        on_step=lambda: at_half.append(state_of(at_once)) if next(counts) == 1 else None,
    )
    assert_same_state(in_two.state_dict(), at_half[0])


# --- early stopping ---


def test_training_stops_early_with_the_best_weights() -> None:
    """What is learned is wrong on a validation part with swapped labels: the first epoch stays the best."""
    network, short = network_of(), network_of()
    validation = toy_data(32, seed=1, flipped=True)
    log = train(network, toy_data(), CONSTANT, 30, seed=0, validation=validation, patience=3)
    train(short, toy_data(), CONSTANT, 1, seed=0)
    losses = [row["validation_loss"] for row in log]
    assert losses[0] == min(losses)
    assert len(log) == 1 + 3
    assert_same_state(network.state_dict(), short.state_dict())


def test_without_patience_the_best_weights_are_kept_all_the_same() -> None:
    network = network_of()
    validation = toy_data(32, seed=1, flipped=True)
    log = train(network, toy_data(), CONSTANT, 5, seed=0, validation=validation)
    assert len(log) == 5
    assert evaluate(network, validation)[0].mean() == pytest.approx(min(row["validation_loss"] for row in log))


def test_without_a_validation_part_the_last_weights_are_kept() -> None:
    network, last = network_of(), []
    train(network, toy_data(), CONSTANT, 2, seed=0, on_step=lambda: last.append(state_of(network)))
    assert_same_state(network.state_dict(), last[-1])


def test_evaluation_is_sample_by_sample_and_changes_nothing() -> None:
    network, data = network_of(), toy_data(300)
    before = state_of(network)
    losses, errors = evaluate(network, data)
    one_by_one = [evaluate(network, data.subset(np.array([i]))) for i in (0, 7, 299)]
    np.testing.assert_allclose([loss[0] for loss, _ in one_by_one], losses[[0, 7, 299]], rtol=1e-5)
    assert losses.shape == errors.shape == (300,)
    assert set(errors) <= {0.0, 1.0}
    assert_same_state(before, network.state_dict())


# --- divergence ---


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_huge_learning_rate_is_reported_as_divergence(optimizer: str) -> None:
    settings = replace(CONSTANT, learning_rate=1e30, optimizer=optimizer)
    with pytest.raises(DivergenceError, match="loss became (nan|inf)"):
        train(network_of(), toy_data(), settings, 3, seed=0)


def test_targets_that_are_not_finite_are_reported_as_divergence() -> None:
    data = toy_data()
    data = DataPart(data.images, torch.full((64, 2), math.nan), nn.Identity(), REGRESSION)
    with pytest.raises(DivergenceError, match="nan"):
        train(network_of(), data, SETTINGS, 1, seed=0)


def test_a_divergence_in_the_only_step_is_reported_too() -> None:
    network = network_of()
    with pytest.raises(DivergenceError, match="nan|inf"):
        train(network, toy_data(16), replace(CONSTANT, learning_rate=1e38), 1, seed=0)


# --- the logits of mixed layers ---


def test_weight_steps_never_change_the_logits() -> None:
    network = network_of(mixed=True)
    before = logits_of(network)
    train(network, toy_data(), SETTINGS, 3, seed=0)
    assert torch.equal(logits_of(network), before)


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_logit_step_changes_nothing_but_the_logits(hidden: int) -> None:
    """One step of the logits, after the last step of the weights."""
    without, with_step = network_of(mixed=True, hidden=hidden), network_of(mixed=True, hidden=hidden)
    settings = replace(SETTINGS, alpha_interval=8)
    train(without, toy_data(), settings, 2, seed=0)
    train(with_step, toy_data(), settings, 2, seed=0, alpha_data=toy_data(24, seed=1))
    assert not torch.equal(logits_of(without), logits_of(with_step))
    assert_same_state(without.state_dict(), with_step.state_dict(), but=("logits", "num_batches_tracked"))


@pytest.mark.parametrize("flipped", [False, True], ids=["alike", "swapped labels"])
def test_the_logits_follow_the_gradient_on_the_held_out_data(flipped: bool) -> None:
    network, stepped = network_of(mixed=True, hidden=0), network_of(mixed=True, hidden=0)
    held_out = toy_data(16, seed=1, flipped=flipped)
    settings = replace(SETTINGS, alpha_interval=8)
    train(network, toy_data(), settings, 2, seed=0)
    before = logits_of(network)
    train(stepped, toy_data(), settings, 2, seed=0, alpha_data=held_out)
    network.train()
    alphas = [p for name, p in network.named_parameters() if name.endswith("logits")]
    loss = CLASSIFICATION.loss(network(held_out.images), held_out.targets).mean()
    gradient = torch.cat(torch.autograd.grad(loss, alphas))
    moved = logits_of(stepped) - before
    clear = gradient.abs() > 1e-4
    assert clear.any()
    assert torch.equal(moved[clear].sign(), -gradient[clear].sign())
    torch.testing.assert_close(
        moved[clear].abs(), torch.full_like(moved[clear], SETTINGS.alpha_learning_rate), rtol=1e-2, atol=0
    )


def test_the_logits_depend_on_the_held_out_data() -> None:
    def learned(flipped: bool) -> Tensor:
        network = network_of(mixed=True)
        train(network, toy_data(), SETTINGS, 2, seed=0, alpha_data=toy_data(16, seed=1, flipped=flipped))
        return logits_of(network)

    assert (learned(False) - learned(True)).abs().max() > 1e-3


@pytest.mark.parametrize(("interval", "n_steps"), [(1, 8), (4, 2), (9, 0)])
def test_the_logits_move_once_in_an_interval(interval: int, n_steps: int) -> None:
    network, seen = network_of(mixed=True), []
    before = logits_of(network)
    settings = replace(SETTINGS, alpha_interval=interval)
    train(
        network,
        toy_data(),
        settings,
        2,
        seed=0,
        alpha_data=toy_data(16, seed=1),
        on_step=lambda: seen.append(logits_of(network)),
    )
    assert sum(not torch.equal(a, b) for a, b in zip([before, *seen[:-1]], seen, strict=True)) == n_steps


# --- devices ---


# --- precision ---


@pytest.mark.parametrize("mixed", [False, True])
def test_half_precision_learns_as_well_with_weights_and_statistics_in_single_precision(mixed: bool) -> None:
    data, held_out = toy_data(), toy_data(seed=1)
    losses = {}
    for precision in ("float32", "bfloat16"):
        network = network_of(mixed)
        train(network, data, replace(SETTINGS, precision=precision), 20, seed=0, alpha_data=held_out)
        losses[precision] = evaluate(network, held_out)[0].mean()
        assert {t.dtype for t in network.state_dict().values() if t.is_floating_point()} == {torch.float32}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.05)


def test_after_a_training_in_half_precision_the_constraints_hold_as_well_as_ever() -> None:
    network = network_of()
    train(network, toy_data(), replace(SETTINGS, precision="bfloat16"), 5, seed=0)
    images = toy_data(seed=2).images
    with torch.inference_mode():
        torch.testing.assert_close(network(images.rot90(1, (2, 3))), network(images), rtol=1e-4, atol=1e-5)


def test_images_are_prepared_in_single_precision_whatever_the_precision() -> None:
    seen: dict[str, list[Tensor]] = {"float32": [], "bfloat16": []}
    for precision, inputs in seen.items():

        def augmentation(x: Tensor, inputs: list[Tensor] = inputs) -> Tensor:
            inputs.append(RandomTurns(False, 0)(x))
            return inputs[-1]

        settings = replace(SETTINGS, precision=precision)
        train(network_of(), toy_data(), settings, 1, seed=0, augmentation=augmentation)
    for a, b in zip(*seen.values(), strict=True):
        assert torch.equal(a, b)


def test_half_precision_is_as_reproducible() -> None:
    a, b = network_of(), network_of()
    for network in (a, b):
        train(network, toy_data(), replace(SETTINGS, precision="bfloat16"), 2, seed=0)
    assert_same_state(state_of(a), state_of(b))


def test_auto_is_a_device_that_works() -> None:
    device = resolve_device("auto")
    assert torch.ones(1, device=device).item() == 1
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("device", ["", "gpu", "cpux", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match=rf"device='{device}' .*Use 'auto' or 'cpu'"):
        resolve_device(device)
