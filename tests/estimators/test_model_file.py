"""Laws of models that leave the process: pickles, files, torch and ONNX."""

from __future__ import annotations

import copy
import io
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from torch import nn

import skequinas
from skequinas import (
    Architecture,
    DifferentiableSearch,
    EquivariantNASClassifier,
    EquivariantNASRegressor,
    EvolutionarySearch,
    PointGroup,
)
from skequinas.io import files

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
X, y = load_digits(n_class=3, return_X_y=True)
X, y = X[:100], y[:100]
WORDS = np.array(["nought", "one", "two"])[y]
SMALL = {"width": 8, "max_epochs": 1, "batch_size": 32, "random_state": 0, "device": "cpu"}
TINY = Architecture(D4, 8, 1, 3, (1,), (1,), (True,), hidden=0)
RESIDUAL = Architecture(
    D4, 8, 1, 3, (1, 1, 2), (3,) * 3, (True, False, False), shortcuts=(0, 0, 2), statistics="mean and maximum"
)
MODELS: dict[str, Callable[[], Any]] = {
    "classifier": lambda: EquivariantNASClassifier(search=EvolutionarySearch(1), **SMALL).fit(X, WORDS),
    "classifier of truth values": lambda: EquivariantNASClassifier(search="none", **SMALL).fit(X, y == 1),
    "classifier of objects": lambda: EquivariantNASClassifier(search="random", **SMALL).fit(X, WORDS.astype(object)),
    "classifier with weights": lambda: EquivariantNASClassifier(
        "D2(45)", search="differentiable", class_weight={0: 1.0, 1: 2.0, 2: 0.5}, **SMALL
    ).fit(X, y, sample_weight=1.0 + y),
    "mixture": lambda: EquivariantNASClassifier(search=DifferentiableSearch(discretize=False), **SMALL).fit(X, y),
    "regressor": lambda: EquivariantNASRegressor(PointGroup.from_name("C4"), **SMALL).fit(X, X.sum(axis=1)),
    "regressor of two": lambda: EquivariantNASRegressor(D4.subgroup("C4"), search="none", **SMALL).fit(
        X.reshape(-1, 8, 8), np.stack([y, 1e3 + X.sum(axis=1)], axis=1)
    ),
    "colours": lambda: EquivariantNASClassifier(search="none", group="D2", image_shape=(4, 5, 3), **SMALL).fit(
        X[:, :60], y
    ),
    "table": lambda: EquivariantNASClassifier(search="none", **SMALL).fit(
        pd.DataFrame(X, columns=[f"pixel {i}" for i in range(64)]), y
    ),
    "shortcuts": lambda: EquivariantNASClassifier(
        architecture=RESIDUAL, search="none", **SMALL | {"width": None, "augment": "continuous"}
    ).fit(X, y),
    "architecture": lambda: EquivariantNASClassifier(
        architecture=TINY, search="none", **SMALL | {"width": None, "random_state": np.random.RandomState(3)}
    ).fit(X, y),
}


@cache
def fitted(name: str) -> Any:
    return MODELS[name]()


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    """A fitted model of every kind."""
    return fitted(request.param)


def inputs(model: Any) -> Any:
    """Images that the model takes."""
    if hasattr(model, "feature_names_in_"):
        return pd.DataFrame(X, columns=model.feature_names_in_)
    return X[:, : model.n_features_in_]


def outputs(model: Any) -> Any:
    return getattr(model, "predict_proba", model.predict)(inputs(model))


