"""
A pipeline: calibration, saving, and the bare network
=====================================================

A model stands in a pipeline, gets calibrated probabilities, goes to a file and back, and leaves scikit-learn as a plain
network of torch.
"""

# %%
# A pipeline
# ----------
# Any transformer that leaves images to be images may come first.

import tempfile
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import skequinas
from skequinas import EquivariantNASClassifier

X, y = load_digits(n_class=6, return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=0, stratify=y)
model = EquivariantNASClassifier(search="differentiable", max_epochs=4, random_state=0)
pipeline = make_pipeline(FunctionTransformer(np.sqrt), model).fit(X_train, y_train)

# %%
# Calibrated probabilities
# ------------------------
# scikit-learn 1.8 and later can calibrate by one temperature, which keeps the order of the classes; the other way,
# "sigmoid", does it class by class. Either fits the pipeline on parts of the data, here on halves, which costs some
# accuracy.

has_temperature = "temperature" in str(CalibratedClassifierCV._parameter_constraints["method"])
calibrated = CalibratedClassifierCV(pipeline, method="temperature" if has_temperature else "sigmoid", cv=2)
calibrated.fit(X_train, y_train)
for name, estimator in {"as it is": pipeline, "calibrated": calibrated}.items():
    loss = log_loss(y_test, estimator.predict_proba(X_test))
    print(f"{name:<12} accuracy {estimator.score(X_test, y_test):.3f}, log loss {loss:.3f}")

# %%
# How often is it a three when the model says so?

figure, ax = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
for name, estimator in {"as it is": pipeline, "calibrated": calibrated}.items():
    probability = estimator.predict_proba(X_test)[:, 3]
    CalibrationDisplay.from_predictions(y_test == 3, probability, n_bins=5, strategy="quantile", name=name, ax=ax)

# %%
# To a file and back
# ------------------
# joblib keeps the whole pipeline, but a pickle must be trusted to be loaded. :func:`skequinas.save` writes the model
# alone, as arrays and JSON: nothing in the file can be executed.

with tempfile.TemporaryDirectory() as folder:
    joblib.dump(calibrated, Path(folder) / "pipeline.joblib")
    again = joblib.load(Path(folder) / "pipeline.joblib")
    path = Path(folder) / "digits.safetensors"
    skequinas.save(pipeline[-1], path)
    loaded = skequinas.load(path)
print("pickle:", np.array_equal(again.predict_proba(X_test), calibrated.predict_proba(X_test)))
print("file:  ", np.array_equal(loaded.predict_proba(np.sqrt(X_test)), pipeline.predict_proba(X_test)))
print(loaded.learned_symmetry_)

# %%
# The bare network
# ----------------
# ``to_torch`` gives a plain module of torch with the preprocessing inside: images in, probabilities out. Only what the
# pipeline does before the model is left to you.

network = pipeline[-1].to_torch()
images = torch.from_numpy(np.sqrt(X_test)).reshape(-1, 1, 8, 8)
print(network(images).shape)
print(network)
