"""What every search must do (the conformance suite), then the specifics of each."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn.base import clone
from torch import Tensor, nn

from skequinas.evidence import Evidence, gather_evidence, largest_accepted
from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import Architecture, EquivariantNetwork, inherit, transform_images
from skequinas.search import (
    AdaptiveSearch,
    ConstraintRelaxation,
    DifferentiableSearch,
    Evaluation,
    EvolutionarySearch,
    FixedStreams,
    LearnedAugmentation,
    NoSearch,
    PenalisedSearch,
    Proposal,
    RandomConstraints,
    RandomSearch,
    ResidualPathway,
    Search,
    choose,
    driver,
    resolve_search,
    run_search,
)
from skequinas.search.evolutionary import pareto_front
from skequinas.training import CLASSIFICATION, DataPart, DivergenceError, Monitor, TrainingSettings, evaluate
from skequinas.training.monitor import CandidateStage

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
SIZE = 6
START = Architecture(D4, SIZE, 1, 2, fields=(1, 1), kernel_sizes=(3, 3), pools=(True, False), hidden=4)
TRAINING = TrainingSettings(learning_rate=0.01, batch_size=16)

SEARCHES: dict[str, Search] = {
    "evolutionary": EvolutionarySearch(n_generations=2, epochs_per_generation=0.5, probe_epochs=1, population_size=2),
    "evolutionary, unguided": EvolutionarySearch(
        n_generations=2, epochs_per_generation=0.5, warmup_epochs=1, population_size=2, guided=False
    ),
    "evolutionary, all moves again": EvolutionarySearch(
        n_generations=2,
        epochs_per_generation=0.5,
        warmup_epochs=1,
        population_size=1,
        guided=False,
        moves="all",
        revisit=True,
    ),
    "evolutionary, two fronts, evolved": EvolutionarySearch(
        n_generations=2,
        epochs_per_generation=0.5,
        warmup_epochs=1,
        population_size=1,
        selection="two fronts",
        final="evolved",
        guided=False,
    ),
    "random": RandomSearch(n_generations=3, epochs_per_generation=0.5, warmup_epochs=1, population_size=2),
    "random constraints": RandomConstraints(),
    "differentiable": DifferentiableSearch(1, epochs_per_generation=0.5, alpha_interval=1),
    "differentiable, a mixture": DifferentiableSearch(1, alpha_interval=1, discretize=False),
    "adaptive": AdaptiveSearch(1, epochs_per_generation=0.5),
    "adaptive, resilient, as it is": AdaptiveSearch(1, price=1.0, discretize=False),
    "residual": ResidualPathway(1, epochs_per_generation=0.5),
    "residual, as it is": ResidualPathway(1, normalised=False, residual_decay=0.01, discretize=False),
    "penalised": PenalisedSearch([0.0, 1.0], epochs_per_weight=1),
    "penalised, latent": PenalisedSearch([0.5, 2.0], kind="latent", adapted=True, epochs_per_weight=1),
    "augmentation": LearnedAugmentation(2, epochs_per_round=1),
    "relaxation": ConstraintRelaxation(),
    "streams": FixedStreams(),
    "none": NoSearch(),
}
State = dict[str, Any]


@pytest.fixture(params=SEARCHES.values(), ids=SEARCHES)
def search(request: pytest.FixtureRequest) -> Search:
    """A fresh copy of every search."""
    fresh: Search = clone(request.param)
    return fresh


def started(search: Search, seed: int = 0, architecture: Architecture = START) -> Search:
    if isinstance(search, FixedStreams):
        architecture = replace(architecture, fields=(2, 2))  # one for each stream
    return clone(search).start(architecture, 2.0, TRAINING, seed)


def images_of(n: int, seed: int) -> DataPart:
    """Horizontal and vertical stripes."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % 2
    stripes = torch.tensor([0.0, 1, 0, 0, 1, 0]).expand(SIZE, SIZE)
    images = torch.stack([stripes if t else stripes.T for t in targets]) + 0.3 * torch.randn(
        n, SIZE, SIZE, generator=generator
    )
    return DataPart(images[:, None], targets, nn.Identity(), CLASSIFICATION)


DATA, VALIDATION = images_of(48, 0), images_of(24, 1)


class Steps(Monitor):
    """Tells a function of every step."""

    def __init__(self, on_step: Callable[[CandidateStage], None]) -> None:
        super().__init__()
        self.on_step = on_step

    def step(self, stage: CandidateStage | None = None, n_batches: int = 1) -> bool:
        assert stage is not None
        self.on_step(stage)
        return super().step(stage, n_batches)


def run(search: Search, on_step: Callable[[CandidateStage], None] | None = None) -> Search:
    run_search(search, DATA, VALIDATION, None if on_step is None else Steps(on_step))
    return search


