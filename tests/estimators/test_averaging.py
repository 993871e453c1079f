"""The second way to a symmetric model: an ordinary network, trained on moved images and averaged over the moves."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from skequinas import EquivariantNASClassifier, EquivariantNASRegressor, load, save, score_test
from skequinas.search import DifferentiableSearch, EvolutionarySearch, RandomSearch, Search

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT: dict[str, Any] = {"max_epochs": 1, "random_state": 0, "width": 8}
LONGER = SHORT | {"max_epochs": 12}  # long enough for the search to learn something


def rings(n: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rings of two sizes at random places, with noise: D4 by their making."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    at = np.arange(13) - 6
    x0, y0 = rng.integers(-2, 3, size=(2, n, 1, 1))
    radius = np.hypot(at - x0, at[:, None] - y0)
    X = np.exp(-2 * (radius - (2 + y[:, None, None])) ** 2) + 0.2 * rng.normal(size=(n, 13, 13))
    return X.astype(np.float32), y


@pytest.mark.parametrize("search", ["evolutionary", "differentiable"])
def test_a_search_tries_both_ways_and_keeps_the_better(search: str) -> None:
    X, y = rings(150)
    model = EquivariantNASClassifier("D4", search, **LONGER).fit(X, y)
    results = model.search_results_
    (second,) = [i for i, name in enumerate(results["constraints"]) if "averaged" in name]
    again = model.search_.again_
    n_after = 0 if again is None else 1
    assert second == len(results["candidate"]) - 1 - n_after, "it comes when the symmetry is known"
    assert (results["parent"][second:] == -1).all()
    losses = results["validation_loss"]
    ordinary = model.search_.ordinary_
    assert ordinary is not None
    assert ordinary.loss == losses[second]
    chosen = model.search_.result()
    assert chosen is not None
    assert chosen.architecture == model.architecture_
    if ordinary.loss > max(e.loss for e in model.search_.population_):
        assert chosen is not ordinary
    if again is not None:
        assert chosen in (ordinary, again), "they are compared with each other, and with no shorter training"
        assert results["epochs"][-1] == results["epochs"][second]


@pytest.mark.parametrize("better", ["ordinary", pytest.param("constrained", marks=pytest.mark.exhaustive)])
def test_a_clearly_lower_held_out_loss_decides(better: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Search.tell

    def tell(self: Search, evaluations: Any) -> None:
        for e in evaluations:
            if e.proposal.ordinary:
                e.losses[:] = 0.0 if better == "ordinary" else 10.0
        whole(self, evaluations)

    monkeypatch.setattr(Search, "tell", tell)
    X, y = rings(150)
    model = EquivariantNASClassifier("D4", EvolutionarySearch(1, level=0.001), **LONGER).fit(X, y)
    averaged = model.architecture_.averaged
    assert model.learned_symmetry_.group == "D4"
    assert (averaged is not None) == (better == "ordinary")
    assert model.learned_symmetry_.averaged == (better == "ordinary")
    assert ("averaged over them" in str(model.learned_symmetry_)) == (better == "ordinary")
    assert ("elements of D4" in model.augmentation_) == (better == "ordinary")


@pytest.mark.parametrize(
    ("search", "settings"),
    [
        (EvolutionarySearch(1, guided=False), {}),
        (RandomSearch(1), {}),
        (DifferentiableSearch(discretize=False), {}),
        (EvolutionarySearch(1), {"averaging": "none"}),
        (EvolutionarySearch(1), {"augment": "group"}),
        (EvolutionarySearch(1), {"architecture": "plain", "width": None}),
    ],
    ids=str,
)
def test_it_is_not_tried_where_it_has_no_place(search: Any, settings: dict[str, Any]) -> None:
    X, y = rings(100)
    model = EquivariantNASClassifier("C2", search, **LONGER | settings).fit(X, y)
    assert model.search_.ordinary_ is None
    assert model.architecture_.averaged is None


def test_small_images_have_the_first_way_alone() -> None:
    X, y = rings(100)
    search = EvolutionarySearch(1)
    assert EquivariantNASClassifier("C2", search, **LONGER).fit(X[:, 1:12, 1:12], y).search_.ordinary_ is None
    assert EquivariantNASClassifier("C2", search, **LONGER).fit(X[:, :12, :12], y).search_.ordinary_ is not None


@pytest.mark.parametrize("search", ["none", "evolutionary"])
def test_always_averaged_predictions_are_those_of_the_moved_images(search: str, tmp_path: Path) -> None:
    X, y = rings(120)
    model = EquivariantNASRegressor("D4", search, averaging="always", **SHORT).fit(X, y.astype(float))
    assert set(model.architecture_.constraint_names) == {"C1"}
    learned = model.learned_symmetry_
    assert learned.averaged == (learned.group != "C1")
    if search == "none":
        assert learned.group == "D4"
        assert model.augmentation_ == "elements of D4"
    expected = model.predict(X)
    for g in model.architecture_.symmetry.elements:
        group = model.architecture_.group
        turns, flip = (group.angle(g) * (2 if group.is_mirror(g) else 1) / 90), group.is_mirror(g)
        moved = np.rot90(X[:, ::-1] if flip else X, int(turns), (1, 2))
        np.testing.assert_allclose(model.predict(moved), expected, rtol=1e-4, atol=1e-5)
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.predict(X), expected)
    assert (str(again.learned_symmetry_), again.learned_symmetry_.averaged) == (str(learned), learned.averaged)


def test_moves_alone_make_an_ordinary_network_that_is_not_averaged() -> None:
    X, y = rings(120)
    model = EquivariantNASClassifier("D4", "none", augment="group", **SHORT).fit(X, y)
    assert model.augmentation_ == "elements of D4"
    assert model.architecture_.symmetry.name == "C1"
    assert model.learned_symmetry_.group == "C1"
    assert max(model.learned_symmetry_.measured_change.values()) > 1e-3


def test_moved_images_teach_an_ordinary_network_what_it_would_not_know() -> None:
    X, y = rings(300)
    marked = np.where((y[:, None, None] == 1) & (np.arange(13) == 0), X + 3, X)  # the left edge tells the class
    options: dict[str, Any] = SHORT | {"max_epochs": 8}
    upright = EquivariantNASClassifier("C1", "none", augment="none", **options).fit(marked, y)
    moved = EquivariantNASClassifier("D4", "none", augment="group", **options).fit(marked, y)
    turned = marked[:, :, ::-1]
    assert upright.score(marked, y) > 0.95
    assert moved.score(turned, y) > 0.95
    assert moved.score(turned, y) > upright.score(turned, y) + 0.05


def test_the_same_seed_makes_the_same_model() -> None:
    X, y = rings(80)
    first, second = (EquivariantNASClassifier("C4", "none", averaging="always", **SHORT).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))


def test_a_score_test_of_constraints_needs_some() -> None:
    X, y = rings(80)
    model = EquivariantNASClassifier("C4", "none", averaging="always", **SHORT).fit(X[:40], y[:40])
    with pytest.raises(ValueError, match="ordinary network averaged over C4.*averaging='none'"):
        score_test(model, X[40:], y[40:])


def test_where_nothing_can_be_averaged_it_is_refused() -> None:
    X, y = rings(40)
    with pytest.raises(ValueError, match="averaging='always' needs a group that maps pixels to pixels"):
        EquivariantNASClassifier("C8", averaging="always", **SHORT).fit(X, y)
    with pytest.raises(ValueError, match="averaging"):
        EquivariantNASClassifier(averaging=True, **SHORT).fit(X, y)


def test_an_export_is_averaged_too() -> None:
    X, y = rings(60)
    model = EquivariantNASClassifier("D4", "none", averaging="always", **SHORT).fit(X, y)
    network = model.to_torch()
    x = torch.from_numpy(X)[:, None]
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(x.rot90(1, (2, 3))), rtol=1e-4, atol=1e-5)


@pytest.fixture
def ordinary_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ordinary network has no loss on held-out images, whatever it does."""
    whole = Search.tell

    def tell(self: Search, evaluations: Any) -> None:
        for e in evaluations:
            if e.proposal.ordinary:
                e.losses[:] = 0.0
        whole(self, evaluations)

    monkeypatch.setattr(Search, "tell", tell)


