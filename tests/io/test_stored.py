"""Images that are larger than memory are read a mini-batch at a time, to the same model."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_image
from sklearn.model_selection import cross_val_score

from skequinas import EquivariantNASClassifier, PointGroup, score_test, symmetry_evidence
from skequinas.estimators import near, units
from skequinas.io import ImageFiles, StoredImages, as_images, is_stored, preprocessing, stored
from skequinas.training import DataPart

DIGITS, LABELS = (values[:200] for values in load_digits(n_class=3, return_X_y=True))
GREY = (DIGITS.reshape(-1, 8, 8) * 15).astype(np.uint8)
COLOURS = np.stack([GREY, GREY[::-1], 255 - GREY], 3)


@pytest.fixture
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_LARGE", 1)


class Rows:
    """An array of rows in a file: numbers must increase, as HDF5 wants them, and it has no length, as zarr's."""

    chunks = None

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values, self.shape, self.dtype, self.n_read, self.most = values, values.shape, values.dtype, 0, 0

    def __getitem__(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        assert (np.diff(rows) > 0).all()
        self.n_read, self.most = self.n_read + len(rows), max(self.most, len(rows))
        return self.values[rows]


def on_disk(values: np.ndarray[Any, Any], folder: Path) -> np.ndarray[Any, Any]:
    np.save(folder / "X.npy", values)
    return np.load(folder / "X.npy", mmap_mode="r")  # type: ignore[no-any-return]


def model(search: Any = "none", **own: Any) -> EquivariantNASClassifier:
    return EquivariantNASClassifier("C4", search, max_epochs=1, random_state=0, **own)


def assert_equal(one: EquivariantNASClassifier, other: EquivariantNASClassifier, X: Any, Y: Any) -> None:
    assert str(one.learned_symmetry_) == str(other.learned_symmetry_)
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(Y))


@pytest.mark.parametrize(
    "values",
    [GREY, GREY.astype(np.float32), COLOURS, np.moveaxis(COLOURS, 3, 1), DIGITS, GREY.astype(np.int16)],
    ids=["grey", "float32", "channels last", "channels first", "rows", "int16"],
)
@pytest.mark.parametrize("kind", ["memmap", pytest.param("rows", marks=pytest.mark.exhaustive)])
def test_where_images_are_changes_nothing(
    tmp_path: Path, values: np.ndarray[Any, Any], kind: str, all_are_large: None
) -> None:
    X = on_disk(values, tmp_path) if kind == "memmap" else Rows(values)
    assert is_stored(X)
    found = model().fit(X, LABELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "_LARGE", 2**40)
        expected = model().fit(values, LABELS)
        assert_equal(expected, found, values, values)
    assert_equal(expected, found, values, X)


