"""Any estimator of scikit-learn, made symmetric from outside."""

from skequinas.symmetrized.canonical import Canonicalizer, learn_poses
from skequinas.symmetrized.estimators import SymmetrizedClassifier, SymmetrizedRegressor
from skequinas.symmetrized.orbits import in_the_layout_of, ordered_orbits

__all__ = [
    "Canonicalizer",
    "SymmetrizedClassifier",
    "SymmetrizedRegressor",
    "in_the_layout_of",
    "learn_poses",
    "ordered_orbits",
]
