"""Laws of the irreducible representations of a subgroup."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from skequinas.groups import PointGroup, Subgroup, irreps

NAMES = ["C1", "C2", "C3", "C4", "C8", "D1(90)", "D2(45)", "D3(10)", "D4", "D6", "D8"]
ALL = [h for name in NAMES for h in PointGroup.from_name(name).subgroups]


@pytest.mark.parametrize("subgroup", ALL, ids=repr)
def test_irreps_are_representations_by_orthogonal_matrices(subgroup: Subgroup) -> None:
    place = {h: i for i, h in enumerate(subgroup.elements)}
    for irrep in irreps(subgroup):
        assert irrep.matrices.shape == (subgroup.order, irrep.dimension, irrep.dimension)
        for a, b in itertools.product(subgroup.elements, repeat=2):
            product = irrep.matrices[place[a]] @ irrep.matrices[place[b]]
            np.testing.assert_allclose(irrep.matrices[place[subgroup.group.multiply(a, b)]], product, atol=1e-12)
            np.testing.assert_allclose(product @ product.T, np.eye(irrep.dimension), atol=1e-12)


@pytest.mark.parametrize("subgroup", ALL, ids=repr)
def test_irreps_are_irreducible_different_and_all_there_are(subgroup: Subgroup) -> None:
    found = irreps(subgroup)
    characters = np.array([np.trace(irrep.matrices, axis1=1, axis2=2) for irrep in found])
    commuting = np.array([2 if irrep.is_complex else 1 for irrep in found])  # real dimension of what commutes with each
    np.testing.assert_allclose(characters @ characters.T / subgroup.order, np.diag(commuting), atol=1e-12)
    assert sum(irrep.dimension**2 / c for irrep, c in zip(found, commuting, strict=True)) == subgroup.order
    assert [irrep.dimension for irrep in found] == sorted(irrep.dimension for irrep in found)
