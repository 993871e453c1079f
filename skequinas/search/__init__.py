"""Searches over the constraints of a network, and the loop that serves any of them."""

from skequinas.search.base import Evaluation, Proposal, Search, choose
from skequinas.search.baselines import NoSearch, RandomSearch
from skequinas.search.differentiable import DifferentiableSearch
from skequinas.search.evolutionary import EvolutionarySearch
from skequinas.search.loop import resolve_search, run_search

__all__ = [
    "DifferentiableSearch",
    "Evaluation",
    "EvolutionarySearch",
    "NoSearch",
    "Proposal",
    "RandomSearch",
    "Search",
    "choose",
    "resolve_search",
    "run_search",
]
