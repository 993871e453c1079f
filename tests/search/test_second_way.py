"""The second way in a search: when it is proposed, how it is trained, and when it is the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skequinas.evidence.verdict import Evidence
from skequinas.groups import PointGroup
from skequinas.nn import Architecture, EquivariantNetwork, RandomMoves
from skequinas.search import (
    DifferentiableSearch,
    Evaluation,
    EvolutionarySearch,
    Proposal,
    Search,
    driver,
    run_search,
)
from skequinas.training import CLASSIFICATION, DataPart, TrainingSettings
from skequinas.training.augmentation import Moves

D4 = PointGroup.from_name("D4")
START = Architecture(D4, 9, 1, 2, (1, 1), (3, 3), (True, False), hidden=4)
TRAINING = TrainingSettings(batch_size=8)


def evidence_for(name: str, group: PointGroup = D4, chance: float = 0.005) -> dict[str, Evidence]:
    """Evidence that rejects all symmetries but those of one subgroup."""
    wanted = group.subgroup(name)
    return {
        h.name: Evidence(0.9, 0.01, *((0.0, 0.1, 0.6, 0.5) if h <= wanted else (1.0, 0.1, 0.001, 0.0001)), chance)
        for h in group.subgroups
    }


def told(proposal: Proposal, losses: Sequence[float], symmetry: str = "C4", chance: float = 0.005) -> Evaluation:
    """A made-up evaluation of a proposal with an untrained network."""
    network = EquivariantNetwork(proposal.architecture, torch.Generator().manual_seed(proposal.number)).eval()
    evidence = evidence_for(symmetry, proposal.architecture.group, chance)
    probe = proposal.probe or proposal.architecture.is_mixed
    values = np.array(losses, float)
    return Evaluation(proposal, network, values, values, 0.0, evidence if probe else None, calls={})


def drive(
    search: Search,
    ordinary: Sequence[float] = (0.1, 0.2),
    again: Sequence[float] = (0.5, 0.6),
    *,
    symmetry: str = "C4",
    chance: float = 0.005,
) -> list[Proposal]:
    """All proposals of a search, in order; constrained ones have a loss of about a half."""
    seen: list[Proposal] = []
    while proposals := search.ask():
        assert len(seen) < 20, "the search does not end"
        seen += proposals
        losses = [ordinary if p.ordinary else again if p.again else (0.5, 0.6) for p in proposals]
        search.tell([told(p, own, symmetry, chance) for p, own in zip(proposals, losses, strict=True)])
    return seen


def started(search: Search | None = None, *, averaging: bool = True, group: PointGroup = D4) -> Search:
    start = START if group == D4 else Architecture(group, 9, 1, 2, (1, 1), (5, 5), (True, False), hidden=4)
    search = EvolutionarySearch(1) if search is None else search
    return search.start(start, 8.0, TRAINING, 0, by_curve=True, averaging=averaging)


@pytest.mark.parametrize("search", [EvolutionarySearch(1), EvolutionarySearch(3), DifferentiableSearch()], ids=str)
def test_it_comes_last_once_and_from_the_start(search: Search) -> None:
    seen = drive(started(search), (0.7, 0.8))
    assert [p.ordinary for p in seen] == [False] * (len(seen) - 1) + [True]
    last = seen[-1]
    assert (last.parent, last.probe, last.toward) == (None, False, None)
    assert set(last.architecture.constraint_names) == {"C1"}
    assert last.architecture.averaged == D4.subgroup("C4")
    assert search.ask() == []
    assert [record["constraints"] for record in search.records_][-1] == str(last.architecture)


def test_without_it_nothing_else_is_different() -> None:
    with_it, without = started(EvolutionarySearch(3)), started(EvolutionarySearch(3), averaging=False)
    assert drive(with_it)[:-2] == drive(without)
    assert with_it.generation_ == without.generation_
    assert (with_it.full_cost() - with_it.cost(), without.full_cost() - without.cost()) == (
        3.0,
        0.0,
    )  # two of half, two in full


@pytest.mark.parametrize(("share", "final"), [(0.125, 3.0), (0.25, 6.0), (0.5, 8.0)])
@pytest.mark.parametrize(
    ("losses", "in_full"), [((0.1, 0.2), True), ((0.3, 0.75), True), ((0.51, 0.6), False), ((np.inf, 0.1), False)]
)
def test_where_it_is_ahead_by_then_it_is_trained_as_long_as_the_model(
    share: float, final: float, losses: tuple[float, float], in_full: bool
) -> None:
    search = started()
    (probe,) = search.ask()
    assert probe.by_curve
    evaluation = told(probe, (0.5, 0.6))
    evaluation.proposal = Proposal(**{**vars(probe), "epochs": 8.0 * share})
    search.tell([evaluation])
    assert search.final_epochs == final
    lengths = [(p.ordinary, p.again, p.epochs) for p in drive(search, losses) if p.like_the_model]
    first, longer = (True, False, 8.0 * share), (True, False, final)
    alike = (False, True, 8.0 * share)
    again = [(False, True, final)] * (losses == (0.1, 0.2))  # it is better beyond doubt then
    assert lengths == ([first, alike, longer, *again] if in_full else [first])
    assert [e.proposal.epochs for e in (search.ordinary_, search.again_) if e is not None][:1] == (
        [final] if in_full else [8.0 * share] if np.isfinite(losses[0]) else []
    )


@pytest.mark.parametrize(
    ("again", "in_full", "ordinary_wins"),
    [
        ((0.1, 0.3), True, True),
        ((0.05, 0.2), True, False),
        ((0.05, 0.15), False, False),
        ((0.05, 0.1), False, False),
        ((np.nan, np.nan), True, True),
    ],
)
def test_the_longer_trainings_are_spared_where_the_chosen_network_is_ahead_beyond_doubt(
    again: tuple[float, float], in_full: bool, ordinary_wins: bool
) -> None:
    search = started()
    (probe,) = search.ask()
    search.tell([replace(told(probe, (0.5, 0.6)), proposal=replace(probe, epochs=2.0))])
    lengths = [(p.ordinary, p.epochs) for p in drive(search, (0.1, 0.2), again) if p.like_the_model]
    assert lengths == [(True, 2.0), (False, 2.0)] + [(True, 6.0), (False, 6.0)] * in_full
    chosen = search.result()
    assert chosen is not None
    assert (chosen.proposal.ordinary, chosen.proposal.again) == (ordinary_wins, not ordinary_wins)


def test_a_longer_training_that_diverges_is_not_begun_anew() -> None:
    search = started()
    (probe,) = search.ask()
    search.tell([replace(told(probe, (0.5, 0.6)), proposal=replace(probe, epochs=2.0))])
    seen = []
    while proposals := search.ask():
        assert len(seen) < 20, "the search does not end"
        seen += proposals
        longer = any(p.ordinary and p.epochs > 2.0 for p in proposals)
        losses = (np.nan, np.nan) if longer else (0.1, 0.2) if proposals[0].ordinary else (0.5, 0.6)
        search.tell([told(p, losses) for p in proposals])
    assert [p.epochs for p in seen if p.ordinary] == [2.0, 6.0]
    assert search.ordinary_ is not None
    assert search.ordinary_.proposal.epochs == 2.0


@pytest.mark.parametrize(
    ("symmetry", "group", "wanted"),
    [("C1", "D4", False), ("D2(45)", "D4", True), ("C8", "D8", False), ("C4", "D8", True)],
)
def test_it_needs_a_symmetry_of_the_pixels(symmetry: str, group: str, wanted: bool) -> None:
    search = started(group=PointGroup.from_name(group))
    assert any(p.ordinary for p in drive(search, symmetry=symmetry)) == wanted


def test_where_nothing_was_learned_it_is_not_tried() -> None:
    assert not any(p.ordinary for p in drive(started(), chance=0.5))


@pytest.mark.parametrize(
    ("losses", "is_ordinary"),
    [((0.1, 0.2), True), ((0.5, 0.6), False), ((0.7, 0.8), False), ((0.2, 0.88), False), ((np.inf, 0.1), False)],
)
def test_it_is_the_result_where_it_is_clearly_better(losses: tuple[float, float], is_ordinary: bool) -> None:
    search = started()
    drive(search, losses)
    chosen = search.result()
    assert chosen is not None
    assert chosen.proposal.ordinary == is_ordinary
    assert [e.proposal.ordinary for e in search.population_] == [False]


@pytest.mark.parametrize("search", [EvolutionarySearch(1), EvolutionarySearch(3), DifferentiableSearch()], ids=str)
@pytest.mark.parametrize(
    ("losses", "ordinary_wins"),
    [((0.5, 0.6), True), ((0.05, 0.1), False), ((0.09, 0.22), False), ((np.nan, np.nan), True)],
)
def test_before_it_wins_the_chosen_network_is_trained_likewise(
    search: Search, losses: tuple[float, float], ordinary_wins: bool
) -> None:
    seen = drive(started(search), (0.1, 0.2), losses)
    ordinary, again = seen[-2:]
    assert [p.like_the_model for p in seen] == [False] * (len(seen) - 2) + [True, True]
    assert (ordinary.ordinary, again.again) == (True, True)
    assert (again.parent, again.epochs, again.training) == (None, ordinary.epochs, ordinary.training)
    assert again.architecture == search.population_[0].architecture
    chosen = search.result()
    assert chosen is not None
    assert chosen.proposal.ordinary == ordinary_wins
    assert chosen.proposal.again != ordinary_wins
    assert (search.settled_, search.ask()) == ((str(again.architecture), again.epochs), [])


@pytest.mark.parametrize("ordinary", [(0.5, 0.6), (0.7, 0.8), (np.inf, 0.1)])
def test_where_it_does_not_win_nothing_is_trained_again(ordinary: tuple[float, float]) -> None:
    search = started()
    assert not any(p.again for p in drive(search, ordinary))
    assert search.again_ is None


def test_until_they_are_compared_the_constrained_network_is_the_model() -> None:
    search = started()
    while not search.ordinary_:
        search.tell([told(p, (0.1, 0.2) if p.ordinary else (0.5, 0.6)) for p in search.ask()])
    chosen = search.result()
    assert chosen is search.constrained
    (again,) = search.ask()
    search.pending_ = [told(again, (np.nan, np.nan))]  # cut off, so nobody tells
    assert search.result() is chosen


def test_another_choice_with_the_same_symmetry_is_compared_too() -> None:
    search = started()
    drive(search)
    assert search.ask() == []
    other = search.population_[0]
    free = other.architecture.with_constraints((D4.subgroup("C4"),) * other.architecture.n_layers)
    proposal = Proposal(**{**vars(other.proposal), "architecture": free})
    search.population_ = [Evaluation(**{**vars(told(proposal, (0.5, 0.6))), "calls": {}})]
    assert search.result() is search.population_[0]
    (again,) = search.ask()
    assert (again.again, again.architecture) == (True, free)
    search.tell([told(again, (0.5, 0.6))])
    assert search.result() is search.ordinary_
    assert search.ask() == []


def test_without_a_clear_difference_the_ordinary_network_is_not_taken_for_its_fewer_parameters() -> None:
    search = started()
    drive(search, (0.1, 0.2), (0.1, 0.2))
    assert search.ordinary_ is not None
    search.ordinary_.proposal = Proposal(
        **{**vars(search.ordinary_.proposal), "architecture": search.architecture_.ordinary(D4.subgroup("C4"))}
    )
    assert search.result() is search.again_


def test_a_search_saved_between_the_two_goes_on(tmp_path: Path) -> None:
    search = started()
    search.augmented_, search.moves_ = True, Moves(shift=2, turns=True)
    while not search.ordinary_:
        search.tell([told(p, (0.1, 0.2) if p.ordinary else (0.5, 0.6)) for p in search.ask()])
    search.save(tmp_path / "search.safetensors")
    again = EvolutionarySearch.load(tmp_path / "search.safetensors")
    assert (again.augmented_, again.moves_) == (True, search.moves_)
    assert again.ask() == search.ask()
    assert [p.again for p in again.ask()] == [True]


def test_a_file_that_does_not_tell_for_what_length_they_were_compared_means_that_of_the_ordinary_network() -> None:
    search = started()
    drive(search)
    state, tensors = search.to_state()
    again = EvolutionarySearch.from_state(state | {"settled": state["settled"][0]}, tensors)
    assert again.settled_ == search.settled_
    assert again.ask() == []


def test_another_symmetry_is_not_compared_with() -> None:
    search = started()
    drive(search)
    other = search.architecture_.ordinary(D4.subgroup("D2(0)"))
    assert search.ordinary_ is not None
    search.ordinary_.proposal = Proposal(**{**vars(search.ordinary_.proposal), "architecture": other})
    chosen = search.result()
    assert chosen is not None
    assert not chosen.proposal.ordinary


def test_saved_and_loaded_it_is_still_the_result(tmp_path: Path) -> None:
    search = started()
    drive(search)
    search.save(tmp_path / "search.safetensors")
    again = EvolutionarySearch.load(tmp_path / "search.safetensors")
    before, after = search.result(), again.result()
    assert before is not None
    assert after is not None
    assert after.proposal == before.proposal
    assert (again.averaging_, again.ask()) == (True, [])
    x = torch.randn(3, 1, 9, 9)
    assert torch.equal(after.network(x), before.network.eval()(x))


def stripes() -> tuple[DataPart, DataPart]:
    """Data for training and validation whose two classes quarter turns exchange."""
    y = torch.arange(64) % 2  # stripes that quarter turns exchange; the two mirrors and half turns leave alone
    lines = torch.tensor([0.0, 1, 0, 0, 1, 0, 0, 1, 0]).expand(9, 9)
    X = torch.stack([lines if t else lines.T for t in y])[:, None]
    X = X + 0.3 * torch.randn(X.shape, generator=torch.Generator().manual_seed(0))
    data, validation = (
        DataPart(X[part], y[part], nn.Identity(), CLASSIFICATION) for part in (slice(0, 40), slice(40, 64))
    )
    return data, validation


@pytest.mark.parametrize("augmented", [True, False])
def test_both_are_trained_on_images_moved_as_those_of_the_model(
    augmented: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started_with: list[Moves] = []
    original = Moves.start

    def spy(self: Moves, seed: int) -> Callable[[Tensor], Tensor] | None:
        started_with.append(self)
        return original(self, seed)

    monkeypatch.setattr(driver, "borne_moves", lambda network, *_: Moves(shift=1))
    monkeypatch.setattr(Search, "_loses", lambda *_: True)
    monkeypatch.setattr(Moves, "start", spy)
    search = EvolutionarySearch(1, level=0.001).start(START, 8.0, TRAINING, 0, averaging=True, augmented=augmented)
    run_search(search, *stripes())
    symmetry = search.population_[0].architecture.symmetry
    shift = 1 if augmented else 0
    assert started_with == [Moves(shift, elements=symmetry), Moves(shift)]
    assert search.moves_ == (Moves(shift=1) if augmented else None)


@pytest.mark.parametrize("moved", [True, False])
def test_its_images_are_moved_and_no_others(moved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    original = RandomMoves.__call__

    def spy(self: RandomMoves, images: Tensor) -> Tensor:
        calls.append(str(self.subgroup))
        return original(self, images)

    monkeypatch.setattr(RandomMoves, "__call__", spy)
    data, validation = stripes()
    search = EvolutionarySearch(1, level=0.001).start(START, 8.0, TRAINING, 0, averaging=moved)
    run_search(search, data, validation)
    tried = [r["symmetry"] for r in search.records_ if "averaged" in r["constraints"]]
    assert set(calls) == set(tried)
    assert len(tried) == moved


def test_a_search_does_not_begin_with_a_network_that_is_averaged() -> None:
    with pytest.raises(ValueError, match="averaged over D4.*averaging='always'"):
        EvolutionarySearch().start(START.unconstrained(D4.whole), 1.0, TRAINING, 0)
