"""Laws of what is not independent: copies, near copies and groups are one unit in every split and every test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from scipy.stats import binom
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skequinas import (
    EquivariantNASClassifier,
    EquivariantNASRegressor,
    EvolutionarySearch,
    score_test,
    symmetry_evidence,
)
from skequinas.datasets import make_planted_symmetry
from skequinas.estimators import near, preparation
from skequinas.estimators.near import levels, near_copies
from skequinas.estimators.units import distinct, units_of
from skequinas.evidence import orbit_test
from skequinas.groups import PointGroup
from skequinas.training import DataPart, Split
from skequinas.training.units import joined, members, numbered, parts, sums

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
DIGITS, LABELS = load_digits(return_X_y=True)
IMAGES = DIGITS.reshape(-1, 8, 8)
SMALL = {"width": 16, "max_epochs": 6, "random_state": 0, "device": "cpu"}


def noise(n: int, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, size, size)).astype(np.float32)


def split_of(model: Any, *arguments: Any, **options: Any) -> Split:
    """The split that a fit makes, without the fit."""
    prepared = preparation.prepare(model, *arguments, device=torch.device("cpu"), seed=0, hold_out=True, **options)
    return prepared.split


# --- units ---


def test_units_are_numbered_by_their_first_image() -> None:
    units = numbered(np.array(["b", "a", "b", "c"]))
    assert units.tolist() == [0, 1, 0, 2]
    assert [m.tolist() for m in members(units)] == [[0, 2], [1], [3]]
    assert sums(np.array([[1.0, 2, 3, 4]]), units).tolist() == [[4, 2, 4]]
    assert sums(np.arange(3.0), None).tolist() == [0, 1, 2]


@pytest.mark.parametrize("n_parts", [2, 3, 7])
def test_parts_hold_every_image_once_and_divide_no_unit(n_parts: int) -> None:
    units = numbered(np.random.default_rng(0).integers(20, size=100))
    found = parts(100, units, n_parts)
    assert sorted(np.concatenate(found).tolist()) == list(range(100))
    assert sum(len(set(units[p].tolist())) for p in found) == units.max() + 1
    assert [p.tolist() for p in parts(100, np.arange(100), 7)] == [p.tolist() for p in parts(100, None, 7)]


def test_copies_and_groups_that_share_an_image_are_one_unit() -> None:
    images = torch.from_numpy(noise(6))[:, None]
    images[3] = images[0].rot90(1, (1, 2))  # a moved copy
    groups = numbered(np.array([0, 1, 1, 2, 2, 3]))
    assert units_of(images, groups, D4).tolist() == [0, 1, 1, 0, 0, 2]
    assert units_of(images[:3], None, D4) is None


def all_pairs(images: torch.Tensor, least: float = 0.97) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    known = near._Sketches(images, D4, torch.arange(len(images)), (images.shape[2], images.shape[3]))
    return known.pairs(least, (2 - 2 * least) ** 0.5)


def test_noisy_copies_are_found_and_other_images_are_not() -> None:
    images, rng = noise(100), np.random.default_rng(1)
    copies = np.concatenate([images, np.rot90(images, 1, (1, 2)) + 0.05 * rng.normal(size=images.shape)])
    found = near_copies(torch.from_numpy(copies)[:, None], D4)
    assert found is not None
    assert {tuple(sorted(pair)) for pair in zip(found.first.tolist(), found.second.tolist(), strict=True)} == {
        (i, i + 100) for i in range(100)
    }
    assert found.n_images == 200
    assert not len(all_pairs(torch.from_numpy(images)[:, None])[0])


def test_no_digit_is_taken_for_a_copy_of_another_beyond_chance() -> None:
    images = torch.from_numpy(IMAGES)[:, None]
    a, _, correlations = all_pairs(images)
    assert len(np.unique(a[correlations > 0.99])) <= 0.01 * len(images)
    assert len(np.unique(a)) <= 0.1 * len(images)
    assert units_of(images, None, D4) is None


@pytest.mark.parametrize("share", [0.05, 0.125])
def test_shots_of_one_object_are_kept_together(share: float) -> None:
    """Four of each, with noise of this share of the images' spread."""
    images = noise(60).repeat(4, axis=0)
    images += share * np.random.default_rng(1).normal(size=images.shape)
    with pytest.warns(UserWarning, match="240 of 240 images are nearly equal to others"):
        units = units_of(torch.from_numpy(images)[:, None], None, D4)
    np.testing.assert_array_equal(units, np.arange(60).repeat(4))


