"""Random moves of training images: what they do, and that held-out images say which they bear."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skequinas import EquivariantNASClassifier, EquivariantNASRegressor
from skequinas.nn import RandomShifts
from skequinas.training import CLASSIFICATION, DataPart, augmentation
from skequinas.training.augmentation import Moves, borne_moves


def stripes(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Upright or level stripes at any phase, with noise, a tenth with a wrong label: shifts change nothing."""
    rng = np.random.default_rng(seed)
    y, phase = rng.integers(2, size=n), rng.uniform(0, 2 * np.pi, n)
    wave = np.sin(np.arange(12) * np.pi / 3 + phase[:, None])
    X = np.where(y[:, None, None] == 0, wave[:, :, None], wave[:, None, :])
    return X + 0.3 * rng.normal(size=X.shape), np.where(rng.random(n) < 0.1, 1 - y, y)


def squares(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A small square in the centre or a pixel beside it, and noise, a tenth with a wrong label: shifts change all."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    X = 0.1 * rng.normal(size=(n, 12, 12))
    for image, label in zip(X, y, strict=True):
        image[5:7, 5 + label : 7 + label] += 1
    return X, np.where(rng.random(n) < 0.1, 1 - y, y)


class Levels(nn.Module):
    """Says class 0 where the rows of an image differ more than its columns."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.mean((1, 3)).var(1), x.mean((1, 2)).var(1)
        return 3 * torch.stack([rows, columns], 1)


class Place(nn.Module):
    """Says class 1 where the square lies one pixel to the right."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.stack([x[:, 0, 5:7, 5].mean(1), x[:, 0, 5:7, 7].mean(1)], 1)


def part(X: NDArray[np.float64], y: NDArray[np.int64]) -> DataPart:
    return DataPart(torch.from_numpy(X)[:, None].float(), torch.from_numpy(y), nn.Identity(), CLASSIFICATION)


SHIFT, TURN = Moves(shift=1), Moves(turns=True)


def test_moves_that_the_data_hold_already_are_borne_and_others_are_not() -> None:
    assert borne_moves(Levels(), part(*stripes(200)), [SHIFT, TURN], 0) == SHIFT
    assert borne_moves(Place(), part(*squares(200)), [SHIFT], 0) == Moves()


@pytest.mark.parametrize(
    ("rise", "spread", "borne"),
    [
        (0.09, 0.0, True),
        (0.15, 0.0, False),
        (0.15, 0.2, False),
        (0.15, 2.0, True),
        (0.21, 5.0, False),
        (-0.3, 0.0, True),
    ],
)
def test_the_loss_may_rise_by_a_tenth_or_a_fifth_within_doubt(
    rise: float, spread: float, borne: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, signs = np.ones(400), np.tile([1.0, -1.0], 200)
    answers = iter([(losses, losses), (losses + rise + spread * signs, losses)])
    monkeypatch.setattr(augmentation, "evaluate", lambda *_: next(answers))
    assert borne_moves(Levels(), part(*stripes(400)), [SHIFT], 0) == (SHIFT if borne else Moves())


def test_each_candidate_is_asked_about_by_itself() -> None:
    data = part(*stripes(200))
    assert borne_moves(Levels(), data, [TURN, SHIFT], 0) == SHIFT
    assert borne_moves(Levels(), data, [], 0) == Moves()


def test_a_shift_moves_each_image_by_its_own_number_of_pixels_and_mirrors_at_the_edge() -> None:
    images = torch.arange(25.0).reshape(1, 1, 5, 5).repeat(200, 1, 1, 1)
    moved = RandomShifts(2, 0)(images)
    padded = nn.functional.pad(images[:1], (2,) * 4, mode="reflect")[0, 0]
    allowed = {tuple(padded[i : i + 5, j : j + 5].flatten().tolist()) for i in range(5) for j in range(5)}
    found = {tuple(image.flatten().tolist()) for image in moved}
    assert found == allowed
    assert torch.equal(moved, RandomShifts(2, 0)(images))
    assert not torch.equal(moved, RandomShifts(2, 1)(images))
    assert RandomShifts(3, 0)(images[:, :, :2, :2]).shape == (200, 1, 2, 2)


def test_nothing_to_do_is_nothing() -> None:
    assert Moves().start(0) is None
    assert [str(m) for m in (Moves(), SHIFT, Moves(2, True, True))] == [
        "nothing",
        "shifts by up to 1 pixel",
        "turns by any angle, and mirrors; shifts by up to 2 pixels",
    ]


@pytest.mark.parametrize(("make", "found"), [(stripes, "shifts by up to 1 pixel"), (squares, "nothing")])
def test_a_fit_moves_the_images_of_its_final_training_as_the_held_out_ones_bear(make: object, found: str) -> None:
    X, y = make(240)  # type: ignore[operator]
    options = {"group": "D1(90)", "width": 16, "max_epochs": 12, "learning_rate": 0.01, "random_state": 0}
    options["averaging"] = "none"  # an ordinary network would be trained on mirrored images besides
    auto, plain = (EquivariantNASClassifier(augment=augment, **options).fit(X, y) for augment in ("auto", "none"))
    assert auto.augmentation_ == found
    assert plain.augmentation_ == "nothing"
    for name in ("validation_loss", "constraints"):  # the search never moves any
        assert list(auto.search_results_[name]) == list(plain.search_results_[name])
    assert np.array_equal(auto.predict_proba(X), plain.predict_proba(X)) == (found == "nothing")
    assert auto.score(*make(200, 1)) > 0.8  # type: ignore[operator]


def test_without_a_search_and_for_rows_that_are_no_images_nothing_is_moved() -> None:
    X, y = stripes(100)
    assert EquivariantNASClassifier("D1(90)", "none", max_epochs=1, random_state=0).fit(X, y).augmentation_ == "nothing"
    rows = X[:, :10, :11].reshape(100, -1)
    with pytest.warns(UserWarning, match="no square image"):
        model = EquivariantNASRegressor("D1(90)", max_epochs=1, random_state=0).fit(rows, y)
    assert model.augmentation_ == "nothing"
