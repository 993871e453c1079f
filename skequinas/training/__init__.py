"""One training loop: what is trained on, for what, and who watches."""

from skequinas.training.curve import train_by_curve
from skequinas.training.data import Batch, DataPart, Split, mean_with_error
from skequinas.training.evaluation import evaluate, frozen
from skequinas.training.loop import DivergenceError, train
from skequinas.training.monitor import FitProgress, Monitor, SearchProgress
from skequinas.training.objective import CLASSIFICATION, REGRESSION, Objective
from skequinas.training.optimizer import Muon
from skequinas.training.settings import TrainingSettings

__all__ = [
    "CLASSIFICATION",
    "REGRESSION",
    "Batch",
    "DataPart",
    "DivergenceError",
    "FitProgress",
    "Monitor",
    "Muon",
    "Objective",
    "SearchProgress",
    "Split",
    "TrainingSettings",
    "evaluate",
    "frozen",
    "mean_with_error",
    "train",
    "train_by_curve",
]
