"""Files of arrays and JSON, with nothing executable in them: safetensors with a version and a checksum."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from skequinas.runtime.process import worker_threads

__all__ = ["array_from_json", "array_to_json", "read_file", "write_file"]

_FORMAT = 3
_KEY = "skequinas"


@worker_threads()
def write_file(path: str | PathLike[str], kind: str, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write plain values and tensors to one file, which replaces another of that name only when it is complete."""
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": _FORMAT, "kind": kind, **state}, default=_plain)
    content = save(tensors, metadata={_KEY: f"{_checksum(text, tensors)} {text}"})
    target = Path(path).resolve()  # a link stays a link
    beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with open(beside, "xb") as file:
            file.write(content)
        if target.is_file():
            os.chmod(beside, target.stat().st_mode)
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@worker_threads()
def read_file(path: str | PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read back what `write_file` wrote.

    Raises
    ------
    ValueError
        When the file is damaged, foreign, of another kind, or of another format.
    OSError
        When it cannot be read at all.
    """
    content = Path(path).read_bytes()
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"path={str(path)!r} is damaged, or not a file that skequinas wrote ({error}). Save the {kind} again."
        ) from error
    if _KEY not in metadata:
        raise ValueError(f"path={str(path)!r} was not written by skequinas: it holds no {kind}.")
    checksum, _, text = metadata[_KEY].partition(" ")
    try:
        state: dict[str, Any] = json.loads(text)
        newer, older = state["format"] > _FORMAT, state["format"] < _FORMAT
    except (ValueError, KeyError, TypeError):
        state, newer, older = {}, False, False
    if newer or older:
        remedy = "Update skequinas." if newer else f"Fit the {kind} and save it again."
        raise ValueError(
            f"path={str(path)!r} has format {state['format']}; this version of skequinas reads format {_FORMAT}. "
            f"{remedy}"
        )
    if checksum != _checksum(text, tensors):
        raise ValueError(f"path={str(path)!r} is damaged: its checksum does not match. Save the {kind} again.")
    if state["kind"] != kind:
        raise ValueError(f"path={str(path)!r} holds a {state['kind']}, not a {kind}.")
    return state, tensors


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = tensors[name].numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Numbers of numpy as JSON takes them."""
    if isinstance(value, np.generic):
        return value.item()
    raise ValueError(f"{value!r} of type {type(value).__name__} cannot be written to a file of plain values.")


def array_to_json(array: NDArray[Any]) -> dict[str, Any]:
    """An array of numbers, truth values or strings as plain values, exactly."""
    values = array.tolist()
    kinds = {type(v) for v in np.ravel(array).tolist()}
    if not kinds <= {bool, int, float, str}:
        names = ", ".join(sorted(k.__name__ for k in kinds))
        raise ValueError(f"An array of {names} cannot be saved; use numbers, truth values or strings.")
    return {"dtype": array.dtype.str, "values": values}


def array_from_json(saved: dict[str, Any]) -> NDArray[Any]:
    """The inverse of `array_to_json`."""
    return np.array(saved["values"], dtype=np.dtype(saved["dtype"]))
