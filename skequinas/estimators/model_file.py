"""Save fitted estimators to files that hold arrays and JSON and nothing executable, and load them back."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from skequinas.estimators.base import BaseEquivariantNAS
from skequinas.estimators.budget import checked_record
from skequinas.estimators.classifier import EquivariantNASClassifier
from skequinas.estimators.plain import from_plain, plain_parameter, saved_searches
from skequinas.estimators.predicting import versions
from skequinas.estimators.regressor import EquivariantNASRegressor
from skequinas.evidence.report import LearnedSymmetry
from skequinas.evidence.verdict import evidence_from_json
from skequinas.io.files import array_from_json, array_to_json, read_file, reading, write_file
from skequinas.io.images import as_images
from skequinas.io.preprocessing import Preprocessing
from skequinas.nn.architecture import Architecture
from skequinas.nn.networks import network_from_state
from skequinas.runtime.process import fitting_state

__all__ = ["load", "save"]

_ESTIMATORS: dict[str, type[BaseEquivariantNAS]] = {
    c.__name__: c for c in (EquivariantNASClassifier, EquivariantNASRegressor)
}


def save(model: BaseEquivariantNAS, path: str | PathLike[str]) -> None:
    """Write a fitted estimator to one file of arrays and JSON (safetensors, with a version and a checksum).

    Parameters
    ----------
    model : EquivariantNASClassifier or EquivariantNASRegressor
        Everything is kept, the search too, but for a ``callback`` (a function cannot be written; there is a warning),
        scikit-learn's own callbacks and its metadata requests.
    path : str or path-like
        An existing file of that name is replaced once the new one is complete.

    Raises
    ------
    NotFittedError
        When the estimator is not fitted.
    ValueError
        When a parameter or a class label is of a kind that plain values cannot express.

    Examples
    --------
    >>> import skequinas
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> model = skequinas.EquivariantNASClassifier(search="none", max_epochs=1, random_state=0).fit(X, y)
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     skequinas.save(model, pathlib.Path(folder) / "digits.safetensors")
    ...     copy = skequinas.load(pathlib.Path(folder) / "digits.safetensors")
    >>> bool((copy.predict_proba(X) == model.predict_proba(X)).all())
    True
    """
    check_is_fitted(model)
    if type(model).__name__ not in _ESTIMATORS:
        raise ValueError(f"model is a {type(model).__name__}; only {', '.join(_ESTIMATORS)} can be saved. Pickle it.")
    search, search_tensors = model.search_.to_state()
    tensors = {f"network/{name}": tensor for name, tensor in model.network_.state_dict().items()}
    tensors |= {f"preprocessing/{name}": tensor for name, tensor in model.preprocessing_.state_dict().items()}
    tensors |= {f"search/{name}": tensor for name, tensor in search_tensors.items()}
    learned = vars(model.learned_symmetry_)
    state: dict[str, Any] = {
        "estimator": type(model).__name__,
        "parameters": {name: plain_parameter(name, value) for name, value in model.get_params(deep=False).items()},
        "n_features_in": model.n_features_in_,
        "feature_names_in": None,
        "image_shape": model.image_shape_,
        "seed": model._seed,
        "n_samples": model._n_samples,
        "architecture": model.architecture_.to_dict(),
        "history": {name: array_to_json(column) for name, column in model.history_.items()},
        "augmentation": model.augmentation_,
        "budget_record": model.budget_record_,
        "search_results": {name: array_to_json(column) for name, column in model.search_results_.items()},
        "learned_symmetry": {name: dict(v) if hasattr(v, "items") else v for name, v in learned.items()},
        "search": search,
    }
    if hasattr(model, "feature_names_in_"):
        state["feature_names_in"] = array_to_json(model.feature_names_in_)
    if isinstance(model, EquivariantNASClassifier):
        state["classes"] = array_to_json(model.classes_)
        state["class_order"] = model._class_order.tolist()
    if isinstance(model, EquivariantNASRegressor):
        scaler = model.target_scaler_
        state["flat_target"] = model._flat_target
        state["signs"] = model._signs.tolist()
        state["target_scaler"] = {
            name: array_to_json(np.asarray(getattr(scaler, name))) for name in _SCALER if hasattr(scaler, name)
        }
    write_file(path, "model", state, tensors)


_SCALER = ("mean_", "var_", "scale_", "n_samples_seen_", "n_features_in_")


def load(path: str | PathLike[str]) -> BaseEquivariantNAS:
    """Read back an estimator that `save` wrote. Nothing in the file is executed.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    EquivariantNASClassifier or EquivariantNASRegressor
        Its ``device`` is a parameter as it was: "auto" finds the device of this machine.

    Raises
    ------
    FileError
        A ValueError: when the file is damaged, foreign, forged, or written by a newer version.
    """
    state, tensors = read_file(path, "model")
    with fitting_state(), reading(path, "model"):
        return _restored(state, tensors)


def _restored(state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> BaseEquivariantNAS:
    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    kind = _ESTIMATORS[state["estimator"]]
    model = kind(**{name: from_plain(value) for name, value in state["parameters"].items()})
    model._validate_params()
    model.n_features_in_ = state["n_features_in"]
    if state["feature_names_in"] is not None:
        model.feature_names_in_ = array_from_json(state["feature_names_in"])
    model.image_shape_ = tuple(state["image_shape"])
    model._seed, model._n_samples = state["seed"], state["n_samples"]
    model.architecture_ = Architecture.from_dict(state["architecture"])
    model.n_parameters_ = model.architecture_.n_parameters
    model.augmentation_ = str(state.get("augmentation", "nothing"))  # files of before do not tell
    model.budget_record_ = state.get("budget_record")
    checked_record(model.budget_record_)
    model.history_ = {name: array_from_json(column) for name, column in state["history"].items()}
    model.search_results_ = {name: array_from_json(column) for name, column in state["search_results"].items()}
    model.learned_symmetry_ = _restored_symmetry(state["learned_symmetry"], model.architecture_)
    model.search_ = saved_searches()[state["search"]["search"]].from_state(state["search"], part("search/"))
    model.network_ = network_from_state(model.architecture_, part("network/"))
    model.preprocessing_ = Preprocessing.from_state(part("preprocessing/"))
    _check_images(model)
    model.module_ = model.network_.to_plain()
    model._fitted_versions = versions(model.network_, model.module_)
    n_outputs = model.architecture_.n_outputs
    if isinstance(model, EquivariantNASClassifier):
        model.classes_ = array_from_json(state["classes"])
        model._class_order = np.array(state["class_order"], dtype=np.int64)
        if model.classes_.shape != (n_outputs,) or sorted(state["class_order"]) != list(range(n_outputs)):
            raise ValueError(f"there are {n_outputs} outputs, but classes of shape {model.classes_.shape}")
    if isinstance(model, EquivariantNASRegressor):
        model._flat_target = state["flat_target"]
        model.target_scaler_ = StandardScaler()
        for name, value in state["target_scaler"].items():
            array = array_from_json(value)
            setattr(model.target_scaler_, name, array if array.ndim else array.item())
        model._signs = np.array(state["signs"], dtype=np.float32)
        for values in (model._signs, model.target_scaler_.scale_, model.target_scaler_.mean_):
            if values.shape != (n_outputs,) or not np.isfinite(values).all():
                raise ValueError(f"there are {n_outputs} outputs, but a scaler of targets of shape {values.shape}")
    return model


def _check_images(model: BaseEquivariantNAS) -> None:
    """Raise an error unless image shape, network and preprocessing belong together."""
    shape, architecture = model.image_shape_, model.architecture_
    if not all(type(s) is int and s > 0 for s in shape) or len(shape) not in (2, 3):
        raise ValueError(f"{shape} is no image shape")
    channels, height, width = as_images(np.zeros((0, math.prod(shape)), dtype=np.float32), shape).shape[1:]
    if (height, width) != architecture.image_shape or channels != architecture.in_channels:
        raise ValueError(f"images of shape {shape} do not suit a network for {architecture.image_shape}")
    n = model.n_features_in_  # rows that are no squares are filled up to one, in which no symmetry is looked for
    whole = type(n) is int and 0 < n <= math.prod(shape) and (n == math.prod(shape) or architecture.group.order == 1)
    if model.preprocessing_.mean.shape != (channels, 1, 1) or not whole:
        raise ValueError(f"the preprocessing, or n_features_in={n}, is not for images of {shape}")


def _table_of_layers(table: Any, layers: dict[str, str], names: set[str], *, lists: bool) -> dict[str, Any]:
    """Numbers, or lists of numbers, for subgroups of every layer."""
    if list(table) != list(layers) or not all(set(row) <= names | {"skip"} for row in table.values()):
        raise ValueError(f"a table of layers has the rows {', '.join(map(str, table))}")

    def number(value: Any) -> Any:
        return [float(v) for v in value] if lists else float(value)

    return {layer: {name: number(value) for name, value in row.items()} for layer, row in table.items()}


def _restored_symmetry(values: dict[str, Any], architecture: Architecture) -> LearnedSymmetry:
    """What was learned, from plain values whose names are compared with those of the architecture's group."""
    group = architecture.group
    names = {h.name for h in group.subgroups}
    elements = {group.element_name(g) for g in group.elements}
    layers = dict(zip(architecture.layer_names, architecture.constraint_names, strict=True))
    values = dict(values)
    if values["evidence"] is not None:
        values["evidence"] = evidence_from_json(values["evidence"], group)
    for name in ("layer_weights", "layer_distances", "share_history"):
        if values[name] is not None:
            own = layers if name == "layer_distances" else dict(list(layers.items())[: len(architecture.chain)])
            values[name] = _table_of_layers(values[name], own, names, lists=name == "share_history")
    sound = (
        values["search_group"] == group.name
        and values["group"] == architecture.symmetry.name
        and values["constraints"] == layers
        and set(values["measured_change"] or ()) == elements
        and (values["effective_invariance"] is None or set(values["effective_invariance"]) == elements)
        and isinstance(values["regression"], bool)
        and values.get("averaged", False) is (architecture.averaged is not None)
        and isinstance(values["remark"], str)
        and (values["n_batches"] is None or type(values["n_batches"]) is int)
        and (values.get("margin") is None or type(values["margin"]) in (int, float))
    )
    if not sound:
        raise ValueError(f"what was learned does not belong to an architecture with the search group {group.name}")
    for name in ("layer_weights", "share_history"):
        mixed = [tuple(h for h in row if h != "skip") for row in (values[name] or {}).values()]
        if len(set(mixed)) > 1:
            raise ValueError("the layers of a mixture mix different subgroups")
    for name in ("measured_change", "effective_invariance"):
        if values[name] is not None:
            values[name] = {element: float(value) for element, value in values[name].items()}
    values["level"], values["lie_derivative"] = float(values["level"]), float(values["lie_derivative"])
    return LearnedSymmetry(**values)
