"""A pipeline with calibrated probabilities, saved and loaded again, and the bare network in torch.

Run it with ``python examples/pipeline.py``; it takes under a minute on two cores.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import skequinas
from skequinas import EquivariantNASClassifier


def main() -> None:
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)

    model = EquivariantNASClassifier(search="differentiable", max_epochs=8, random_state=0)
    pipeline = make_pipeline(FunctionTransformer(np.sqrt), model)
    calibrated = CalibratedClassifierCV(pipeline, method="temperature" if _has_temperature() else "sigmoid", cv=3)
    for name, estimator in {"as it is": pipeline, "calibrated": calibrated}.items():
        probabilities = estimator.fit(X_train, y_train).predict_proba(X_test)
        accuracy = estimator.score(X_test, y_test)
        print(f"{name:<12} accuracy {accuracy:.4f}, log loss {log_loss(y_test, probabilities):.4f}")

    with tempfile.TemporaryDirectory() as folder:
        joblib.dump(calibrated, Path(folder) / "pipeline.joblib")  # everything, but it must be trusted to be loaded
        again = joblib.load(Path(folder) / "pipeline.joblib")
        same = np.array_equal(again.predict_proba(X_test), calibrated.predict_proba(X_test))
        print(f"the pipeline from its pickle predicts the same: {same}")

        path = Path(folder) / "digits.safetensors"  # the model alone: arrays and JSON, nothing executable
        skequinas.save(pipeline[-1], path)
        loaded = skequinas.load(path)
        same = np.array_equal(loaded.predict_proba(np.sqrt(X_test)), pipeline.predict_proba(X_test))
        print(f"the model from its file predicts the same: {same} ({path.stat().st_size / 1000:.0f} kB)")

    network = pipeline[-1].to_torch()
    images = torch.from_numpy(np.sqrt(X_test)).reshape(-1, 1, 8, 8)
    print(f"in plain torch: {network(images).shape[1]} probabilities for each image")
    print(loaded.learned_symmetry_)


def _has_temperature() -> bool:
    """Whether this scikit-learn calibrates by a temperature (1.8 or later)."""
    return "temperature" in str(CalibratedClassifierCV._parameter_constraints["method"])


if __name__ == "__main__":
    main()
