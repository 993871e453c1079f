"""Laws of what is said about a learned symmetry, and of what is measured."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from skequinas.filters import transform_images
from skequinas.groups import PointGroup, Subgroup
from skequinas.symmetry import LearnedSymmetry, measured_change

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
IMAGES = torch.randn(50, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.randn(72, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def linear(images: Tensor) -> Tensor:
    """A function without any symmetry."""
    return images.flatten(1) @ WEIGHTS


def test_exactly_the_elements_that_leave_a_function_alone_change_nothing(subgroup: Subgroup) -> None:
    """The mean of a function over a subgroup is invariant to it, and to nothing else."""
    group = subgroup.group

    def mean_over_subgroup(images: Tensor) -> Tensor:
        return torch.stack([linear(transform_images(images, group, h)) for h in subgroup.elements]).mean(0)

    changes = measured_change(mean_over_subgroup, IMAGES, group)
    assert list(changes) == [group.element_name(g) for g in group.elements]
    for g in group.elements:
        change = changes[group.element_name(g)]
        assert change < 1e-12 if g in subgroup else change > 0.1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_change_is_relative_to_the_variation_of_the_outputs(scale: float) -> None:
    changes = measured_change(linear, IMAGES, D4)
    scaled = measured_change(lambda images: scale * linear(images) + scale, IMAGES, D4)
    assert scaled == pytest.approx(changes, rel=1e-6)


def test_an_output_as_different_as_that_of_another_image_has_a_change_of_root_two() -> None:
    """The pixels of white noise and of its mirror image are independent."""
    noise = torch.randn(20000, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    changes = measured_change(lambda images: images[:, 0, 0, :1], noise, D4)
    for name in ("rotation(90)", "rotation(180)", "mirror(0)", "mirror(90)"):
        assert changes[name] == pytest.approx(math.sqrt(2), rel=0.02)
    assert changes["identity"] == 0


def test_the_formula_is_the_root_mean_square_over_that_of_the_deviations() -> None:
    still, moved = linear(IMAGES), linear(IMAGES.rot90(1, (2, 3)))
    expected = (moved - still).square().sum(1).mean().sqrt() / (still - still.mean(0)).square().sum(1).mean().sqrt()
    assert measured_change(linear, IMAGES, D4)["rotation(90)"] == pytest.approx(float(expected), rel=1e-12)


def test_the_size_of_the_batches_does_not_matter() -> None:
    whole, parts = (measured_change(linear, IMAGES, D4, batch_size=n) for n in (100, 7))
    assert parts == pytest.approx(whole, rel=1e-9, abs=1e-12)


def test_outputs_that_do_not_vary_change_by_nothing_or_by_infinity() -> None:
    assert set(measured_change(lambda images: images.new_ones(len(images), 1), IMAGES, D4).values()) == {0.0}
    corner = torch.zeros(4, 1, 2, 2)
    corner[:, 0, 0, 0] = 1
    changes = measured_change(lambda images: images[:, 0, 0, :1], corner, D4)
    assert changes["rotation(90)"] == math.inf
    assert changes["mirror(135)"] == 0


# --- words ---


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("C1", ["no symmetry"]),
        ("C2", ["half turns"]),
        ("C4", ["quarter turns"]),
        ("D1", ["mirrors", " 0 degrees"]),
        ("D1(90)", ["mirrors", " 90 degrees"]),
        ("D1(135)", ["mirrors", " 135 degrees"]),
        ("D2", ["half turns", "mirrors", " 0, 90 degrees"]),
        ("D2(45)", ["half turns", "mirrors", " 45, 135 degrees"]),
        ("D4", ["quarter turns", "mirrors", " 0, 45, 90, 135 degrees"]),
    ],
)
def test_a_group_is_described_in_words(group: str, words: list[str]) -> None:
    text = str(LearnedSymmetry("D4", group, {"layer 1": "D4", "head": group}, {"identity": 0.0}))
    first = text.splitlines()[0]
    assert first.startswith(f"D4 -> {group}: ")
    assert not [word for word in words if word not in first]
    assert ("turns" in first) == any("turns" in word for word in words)
    assert ("mirrors" in first) == ("mirrors" in words)


def test_layers_changes_and_shares_stand_below() -> None:
    learned = LearnedSymmetry(
        "C4",
        "C2",
        {"layer 1": "C4", "head": "C2"},
        {"identity": 0.0, "rotation(90)": 0.75, "rotation(180)": 0.0},
        layer_weights={"layer 1": {"C4": 0.9, "C1": 0.1}, "head": {"C4": 0.25, "C1": 0.75}},
    )
    text = str(learned)
    for part in (
        "layer 1 C4",
        "head C2",
        "rotation(90) 0.75",
        "rotation(180) 0",
        "C4 0.90, C1 0.10",
        "C4 0.25, C1 0.75",
    ):
        assert part in text
    assert repr(learned) == text
    assert "shares" not in str(LearnedSymmetry("C4", "C4", {"head": "C4"}, {"identity": 0.0}))
