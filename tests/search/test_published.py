"""What EquiNAS publishes and this package does otherwise by default: each choice, and that it does what it says."""

from __future__ import annotations

import copy
import itertools
import re
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from skequinas import (
    Architecture,
    DifferentiableSearch,
    EquivariantNASClassifier,
    EquivariantNetwork,
    EvolutionarySearch,
    NoSearch,
    PointGroup,
    RandomConstraints,
    load,
    save,
)
from skequinas.nn import inherit, paper_architecture
from skequinas.search import Evaluation, Proposal, Search, driver, run_search
from skequinas.training import CLASSIFICATION, DataPart, Monitor, TrainingSettings, train

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
C4 = PointGroup.from_name("C4")
START = Architecture(D4, 6, 1, 2, fields=(1, 1), kernel_sizes=(3, 3), pools=(True, False), hidden=4)
FREE = replace(START, constraints=(), head="free")
TRAINING = TrainingSettings(learning_rate=0.01, batch_size=16)
EQUINAS_E = EvolutionarySearch(
    n_generations=3,
    epochs_per_generation=0.2,
    warmup_epochs=0.2,
    population_size=3,
    selection="accuracy",
    unique=False,
    final="evolved",
    guided=False,
    moves="all",
    revisit=True,
    optimizer="sgd",
    momentum=0,
    learning_rate=0.05,
    schedule="constant",
    tolerance=0,
)
EQUINAS_D = DifferentiableSearch(
    1,
    optimizer="adamw",
    learning_rate=1e-3,
    schedule="constant",
    alpha_learning_rate=1e-3,
    alpha_interval=1,
    alpha_data="training",
    favour=0,
    discretize=False,
)


def images_of(n: int, seed: int) -> DataPart:
    """Two classes of images, which differ in brightness."""
    targets = torch.arange(n) % 2
    noise = torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return DataPart(noise + targets.reshape(-1, 1, 1, 1), targets, nn.Identity(), CLASSIFICATION)


def started(search: Search, architecture: Architecture = START, seed: int = 0) -> Search:
    return copy.deepcopy(search).start(architecture, 2.0, TRAINING, seed)


def told(proposal: Proposal, error: float) -> Evaluation:
    network = EquivariantNetwork(proposal.architecture, torch.Generator().manual_seed(0))
    return Evaluation(proposal, network, np.array([error]), np.array([error]), 0.0)


