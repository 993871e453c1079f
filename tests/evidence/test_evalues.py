"""Laws of e-values, and of the test that may be looked at at any time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from skequinas import EquivariantNASClassifier, EquivariantNASRegressor, SequentialSymmetryTest, symmetry_evidence
from skequinas.datasets import make_planted_symmetry
from skequinas.evidence import adjusted_e_values, log_e_values
from skequinas.evidence.evalues import mean_of_products
from skequinas.groups import PointGroup

pytestmark = pytest.mark.usefixtures("one_thread")

D4, C4, C2 = (PointGroup.from_name(name) for name in ("D4", "C4", "C2"))


def test_the_mean_of_an_image_and_its_copies_is_one() -> None:
    """Whichever copy is observed, with equal probability: the expectation is a sum."""
    logs = 2 * np.random.default_rng(0).standard_normal((3, 4, 1))
    for h in C4.subgroups[:-1]:
        copies = [np.roll(logs, -int(k), axis=1) for k in h.elements]
        mean = np.mean([np.exp(log_e_values(moved, C4)[h]) for moved in copies], axis=0)
        assert mean == pytest.approx(1.0)


def test_units_are_one_image_with_the_product_of_probabilities() -> None:
    logs = np.random.default_rng(1).standard_normal((2, 4, 6))
    units = np.array([0, 0, 1, 2, 2, 2])
    joined = np.stack([logs[..., units == u].sum(-1) for u in range(3)], -1)
    one, other = log_e_values(logs, C4, units=units), log_e_values(joined, C4)
    assert all(one[h] == pytest.approx(other[h]) for h in one)


def test_a_true_symmetry_is_never_reached_more_often_than_the_level_says() -> None:
    rng, n, highest = np.random.default_rng(2), 60, []
    for _ in range(500):
        scales = np.array([0.5, 1.0, 2.0])[:, None, None]
        logs = scales * rng.standard_normal((1, 2, n))  # neither copy is more likely than the other
        products = np.cumsum(np.log(2) + logs[:, 0] - np.logaddexp(logs[:, 0], logs[:, 1]), axis=1)
        highest.append(max(mean_of_products(products[:, i]) for i in range(n)))
    for level in (0.05, 0.1, 0.2):
        assert np.mean(np.array(highest) >= 1 / level) <= level + 3 * np.sqrt(level / 500)


def test_each_is_adjusted_by_the_least_mean_of_a_set_with_it() -> None:
    values = {"a": 100.0, "b": 4.0, "c": 0.1}
    adjusted = adjusted_e_values(values)
    assert adjusted["a"] == pytest.approx(min(100, 100.1 / 2, 104.1 / 3))
    assert adjusted["b"] == pytest.approx(min(4, 4.1 / 2))
    assert adjusted["c"] == 0.1
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = dict(enumerate(rng.exponential(size=5)))
        found = adjusted_e_values(drawn)
        for k in drawn:
            others = [v for j, v in drawn.items() if j != k]
            subsets = [[v for i, v in enumerate(others) if mask >> i & 1] for mask in range(16)]
            assert found[k] == pytest.approx(min(np.mean([drawn[k], *s]) for s in subsets))


def test_large_products_are_numbers() -> None:
    assert np.isfinite(mean_of_products(np.array([1e5, 2.0])))
    assert all(np.isfinite(e) for e in adjusted_e_values({"a": 1.7e308, "b": 1.7e308}).values())


@pytest.fixture(scope="module")
def upright() -> tuple[EquivariantNASClassifier, np.ndarray, np.ndarray]:
    X, y = load_digits(n_class=4, return_X_y=True)
    X = X.astype(np.uint8).reshape(-1, 8, 8)
    return EquivariantNASClassifier("C1", "none", max_epochs=6, random_state=0).fit(X[:400], y[:400]), X[400:], y[400:]


def test_batches_give_the_evidence_of_all_images_together(upright) -> None:
    model, X, y = upright
    test = SequentialSymmetryTest()
    for start in range(0, len(X), 80):
        test.update(model, X[start : start + 80], y[start : start + 80])
    assert test.n_images_ == len(X)
    whole = symmetry_evidence(model, X, y, random_state=0)
    assert test.e_values_ == pytest.approx({name: e.e_value for name, e in whole.items()}, rel=1e-3)
    assert "C4" in test.rejected(1e-3)
    assert test.e_values_["C1"] == 1
    assert list(test.to_frame().index) == [h.name for h in D4.subgroups]
    assert f"after {len(X)} images" in repr(test)


def test_images_that_were_seen_are_refused_and_change_nothing(upright) -> None:
    model, X, y = upright
    test = SequentialSymmetryTest("C4").update(model, X[:60], y[:60])
    before = dict(test.e_values_)
    with pytest.raises(ValueError, match="20 images that were in an earlier update"):
        test.update(model, np.rot90(X[40:100], axes=(1, 2)), y[40:100])
    assert (test.e_values_, test.n_images_) == (before, 60)
    with pytest.raises(ValueError, match="level=0"):
        test.rejected(0)
    assert "no evidence yet" in repr(SequentialSymmetryTest())


def test_a_regression_learns_its_confidence_from_the_first_batch() -> None:
    X, _ = load_digits(return_X_y=True)
    images, targets = make_planted_symmetry(
        X.reshape(-1, 8, 8), subgroup="D1(0)", group="D2", regression=True, random_state=0
    )
    model = EquivariantNASRegressor("C1", "none", max_epochs=8, random_state=0).fit(images[:600], targets[:600])
    test = SequentialSymmetryTest("D2")
    for start in range(600, 1000, 100):
        test.update(model, images[start : start + 100], targets[start : start + 100])
    assert set(test.rejected(0.01)) == {"D2", "C2", "D1(90)"}
    assert test.e_values_["D1(0)"] < 20
