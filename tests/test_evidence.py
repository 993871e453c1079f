"""Averaging over a symmetry: what it can and cannot do to the loss, and what is concluded from it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from skequinas.architecture import Architecture
from skequinas.filters import transform_images
from skequinas.groups import PointGroup
from skequinas.images import Preprocessing
from skequinas.networks import EquivariantNetwork
from skequinas.search.evidence import Increase, averaging_evidence, largest_accepted
from skequinas.training import CLASSIFICATION, REGRESSION, DataPart, Objective

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")


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
@pytest.mark.parametrize("symmetry", D4.subgroups, ids=str)
def test_averaging_over_a_symmetry_of_the_data_never_raises_the_loss(symmetry, objective: Objective) -> None:
    images, targets = random_data(objective)
    moved = torch.cat([transform_images(images, D4, h) for h in symmetry.elements])
    repeated = targets.repeat(symmetry.order, *[1] * (targets.ndim - 1))
    for seed in range(3):
        evidence = averaging_evidence(network_of("C1", seed), part(moved, repeated, objective), D4)
        assert all(evidence[h.name].mean <= 1e-12 for h in symmetry.subgroups)


def test_averaging_over_what_the_data_do_not_have_can_raise_the_loss() -> None:
    """The negative: a network that tells an image from its mirror image, where that is the class."""
    images = torch.randn(40, 1, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left = images[..., :4].sum((1, 2, 3)) > images[..., 5:].sum((1, 2, 3))

    class Sides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            difference = x[..., :4].sum((1, 2, 3)) - x[..., 5:].sum((1, 2, 3))
            return torch.stack([-difference, difference], 1)

    evidence = averaging_evidence(Sides(), part(images, left.long(), CLASSIFICATION), D4)
    allowed = [h.name for h in D4.subgroups if not evidence[h.name].exceeds(2.0)]
    assert allowed == ["D1(0)", "C1"]
    assert largest_accepted(D4, evidence, 2.0).name == "D1(0)"


@pytest.mark.parametrize("constraint", D4.subgroups, ids=str)
def test_averaging_over_a_symmetry_of_the_network_changes_nothing(constraint) -> None:
    evidence = averaging_evidence(network_of(constraint.name), part(*random_data(CLASSIFICATION), CLASSIFICATION), D4)
    zero = [h for h in D4.subgroups if abs(evidence[h.name].mean) < 1e-12 and evidence[h.name].standard_error < 1e-12]
    assert zero == list(constraint.subgroups)


def test_the_largest_accepted_symmetry_wins_and_then_the_lower_loss() -> None:
    bad, slight, good = Increase(0.5, 0.1), Increase(0.1, 0.1), Increase(-0.1, 0.1)
    evidence = dict.fromkeys((h.name for h in D4.subgroups), good)
    assert largest_accepted(D4, evidence, 1.0).name == "D4"
    assert largest_accepted(D4, evidence | {"D4": bad, "C4": slight}, 1.5).name == "D2(0)"
    assert largest_accepted(D4, evidence | {"D4": bad, "D2(0)": bad, "D2(45)": bad, "C4": slight}, 1.5).name == "C4"
    everything_bad = dict.fromkeys(evidence, bad) | {"C1": Increase(0.0, 0.0)}
    assert largest_accepted(D4, everything_bad, 2.0).name == "C1"


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

    evidence = averaging_evidence(Coin(), part(images, targets, CLASSIFICATION), D4)
    assert evidence["C2"].exceeds(2.0)
    assert not evidence["D1(135)"].exceeds(2.0)  # it leaves the corner where it is
    assert largest_accepted(D4, evidence, 2.0).name == "D1(135)"


def test_a_group_is_rejected_with_any_of_its_subgroups() -> None:
    good, bad = Increase(-0.1, 0.1), Increase(0.5, 0.1)
    evidence = dict.fromkeys((h.name for h in D4.subgroups), good)
    assert largest_accepted(D4, evidence | {"C2": bad}, 2.0).order == 2
    assert largest_accepted(D4, evidence | {"D1(45)": bad}, 2.0).name == "C4"
    assert largest_accepted(D4, evidence | {"D1(45)": Increase(float("nan"), 0.1)}, 2.0).name == "C4"


def test_one_sample_is_no_evidence_against_anything() -> None:
    images, targets = random_data(CLASSIFICATION, 1)
    evidence = averaging_evidence(network_of("C1"), part(images, targets, CLASSIFICATION), D4)
    assert largest_accepted(D4, evidence, 2.0) == D4.whole


def test_raw_images_are_preprocessed_before_they_are_moved() -> None:
    """An image that is not square is padded first, so that quarter turns make sense."""
    images = torch.randint(0, 255, (10, 1, 7, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = DataPart(images, torch.zeros(10, dtype=torch.int64), Preprocessing(images), CLASSIFICATION)
    evidence = averaging_evidence(network_of("D4").float(), data, D4)
    assert all(abs(increase.mean) < 1e-5 for increase in evidence.values())
