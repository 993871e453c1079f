"""The scikit-learn face: two estimators, and the files that keep them."""

from skequinas.estimators.base import BaseEquivariantNAS
from skequinas.estimators.classifier import EquivariantNASClassifier
from skequinas.estimators.model_file import load, save
from skequinas.estimators.regressor import EquivariantNASRegressor

__all__ = ["BaseEquivariantNAS", "EquivariantNASClassifier", "EquivariantNASRegressor", "load", "save"]
