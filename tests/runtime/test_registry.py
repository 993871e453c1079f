"""Laws of what users may choose by name and add to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import skequinas
from skequinas import EquivariantNASClassifier, EvolutionarySearch
from skequinas.groups import PointGroup, is_foreign, parse_group, register_group_reader
from skequinas.groups.reading import _READERS
from skequinas.nn import PixelBasis, filter_basis, register_basis
from skequinas.nn.bases import BASES
from skequinas.runtime.registry import Registry
from skequinas.search import NoSearch, Search, register_search, resolve_search
from skequinas.search.registry import SEARCHES


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What a test registers is gone after it."""
    kept = [(registry, dict(registry)) for registry in (BASES, SEARCHES, _READERS)]
    yield
    for registry, things in kept:
        registry.clear()
        registry.update(things)
    filter_basis.cache_clear()


class OwnSearch(NoSearch):
    """A search of a user's."""


class OwnBasis(PixelBasis):
    """A basis of a user's."""


class Turns:
    """A group of a library that nobody knows."""

    def __init__(self, n: int) -> None:
        self.n = n


def test_what_is_registered_is_found_by_name() -> None:
    register_search("own", OwnSearch)
    register_basis("own", OwnBasis)
    assert type(resolve_search("own")) is OwnSearch
    assert type(filter_basis("own", 3)) is OwnBasis
    X, y = np.random.default_rng(0).random((20, 8, 8)), np.arange(20) % 2
    model = EquivariantNASClassifier("C4", "own", basis="own", max_epochs=1, width=8, random_state=0).fit(X, y)
    assert type(model.search_) is OwnSearch
    assert type(model.network_.convolutions[0].weights.spaces[0].basis) is OwnBasis


@pytest.mark.parametrize("register", [register_search, register_basis])
def test_a_name_that_is_taken_is_refused(register: object) -> None:
    name, own = ("none", OwnSearch) if register is register_search else ("pixel", OwnBasis)
    with pytest.raises(ValueError, match=rf"='{name}' is taken"):
        register(name, own)  # type: ignore[operator]


def test_the_same_definition_may_be_registered_again() -> None:
    def define() -> type[Search]:
        class Again(NoSearch):
            """Defined in a cell of a notebook."""

        return Again

    first, second = define(), define()
    register_search("again", first)
    register_search("again", second)
    assert SEARCHES["again"] is second


@pytest.mark.parametrize(("parameter", "known"), [("search", "'evolutionary'"), ("basis", "'pixel', 'harmonic'")])
def test_an_unknown_name_is_refused_with_the_known_ones(parameter: str, known: str) -> None:
    X, y = np.zeros((8, 4, 4)), np.arange(8) % 2
    with pytest.raises(ValueError, match=rf"{parameter}='annealing' is unknown. Use one of {known}"):
        EquivariantNASClassifier(**{parameter: "annealing"}).fit(X, y)


def test_a_reader_lets_foreign_objects_stand_for_groups() -> None:
    assert not is_foreign(Turns(4))
    with pytest.raises(ValueError, match="is not a name"):
        parse_group(Turns(4))
    register_group_reader(Turns.__module__.partition(".")[0], lambda group: PointGroup(group.n))
    assert is_foreign(Turns(4))
    assert parse_group(Turns(4)) == PointGroup(4)


def test_a_registry_has_one_kind_of_error() -> None:
    registry = Registry("colour", {"red": 1}, hint=", or a number")
    with pytest.raises(ValueError, match=r"colour='blue' is unknown. Use one of 'red', or a number\."):
        registry.find("blue")


def test_the_versions_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    skequinas.show_versions()
    shown = capsys.readouterr().out
    for name in ("python:", "skequinas:", "torch:", "scikit-learn:", "escnn:", "CUDA:"):
        assert name in shown


def test_settings_of_a_search_by_name_are_its_defaults() -> None:
    assert resolve_search("evolutionary").get_params() == EvolutionarySearch().get_params()
