"""Searches over the constraints of a network, and the loop that drives any of them. A file adds a strategy."""

from skequinas.search.augmented import LearnedAugmentation
from skequinas.search.base import Search
from skequinas.search.baselines import NoSearch, RandomConstraints, RandomSearch
from skequinas.search.differentiable import DifferentiableSearch
from skequinas.search.driver import run_search
from skequinas.search.evaluation import Evaluation, Proposal, choose
from skequinas.search.evolutionary import EvolutionarySearch
from skequinas.search.penalised import PenalisedSearch
from skequinas.search.registry import register_search, resolve_search
from skequinas.search.residual import AdaptiveSearch, ConstraintRelaxation, ResidualPathway
from skequinas.search.streams import FixedStreams

__all__ = [
    "AdaptiveSearch",
    "ConstraintRelaxation",
    "DifferentiableSearch",
    "Evaluation",
    "EvolutionarySearch",
    "FixedStreams",
    "LearnedAugmentation",
    "NoSearch",
    "PenalisedSearch",
    "Proposal",
    "RandomConstraints",
    "RandomSearch",
    "ResidualPathway",
    "Search",
    "choose",
    "register_search",
    "resolve_search",
    "run_search",
]
