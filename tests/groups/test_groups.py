"""Laws of the planar point groups, against matrices, sets and brute force."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skequinas.groups import PointGroup, Subgroup, parse_group

C4, D4, D8 = (PointGroup.from_name(name) for name in ("C4", "D4", "D8"))

groups = st.builds(
    PointGroup, st.integers(1, 16), st.booleans(), st.sampled_from([Fraction(k, 2) for k in (0, 15, 45, 90, 180)])
)


@st.composite
def subgroup_pairs(draw: st.DrawFn) -> tuple[Subgroup, Subgroup]:
    """Two subgroups of one group."""
    subgroups = st.sampled_from(draw(groups).subgroups)
    return draw(subgroups), draw(subgroups)


def closure(group: PointGroup, generators: tuple[int, ...]) -> frozenset[int]:
    """All products of the generators, by brute force."""
    found, new = {0}, {0}
    while new:
        new = {group.multiply(a, b) for a in generators for b in new} - found
        found |= new
    return frozenset(found)


def brute_force_subgroups(group: PointGroup) -> set[frozenset[int]]:
    """Two elements generate any group of plane rotations and mirrors, so all pairs find all subgroups."""
    return {closure(group, pair) for pair in combinations_with_replacement(group.elements, 2)}


def is_group_table(table: NDArray[np.int64]) -> bool:
    """Whether 0 is the identity, every row and column has every element once, and products associate."""
    elements = np.arange(len(table))
    identity = (table[0] == elements).all() and (table[:, 0] == elements).all()
    latin = all((np.sort(table, axis) == np.expand_dims(elements, 1 - axis)).all() for axis in (0, 1))
    return bool(identity and latin and (table[table] == table[:, table]).all())


def is_represented(group: PointGroup, multiply: Callable[[int, int], int]) -> bool:
    """Whether the matrices multiply as the elements do."""
    m = [group.matrix(a) for a in group.elements]
    return all(np.allclose(m[a] @ m[b], m[multiply(a, b)], atol=1e-12) for a in group.elements for b in group.elements)


@given(groups)
def test_the_multiplication_table_is_that_of_a_group(group: PointGroup) -> None:
    assert is_group_table(group.table)
    assert len(group) == group.order == len(group.table) == group.n_rotations * (1 + group.mirrors)
    assert all(group.multiply(a, group.inverse(a)) == 0 == group.multiply(group.inverse(a), a) for a in group.elements)


def test_a_table_with_two_entries_exchanged_is_not_that_of_a_group() -> None:
    table = D4.table.copy()
    table[2, [3, 4]] = table[2, [4, 3]]
    assert not is_group_table(table)


@given(groups)
def test_the_matrices_are_a_faithful_homomorphism_into_the_orthogonal_group(group: PointGroup) -> None:
    matrices = np.array([group.matrix(a) for a in group.elements])
    assert is_represented(group, group.multiply)
    assert len({(m.round(9) + 0.0).tobytes() for m in matrices}) == group.order
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(2), matrices.shape), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(matrices), [-1.0 if group.is_mirror(a) else 1.0 for a in group.elements])


def test_mirrors_that_commuted_with_rotations_would_not_be_represented_by_the_matrices() -> None:
    def commuting(a: int, b: int) -> int:
        (f, k), (g, j) = divmod(a, 4), divmod(b, 4)
        return (f ^ g) * 4 + (k + j) % 4

    assert is_group_table(np.array([[commuting(a, b) for b in D4.elements] for a in D4.elements]))
    assert not is_represented(D4, commuting)


@given(groups)
def test_a_rotation_turns_the_x_axis_by_its_angle_and_a_mirror_keeps_its_axis(group: PointGroup) -> None:
    for a in group.elements:
        direction = np.exp(1j * np.pi / 180 * float(group.angle(a)))
        start = (direction.real, direction.imag) if group.is_mirror(a) else (1.0, 0.0)
        np.testing.assert_allclose(group.matrix(a) @ start, (direction.real, direction.imag), atol=1e-12)


@pytest.mark.parametrize(
    ("group", "element", "name"),
    [("C4", 0, "identity"), ("D4", 1, "rotation(90)"), ("D4", 5, "mirror(45)"), ("D1(90)", 1, "mirror(90)")],
)
def test_elements_have_readable_names(group: str, element: int, name: str) -> None:
    assert PointGroup.from_name(group).element_name(element) == name


@pytest.mark.parametrize("mirrors", [False, True])
@pytest.mark.parametrize("n", range(1, 17))
def test_the_subgroups_are_those_that_brute_force_finds(n: int, mirrors: bool) -> None:
    group = PointGroup(n, mirrors)
    divisors = [m for m in range(1, n + 1) if n % m == 0]
    found = {frozenset(h.elements) for h in group.subgroups}
    assert found == brute_force_subgroups(group)
    assert len(found) == len(group.subgroups) == len(divisors) + (sum(divisors) if mirrors else 0)
    assert group.subgroups[0] == group.whole
    assert group.subgroups[-1] == group.trivial
    assert [h.order for h in group.subgroups] == sorted((h.order for h in group.subgroups), reverse=True)


def test_D4_has_ten_subgroups_and_D8_nineteen() -> None:
    names = ["D4", "C4", "D2(0)", "D2(45)", "C2", "D1(0)", "D1(45)", "D1(90)", "D1(135)", "C1"]
    assert [h.name for h in D4.subgroups] == names
    assert len(set(D8.subgroups)) == 19


def test_a_set_that_is_not_closed_is_not_among_the_subgroups() -> None:
    union = frozenset(D4.subgroup("D1(0)").elements) | frozenset(D4.subgroup("D1(45)").elements)
    assert union not in brute_force_subgroups(D4)
    assert all(union != frozenset(h.elements) for h in D4.subgroups)


@given(groups, st.data())
def test_generate_gives_the_closure_of_any_elements(group: PointGroup, data: st.DataObject) -> None:
    elements = data.draw(st.lists(st.sampled_from(group.elements), max_size=4))
    assert set(group.generate(elements).elements) == closure(group, tuple(elements))


@given(subgroup_pairs())
def test_the_order_of_a_subgroup_divides_and_its_cosets_partition(pair: tuple[Subgroup, Subgroup]) -> None:
    h, _ = pair
    assert h.order * h.index == h.group.order
    assert len(h) == h.order == len(h.elements) == h.as_group.order
    assert len(h.right_cosets) == h.index
    assert sorted(g for coset in h.right_cosets for g in coset) == list(h.group.elements)
    for coset in h.right_cosets:
        assert coset[0] == min(coset)
        assert coset == tuple(h.group.multiply(a, coset[0]) for a in h.elements)


def test_right_cosets_are_not_left_cosets_where_a_subgroup_is_not_normal() -> None:
    def left_cosets(h: Subgroup) -> set[frozenset[int]]:
        return {frozenset(D4.multiply(t, a) for a in h.elements) for t in D4.elements}

    agrees = {str(h): left_cosets(h) == set(map(frozenset, h.right_cosets)) for h in D4.subgroups}
    assert [name for name, same in agrees.items() if not same] == ["D1(0)", "D1(45)", "D1(90)", "D1(135)"]
    assert all(agrees[str(h)] == (h.conjugates == (h,)) for h in D4.subgroups)


@given(subgroup_pairs())
def test_inclusion_and_intersection_are_those_of_sets(pair: tuple[Subgroup, Subgroup]) -> None:
    h, k = pair
    a, b = set(h.elements), set(k.elements)
    assert (h <= k, h < k, h >= k, h > k, h == k) == (a <= b, a < b, a >= b, a > b, a == b)
    assert set((h & k).elements) == a & b
    assert [e in h for e in h.group.elements] == [e in a for e in h.group.elements]


@given(subgroup_pairs())
def test_the_lattice_below_a_subgroup_is_that_of_sets(pair: tuple[Subgroup, Subgroup]) -> None:
    h, _ = pair
    everything = [frozenset(k.elements) for k in h.group.subgroups]
    below = [k for k in everything if k <= set(h.elements)]
    maximal = {k for k in below if k != set(h.elements) and not any(k < m < set(h.elements) for m in below)}
    assert [frozenset(k.elements) for k in h.subgroups] == below
    assert {frozenset(k.elements) for k in h.maximal_subgroups} == maximal
    assert len(h.maximal_subgroups) == len(maximal)


@given(subgroup_pairs())
def test_conjugates_are_those_of_sets(pair: tuple[Subgroup, Subgroup]) -> None:
    h, _ = pair
    group = h.group
    moved = [{group.multiply(group.multiply(g, a), group.inverse(g)) for a in h.elements} for g in group.elements]
    assert [set(h.conjugate(g).elements) for g in group.elements] == moved
    assert {frozenset(k.elements) for k in h.conjugates} == set(map(frozenset, moved))
    assert list(h.conjugates) == [k for k in group.subgroups if k in h.conjugates]


@given(subgroup_pairs())
def test_a_subgroup_as_a_group_of_its_own_has_the_same_matrices(pair: tuple[Subgroup, Subgroup]) -> None:
    h, _ = pair
    own = [h.as_group.matrix(a) for a in h.as_group.elements]
    np.testing.assert_allclose(own, [h.group.matrix(a) for a in h.elements], atol=1e-12)
    assert parse_group(h) == h.as_group


@pytest.mark.parametrize("operation", [Subgroup.__le__, Subgroup.__lt__, Subgroup.__and__])
def test_subgroups_of_different_groups_do_not_compare(operation: Callable[[Subgroup, Subgroup], object]) -> None:
    with pytest.raises(ValueError, match="different groups"):
        operation(C4.whole, D4.whole)
    assert C4.whole != D4.subgroup("C4")


@given(groups)
def test_every_subgroup_is_found_by_its_name_and_no_two_share_one(group: PointGroup) -> None:
    assert [group.subgroup(h.name) for h in group.subgroups] == list(group.subgroups)
    assert [group.subgroup(f" {str(h).lower()} ") for h in group.subgroups] == list(group.subgroups)
    assert len({h.name for h in group.subgroups}) == len(group.subgroups)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("C1", PointGroup(1)),
        ("d4", PointGroup(4, True)),
        (" D1(90) ", PointGroup(1, True, Fraction(90))),
        ("D1( 22.5° )", PointGroup(1, True, Fraction(45, 2))),
        ("D2(135)", PointGroup(2, True, Fraction(45))),
        ("D4(45)", PointGroup(4, True)),
        ("c16", PointGroup(16)),
    ],
)
def test_names_are_parsed(name: str, group: PointGroup) -> None:
    assert PointGroup.from_name(name) == parse_group(name) == parse_group(group) == group
    assert PointGroup.from_name(group.name) == PointGroup.from_name(str(group)) == group


@pytest.mark.parametrize("parse", [PointGroup.from_name, parse_group, D4.subgroup])
@pytest.mark.parametrize(
    "name",
    ["", " ", "X4", "C0", "D0", "D", "4", "C-4", "C4.5", "C4(45)", "D1()", "D1(.)", "D1(1.2.3)", "D4 C4", 4, None],
    ids=repr,
)
def test_what_is_no_name_raises_an_error_that_says_what_is(parse: Callable[[str], object], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^group={re.escape(repr(name))}"):
        parse(name)


@pytest.mark.parametrize("name", ["C8", "C3", "D1(22.5)", "D8"])
def test_a_name_of_another_group_raises_an_error_with_the_subgroups_there_are(name: str) -> None:
    with pytest.raises(ValueError, match=r"not a subgroup of D4; .*D4, C4, D2\(0\).*C1"):
        D4.subgroup(name)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (PointGroup, (0,)),
        (PointGroup, (-1, True)),
        (Subgroup, (D4, 3)),
        (Subgroup, (D4, 0)),
        (Subgroup, (C4, 2, 0)),
        (Subgroup, (D4, 2, 2)),
        (Subgroup, (D4, 2, -1)),
    ],
)
def test_groups_and_subgroups_that_do_not_exist_raise_an_error(kind: type, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"^(n_rotations|mirror)="):
        kind(*arguments)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))], ids=["copy", "deepcopy", "pickle"]
)
@given(subgroup_pairs())
def test_groups_are_values(copied: Callable[[object], object], pair: tuple[Subgroup, Subgroup]) -> None:
    for value in (pair[0], pair[0].group):
        for warm in (False, True):
            other = copied(value)
            assert other == value
            assert hash(other) == hash(value)
            assert len({other, value}) == 1
            assert warm or value.subgroups and value.order  # the second round has its caches filled
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair[0].n_rotations = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair[0].group.mirrors = False  # type: ignore[misc]


@pytest.mark.parametrize(
    "copied",
    [
        pytest.param(lambda v: v, id="original"),
        pytest.param(copy.deepcopy, id="deepcopy"),
        pytest.param(lambda v: pickle.loads(pickle.dumps(v)), id="pickle"),
    ],
)
def test_the_table_cannot_be_written_to(copied: Callable[[PointGroup], PointGroup]) -> None:
    group = PointGroup.from_name("D4")
    assert group.table.shape == (8, 8)
    with pytest.raises(ValueError, match="read-only"):
        copied(group).table[0, 0] = 1


def test_different_groups_are_different_values() -> None:
    names = ["C1", "D1", "D1(45)", "D1(90)", "C2", "D2", "D2(45)", "C4", "D4"]
    assert len({PointGroup.from_name(name) for name in names}) == len(names)


@given(groups)
def test_a_group_acts_on_pixels_if_its_matrices_are_signed_permutations(group: PointGroup) -> None:
    whole_numbers = all(np.allclose(m, m.round(), atol=1e-12) for m in map(group.matrix, group.elements))
    assert group.acts_on_pixels == whole_numbers
