"""Laws of files from strangers: whatever they hold, one kind of error that names the file, or a sound model."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from sklearn.datasets import load_digits

import skequinas
from skequinas import EquivariantNASClassifier, EquivariantNASRegressor
from skequinas.io import FileError
from skequinas.io.files import _checksum

pytestmark = pytest.mark.usefixtures("one_thread")

X, y = load_digits(n_class=3, return_X_y=True)
X, y = X[:60], y[:60]
SMALL: dict[str, Any] = {"width": 8, "max_epochs": 1, "random_state": 0, "device": "cpu"}
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of models of both kinds."""
    folder = tmp_path_factory.mktemp("models")
    models = {
        "classifier": EquivariantNASClassifier("C4", "differentiable", **SMALL).fit(X, y),
        "regressor": EquivariantNASRegressor("C4", "evolutionary", **SMALL).fit(X, X.sum(1)),
    }
    for name, model in models.items():
        skequinas.save(model, folder / name)
    return {name: folder / name for name in models}


def content(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = json.loads(data[8 : 8 + length])["__metadata__"]["skequinas"].partition(" ")[2]
    return json.loads(text), load_tensors(data)


def forge(path: Path, state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    """A file with another content and the checksum that belongs to it."""
    text = json.dumps(state)
    path.write_bytes(save_tensors(tensors, metadata={"skequinas": f"{_checksum(text, tensors)} {text}"}))
    return path


def put(value: Any, *keys: Any) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    def change(state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        place: Any = state
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def drop(values: dict[str, Any], name: str) -> None:
    del values[name]


def first_weight(value: float) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    def change(state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        tensors["network/blocks.0.conv.weights.weight"][0] = value

    return change


FORGED: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], None]] = {
    "a script as a group": put(SCRIPT, "learned_symmetry", "group"),
    "a script as a search group": put(SCRIPT, "learned_symmetry", "search_group"),
    "a script as a constraint": put(SCRIPT, "learned_symmetry", "constraints", "head"),
    "a script as a measured element": put({SCRIPT: 0.0}, "learned_symmetry", "measured_change"),
    "a script as a measured change": put(SCRIPT, "learned_symmetry", "measured_change", "identity"),
    "a script in the evidence": put({SCRIPT: [0.0] * 7}, "learned_symmetry", "evidence"),
    "a script as a share": put({"head": {SCRIPT: 0.5}}, "learned_symmetry", "layer_weights"),
    "very many outputs": put(10**9, "architecture", "n_outputs"),
    "very wide layers": put([3000] * 3, "architecture", "fields"),
    "very many elements": put("C5000", "architecture", "group"),
    "elements without end": put("C99999999999999", "architecture", "group"),
    "a huge kernel": put([10**6 + 1] * 3, "architecture", "kernel_sizes"),
    "a huge image": put(10**12, "architecture", "image_size"),
    "another image shape": put([9, 9], "image_shape"),
    "a huge image shape": put([10**9, 10**9], "image_shape"),
    "many features": put(10**15, "n_features_in"),
    "fewer features": put(1, "n_features_in"),
    "NaN weights": first_weight(np.nan),
    "infinite weights": first_weight(np.inf),
    "a missing key": lambda state, tensors: drop(state, "seed"),
    "a missing tensor": lambda state, tensors: drop(tensors, "network/blocks.0.conv.weights.weight"),
    "a list for a dict": put([], "learned_symmetry"),
    "a number for a list": put(3, "search", "population"),
    "an unknown estimator": put("RandomForest", "estimator"),
    "an unknown parameter": put(1, "parameters", "depth"),
    "an unknown search": put("BayesianSearch", "search", "search"),
    "records of records": put({"dtype": "V1000000000", "values": [0]}, "history", "loss"),
    "a huge dtype": put({"dtype": "<U1000000000", "values": ["a"]}, "history", "loss"),
    "another kind": put("search", "kind"),
    "no kind": lambda state, tensors: drop(state, "kind"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_file_is_refused_at_once(saved: dict[str, Path], case: str, tmp_path: Path) -> None:
    for path in saved.values():
        state, tensors = content(path)
        FORGED[case](state, tensors)
        forged, started = forge(tmp_path / "forged", state, tensors), time.perf_counter()
        with pytest.raises(FileError, match="forged"):
            skequinas.load(forged)
        assert time.perf_counter() - started < 5


def test_a_file_with_other_classes_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    state, tensors = content(saved["classifier"])
    state["classes"] = {"dtype": "<i8", "values": [0, 1]}
    with pytest.raises(FileError, match="3 outputs, but classes of shape"):
        skequinas.load(forge(tmp_path / "forged", state, tensors))


def test_deep_json_is_refused(tmp_path: Path) -> None:
    text = "[" * 100_000 + "]" * 100_000
    tensors = {"a": torch.zeros(1)}
    path = tmp_path / "deep"
    path.write_bytes(save_tensors(tensors, metadata={"skequinas": f"{_checksum(text, tensors)} {text}"}))
    with pytest.raises(FileError, match="deep"):
        skequinas.load(path)


def test_what_a_notebook_shows_is_escaped(saved: dict[str, Path]) -> None:
    learned = skequinas.load(saved["classifier"]).learned_symmetry_
    broken = copy.copy(learned)
    for name, value in {
        "group": SCRIPT,
        "constraints": dict.fromkeys(learned.constraints, SCRIPT),
        "measured_change": {SCRIPT: 0.0},
        "remark": SCRIPT,
    }.items():
        object.__setattr__(broken, name, value)
        try:
            shown = broken._repr_html_()
        except ValueError:  # no group of this name
            shown = ""
        assert SCRIPT not in shown
        object.__setattr__(broken, name, getattr(learned, name))


def test_a_file_of_a_model_is_none_of_a_search(saved: dict[str, Path]) -> None:
    with pytest.raises(FileError, match="holds a model, not a search"):
        skequinas.EvolutionarySearch.load(saved["classifier"])


def test_saving_into_a_missing_folder_names_the_folder(saved: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        skequinas.save(skequinas.load(saved["classifier"]), tmp_path / "nowhere" / "model")


# --- any change ---

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.integers(-3, 12),
    st.floats(),
    st.sampled_from(["", "D4", "C4", "C1", "D1(90)", "C7", "pixel", "head", SCRIPT, "🙂"]),
    st.just([]),
    st.just({}),
    st.lists(st.integers(0, 9), max_size=3),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a value can be changed."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, part in items:
        found += places(part, (*path, key))
    return found


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_changed_a_file_is_refused_or_loads_a_sound_model(
    saved: dict[str, Path], data: st.DataObject, tmp_path: Path
) -> None:
    check_changed(saved, data, tmp_path)


@pytest.mark.exhaustive
@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_so_it_is_for_many_changes(saved: dict[str, Path], data: st.DataObject, tmp_path: Path) -> None:
    check_changed(saved, data, tmp_path)


def check_changed(saved: dict[str, Path], data: st.DataObject, tmp_path: Path) -> None:
    """A file that is changed in a place or two is refused, or loads a sound model."""
    state, tensors = content(saved[data.draw(st.sampled_from(sorted(saved)))])
    for _ in range(data.draw(st.integers(1, 2))):
        *keys, last = data.draw(st.sampled_from(places(state)))
        place: Any = state
        try:
            for key in keys:
                place = place[key]
            if data.draw(st.booleans()):
                place[last] = data.draw(VALUES)
            else:
                del place[last]
        except (KeyError, IndexError, TypeError):
            continue  # the first change took it away
    try:
        text = json.dumps(state)
    except ValueError:
        return
    path = tmp_path / "changed"
    path.write_bytes(save_tensors(tensors, metadata={"skequinas": f"{_checksum(text, tensors)} {text}"}))
    try:
        model = skequinas.load(path)
    except FileError as error:
        if str(path) not in str(error):
            raise
        return
    model.set_params(device="cpu")  # another may not be there
    assert np.isfinite(model._outputs(X)).all()
    assert SCRIPT not in model.learned_symmetry_._repr_html_()