def evidence_for(name: str) -> dict[str, Evidence]:
    """Evidence that rejects all symmetries but those of one subgroup."""
    wanted = D4.subgroup(name)
    return {
        h.name: Evidence(0.9, 0.01, *((0.0, 0.1, 0.6, 0.5) if h <= wanted else (1.0, 0.1, 0.001, 0.0001)), 0.005)
        for h in D4.subgroups
    }


def told(
    proposal: Proposal,
    losses: Sequence[float] = (0.5, 0.6),
    errors: Sequence[float] = (0.0, 1.0),
    symmetry: str = "D1(45)",
) -> Evaluation:
    """A made-up evaluation of a proposal, with an untrained network; a probe finds evidence for the symmetry."""
    network = EquivariantNetwork(proposal.architecture, torch.Generator().manual_seed(0))
    evidence = evidence_for(symmetry) if proposal.probe else None
    calls = None if proposal.toward is None else dict.fromkeys(range(proposal.architecture.n_layers - 1), 0.01)
    return Evaluation(proposal, network, np.array(losses, float), np.array(errors, float), 0.0, evidence, calls=calls)


def evaluation(
    constraints: str, losses: Sequence[float], errors: Sequence[float] | None = None, number: int = 0
) -> Evaluation:
    """A made-up evaluation of the architecture with these constraints, such as "D4 D4 C4"."""
    architecture = START.with_constraints(tuple(D4.subgroup(name) for name in constraints.split()))
    proposal = Proposal(number, None, 0, architecture, 1.0, TRAINING, 0)
    return told(proposal, losses, losses if errors is None else errors)


def by_noise(proposals: Sequence[Proposal], seed: int = 0) -> list[Evaluation]:
    """Evaluations with random errors."""
    rng = np.random.default_rng([seed, len(proposals)])
    return [told(p, rng.random(8), rng.integers(0, 2, 8)) for p in proposals]


def drive(search: Search, judge: Callable[[Sequence[Proposal]], list[Evaluation]] = by_noise) -> list[list[Proposal]]:
    """All rounds of proposals, evaluated without any training."""
    rounds = []
    while proposals := search.ask():
        assert len(rounds) < 20, "the search does not end"
        rounds.append(proposals)
        search.tell(judge(proposals))
    return rounds


def without_time(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def assert_same_search(a: Search, b: Search) -> None:
    """Equal settings, records and populations, the weights bit for bit."""
    assert type(a) is type(b)
    assert a.get_params() == b.get_params()
    assert (a.generation_, a.shares_, a.share_history_) == (b.generation_, b.shares_, b.share_history_)
    assert a.evidence_ == b.evidence_
    assert without_time(a.records_) == without_time(b.records_)
    for e, f in itertools.zip_longest(a.population_, b.population_):
        assert (e.proposal, e.calls) == (f.proposal, f.calls)
        np.testing.assert_array_equal(e.losses, f.losses)
        np.testing.assert_array_equal(e.errors, f.errors)
        left, right = e.network.state_dict(), f.network.state_dict()
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)


# --- conformance: every search ---


def test_settings_can_be_read_set_and_cloned(search: Search) -> None:
    settings = search.get_params()
    assert clone(search).get_params() == settings
    assert type(search)().set_params(**settings).get_params() == settings


def test_asking_changes_nothing(search: Search) -> None:
    search = started(search)
    for _ in range(3):
        assert search.ask() == search.ask()
        search.tell(by_noise(search.ask()))


def test_before_it_is_told_anything_a_search_has_no_result(search: Search) -> None:
    search = started(search)
    assert search.result() is None
    assert (search.population_, search.records_, search.generation_) == ([], [], 0)


def test_proposals_are_numbered_and_keep_the_shape_of_the_network(search: Search) -> None:
    rounds = drive(started(search))
    assert [p.number for proposals in rounds for p in proposals] == list(range(sum(map(len, rounds))))
    for generation, proposals in enumerate(rounds):
        assert {p.generation for p in proposals} == {generation}
        assert len({(p.architecture, p.training) for p in proposals}) == len(proposals)
        assert all(p.architecture.with_constraints(()) == START for p in proposals)
        assert all(p.epochs > 0 for p in proposals)


def test_parents_are_members_of_the_population(search: Search) -> None:
    search = started(search)
    while proposals := search.ask():
        members = {e.proposal.number for e in search.population_}
        assert {p.parent for p in proposals} <= (members or {None})
        search.tell(by_noise(proposals))


def test_the_proposals_of_a_generation_share_their_seed_and_training(search: Search) -> None:
    rounds = drive(started(search))
    for proposals in rounds:
        assert len({p.seed for p in proposals}) == 1
        alike = [p for p in proposals if not p.probe or len(proposals) == 1]
        # but for the penalty, where that is what is searched
        assert len({(p.epochs, replace(p.training, invariance=None)) for p in alike}) == 1
    assert len({proposals[0].seed for proposals in rounds}) == len(rounds)


def test_the_same_seed_makes_the_same_proposals(search: Search) -> None:
    assert drive(started(search, 7)) == drive(started(search, 7))