def candidates(n: int, seed: int) -> list[Evaluation]:
    """Made-up evaluations of random architectures, errors in tenths so that some are equal."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(n):
        chain = [D4.subgroups[i] for i in sorted(rng.integers(10, size=3))]
        proposal = Proposal(number, None, 0, START.with_constraints(tuple(chain)), 1.0, TRAINING, 0)
        found.append(told(proposal, rng.integers(10) / 10))
    return found


# --- the settings of the paper ---


@pytest.mark.parametrize(
    "search",
    [clone(EQUINAS_E).set_params(n_generations=50, population_size=5), clone(EQUINAS_D).set_params(mixture_epochs=50)],
    ids=["EquiNAS_E", "EquiNAS_D"],
)
def test_the_published_settings_are_those_of_the_docstring_and_can_be_made(search: Search) -> None:
    doc = " ".join((type(search).__doc__ or "").split())
    (told_there,) = re.findall(rf"``({type(search).__name__}\(\w+=.*?\))``", doc.split("References")[1])
    names: dict[str, Any] = {"EvolutionarySearch": EvolutionarySearch, "DifferentiableSearch": DifferentiableSearch}
    assert eval(told_there, names).get_params() == search.get_params()
    (first,) = started(search).ask()
    assert first.epochs == (50 if search.get_params().get("mixture_epochs") else 0.2)
    assert first.training.learning_rate == search.get_params()["learning_rate"]
    assert first.training.schedule == "constant"


# --- stochastic gradient descent ---


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_gradient_descent_has_the_momentum_that_is_asked_for(momentum: float) -> None:
    data = images_of(16, 0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    reference = copy.deepcopy(network)
    settings = TrainingSettings(0.1, "sgd", schedule="constant", batch_size=16, weight_decay=0.0, momentum=momentum)
    train(network, data, settings, 3, seed=0)
    velocity = [torch.zeros_like(p) for p in reference.parameters()]
    for _ in range(3):  # one mini-batch is all there is
        loss = nn.functional.cross_entropy(reference(data.images), data.targets)
        grads = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for p, v, grad in zip(reference.parameters(), velocity, grads, strict=True):
                v.mul_(momentum).add_(grad)
                p -= 0.1 * (grad + momentum * v)
    for p, expected in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-6)


def test_a_search_trains_with_the_momentum_that_it_is_given() -> None:
    (first,) = started(EQUINAS_E).ask()
    assert (first.training.optimizer, first.training.momentum, first.training.schedule) == ("sgd", 0, "constant")


# --- selection ---


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1, 4, 20])
@pytest.mark.parametrize("selection", ["accuracy", "pareto", "two fronts"])
def test_parents_are_those_that_the_selection_names(selection: str, size: int, seed: int) -> None:
    evaluations = candidates(12, seed)
    points = {e.proposal.number: (e.architecture.n_parameters, e.error) for e in evaluations}

    def beaten(i: int, rest: set[int]) -> bool:
        a = points[i]
        return any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in (points[j] for j in rest))

    rest, fronts = set(points), set()
    for _ in range({"accuracy": 0, "pareto": 1, "two fronts": 2}[selection]):
        front = {points[i] for i in rest if not beaten(i, rest)}
        fronts |= front
        chosen = {next(i for i in sorted(rest) if points[i] == point) for point in front}  # of equals one
        rest -= chosen
    search = started(EvolutionarySearch(selection=selection, population_size=size, guided=False))
    search.tell(evaluations)
    kept = {e.proposal.number for e in search.population_}
    n_fronts = len(points) - len(rest)
    assert len(kept) == len(search.population_) == max(n_fronts, min(size, 12))
    assert fronts <= {points[i] for i in kept}
    filled = sorted(points[i][1] for i in rest)[: max(0, size - n_fronts)]
    errors = Counter(points[i][1] for i in kept)
    assert errors == Counter(points[i][1] for i in set(points) - rest) + Counter(filled)


@pytest.mark.parametrize("unique", [True, False])
def test_an_architecture_to_which_two_parents_lead_is_tried_once_or_by_each(unique: bool) -> None:
    search = started(EvolutionarySearch(guided=False, population_size=2, selection="accuracy", unique=unique))
    search.tell([told(p, 0.5) for p in search.ask()])
    by_name = {p.architecture.constraint_names: p for p in search.ask()}
    kept = [by_name["D4", "D4", "C4"], by_name["D4", "D4", "D2(0)"]]  # both can be relaxed to C2
    search.tell([told(p, 0.1 if p in kept else 0.9) for p in search.ask()])
    assert {e.proposal.number for e in search.population_} == {p.number for p in kept}
    children = [p for p in search.ask() if p.architecture.constraint_names == ("D4", "D4", "C2")]
    assert [p.parent for p in children] == [p.number for p in kept][: 1 if unique else 2]


def test_records_tell_the_lineage_and_the_parameters_of_plain_layers() -> None:
    search = started(EQUINAS_E)
    run_search(search, images_of(32, 0), images_of(16, 1))
    records = {record["candidate"]: record for record in search.records_}
    assert {record["generation"] for record in records.values()} == {0, 1, 2, 3}
    for record in records.values():
        assert record["n_plain_parameters"] == START.n_plain_parameters
        if record["generation"]:
            assert records[record["parent"]]["generation"] == record["generation"] - 1
        else:
            assert record["parent"] == -1


@pytest.mark.parametrize("hidden", [0, 4])
@pytest.mark.parametrize("head", ["constrained", "free"])
def test_the_parameters_of_plain_layers_are_those_of_the_module(head: str, hidden: int) -> None:
    architecture = replace(START, constraints=(), head=head, hidden=hidden, fields=(1, 2), in_channels=3)
    plain = EquivariantNetwork(architecture).eval().to_plain()
    assert architecture.n_plain_parameters == sum(p.numel() for p in plain.parameters())


# --- the network that evolved ---


@pytest.fixture(scope="module")
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Bright and dark images."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    return rng.normal(y[:, None, None], 1.0, (120, 8, 8)).astype(np.float32), y


@pytest.mark.parametrize(
    "search",
    [
        pytest.param(EQUINAS_E, id="published", marks=pytest.mark.exhaustive),
        pytest.param(EvolutionarySearch(2, final="evolved"), id="guided"),
    ],
)
def test_the_evolved_network_is_the_model_unless_it_is_trained_anew(
    search: EvolutionarySearch, digits: tuple[Any, Any], tmp_path: Path
) -> None:
    X, y = digits
    search = copy.copy(search).set_params(epochs_per_generation=4)
    model = EquivariantNASClassifier("D4", search, max_epochs=3, random_state=0).fit(X, y)
    chosen = model.search_.result()
    assert chosen is not None
    assert model.architecture_ == chosen.architecture
    own, evolved = model.network_.state_dict(), chosen.network.state_dict()
    assert all(torch.equal(own[name], evolved[name].to(own[name].device)) for name in own if "blocks" in name)
    assert len(model.history_) == 0
    assert model.augmentation_ == "nothing"
    assert model.score(X, y) > 0.8
    save(model, tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").predict_proba(X), model.predict_proba(X))
    again = EquivariantNASClassifier("D4", copy.copy(search).set_params(final="retrain"), max_epochs=3, random_state=0)
    again.fit(X, y)
    assert again.architecture_ == model.architecture_
    assert len(again.history_["loss"]) == 3


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_where_the_time_is_up_the_first_network_is_kept_and_what_another_generation_has_not_finished_is_not(
    generation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    class Hurried(Monitor):
        def step(self, stage: Any = None, n_batches: int = 1) -> None:
            if stage.generation == generation:
                clock[0] += 10.0
            super().step(stage, n_batches)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monitor = Hurried()
    monitor.clock.deadline = 5.0
    search = started(EvolutionarySearch(3, epochs_per_generation=1, warmup_epochs=1, guided=False, final="evolved"))
    run_search(search, images_of(64, 0), images_of(24, 1), monitor)
    assert search.generation_ == max(1, generation)
    assert {e.proposal.generation for e in search.population_} == {max(0, generation - 1)}
    assert search.result() is not None


def test_a_model_whose_head_was_tightened_without_any_training_is_told(digits: tuple[Any, Any]) -> None:
    X, y = digits
    search = EvolutionarySearch(final="evolved")
    model = EquivariantNASClassifier("D4", search, max_epochs=2, callback=lambda progress: True, random_state=0)
    with pytest.warns(ConvergenceWarning, match="ended before the network whose head it tightened was trained"):
        model.fit(X, y)
    assert model.score(X, y) > 0.5


def test_an_evolved_network_is_never_another_one_that_was_trained_anew() -> None:
    shape = Architecture(D4, 12, 1, 2, (1, 1, 1), (3,) * 3, (True, False, False), shortcuts=(0, 0, 2))
    for final, tried in (("evolved", False), ("retrain", True)):
        search = copy.deepcopy(EvolutionarySearch(1, final=final)).start(shape, 2.0, TRAINING, 0, averaging=True)
        assert search._may_average is tried


def test_where_errors_select_the_parents_they_choose_the_result_too() -> None:
    for selection, wanted in (("accuracy", 0), ("pareto", 1)):
        search = started(EvolutionarySearch(guided=False, selection=selection, tolerance=0, population_size=2))
        one, other = (told(replace(p, number=i), 0.0) for i, p in enumerate(search.ask() * 2))
        one.losses, one.errors = np.array([1.0]), np.array([0.1])
        other.losses, other.errors = np.array([0.5]), np.array([0.2])
        search.tell([one, other])
        search.population_ = [one, other]
        result = search.result()
        assert result is not None
        assert result.proposal.number == wanted


def test_an_ordinary_network_cannot_be_asked_for_beside_an_evolved_one(digits: tuple[Any, Any]) -> None:
    model = EquivariantNASClassifier("D4", EQUINAS_E, averaging="always")
    with pytest.raises(ValueError, match=r"(?s)averaging='always'.*final='retrain'"):
        model.fit(*digits)


@pytest.mark.parametrize("settings", [{"averaging": "always"}, {"augment": "group"}], ids=str)
def test_there_is_no_symmetry_to_average_over_behind_a_free_head(
    settings: dict[str, str], digits: tuple[Any, Any]
) -> None:
    free = paper_architecture("D4", 8, n_outputs=2, head="free")
    model = EquivariantNASClassifier("D4", "none", architecture=free, **settings)
    with pytest.raises(ValueError, match="head='free' and so no symmetry"):
        model.fit(*digits)


# --- a head that is free ---


def test_a_free_head_stays_free_and_the_last_layer_is_relaxed_first() -> None:
    search = started(EvolutionarySearch(guided=False), FREE)
    (first,) = search.ask()
    assert first.architecture.constraint_names == ("D4", "D4", "C1")
    search.tell([told(first, 0.5)])
    names = [p.architecture.constraint_names for p in search.ask()]
    assert names == [("D4", h, "C1") for h in ("D4", "C4", "D2(0)", "D2(45)")]
    search.tell([told(p, 0.1 if p.architecture.constraint_names[1] == "C4" else 0.9) for p in search.ask()])
    assert ("C4", "C4", "C1") in [p.architecture.constraint_names for p in search.ask()]


def test_with_a_free_head_the_function_has_no_symmetry_and_its_last_maps_have() -> None:
    network = EquivariantNetwork(replace(FREE, hidden=0), torch.Generator().manual_seed(0)).double().eval()
    assert network.architecture.symmetry.name == "C1"
    x = torch.randn(4, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    turned = x.rot90(1, (2, 3))
    assert not torch.allclose(network(x), network(turned), atol=1e-3)
    means, of_turned = (network.features(z).unflatten(1, (1, 8)).sum(2) for z in (x, turned))
    torch.testing.assert_close(means, of_turned)


@pytest.mark.parametrize("search", [EvolutionarySearch(), DifferentiableSearch()], ids=["E", "D"])
def test_what_would_constrain_a_free_head_is_refused(search: Search) -> None:
    with pytest.raises(ValueError, match="head='free'.*Set (guided=False|discretize=False)"):
        started(search, FREE)


def test_a_free_head_cannot_be_constrained_nor_be_called_otherwise() -> None:
    with pytest.raises(ValueError, match="head='free' is C1 always, and the last of constraints is C4"):
        FREE.with_constraints(tuple(D4.subgroup(name) for name in ("D4", "D4", "C4")))
    with pytest.raises(ValueError, match="head='loose' must be 'constrained' or 'free'"):
        replace(START, head="loose")
    with pytest.raises(ValueError, match="skips='often' must be True or False"):
        replace(START, skips="often")


@pytest.mark.parametrize("architecture", [FREE, replace(START, skips=True)], ids=["free head", "skips"])
def test_architectures_are_read_back_and_those_of_before_have_neither(architecture: Architecture) -> None:
    values = architecture.to_dict()
    assert Architecture.from_dict(values) == architecture
    before = {name: value for name, value in START.to_dict().items() if name not in ("head", "skips")}
    assert Architecture.from_dict(before) == START


@pytest.mark.parametrize(("size", "after", "hidden"), [(28, (3, 5, 7), 64), (64, (3, 5, 6, 7), 128)])
def test_the_network_of_the_paper_shrinks_where_the_published_one_does(
    size: int, after: tuple[int, ...], hidden: int
) -> None:
    architecture = paper_architecture("D4", size, head="free")
    assert tuple(i + 1 for i, pools in enumerate(architecture.pools) if pools) == after
    assert (architecture.hidden, architecture.constraints[-1].order) == (hidden, 1)
    assert paper_architecture("D4", size).constraints[-1] == D4.whole


# --- the mixture ---


def shares_of(search: Search) -> list[list[float]]:
    assert search.shares_ is not None
    return [list(shares.values()) for shares in search.shares_.values()]


def mixture_of(**settings: Any) -> Search:
    """A mixture that was learned, with these settings."""
    search = started(copy.copy(EQUINAS_D).set_params(**settings))
    run_search(search, images_of(64, 0), images_of(24, 1))
    return search


def test_without_a_favour_all_shares_are_equal_at_the_start() -> None:
    search = mixture_of(favour=0, skip=True)
    assert search.share_history_ is not None
    for layer in search.share_history_.values():
        assert [shares[0] for shares in layer.values()] == pytest.approx([1 / len(layer)] * len(layer), rel=5e-3)
    favoured = mixture_of(favour=2)
    assert all(max(shares) == shares[0] > 4 * shares[1] for shares in shares_of(favoured))


def test_alphas_are_trained_on_other_batches_of_the_training_part_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[DataPart | None] = []

    def nothing(*_: Any, alpha_data: DataPart | None = None, **__: Any) -> None:
        seen.append(alpha_data)

    monkeypatch.setattr(driver, "train", nothing)
    data, validation = images_of(64, 0), images_of(24, 1)
    run_search(started(EQUINAS_D), data, validation)
    run_search(started(copy.copy(EQUINAS_D).set_params(alpha_data="validation")), data, validation)
    assert seen[0] is data
    assert seen[1] is not None
    assert len(seen[1]) == 8


def test_drawn_alphas_stay_and_permuted_ones_are_learned_otherwise() -> None:
    learned, permuted, drawn = (
        mixture_of(alphas=how, alpha_learning_rate=0.1) for how in ("learned", "permuted", "drawn")
    )
    assert shares_of(learned) != shares_of(permuted)
    assert shares_of(permuted) == shares_of(mixture_of(alphas="permuted", alpha_learning_rate=0.1))
    (mixture,) = drawn.population_
    expected = EquivariantNetwork(
        mixture.architecture, generator := torch.Generator().manual_seed(mixture.proposal.seed)
    )
    expected.start_mixtures(0.0, generator)
    assert drawn.shares_ == expected.shares()
    logits = np.log(np.array(shares_of(drawn)))
    assert 0.3 < np.std(logits) < 3


def test_entropy_that_costs_makes_shares_clearer() -> None:
    def entropy(search: Search) -> float:
        shares = [np.array(values) for values in shares_of(search)]
        return float(np.mean([-(z * np.log(z)).sum() for z in shares]))

    found = [entropy(mixture_of(favour=1, entropy=weight, alpha_learning_rate=0.2)) for weight in (0.0, 0.3, 3.0)]
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.8 * found[0]


def test_the_gradients_of_alphas_are_permuted_within_each_layer() -> None:
    data = images_of(16, 0)
    mixed = START.with_constraints((D4.subgroups,) * 3)
    changes = []
    for how in ("learned", "permuted"):
        network = EquivariantNetwork(mixed, torch.Generator().manual_seed(0))
        before = [layer.logits.detach().clone() for layer in network.convolutions]
        settings = replace(TRAINING, alphas=how, alpha_learning_rate=0.01)
        train(network, data, settings, 1, seed=0, alpha_data=images_of(16, 1))
        changes.append([layer.logits.grad for layer in network.convolutions])
        assert all((layer.logits != old).any() for layer, old in zip(network.convolutions, before, strict=True))
    pairs = list(zip(*changes, strict=True))
    assert all(torch.equal(a.sort().values, b.sort().values) for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_the_published_mixture_with_a_free_head_mixes_all_layers_but_the_head() -> None:
    (mixture,) = started(EQUINAS_D, FREE).ask()
    assert mixture.architecture.constraints == (D4.subgroups, D4.subgroups, D4.trivial)


def test_a_mixture_with_skips_is_saved_with_its_shares_and_tightened_to_its_function(
    digits: tuple[Any, Any], tmp_path: Path
) -> None:
    X, y = digits
    search = copy.copy(EQUINAS_D).set_params(skip=True)
    model = EquivariantNASClassifier("D4", search, max_epochs=1, random_state=0).fit(X, y)
    weights = model.learned_symmetry_.layer_weights
    assert weights is not None
    assert ["skip" in shares for shares in weights.values()] == [
        model.architecture_.has_skip(i) for i in range(model.architecture_.n_layers)
    ]
    assert sum(weights["layer 2"].values()) == pytest.approx(1)
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert loaded.learned_symmetry_.layer_weights == weights
    assert loaded.learned_symmetry_.share_history == model.learned_symmetry_.share_history
    assert "share of skip" in model.learned_symmetry_.to_frame("layers")
    html = model.learned_symmetry_._repr_html_()
    assert html.count("<th>skip</th>") == 1

    # with all its shares on D4 and the input the mixture is constrained to D4, and tightening changes nothing
    network = copy.deepcopy(model.network_).double()
    with torch.no_grad():
        for layer in network.convolutions:
            layer.logits.fill_(-1e9)
            layer.logits[[0, -1] if layer.skip else [0]] = torch.tensor([0.3, 0.0][: 1 + layer.skip]).double()
    tight = inherit(network, replace(network.architecture, skips=False, constraints=()))
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tight.eval()(x), network.eval()(x), rtol=1e-10, atol=1e-10)


def test_the_share_of_the_input_counts_for_every_subgroup_when_layers_are_tightened() -> None:
    search = mixture_of(skip=True, discretize=True)
    assert isinstance(search, DifferentiableSearch)
    (mixture,) = [e for e in mixture_of(skip=True).population_ if e.architecture.is_mixed]
    with torch.no_grad():
        for layer in mixture.network.convolutions:
            layer.logits.fill_(-1e9)
            layer.logits[[0, -1]] = torch.tensor([0.0, 0.5 * layer.skip])
            layer.logits[-1] -= 1e9 * (not layer.skip)
    assert search._majorities(mixture, D4.trivial) == (D4.whole, D4.whole)


def test_an_architecture_with_skips_keeps_them_in_its_mixture() -> None:
    (mixture,) = started(DifferentiableSearch(), replace(START, skips=True)).ask()
    assert mixture.architecture.skips


@pytest.mark.parametrize("search", [DifferentiableSearch(discretize=False), RandomConstraints()], ids=["D", "random"])
def test_no_search_begins_with_outputs_that_are_averaged(search: Search) -> None:
    averaged = replace(FREE, averaged="D4")
    with pytest.raises(ValueError, match="architecture is averaged over D4"):
        started(search, averaged)


def test_searches_that_were_pickled_before_have_the_settings_of_then() -> None:
    for search, names in (
        (EvolutionarySearch(), ("selection", "unique", "final", "momentum")),
        (DifferentiableSearch(), ("optimizer", "alpha_data", "favour", "skip", "alphas")),
    ):
        before = copy.copy(search)
        for name in names:
            del before.__dict__[name]
        assert before.get_params() == search.get_params()


# --- constraints at random ---


def test_all_chains_of_constraints_are_drawn_equally_often() -> None:
    start = Architecture(C4, 6, 1, 2, fields=(1, 1), kernel_sizes=(3, 3), pools=(False, False))
    chains = [chain for chain in itertools.product(C4.subgroups, repeat=3) if chain[0] >= chain[1] >= chain[2]]
    n = 100 * len(chains)
    drawn = Counter(started(RandomConstraints(), start, seed).architecture_.constraints for seed in range(n))
    assert set(drawn) == set(chains)
    chi_squared = sum((drawn[chain] - 100) ** 2 / 100 for chain in chains)
    assert chi_squared < 24  # 9 degrees of freedom: p = 0.004


def test_random_constraints_are_trained_as_they_are_and_saved(digits: tuple[Any, Any], tmp_path: Path) -> None:
    X, y = digits
    model = EquivariantNASClassifier("D4", "random_constraints", max_epochs=1, random_state=3).fit(X, y)
    assert isinstance(model.search_, NoSearch)
    assert model.architecture_ == model.search_.architecture_
    other = EquivariantNASClassifier("D4", RandomConstraints(), max_epochs=1, random_state=3).fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), other.predict_proba(X))
    save(model, tmp_path / "model")
    assert load(tmp_path / "model").search_.architecture_ == model.architecture_
    hurried = EquivariantNASClassifier("D4", "random_constraints", time_budget=0.3, warm_start=True, random_state=3)
    big = np.kron(X, np.ones((2, 2), np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        first = hurried.fit(big, y).architecture_
        assert hurried.set_params(time_budget=1.0).fit(big, y).architecture_ == first
    found = {str(started(RandomConstraints(), START, seed).architecture_) for seed in range(10)}
    assert len(found) > 5
    free = started(RandomConstraints(), FREE, 1).architecture_
    assert free.constraints[-1] == D4.trivial
