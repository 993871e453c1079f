"""Laws of what is said about a learned symmetry, and of what is measured."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor

from skequinas.evidence import (
    Evidence,
    LearnedSymmetry,
    effective_invariance,
    layer_distances,
    lie_derivative,
    measures,
    moved_outputs,
)
from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import Architecture, EquivariantNetwork, relax, transform_images

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
IMAGES = torch.randn(50, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.randn(72, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def measured_change(
    function: Callable[[Tensor], Tensor], images: Tensor, group: PointGroup, batch_size: int = 256
) -> dict[str, float]:
    return measures.measured_change(moved_outputs(function, images, group, batch_size), group)


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


# --- other measures ---


def test_the_effective_invariance_is_the_confidence_where_the_class_stays() -> None:
    still = torch.tensor([[0.9, 0.1], [0.6, 0.4]], dtype=torch.float64)
    turned = torch.tensor([[0.4, 0.6], [0.6, 0.4]], dtype=torch.float64)
    invariance = effective_invariance(torch.stack([still, turned]), PointGroup(2))
    assert invariance == pytest.approx({"identity": 0.75, "rotation(180)": 0.3})


def blobs(n: int = 20, size: int = 33) -> Tensor:
    """Smooth images that vanish at the border."""
    generator = torch.Generator().manual_seed(0)
    centres, grid = 0.6 * torch.rand(n, 2, 1, 1, generator=generator) - 0.3, torch.linspace(-1, 1, size)
    rows, columns = grid[:, None] - centres[:, 0], grid[None, :] - centres[:, 1]
    return torch.exp(-(rows**2 + columns**2) / 0.08)[:, None].double()


def moment(images: Tensor, axis: int) -> Tensor:
    grid = torch.linspace(-1, 1, images.shape[-1], dtype=images.dtype)
    weights = grid[:, None] if axis == 0 else grid[None, :]
    return (images[:, 0] * weights).sum((1, 2))[:, None]


def test_the_lie_derivative_of_a_position_is_the_other_coordinate() -> None:
    """Turning by an angle moves (x, y) by the angle times (-y, x)."""
    images = blobs()
    x, y = moment(images, 1), moment(images, 0)
    expected = y.square().mean().sqrt() / (x - x.mean()).square().mean().sqrt()
    assert lie_derivative(lambda i: moment(i, 1), images) == pytest.approx(float(expected), rel=0.02)


def test_the_lie_derivative_of_a_distance_from_the_centre_is_nearly_zero() -> None:
    images = blobs()
    assert lie_derivative(lambda i: moment(i, 0).square() + moment(i, 1).square(), images) < 0.02
    assert lie_derivative(lambda i: i.new_ones(len(i), 1), images) == 0


def test_the_lie_derivative_of_images_without_features_is_zero_up_to_the_border() -> None:
    grey = torch.linspace(0.2, 1, 10).reshape(-1, 1, 1, 1).expand(10, 1, 9, 9).double()
    assert lie_derivative(lambda i: i[:, 0, 0, :], grey) < 1e-6


def test_a_layer_is_at_no_distance_from_the_groups_it_obeys() -> None:
    parent = EquivariantNetwork(Architecture(D4, 9, 1, 2, (2, 2), (3, 3), (True, False)))
    child = relax(relax(parent, -1, D4.subgroup("C2")), 1, D4.subgroup("C4"))
    assert layer_distances(parent) == {"layer 1": {}, "layer 2": {}, "head": {}}
    distances = layer_distances(child)
    assert {layer: list(of) for layer, of in distances.items()} == {
        "layer 1": [],
        "layer 2": ["D4"],
        "head": ["D4", "C4", "D2(0)", "D2(45)"],
    }
    assert max(d for of in distances.values() for d in of.values()) < 1e-6  # a relaxation changes nothing yet


def test_the_distance_is_that_to_the_nearest_kernel_of_the_larger_group() -> None:
    free = Architecture(D4, 9, 1, 2, (2, 2), (3, 3), (True, False), constraints=("C1",) * 3)
    network = EquivariantNetwork(free, torch.Generator().manual_seed(0)).double()
    layer, group = network.convolutions[0], D4
    kernel = layer.kernel().detach().unflatten(0, (-1, group.order))
    for name in ("D1(90)", "C4"):
        moved = [
            torch.stack(
                [transform_images(kernel[:, group.multiply(group.inverse(h), g)], group, h) for g in range(8)], 1
            )
            for h in group.subgroup(name).elements
        ]
        expected = (kernel - torch.stack(moved).mean(0)).norm() / kernel.norm()
        assert layer_distances(network)["layer 1"][name] == pytest.approx(float(expected), rel=1e-6)


# --- words ---


def row(p_value: float, score: float = 0.9, rise: float = 0.0, chance: float = 0.005) -> Evidence:
    return Evidence(score, 0.01, rise, 0.02, p_value, p_value, chance)


def learned_as(group: str, evidence: dict[str, Evidence] | None = None, **fields: object) -> LearnedSymmetry:
    changes = {D4.element_name(g): float(g not in D4.subgroup(group)) for g in D4.elements}
    constraints = {"layer 1": "D4", "head": group}
    return LearnedSymmetry("D4", group, constraints, changes, evidence=evidence, **fields)  # type: ignore[arg-type]


def evidence_for(group: str, **others: Evidence) -> dict[str, Evidence]:
    wanted = D4.subgroup(group)
    rows = {h.name: row(0.6, 0.98) if h <= wanted else row(5e-4, 0.9 - h.order / 100, 1.0) for h in D4.subgroups}
    return rows | others


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("C1", "does not look the same under turns or mirrors"),
        ("C2", "looks the same under half turns, not under quarter turns or mirrors"),
        ("C4", "looks the same under quarter turns, not under mirrors"),
        ("D1(0)", "looks the same under the up-down mirror, not under turns or other mirrors"),
        ("D1(90)", "looks the same under the left-right mirror, not under turns or other mirrors"),
        ("D1(135)", "looks the same under the mirror about the axis at 135 degrees, not under turns or other mirrors"),
        (
            "D2(0)",
            "looks the same under half turns and the up-down and left-right mirrors, not under quarter turns or other "
            "mirrors",
        ),
        (
            "D2(45)",
            "looks the same under half turns and both diagonal mirrors, not under quarter turns or other mirrors",
        ),
        ("D4", "looks the same under quarter turns and mirrors"),
    ],
)
def test_three_lines_say_it_in_words(group: str, words: str) -> None:
    learned = learned_as(group, evidence_for(group))
    first, second, third = str(learned).splitlines()
    assert first == f"D4 -> {group}: the task {words}."
    assert "2.0 %" in second
    assert third.startswith("The answer is the same at every level from 0.001 to 0.1.")
    assert ("that is no proof" in third) == (group != "C1")
    assert repr(learned) == str(learned)


@pytest.mark.parametrize(
    ("search_group", "words"),
    [
        ("C4", "does not look the same under turns."),
        ("C2", "does not look the same under half turns."),
        ("D1(90)", "does not look the same under the left-right mirror."),
    ],
)
def test_only_moves_that_were_asked_about_are_spoken_of(search_group: str, words: str) -> None:
    evidence = {
        h.name: row(0.6, 0.98) if h.order == 1 else row(5e-4, 0.8, 1.0)
        for h in PointGroup.from_name(search_group).subgroups
    }
    learned = LearnedSymmetry(search_group, "C1", {"head": "C1"}, {"identity": 0.0}, evidence=evidence)
    assert str(learned).splitlines()[0].endswith(words)


def test_in_the_trivial_group_nothing_was_asked() -> None:
    learned = LearnedSymmetry("C1", "C1", {"head": "C1"}, {"identity": 0.0}, evidence={"C1": row(1.0)})
    assert str(learned).splitlines()[0] == "C1 -> C1: no symmetry was looked for."


def test_the_second_line_names_what_the_next_larger_group_would_cost() -> None:
    text = str(learned_as("C2", evidence_for("C2", C4=row(5e-4, 0.7, 0.5), D4=row(5e-4, 0.5, 0.1))))
    expected = "rises from 2.0 % to 30.0 % when C4, the next larger group, is imposed (p < 0.001 if the task has C4)"
    assert expected in text


def test_a_symmetry_that_is_broken_but_costs_nothing_is_pointed_out() -> None:
    mirrored = evidence_for("C1", **{"D1(90)": row(5e-4, 0.985, -0.01)})
    second = str(learned_as("C1", mirrored)).splitlines()[1]
    assert "goes from 2.0 % to 1.5 % when D1(90)" in second
    assert second.endswith("It is broken, but so slightly that imposing it costs nothing.")
    assert "costs nothing" not in str(learned_as("C4", evidence_for("C4")))


def test_a_regression_speaks_of_squared_errors() -> None:
    text = str(learned_as("C4", evidence_for("C4", D4=row(5e-4, 0.7, 0.5)), regression=True))
    assert "squared error rises from 0.020 of the variance to 0.300 of the variance" in text


def test_doubt_names_the_groups_that_are_left() -> None:
    doubtful = learned_as("C4", evidence_for("C4", C4=row(0.05), D4=row(0.004)))
    assert doubtful.indistinct == ("C4", "D4", "C2")
    last = str(doubtful).splitlines()[2]
    assert last == "In doubt: at levels from 0.001 to 0.1 the data do not settle between C4, D4 and C2."


def test_a_network_that_learned_nothing_is_no_witness() -> None:
    ignorant = learned_as("D4", {h.name: row(0.5, chance=0.4) for h in D4.subgroups})
    assert not ignorant.informed
    first, _, third = str(ignorant).splitlines()
    assert "nothing was learned about the symmetry of the task; the model is built" in first
    assert "could not predict held-out targets better than chance" in third


def test_where_the_model_is_not_built_as_the_evidence_says_both_are_named() -> None:
    first = str(learned_as("C1", evidence_for("C4"))).splitlines()[0]
    assert first == (
        "D4 -> C1: no symmetry is built into the model; the task looks the same under quarter turns, not under mirrors."
    )


def test_without_evidence_only_the_model_is_described() -> None:
    text = str(learned_as("C4"))
    assert "the model is built to look the same under quarter turns" in text
    assert "layer 1 D4, head C4" in text
    assert (learned_as("C4").verdicts, learned_as("C4").indistinct, learned_as("C4").informed) == ({}, (), True)


def test_verdicts_follow_the_level() -> None:
    learned = learned_as("C4", evidence_for("C4", C4=row(0.05)))
    assert [n for n, v in learned.verdicts.items() if v == "accepted"] == ["C4", "C2", "C1"]
    assert [n for n, v in learned_as("C2", learned.evidence, level=0.05).verdicts.items() if v == "accepted"] == [  # type: ignore[arg-type]
        "C2",
        "C1",
    ]


def test_everything_goes_into_json_and_tables() -> None:
    shares = {"layer 1": {"C4": 0.9, "C1": 0.1}, "head": {"C4": 0.25, "C1": 0.75}}
    learned = learned_as(
        "C4",
        evidence_for("C4"),
        layer_weights=shares,
        lie_derivative=math.inf,
        effective_invariance={"identity": 0.9, "rotation(90)": 0.8},
        layer_distances={"layer 1": {}, "head": {"D4": 0.7}},
    )
    values = json.loads(json.dumps(learned.to_dict(), allow_nan=False))
    assert values["evidence"]["D4"]["p_value"] == 5e-4
    assert values["verdicts"]["D4"] == "rejected"
    assert values["indistinct"] == ["C4"]
    assert values["lie_derivative"] is None
    table = learned.to_frame()
    assert isinstance(table, pd.DataFrame)
    assert list(table.index) == [h.name for h in D4.subgroups]
    assert table.loc["C4", "verdict"] == "accepted"
    assert table["learned"].sum() == 1
    elements = learned.to_frame("elements")
    assert elements.loc["mirror(0)", "measured_change"] == 1
    assert elements.loc["rotation(90)", "effective_invariance"] == 0.8
    layers = learned.to_frame("layers")
    assert layers.loc["head", "distance to D4"] == 0.7
    assert layers.loc["head", "share of C1"] == 0.75
    assert list(learned_as("C4").to_frame().columns) == ["order", "learned"]
    with pytest.raises(ValueError, match="of='rows' is unknown"):
        learned.to_frame("rows")
