"""How sure a verdict is, by resamples."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_digits

from skequinas import EquivariantNASClassifier, SymmetryBootstrap, bootstrap_symmetry
from skequinas.datasets import make_planted_symmetry
from skequinas.estimators import bootstrap

pytestmark = pytest.mark.usefixtures("one_thread")

X, y = load_digits(return_X_y=True)
IMAGES, LABELS = make_planted_symmetry(X[:600].reshape(-1, 8, 8), subgroup="C2", group="C4", random_state=0)


def model(**own: object) -> EquivariantNASClassifier:
    return EquivariantNASClassifier("C4", max_epochs=4, **own)  # type: ignore[arg-type]


def test_the_planted_group_is_named_most_often_whatever_n_jobs() -> None:
    found = bootstrap_symmetry(model(), IMAGES, LABELS, n=4, random_state=0)
    assert next(iter(found.shares)) == "C2"
    assert sum(found.shares.values()) == pytest.approx(1)
    with joblib.parallel_config("threading"):
        assert bootstrap_symmetry(model(), IMAGES, LABELS, n=4, random_state=0, n_jobs=2) == found


def test_units_are_drawn_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def found(model: object, X: object, y: object, weights: np.ndarray, groups: object) -> tuple[str, str]:  # type: ignore[type-arg]
        seen.append(weights)
        return "C4", "C4"

    monkeypatch.setattr(bootstrap, "_found", found)
    groups, own = np.repeat(np.arange(200), 3), np.arange(1, 601)
    bootstrap_symmetry(model(), IMAGES, LABELS, n=300, groups=groups, sample_weight=own, random_state=0)
    counts = np.array(seen) / own
    assert (counts.reshape(-1, 200, 3) == counts.reshape(-1, 200, 3)[..., :1]).all()
    assert (counts.sum(1) == 600).all()
    assert (counts == 0).mean() == pytest.approx(np.exp(-1), abs=0.01)
    assert counts.mean(0) == pytest.approx(1, abs=0.3)


def test_what_it_says() -> None:
    found = SymmetryBootstrap("D4", ("C4",) * 8 + ("C1", "D4"), tuple(range(10)))
    assert list(found.shares.items()) == [("C4", 0.8), ("D4", 0.1), ("C1", 0.1)]
    assert found.interval("C4") == pytest.approx((0.4902, 0.9433), abs=1e-4)  # as statsmodels has it
    assert found.interval("C2") == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert str(found) == "C4 is found on 80% of 10 resamples (95 %: 49% to 94%), D4 on 10%, C1 on 10%."
    table = found.to_frame()
    assert table["count"].sum() == 10
    assert table.loc["C4", "share"] == 0.8
    assert len(table) == 10


def test_the_model_stays_as_it_is_and_must_search() -> None:
    asked = model(random_state=5)
    before = asked.get_params()
    assert bootstrap_symmetry(asked, IMAGES[:99], LABELS[:99], n=1, random_state=0).seeds != (5,)
    assert asked.get_params() == before
    with pytest.raises(ValueError, match="search='none', which finds nothing"):
        bootstrap_symmetry(model(search="none"), IMAGES, LABELS)
    with pytest.raises(ValueError, match="n=0 must be at least 1"):
        bootstrap_symmetry(model(), IMAGES, LABELS, n=0)