def test_another_seed_makes_other_proposals(search: Search) -> None:
    proposals = [p for one in drive(started(search, 7)) for p in one]
    other = [p for one in drive(started(search, 8)) for p in one]
    assert not proposals or proposals != other


def test_every_proposal_leaves_a_record(search: Search) -> None:
    search = started(search)
    rounds = drive(search)
    proposals = [p for one in rounds for p in one]
    assert [r["candidate"] for r in search.records_] == [p.number for p in proposals]
    assert [r["parent"] for r in search.records_] == [-1 if p.parent is None else p.parent for p in proposals]
    assert [r["constraints"] for r in search.records_] == [str(p.architecture) for p in proposals]
    assert [r["n_parameters"] for r in search.records_] == [p.architecture.n_parameters for p in proposals]


def test_the_result_is_chosen_from_the_population(search: Search) -> None:
    search = started(search)
    if drive(search):
        assert search.result() is choose(search.population_, search.tolerance)


def test_what_diverged_is_never_chosen_nor_a_parent(search: Search) -> None:
    def last_diverges(proposals: Sequence[Proposal]) -> list[Evaluation]:
        evaluations = by_noise(proposals)
        if len(evaluations) > 2:
            evaluations[-1].losses[:] = np.nan
        return evaluations

    search = started(search)
    drive(search, last_diverges)
    assert not any(e.diverged for e in search.population_)


def test_global_random_states_are_left_alone(search: Search) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    run(started(search))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


class _StopError(Exception):
    """Somebody pressed the red button."""


@pytest.mark.parametrize("generation", [1, *(pytest.param(g, marks=pytest.mark.exhaustive) for g in (0, 2, 99))])
def test_saved_in_the_middle_and_loaded_a_search_goes_on_as_if_never_stopped(
    search: Search, generation: int, tmp_path: Path
) -> None:
    def stop(stage: CandidateStage) -> None:
        if stage.generation == generation:
            raise _StopError

    whole = run(started(search))
    stopped = started(search)
    with suppress(_StopError):
        run(stopped, on_step=stop)
    stopped.save(tmp_path / "search.safetensors")
    loaded = type(search).load(tmp_path / "search.safetensors")
    assert_same_search(loaded, stopped)
    assert_same_search(run(loaded), whole)
    chosen, expected = loaded.result(), whole.result()
    assert (chosen and chosen.proposal) == (expected and expected.proposal)


def test_a_loaded_network_computes_the_same(search: Search, tmp_path: Path) -> None:
    search = run(started(search))
    search.save(tmp_path / "search")
    for e, f in zip(search.population_, type(search).load(tmp_path / "search").population_, strict=True):
        np.testing.assert_array_equal(evaluate(f.network, VALIDATION)[0], e.losses)


def test_a_file_of_another_search_is_refused(search: Search, tmp_path: Path) -> None:
    other: Search = NoSearch() if not isinstance(search, NoSearch) else DifferentiableSearch()
    started(other).save(tmp_path / "other")
    with pytest.raises(ValueError, match=rf"path=.*other.* holds {type(other).__name__}, not {type(search).__name__}"):
        type(search).load(tmp_path / "other")


def test_a_file_of_something_else_is_refused(search: Search, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "tensors")
    with pytest.raises(ValueError, match=r"path=.*tensors.* no search"):
        type(search).load(tmp_path / "tensors")


