"""Laws of moves that are learned: the best probabilities, what they name, and how the model is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.datasets import load_digits

from skequinas import Architecture, EquivariantNASClassifier, EquivariantNASRegressor, LearnedAugmentation
from skequinas.datasets import make_planted_symmetry
from skequinas.groups import PointGroup, pixel_elements
from skequinas.nn import RandomMoves, transform_images
from skequinas.search.augmented import probabilities
from skequinas.search.evaluation import Evaluation
from skequinas.training import CLASSIFICATION, DataPart, TrainingSettings, evaluate
from skequinas.training.augmentation import losses_under_moves, weighted_mover

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
START = Architecture(D4, 8, 1, 2, (1, 1), (3, 3), (True, False))
DIGITS, LABELS = load_digits(return_X_y=True)


@pytest.mark.parametrize("reward", [0.05, 1.0])
def test_no_probabilities_are_better(reward: float) -> None:
    losses = np.random.default_rng(0).uniform(0, 2 * reward, 8)

    def worth(p: NDArray[np.float64]) -> float:
        return float(p @ losses + reward * (p * np.log(p)).sum())

    best = probabilities(losses, reward)
    assert best.sum() == pytest.approx(1)
    found = minimize(lambda a: worth(np.exp(a) / np.exp(a).sum()), np.zeros(8), tol=1e-12)
    assert worth(best) <= found.fun + 1e-12
    np.testing.assert_allclose(np.exp(found.x) / np.exp(found.x).sum(), best, atol=1e-4)


def told(losses: list[float], **own: Any) -> LearnedAugmentation:
    """A search after its only round, whose held-out losses under the elements of D4 were these."""
    search = LearnedAugmentation(1, **own).start(START, 2.0, TrainingSettings(), 0)
    (proposal,) = search.ask()
    network = type("Network", (), {"state_dict": dict})()
    told = {"moved_losses": tuple(losses), "moved_error": 0.05}
    search.tell([Evaluation(proposal, network, np.ones(4), np.ones(4), 0.0, **told)])
    return search


@pytest.mark.parametrize("named", D4.subgroups, ids=str)
def test_the_largest_subgroup_in_the_support_is_named(named: Any) -> None:
    search = told([0.1 if g in named else 0.9 for g in D4.elements])
    assert search.supported_ == named
    (last,) = search.ask()
    assert last.architecture.symmetry == named
    assert last.parent == 0
    assert last.moves == tuple((g in named) / named.order for g in D4.elements)
    assert sum(search.probabilities_.values()) == pytest.approx(1)


def test_a_support_that_is_no_group_names_what_it_holds_of_one() -> None:
    rotation, mirror = 0.1, 0.9
    assert told([rotation, rotation, mirror, mirror, *[mirror] * 4]).supported_.name == "C1"  # a quarter turn alone
    assert told([rotation, rotation, rotation, mirror, *[mirror] * 4]).supported_.name == "C2"
    assert told([rotation + 0.3, *[rotation] * 7]).supported_.name == "D4"  # the identity belongs to every group
    nearly = [0.1, 0.1 + 0.2 * np.log(2) - 1e-9, *[9.0] * 6]
    assert told(nearly, reward=4.0).probabilities_["rotation(90)"] > 0.33
    assert told(nearly, reward=3.0).probabilities_["rotation(90)"] < 0.33
    two = [0.1, 9.0, 9.0, 9.0, 0.2, 9.0, 0.1, 9.0]  # of two mirrors that are borne alone the better one
    assert told(two).supported_.name == "D1(90)"


def test_the_first_round_prefers_images_as_they_are() -> None:
    (first,) = LearnedAugmentation().start(START, 2.0, TrainingSettings(), 0).ask()
    assert first.moves == (0.5 + 0.5 / 8, *[0.5 / 8] * 7)
    assert first.architecture.symmetry.order == 1


def test_images_are_moved_as_often_as_probabilities_say() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    wanted = [0.4, 0.0, 0.3, 0.0, 0.2, 0.1, 0.0, 0.0]
    moved = weighted_mover(D4, wanted, 0)(image.expand(4000, 1, 4, 4))
    copies = torch.cat([transform_images(image, D4, g) for g in pixel_elements(D4)])
    shares = [(moved == copy).flatten(1).all(1).float().mean().item() for copy in copies]
    np.testing.assert_allclose(shares, wanted, atol=0.03)
    assert [share > 0 for share in shares] == [p > 0 for p in wanted]
    evenly = RandomMoves(D4.whole, 0)(image.expand(4000, 1, 4, 4))
    assert 0.1 < (evenly == copies[3]).flatten(1).all(1).float().mean() < 0.15


def test_losses_under_moves_are_those_of_moved_images() -> None:
    images = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data = DataPart(images, torch.arange(20) % 2, torch.nn.Identity(), CLASSIFICATION)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    for g, loss in zip(pixel_elements(D4), losses_under_moves(network, data, D4)[0], strict=True):
        moved = DataPart(transform_images(images, D4, g), data.targets, data.preprocess, CLASSIFICATION)
        assert loss == pytest.approx(evaluate(network, moved)[0].mean(), rel=1e-5)
    assert 0.01 < losses_under_moves(network, data, D4)[1] < 1.0


@pytest.mark.parametrize("planted", ["C4", pytest.param("D1(90)", marks=pytest.mark.exhaustive)])
def test_a_planted_symmetry_is_learned_and_built_in(planted: str) -> None:
    chosen = np.isin(LABELS, (2, 4, 5, 7))  # digits without a symmetry of their own
    X, y = make_planted_symmetry(DIGITS[chosen].reshape(-1, 8, 8), subgroup=planted, random_state=0)
    search = LearnedAugmentation(3, epochs_per_round=8)
    model = EquivariantNASClassifier("D4", search, max_epochs=4, random_state=0).fit(X, y)
    learned = model.learned_symmetry_
    assert learned.group == planted
    assert learned.evidence is None
    assert model.architecture_.averaged == D4.subgroup(planted)
    for g in D4.subgroup(planted).elements:
        moved = transform_images(torch.from_numpy(X), D4, g).numpy()
        np.testing.assert_allclose(model.predict_proba(moved), model.predict_proba(X), atol=1e-5)
    rows = model.search_results_
    assert len(rows["loss rotation(90)"]) == 4
    total = sum(rows[f"probability {D4.element_name(g)}"] for g in D4.elements)
    np.testing.assert_allclose(total, 1)
    assert rows["probability mirror(45)"][-1] == 0


def test_a_search_that_ends_early_names_what_it_knows() -> None:
    chosen = np.isin(LABELS, (2, 4, 5, 7))
    X, y = make_planted_symmetry(DIGITS[chosen].reshape(-1, 8, 8), subgroup="C4", random_state=0)
    model = EquivariantNASClassifier(
        "D4", LearnedAugmentation(3, epochs_per_round=8), max_epochs=1, random_state=0,
        callback=lambda progress: progress.stage == "search" and progress.generation == 3,
    ).fit(X, y)  # fmt: skip
    assert len(model.search_results_["candidate"]) == 3
    assert model.learned_symmetry_.group == "C4"


def test_small_breaks_of_numbers_are_seen() -> None:
    X = np.random.default_rng(0).normal(size=(800, 8, 8)).astype(np.float32)
    whole = (X * (np.hypot(*np.mgrid[-3.5:4, -3.5:4]) < 3)).sum((1, 2))  # the same under D4
    broken = X[:, :4].sum((1, 2)) - X[:, 4:].sum((1, 2))  # under the left-right mirror alone
    y = whole / whole.std() + 0.25 * broken / broken.std()
    model = EquivariantNASRegressor("D4", "augmentation", max_epochs=10, random_state=0).fit(X, y)
    assert model.learned_symmetry_.group == "D1(90)"


def test_what_it_cannot_start_with_is_named() -> None:
    with pytest.raises(ValueError, match=r"group='C3' has no element that maps pixels to pixels"):
        EquivariantNASClassifier("C3", "augmentation", width=12).fit(DIGITS[:50], LABELS[:50])
    start = Architecture(D4, 8, 1, 2, (1, 1), (3, 3), (True, False), constraints=("D4", "C4", "C4"))
    with pytest.raises(ValueError, match=r"search='augmentation' takes all away"):
        LearnedAugmentation().start(start, 1.0, TrainingSettings(), 0)
    with pytest.raises(ValueError, match="The 'reward' parameter"):
        LearnedAugmentation(reward=0).start(START, 1.0, TrainingSettings(), 0)
