"""Laws of the pictures: each shows what the data say, and nothing else."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError

from skequinas import EquivariantNASClassifier, EquivariantNASRegressor
from skequinas.displays import OrbitDisplay, SearchDisplay, SymmetryDisplay
from skequinas.evidence import Evidence, LearnedSymmetry
from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import default_architecture

mpl = pytest.importorskip("matplotlib")
mpl.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.collections import LineCollection  # noqa: E402
from matplotlib.colors import same_color  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")
KINDS = ("evidence", "layers", "training")
MOVES = {
    "identity": lambda x: x,
    "rotation(90)": np.rot90,
    "rotation(180)": lambda x: np.rot90(x, 2),
    "rotation(270)": lambda x: np.rot90(x, 3),
    "mirror(0)": np.flipud,
    "mirror(45)": lambda x: np.rot90(x.T, 2),
    "mirror(90)": np.fliplr,
    "mirror(135)": lambda x: x.T,
}
"""The elements of D4 as numpy moves them; the angles are those of the axes, with the y axis up."""


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def a_learned_symmetry(group: str = "D4", learned: str = "C4", accepted: str = "", **others: object) -> LearnedSymmetry:
    """Evidence with a score of its own for each subgroup; the accepted ones, "C4" and below if none is said."""
    g = PointGroup.from_name(group)
    largest = [g.subgroup(name) for name in (accepted or learned).split()]
    evidence = {}
    for i, h in enumerate(g.subgroups):
        values = dict.fromkeys(Evidence._fields, 0.005)
        values |= {"score": 0.9 - i / 100, "score_error": 0.01 + i / 1000}
        evidence[h.name] = Evidence(**values)._replace(p_value=0.5 if any(h <= k for k in largest) else 1e-5)
    constraints = {"layer 1": group, "layer 2": group, "head": learned}
    return LearnedSymmetry(
        group, learned, **{"constraints": constraints, "measured_change": {}, "evidence": evidence, **others}
    )


def shares_of(*layers: str) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(0)
    names = [h.name for h in D4.subgroups]
    return {layer: dict(zip(names, rng.dirichlet(np.ones(len(names))).tolist(), strict=True)) for layer in layers}


def after_differentiable_search() -> LearnedSymmetry:
    layers = ("layer 1", "layer 2", "head")
    final = shares_of(*layers)
    history = {a: {h: [0.1, (0.1 + share) / 2, share] for h, share in of.items()} for a, of in final.items()}
    return a_learned_symmetry(layer_weights=final, share_history=history)


# --- the lattice and the evidence ---


def covering_relations(group: PointGroup) -> set[tuple[frozenset[int], frozenset[int]]]:
    """Pairs of subgroups, as sets of elements, with none between: from the multiplication table alone."""

    def closure(elements: set[int]) -> frozenset[int]:
        while not (more := {int(group.table[a, b]) for a, b in product(elements, elements)}) <= elements:
            elements = elements | more
        return frozenset(elements)

    subgroups = {closure({0, a, b}) for a, b in product(group.elements, group.elements)}
    pairs = {(h, k) for h, k in product(subgroups, subgroups) if k < h}
    return {(h, k) for h, k in pairs if not any((h, m) in pairs and (m, k) in pairs for m in subgroups)}


@pytest.mark.parametrize("name", ["C1", "C4", "D1(90)", "D2(45)", "D4", "D8"])
def test_the_picture_is_the_lattice_of_subgroups(name: str) -> None:
    group = PointGroup.from_name(name)
    display = SymmetryDisplay(a_learned_symmetry(name, "C1")).plot()
    assert list(display.nodes_) == [h.name for h in group.subgroups]
    at = {text.get_position(): frozenset(group.subgroup(h).elements) for h, text in display.nodes_.items()}
    assert len(at) == len(group.subgroups)  # no two at one place
    (lines,) = (c for c in display.ax_.collections if isinstance(c, LineCollection))
    drawn = [(at[tuple(a)], at[tuple(b)]) for a, b in lines.get_segments()]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == covering_relations(group)


def test_the_rows_are_the_orders_with_the_whole_group_on_top() -> None:
    display = SymmetryDisplay(a_learned_symmetry()).plot()
    orders = [int(label.get_text()) for label in display.ax_.get_yticklabels()]
    assert orders == [1, 2, 4, 8]
    assert {h.name: orders[display.nodes_[h.name].get_position()[1]] for h in D4.subgroups} == {
        h.name: h.order for h in D4.subgroups
    }


@pytest.mark.parametrize("regression", [False, True])
def test_every_node_tells_its_own_error(regression: bool) -> None:
    learned = a_learned_symmetry(regression=regression)
    display = SymmetryDisplay(learned).plot()
    assert learned.evidence is not None
    for name, e in learned.evidence.items():
        error = f"{e.score:.3f} ± {e.score_error:.3f}"
        if not regression:
            error = f"{100 - 100 * e.score:.1f} ± {100 * e.score_error:.1f}"
        assert display.nodes_[name].get_text() == f"{name}\n{error}"
    assert ("score" if regression else "error in %") in display.ax_.get_title()


def edges(display: SymmetryDisplay) -> dict[str, tuple[float, str]]:
    boxes = {name: text.get_bbox_patch() for name, text in display.nodes_.items()}
    return {name: (box.get_linewidth(), box.get_linestyle()) for name, box in boxes.items()}


@pytest.mark.parametrize("h", D4.subgroups, ids=str)
def test_the_learned_group_alone_has_the_thickest_border(h: Subgroup) -> None:
    for learned in (a_learned_symmetry("D4", h.name), a_learned_symmetry("D4", h.name, evidence=None)):
        widths = {name: width for name, (width, _) in edges(SymmetryDisplay(learned).plot()).items()}
        thickest = widths.pop(h.name)
        assert thickest >= 3
        assert max(widths.values()) < 2


def test_groups_that_the_data_do_not_tell_apart_are_marked_when_there_are_several() -> None:
    for accepted, others in (("C4", set()), ("D2(0) D2(45)", {"D2(45)"}), ("C4 D2(0) D1(45)", {"C4", "D1(45)"})):
        learned = a_learned_symmetry("D4", "D2(0)" if "D2(0)" in accepted else accepted, accepted)
        display = SymmetryDisplay(learned).plot()
        assert {name for name, (_, style) in edges(display).items() if style == "--"} == others
        assert set(learned.indistinct) - {learned.group} == others
        labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
        assert ("not told apart by the data" in labels) == bool(others)


def test_the_colours_are_those_of_the_verdicts_in_the_legend() -> None:
    learned = a_learned_symmetry("D4", "D2(45)")
    display = SymmetryDisplay(learned).plot()
    legend = display.ax_.get_legend()
    colours = {t.get_text(): p.get_facecolor() for t, p in zip(legend.get_texts(), legend.get_patches(), strict=True)}
    assert list(colours) == ["accepted", "rejected", "learned"]
    assert not same_color(colours["accepted"], colours["rejected"])
    for name, text in display.nodes_.items():
        assert same_color(text.get_bbox_patch().get_facecolor(), colours[learned.verdicts[name]])
    assert set(learned.verdicts.values()) == {"accepted", "rejected"}


def test_without_evidence_there_are_names_and_the_learned_group() -> None:
    display = SymmetryDisplay(a_learned_symmetry(evidence=None)).plot()
    assert {name: text.get_text() for name, text in display.nodes_.items()} == {h.name: h.name for h in D4.subgroups}
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["learned"]


def test_a_network_that_is_no_better_than_chance_is_told() -> None:
    learned = a_learned_symmetry()
    assert learned.evidence is not None
    blind = a_learned_symmetry(evidence={n: e._replace(chance_p_value=0.6) for n, e in learned.evidence.items()})
    assert "chance" in SymmetryDisplay(blind).plot().ax_.get_title()
    assert "chance" not in SymmetryDisplay(learned).plot().ax_.get_title()


@pytest.mark.parametrize("name", ["C4", "D2", "D4", "D8", "D16"])
def test_nothing_overlaps_or_is_cut_at_the_usual_size(name: str) -> None:
    display = SymmetryDisplay(a_learned_symmetry(name, "C2")).plot()
    figure = display.figure_
    assert figure.get_size_inches().tolist() == [6.4, 4.8]
    assert all(text.get_fontsize() >= 4.5 for text in display.nodes_.values())  # points
    figure.draw_without_rendering()
    boxes = [text.get_bbox_patch().get_window_extent() for text in display.nodes_.values()]
    boxes += [display.ax_.get_legend().get_window_extent(), display.ax_.title.get_window_extent()]
    for i, box in enumerate(boxes):
        assert all(not box.overlaps(other) for other in boxes[:i])
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


# --- layers and training ---


def framed(display: SymmetryDisplay) -> set[tuple[str, str]]:
    """The layer and the subgroup of every frame."""
    layers = [label.get_text() for label in display.ax_.get_xticklabels()]
    subgroups = [label.get_text() for label in display.ax_.get_yticklabels()]
    corners = [p.get_center() for p in display.ax_.patches if isinstance(p, Rectangle)]
    return {(layers[round(x)], subgroups[round(y)]) for x, y in corners}


@pytest.mark.parametrize("weights", [None, shares_of("layer 1", "layer 2", "head")], ids=["plain", "shares"])
def test_the_constraint_of_every_layer_is_framed(weights: dict[str, dict[str, float]] | None) -> None:
    constraints = {"layer 1": "D4", "layer 2": "D2(45)", "head": "C2"}
    display = SymmetryDisplay(a_learned_symmetry(constraints=constraints, layer_weights=weights)).plot("layers")
    assert framed(display) == set(constraints.items())
    assert [label.get_text() for label in display.ax_.get_xticklabels()] == list(constraints)
    if weights is None:
        assert not display.ax_.images
    else:
        shares = display.ax_.images[0].get_array()
        expected = [[weights[layer][h.name] for layer in constraints] for h in D4.subgroups]
        np.testing.assert_array_equal(shares, expected)


def test_all_groups_of_a_mixture_are_framed() -> None:
    learned = a_learned_symmetry(constraints={"layer 1": "D4+C4+C1", "head": "D4"})
    assert framed(SymmetryDisplay(learned).plot("layers")) == {
        ("layer 1", "D4"),
        ("layer 1", "C4"),
        ("layer 1", "C1"),
        ("head", "D4"),
    }


def test_the_training_has_a_panel_for_each_layer_with_a_line_for_each_subgroup() -> None:
    learned = after_differentiable_search()
    display = SymmetryDisplay(learned).plot("training")
    assert learned.share_history is not None
    assert [ax.get_title() for ax in display.axes_] == list(learned.share_history)
    assert display.ax_ is display.axes_[0]
    assert len(display.figure_.axes) == len(learned.share_history)
    looks = []
    for ax, shares in zip(display.axes_, learned.share_history.values(), strict=True):
        assert {line.get_label(): line.get_ydata().tolist() for line in ax.lines} == shares
        assert all(line.get_xdata().tolist() == [0, 50, 100] for line in ax.lines)
        looks.append([(line.get_color(), line.get_linestyle()) for line in ax.lines])
        assert looks[-1] == looks[0]
    assert len(set(looks[0])) == len(D4.subgroups)


def test_in_a_given_ax_the_training_is_the_mean_over_the_layers() -> None:
    learned = after_differentiable_search()
    _, ax = plt.subplots()
    display = SymmetryDisplay(learned).plot("training", ax=ax)
    assert display.axes_.tolist() == [ax]
    assert learned.share_history is not None
    for line in ax.lines:
        layers = [shares[line.get_label()] for shares in learned.share_history.values()]
        np.testing.assert_allclose(line.get_ydata(), np.mean(layers, axis=0))
    assert len(ax.lines) == len(D4.subgroups)


@pytest.mark.parametrize("kind", KINDS)
def test_a_given_ax_is_drawn_on_and_no_figure_is_made(kind: str) -> None:
    figure, axes = plt.subplots(1, 2)
    display = SymmetryDisplay(after_differentiable_search())
    assert display.plot(kind, ax=axes[1]) is display
    assert display.ax_ is axes[1]
    assert display.figure_ is figure
    assert plt.get_fignums() == [figure.number]
    assert axes[1].has_data()
    assert not axes[0].has_data()


def test_what_cannot_be_drawn_is_told() -> None:
    with pytest.raises(ValueError, match="no history of shares.*search='differentiable'"):
        SymmetryDisplay(a_learned_symmetry()).plot("training")
    with pytest.raises(ValueError, match="kind='groups' is unknown. Use 'evidence', 'layers' or 'training'"):
        SymmetryDisplay(a_learned_symmetry()).plot("groups")
    assert not plt.get_fignums()


# --- the search ---


def results_of(n: int, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Made-up candidates, some of them with as many parameters or the same error, the last one diverged."""
    rng = np.random.default_rng(seed)
    score = rng.integers(50, 60, size=n) / 100
    score[-1] = -np.inf
    return {
        "generation": np.arange(n) // 4,
        "constraints": np.array([f"D4 C4 | C{i}" for i in range(n)]),
        "n_parameters": rng.integers(10, 20, size=n) * 100,
        "validation_score": score,
        "validation_score_standard_error": np.where(np.isfinite(score), 0.02, np.nan),
    }