@pytest.mark.parametrize("content", [b"", b"not a search", bytes(100)], ids=["empty", "text", "zeros"])
def test_a_file_of_another_format_is_refused(search: Search, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(ValueError, match=r"path=.*text"):
        type(search).load(tmp_path / "text")


def test_a_saved_search_holds_json_and_arrays_only(search: Search, tmp_path: Path) -> None:
    from safetensors import safe_open

    search = run(started(search))
    search.save(tmp_path / "search")
    with safe_open(tmp_path / "search", framework="pt") as file:
        assert json.loads(file.metadata()["skequinas"].partition(" ")[2])["search"] == type(search).__name__


# --- the loop ---


def test_one_candidate_that_diverges_is_dropped_and_the_search_goes_on() -> None:
    def fail(stage: CandidateStage) -> None:
        if stage.candidate == 3:
            raise DivergenceError("made up")

    search = run(started(SEARCHES["evolutionary, unguided"]), on_step=fail)
    assert search.generation_ == 3
    assert 3 not in [e.proposal.number for e in search.population_]
    assert 3 not in [record["parent"] for record in search.records_]
    assert search.records_[3]["validation_loss"] == np.inf
    assert search.result() is not None


@pytest.mark.parametrize("name", ["evolutionary", "random", "differentiable"])
def test_when_all_candidates_diverge_there_is_one_clear_error(name: str) -> None:
    search = clone(SEARCHES[name]).start(START, 2.0, TrainingSettings(learning_rate=1e30, batch_size=8), 0)
    with pytest.raises(DivergenceError, match=r"Generation \d left no candidate.*Reduce learning_rate="):
        run(search)


@pytest.mark.parametrize("name", ["evolutionary", "random", "differentiable"])
def test_the_loop_trains_every_proposal_for_its_epochs(name: str) -> None:
    steps: list[int] = []
    search = run(started(SEARCHES[name]), on_step=lambda stage: steps.append(stage.candidate))
    for record in search.records_:
        assert steps.count(record["candidate"]) == max(1, round(record["epochs"] * 3))
        assert record["seconds"] > 0


def test_search_names_are_resolved_to_fresh_searches() -> None:
    for name in ("evolutionary", "random", "differentiable", "none"):
        assert resolve_search(name) is not resolve_search(name)
    own = EvolutionarySearch(n_generations=7)
    resolved = resolve_search(own)
    assert resolved is not own
    assert resolved.get_params() == own.get_params()
    with pytest.raises(ValueError, match=r"search='annealing' is unknown. Use one of 'evolutionary'"):
        resolve_search("annealing")


@pytest.mark.parametrize("setting", [{"moves": "none"}, {"optimizer": "lion"}, {"schedule": "sometimes"}], ids=str)
def test_an_unknown_setting_is_refused(setting: dict[str, str]) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        run(started(EvolutionarySearch(1, warmup_epochs=0.3, epochs_per_generation=0.3, **setting)))


# --- the choice ---


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([("D4 D4 D4", [1, 1, 1]), ("C1 C1 C1", [1, 1, 1])], 0),
        ([("C1 C1 C1", [1, 1, 1]), ("D4 D4 D4", [1, 1, 1])], 1),
        ([("C1 C1 C1", [1, 1, 1]), ("D4 D4 D4", [2, 2, 2])], 0),  # worse beyond doubt: no spread
        ([("C1 C1 C1", [1, 1, 1]), ("D4 D4 D4", [3, 0.5, 0.4])], 1),  # worse, but by one sample
        ([("C4 C4 C4", [1, 1, 1]), ("D4 D4 D4", [3, 3, 3]), ("C1 C1 C1", [1, 1, 1])], 0),
        ([("D4 D4 C4", [1, 1, 1]), ("C4 C4 C4", [1, 1, 1])], 0),  # as symmetric, fewer parameters
        ([("C4 C4 C4", [1, 1, 1]), ("D4 D4 C4", [1, 1, 1])], 1),
        ([("D4 D4 D1(0)", [1, 1.2, 1]), ("D4 D4 D1(90)", [1, 1.1, 1])], 1),  # alike but for the loss
        ([("D4 D4 D4", [np.nan, 0, 0]), ("C1 C1 C1", [1, 1, 1])], 1),
        ([("D4 D4 D4", [np.inf, 0, 0]), ("C1 C1 C1", [1, 1, 1])], 1),
    ],
)
def test_the_most_symmetric_candidate_within_the_tolerance_is_chosen(
    candidates: list[tuple[str, list[float]]], chosen: int
) -> None:
    evaluations = [evaluation(constraints, losses, number=i) for i, (constraints, losses) in enumerate(candidates)]
    assert choose(evaluations).proposal.number == chosen


def test_the_tolerance_counts_standard_errors_of_the_difference() -> None:
    """The losses differ by 0, 0, 3 and 3: 1.5 in the mean, with a standard error of 0.75."""
    free, bound = evaluation("C1 C1 C1", [5, 9, 1, 4]), evaluation("D4 D4 D4", [5, 9, 4, 7])
    assert choose([free, bound], tolerance=1.99) is free
    assert choose([free, bound], tolerance=2.01) is bound
    assert choose([free, bound], tolerance=0) is free


# --- evolution ---

EVOLUTIONS = ["evolutionary", "evolutionary, unguided", "evolutionary, all moves again", "random"]
LADDERS = ["D4 D4 D4", "D4 D4 C4", "D4 C4 C2", "D4 D2(0) D1(90)", "C4 C4 C1", "D4 D4 C1", "C1 C1 C1", "C4 C2 C2"]


def expected_children(constraints: str, moves: str) -> set[tuple[str, ...]]:
    """DESIGN.md, section 4, read word by word."""
    names = tuple(constraints.split())
    head = D4.subgroup(names[-1])
    lower = [h for h in D4.subgroups if h < head]
    if moves == "maximal":
        lower = [h for h in lower if not any(h < k for k in lower)]
    children = {(*names[:-1], h.name) for h in lower}
    for layer in range(len(names) - 1):
        children.add((*names[:layer], names[layer + 1], *names[layer + 1 :]))
    return children - {names}


@pytest.mark.parametrize("revisit", [False, True])
@pytest.mark.parametrize("moves", ["all", "maximal"])
@pytest.mark.parametrize("constraints", LADDERS)
def test_a_parent_yields_itself_and_its_relaxations(constraints: str, moves: str, revisit: bool) -> None:
    search = started(EvolutionarySearch(guided=False, moves=moves, revisit=revisit))
    search.tell([evaluation(constraints, [1, 0])])
    proposals = search.ask()
    expected = expected_children(constraints, moves)
    if not expected and not revisit:
        assert proposals == []
        return
    assert {p.architecture.constraint_names for p in proposals} == {tuple(constraints.split()), *expected}
    assert {p.parent for p in proposals} == {0}


