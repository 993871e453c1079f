"""Laws of the cost of a symmetry, of imagined breaks, and of the sets and verdicts that follow from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from skequinas import EquivariantNASClassifier, symmetry_evidence
from skequinas.evidence import (
    Evidence,
    LearnedSymmetry,
    breaks,
    confidence_set,
    cost_with_interval,
    largest_accepted,
    orbit_test,
)
from skequinas.evidence.breaks import rivals
from skequinas.evidence.costs import not_inferior
from skequinas.groups import PointGroup

pytestmark = pytest.mark.usefixtures("one_thread")

D4, C2 = (PointGroup.from_name(name) for name in ("D4", "C2"))


# --- costs ---


@pytest.mark.parametrize("kind", ["accuracy", "squares", "weights", "units"])
@pytest.mark.parametrize("n", [60, 400])
def test_the_interval_of_a_cost_holds_the_truth_as_often_as_it_says(kind: str, n: int) -> None:
    rng, hits, trials = np.random.default_rng(n), 0, 600
    for _ in range(trials):
        weights = units = None
        if kind == "squares":
            free, imposed = -(rng.standard_normal((2, n)) ** 2)
            imposed, truth = 1.5 * imposed, 0.5
        else:
            count = n // 3 if kind == "units" else n
            kinds = rng.choice(3, p=[0.06, 0.02, 0.92], size=count)  # the first loses, the second gains
            free, imposed, truth = (kinds != 1) * 1.0, (kinds != 0) * 1.0, 0.04
            if kind == "units":
                units = np.repeat(np.arange(count), 3)
                free, imposed = free[units], imposed[units]
            if kind == "weights":
                weights = rng.random(n) + 0.5
        cost, low, high = cost_with_interval(free, imposed, weights, units)[:3]
        assert low <= cost <= high
        hits += low <= truth <= high
    assert hits / trials > 0.95 - 3 * math.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize(("losers", "winners"), [(7, 2), (0, 0), (3, 0), (1, 9)])
def test_at_the_ends_of_the_interval_the_score_test_rejects_by_half_of_five_percent(losers: int, winners: int) -> None:
    n = 100
    free = np.repeat([1.0, 0.0, 1.0], [losers, winners, n - losers - winners])
    imposed = np.repeat([0.0, 1.0, 1.0], [losers, winners, n - losers - winners])
    cost, *ends = cost_with_interval(free, imposed)[:3]
    assert cost == pytest.approx((losers - winners) / n)
    for end, sign in zip(ends, (1, -1), strict=True):
        won = np.linspace(max(0.0, -end), (1 - end) / 2, 200_001)[1:-1]  # share of winners, if the cost is the end
        counts = losers, winners, n - losers - winners
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = [
                c * np.log(p) if c else 0.0 * p
                for c, p in zip(counts, (won + end, won, 1 - 2 * won - end), strict=True)
            ]
        likeliest = won[np.nanargmax(sum(logs))]
        deviations = (cost - end) / math.sqrt((2 * likeliest + end - end**2) / n)
        assert sign * deviations == pytest.approx(1.96, abs=0.01)


def test_where_all_images_lose_the_cost_is_whole() -> None:
    cost, low, high = cost_with_interval(np.ones(9), np.zeros(9))[:3]
    assert (cost, high) == (1, 1)
    assert 0.3 < low < 1


def row(p_value: float, low: float = -0.01, high: float = 0.01, end: float = 1.0) -> Evidence:
    own = {"cost": (low + high) / 2, "cost_low": low, "cost_high": high, "n_effective": 1000.0}
    tests = {"e_value": 1.0, "smallest_break": 0.1, "end_p_value": end}
    return Evidence(0.9, 0.01, 0.0, 0.1, p_value, p_value, 0.005, **own, **tests)


def test_by_cost_the_largest_group_is_imposed_that_was_shown_to_cost_little() -> None:
    evidence = {h.name: row(1e-4) for h in D4.subgroups}  # all are broken, and cost nothing
    assert largest_accepted(D4, evidence, 0.01).name == "C1"
    assert largest_accepted(D4, evidence, 0.01, margin=0.05).name == "D4"
    assert largest_accepted(D4, evidence, 0.01, margin=0.005).name == "C1"  # not shown with so few images
    dear = evidence | {name: row(1e-4, 0.02, 0.06) for name in ("D4", "C4")}
    assert largest_accepted(D4, dear, 0.01, margin=0.05).name == "D2(0)"


@pytest.mark.parametrize("margin", [0.02, 0.1])
def test_what_costs_the_margin_is_imposed_no_more_often_than_the_level_says(margin: float) -> None:
    rng, n, p_values = np.random.default_rng(0), 300, []
    for _ in range(1000):
        kinds = rng.choice(3, p=[margin + 0.02, 0.02, 0.96 - margin], size=n)
        p_values.append(not_inferior(cost_with_interval((kinds != 1) * 1.0, (kinds != 0) * 1.0), margin))
    for level in (0.01, 0.05, 0.1):
        assert np.mean(np.array(p_values) <= level) <= level + 3 * math.sqrt(level / 1000)


@pytest.mark.parametrize("margin", [0.005, 0.01, 0.03])
def test_where_no_image_changes_the_p_value_is_no_smaller_than_the_exact_one(margin: float) -> None:
    """Of n images none loses: as probable as (1 - margin) to the n, where a margin is lost by losers alone."""
    for n in (200, 600, 2000):
        cost = cost_with_interval(np.ones(n), np.ones(n))
        assert not_inferior(cost, margin) >= (1 - margin) ** n


def test_one_unit_shows_nothing() -> None:
    for n in (1, 3):
        cost = cost_with_interval(np.full(n, 0.5), np.full(n, 0.5), units=np.zeros(n, dtype=np.int64))
        assert (cost.cost_low, cost.cost_high) == (-math.inf, math.inf)
        assert not_inferior(cost, 0.1) >= 0.9
    same = cost_with_interval(np.full(9, 0.5), np.full(9, 0.48))
    assert (not_inferior(same, 0.01), not_inferior(same, 0.05)) == (1, 0)


def test_more_losers_never_make_it_look_cheaper() -> None:
    units = np.repeat(np.arange(20), 5)
    highest = -1.0
    for losers in range(60):
        imposed = np.ones(100)
        imposed[np.random.default_rng(0).permutation(100)[:losers]] = 0
        high = cost_with_interval(np.ones(100), imposed, units=units).cost_high
        assert high > highest
        highest = high


def test_a_network_that_knows_nothing_shows_no_cost_to_be_small() -> None:
    evidence = {h.name: row(0.5)._replace(chance_p_value=0.4) for h in D4.subgroups}
    assert largest_accepted(D4, evidence, 0.01, margin=0.5).name == "C1"


# --- breaks ---


def half_turns(n: int, broken: float, sure: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What a network says of images and of their half turns, some of which it takes for another class."""
    noise = 0.5 * rng.standard_normal((2, n))
    own, others = noise.copy(), noise - np.array([[0.0], [sure]])
    own[1] -= sure * (rng.random(n) < broken)
    return own, others