@pytest.mark.parametrize("seed", range(4))
def test_the_front_holds_exactly_the_candidates_that_no_other_beats(seed: int) -> None:
    results = results_of(25, seed)
    display = SearchDisplay(results, 3).plot()
    size, error = results["n_parameters"], 1 - results["validation_score"]
    sound = range(24)

    def beats(a: int, b: int) -> bool:
        return size[a] <= size[b] and error[a] <= error[b] and (size[a] < size[b] or error[a] < error[b])

    front = {b for b in sound if not any(beats(a, b) for a in sound)}
    assert set(display.front_.tolist()) == front
    assert 1 < len(front) < 24
    (line,) = (a for a in display.ax_.lines if a.get_label() == "Pareto front")
    assert {tuple(point) for point in line.get_xydata()} == {(size[i], error[i]) for i in front}
    assert np.all(np.diff(line.get_xdata()) >= 0)
    assert np.all(np.diff(line.get_ydata()) <= 0)


def test_all_sound_candidates_are_drawn_and_the_chosen_one_is_ringed() -> None:
    results = results_of(25)
    display = SearchDisplay(results, 7).plot()
    points = np.column_stack([results["n_parameters"], 1 - results["validation_score"]])
    dots, ring = (c for c in display.ax_.collections if not isinstance(c, LineCollection))
    np.testing.assert_allclose(dots.get_offsets(), points[:24])
    np.testing.assert_array_equal(dots.get_array(), results["generation"][:24])
    np.testing.assert_allclose(ring.get_offsets(), points[[7]])
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["Pareto front", "chosen: D4 C4 | C7", *(f"generation {i}" for i in range(6))]
    assert display.ax_.get_xscale() == "log"
    (bars,) = (c for c in display.ax_.collections if isinstance(c, LineCollection))
    assert [np.ptp(segment[:, 1]) for segment in bars.get_segments()] == pytest.approx([0.04] * 24)


