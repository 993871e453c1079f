"""Learn which rotations and mirrors leave an image task unchanged, and use them: scikit-learn estimators."""

from importlib.metadata import PackageNotFoundError, version

from skequinas.architecture import Architecture
from skequinas.displays import OrbitDisplay, SearchDisplay, SymmetryDisplay
from skequinas.estimators import EquivariantNASClassifier, EquivariantNASRegressor
from skequinas.groups import PointGroup, Subgroup
from skequinas.monitor import FitProgress
from skequinas.networks import EquivariantNetwork, relax
from skequinas.persistence import load, save
from skequinas.score import ScoreTest, score_test, symmetry_evidence
from skequinas.search import DifferentiableSearch, EvolutionarySearch, NoSearch, RandomSearch
from skequinas.search.evidence import Evidence
from skequinas.symmetry import LearnedSymmetry

try:
    __version__ = version("skequinas")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0.0.0"

__all__ = [
    "Architecture",
    "DifferentiableSearch",
    "EquivariantNASClassifier",
    "EquivariantNASRegressor",
    "EquivariantNetwork",
    "Evidence",
    "EvolutionarySearch",
    "FitProgress",
    "LearnedSymmetry",
    "NoSearch",
    "OrbitDisplay",
    "PointGroup",
    "RandomSearch",
    "ScoreTest",
    "SearchDisplay",
    "Subgroup",
    "SymmetryDisplay",
    "load",
    "relax",
    "save",
    "score_test",
    "symmetry_evidence",
]