COPIES: dict[str, Callable[[Any, Path], Any]] = {
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "joblib": lambda model, folder: joblib.load(*joblib.dump(model, folder / "model.joblib")),
    "joblib, compressed": lambda model, folder: joblib.load(*joblib.dump(model, folder / "model.gz", compress=3)),
    "file": lambda model, folder: (skequinas.save(model, folder / "m"), skequinas.load(folder / "m"))[1],
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_predicts_the_same_bit_for_bit(model: Any, way: str, tmp_path: Path) -> None:
    other = COPIES[way](model, tmp_path)
    assert type(other) is type(model)
    np.testing.assert_array_equal(outputs(other), outputs(model))
    np.testing.assert_array_equal(other.predict(inputs(model)), model.predict(inputs(model)))
    assert other.predict(inputs(model)).dtype == model.predict(inputs(model)).dtype


def test_a_loaded_model_has_all_that_the_saved_one_had(model: Any, tmp_path: Path) -> None:
    skequinas.save(model, tmp_path / "model")
    other = skequinas.load(tmp_path / "model")
    assert set(vars(model)) == set(vars(other))
    assert re.sub("0x[0-9A-F]+", "", str(other)) == re.sub("0x[0-9A-F]+", "", str(model))
    assert other.architecture_ == model.architecture_
    assert other.n_parameters_ == model.n_parameters_
    assert other.image_shape_ == model.image_shape_
    assert str(other.learned_symmetry_) == str(model.learned_symmetry_)
    theirs, ours = other.learned_symmetry_.evidence, model.learned_symmetry_.evidence
    assert theirs == ours
    assert ours is None or all(type(theirs[name]) is type(ours[name]) for name in ours)
    for name in ("history_", "search_results_"):
        theirs, ours = getattr(other, name), getattr(model, name)
        assert list(theirs) == list(ours)
        for key in ours:
            np.testing.assert_array_equal(theirs[key], ours[key])
            assert theirs[key].dtype == ours[key].dtype
    for name in ("classes_", "feature_names_in_"):
        if hasattr(model, name):
            np.testing.assert_array_equal(getattr(other, name), getattr(model, name))
            assert getattr(other, name).dtype == getattr(model, name).dtype
    assert len(other.search_.population_) == len(model.search_.population_)
    skequinas.save(other, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()


def test_a_loaded_model_can_be_fitted_on(tmp_path: Path) -> None:
    model = EquivariantNASClassifier(search="none", warm_start=True, **SMALL).fit(X, y)
    skequinas.save(model, tmp_path / "model")
    other = skequinas.load(tmp_path / "model")
    np.testing.assert_array_equal(outputs(other.fit(X, y)), outputs(model.fit(X, y)))


def test_the_file_holds_arrays_and_json_alone(tmp_path: Path) -> None:
    skequinas.save(fitted("classifier"), tmp_path / "model")
    content = (tmp_path / "model").read_bytes()
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    state = json.loads(metadata["skequinas"].partition(" ")[2])
    assert state["format"] == 3
    assert state["parameters"]["group"] == "D4"
    assert load_tensors(content)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_callback_is_not_saved_and_that_is_said(tmp_path: Path) -> None:
    model = EquivariantNASClassifier(search="none", callback=print, **SMALL)
    with pytest.warns(UserWarning, match="callback is a function"):
        skequinas.save(copy.copy(fitted("classifier")).set_params(callback=model.callback), tmp_path / "model")
    assert skequinas.load(tmp_path / "model").callback is None


# --- bad files ---


def small_file(folder: Path) -> Path:
    model = EquivariantNASClassifier(architecture=TINY, search="none", **SMALL | {"width": None}).fit(X, y)
    skequinas.save(model, folder / "model")
    return folder / "model"


def test_a_truncated_file_gives_one_error(tmp_path: Path) -> None:
    path = small_file(tmp_path)
    content = path.read_bytes()
    for length in [*range(0, 64), *range(64, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"path=.*(damaged|not written by skequinas)"):
            skequinas.load(path)


def test_a_flipped_bit_gives_one_error(tmp_path: Path) -> None:
    path = small_file(tmp_path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    places = {*range(0, 80), *rng.integers(len(content), size=700).tolist()}
    for place in sorted(places):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"path=.*(damaged|not written by|holds|newer|has format)"):
            skequinas.load(path)


def foreign(folder: Path) -> dict[str, bytes]:
    """Files that are no models."""
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(3))
    text = json.dumps({"format": 99, "kind": "model"})
    return {
        "empty": b"",
        "text": b"accuracy 0.98",
        "pickle": pickle.dumps({"model": 1}),
        "numpy": buffer.getvalue(),
        "tensors of others": save_tensors({"weight": torch.zeros(3)}),
        "metadata of others": save_tensors({"weight": torch.zeros(3)}, metadata={"format": "pt"}),
        "newer": save_tensors({"w": torch.zeros(1)}, metadata={"skequinas": f"? {text}"}),
        "older": save_tensors({"w": torch.zeros(1)}, metadata={"skequinas": f"? {text.replace('99', '1')}"}),
        "not json": save_tensors({"w": torch.zeros(1)}, metadata={"skequinas": "? {"}),
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "damaged"), ("text", "damaged"), ("pickle", "damaged"), ("numpy", "damaged"),
        ("tensors of others", "not written by skequinas"), ("metadata of others", "not written by skequinas"),
        ("newer", "has format 99.*Update skequinas"), ("older", "has format 1;.*save it again"),
        ("not json", "damaged"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_gives_one_error(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(foreign(tmp_path)[name])
    with pytest.raises(ValueError, match=words):
        skequinas.load(tmp_path / "file")


def test_a_saved_search_is_not_a_model(tmp_path: Path) -> None:
    fitted("classifier").search_.save(tmp_path / "search")
    with pytest.raises(ValueError, match="holds a search, not a model"):
        skequinas.load(tmp_path / "search")
    skequinas.save(fitted("classifier"), tmp_path / "model")
    with pytest.raises(ValueError, match="holds a model, not a search"):
        EvolutionarySearch.load(tmp_path / "model")


def test_what_cannot_be_read_or_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        skequinas.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        skequinas.save(fitted("classifier"), tmp_path / "no folder" / "model")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        skequinas.save(fitted("classifier"), tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_plain_values_cannot_express_is_refused(tmp_path: Path) -> None:
    class Mine(EvolutionarySearch):
        """A user's own search."""

    with pytest.raises(NotFittedError):
        skequinas.save(EquivariantNASClassifier(), tmp_path / "model")
    model = copy.copy(fitted("classifier")).set_params(search=Mine())
    with pytest.raises(ValueError, match="search=.*cannot be saved"):
        skequinas.save(model, tmp_path / "model")

    class Child(EquivariantNASClassifier):
        """A user's own estimator."""

    child = Child(search="none", **SMALL).fit(X, y)
    with pytest.raises(ValueError, match="Child.*Pickle it"):
        skequinas.save(child, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_file_keeps_its_mode_and_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "private").touch(mode=0o600)
    (tmp_path / "link").symlink_to(tmp_path / "private")
    skequinas.save(fitted("classifier"), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
    np.testing.assert_array_equal(outputs(skequinas.load(tmp_path / "private")), outputs(fitted("classifier")))


@pytest.mark.parametrize("name", ["classifier", "mixture", "regressor"])
def test_another_default_type_or_device_changes_nothing(name: str, tmp_path: Path) -> None:
    skequinas.save(fitted(name), tmp_path / "model")
    torch.set_default_dtype(torch.float64)
    try:
        loaded, anew = skequinas.load(tmp_path / "model"), MODELS[name]()
        np.testing.assert_array_equal(outputs(loaded), outputs(fitted(name)))
        np.testing.assert_array_equal(outputs(anew), outputs(fitted(name)))
        found = loaded.to_torch()(raw(loaded, torch.float32))
        assert found.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        loaded = skequinas.load(tmp_path / "model")
        assert loaded.to_torch()[1].weight.device.type == "cpu"
    np.testing.assert_array_equal(outputs(loaded), outputs(fitted(name)))


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_file(tmp_path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        skequinas.save(fitted("classifier"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- pickles without the device ---


def test_a_model_is_found_a_device_anew_where_it_is_loaded() -> None:
    model = copy.deepcopy(fitted("classifier")).set_params(device="cuda")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.warns(UserWarning, match="device='cuda' is not available here"):
        found = outputs(model)
    np.testing.assert_array_equal(found, outputs(fitted("classifier")))
    np.testing.assert_array_equal(outputs(model.set_params(device="auto")), outputs(fitted("classifier")))
    everything = pickle.dumps(model)
    assert b"cuda" not in everything.replace(b"cuda_", b"")


def test_a_model_can_be_loaded_in_a_new_process(tmp_path: Path) -> None:
    model = fitted("regressor")
    skequinas.save(model, tmp_path / "model")
    np.save(tmp_path / "X.npy", X)
    code = (
        "import sys, numpy as np, torch, skequinas; torch.set_num_threads(1); "
        "m = skequinas.load(sys.argv[1]); np.save(sys.argv[3], m.predict(np.load(sys.argv[2])))"
    )
    paths = [str(tmp_path / name) for name in ("model", "X.npy", "y.npy")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True, timeout=120)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model.predict(X))


# --- torch and ONNX ---


def raw(model: Any, dtype: torch.dtype) -> torch.Tensor:
    """The images of the model as torch takes them."""
    return torch.from_numpy(X[:, : model.n_features_in_]).to(dtype).reshape(-1, *_chw(model))


def _chw(model: Any) -> tuple[int, int, int]:
    shape = model.image_shape_
    return (1, *shape) if len(shape) == 2 else (shape[2], shape[0], shape[1])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64], ids=str)
def test_the_torch_network_gives_the_model_s_answers_from_raw_images(model: Any, dtype: torch.dtype) -> None:
    network = model.to_torch()
    images = raw(model, dtype)
    if model.image_shape_[-1] == 3:
        images = torch.from_numpy(X[:, :60]).to(dtype).reshape(-1, 4, 5, 3).permute(0, 3, 1, 2)
    found, expected = network(images).numpy(), outputs(model)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)
    own = [type(m).__module__ for m in network.modules() if not type(m).__module__.startswith("torch.")]
    assert own == ["skequinas.io.preprocessing"]  # the preprocessing alone is not a layer of torch
    assert not any(p.requires_grad for p in network.parameters())
    before = outputs(model)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(outputs(model), before)  # a copy


def test_an_unfitted_model_has_no_network(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        EquivariantNASClassifier().to_torch()
    with pytest.raises(NotFittedError):
        EquivariantNASClassifier().to_onnx(tmp_path / "model.onnx")


def test_the_onnx_model_gives_the_model_s_answers(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    for name in ("classifier", "mixture", "regressor of two", "colours", "shortcuts"):
        model = fitted(name)
        model.to_onnx(tmp_path / "model.onnx")
        session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        images = raw(model, torch.float32)
        if model.image_shape_[-1] == 3:
            images = torch.from_numpy(X[:, :60]).float().reshape(-1, 4, 5, 3).permute(0, 3, 1, 2)
        expected = outputs(model)
        for n in (1, 7, len(X)):
            (found,) = session.run(["outputs"], {"images": images[:n].numpy()})
            np.testing.assert_allclose(found, expected[:n], rtol=1e-4, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_onnx_names_the_packages_that_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r'pip install "skequinas\[onnx\]"'):
        fitted("classifier").to_onnx(tmp_path / "model.onnx")


def test_the_network_can_be_trained_on_in_torch() -> None:
    network = fitted("classifier").to_torch()[1:-1].requires_grad_(True).train()
    loss = nn.functional.cross_entropy(network(torch.randn(4, 1, 8, 8)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())