def test_without_a_chosen_candidate_nothing_is_ringed() -> None:
    figure, ax = plt.subplots()
    display = SearchDisplay(results_of(5), None).plot(ax=ax)
    assert (display.ax_, display.figure_) == (ax, figure)
    assert plt.get_fignums() == [figure.number]
    assert not [t for t in ax.get_legend().get_texts() if "chosen" in t.get_text()]


def lineages(n: int = 12) -> dict[str, np.ndarray]:
    """Candidates in threes, each of which has a parent among those of the generation before."""
    parents = np.array([-1 if i < 3 else 3 * (i // 3 - 1) + (2 * i) % 3 for i in range(n)])
    layers = [["D4", "C4", "C2", "C1"][min(i // 3, 3)] for i in range(n)]
    return results_of(n) | {
        "candidate": np.arange(n) + 5,  # numbers need not begin at 0
        "parent": np.where(parents < 0, -1, parents + 5),
        "generation": np.arange(n) // 3,
        "constraints": np.array([f"D4 D4 | {name}" for name in layers]),
        "n_plain_parameters": np.full(n, 5000),
    }


def test_the_lineage_of_the_chosen_candidate_leads_from_the_first_generation_to_it() -> None:
    results = lineages()
    display = SearchDisplay(results, 10).plot(kind="generations")
    assert display.lineage_[-1] == 10
    assert list(results["generation"][display.lineage_]) == [0, 1, 2, 3]
    for parent, child in itertools.pairwise(display.lineage_):
        assert results["candidate"][parent] == results["parent"][child]
    (line,) = display.ax_.lines
    np.testing.assert_allclose(line.get_ydata(), 1 - results["validation_score"][display.lineage_])
    segments, dots = display.ax_.collections
    assert len(segments.get_segments()) == 8  # of the eleven that are sound, three have no parent
    assert len(dots.get_offsets()) == 11


def test_the_constraints_along_a_lineage_are_named() -> None:
    display = SearchDisplay(lineages(), None).plot(kind="constraints")
    texts = [text.get_text() for text in display.ax_.texts]
    n = len(display.lineage_)
    assert texts[: 2 * n] == ["D4"] * 2 * n
    assert texts[2 * n :] == ["D4", "C4", "C2", "C1"][:n]
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == ["layer 1", "layer 2", "head"]
    assert display.ax_.images[0].get_array()[-1].tolist() == [8, 4, 2, 1][:n]


def test_where_all_functions_have_as_many_parameters_as_plain_layers_one_line_says_so() -> None:
    display = SearchDisplay(lineages(), 3).plot()
    (line,) = (a for a in display.ax_.lines if a.get_label() == "as plain layers")
    assert set(line.get_xdata()) == {5000}


def test_an_unknown_picture_of_a_search_is_refused() -> None:
    with pytest.raises(ValueError, match="kind='lineage' is unknown. Use 'parameters', 'generations', 'constraints'"):
        SearchDisplay(lineages(), None).plot(kind="lineage")


def test_a_search_without_a_sound_candidate_is_told() -> None:
    for results in ({}, results_of(1)):
        with pytest.raises(ValueError, match="no candidate to draw.*search='none'"):
            SearchDisplay(results, None).plot()


# --- an image under the elements of a group ---


def orbit(predictions: list[object], **others: object) -> OrbitDisplay:
    images = np.random.default_rng(0).random((len(predictions), 5, 5))
    return OrbitDisplay(images, np.array(predictions), [f"g{i}" for i in range(len(predictions))], **others)


def frames(display: OrbitDisplay) -> list[tuple[object, ...]]:
    return [tuple((s.get_edgecolor(), s.get_linestyle()) for s in ax.spines.values()) for ax in display.axes_]


def test_the_frame_tells_how_a_prediction_compares_with_the_first() -> None:
    display = orbit(["a", "b", "a", "a"], probabilities=np.array([0.7, 0.7, 0.7 + 1e-6, 0.6])).plot()
    assert display.agreement == ["same prediction", "other class", "same prediction", "same class, other probability"]
    first, other, same, unsure = frames(display)
    assert first == same
    assert len({first, other, unsure}) == 3
    assert [ax.get_xlabel() for ax in display.axes_] == ["a (0.700)", "b (0.700)", "a (0.700)", "a (0.600)"]
    labels = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    assert sorted(labels) == sorted(set(display.agreement))


def test_numbers_are_compared_and_written_to_the_tolerance() -> None:
    display = orbit([[1000.0, 0.5], [1000.04, 0.5], [1000.0, 0.6]], tolerance=np.array([0.1, 0.001])).plot()
    assert display.agreement == ["same prediction", "same prediction", "other prediction"]
    assert [ax.get_xlabel() for ax in display.axes_] == ["1000\n0.50", "1000\n0.50", "1000\n0.60"]
    assert orbit([1.0, 1.1], tolerance=0.0).agreement == ["same prediction", "other prediction"]


@pytest.mark.parametrize("n", [1, 2, 4, 5, 8])
def test_there_is_one_picture_for_each_element(n: int) -> None:
    display = orbit([0.0] * n).plot()
    assert [ax.get_title() for ax in display.axes_] == [f"g{i}" for i in range(n)]
    assert display.figure_.axes == display.axes_.tolist()
    for ax, image in zip(display.axes_, display.images, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), image)
        assert ax.images[0].get_clim() == (display.images.min(), display.images.max())


def test_given_axes_are_drawn_on_and_must_be_enough() -> None:
    figure, axes = plt.subplots(2, 2)
    display = orbit([0.0] * 4).plot(axes)
    assert display.axes_.tolist() == axes.ravel().tolist()
    assert display.figure_ is figure
    assert plt.get_fignums() == [figure.number]
    with pytest.raises(ValueError, match="axes has 4 axes, but there are 3 elements"):
        orbit([0.0] * 3).plot(axes)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_one_or_two_channels_are_grey_and_more_are_colours(channels: int) -> None:
    images = 300 * np.random.default_rng(0).random((2, 4, 4, channels)) - 100
    drawn = OrbitDisplay(images, np.zeros(2), ["a", "b"]).plot().axes_[0].images[0].get_array()
    assert drawn.shape == ((4, 4) if channels < 3 else (4, 4, 3))
    if channels >= 3:
        assert 0 <= drawn.min() < drawn.max() <= 1


# --- from fitted estimators ---


@pytest.fixture(scope="module")
def digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    data = load_digits(n_class=3)
    return data.images, data.target


@pytest.fixture(scope="module")
def classifier(digits: tuple[NDArray[np.float64], NDArray[np.int64]], one_thread: None) -> EquivariantNASClassifier:
    """Constrained to C4 by its head, without a search."""
    architecture = default_architecture(D4, 8, 1, 3).relaxed(-1, D4.subgroup("C4"))
    model = EquivariantNASClassifier(search="none", architecture=architecture, max_epochs=1, random_state=0)
    return model.fit(digits[0], np.array(["nought", "one", "two"])[digits[1]])


@pytest.fixture(scope="module")
def regressor(digits: tuple[NDArray[np.float64], NDArray[np.int64]], one_thread: None) -> EquivariantNASRegressor:
    """After a differentiable search, of images that are not square."""
    X = digits[0][:, :, 1:7]
    model = EquivariantNASRegressor("D2", "differentiable", max_epochs=2, random_state=0)
    return model.fit(X, X[:, :4].sum((1, 2)))


def test_the_predictions_of_an_orbit_are_those_for_the_moved_images(
    classifier: EquivariantNASClassifier, digits: tuple[NDArray[np.float64], NDArray[np.int64]]
) -> None:
    image = digits[0][7]
    display = OrbitDisplay.from_estimator(classifier, image)
    assert list(display.names) == list(MOVES)
    moved = np.array([move(image) for move in MOVES.values()])
    assert display.predictions.tolist() == classifier.predict(moved).tolist()
    np.testing.assert_allclose(display.probabilities, classifier.predict_proba(moved).max(axis=1), atol=1e-6)
    np.testing.assert_allclose([ax.images[0].get_array() for ax in display.axes_], moved, atol=1e-5)


def test_the_prediction_is_the_same_under_exactly_the_learned_elements(
    classifier: EquivariantNASClassifier, digits: tuple[NDArray[np.float64], NDArray[np.int64]]
) -> None:
    assert classifier.learned_symmetry_.group == "C4"
    for image in digits[0][:5]:
        display = OrbitDisplay.from_estimator(classifier, image)
        first, *others = frames(display)
        same = [g for g, frame in enumerate(others, 1) if frame == first]
        assert [0, *same] == list(D4.subgroup("C4").elements)


def test_an_image_may_have_any_form_that_predict_takes(
    classifier: EquivariantNASClassifier, digits: tuple[NDArray[np.float64], NDArray[np.int64]]
) -> None:
    pd = pytest.importorskip("pandas")
    image = digits[0][3]
    expected = OrbitDisplay.from_estimator(classifier, image)
    named = copy.copy(classifier)
    named.feature_names_in_ = np.array([f"pixel {i}" for i in range(64)], dtype=object)
    row = pd.DataFrame(image.reshape(1, -1), columns=named.feature_names_in_)
    for model, form in (
        (classifier, image.ravel()),
        (classifier, image.tolist()),
        (classifier, torch.from_numpy(image)),
        (classifier, image.astype(np.uint8)),
        (named, row),
    ):
        display = OrbitDisplay.from_estimator(model, form)
        np.testing.assert_allclose(display.probabilities, expected.probabilities, atol=1e-6)
    with pytest.raises(ValueError, match=r"images of shape \(8, 6\)"):
        OrbitDisplay.from_estimator(classifier, image[:, :6])


def test_an_image_that_is_not_square_is_moved_as_it_is(
    regressor: EquivariantNASRegressor, digits: tuple[NDArray[np.float64], NDArray[np.int64]]
) -> None:
    """The elements that map the rectangle to itself can be asked of predict."""
    image = digits[0][5][:, 1:7]
    display = OrbitDisplay.from_estimator(regressor, image)
    assert display.images.shape == (4, 8, 6, 1)
    np.testing.assert_allclose(display.images[0, ..., 0], image, atol=1e-5)
    for name in ("identity", "rotation(180)", "mirror(0)", "mirror(90)"):
        own = display.predictions[list(display.names).index(name)]
        assert own == pytest.approx(regressor.predict(MOVES[name](image)[None].copy()), rel=1e-5)
    learned = regressor.architecture_.group.subgroup(regressor.learned_symmetry_.group)
    same = [g for g, kind in enumerate(display.agreement) if kind == "same prediction"]
    assert same == list(learned.elements)


def test_the_displays_of_a_search_show_what_the_estimator_holds(regressor: EquivariantNASRegressor) -> None:
    search = SearchDisplay.from_estimator(regressor)
    assert search.results is regressor.search_results_
    assert regressor.search_results_["constraints"][search.chosen] == str(regressor.architecture_)
    for kind in KINDS:
        _, ax = plt.subplots()
        display = SymmetryDisplay.from_estimator(regressor, kind=kind, ax=ax)
        assert display.learned is regressor.learned_symmetry_
        assert display.ax_ is ax


def test_the_chosen_candidate_is_the_last_with_the_constraints_of_the_model(
    classifier: EquivariantNASClassifier,
) -> None:
    tried = copy.copy(classifier)
    own, other = str(classifier.architecture_), "D4 D4 D4 | D4"
    for constraints, chosen in (([own, other, own, other], 2), ([other] * 4, None)):
        tried.search_results_ = results_of(5) | {"constraints": np.array([*constraints, other])}
        assert SearchDisplay.from_estimator(tried).chosen == chosen


def test_without_a_search_there_are_constraints_but_no_candidates(classifier: EquivariantNASClassifier) -> None:
    assert framed(SymmetryDisplay.from_estimator(classifier, kind="layers")) == set(
        classifier.learned_symmetry_.constraints.items()
    )
    with pytest.raises(ValueError, match="no candidate to draw"):
        SearchDisplay.from_estimator(classifier)


def test_every_stream_has_its_frame(classifier: EquivariantNASClassifier) -> None:
    model = copy.copy(classifier)
    names = dict.fromkeys(classifier.learned_symmetry_.constraints, "D4/C1")
    model.learned_symmetry_ = replace(classifier.learned_symmetry_, constraints=names)
    display = SymmetryDisplay.from_estimator(model, kind="layers")
    assert framed(display) == {(layer, name) for layer in names for name in ("D4", "C1")}


def test_an_estimator_must_be_fitted() -> None:
    model = EquivariantNASClassifier()
    for display in (SymmetryDisplay, SearchDisplay):
        with pytest.raises(NotFittedError):
            display.from_estimator(model)
    with pytest.raises(NotFittedError):
        OrbitDisplay.from_estimator(model, np.zeros((8, 8)))


# --- matplotlib is optional ---


def test_importing_the_package_does_not_import_matplotlib() -> None:
    code = "import sys, skequinas, skequinas.displays; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    message = r'pip install "skequinas\[plot\]"'
    for kind in KINDS:
        with pytest.raises(ImportError, match=message):
            SymmetryDisplay(after_differentiable_search()).plot(kind)
    with pytest.raises(ImportError, match=message):
        SearchDisplay(results_of(5), 0).plot()
    with pytest.raises(ImportError, match=message):
        orbit([0.0]).plot()
