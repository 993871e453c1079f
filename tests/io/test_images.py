"""Laws of reading X and of preprocessing: every form of the same images is the same tensor."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from skequinas.groups import PointGroup
from skequinas.io import Preprocessing, as_images, infer_image_shape

pytestmark = pytest.mark.usefixtures("one_thread")

Array = NDArray[Any]
D4 = PointGroup.from_name("D4")

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 100, (4, 1, 8, 8))
WIDE = RNG.integers(0, 100, (4, 1, 5, 8))
COLOUR = RNG.integers(0, 100, (4, 3, 5, 7))


def rows(X: Array) -> Array:
    return X.reshape(len(X), -1)


def channels_last(X: Array) -> Array:
    return np.moveaxis(X, 1, -1)


FORMS: dict[str, tuple[Array, Array, tuple[int, ...] | None]] = {
    "grey rows": (GREY, rows(GREY), None),
    "grey rows of a given shape": (GREY, rows(GREY), (8, 8)),
    "grey rows of a given shape, channels first": (GREY, rows(GREY), (1, 8, 8)),
    "grey rows of a given shape, channels last": (GREY, rows(GREY), (8, 8, 1)),
    "grey images": (GREY, GREY[:, 0], None),
    "grey images, channels first": (GREY, GREY, None),
    "grey images, channels last": (GREY, channels_last(GREY), None),
    "wide rows of a given shape": (WIDE, rows(WIDE), (5, 8)),
    "wide images": (WIDE, WIDE[:, 0], None),
    "square colour rows, channels last": (GREY.repeat(3, 1), rows(channels_last(GREY.repeat(3, 1))), None),
    "colour rows of a given shape, channels first": (COLOUR, rows(COLOUR), (3, 5, 7)),
    "colour rows of a given shape, channels last": (COLOUR, rows(channels_last(COLOUR)), (5, 7, 3)),
    "colour images, channels first": (COLOUR, COLOUR, None),
    "colour images, channels last": (COLOUR, channels_last(COLOUR), None),
    "colour images of a given shape, channels first": (COLOUR, COLOUR, (3, 5, 7)),
    "colour images of a given shape, channels last": (COLOUR, channels_last(COLOUR), (5, 7, 3)),
}

STORAGE: dict[str, Callable[[Array], Array]] = {
    "C order": np.ascontiguousarray,
    "Fortran order": np.asfortranarray,
    "every other sample of a larger array": lambda X: X.repeat(2, 0)[::2],
    "reversed twice": lambda X: X[::-1].copy()[::-1],
}
SMALL = dict.fromkeys(["i1", "u2", "i2", "f4", ">i2"], torch.float32) | {"u1": torch.uint8, "f2": torch.float16}
DTYPES = SMALL | dict.fromkeys(["u4", "i4", "u8", "i8", "f8", ">f4", ">f8"], torch.float64)


def read(X: Array, image_shape: tuple[int, ...] | None = None) -> Tensor:
    return as_images(X, infer_image_shape(X.shape[1:], image_shape))


@pytest.mark.parametrize(("images", "X", "image_shape"), FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_images(images: Array, X: Array, image_shape: tuple[int, ...] | None) -> None:
    for name, store in STORAGE.items():
        for dtype, expected in DTYPES.items():
            given = store(X.astype(dtype))
            read_back = read(given, image_shape)
            assert read_back.dtype == expected, (name, dtype)
            np.testing.assert_array_equal(read_back.numpy(), images, err_msg=f"{name} {dtype}")


@pytest.mark.parametrize(
    "form",
    [
        "grey rows",
        "grey images",
        "colour images, channels first",
        "colour images, channels last",
        "grey images, channels last",
    ],
)
def test_every_form_gives_the_same_memory_layout(form: str) -> None:
    """The last bits of a convolution depend on it."""
    _, X, image_shape = FORMS[form]
    images = read(X.astype(np.float32), image_shape)
    inputs = Preprocessing(images)(images)
    assert inputs.stride() == torch.empty(inputs.shape).stride()


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8", "?"])
def test_read_only_arrays_are_read_and_left_alone(dtype: str) -> None:
    X = GREY.astype(dtype)
    X.flags.writeable = False
    np.testing.assert_array_equal(read(X).numpy(), GREY.astype(dtype))
    assert not X.flags.writeable


def test_truth_values_are_read_as_zeros_and_ones() -> None:
    images = read(GREY[:, 0] > 50)
    assert images.dtype == torch.uint8
    np.testing.assert_array_equal(images.numpy(), GREY > 50)


def test_bytes_are_not_copied() -> None:
    X = GREY.astype(np.uint8)
    for form in (X, X[:, 0], rows(X), np.moveaxis(X, 1, -1)):
        assert np.shares_memory(read(form).numpy(), X)


@pytest.mark.parametrize(
    ("sample_shape", "expected"),
    [
        ((1,), (1, 1)),
        ((2,), (2, 2)),
        ((3,), (1, 1, 3)),
        ((4,), (2, 2)),
        ((27,), (3, 3, 3)),
        ((30,), (6, 6)),
        ((64,), (8, 8)),
        ((192,), (8, 8, 3)),
        ((784,), (28, 28)),
        ((785,), (29, 29)),
        ((5, 9), (5, 9)),
        ((1, 1), (1, 1)),
        ((3, 5, 9), (3, 5, 9)),
        ((5, 9, 2), (5, 9, 2)),
        ((2, 9, 9), (2, 9, 9)),
    ],
    ids=str,
)
def test_an_image_shape_that_is_not_given_is_inferred(sample_shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert infer_image_shape(sample_shape, None) == expected


@pytest.mark.parametrize("n_features", [2, 5, 30, 63, 65])
def test_rows_of_any_length_are_padded_with_zeros_to_the_next_square(n_features: int) -> None:
    X = 1.0 + RNG.random((3, n_features))
    flat = read(X).flatten(1)
    side = int(np.ceil(np.sqrt(n_features)))
    assert flat.shape == (3, side**2)
    np.testing.assert_array_equal(flat[:, :n_features].numpy(), X)
    assert not flat[:, n_features:].any()


@pytest.mark.parametrize(
    ("sample_shape", "channels"),
    [((3, 3, 10), 3), ((10, 3, 3), 3), ((1, 1, 8), 1), ((8, 1, 1), 1)],
    ids=str,
)
def test_the_axis_with_one_to_four_entries_holds_the_channels(sample_shape: tuple[int, ...], channels: int) -> None:
    assert read(np.zeros((2, *sample_shape))).shape[1] == channels


@pytest.mark.parametrize(
    ("sample_shape", "image_shape", "words"),
    [
        ((3, 5, 3), None, ["X", "(3, 5, 3)", "first or last", "image_shape=(height, width, channels)"]),
        ((1, 9, 4), None, ["X", "(1, 9, 4)", "first or last", "image_shape=(height, width, channels)"]),
        ((5, 6, 7), None, ["X", "(5, 6, 7)", "neither", "image_shape=(height, width, channels)"]),
        ((), None, ["X", "()", "(n, height, width)"]),
        ((2, 3, 4, 5), None, ["X", "(2, 3, 4, 5)", "(n, height, width)"]),
        ((64,), (8,), ["image_shape=(8,)", "two or three positive whole numbers"]),
        ((64,), (4, 4, 2, 2), ["image_shape=(4, 4, 2, 2)", "two or three positive whole numbers"]),
        ((64,), (8, 0), ["image_shape=(8, 0)", "positive"]),
        ((64,), (-8, -8), ["image_shape=(-8, -8)", "positive"]),
        ((64,), (8, 9), ["image_shape=(8, 9)", "(64,)", "64 values, not 72"]),
        ((8, 8), (4, 16), ["image_shape=(4, 16)", "(8, 8)"]),
        ((8, 8, 3), (3, 8, 8), ["image_shape=(3, 8, 8)", "(8, 8, 3)"]),
    ],
    ids=str,
)
def test_shapes_without_one_reading_are_refused(
    sample_shape: tuple[int, ...], image_shape: tuple[int, ...] | None, words: list[str]
) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        infer_image_shape(sample_shape, image_shape)
    assert not [word for word in words if word not in str(error.value)]


# --- preprocessing ---


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, -3.0, 100.0])
def test_every_channel_is_standardised(offset: float, scale: float) -> None:
    X = scale * (np.random.default_rng(1).normal(size=(2500, 2, 4, 4)) * [[[1.0]], [[5.0]]] + offset)
    images = as_images(X, X.shape[1:])
    preprocessing = Preprocessing(images)
    np.testing.assert_allclose(preprocessing.mean.flatten(), X.mean((0, 2, 3)), rtol=1e-5, atol=1e-5 * scale)
    np.testing.assert_allclose(preprocessing.std.flatten(), X.std((0, 2, 3)), rtol=1e-4)
    expected = (X - X.mean((0, 2, 3), keepdims=True)) / X.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(preprocessing(images).numpy(), expected, atol=1e-4)


def test_bytes_are_standardised_as_numbers() -> None:
    X = RNG.integers(0, 256, (50, 3, 6, 6), dtype=np.uint8)
    from_bytes, from_floats = (as_images(x, X.shape[1:]) for x in (X, X.astype(float)))
    torch.testing.assert_close(Preprocessing(from_bytes)(from_bytes), Preprocessing(from_floats)(from_floats))


def test_a_large_offset_in_float64_does_not_hide_the_images() -> None:
    X = RNG.normal(size=(200, 1, 5, 5))
    still, moved = (as_images(x, X.shape[1:]) for x in (X, X + 1e4))
    torch.testing.assert_close(Preprocessing(moved)(moved), Preprocessing(still)(still), rtol=0, atol=5e-3)


def test_a_huge_offset_in_float64_does_not_hide_the_images() -> None:
    X = RNG.normal(size=(200, 1, 5, 5))
    still, moved = (as_images(x, X.shape[1:]) for x in (X, X + 1e8))
    torch.testing.assert_close(Preprocessing(moved)(moved), Preprocessing(still)(still), rtol=0, atol=5e-3)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.0, 1e6, 255])
def test_a_constant_channel_becomes_zero(value: float) -> None:
    images = torch.randn(3000, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    images[:, 1] = value
    result = Preprocessing(images)(images)
    assert torch.isfinite(result).all()
    assert result[:, 1].abs().max() <= 1e-6 * max(1.0, abs(value))
    assert abs(float(result[:, 0].std()) - 1) < 1e-2


@pytest.mark.parametrize(("height", "width"), [(4, 8), (9, 5), (1, 5), (6, 6)])
def test_every_channel_is_standardised_and_no_pixel_is_added(height: int, width: int) -> None:
    images = torch.randn(20, 2, height, width, generator=torch.Generator().manual_seed(0)) + 10
    preprocessing = Preprocessing(images)
    result = preprocessing(images)
    assert result.shape == images.shape
    torch.testing.assert_close(result, ((images - preprocessing.mean) / preprocessing.std).float())
    assert abs(float(result.mean())) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_results_have_the_type_of_the_module_and_the_statistics_stay_exact(dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (50, 1, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    preprocessing = Preprocessing(images)
    exact = preprocessing.mean.clone(), preprocessing.std.clone()
    result = preprocessing.to(dtype)(images)
    assert result.dtype == dtype
    assert torch.equal(preprocessing.mean, exact[0])
    assert torch.equal(preprocessing.std, exact[1])
    torch.testing.assert_close(result.float(), Preprocessing(images)(images), atol=0.02, rtol=0.02)


def test_preprocessing_is_a_module_with_a_state() -> None:
    images = torch.randn(20, 2, 4, 6)
    state = Preprocessing(images).state_dict()
    other = Preprocessing(images * 3 + 1)
    other.load_state_dict(state)
    torch.testing.assert_close(other(images), Preprocessing(images)(images))
