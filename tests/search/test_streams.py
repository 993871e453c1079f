"""Laws of models in streams: what each guarantees, what they refuse, and what they are good for."""

from __future__ import annotations

import pickle
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from skequinas import (
    Architecture,
    EquivariantNASClassifier,
    EquivariantNASRegressor,
    FixedStreams,
    feature_invariance,
    load,
    move_retrieval,
    save,
)
from skequinas.groups import PointGroup
from skequinas.nn import transform_images

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
FREE = Architecture(D4, 8, 1, 3, (2,), (3,), (False,), head="free")
CONSTRAINED = Architecture(D4, 8, 1, 3, (2,), (3,), (False,), ("C4", "C4"))
X, y = (values[:150] for values in load_digits(n_class=3, return_X_y=True))
IMAGES = X.reshape(-1, 8, 8)
SETTINGS: dict[str, Any] = {"width": 32, "max_epochs": 2, "random_state": 0}


@cache
def fitted(*streams: str, **own: Any) -> EquivariantNASClassifier:
    return EquivariantNASClassifier("D4", FixedStreams(streams or None), **SETTINGS | own).fit(X, y)


def test_by_default_one_stream_has_the_whole_group_and_one_is_free() -> None:
    model = fitted()
    assert [h.name for h in model.architecture_.streams] == ["D4", "C1"]
    assert model.learned_symmetry_.group == "C1"
    assert set(model.learned_symmetry_.constraints.values()) == {"D4/C1"}
    assert model.learned_symmetry_.evidence is None
    named = EquivariantNASClassifier("D4", "streams", **SETTINGS).fit(X, y)
    np.testing.assert_array_equal(named.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("stream", [0, 1])
def test_the_features_of_each_stream_stay_under_its_own_group(stream: int) -> None:
    model = fitted("C4", "D1(90)")
    subgroup = model.architecture_.streams[stream]
    own = model.features(X, "invariant", stream=stream)
    for g, image_of in ((1, lambda x: np.rot90(x, 1, (1, 2))), (D4.subgroup("D1(90)").elements[1], np.fliplr)):
        moved = np.stack([image_of(x[None])[0] if g == 1 else image_of(x) for x in IMAGES])
        change = np.abs(model.features(moved, "invariant", stream=stream) - own).max()
        assert change < 1e-5 if g in subgroup else change > 1e-2
    alike = feature_invariance(model, X, stream=stream)
    for g in D4.elements:
        similarity = alike[D4.element_name(g)]
        assert similarity > 1 - 1e-5 if g in subgroup else similarity < 0.99


def test_streams_share_all_features() -> None:
    model = fitted("C4", "D1(90)")
    n = len(model.get_feature_names_out())
    assert sum(model.features(X[:2], stream=i).shape[1] for i in (0, 1)) == n == model.transform(X[:2]).shape[1]


def test_only_streams_that_there_are_have_features() -> None:
    for stream in (2, -1, True, "0"):
        with pytest.raises(ValueError, match=f"stream={stream!r}, but the network has 2 streams: give 0 to 1"):
            fitted().features(X, stream=stream)  # type: ignore[arg-type]
    other = EquivariantNASClassifier("D4", "none", **SETTINGS).fit(X, y)
    with pytest.raises(ValueError, match="stream=0, but the network has none"):
        other.features(X, stream=0)


def test_a_model_is_the_same_in_a_file_and_in_plain_layers(tmp_path: Path) -> None:
    model = fitted("C4", "D1(90)")
    own, features = model.predict_proba(X), model.features(X, stream=1)
    with torch.inference_mode():
        plain = model.to_torch()(torch.from_numpy(IMAGES[:, None])).numpy()
    np.testing.assert_allclose(plain, own, atol=1e-5)
    save(model, tmp_path / "model.safetensors")
    for again in (load(tmp_path / "model.safetensors"), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(again.predict_proba(X), own)
        np.testing.assert_array_equal(again.features(X, stream=1), features)
        assert again.architecture_ == model.architecture_


@pytest.mark.parametrize("stream", [0, 1])
def test_equivariant_features_of_a_stream_move_by_its_own_group(stream: int) -> None:
    model = fitted("C4", "D1(90)")
    own, subgroup = model.features(X, stream=stream), model.architecture_.streams[stream]
    assert own.shape[1] == len(model.get_feature_names_out(stream=stream))
    for g in subgroup.elements:
        moved = transform_images(torch.from_numpy(IMAGES.copy()), D4, g).numpy()
        expected = model.move_features(own, g, stream=stream)
        np.testing.assert_allclose(model.features(moved, stream=stream), expected, atol=1e-4)
    assert move_retrieval(model, X, stream=stream) > np.mean(1 / np.arange(1, subgroup.order + 1))  # by chance
    other = next(g for g in D4.elements if g not in subgroup)
    with pytest.raises(ValueError, match=f"element={other} is none of the stream's group {re.escape(subgroup.name)}"):
        model.move_features(own, other, stream=stream)


def test_the_report_tells_what_each_stream_keeps() -> None:
    told = fitted().learned_symmetry_
    assert told.streams == ("D4", "C1")
    assert "Streams that keep a symmetry each: D4, C1." in str(told)
    assert EquivariantNASClassifier("D4", "none", **SETTINGS).fit(X, y).learned_symmetry_.streams == ()


def test_streams_may_be_subgroups() -> None:
    search = FixedStreams((D4.subgroup("C4"), D4.subgroup("D1(90)")))
    model = EquivariantNASClassifier("D4", search, **SETTINGS).fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), fitted("C4", "D1(90)").predict_proba(X))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # so little time does not suffice
