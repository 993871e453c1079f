"""Groups that the pixel grid cannot turn, from the images to the estimators and the searches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_digits
from torch import Tensor

import skequinas
from skequinas import (
    DifferentiableSearch,
    EquivariantNASClassifier,
    EvolutionarySearch,
    OrbitDisplay,
    SymmetryDisplay,
    score_test,
    symmetry_evidence,
)
from skequinas.datasets import make_planted_symmetry
from skequinas.evidence import Evidence, LearnedSymmetry, orbit_test
from skequinas.groups import PointGroup, fair_offset, pixel_elements
from skequinas.nn import Architecture, RandomTurns, default_architecture, transform_images, warp_images
from skequinas.nn.transforms import circular_mask
from skequinas.search import Search
from skequinas.training import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")

C4, C8, D4, D8 = (PointGroup.from_name(name) for name in ("C4", "C8", "D4", "D8"))
X, Y = load_digits(n_class=3, return_X_y=True)
SMALL: dict[str, Any] = {"width": 16, "max_epochs": 2, "device": "cpu", "random_state": 0}


def blob(n: int = 4, size: int = 31) -> Tensor:
    """Smooth images that fade out towards the edge."""
    y, x = np.mgrid[:size, :size] - size // 2
    rng = np.random.default_rng(0)
    images = [sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / 12) for a, b in rng.uniform(-7, 7, (3, 2))) for _ in range(n)]
    return torch.from_numpy(np.stack(images))[:, None]


# Moved images


@pytest.mark.parametrize("size", [8, 9])
def test_moves_of_the_pixel_grid_are_the_same_with_and_without_interpolation(size: int) -> None:
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    for g in D4.elements:
        matrices = torch.from_numpy(D4.matrix(g))[None].expand(2, 2, 2)
        torch.testing.assert_close(warp_images(images, matrices), transform_images(images, D4, g), atol=1e-9, rtol=0)


@pytest.mark.parametrize("group", [C8, D8, PointGroup.from_name("D3(10)")], ids=str)
def test_moves_with_interpolation_follow_the_product(group: PointGroup) -> None:
    images = blob()
    for a in group.elements[1:3]:
        for b in (group.elements[1], group.elements[-1]):
            at_once = transform_images(images, group, group.multiply(a, b))
            one_by_one = transform_images(transform_images(images, group, b), group, a)
            assert float((at_once - one_by_one).norm() / images.norm()) < 0.04
            other = transform_images(images, group, group.multiply(b, a))
            if group.multiply(a, b) != group.multiply(b, a):
                assert float((other - one_by_one).norm() / images.norm()) > 0.1


def test_images_turn_counter_clockwise() -> None:
    image = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
    image[0, 0, 10, 17] = 1.0  # to the right of the centre
    row, column = divmod(int(transform_images(image, C8, 1).flatten().argmax()), 21)
    assert (row, column) == (5, 15)  # to the upper right


def test_pixel_elements_are_those_that_need_no_interpolation() -> None:
    assert pixel_elements(D4) == list(D4.elements)
    assert [C8.angle(g) for g in pixel_elements(C8)] == [0, 90, 180, 270]
    assert pixel_elements(PointGroup.from_name("D3")) == [0, 3]  # and the mirror at 0
    assert pixel_elements(PointGroup.from_name("C5")) == [0]


@pytest.mark.parametrize("name", ["C3", "C5", "C8", "C16", "C32", "D6", "D12", "D3(10)", "D8(15)", "D4(30)", "D1(30)"])
def test_with_the_fair_offset_no_copy_is_sharper_than_the_others(name: str) -> None:
    group = PointGroup.from_name(name)
    offset = fair_offset(group)
    angles = [float(group.angle(g)) * (2 if group.is_mirror(g) else 1) + offset for g in group.elements]
    off_grid = [min(a % 90, 90 - a % 90) for a in angles]
    step = 360 / math.lcm(group.n_rotations, 4)
    assert min(off_grid) > (0.39 if group.axis == 0 else 0.1) * step
    assert abs(offset - step / 2) > 0.09 * step  # half a step would make a C8 of what is a C4
    assert fair_offset(D4) == 0


def test_an_offset_permutes_the_copies_of_a_moved_image_exactly() -> None:
    """Whatever is asked about the orbit of an image, it has the same answer for the moved image."""
    images = torch.randn(3, 1, 12, 12, dtype=torch.float64)
    for h in pixel_elements(D8):
        of_moved = [transform_images(transform_images(images, D8, h), D8, g, fair_offset(D8)) for g in D8.elements]
        own = [transform_images(images, D8, D8.multiply(g, h), fair_offset(D8)) for g in D8.elements]
        for a, b in zip(of_moved, own, strict=True):
            torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


@pytest.mark.parametrize("size", [9, 10])
def test_the_disc_looks_the_same_from_all_sides_and_cuts_the_corners(size: int) -> None:
    mask = circular_mask(size)
    for g in D4.elements:
        assert torch.equal(transform_images(mask, D4, g), mask)
    assert mask[0, 0] == mask[-1, 0] == 0
    assert mask[size // 2, 0] > 0
    assert mask[size // 2, size // 2] == 1
    area = float(mask.sum()) / size**2
    assert abs(area - math.pi / 4) < 0.12


@pytest.mark.parametrize("mirrors", [True, False])
def test_random_turns_are_turns_of_all_angles_and_mirrors_where_asked_for(mirrors: bool) -> None:
    image = torch.zeros(1, 1, 41, 41)
    image[0, 0, 20, 34] = image[0, 0, 20, 33] = 1.0  # a bar to the right
    image[0, 0, 17, 33] = image[0, 0, 16, 33] = 0.5  # and above it a flag
    turned = RandomTurns(mirrors, 0)(image.expand(400, 1, 41, 41))
    y, x = torch.meshgrid(-torch.arange(-20.0, 21), torch.arange(-20.0, 21), indexing="ij")
    bar, flag = (turned[:, 0] * (turned[:, 0] > 0.6), turned[:, 0] * (turned[:, 0] < 0.6))

    def direction(part: Tensor) -> Tensor:
        part = part.clamp(min=0)
        return torch.atan2((part * y).sum((1, 2)), (part * x).sum((1, 2)))

    angle = direction(bar)
    assert np.histogram(angle, bins=8, range=(-math.pi, math.pi))[0].min() > 25  # of 50 each
    side = torch.sin(direction(flag) - angle)  # on which side of the bar the flag is
    assert bool((side < 0).any()) == mirrors
    again = RandomTurns(mirrors, 0)(image.expand(400, 1, 41, 41))
    assert torch.equal(turned, again)
    assert not torch.equal(turned, RandomTurns(mirrors, 1)(image.expand(400, 1, 41, 41)))


# Planted symmetries


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_planted_images_of_a_large_group_are_all_interpolated_and_keep_their_type(dtype: type) -> None:
    images = (blob(60)[:, 0].numpy() * 200 / float(blob(60).max())).astype(dtype)
    moved, labels = make_planted_symmetry(images, group="C8", subgroup="C4", random_state=0)
    assert moved.dtype == dtype
    assert moved.min() >= images.min()
    assert moved.max() <= images.max()
    elements = np.random.RandomState(0).randint(8, size=60)
    np.testing.assert_array_equal(labels, elements % 2)
    assert not any((m == i).all() for m, i in zip(moved, images, strict=True))
    exact = transform_images(torch.from_numpy(images[:1]).double(), C8, int(elements[0]), fair_offset(C8))[0]
    assert np.abs(moved[0] - exact.numpy()).max() <= (0.5 if dtype is np.uint8 else 1e-4)


def test_planted_tasks_may_be_small() -> None:
    moved, _ = make_planted_symmetry(np.random.default_rng(0).random((4, 8, 8)), group="C8", random_state=0)
    assert moved.shape == (4, 8, 8)


# Evidence


def gratings(n: int, seed: int, size: int = 20) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Stripes in all directions, rendered and not interpolated; the class is how wide they are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    labels = rng.integers(2, size=n)
    angle, phase = rng.uniform(0, 2 * np.pi, (2, n, 1, 1))
    along = np.cos(angle) * x + np.sin(angle) * y
    wave = np.cos((0.8 + 0.25 * labels[:, None, None]) * along + phase) * np.exp(-(x**2 + y**2) / 60)
    return (wave + 0.3 * rng.standard_normal((n, size, size))).astype(np.float32), labels


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["C8", "C3", "D6"])
def test_what_looks_the_same_from_all_sides_is_not_rejected_for_the_traces_of_interpolation(name: str) -> None:
    images, labels = gratings(400, 0)
    network = EquivariantNASClassifier("C1", "none", max_epochs=6, width=8, random_state=0).fit(images, labels)
    assert network.score(*gratings(500, 1)) > 0.8
    found = [symmetry_evidence(network, *gratings(600, seed), group=name, random_state=0) for seed in (2, 3, 4)]
    whole = [evidence[name].raw_p_value for evidence in found]
    assert max(whole) > 0.05
    assert min(whole) > 0.005


def test_what_does_not_look_the_same_is_rejected() -> None:
    images, labels = gratings(400, 0)
    images[labels == 1] += np.linspace(-0.5, 0.5, 20)  # brighter to the right
    network = EquivariantNASClassifier("C1", "none", max_epochs=6, width=8, random_state=0).fit(
        images[:200], labels[:200]
    )
    evidence = symmetry_evidence(network, images[200:], labels[200:], group="C8", random_state=0)
    assert evidence["C8"].p_value < 0.001
    assert evidence["C2"].p_value < 0.001


@pytest.mark.parametrize("name", ["D4", "D8", "D16", "D32"])
def test_adjusted_p_values_can_be_small_in_every_group(name: str) -> None:
    group = PointGroup.from_name(name)
    n_tests = len(group.subgroups) - 1
    sure = np.zeros((33, group.order, 50))
    sure[:, 0] = 10.0
    p_value = orbit_test(sure, None, np.random.default_rng(0), max(9999, 1000 * (n_tests + 1) - 1))
    assert n_tests * p_value < 0.001


def test_the_score_test_asks_about_quarter_turns_alone() -> None:
    model = EquivariantNASClassifier("C8", "none", **SMALL).fit(X[:300], Y[:300])
    test = score_test(model, X[300:], Y[300:], random_state=0)
    assert test.group == "C4"
    assert list(test.p_values) == ["C4", "C2"]
    with pytest.raises(ValueError, match="constrained to C3"):
        score_test(EquivariantNASClassifier("C3", "none", **SMALL).fit(X[:300], Y[:300]), X[300:], Y[300:])


# Searches


def started(search: Search, group: str) -> Search:
    return search.start(default_architecture(group, 13, n_outputs=2, width=8), 1, TrainingSettings(), 0)


@pytest.mark.parametrize(
    ("subgroups", "expected"),
    [
        ("chain", ["D8", "C8", "C4", "C2", "C1"]),
        (["C4", "D1(0)"], ["D8", "C4", "D1(0)", "C1"]),
        (["C1", "D8"], ["D8", "C1"]),
    ],
)
def test_a_mixture_takes_a_chain_or_a_chosen_set(subgroups: Any, expected: list[str]) -> None:
    search = started(DifferentiableSearch(subgroups=subgroups), "D8")
    (proposal,) = search.ask()
    for constraint in proposal.architecture.constraints:
        assert isinstance(constraint, tuple)
        assert [h.name for h in constraint] == expected


def test_a_mixture_takes_all_subgroups_by_default_and_no_unknown_ones() -> None:
    (proposal,) = started(DifferentiableSearch(), "D8").ask()
    assert proposal.architecture.constraints[0] == D8.subgroups
    with pytest.raises(ValueError, match="'C3' is not a subgroup of D8"):
        started(DifferentiableSearch(subgroups=["C3"]), "D8").ask()
    with pytest.raises(ValueError, match="subgroups"):
        started(DifferentiableSearch(subgroups="some"), "D8")


@pytest.mark.parametrize(
    ("moves", "merged", "expected"),
    [
        ("maximal", False, ["C8", "D4(0)", "D4(22.5)"]),
        ("maximal", True, ["C8", "D4(0)", "D4(22.5)"]),  # turning by 45 degrees does not take one to the other
        ("all", True, ["C8", "D4(0)", "D4(22.5)", "C4", "D2(0)", "D2(22.5)", "C2", "D1(0)", "D1(22.5)", "C1"]),
    ],
)
def test_of_conjugate_subgroups_one_is_tried_when_asked(moves: str, merged: bool, expected: list[str]) -> None:
    search = EvolutionarySearch(guided=False, moves=moves, merge_conjugates=merged)
    search.start(Architecture(D8, 9, 1, 2, (1,), (3,), (False,)), 1, TrainingSettings(), 0)
    heads = [a.constraints[-1] for a in search._relaxations(search.architecture_)]
    assert [str(h) for h in heads] == expected


# Estimators


@pytest.mark.parametrize(
    "search",
    [
        EvolutionarySearch(1),
        DifferentiableSearch(subgroups="chain"),
        *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("none", "random")),
    ],
)
def test_an_estimator_fits_with_a_group_of_45_degrees(search: Any, tmp_path: Path) -> None:
    model = EquivariantNASClassifier("C8", search, **SMALL | {"max_epochs": 5}).fit(X, Y)
    assert model.architecture_.basis == "harmonic"
    assert model.architecture_.circular_mask
    assert model.score(X, Y) > 0.5
    assert model.learned_symmetry_.search_group == "C8"
    assert list(model.learned_symmetry_.measured_change) == [C8.element_name(g) for g in C8.elements]
    answers = model.predict_proba(X)
    assert (clone(model).fit(X, Y).predict_proba(X) == answers).all()
    skequinas.save(model, tmp_path / "model")
    loaded = skequinas.load(tmp_path / "model")
    assert (loaded.predict_proba(X) == answers).all()
    assert loaded.architecture_ == model.architecture_
    plain = model.to_torch()(torch.from_numpy(X).reshape(-1, 1, 8, 8))
    np.testing.assert_allclose(plain.numpy(), answers, atol=1e-6)


def test_the_answers_for_quarter_turns_are_the_same_to_round_off() -> None:
    model = EquivariantNASClassifier("C8", "none", **SMALL).fit(X, Y)
    change = model.learned_symmetry_.measured_change
    exact = [C8.element_name(g) for g in pixel_elements(C8)]
    assert max(change[name] for name in exact) < 1e-4
    assert min(change[name] for name in change if name not in exact) > 1e-3


def test_a_model_of_quarter_turns_in_the_harmonic_basis_is_exact() -> None:
    model = EquivariantNASClassifier("D4", "none", basis="harmonic", **SMALL).fit(X, Y)
    assert not model.architecture_.circular_mask
    assert max(model.learned_symmetry_.measured_change.values()) < 1e-4
    pixel = EquivariantNASClassifier("D4", "none", **SMALL).fit(X, Y)
    assert model.n_parameters_ < pixel.n_parameters_


def test_evidence_for_a_large_group_is_readable() -> None:
    model = EquivariantNASClassifier("D8", EvolutionarySearch(1), **SMALL).fit(X, Y)
    learned = model.learned_symmetry_
    assert len(learned.to_frame()) == len(D8.subgroups) == 19
    merged = learned.to_frame(merge_conjugates=True)
    assert len(merged) < 19
    assert sorted(", ".join(merged["alike"]).split(", ")) == sorted(h.name for h in D8.subgroups)
    assert learned.group in merged.index


def evidence(group: PointGroup, rejected: set[str]) -> dict[str, Evidence]:
    return {
        h.name: Evidence(0.9, 0.01, 0.0, 0.01, 0.001 if h.name in rejected else 0.5, 0.5, 0.001)
        for h in group.subgroups
    }


def test_conjugates_are_merged_where_their_verdicts_are_the_same() -> None:
    mirrors = {h.name for h in D8.subgroups if h.mirror is not None}
    learned = LearnedSymmetry("D8", "C8", {}, {}, evidence=evidence(D8, mirrors))
    names = [
        *([name] for name in ("D8", "C8", "D4(0)", "D4(22.5)", "C4", "C2", "C1")),
        *(["D2(0)", "D2(45)"], ["D2(22.5)", "D2(67.5)"]),
        *(["D1(0)", "D1(45)", "D1(90)", "D1(135)"], ["D1(22.5)", "D1(67.5)", "D1(112.5)", "D1(157.5)"]),
    ]
    assert sorted(map(sorted, learned.alike())) == sorted(map(sorted, names))
    one_less = LearnedSymmetry("D8", "C8", {}, {}, evidence=evidence(D8, mirrors - {"D1(90)"}))
    assert ["D1(90)"] in one_less.alike()
    display = SymmetryDisplay(learned).plot(merge_conjugates=True)
    assert len(display.nodes_) == 11
    assert len(SymmetryDisplay(learned).plot().nodes_) == 19
    assert isinstance(learned.to_frame(merge_conjugates=True), pd.DataFrame)
    assert "turns by 45 degrees" in str(learned)


def test_shares_of_some_subgroups_can_be_drawn() -> None:
    model = EquivariantNASClassifier("D8", DifferentiableSearch(subgroups="chain"), **SMALL).fit(X, Y)
    display = SymmetryDisplay.from_estimator(model, kind="layers")
    assert len(display.ax_.get_yticks()) == len(D8.subgroups)


def test_orbits_of_large_groups_are_drawn_in_rows() -> None:
    model = EquivariantNASClassifier("D16", "none", **SMALL).fit(X, Y)
    display = OrbitDisplay.from_estimator(model, X[0])
    assert len(display.axes_) == 32
    assert len({round(ax.get_position().x0, 2) for ax in display.axes_}) <= 6


def test_the_third_line_names_some_of_many_groups_in_doubt() -> None:
    doubtful = {h.name for h in D8.subgroups if h.mirror is not None and h.order == 2}
    found = {
        h.name: Evidence(
            0.9, 0.01, 0.0, 0.01, 0.005 if h.name in doubtful else 1.0 if h.order == 1 else 0.0005, 0.5, 0.001
        )
        for h in D8.subgroups
    }
    text = str(LearnedSymmetry("D8", "C1", {}, {}, evidence=found))
    assert "5 other groups" in text
    assert text.count("D1(") < 6


# Augmentation


def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """Every batch that is turned: whether it may be mirrored, and its size."""
    calls: list[tuple[bool, int]] = []
    turn = RandomTurns.__call__

    def call(self: RandomTurns, images: Tensor) -> Tensor:
        calls.append((self.mirrors, len(images)))
        return turn(self, images)

    monkeypatch.setattr(RandomTurns, "__call__", call)
    return calls


@pytest.mark.parametrize(
    ("group", "mirrors"), [("D4", True), *(pytest.param(g, False, marks=pytest.mark.exhaustive) for g in ("C4", "C8"))]
)
def test_images_of_the_final_training_are_turned_when_asked(
    group: str, mirrors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = spied(monkeypatch)
    plain = EquivariantNASClassifier(group, "none", **SMALL).fit(X, Y)
    assert not calls
    model = EquivariantNASClassifier(group, "none", augment="continuous", **SMALL).fit(X, Y)
    assert {m for m, _ in calls} == {mirrors}
    assert sum(n for _, n in calls) == 2 * len(X)
    assert (model.predict_proba(X) != plain.predict_proba(X)).any()
    assert (clone(model).fit(X, Y).predict_proba(X) == model.predict_proba(X)).all()


def test_images_are_not_turned_where_the_model_is_not_to_look_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = spied(monkeypatch)
    architecture = Architecture(C4, 8, 1, 3, (2,), (3,), (False,), ("C4", "C2"))
    options = {name: value for name, value in SMALL.items() if name != "width"}
    EquivariantNASClassifier("C4", "none", architecture=architecture, augment="continuous", **options).fit(X, Y)
    assert not calls


def test_mirrors_alone_are_no_reason_to_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = spied(monkeypatch)
    for group, search in (("D1(90)", "none"), ("D1(90)", EvolutionarySearch(1))):
        EquivariantNASClassifier(group, search, augment="continuous", **SMALL).fit(X, Y)
    assert not calls
    EquivariantNASClassifier("C1", "none", augment="continuous", **SMALL).fit(X, Y)  # an ordinary CNN
    assert calls


def test_the_search_never_turns_images(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = spied(monkeypatch)
    model = EquivariantNASClassifier("C2", EvolutionarySearch(1), augment="continuous", **SMALL).fit(X, Y)
    expected = 2 * len(X) if model.learned_symmetry_.group == "C2" else 0
    assert sum(n for _, n in calls) == expected


def test_a_network_trained_on_turned_images_knows_turned_images() -> None:
    images = blob(300, 15)[:, 0].numpy()
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=300)
    images[y == 1, 7, 2:13] += 1.0  # a bar through the centre, or none
    turned: NDArray[Any] = RandomTurns(False, 1)(torch.from_numpy(images)[:, None])[:, 0].numpy()
    options = {"group": "C1", "search": "none", "max_epochs": 20, "width": 8, "random_state": 0}
    plain, augmented = (
        EquivariantNASClassifier(augment=augment, **options).fit(images, y) for augment in ("none", "continuous")
    )
    assert augmented.score(turned, y) > 0.9
    assert augmented.score(turned, y) > plain.score(turned, y) + 0.1
    assert plain.score(images, y) > 0.95


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": "rotations"}, "augment"),
        ({"basis": "wavelet"}, "basis"),
        ({"circular_mask": "round"}, "circular_mask"),
        ({"group": "C8", "basis": "pixel"}, "cannot turn the pixel grid.*basis='harmonic'"),
    ],
)
def test_bad_settings_say_what_is_possible(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EquivariantNASClassifier(**{"search": "none"} | changes).fit(X, Y)


def test_settings_that_contradict_a_given_architecture_raise_an_error() -> None:
    given = default_architecture("C8", 8, n_outputs=3)
    for changes in ({"basis": "pixel"}, {"circular_mask": False}):
        with pytest.raises(ValueError, match=f"{next(iter(changes))}="):
            EquivariantNASClassifier("C8", "none", architecture=given, **changes).fit(X, Y)
