"""The scikit-learn face: two estimators, and the files that keep them."""

from skequinas.estimators.base import BaseEquivariantNAS
from skequinas.estimators.bootstrap import SymmetryBootstrap, bootstrap_symmetry
from skequinas.estimators.classifier import EquivariantNASClassifier
from skequinas.estimators.features import feature_invariance, move_retrieval
from skequinas.estimators.gain import SymmetryGain, symmetry_gain
from skequinas.estimators.model_file import load, save
from skequinas.estimators.regressor import EquivariantNASRegressor
from skequinas.estimators.resuming import KeptFit, resume
from skequinas.estimators.sequential import SequentialSymmetryTest

__all__ = [
    "BaseEquivariantNAS",
    "EquivariantNASClassifier",
    "EquivariantNASRegressor",
    "KeptFit",
    "SequentialSymmetryTest",
    "SymmetryBootstrap",
    "SymmetryGain",
    "bootstrap_symmetry",
    "feature_invariance",
    "load",
    "move_retrieval",
    "resume",
    "save",
    "symmetry_gain",
]
