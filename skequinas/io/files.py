"""Files of arrays and JSON, with nothing executable in them: safetensors with a version and a checksum."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from skequinas.runtime.process import worker_threads

__all__ = ["FileError", "array_from_json", "array_to_json", "read_file", "reading", "write_file"]

_FORMAT = 3
_KEY = "skequinas"
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,  # RecursionError among them
    TypeError,
    ValueError,
)
"""What building something from values of the wrong kind raises."""
_LONGEST_TEXT = 10_000
_FINITE = ("network", "preprocessing")
"""Tensors of these must be finite."""


class FileError(ValueError):
    """A file is damaged, foreign, forged, or of another kind or version."""


@contextmanager
def reading(path: str | PathLike[str], kind: str) -> Iterator[None]:
    """Within the context, whatever a file's content does not allow becomes a `FileError` that names the file."""
    try:
        yield
    except FileError:
        raise
    except _MALFORMED as error:
        raise FileError(
            f"path={str(path)!r} holds no {kind} that can be built ({type(error).__name__}: {error}). Save the {kind} "
            "again."
        ) from error


@worker_threads()
def write_file(path: str | PathLike[str], kind: str, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write plain values and tensors to one file, which replaces another of that name only when it is complete."""
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": _FORMAT, "kind": kind, **state}, default=_plain)
    content = save(tensors, metadata={_KEY: f"{_checksum(text, tensors)} {text}"})
    target = Path(path).resolve()  # a link stays a link
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: there is no folder {str(target.parent)!r}. Make it first.")
    beside = target.with_name(f".{secrets.token_hex(8)}")
    try:
        with open(beside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
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
    FileError
        When the file is damaged, foreign, of another kind, or of another format.
    OSError
        When it cannot be read at all.
    """
    content = Path(path).read_bytes()
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(
            f"path={str(path)!r} is damaged, or not a file that skequinas wrote ({error}). Save the {kind} again."
        ) from error
    if _KEY not in metadata:
        raise FileError(f"path={str(path)!r} was not written by skequinas: it holds no {kind}.")
    checksum, _, text = metadata[_KEY].partition(" ")
    try:
        state: dict[str, Any] = json.loads(text)
        newer, older = state["format"] > _FORMAT, state["format"] < _FORMAT
    except (ValueError, KeyError, TypeError, RecursionError):
        state, newer, older = {}, False, False
    if newer or older:
        remedy = "Update skequinas." if newer else f"Fit the {kind} and save it again."
        raise FileError(
            f"path={str(path)!r} has format {state['format']}; this version of skequinas reads format {_FORMAT}. "
            f"{remedy}"
        )
    if checksum != _checksum(text, tensors):
        raise FileError(f"path={str(path)!r} is damaged: its checksum does not match. Save the {kind} again.")
    if state.get("kind") != kind:
        raise FileError(f"path={str(path)!r} holds a {state.get('kind')}, not a {kind}.")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and name.partition("/")[0] in _FINITE and not bool(tensor.isfinite().all()):
            raise FileError(f"path={str(path)!r} is damaged: {name} holds NaN or infinity. Save the {kind} again.")
    return state, tensors


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = tensors[name].numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Numbers of numpy, and lists of them, as JSON takes them."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufU":
        return value.tolist()
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
    dtype = np.dtype(saved["dtype"])
    if dtype.kind not in "biufUO" or dtype.itemsize > 4 * _LONGEST_TEXT:
        raise ValueError(f"an array of {dtype} is not read")
    return np.array(saved["values"], dtype=dtype)