@pytest.mark.parametrize(("n", "sure"), [(200, 3.0), (1000, 1.0), (600, 0.5)])
def test_the_smallest_break_is_seen_with_the_power_that_it_says(n: int, sure: float) -> None:
    rng = np.random.default_rng(0)
    share = np.mean([breaks(*half_turns(n, 0.0, sure, rng), C2).smallest[C2.whole] for _ in range(20)])
    assert 0.01 < share < 0.5
    found = [orbit_test(half_turns(n, share, sure, rng)[0][None], None, rng, 999) <= 0.01 for _ in range(200)]
    assert 0.68 < np.mean(found) < 0.92


def test_a_network_that_would_notice_nothing_says_so() -> None:
    rng = np.random.default_rng(0)
    found = breaks(*half_turns(300, 0.0, 0.0, rng), C2)
    assert math.isinf(found.smallest[C2.whole])
    assert set(found.end_p_values.values()) == {1.0}


@pytest.mark.parametrize("sure", [0.3, 3.0])
def test_a_symmetry_that_ends_is_seldom_taken_for_a_larger_one(sure: float) -> None:
    """A fifth of the images break half turns: the hypothesis that none are a symmetry is true."""
    rng = np.random.default_rng(1)
    p_values = [breaks(*half_turns(300, 0.2, sure, rng), C2).end_p_values[C2.trivial] for _ in range(400)]
    for level in (0.01, 0.05, 0.1):
        assert np.mean(np.array(p_values) <= level) <= level + 3 * math.sqrt(level / 400)


def test_a_network_that_hardly_changes_when_images_are_moved_would_see_no_break() -> None:
    rng = np.random.default_rng(0)
    own, others = half_turns(400, 0.0, 3.0, rng)
    blind = breaks(own, others, C2, changes=np.array([0.0, 0.05]))
    assert math.isinf(blind.smallest[C2.whole])
    assert blind.end_p_values[C2.trivial] == 1
    assert breaks(own, others, C2, changes=np.array([0.0, 0.5])) == breaks(own, others, C2)


def test_a_constrained_network_is_no_witness_that_its_symmetry_holds() -> None:
    X, y = load_digits(n_class=4, return_X_y=True)  # upright
    model = EquivariantNASClassifier("D4", "none", max_epochs=4, random_state=0).fit(X[:400], y[:400])
    evidence = symmetry_evidence(model, X[400:], y[400:], random_state=0)
    assert all(math.isinf(e.smallest_break) and e.end_p_value == 1 for e in evidence.values())
    assert len(confidence_set(D4, evidence, 0.01)) == 10


def test_few_images_rule_nothing_out() -> None:
    rng = np.random.default_rng(0)
    assert breaks(*half_turns(19, 0.0, 9.0, rng), C2).end_p_values[C2.trivial] == 1