@pytest.mark.parametrize("search", ["evolutionary", "differentiable"])
def test_so_it_is_in_a_search(tmp_path: Path, search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.arange(len(LABELS)) % 3  # some of which are 0
    expected = model(search).fit(COLOURS, LABELS, sample_weight=weights)
    monkeypatch.setattr(stored, "_LARGE", 1)
    X = on_disk(COLOURS, tmp_path)
    found = model(search).fit(X, LABELS, sample_weight=weights)
    assert_equal(expected, found, X, X)
    given = (X[:50], LABELS[:50])
    how: dict[str, int] = {"n_batches": 16, "random_state": 0}
    assert score_test(found, *given, **how).p_values == score_test(expected, *given, **how).p_values
    evidence = (symmetry_evidence(fit, *given, random_state=0) for fit in (found, expected))
    np.testing.assert_array_equal(*(list(own.values()) for own in evidence))


def test_validation_data_may_be_stored_too(tmp_path: Path, all_are_large: None) -> None:
    X = on_disk(COLOURS, tmp_path)
    found = model("evolutionary").fit(X[:120], LABELS[:120], validation_data=(X[120:], LABELS[120:]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "_LARGE", 2**40)
        expected = model("evolutionary").fit(COLOURS[:120], LABELS[:120], validation_data=(COLOURS[120:], LABELS[120:]))
    assert_equal(expected, found, COLOURS, X)


def test_never_many_are_read_at_once(all_are_large: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "_AT_ONCE", 100 * COLOURS[0].size)
    X = Rows(np.concatenate([COLOURS] * 4))
    model(search="evolutionary").fit(X, np.concatenate([LABELS] * 4))
    assert 0 < X.most <= 512 < X.shape[0] / 1.5


def test_nor_for_a_checkpoint(tmp_path: Path, all_are_large: None) -> None:
    X, held_out = Rows(COLOURS[:120]), Rows(np.concatenate([COLOURS[120:]] * 16))
    given = (held_out, np.concatenate([LABELS[120:]] * 16))
    fit = model(checkpoint=tmp_path).fit(X, LABELS[:120], validation_data=given)
    assert held_out.most <= 512 < held_out.shape[0] / 2
    assert fit.predict(X).shape == (120,)


def test_large_images_are_compared_a_few_at_a_time(all_are_large: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "_VALUES_AT_ONCE", 5 * COLOURS[0].size)
    images = StoredImages(Rows(np.concatenate([COLOURS, COLOURS[:, ::-1]])), (8, 8, 3))
    first, copy_of = units.distinct(images, PointGroup.from_name("D4"))
    n = len(COLOURS)
    np.testing.assert_array_equal(copy_of[:n], copy_of[n:])
    assert len(first) == len(np.unique(copy_of)) <= n
    monkeypatch.undo()
    some_of = images.subset(np.arange(n))
    assert units.n_seen(images, some_of, PointGroup.from_name("D4")) == 2 * n
    assert units.n_seen(images, some_of, PointGroup.from_name("C1")) < 2 * n


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_what_is_not_finite_is_found(value: float, kind: str, all_are_large: None) -> None:
    values = GREY.astype(np.float32)
    values[150, 3, 4] = value
    with pytest.raises(ValueError, match=rf"Input X contains {kind} \(image 150\)"):
        model().fit(Rows(values), LABELS)
    found = model().fit(Rows(GREY.astype(np.float32)), LABELS)
    with pytest.raises(ValueError, match=rf"Input X contains {kind} \(image 150\)"):
        found.predict(Rows(values))


def test_shapes_are_checked_as_ever(all_are_large: None) -> None:
    found = model().fit(Rows(COLOURS), LABELS)
    with pytest.raises(ValueError, match="was fitted with images of shape"):
        found.predict(Rows(GREY))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model().fit(Rows(COLOURS), LABELS[1:])
    with pytest.raises(ValueError, match="is fitted with|features"):
        found.predict(Rows(DIGITS))


def test_what_is_small_or_no_array_of_numbers_is_not_stored(tmp_path: Path) -> None:
    assert not is_stored(on_disk(COLOURS, tmp_path))
    assert not is_stored(COLOURS.tolist())
    assert not is_stored(np.broadcast_to(np.array("text"), (2**20, 2**20)))
    assert is_stored(np.broadcast_to(np.uint8(0), (2**20, 2**10)))


def test_images_are_those_of_an_array() -> None:
    images, own = StoredImages(Rows(COLOURS), (8, 8, 3)), as_images(COLOURS, (8, 8, 3))
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(0))[:30]
    assert images.shape == own.shape
    assert images.dtype == own.dtype
    for index in (order, slice(3, 90, 2), torch.tensor([5, 5, 1]), 7):
        assert torch.equal(images[index], own[index])
    assert torch.equal(torch.cat(list(images.split(33))), own)
    chosen = np.array([9, 4, 4])
    assert torch.equal(images.subset(chosen)[torch.arange(3)], own[torch.from_numpy(chosen)])
    part = DataPart(images, torch.arange(len(own)), torch.nn.Identity(), None)  # type: ignore[arg-type]
    again = pickle.loads(pickle.dumps(part.subset(chosen)))
    assert torch.equal(again.batch(torch.tensor([0]))[0], own[9:10])


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    image = pytest.importorskip("PIL.Image")
    paths = [tmp_path / f"{number}.png" for number in range(len(COLOURS))]
    for path, values in zip(paths, COLOURS, strict=True):
        image.fromarray(values).save(path)
    return paths


def test_image_files_are_images(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    X = ImageFiles(files)
    assert X.shape == COLOURS.shape
    np.testing.assert_array_equal(X, COLOURS)
    np.testing.assert_array_equal(X[[3, 1]], COLOURS[[3, 1]])
    assert ImageFiles(files, mode="L").shape == GREY.shape
    expected = model().fit(COLOURS, LABELS)
    assert_equal(model().fit(X, LABELS), expected, X, COLOURS)
    monkeypatch.setattr(stored, "_LARGE", 1)
    assert_equal(model().fit(X, LABELS), expected, X, COLOURS)


def test_image_files_are_split_by_cross_validation(files: list[Path]) -> None:
    scores = cross_val_score(model(), ImageFiles(files), LABELS, cv=3)
    np.testing.assert_array_equal(scores, cross_val_score(model(), COLOURS, LABELS, cv=3))


def test_image_files_are_resized(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    photograph = load_sample_image("china.jpg")
    image.fromarray(photograph).save(tmp_path / "china.png")
    image.fromarray(photograph[:200, :100]).save(tmp_path / "part.png")
    X = ImageFiles([tmp_path / "china.png", tmp_path / "part.png"], size=(32, 48))
    assert np.asarray(X).shape == (2, 32, 48, 3)
    assert abs(np.asarray(X)[0].mean() - photograph.mean()) < 1
    with pytest.raises(ValueError, match=r"part.png' has 200x100 pixels, and the first image 427x640. Pass size="):
        np.asarray(ImageFiles([tmp_path / "china.png", tmp_path / "part.png"]))


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    photograph, exif = image.fromarray(COLOURS[0]), image.Exif()
    exif[0x0112] = 6  # taken with the camera turned
    photograph.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(ImageFiles([tmp_path / "turned.png"]))[0], np.rot90(COLOURS[0], -1))


def test_more_than_eight_bits_are_refused(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(GREY[0].astype(np.uint16) * 200).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep.png' cannot be decoded .*more than 8 bits"):
        ImageFiles([tmp_path / "deep.png"])


def test_image_files_that_are_none(tmp_path: Path, files: list[Path]) -> None:
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(ValueError, match=r"text.png' cannot be decoded"):
        np.asarray(ImageFiles([files[0], tmp_path / "text.png"]))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ImageFiles([tmp_path / "nowhere.png"])
    for paths in ([], str(files[0])):
        with pytest.raises(ValueError, match="must be a sequence of at least one file"):
            ImageFiles(paths)
    with pytest.raises(ValueError, match="mode='RGBA' must be"):
        ImageFiles(files, mode="RGBA")
    for size in (0, (8,), (8, 0)):
        with pytest.raises(ValueError, match="must be a side"):
            ImageFiles(files, size=size)  # type: ignore[arg-type]
