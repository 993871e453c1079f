"""Laws of the two criteria by which a search decides on a symmetry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import skequinas
from skequinas import AdaptiveSearch, DifferentiableSearch, EquivariantNASClassifier, EvolutionarySearch
from skequinas.io.files import read_file, write_file
from skequinas.search import Search

pytestmark = pytest.mark.usefixtures("one_thread")

X, Y = load_digits(n_class=4, return_X_y=True)


def fitted(search: Search) -> EquivariantNASClassifier:
    return EquivariantNASClassifier("C2", search, width=16, max_epochs=6, averaging="none", random_state=0).fit(X, Y)


@pytest.mark.parametrize("search", [EvolutionarySearch, DifferentiableSearch])
def test_costs_below_the_margin_are_accepted_and_evidence_is_kept(search: type[Search], tmp_path: Path) -> None:
    """Half turns of upright digits are broken, and cost less than half of all images."""
    by_evidence = fitted(search()).learned_symmetry_
    model = fitted(search(criterion="cost", margin=0.5))  # type: ignore[call-arg]
    by_cost = model.learned_symmetry_
    assert (by_evidence.group, by_cost.group) == ("C1", "C2")
    assert by_cost.margin == 0.5
    assert by_cost.evidence["C2"].p_value == by_evidence.evidence["C2"].p_value <= 0.01
    assert by_cost.evidence["C2"].cost_high < 0.5
    assert by_cost.evidence["C1"].cost_low == by_cost.evidence["C1"].cost_high == 0
    assert "costs less than 50.0 points" in str(by_cost)
    assert np.abs(model.predict_proba(X) - model.predict_proba(X[:, ::-1])).max() < 1e-5  # rows backwards: a half turn
    skequinas.save(model, tmp_path / "model.safetensors")
    loaded = skequinas.load(tmp_path / "model.safetensors").learned_symmetry_
    assert str(loaded) == str(by_cost)
    assert loaded.to_dict() == by_cost.to_dict()


def test_what_was_not_shown_to_be_cheap_is_not_imposed() -> None:
    assert fitted(EvolutionarySearch(criterion="cost", margin=1e-6)).learned_symmetry_.group == "C1"


@pytest.mark.parametrize(
    "search",
    [
        EvolutionarySearch(criterion="cost", guided=False),
        DifferentiableSearch(criterion="cost", discretize=False),
        AdaptiveSearch(criterion="cost", discretize=False),
    ],
)
def test_costs_are_refused_where_they_would_decide_on_nothing(search: Search) -> None:
    with pytest.raises(ValueError, match="criterion='cost' decides on nothing"):
        fitted(search)


def test_models_of_before_have_neither_costs_nor_a_margin(tmp_path: Path) -> None:
    model = fitted(EvolutionarySearch())
    path = tmp_path / "model.safetensors"
    skequinas.save(model, path)
    state, tensors = read_file(path, "model")
    learned, searched = state["learned_symmetry"], state["search"]
    del learned["margin"]
    for name in ("criterion", "margin"):
        del searched["settings"][name]
    for evidence in (learned["evidence"], searched["evidence"]):
        for name in evidence:
            evidence[name] = evidence[name][:7]
    write_file(path, "model", state, tensors)
    loaded = skequinas.load(path)
    assert str(loaded.learned_symmetry_).splitlines()[0] == str(model.learned_symmetry_).splitlines()[0]
    assert loaded.learned_symmetry_.verdicts == model.learned_symmetry_.verdicts
    assert loaded.learned_symmetry_.margin is None
    assert "C1" in loaded.learned_symmetry_.confidence_set


@pytest.mark.parametrize("wrong", [{"criterion": "price"}, {"margin": 0.0}, {"margin": -0.1}])
@pytest.mark.parametrize("search", [EvolutionarySearch, DifferentiableSearch, AdaptiveSearch])
def test_bad_criteria_are_refused(search: type[Search], wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        fitted(search(**wrong))