def test_several_parents_yield_every_child_once() -> None:
    search = started(EvolutionarySearch(guided=False, moves="all", population_size=3))
    search.tell([evaluation(c, [1, 0], number=i) for i, c in enumerate(["D4 D4 D4", "D4 D4 C4", "D4 C4 C4"])])
    proposals = search.ask()
    names = [p.architecture.constraint_names for p in proposals]
    assert len(set(names)) == len(names)
    assert set(names) >= expected_children("D4 D4 D4", "all") | expected_children("D4 C4 C4", "all")


@pytest.mark.parametrize("revisit", [False, True])
def test_what_was_tried_and_dropped_comes_back_only_where_revisiting_is_allowed(revisit: bool) -> None:
    def first_wins(proposals: Sequence[Proposal]) -> list[Evaluation]:
        return [told(p, [i, i], [i, i]) for i, p in enumerate(proposals)]

    rounds = drive(started(EvolutionarySearch(3, guided=False, population_size=1, revisit=revisit)), first_wins)
    assert len(rounds) == (4 if revisit else 2)
    if revisit:
        assert {p.architecture for p in rounds[1]} == {p.architecture for p in rounds[3]}


def test_a_constraint_contains_that_of_the_next_layer() -> None:
    for seed in range(3):
        for name in EVOLUTIONS:
            for p in itertools.chain(*drive(started(SEARCHES[name], seed))):
                constraints = p.architecture.constraints
                assert all(k <= h for h, k in itertools.pairwise(constraints))


@given(st.lists(st.tuples(st.sampled_from(LADDERS), st.integers(0, 4)), min_size=1, max_size=12), st.integers(1, 5))
def test_the_pareto_front_stays_and_the_population_is_filled_by_error(
    candidates: list[tuple[str, int]], population_size: int
) -> None:
    evaluations = [evaluation(c, [error / 4], number=i) for i, (c, error) in enumerate(candidates)]
    keys = {(e.architecture.n_parameters, e.error) for e in evaluations}
    expected = {a for a in keys if not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in keys)}
    front = pareto_front(evaluations)
    assert sorted((e.architecture.n_parameters, e.error) for e in front) == sorted(expected)

    search = started(EvolutionarySearch(population_size=population_size, guided=False))
    search.tell(evaluations)
    kept = {e.proposal.number for e in search.population_}
    assert len(kept) == len(search.population_) == max(len(front), min(population_size, len(evaluations)))
    assert kept >= {e.proposal.number for e in front}
    filled = [e.error for e in search.population_ if e not in front]
    dropped = [e.error for e in evaluations if e.proposal.number not in kept]
    assert max(filled, default=0) <= min(dropped, default=1)


def outputs_of(network: EquivariantNetwork, train: bool) -> Tensor:
    network = copy.deepcopy(network).train(train)
    with torch.no_grad():
        return network(VALIDATION.images)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", EVOLUTIONS)
def test_children_begin_at_the_function_of_their_parent(name: str, train: bool) -> None:
    search = started(SEARCHES[name])
    while proposals := search.ask():
        parents = {e.proposal.number: e.network for e in search.population_}
        evaluations = []
        for p in proposals:
            if p.parent is None:
                network = EquivariantNetwork(p.architecture, torch.Generator().manual_seed(0))
            elif not p.architecture.symmetry <= parents[p.parent].architecture.symmetry:
                network = inherit(parents[p.parent], p.architecture)  # the head is tightened
            else:
                network = inherit(parents[p.parent], p.architecture)
                expected, begins = outputs_of(parents[p.parent], train), outputs_of(network, train)
                torch.testing.assert_close(begins, expected, rtol=1e-4, atol=1e-5)
            evidence = evidence_for("C2") if p.probe else None
            evaluations.append(Evaluation(p, network, *evaluate(network, VALIDATION), 0.0, evidence, calls={0: 0.01}))
        search.tell(evaluations)


def test_without_learning_all_children_stay_as_good_as_their_parent() -> None:
    """They inherit its function and see the same batches, so even batch norm's statistics agree."""
    settings = {"learning_rate": 1e-12, "warmup_epochs": 1, "epochs_per_generation": 1, "moves": "all"}
    search = run(started(EvolutionarySearch(1, guided=False, **settings)))
    losses = [record["validation_loss"] for record in search.records_[1:]]
    assert len(losses) == 10
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


# --- guidance ---