def test_a_break_that_is_not_there_is_ruled_out() -> None:
    rng = np.random.default_rng(2)
    found = breaks(*half_turns(400, 0.0, 3.0, rng), C2)
    assert found.end_p_values[C2.trivial] < 1e-4
    assert found.end_p_values[C2.whole] == 1


def test_units_count_once_and_weights_count() -> None:
    rng = np.random.default_rng(3)
    own, others = half_turns(100, 0.0, 2.0, rng)
    twice = [np.repeat(logs, 2, axis=1) for logs in (own, others)]
    units = np.repeat(np.arange(100), 2)
    once = breaks(own, others, C2)
    joined = breaks(*twice, C2, units=units)
    for one, other in zip(joined, once, strict=True):
        assert one == pytest.approx(other)
    assert breaks(*twice, C2).smallest[C2.whole] < once.smallest[C2.whole]
    weights = np.array([1.0] * 50 + [0.0] * 50)
    half = breaks(own[:, :50], others[:, :50], C2)
    assert breaks(own, others, C2, weights=weights).smallest[C2.whole] == pytest.approx(half.smallest[C2.whole])


def test_rivals_are_of_the_class_that_an_image_is_most_easily_mistaken_for() -> None:
    targets = torch.tensor([0, 1, 2] * 20)
    probabilities = np.eye(3)[targets.numpy()] * 0.8 + 0.05
    probabilities[targets.numpy() == 2, 0] += 0.1  # some of class 2 look like 0
    found = targets.numpy()[rivals(probabilities, targets, np.random.default_rng(0))]
    assert set(found[targets.numpy() == 0]) == {2}
    assert all(found != targets.numpy())
    alone = rivals(np.ones((5, 1)), torch.zeros(5, dtype=torch.int64), np.random.default_rng(0))
    assert set(alone) <= set(range(5))


# --- sets ---


def test_the_set_leaves_out_what_is_rejected_and_what_is_too_small() -> None:
    true = {"C4": 0.5, "C2": 0.6, "C1": 1.0}
    evidence = {h.name: row(true.get(h.name, 1e-4), end=1e-6) for h in D4.subgroups}
    assert [h.name for h in confidence_set(D4, evidence, 0.01)] == ["C4"]
    unsure = evidence | {"C2": row(0.6, end=0.3)}
    assert [h.name for h in confidence_set(D4, unsure, 0.01)] == ["C4", "C2"]
    nothing_larger = evidence | {"C4": row(1e-4, end=1e-6)}  # a slight break is one all the same
    assert [h.name for h in confidence_set(D4, nothing_larger, 0.01)] == ["C2"]


def learned(evidence: dict[str, Evidence], group: str, **more: object) -> LearnedSymmetry:
    return LearnedSymmetry("D4", group, {"head": group}, {}, evidence=evidence, **more)  # type: ignore[arg-type]


def test_the_verdict_comes_first_and_all_is_printed() -> None:
    true = {"C4": 0.5, "C2": 0.6, "C1": 1.0}
    evidence = {h.name: row(true.get(h.name, 1e-4), end=0.5)._replace(e_value=5.0) for h in D4.subgroups}
    found = learned(evidence, "C4")
    assert found.confidence_set == ("C4", "C2", "C1")
    assert found.confidence == 0.98
    text = str(found)
    assert "To impose C4 costs at most 1.0 points (95 %)." in text
    assert "a break of it in 10 % of the images would have been seen (power 80 %)" in text
    assert "98 % confidence set if breaks are of 20 % or more: C4, C2, C1." in text
    assert "afterwards" not in text
    evidence |= {n: e._replace(e_value=1e4, smallest_break=math.inf) for n, e in evidence.items()}
    text = str(learned(evidence, "C4"))
    assert "at every level from 0.001 to 0.1, also at one that is chosen afterwards." in text
    assert "would not have seen every break of it" in text
    assert LearnedSymmetry("D4", "C4", {}, {}).confidence_set == ()
    assert found.to_dict()["confidence_set"] == ["C4", "C2", "C1"]
    assert "break of it in 100 %" in str(
        learned({n: e._replace(smallest_break=0.999) for n, e in evidence.items()}, "C4")
    )


def test_by_cost_nothing_is_said_about_the_task() -> None:
    cheap = {h.name: row(1e-4) for h in D4.subgroups}
    first, _, third = str(learned(cheap, "D4", margin=0.05)).splitlines()
    assert "to look the same under quarter turns and mirrors costs less than 5.0 points" in first
    assert "Nothing speaks" not in third
    assert learned(cheap, "D4", margin=0.05).verdicts["D4"] == "accepted"
    assert learned(cheap, "D4").verdicts["D4"] == "rejected"
    dear = str(learned({h.name: row(0.5) for h in D4.subgroups}, "C1", margin=0.001))
    assert "no symmetry was shown to cost less than 0.1 points" in dear
