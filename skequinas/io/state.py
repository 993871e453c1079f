"""Nested values with tensors in them, taken apart into JSON and named tensors, and put together again exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["joined", "taken_apart"]


def taken_apart(value: Any) -> tuple[Any, dict[str, Tensor]]:
    """Plain values for JSON, in which tensors and arrays have names, and what these names stand for.

    Parameters
    ----------
    value : dict, list, tuple, Tensor, ndarray, str, number or None
        Dictionaries, lists and tuples hold the same again; the keys of dictionaries are strings or numbers.
    """
    tensors: dict[str, Tensor] = {}

    def named(kind: str, tensor: Tensor) -> dict[str, str]:
        name = f"state/{len(tensors)}"
        tensors[name] = tensor
        return {kind: name}

    def plain(value: Any) -> Any:
        match value:
            case Tensor():
                return named("tensor", value)
            case np.ndarray():
                return named("array", torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape)))
            case np.generic():
                return value.item()
            case dict():
                return {"dict": [[key, plain(own)] for key, own in value.items()]}
            case list() | tuple():
                return {type(value).__name__: [plain(own) for own in value]}
            case None | bool() | int() | float() | str():
                return value
        raise TypeError(f"{value!r} of type {type(value).__name__} cannot be written to a file of plain values")

    return plain(value), tensors


def joined(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `taken_apart`, also after JSON."""
    match value:
        case {"tensor": name}:
            return tensors[name]
        case {"array": name}:
            return tensors[name].numpy()
        case {"dict": pairs}:
            return {key: joined(own, tensors) for key, own in pairs}
        case {"list": values}:
            return [joined(own, tensors) for own in values]
        case {"tuple": values}:
            return tuple(joined(own, tensors) for own in values)
        case _:
            return value