@pytest.mark.parametrize("symmetry", D4.subgroups, ids=str)
def test_a_guided_search_asks_a_free_head_and_tightens_it_to_the_symmetry_that_is_accepted(symmetry: Subgroup) -> None:
    search = started(EvolutionarySearch(4))
    rounds = drive(search, lambda proposals: [told(p, symmetry=symmetry.name) for p in proposals])
    first, second, *others = rounds
    assert [(p.architecture.constraint_names, p.probe) for p in first] == [(("D4", "D4", "C1"), True)]
    assert [(p.architecture.constraint_names, p.parent) for p in second] == [(("D4", "D4", symmetry.name), 0)]
    assert {p.architecture.constraints[-1] for proposals in others for p in proposals} <= {symmetry}
    assert bool(others) == (symmetry != D4.whole)
    assert search.symmetry_ == symmetry
    chosen = search.result()
    assert chosen is not None
    assert chosen.architecture.symmetry == symmetry


def called(proposals: Sequence[Proposal], calls: dict[int, float]) -> list[Evaluation]:
    evaluations = [told(p, symmetry="C4") for p in proposals]
    for e in evaluations:
        e.calls = None if e.proposal.probe else calls
    return evaluations


@pytest.mark.parametrize(
    ("calls", "tried"),
    [
        ({}, []),
        ({0: 0.5, 1: 0.06}, []),
        ({0: 0.5, 1: 0.04}, ["D4 C4 C4"]),
        ({0: 0.03, 1: 0.04}, ["C4 C4 C4", "D4 C4 C4"]),
        ({0: 0.04, 1: 0.03}, ["D4 C4 C4", "C4 C4 C4"]),
    ],
)
def test_only_relaxations_that_the_gradients_call_for_are_tried_the_most_significant_first(
    calls: dict[int, float], tried: list[str]
) -> None:
    rounds = drive(started(EvolutionarySearch(10)), lambda proposals: called(proposals, calls))
    seen = list(dict.fromkeys(p.architecture.constraint_names for ps in rounds[2:] for p in ps))
    assert [" ".join(names) for names in seen if names != ("D4", "D4", "C4")] == tried
    assert len(rounds) == 2 + len(tried)


def test_a_guided_search_goes_on_with_the_one_network_that_is_better_beyond_doubt() -> None:
    for gain, kept in ((0.0, ("D4", "D4", "C4")), (0.2, ("D4", "C4", "C4"))):
        search = started(EvolutionarySearch(3))
        for _ in range(3):
            proposals = search.ask()
            losses = [(0.5, 0.6) if p is proposals[0] else (0.5 - gain, 0.6 - gain) for p in proposals]
            search.tell([told(p, loss, loss, symmetry="C4") for p, loss in zip(proposals, losses, strict=True)])
        assert [e.architecture.constraint_names for e in search.population_] == [kept]


def test_gradients_are_asked_of_what_the_search_goes_on_with_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, EquivariantNetwork]] = []
    search = started(EvolutionarySearch(3, probe_epochs=1, epochs_per_generation=0.5))

    def p_values(network: EquivariantNetwork, *_: Any) -> dict[int, float]:
        asked.append((search.generation_, network))
        return {0: 0.02, 1: 0.01}

    monkeypatch.setattr(driver, "relaxation_p_values", p_values)
    monkeypatch.setattr(driver, "gather_evidence", lambda *_: evidence_for("C4"))
    run(search)
    assert search.generation_ == 4
    assert len(search.records_) == 6
    assert [generation for generation, _ in asked] == [2, 3]  # not of the first network, nor of the last generation
    more = EvolutionarySearch.from_state(*search.to_state())
    more.n_generations = 4
    assert len(more.untested_) == 1  # a search that may go on asks what it left out


def test_with_a_level_of_one_every_layer_that_can_be_relaxed_is_called_for() -> None:
    rounds = drive(started(EvolutionarySearch(10, call_level=1.0)), lambda ps: called(ps, {0: 1.0}))
    assert [" ".join(proposals[-1].architecture.constraint_names) for proposals in rounds[2:]] == ["C4 C4 C4"]


def test_without_a_level_for_calls_one_more_layer_is_relaxed_in_each_generation() -> None:
    rounds = drive(started(EvolutionarySearch(10, call_level=None)), lambda ps: [told(p, symmetry="C4") for p in ps])
    assert all(p.toward is None for proposals in rounds for p in proposals)
    newest = [" ".join(proposals[-1].architecture.constraint_names) for proposals in rounds]
    assert newest == ["D4 D4 C1", "D4 D4 C4", "D4 C4 C4", "C4 C4 C4"]


def test_before_a_candidate_is_ready_the_result_is_the_first_network_with_its_head_tightened() -> None:
    search = started(EvolutionarySearch(3))
    search.tell([told(p, symmetry="C4") for p in search.ask()])
    chosen = search.result()
    assert chosen is not None
    assert chosen.architecture.constraint_names == ("D4", "D4", "C4") == chosen.network.architecture.constraint_names
    assert not chosen.proposal.probe
    assert search.population_[0].proposal.probe