@pytest.mark.usefixtures("ordinary_wins")
def test_saved_and_loaded_the_search_knows_which_way_it_was() -> None:
    X, y = rings(120)
    model = EquivariantNASClassifier("D4", EvolutionarySearch(1, level=0.001), **LONGER).fit(X, y)
    assert model.architecture_.averaged is not None
    again = pickle.loads(pickle.dumps(model))
    for search in (model.search_, again.search_):
        chosen = search.result()
        assert chosen is not None
        assert chosen.architecture == model.architecture_


@pytest.mark.usefixtures("ordinary_wins")
def test_a_warm_start_may_have_more_images_and_another_setting() -> None:
    X, y = rings(220)
    options = LONGER | {"warm_start": True, "search": EvolutionarySearch(1, level=0.001)}
    model = EquivariantNASClassifier("D4", averaging="none", **options).fit(X[:80], y[:80])
    assert model.architecture_.averaged is None
    model.set_params(averaging="auto").fit(X[:150], y[:150])
    assert model.architecture_.averaged is not None
    n = len(model.search_results_["candidate"])
    kept = model.search_.ordinary_
    assert kept is not None
    model.fit(X, y)
    assert len(model.search_results_["candidate"]) == n, "nothing is tried twice"
    again = model.search_.ordinary_
    assert again is not None
    assert len(again.losses) == len(model.search_.population_[0].losses) > len(kept.losses)
    assert again.losses.min() > 0, "losses on the images that are held out now"
    model.set_params(averaging="none").fit(X, y)
    assert model.architecture_.averaged is None


def test_a_budget_without_time_for_both_leaves_one() -> None:
    X, y = rings(400)
    options = SHORT | {"width": 48, "max_epochs": 60}
    hurried = EquivariantNASClassifier("D4", time_budget=2, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hurried.fit(X, y)
    assert not hurried.search_.averaging_
    assert hurried.search_.ordinary_ is None


@pytest.mark.parametrize("setting", [{"averaging": "always"}, {"augment": "group"}], ids=str)
def test_a_mixture_is_not_replaced(setting: dict[str, str]) -> None:
    X, y = rings(40)
    with pytest.raises(ValueError, match="DifferentiableSearch.*discretize=True"):
        EquivariantNASClassifier("C2", DifferentiableSearch(discretize=False), **SHORT | setting).fit(X, y)
