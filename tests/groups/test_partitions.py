"""Laws of the distance between two ways to share weights."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skequinas.groups import PointGroup, Subgroup, partition_distance
from tests.conftest import GROUPS

LABELS = st.lists(st.integers(0, 4), min_size=6, max_size=6)


@given(LABELS, LABELS, LABELS)
def test_it_is_a_metric_of_partitions(a: list[int], b: list[int], c: list[int]) -> None:
    assert 0 <= partition_distance(a, b) <= 1
    assert partition_distance(a, b) == partition_distance(b, a)
    assert partition_distance(a, c) <= partition_distance(a, b) + partition_distance(b, c) + 1e-12
    together = [[(x == y) for y in own] for own in (a, b) for x in own]
    assert (partition_distance(a, b) == 0) == (together[:6] == together[6:])


@given(LABELS, LABELS)
def test_it_counts_the_items_that_would_have_to_move(a: list[int], b: list[int]) -> None:
    fewest = min(sum(names[x] != y for x, y in zip(a, b, strict=True)) for names in permutations(range(5)))
    assert partition_distance(a, b) == pytest.approx(fewest / 5)


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_only_a_subgroup_itself_has_its_orbits(group: PointGroup) -> None:
    for h in group.subgroups:
        for k in group.subgroups:
            assert (partition_distance(h, k) == 0) == (h == k)
    assert partition_distance(group.whole, group.trivial) == (1.0 if group.order > 1 else 0.0)


def test_it_grows_down_a_chain(chain: list[Subgroup]) -> None:
    distances = [partition_distance(chain[0], h) for h in chain]
    assert distances == sorted(distances)


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(ValueError, match="must be subgroups of one group"):
        partition_distance(PointGroup.from_name("C4").whole, PointGroup.from_name("D4").whole)
    with pytest.raises(ValueError, match=r"first has shape \(8,\) and second \(3,\)"):
        partition_distance(PointGroup.from_name("D4").whole, np.arange(3))