def test_a_search_whose_first_network_diverged_has_nothing_to_go_on_with() -> None:
    search = started(EvolutionarySearch(2))
    (probe,) = (told(p) for p in search.ask())
    probe.losses[:] = np.nan
    search.tell([probe])
    assert (search.symmetry_, search.population_, search.result(), search.ask()) == (None, [], None, [])


def test_in_the_trivial_group_there_is_nothing_to_ask() -> None:
    architecture = Architecture(PointGroup(1), SIZE, 1, 2, (1, 1), (3, 3), (True, False), hidden=4)
    rounds = drive(started(EvolutionarySearch(3), architecture=architecture))
    assert [[p.probe for p in proposals] for proposals in rounds] == [[False]]


@pytest.mark.parametrize("accepted", D4.subgroups, ids=str)
def test_the_largest_accepted_symmetry_is_found(accepted: Subgroup) -> None:
    assert largest_accepted(D4, evidence_for(accepted.name), 0.01) == accepted


def test_of_several_accepted_symmetries_as_large_the_one_with_the_lowest_loss_is_taken() -> None:
    mirrors = {
        "D1(0)": Evidence(0.9, 0.0, 0.1, 0.1, 0.3, 0.3, 0.005),
        "D1(90)": Evidence(0.9, 0.0, 0.05, 0.1, 0.2, 0.2, 0.005),
    }
    evidence = evidence_for("C1") | mirrors
    assert largest_accepted(D4, evidence, 0.01) == D4.subgroup("D1(90)")
    assert largest_accepted(D4, evidence, 0.25) == D4.subgroup("D1(0)")
    assert largest_accepted(D4, evidence, 0.4) == D4.trivial


