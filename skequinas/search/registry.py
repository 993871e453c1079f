"""Searches by name. Users may register their own, which then serve as ``search=name``."""

from __future__ import annotations

from sklearn.base import clone

from skequinas.runtime.registry import Registry
from skequinas.search.augmented import LearnedAugmentation
from skequinas.search.base import Search
from skequinas.search.baselines import NoSearch, RandomConstraints, RandomSearch
from skequinas.search.differentiable import DifferentiableSearch
from skequinas.search.evolutionary import EvolutionarySearch
from skequinas.search.penalised import PenalisedSearch
from skequinas.search.residual import AdaptiveSearch, ConstraintRelaxation, ResidualPathway
from skequinas.search.streams import FixedStreams

__all__ = ["SEARCHES", "register_search", "resolve_search"]

SEARCHES: Registry[type[Search]] = Registry(
    "search",
    {
        "evolutionary": EvolutionarySearch,
        "differentiable": DifferentiableSearch,
        "adaptive": AdaptiveSearch,
        "residual": ResidualPathway,
        "penalised": PenalisedSearch,
        "augmentation": LearnedAugmentation,
        "relaxation": ConstraintRelaxation,
        "streams": FixedStreams,
        "random": RandomSearch,
        "random_constraints": RandomConstraints,
        "none": NoSearch,
    },
    hint=", or a search object such as EvolutionarySearch()",
)


def register_search(name: str, search: type[Search]) -> None:
    """Make a search strategy available as ``search=name``, and files of `save` with it readable.

    Parameters
    ----------
    name : str
        A name that is not taken.
    search : type
        A subclass of `Search` whose settings all have defaults.
    """
    SEARCHES.register(name, search)


def resolve_search(search: str | Search) -> Search:
    """A search of that name with its default settings, or a fresh copy of a search object."""
    if isinstance(search, Search):
        copy: Search = clone(search)
        return copy
    return SEARCHES.find(search)()