def test_of_many_pairs_those_are_kept_that_join_what_all_of_them_join(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(IMAGES)[:, None]  # digits: chains of some that are a little alike
    first, second, correlations = all_pairs(images, 0.85)
    assert len(first) > 3 * len(images)
    monkeypatch.setattr(near, "_MOST_PAIRS", 300)
    few = all_pairs(images, 0.85)
    assert len(few[0]) < len(images) + 300 + 128 * 128
    for level in (0.85, 0.9, 0.95, 0.98):
        wanted, found = correlations > level, few[2] > level
        expected = joined(len(images), [(first[wanted], second[wanted])])
        np.testing.assert_array_equal(joined(len(images), [(few[0][found], few[1][found])]), expected)
        np.testing.assert_array_equal(
            np.union1d(first[wanted], second[wanted]), np.union1d(few[0][found], few[1][found])
        )


def test_among_more_images_copies_have_to_be_more_alike() -> None:
    """Of Fashion-MNIST 0.1 % have a partner by 0.99 among 1,500 images, and 3 % among 20,000."""
    assert levels(200) == levels(1500) == {0.97: 0.5, 0.99: 0.01}
    assert list(levels(24_000)) == [pytest.approx(0.985), pytest.approx(0.995)]


@pytest.mark.parametrize(
    ("copies", "sampled"),
    [(0.001, True), *(pytest.param(*c, marks=pytest.mark.exhaustive) for c in ((0.0, True), (0.05, False)))],
)
def test_some_are_compared_first(copies: float, sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where they have so many partners that there may be more of them than chance makes all are compared."""
    images = noise(2000)
    n = int(copies * len(images))
    images[len(images) - n :] = images[:n] + 0.03 * np.random.default_rng(1).normal(size=images[:n].shape)
    monkeypatch.setattr(near, "_SAMPLED", 100)
    compared: list[int] = []
    own = near._Sketches.pairs
    monkeypatch.setattr(near._Sketches, "pairs", lambda self, *a, **k: compared.append(1) or own(self, *a, **k))
    found = near_copies(torch.from_numpy(images)[:, None], D4)
    assert (compared == []) == sampled
    assert (found is None) == sampled
    assert found is None or found.n_images == 2 * n


def test_sampled_shares_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(IMAGES)[:, None]
    known = near._Sketches(images, D4, torch.arange(len(images)), (8, 8))
    first, second, correlations = known.pairs(0.9, 0.2**0.5)
    monkeypatch.setattr(near, "_SAMPLE", len(images) // 2)
    for level, (share, error) in known.sampled_shares([0.9, 0.95], 0.2**0.5).items():
        exact = len(np.union1d(first[correlations > level], second[correlations > level])) / len(images)
        assert 0 < error < 0.05
        assert abs(share - exact) <= 3 * error


@pytest.mark.parametrize("seed", range(2))
def test_shots_that_lie_together_are_not_passed_over(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One object in fifty images of one kind, all along one direction, where samples could fall between them."""
    monkeypatch.setattr(near, "_SAMPLED", 1000)
    rng, n = np.random.default_rng(seed), 4000
    images = rng.normal(size=(n, 1)) * noise(1, seed=seed).reshape(1, -1) + 0.5 * rng.normal(size=(n, 256))
    shots = rng.permutation(n)[: n // 50]
    images[shots] = images[shots[0]] + 0.03 * rng.normal(size=(len(shots), 256))
    found = near_copies(torch.from_numpy(images.reshape(-1, 1, 16, 16)).float(), PointGroup.from_name("C1"))
    assert found is not None
    assert found.n_images == len(shots)


def test_a_chain_of_many_is_no_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "_FEW", 100)
    monkeypatch.setattr(near, "levels", lambda n: {0.97: 0.5, 0.99: 0.01})
    angles = np.linspace(0, np.pi / 2, 400)[:, None, None]
    one, other = noise(2)
    images = torch.from_numpy(np.cos(angles) * one + np.sin(angles) * other)[:, None]
    with pytest.warns(UserWarning, match="400 or more of 400 images .* 400 of them in one chain"):
        assert units_of(images, None, D4) is None
    monkeypatch.setattr(near, "_MOST_PAIRS", 1000)
    monkeypatch.setattr(near, "_AT_ONCE", 8)
    compared: list[int] = []
    own = near._Sketches._compare
    monkeypatch.setattr(near._Sketches, "_compare", lambda self, *a: compared.append(1) or own(self, *a))
    with pytest.warns(UserWarning, match="in one chain"):
        assert near_copies(images, D4) is None
    assert len(compared) < 400 / 8  # once the chain is known no more are compared


def test_shots_beside_a_chain_are_kept_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the lower level there is a chain, of steps of 12 degrees that correlate by 0.978; by the higher one there are
    four shots of each object.
    """
    monkeypatch.setattr(near, "_FEW", 50)
    monkeypatch.setattr(near, "levels", lambda n: {0.97: 0.5, 0.99: 0.01})
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)[:, None, None]
    one, other = noise(2)
    images = np.concatenate([(np.cos(angles) * one + np.sin(angles) * other)] * 4)
    images = images + 0.01 * rng.normal(size=images.shape)
    found = near_copies(torch.from_numpy(images)[:, None], PointGroup.from_name("C1"))
    assert found is not None
    np.testing.assert_array_equal(joined(120, [(found.first, found.second)]), np.tile(np.arange(30), 4))


# --- splits ---


@pytest.mark.parametrize("search", ["evolutionary", "differentiable"])
def test_a_group_stands_on_one_side_of_the_split(search: str) -> None:
    groups = np.random.default_rng(0).integers(30, size=200)
    split = split_of(EquivariantNASClassifier(search=search), IMAGES[:200], LABELS[:200], groups=groups)
    assert split.validation is not None
    seen = [
        {tuple(groups[(IMAGES[:200] == i.numpy()[0]).all((1, 2))].tolist()) for i in part.images}
        for part in (split.training, split.validation)
    ]
    assert not seen[0] & seen[1]
    assert split.validation.n_units == 6
    assert split.training.n_units == 24


@pytest.mark.parametrize("kind", ["copies", "noisy copies"])
def test_copies_stand_on_one_side_of_the_split(kind: str) -> None:
    images, rng = noise(40), np.random.default_rng(0)
    X = np.concatenate([np.rot90(images, k, (1, 2)) for k in range(3)])
    if kind == "noisy copies":
        X = X + 0.05 * rng.normal(size=X.shape)
    source, y = np.tile(np.arange(40), 3), np.tile(np.arange(40) % 2, 3)
    options = {"groups": None}
    if kind == "noisy copies":
        with pytest.warns(UserWarning, match=r"120 of 120 images are nearly equal to others.*groups="):
            split = split_of(EquivariantNASClassifier(), X, y, **options)
    else:
        split = split_of(EquivariantNASClassifier(), X, y, **options)
    keys = {row.tobytes(): s for row, s in zip(X.reshape(120, -1).astype(X.dtype), source, strict=True)}
    sides = [{keys[i.numpy().ravel().tobytes()] for i in part.images} for part in (split.training, split.validation)]
    assert not sides[0] & sides[1]
    assert split.whole.n_units == 40


def test_no_warning_where_groups_are_given() -> None:
    images = noise(20)
    X = np.concatenate([images, images + 0.01])
    split = split_of(EquivariantNASClassifier(), X, np.arange(40) % 2, groups=np.arange(40))
    assert split.whole.n_units == 40


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"groups, and copies of images, leave 3 independent units, but at least 4"):
        EquivariantNASClassifier(**SMALL).fit(IMAGES[:60], LABELS[:60], groups=np.arange(60) % 3)


@pytest.mark.parametrize("groups", [np.zeros((60, 2)), np.zeros(59)])
def test_groups_that_do_not_fit_are_refused(groups: np.ndarray) -> None:
    with pytest.raises(ValueError, match="groups|inconsistent"):
        EquivariantNASClassifier(**SMALL).fit(IMAGES[:60], LABELS[:60], groups=groups)


def test_groups_may_be_words_and_take_part_in_metadata_routing() -> None:
    words = np.array(["a", "b", "c", "d", "e"])[np.arange(60) % 5]
    with sklearn.config_context(enable_metadata_routing=True):
        model = EquivariantNASClassifier(**SMALL | {"max_epochs": 1}).set_fit_request(groups=True)
        routed = make_pipeline(FunctionTransformer(), model).fit(IMAGES[:60], LABELS[:60], groups=words)
    assert routed[-1].search_.population_[0].units is not None


# --- tests ---


def sure(units: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Log-probabilities of images in units, alike under all moves in distribution, and alike within a unit."""
    shared = rng.normal(size=(1, 8, units.max() + 1))[:, :, units]
    return shared + 0.1 * rng.normal(size=shared.shape)


SIZES = {"one image": np.ones(60, int), "five copies": np.full(60, 5), "unequal": 1 + np.arange(60) % 3 * 4}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_level_holds_with_units_and_weights(sizes: str, weighted: bool) -> None:
    rng, p_values = np.random.default_rng(0), []
    units = np.arange(60).repeat(SIZES[sizes])
    for _ in range(300):
        logs = sure(units, rng)
        weights = rng.exponential(size=len(units)) if weighted else None
        p_values.append(orbit_test(logs, weights, rng, 199, units))
    for level in (0.01, 0.05, 0.1):
        found = int(np.sum(np.array(p_values) <= level))
        assert binom.sf(found - 1, 300, level) > 0.001, (level, found)


def test_without_units_the_level_does_not_hold() -> None:
    rng = np.random.default_rng(0)
    p_values = [orbit_test(sure(np.arange(60).repeat(5), rng), None, rng, 199) for _ in range(100)]
    assert np.mean(np.array(p_values) <= 0.05) > 0.15


def test_units_of_one_image_change_nothing() -> None:
    rng = np.random.default_rng(0)
    logs = rng.normal(size=(3, 8, 100))
    p_values = [orbit_test(logs, None, np.random.default_rng(1), 999, units) for units in (None, np.arange(100))]
    assert p_values[0] == p_values[1]


@pytest.fixture(scope="module")
def witness() -> EquivariantNASClassifier:
    """An ordinary network that knows a task with the symmetry D4."""
    X, y = make_planted_symmetry(IMAGES, LABELS > 4, subgroup="D4", random_state=0)
    return EquivariantNASClassifier("C1", "none", **SMALL | {"max_epochs": 10}).fit(X[:1000], y[:1000])


def held_out(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    X, y = make_planted_symmetry(IMAGES, LABELS > 4, subgroup="D4", random_state=0)
    rows = 1000 + np.random.default_rng(seed).permutation(len(X) - 1000)[:n]
    return X[rows], y[rows]


@pytest.mark.parametrize(
    "copy", ["moved", *(pytest.param(c, marks=pytest.mark.exhaustive) for c in ("exact", "named"))]
)
def test_repeated_images_do_not_reject_a_true_symmetry(witness: EquivariantNASClassifier, copy: str) -> None:
    rejected = 0
    for seed in range(8):
        X, y = held_out(60, seed)
        groups = np.arange(60).repeat(5) if copy == "named" else None
        X, y = X.repeat(5, axis=0), y.repeat(5)
        if copy == "moved":
            X = np.array([np.rot90(image, i % 4) for i, image in enumerate(X)])
        if copy == "named":
            X = X + 0.3 * np.random.default_rng(seed).normal(size=X.shape)
        evidence = symmetry_evidence(witness, X, y, groups=groups, random_state=seed)
        rejected += any(e.p_value <= 0.05 for e in evidence.values())
    assert rejected <= 2


def test_copies_count_once_in_the_standard_errors(witness: EquivariantNASClassifier) -> None:
    X, y = held_out(80, 0)
    once = symmetry_evidence(witness, X, y, random_state=0)["C1"]
    often = symmetry_evidence(witness, X.repeat(4, axis=0), y.repeat(4), random_state=0)["C1"]
    assert often.score == pytest.approx(once.score)
    assert often.score_error == pytest.approx(once.score_error, rel=1e-6)
    assert often.chance_p_value <= 0.05


def test_chance_is_judged_by_units() -> None:
    """Noise that a network has learned by heart, patient by patient, is no knowledge of other patients."""
    rng = np.random.default_rng(0)
    model = EquivariantNASClassifier("C1", "none", **SMALL).fit(noise(60, 8), np.arange(60) % 2)
    low = 0
    for seed in range(20):
        X = noise(10, 8, seed + 1).repeat(12, axis=0) + 0.05 * noise(120, 8, seed + 50)
        y = rng.integers(2, size=10).repeat(12)
        evidence = symmetry_evidence(model, X, y, groups=np.arange(10).repeat(12), random_state=seed)
        low += evidence["C1"].chance_p_value <= 0.05
    assert low <= 5


def test_the_score_test_puts_a_unit_into_one_mini_batch() -> None:
    X, y = held_out(60, 0)
    model = EquivariantNASClassifier("D4", "none", **SMALL | {"max_epochs": 2}).fit(IMAGES[:200], LABELS[:200] > 4)
    groups = np.arange(60) // 3
    assert score_test(model, X, y, groups=groups, n_batches=20, random_state=0).n_batches == 20
    with pytest.raises(ValueError, match=r"20 images that are independent of each other, fewer than n_batches=21"):
        score_test(model, X, y, groups=groups, n_batches=21, random_state=0)


def test_data_keep_their_units_in_parts_and_in_pickles() -> None:
    part = DataPart(
        torch.zeros(4, 1),
        torch.zeros(4),
        torch.nn.Identity(),
        EquivariantNASRegressor.objective,
        units=np.array([0, 0, 1, 2]),
    )
    assert part.subset(np.array([1, 3])).units.tolist() == [0, 1]
    unpickled, arguments = part.__reduce__()
    assert unpickled(*arguments).units.tolist() == [0, 0, 1, 2]


# --- validation data ---


def test_given_validation_data_are_what_is_held_out() -> None:
    X, y = IMAGES[:200], LABELS[:200]
    given = (IMAGES[1000:1100], LABELS[1000:1100])
    split = split_of(EquivariantNASClassifier(), X, y, validation_data=given)
    assert split.training is split.whole
    assert len(split.whole) == 200
    np.testing.assert_array_equal(split.validation.images[:, 0].numpy(), given[0])
    model = EquivariantNASClassifier(**SMALL | {"max_epochs": 2}).fit(X, y, validation_data=given)
    assert len(model.search_.population_[0].losses) == 100


def test_searched_on_turned_and_trained_on_upright_images() -> None:
    """The validation data alone are asked which symmetries there are."""
    turned = np.array([np.rot90(image, i % 4) for i, image in enumerate(IMAGES[900:1700])])
    labels = LABELS[900:1700] % 2
    model = EquivariantNASClassifier("C4", EvolutionarySearch(1), **SMALL)
    upright = model.fit(IMAGES[:900], LABELS[:900] % 2).learned_symmetry_.evidence["C4"].p_value
    given = (
        model.fit(IMAGES[:900], LABELS[:900] % 2, validation_data=(turned, labels))
        .learned_symmetry_.evidence["C4"]
        .p_value
    )
    assert upright < 0.01 < given


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (IMAGES[:10], r"validation_data must be a tuple \(X, y\)"),
        ((IMAGES[:10, :7], LABELS[:10]), r"validation_data\[0\] has images of shape \(7, 8\)"),
        ((IMAGES[:10], LABELS[:9]), "inconsistent"),
        ((IMAGES[:10], LABELS[:10] + 50), "not seen in fit"),
        ((IMAGES[:1], LABELS[:1]), "at least two"),
    ],
    ids=["no tuple", "another shape", "another length", "other labels", "one image"],
)
def test_validation_data_that_do_not_fit_are_refused(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EquivariantNASClassifier(**SMALL).fit(IMAGES[100:300], LABELS[100:300], validation_data=given)


def test_copies_of_training_images_in_the_validation_data_are_pointed_out() -> None:
    turned = np.rot90(IMAGES[:20], 1, (1, 2))
    with pytest.warns(UserWarning, match="20 of 20 images in validation_data are copies"):
        split_of(EquivariantNASClassifier(), IMAGES[:200], LABELS[:200], validation_data=(turned, LABELS[:20]))


def test_distinct_images_are_numbered_in_order() -> None:
    first, copy_of = distinct(torch.from_numpy(IMAGES[:50])[:, None], D4)
    np.testing.assert_array_equal(first, np.arange(50))
    np.testing.assert_array_equal(copy_of, np.arange(50))


def test_moved_copies_are_units_of_the_group_that_is_asked_about(witness: EquivariantNASClassifier) -> None:
    """The witness is an ordinary network, so its own group tells nothing about moved copies."""
    X, y = held_out(40, 0)
    turned = np.concatenate([X, np.rot90(X, 1, (1, 2))])
    assert witness._held_out(turned, np.tile(y, 2), group=D4).n_units == 40
    assert witness._held_out(turned, np.tile(y, 2)).n_units == 80


def test_validation_weights_are_those_of_the_classes_in_fit() -> None:
    weights = {0: 1.0, 1: 0.0, 2: 3.0, 3: 1.0}
    rows, few = LABELS < 4, np.isin(LABELS, [0, 1, 2])
    model = EquivariantNASClassifier(class_weight=weights, **SMALL)
    given = (IMAGES[few][-60:], LABELS[few][-60:])  # without class 3, and class 1 does not count
    split = split_of(model, IMAGES[rows][:200], LABELS[rows][:200], validation_data=given)
    kept = given[1] != 1
    assert len(split.validation) == kept.sum()
    expected = np.where(given[1][kept] == 2, 3.0, 1.0)
    np.testing.assert_allclose(split.validation.sample_weights(), expected / expected.mean(), rtol=1e-6)


def test_validation_data_may_have_groups() -> None:
    given = (IMAGES[300:330], LABELS[300:330], np.arange(30) // 3)
    assert (
        split_of(EquivariantNASClassifier(), IMAGES[:200], LABELS[:200], validation_data=given).validation.n_units == 10
    )


@pytest.mark.parametrize("ask", [symmetry_evidence, score_test])
def test_targets_that_are_missing_are_no_evidence(ask: Any) -> None:
    ink = IMAGES.sum((1, 2))
    model = EquivariantNASRegressor("C4", "none", **SMALL).fit(IMAGES[:200], ink[:200])
    for missing, words in ((np.nan, "NaN"), (np.inf, "infinity")):
        with pytest.raises(ValueError, match=f"y contains {words}"):
            ask(model, IMAGES[200:300], np.where(np.arange(100) == 3, missing, ink[200:300]))
    with pytest.raises(ValueError, match="y holds text"):
        ask(model, IMAGES[200:300], ["much"] * 100)


def test_labels_of_another_type_are_unknown(witness: EquivariantNASClassifier) -> None:
    model = EquivariantNASClassifier("C4", "none", **SMALL).fit(IMAGES[:200], LABELS[:200])
    with pytest.raises(ValueError, match="not seen in fit"):
        symmetry_evidence(model, IMAGES[200:300], LABELS[200:300].astype(str))
    assert len(symmetry_evidence(model, IMAGES[200:300], LABELS[200:300].astype(float), group="C4")) == 3


def test_held_out_targets_may_be_tensors() -> None:
    model = EquivariantNASClassifier("C4", "none", **SMALL).fit(IMAGES[:200], LABELS[:200])
    targets = torch.from_numpy(LABELS[200:300])
    assert symmetry_evidence(model, IMAGES[200:300], targets, group="C4", random_state=0) == symmetry_evidence(
        model, IMAGES[200:300], LABELS[200:300], group="C4", random_state=0
    )
