"""Which fit a folder of checkpoints belongs to: the same parameters, the same data, the same seed, or an error."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from torch import Tensor

from skequinas.estimators.plain import plain_parameter
from skequinas.io.checkpoints import Checkpoint, read_part
from skequinas.io.files import FileError
from skequinas.io.images import as_array
from skequinas.io.stored import StoredImages, is_stored
from skequinas.runtime.parallel import in_all
from skequinas.runtime.versions import installed_version

__all__ = ["KEPT_FIT", "begin", "differences", "fingerprint_of", "first_seed"]

KEPT_FIT = "fit"
"""The part that tells what fit it is."""

_FREE = {"callback", "checkpoint", "device", "n_jobs", "on_interrupt", "random_state", "verbose", "warm_start"}
"""Parameters that may be others when a fit goes on. What is random follows from the seed."""


def first_seed(
    random_state: int | np.random.RandomState | None, folder: str | PathLike[str] | None, earlier: int | None
) -> int:
    """The number that everything random in a fit follows from: that of an earlier fit that goes on, or a drawn one.

    Parameters
    ----------
    random_state : int, RandomState or None
    folder : path-like or None
        The checkpoint, whose fit goes on if it holds one.
    earlier : int or None
        That of the fitted model that goes on.
    """
    if earlier is not None:
        if folder is not None:
            raise ValueError(
                f"warm_start=True goes on with this model, and checkpoint={str(folder)!r} with what a folder holds. "
                "Set one of the two, or fit a clone."
            )
        return int(in_all(earlier)[0])
    known = _known(Path(folder)) if folder is not None and random_state is None else None
    if known is not None:
        return int(known["seed"])
    # without a seed, fresh entropy: numpy's global state is left alone
    rng = np.random.RandomState() if random_state is None else check_random_state(random_state)
    return int(in_all(rng.randint(np.iinfo(np.int32).max))[0])


def begin(
    folder: str | PathLike[str], model: BaseEstimator, seed: int, images: Tensor | StoredImages, given: dict[str, Any]
) -> Checkpoint:
    """The checkpoint of a fit, which goes on if the folder holds the same one.

    Parameters
    ----------
    folder : path-like
    model : estimator
        With its parameters.
    seed : int
    images : Tensor or StoredImages
        All images, as they came.
    given : dict
        What else `fit` was given, by the names of its arguments.

    Raises
    ------
    ValueError
        When the folder is a file, or holds another fit.
    """
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise ValueError(f"checkpoint={str(folder)!r} is a file; give a folder, which is made where there is none.")
    fingerprint, words = fingerprint_of(model, seed, images, given)
    checkpoint = Checkpoint(place, hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest())
    for path in place.glob(".*"):
        if re.fullmatch(r"\.[0-9a-f]{16}", path.name):  # what was being written when the process was killed
            path.unlink(missing_ok=True)
    known = _known(place)
    if known is None:
        parameters = {name: _text(name, value) for name, value in model.get_params(deep=False).items()}
        checkpoint.write(KEPT_FIT, fingerprint | {"parameters": parameters, "words": words})
    elif known["fit"] != checkpoint.fit:
        raise ValueError(
            f"checkpoint={str(folder)!r} holds another fit: {differences(fingerprint, words, known)}. Repeat that "
            "one's call, or give this one a folder of its own."
        )
    return checkpoint


def fingerprint_of(
    model: BaseEstimator, seed: int, images: Tensor | StoredImages, given: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What tells a fit from others, and its parameters in words. The arguments are those of `begin`."""
    parameters = {name: value for name, value in model.get_params(deep=False).items() if name not in _FREE}
    data = {"X": _hash_of_images(images)} | {name: _hash(name, value) for name, value in given.items()}
    fingerprint = {
        "estimator": type(model).__name__,
        "skequinas": installed_version("skequinas"),
        "seed": seed,
        "data": data,
        "own": {name: _text(name, value) for name, value in parameters.items()},
    }
    return fingerprint, {name: repr(value) for name, value in parameters.items()}


def _known(folder: Path) -> dict[str, Any] | None:
    """What fit a folder holds, if that can be read."""
    try:
        fit, _, known = read_part(folder / f"{KEPT_FIT}.safetensors")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (FileError, OSError) as error:
        warnings.warn(f"{error} What it held is done again.", stacklevel=2)
        return None
    return {**known, "fit": fit}


def differences(
    mine: dict[str, Any], words_of_mine: dict[str, str], known: dict[str, Any], where: str = "there"
) -> str:
    """What of two fits is not the same, in words: fingerprints, of which the other has its words, and where that is."""
    words = [
        f"{name} differs" for name in sorted({*mine["data"], *known["data"]}) if _differ(mine, known, "data", name)
    ]
    for name in sorted({*mine["own"], *known["own"]}):
        if _differ(mine, known, "own", name):
            words.append(f"{name} is {words_of_mine.get(name)}, {where} {known['words'].get(name)}")
    for name in ("estimator", "skequinas"):
        if mine[name] != known[name]:
            words.append(f"{name} is {mine[name]}, {where} {known[name]}")
    if mine["seed"] != known["seed"]:
        words.append("random_state differs")
    return "; ".join(words)


def _differ(mine: dict[str, Any], known: dict[str, Any], part: str, name: str) -> bool:
    return bool(mine[part].get(name) != known[part].get(name))


def _text(name: str, value: Any) -> str:
    """A parameter in words that are the same in another process."""
    if name == "callback":
        return "a function" if value is not None else "None"
    try:
        return json.dumps(plain_parameter(name, value), sort_keys=True)
    except (TypeError, ValueError):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if hasattr(value, "get_params"):  # a search of the user's own
            settings = {key: _text(key, own) for key, own in value.get_params(deep=False).items()}
            return f"{kind} {json.dumps(settings, sort_keys=True)}"
        return kind + " " + re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _hash_of_images(images: Tensor | StoredImages) -> str:
    """The same wherever the images are."""
    return _hash_in_parts(images, (part.numpy(force=True) for part in images.split(32)))


def _hash(name: str, value: Any) -> str:
    """What tells data from others."""
    parts = value if name == "validation_data" and isinstance(value, tuple | list) else [value]
    return " ".join(
        _hash_of_rows(p) if is_stored(p) else str(joblib.hash(np.asarray(as_array(p, name)))) for p in parts
    )


def _hash_of_rows(X: Any) -> str:
    """That of an array which is not to be read at once."""
    starts = range(0, X.shape[0], 32)
    return _hash_in_parts(X, (np.asarray(X[np.arange(s, min(s + 32, X.shape[0]))]) for s in starts))


def _hash_in_parts(X: Any, parts: Iterable[NDArray[Any]]) -> str:
    digest = hashlib.blake2b(f"{X.dtype} {tuple(X.shape)}".encode(), digest_size=16)
    for part in parts:
        digest.update(part.tobytes())
    return digest.hexdigest()