@pytest.mark.parametrize("search", [FixedStreams(("D4", "C4", "C1")), "random_constraints"], ids=["streams", "random"])
def test_a_fit_with_a_budget_can_be_done_again_with_the_lighter_network(search: Any) -> None:
    images = np.kron(IMAGES, np.ones((3, 3)))
    settings: dict[str, Any] = {"group": "D4", "search": search, "random_state": 0}
    model = EquivariantNASClassifier(time_budget=0.5, **settings).fit(images, y)
    assert model.budget_record_["plan"]["is_light"]
    again = EquivariantNASClassifier(time_budget=model.budget_record_, **settings).fit(images, y)
    assert again.architecture_ == model.architecture_
    np.testing.assert_array_equal(again.predict_proba(images), model.predict_proba(images))


def test_a_narrow_network_has_a_field_for_each_stream() -> None:
    assert set(fitted(width=8).architecture_.fields) == {2}


def test_half_precision_is_taken() -> None:
    assert fitted(precision="bfloat16", max_epochs=8, batch_size=15).score(X, y) > 0.9


@pytest.mark.parametrize("size", [8, 24])
def test_the_default_networks_have_streams(size: int) -> None:
    images = np.kron(IMAGES[:60], np.ones((size // 8, size // 8)))
    model = EquivariantNASRegressor("D4", "streams", max_epochs=1, random_state=0).fit(images, X[:60].sum(1))
    assert [h.name for h in model.architecture_.streams] == ["D4", "C1"]
    assert model.architecture_.hidden


def test_another_fit_goes_on() -> None:
    model = EquivariantNASClassifier("D4", "streams", warm_start=True, **SETTINGS).fit(X, y)
    before = model.score(X, y)
    assert model.set_params(max_epochs=6).fit(X, y).score(X, y) > before
    assert model.architecture_.streams


@pytest.mark.parametrize(
    ("streams", "own", "match"),
    [
        (("D4",), {}, r"streams=\('D4',\) must name two"),
        (("D4", "C8"), {}, r"streams=\('D4', 'C8'\).*C8"),
        (("D4",) * 9, {"architecture": "plain", "width": None}, "D4, D4.* need a field each.*Give it more fields"),
        ((("D4", "C1"), "C1"), {}, "one subgroup for each stream"),
        (5, {}, "The 'streams' parameter"),
        ((3, 4), {}, r"streams=\(3, 4\)"),
        (None, {"architecture": FREE, "width": None}, "head='free'"),
        (None, {"averaging": "always"}, "no streams"),
        (None, {"augment": "group"}, "no streams"),
        (None, {"coordinates": "frame"}, "coordinates='frame'"),
        (None, {"architecture": CONSTRAINED, "width": None}, "search='streams' sets them"),
    ],
)
def test_what_cannot_be_is_refused(streams: Any, own: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        EquivariantNASClassifier("D4", FixedStreams(streams), **SETTINGS | own).fit(X, y)


def test_an_architecture_with_streams_is_taken_as_it_is_and_not_searched() -> None:
    own = Architecture(D4, 8, 1, 3, (4,), (3,), (False,), (("D4", "C1"),) * 2, mixing="streams")
    settings = SETTINGS | {"width": None, "architecture": own}
    model = EquivariantNASClassifier("D4", "none", **settings).fit(X, y)
    assert model.architecture_ == own
    with pytest.raises(ValueError, match="architecture has streams"):
        EquivariantNASClassifier("D4", "evolutionary", **settings).fit(X, y)
    with pytest.raises(ValueError, match="D4/C1.*search='streams' makes its own .*D4/C4"):
        EquivariantNASClassifier("D4", FixedStreams(("D4", "C4")), **settings).fit(X, y)
    with pytest.raises(ValueError, match="no streams"):
        EquivariantNASClassifier("D4", "none", averaging="always", **settings).fit(X, y)
    with pytest.raises(ValueError, match="search='relaxation' relaxes those with one"):
        EquivariantNASClassifier("D4", "relaxation", **settings).fit(X, y)