def test_the_evidence_is_the_rise_of_the_loss_by_averaging_over_a_subgroup() -> None:
    network = EquivariantNetwork(START.with_constraints((D4.trivial,) * 3), torch.Generator().manual_seed(0))
    network.eval()
    inputs, targets = VALIDATION.images, VALIDATION.targets
    evidence = gather_evidence(network, VALIDATION, D4)
    assert list(evidence) == [h.name for h in D4.subgroups]
    assert evidence["C1"][2:5] == (0, 0, 1)
    with torch.no_grad():
        outputs = network(inputs)
        factor = min(2.0 ** (np.arange(-24, 9) / 4), key=lambda s: CLASSIFICATION.loss(s * outputs, targets).mean())
    for h in D4.subgroups:
        with torch.no_grad():
            mean = torch.stack([network(transform_images(inputs, D4, g)) for g in h.elements]).mean(0)
            rise = CLASSIFICATION.loss(factor * mean, targets) - CLASSIFICATION.loss(factor * outputs, targets)
        right = (mean.argmax(1) == targets).double()
        expected = [m for v in (right, rise) for m in (float(v.mean()), float(v.std(correction=0) / np.sqrt(len(v))))]
        np.testing.assert_allclose(evidence[h.name][:4], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("symmetry", ["D4", "C4", "D1(45)"])
def test_averaging_over_a_symmetry_that_a_network_has_changes_no_loss(symmetry: str) -> None:
    h = D4.subgroup(symmetry)
    network = EquivariantNetwork(START.with_constraints((D4.whole, D4.whole, h)), torch.Generator().manual_seed(0))
    evidence = gather_evidence(network, VALIDATION, D4)
    for k in D4.subgroups:
        assert (abs(evidence[k.name].loss_rise) < 1e-6) == (k <= h)
        assert (evidence[k.name].p_value == 1) >= (k <= h)


def test_stripes_are_learned_to_lack_the_quarter_turns() -> None:
    """Images of stripes in two orientations: only half turns and upright mirrors may stay."""
    search = run(started(EvolutionarySearch(2, probe_epochs=20)))
    assert search.symmetry_ is not None
    assert search.symmetry_ <= D4.subgroup("D2(0)")
    assert search.symmetry_.order > 1


# --- random relaxations ---


@pytest.mark.parametrize("population_size", [1, 2, 3])
def test_random_survivors_do_not_depend_on_the_errors(population_size: int) -> None:
    def survivors(seed: int) -> list[list[int]]:
        search = started(RandomSearch(3, population_size=population_size))
        kept = []
        for _ in range(3):
            search.tell(by_noise(search.ask(), seed))
            kept.append([e.proposal.number for e in search.population_])
        return kept

    assert survivors(0) == survivors(1) == survivors(2)


def test_random_search_limits_the_number_of_children() -> None:
    for population_size in (1, 2, 4):
        for proposals in drive(started(RandomSearch(4, population_size=population_size, moves="all"))):
            assert len(proposals) <= 3 * population_size


def test_random_children_are_relaxations_that_evolution_could_make() -> None:
    search = started(RandomSearch(3, population_size=2))
    while proposals := search.ask():
        parents = {e.proposal.number: str(e.architecture).replace("|", "") for e in search.population_}
        for p in proposals:
            if p.parent is not None:
                own = parents[p.parent]
                assert p.architecture.constraint_names in {tuple(own.split()), *expected_children(own, "maximal")}
        search.tell(by_noise(proposals))


# --- the differentiable search ---


def tightened(symmetry: str, wanted: dict[int, str]) -> list[tuple[str, ...]]:
    """The constraints of the second stage, by the evidence and by what dominates in some layers of the mixture."""
    search = started(DifferentiableSearch())
    (mixture,) = (told(p, symmetry=symmetry) for p in search.ask())
    with torch.no_grad():
        for layer, name in wanted.items():
            logits = mixture.network.convolutions[layer].logits
            logits.copy_(torch.tensor([5.0 if h.name == name else 0.0 for h in D4.subgroups]))
    search.tell([mixture])
    proposals = search.ask()
    assert {p.parent for p in proposals} == {0}
    return [p.architecture.constraint_names for p in proposals]


@pytest.mark.parametrize("symmetry", D4.subgroups, ids=str)
def test_a_mixture_of_all_subgroups_comes_first_and_candidates_with_the_accepted_symmetry_second(
    symmetry: Subgroup,
) -> None:
    mixture, second = drive(
        started(DifferentiableSearch()), lambda proposals: [told(p, symmetry=symmetry.name) for p in proposals]
    )
    assert [p.architecture.constraints for p in mixture] == [(D4.subgroups,) * 3]
    assert {p.architecture.symmetry for p in second} == {symmetry}
    assert {p.architecture.constraints[-1] for p in second} == {symmetry}
    names = [p.architecture.constraint_names for p in second]
    assert ("D4", "D4", symmetry.name) in names
    assert (symmetry.name,) * 3 in names


@pytest.mark.parametrize(
    ("symmetry", "expected"),
    [
        ("C2", ("C4", "D2(45)", "C2")),
        ("C1", ("C4", "D2(45)", "C1")),
        ("C4", ("C4", "C4", "C4")),
        ("D4", ("D4", "D4", "D4")),
        ("D1(45)", ("D1(45)", "D2(45)", "D1(45)")),
        ("D1(0)", ("D1(0)", "D1(0)", "D1(0)")),
    ],
)
def test_layers_are_tightened_as_far_as_half_of_their_mixture_allows(symmetry: str, expected: tuple[str, ...]) -> None:
    assert expected in tightened(symmetry, {0: "C4", 1: "D2(45)"})


def test_without_discretising_the_mixture_is_the_result() -> None:
    search = run(started(SEARCHES["differentiable, a mixture"]))
    chosen = search.result()
    assert chosen is not None
    assert chosen.architecture.is_mixed
    assert chosen.network.shares() == search.shares_


def test_the_shares_of_a_mixture_are_kept_after_tightening() -> None:
    search = run(started(SEARCHES["differentiable"]))
    chosen = search.result()
    assert chosen is not None
    assert not chosen.architecture.is_mixed
    assert search.shares_ is not None
    assert list(search.shares_) == list(START.layer_names)
    for shares in search.shares_.values():
        assert list(shares) == [h.name for h in D4.subgroups]
        assert sum(shares.values()) == pytest.approx(1)


def test_a_mixture_learns_its_shares() -> None:
    search = run(started(SEARCHES["differentiable, a mixture"]))
    first = EquivariantNetwork(search.population_[0].architecture).shares()
    assert search.shares_ is not None
    assert any(
        abs(search.shares_[layer][name] - z) > 1e-4 for layer, shares in first.items() for name, z in shares.items()
    )


@pytest.mark.parametrize(("n", "sizes"), [(24, (8, 16)), (100, (33, 67)), (4, (2, 2)), (3, (2, 1)), (2, (2, 2))])
def test_the_images_of_the_evidence_are_not_those_that_alphas_are_trained_on(
    n: int, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Tensor] = {}

    def train_nothing(*args: Any, alpha_data: DataPart | None = None, **options: Any) -> None:
        if alpha_data is not None:
            seen["alphas"] = alpha_data.images

    def no_evidence(network: EquivariantNetwork, data: DataPart, *_: Any) -> dict[str, Evidence]:
        seen["evidence"] = data.images
        return evidence_for("C4")

    monkeypatch.setattr(driver, "train", train_nothing)
    monkeypatch.setattr(driver, "gather_evidence", no_evidence)
    validation = images_of(n, 2)
    run_search(started(DifferentiableSearch(alpha_data="validation")), DATA, validation)
    assert (len(seen["alphas"]), len(seen["evidence"])) == sizes
    if sum(sizes) == n:
        both = torch.cat([seen["alphas"], seen["evidence"]]).flatten(1)
        assert len(torch.unique(both, dim=0)) == n
    for search in (EvolutionarySearch(), DifferentiableSearch()):
        run_search(started(search), DATA, validation)
        assert len(seen["evidence"]) == n
    assert seen["alphas"] is DATA.images


# --- no search ---


def test_no_search_proposes_nothing() -> None:
    assert started(NoSearch()).ask() == []
