"""Learn which rotations and mirrors leave an image task unchanged, and use them: scikit-learn estimators."""

from importlib.metadata import PackageNotFoundError, version

from skequinas import interop  # bridges register themselves
from skequinas.displays import (
    BootstrapDisplay,
    OrbitDisplay,
    SearchDisplay,
    SymmetryByClassDisplay,
    SymmetryDisplay,
    SymmetryGainDisplay,
)
from skequinas.estimators import (
    EquivariantNASClassifier,
    EquivariantNASRegressor,
    KeptFit,
    SequentialSymmetryTest,
    SymmetryBootstrap,
    SymmetryGain,
    bootstrap_symmetry,
    feature_invariance,
    load,
    move_retrieval,
    resume,
    save,
    symmetry_gain,
)
from skequinas.evidence import (
    Evidence,
    LearnedSymmetry,
    ScoreTest,
    SymmetryByClass,
    score_test,
    symmetry_by_class,
    symmetry_evidence,
)
from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import Architecture, EquivariantNetwork, relax
from skequinas.runtime.parallel import data_parallel
from skequinas.runtime.versions import show_versions
from skequinas.search import (
    AdaptiveSearch,
    ConstraintRelaxation,
    DifferentiableSearch,
    EvolutionarySearch,
    FixedStreams,
    LearnedAugmentation,
    NoSearch,
    PenalisedSearch,
    RandomConstraints,
    RandomSearch,
    ResidualPathway,
)
from skequinas.symmetrized import SymmetrizedClassifier, SymmetrizedRegressor
from skequinas.training import FitProgress

try:
    __version__ = version("skequinas")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0.0.0"

__all__ = [
    "AdaptiveSearch",
    "Architecture",
    "BootstrapDisplay",
    "ConstraintRelaxation",
    "DifferentiableSearch",
    "EquivariantNASClassifier",
    "EquivariantNASRegressor",
    "EquivariantNetwork",
    "Evidence",
    "EvolutionarySearch",
    "FitProgress",
    "FixedStreams",
    "KeptFit",
    "LearnedAugmentation",
    "LearnedSymmetry",
    "NoSearch",
    "OrbitDisplay",
    "PenalisedSearch",
    "PointGroup",
    "RandomConstraints",
    "RandomSearch",
    "ResidualPathway",
    "ScoreTest",
    "SearchDisplay",
    "SequentialSymmetryTest",
    "Subgroup",
    "SymmetrizedClassifier",
    "SymmetrizedRegressor",
    "SymmetryBootstrap",
    "SymmetryByClass",
    "SymmetryByClassDisplay",
    "SymmetryDisplay",
    "SymmetryGain",
    "SymmetryGainDisplay",
    "bootstrap_symmetry",
    "data_parallel",
    "feature_invariance",
    "interop",
    "load",
    "move_retrieval",
    "relax",
    "resume",
    "save",
    "score_test",
    "show_versions",
    "symmetry_by_class",
    "symmetry_evidence",
    "symmetry_gain",
]
