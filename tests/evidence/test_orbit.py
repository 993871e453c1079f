"""The orbit test and averaging over a symmetry: their level, what they find, and what is concluded from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skequinas.evidence import Evidence, gather_evidence, indistinct, largest_accepted, orbit_test
from skequinas.groups import PointGroup
from skequinas.io import Preprocessing
from skequinas.nn import Architecture, EquivariantNetwork, transform_images
from skequinas.training import CLASSIFICATION, REGRESSION, DataPart, DivergenceError, Objective

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
MAIN = "D4", "C2", "D1(45)"
SOME = [h if h.name in MAIN else pytest.param(h, marks=pytest.mark.exhaustive) for h in D4.subgroups]


def network_of(constraint: str, seed: int = 0) -> EquivariantNetwork:
    """A small random network with one constraint in all layers."""
    architecture = Architecture(D4, 9, 1, 3, (2, 2), (3, 3), (True, False), constraints=(constraint,) * 3)
    return EquivariantNetwork(architecture, torch.Generator().manual_seed(seed)).double()


def part(images: Tensor, targets: Tensor, objective: Objective) -> DataPart:
    """Data as they are, without standardisation."""
    return DataPart(images, targets, nn.Identity(), objective)


def random_data(objective: Objective, n: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, 1, 9, 9, dtype=torch.float64, generator=generator)
    if objective is CLASSIFICATION:
        return images, torch.randint(0, 3, (n,), generator=generator)
    return images, torch.randn(n, 3, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("objective", [CLASSIFICATION, REGRESSION], ids=["classification", "regression"])
@pytest.mark.parametrize("symmetry", SOME, ids=str)
def test_averaging_over_a_symmetry_of_the_data_never_raises_the_loss(symmetry, objective: Objective) -> None:
    images, targets = random_data(objective)
    moved = torch.cat([transform_images(images, D4, h) for h in symmetry.elements])
    repeated = targets.repeat(symmetry.order, *[1] * (targets.ndim - 1))
    for seed in range(3):
        evidence = gather_evidence(network_of("C1", seed), part(moved, repeated, objective), D4)
        assert all(evidence[h.name].loss_rise <= 1e-12 for h in symmetry.subgroups)


def test_averaging_over_what_the_data_do_not_have_can_raise_the_loss() -> None:
    """The negative: a network that tells an image from its mirror image, where that is the class."""
    images = torch.randn(40, 1, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left = images[..., :4].sum((1, 2, 3)) > images[..., 5:].sum((1, 2, 3))

    class Sides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            difference = x[..., :4].sum((1, 2, 3)) - x[..., 5:].sum((1, 2, 3))
            return torch.stack([-difference, difference], 1)

    evidence = gather_evidence(Sides(), part(images, left.long(), CLASSIFICATION), D4)
    allowed = [h.name for h in D4.subgroups if evidence[h.name].p_value > 0.01]
    assert allowed == ["D1(0)", "C1"]
    assert largest_accepted(D4, evidence, 0.01).name == "D1(0)"


@pytest.mark.parametrize("constraint", D4.subgroups, ids=str)
def test_averaging_over_a_symmetry_of_the_network_changes_nothing(constraint) -> None:
    evidence = gather_evidence(network_of(constraint.name), part(*random_data(CLASSIFICATION), CLASSIFICATION), D4)
    zero = [
        h for h in D4.subgroups if abs(evidence[h.name].loss_rise) < 1e-12 and evidence[h.name].loss_rise_error < 1e-12
    ]
    assert zero == list(constraint.subgroups)


def row(p_value: float, rise: float = 0.0) -> Evidence:
    return Evidence(0.9, 0.01, rise, 0.1, p_value, p_value, 0.005)


def test_the_largest_accepted_symmetry_wins_and_then_the_lower_loss() -> None:
    evidence = {h.name: row(0.5, 0.01 * i) for i, h in enumerate(D4.subgroups)}
    assert largest_accepted(D4, evidence, 0.01).name == "D4"
    assert largest_accepted(D4, evidence | {"D4": row(0.01)}, 0.01).name == "C4"
    assert largest_accepted(D4, evidence | {"D4": row(0.01), "C4": row(0.5, 1.0)}, 0.01).name == "D2(0)"
    assert largest_accepted(D4, {h.name: row(0.001) for h in D4.subgroups}, 0.01).name == "C1"


def names_left_open(p_values: dict[str, float]) -> list[str]:
    return [h.name for h in indistinct(D4, {h.name: row(p_values.get(h.name, 1e-4)) for h in D4.subgroups}, 0.01)]


def test_what_the_data_cannot_tell_apart_is_named() -> None:
    clear = {"C4": 0.5, "C2": 0.6, "C1": 1.0}
    assert names_left_open(clear) == ["C4"]
    assert names_left_open(clear | {"D4": 0.005}) == ["C4", "D4"]  # would be called at a tenth of the level
    assert names_left_open(clear | {"C4": 0.05}) == ["C4", "C2"]  # would be given up at ten times the level
    assert names_left_open(clear | {"C4": 0.05, "C2": 0.05}) == ["C4", "C1"]
    assert names_left_open(clear | {"D2(0)": 0.009, "D1(0)": 0.02, "D1(90)": 0.2}) == ["C4", "D1(0)", "D1(90)", "D2(0)"]
    assert names_left_open(clear | {"D2(45)": 0.4, "D1(45)": 0.4, "D1(135)": 0.4}) == ["C4", "D2(45)"]


# --- the orbit test ---


def confident(n_copies: int, n: int, bias: float, seed: int) -> np.ndarray:
    """Log-probabilities at random, at one scale; those of the images as they are larger by a bias."""
    logs = 3 * np.random.default_rng(seed).standard_normal((n_copies, n))
    logs[0] += bias
    return logs[None]


@pytest.mark.parametrize("weighted", [True, pytest.param(False, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(("n_copies", "n"), [(2, 30), (8, 30), (4, 280)])
def test_the_level_of_the_orbit_test_is_exact(n_copies: int, n: int, weighted: bool) -> None:
    rng = np.random.default_rng(0)
    weights = rng.random(n) if weighted else None
    p_values = np.array([orbit_test(confident(n_copies, n, 0.0, seed), weights, rng) for seed in range(100)])
    for level in (0.05, 0.2, 0.5):
        share, error = np.mean(p_values <= level), np.sqrt(level * (1 - level) / 100)
        assert abs(share - level) < 4 * error


def test_the_orbit_test_finds_images_that_stand_as_they_were_taken() -> None:
    rng = np.random.default_rng(0)
    assert max(orbit_test(confident(2, 200, 2.0, seed), None, rng) for seed in range(10)) < 0.001
    assert orbit_test(confident(2, 200, -2.0, 0), None, rng) > 0.99
    assert orbit_test(np.zeros((1, 4, 50)), None, rng) == 1


def test_moves_do_not_change_which_scale_is_taken() -> None:
    """The statistic is a mean of bounded terms of one scale, so it moves with the copies."""
    rng = np.random.default_rng(0)
    logs = -np.abs(rng.standard_normal((4, 60))) * np.array([0.25, 1.0, 4.0, 16.0])[:, None, None]
    likelihood = np.log(np.exp(logs).sum(1)).mean(1)
    best = logs[[int(likelihood.argmax())]]
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        one, all_of_them = (orbit_test(some[:, order], None, np.random.default_rng(1)) for some in (best, logs))
        assert one == all_of_them


def test_p_values_are_uniform_where_the_data_have_the_symmetry() -> None:
    """Whatever the network: here a random one, and images whose targets depend on the coset of C2 in C4."""
    generator, p_values = torch.Generator().manual_seed(3), []
    network = network_of("C1", 5)
    for seed in range(60):
        images = torch.randn(40, 1, 9, 9, dtype=torch.float64, generator=generator)
        turns = torch.randint(0, 4, (40,), generator=generator)
        moved = torch.stack([image.rot90(int(k), (1, 2)) for image, k in zip(images, turns, strict=True)])
        evidence = gather_evidence(network, part(moved, turns % 2, CLASSIFICATION), D4, seed)
        p_values.append(evidence["C2"].raw_p_value)
        assert evidence["C2"].p_value >= evidence["C2"].raw_p_value
    for level in (0.1, 0.25, 0.5, 0.75):
        assert abs(np.mean(np.array(p_values) <= level) - level) < 3 * np.sqrt(level * (1 - level) / 60)


def test_the_p_value_of_a_group_is_never_larger_than_that_of_a_smaller_one() -> None:
    images, targets = random_data(REGRESSION, 60)
    evidence = gather_evidence(network_of("C1", 1), part(images, targets, REGRESSION), D4)
    for h in D4.subgroups:
        assert all(evidence[h.name].p_value <= evidence[k.name].p_value for k in h.subgroups)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("shift", [-0.02, 0.02])
def test_weights_by_class_do_not_make_a_network_informed(constant: bool, shift: float) -> None:
    targets = torch.cat([torch.zeros(90), torch.ones(10)]).long()
    weights = torch.where(targets == 0, 1 / 1.8, 5.0).double()
    images = torch.randn(100, 1, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    class Guess(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            noise = torch.zeros(len(x)) if constant else x[:, 0, 4, 4]
            return torch.stack([torch.zeros(len(x)), noise + shift], 1)

    data = DataPart(images, targets, nn.Identity(), CLASSIFICATION, weights)
    p_value = gather_evidence(Guess(), data, D4)["C1"].chance_p_value
    assert p_value == 1 if constant else p_value > 0.05


def test_outputs_that_are_not_finite_are_no_evidence() -> None:
    images, targets = random_data(CLASSIFICATION)

    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_full((len(x), 3), float("nan"))

    with pytest.raises(DivergenceError, match="no evidence"):
        gather_evidence(Nothing(), part(images, targets, CLASSIFICATION), D4)


@pytest.mark.parametrize("objective", [CLASSIFICATION, REGRESSION], ids=["classification", "regression"])
def test_round_off_does_not_break_ties(objective: Objective) -> None:
    for seed in range(5):
        evidence = gather_evidence(network_of("D4", seed).float(), part(*float_data(objective), objective), D4)
        assert {e.raw_p_value for e in evidence.values()} == {1.0}


def float_data(objective: Objective) -> tuple[Tensor, Tensor]:
    images, targets = random_data(objective, 6)
    return images.float(), targets if objective is CLASSIFICATION else targets.float()


def test_a_network_that_knows_nothing_is_told_from_one_that_does() -> None:
    images, _ = random_data(CLASSIFICATION, 60)
    network = network_of("C1", 1).eval()
    with torch.no_grad():
        known = network(images).argmax(1)
    unknown = torch.randint(0, 3, (60,), generator=torch.Generator().manual_seed(5))
    assert gather_evidence(network, part(images, known, CLASSIFICATION), D4)["C1"].chance_p_value == 1 / 200
    assert gather_evidence(network, part(images, unknown, CLASSIFICATION), D4)["C1"].chance_p_value > 0.05


# --- averaging ---


def test_an_overconfident_network_gains_nothing_by_being_averaged_with_noise() -> None:
    """Margins of 8 that are right in 80 % of the cases, and a coin toss for every moved image."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 2, (400,), generator=generator)
    wrong = torch.rand(400, generator=generator) < 0.2
    side = torch.where(wrong, 1 - targets, targets) * 2 - 1
    noise = torch.randint(0, 2, (400, 8), generator=generator) * 2 - 1
    images = torch.zeros(400, 1, 2, 2)
    images[:, 0, 0, 0] = torch.arange(400.0) + 1

    class Coin(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            row = x.flatten(1).amax(1).long() - 1
            corner = x.flatten(1).argmax(1)
            margin = 4.0 * torch.where(corner == 0, side[row], noise[row, corner])
            return torch.stack([-margin, margin], 1)

    evidence = gather_evidence(Coin(), part(images, targets, CLASSIFICATION), D4)
    assert evidence["C2"].loss_rise > 2 * evidence["C2"].loss_rise_error
    assert evidence["D1(135)"].loss_rise == 0  # it leaves the corner where it is
    assert largest_accepted(D4, evidence, 0.01).name == "D1(135)"


def test_one_sample_is_no_evidence_against_anything() -> None:
    images, targets = random_data(CLASSIFICATION, 1)
    evidence = gather_evidence(network_of("C1"), part(images, targets, CLASSIFICATION), D4)
    assert largest_accepted(D4, evidence, 0.01) == D4.whole


def test_raw_images_are_preprocessed_before_they_are_moved() -> None:
    images = torch.randint(0, 255, (10, 1, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = DataPart(images, torch.zeros(10, dtype=torch.int64), Preprocessing(images), CLASSIFICATION)
    evidence = gather_evidence(network_of("D4").float(), data, D4)
    assert all(abs(e.loss_rise) < 1e-5 for e in evidence.values())
