"""The parameters of an estimator as plain values, for files, and back."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from skequinas.groups import PointGroup, Subgroup, parse_group
from skequinas.nn.architecture import Architecture
from skequinas.search import Search
from skequinas.search.registry import SEARCHES

__all__ = ["from_plain", "plain_parameter", "saved_searches"]


def saved_searches() -> dict[str, type[Search]]:
    """The searches that can be saved, by the names of their classes."""
    return {search.__name__: search for search in SEARCHES.values()}


def plain_parameter(name: str, value: Any) -> Any:
    """A constructor parameter as plain values."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if name == "callback":
        warnings.warn("callback is a function, which a file cannot hold: the loaded model has none.", stacklevel=4)
        return None
    if isinstance(value, PointGroup) or (name == "group" and not isinstance(value, Subgroup)):
        return {"group": parse_group(value).name}
    if isinstance(value, Subgroup):
        return {"group": value.group.name, "subgroup": value.name}
    if isinstance(value, Search) and type(value).__name__ in saved_searches():
        return {"search": type(value).__name__, "settings": value.get_params()}
    if isinstance(value, Architecture):
        return {"architecture": value.to_dict()}
    if isinstance(value, np.random.RandomState):
        kind, keys, *rest = value.get_state(legacy=True)
        return {"random_state": [kind, np.asarray(keys).tolist(), *rest]}
    if name == "image_shape":
        return {"tuple": [int(v) for v in value]}
    if isinstance(value, dict):
        return {"pairs": [[plain_parameter(name, k), plain_parameter(name, v)] for k, v in value.items()]}
    raise ValueError(f"{name}={value!r} of type {type(value).__name__} cannot be saved as plain values.")


def from_plain(value: Any) -> Any:
    """The inverse of `plain_parameter`."""
    match value:
        case {"group": group, "subgroup": name}:
            return PointGroup.from_name(group).subgroup(name)
        case {"group": group}:
            return PointGroup.from_name(group)
        case {"search": name, "settings": settings}:
            return saved_searches()[name](**settings)
        case {"architecture": values}:
            return Architecture.from_dict(values)
        case {"random_state": state}:
            random_state = np.random.RandomState()
            random_state.set_state((state[0], np.array(state[1], dtype=np.uint32), *state[2:]))
            return random_state
        case {"tuple": values}:
            return tuple(values)
        case {"pairs": pairs}:
            return {from_plain(k): from_plain(v) for k, v in pairs}
        case _:
            return value
