"""Laws of the blocks of equivariant kernels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from skequinas.groups import PointGroup, Subgroup
from skequinas.nn.blocks import kernel_blocks
from skequinas.nn.filters import KernelSpace, kernel_space

OTHERS = [h for name in ("C3", "C8", "D6") for h in PointGroup.from_name(name).subgroups if h.order > 2]
"""Subgroups of finer turns, which need the harmonic basis."""
N_OUT, N_IN = 3, 2
PLACES = {"hidden": (True, True), "lifting": (False, True), "head": (True, False)}


def weights(space: KernelSpace, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(space.n_free, N_OUT, N_IN, dtype=torch.float64, generator=generator)


def dense(space: KernelSpace, w: Tensor) -> Tensor:
    """The coefficients as a matrix, from (fields, g', atoms) to (fields, g)."""
    rows = space.expand(w).reshape(space.multiplicity_out, -1, N_OUT, N_IN)
    return rows.permute(2, 0, 3, 1).reshape(N_OUT * space.multiplicity_out, -1)


def polar(matrices: Tensor) -> Tensor:
    """The polar factor, which leaves out what is zero."""
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    return (left * (values > 1e-9 * values.amax(-1, keepdim=True)).to(left).unsqueeze(-2)) @ right


def check(space: KernelSpace) -> None:
    blocks, w = kernel_blocks((space,)), weights(space)
    parts = blocks.split(w)
    torch.testing.assert_close(blocks.join(parts, N_OUT, N_IN), w, rtol=0, atol=1e-12)
    found, expected = dense(space, blocks.join([polar(part) for part in parts], N_OUT, N_IN)), polar(dense(space, w))
    # outputs that are no fields see the free weights alone, whose singular values are others by a factor
    torch.testing.assert_close(found / found.norm(), expected / expected.norm(), rtol=0, atol=1e-10)
    if space.regular_out:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_the_polar_factor_of_blocks_is_that_of_the_dense_kernel(
    subgroup: Subgroup, kernel_size: int, place: str
) -> None:
    check(kernel_space(subgroup, kernel_size, *PLACES[place]))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["C2", "D2(45)", "D4"])
def test_the_same_for_kernels_of_seven_pixels(name: str, place: str) -> None:
    check(kernel_space(PointGroup.from_name("D4").subgroup(name), 7, *PLACES[place]))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("subgroup", OTHERS, ids=repr)
def test_the_same_in_the_harmonic_basis(subgroup: Subgroup, place: str) -> None:
    check(kernel_space(subgroup, 3, *PLACES[place], basis="harmonic"))


def test_blocks_of_a_mixture_are_those_of_its_parts() -> None:
    spaces = tuple(kernel_space(h, 3) for h in PointGroup.from_name("D4").subgroups)
    parts = [weights(space, i) for i, space in enumerate(spaces)]
    together = kernel_blocks(spaces).split(torch.cat(parts))
    alone = [block for space, w in zip(spaces, parts, strict=True) for block in kernel_blocks((space,)).split(w)]
    assert sum(len(block) for block in together) == sum(len(block) for block in alone)
    torch.testing.assert_close(
        torch.cat([block.flatten() for block in together]), torch.cat([block.flatten() for block in alone])
    )


def test_blocks_are_many_times_smaller_than_the_dense_kernel() -> None:
    D4 = PointGroup.from_name("D4")
    (four, one) = kernel_blocks((kernel_space(D4.whole, 3),)).shapes
    assert (four.n, four.rows, four.columns) == (4, 1, 9)
    assert (one.n, one.rows, one.columns) == (1, 2, 18)
    (ordinary,) = kernel_blocks((kernel_space(D4.trivial, 3),)).shapes
    assert (ordinary.n, ordinary.rows, ordinary.columns) == (1, 8, 72)
