"""Learning curves with a symmetry and without: which images each fit sees, and what is made of the errors."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from skequinas import (
    EquivariantNASClassifier,
    EquivariantNASRegressor,
    SymmetryGain,
    SymmetryGainDisplay,
    symmetry_gain,
)

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS, LABELS = load_digits(return_X_y=True)
WAYS = ["C4", "C1", "C1, moved images"]


def curves(exponents: dict[str, float], n_repeats: int = 3) -> SymmetryGain:
    n = np.array([100, 300, 1000])
    factors = np.exp(np.random.default_rng(0).normal(0, 0.05, n_repeats))
    errors = {way: (2 * n**-b)[:, None] * factors for way, b in exponents.items()}
    return SymmetryGain("C4", tuple(n), errors, errors)


def test_a_power_law_is_found_again() -> None:
    gain = curves({"C4": 0.6, "C1": 0.3})
    for way, exponent in (("C4", 0.6), ("C1", 0.3)):
        a, b, spread = gain.power_law(way)
        assert (a, b) == (pytest.approx(2, rel=0.1), pytest.approx(exponent))
        assert spread < 1e-9
    middle = (100 * 300 * 1000) ** (1 / 3)
    assert gain.saved("C1") == pytest.approx(middle ** (0.6 / 0.3) / middle)
    assert np.isnan(curves({"C4": 0.6}, 1).power_law("C4")[2])
    assert curves({"C4": 0.6, "C1": 0.0}).saved("C1") == np.inf
    assert curves({"C4": 0.6, "C1": -0.1}).saved("C1") == np.inf
    frame = gain.to_frame()
    assert frame.loc[("C4", 300), "error"] == pytest.approx(gain.errors["C4"][1].mean())
    assert str(gain).splitlines()[0] == "n = 100, 300, 1,000"
    assert "n^-0.60" in str(gain)


class _Recording(EquivariantNASClassifier):
    """Says what it was fitted to and asked about."""

    seen: list[tuple[str, str, Any, NDArray[Any]]] = []  # noqa: RUF012

    def fit(self, X: Any, y: Any, groups: Any) -> Any:  # type: ignore[override]
        assert len(groups) == len(y)
        self.seen.append((str(self.group), str(self.augment), self.search, np.array(X)[:, 0]))
        self.classes_ = np.unique(y)
        return self

    def score(self, X: Any, y: Any) -> float:  # type: ignore[override]
        self.seen.append(("", "", "", np.array(X)[:, 0]))
        return 0.5


def test_all_ways_see_the_same_images_and_no_one_its_test_images() -> None:
    _Recording.seen.clear()
    X = np.random.default_rng(0).normal(size=(200, 64))
    X[:, 0] = np.arange(200)
    groups = np.arange(200) // 2
    options: dict[str, Any] = {"train_sizes": (20, 0.5, 1.0), "n_repeats": 2, "groups": groups, "random_state": 0}
    gain = symmetry_gain(_Recording("C4", augment="continuous"), X, np.arange(200) // 2 % 2, **options)
    assert gain.n_images == (20, 75, 150)
    fits, tests = _Recording.seen[::2], _Recording.seen[1::2]
    assert [fit[:3] for fit in fits[::6]] == [("C4", "none", "none"), ("C1", "none", "none"), ("C4", "group", "none")]
    for (*_, rows), (*_, test) in zip(fits, tests, strict=True):
        assert not set(rows // 2) & set(test // 2)  # nor others of a group
        assert len(test) == 50
    for i in range(6):
        assert len({tuple(fit[3]) for fit in fits[i::6]}) == 1
    for repeat in range(2):  # fewer images are some of more
        assert set(fits[repeat][3]) < set(fits[repeat + 2][3]) < set(fits[repeat + 4][3])
    assert set(tests[0][3]) != set(tests[1][3])
    assert np.bincount(fits[0][3].astype(int) // 2 % 2).tolist() == [10, 10]  # both classes alike


def test_copies_are_on_one_side() -> None:
    _Recording.seen.clear()
    base = np.random.default_rng(0).normal(size=(40, 8, 8))
    X = np.concatenate([np.rot90(base, k, (1, 2)) for k in range(4)])
    X[:, 0, 0] = X[:, 0, 7] = X[:, 7, 0] = X[:, 7, 7] = np.tile(np.arange(40), 4)
    symmetry_gain(_Recording("C4"), X, np.tile(np.arange(40) % 2, 4), train_sizes=(0.5, 1.0), n_repeats=1)
    fit, test = _Recording.seen[2][3][:, 0], _Recording.seen[3][3][:, 0]
    assert len(fit) == 120
    assert not set(fit) & set(test)


def test_a_learned_symmetry_that_holds_saves_images() -> None:
    turns = np.random.default_rng(0).integers(4, size=len(DIGITS))
    X = np.stack([np.rot90(x, k) for x, k in zip(DIGITS.reshape(-1, 8, 8), turns, strict=True)])
    model = EquivariantNASClassifier("C4", "none", max_epochs=10, batch_size=20, random_state=0)
    model.fit(X[:100], LABELS[:100])
    gain = symmetry_gain(model, X[100:700], LABELS[100:700], train_sizes=(100, 300), n_repeats=1, random_state=0)
    assert list(gain.errors) == WAYS
    assert (gain.errors["C4"].mean(1) < gain.errors["C1"].mean(1)).all()
    assert gain.saved("C1") > 1.5
    assert "nan" not in str(gain)  # one repeat tells of no spread
    assert (gain.seconds["C4"] > 0).all()


def test_numbers_are_measured_by_what_of_their_variance_is_left() -> None:
    model = EquivariantNASRegressor("D1(90)", "none", max_epochs=2)
    display = SymmetryGainDisplay.from_estimator(
        model, DIGITS[:200], DIGITS[:200].sum(1), train_sizes=(0.3, 1.0), n_repeats=1, random_state=0
    )
    assert list(display.curves_) == ["D1(90)", "C1", "C1, moved images"]
    assert display.ax_.get_xscale() == display.ax_.get_yscale() == "log"
    assert all(0 < e < 5 for errors in display.gain.errors.values() for e in errors.ravel())
    display.figure_.canvas.draw()
    labels = [label.get_text() for label in display.ax_.yaxis.get_ticklabels(which="both")]
    low, high = display.ax_.get_ylim()
    ticks = [*display.ax_.get_yticks(), *display.ax_.get_yticks(minor=True)]
    assert any(text and low < tick < high for text, tick in zip(labels, ticks, strict=True))  # within a decade too
    plt.close(display.figure_)


def test_errors_say_what_to_do() -> None:
    model = EquivariantNASClassifier("C4")
    with pytest.raises(ValueError, match="The symmetry in question is C1"):
        symmetry_gain(EquivariantNASClassifier("C1"), DIGITS, LABELS)
    with pytest.raises(ValueError, match=r"train_sizes=\(100, 50\) are \(100, 50\) images; they must grow, .*to 1347"):
        symmetry_gain(model, DIGITS, LABELS, train_sizes=(100, 50))
    with pytest.raises(ValueError, match=r"train_sizes=\(0.5, 5000\)"):
        symmetry_gain(model, DIGITS, LABELS, train_sizes=(0.5, 5000))
    with pytest.raises(ValueError, match="architecture='paper' has other channels for other groups"):
        symmetry_gain(EquivariantNASClassifier("C4", architecture="paper"), DIGITS, LABELS)
    with pytest.raises(ValueError, match="n_repeats=0 must be at least 1"):
        symmetry_gain(model, DIGITS, LABELS, n_repeats=0)
