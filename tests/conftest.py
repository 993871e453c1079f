"""What the law tests share: every subgroup, every edge of the lattices, and the action of a group on tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker has one core: more threads would only wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import transform_images

settings.register_profile("laws", deadline=None, max_examples=40, derandomize=True, database=None)
settings.load_profile("laws")

Edge = tuple[Subgroup, Subgroup]
Act = Callable[..., Tensor]

GROUPS = [PointGroup.from_name(name) for name in ("C4", "D4", "D1(90)", "D2(45)")]
"""The search groups of the laws: C4 and D4 have all the subgroups of interest, the others an axis that is not 0."""
SUBGROUPS = [h for group in GROUPS for h in group.subgroups]
EDGES = [(h, k) for h in SUBGROUPS for k in h.maximal_subgroups]


def chains(subgroup: Subgroup) -> list[list[Subgroup]]:
    """All ways down the lattice from a subgroup to C1, a step at a time."""
    down = [[subgroup, *chain] for k in subgroup.maximal_subgroups for chain in chains(k)]
    return down or [[subgroup]]


CHAINS = [chain for group in GROUPS for chain in chains(group.whole)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Draw the same numbers by torch whatever ran before: workers are dealt other tests each time."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute in one thread: for tensors as small as here more of them only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=SUBGROUPS, ids=repr)
def subgroup(request: pytest.FixtureRequest) -> Subgroup:
    """Every subgroup of every search group."""
    h: Subgroup = request.param
    return h


@pytest.fixture(params=EDGES, ids=lambda edge: f"{edge[0]} to {edge[1]} in {edge[0].group}")
def edge(request: pytest.FixtureRequest) -> Edge:
    """Every subgroup with each of its maximal subgroups."""
    pair: Edge = request.param
    return pair


@pytest.fixture(params=CHAINS, ids=lambda chain: ">".join(map(str, chain)))
def chain(request: pytest.FixtureRequest) -> list[Subgroup]:
    """Every maximal chain of subgroups from a search group to C1."""
    path: list[Subgroup] = request.param
    return path


@pytest.fixture
def act() -> Act:
    """Return the action ``act(x, group, h, *dims)`` of an element.

    It is (h f)[c, h g](h x) = f[c, g](x): the last two dimensions are pixels, and each of ``dims`` holds (field, g).
    Written from the multiplication, so that it shares nothing with the index tables of the library but the pixels.
    """

    def act(x: Tensor, group: PointGroup, h: int, *dims: int) -> Tensor:
        source = torch.tensor([group.multiply(group.inverse(h), g) for g in group.elements])
        for dim in dims:
            fields = torch.arange(x.shape[dim] // group.order) * group.order
            x = x.index_select(dim, (fields[:, None] + source).flatten())
        return transform_images(x, group, h)

    return act
