"""What a folder of checkpoints holds, and how to go on with it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from skequinas.estimators.base import BaseEquivariantNAS
from skequinas.estimators.classifier import EquivariantNASClassifier
from skequinas.estimators.keeping import KEPT_FIT
from skequinas.estimators.plain import from_plain
from skequinas.estimators.regressor import EquivariantNASRegressor
from skequinas.io.checkpoints import read_part
from skequinas.io.files import FileError, reading

__all__ = ["KeptFit", "resume"]

_ESTIMATORS: dict[str, type[BaseEquivariantNAS]] = {
    kind.__name__: kind for kind in (EquivariantNASClassifier, EquivariantNASRegressor)
}

_OURS = re.compile(r"fit|plan|clock|final|measures|halved|training|(candidate|training|calls|halved)-\d+")


@dataclass(frozen=True)
class KeptFit:
    """What the folder of a ``checkpoint`` holds.

    Parameters
    ----------
    folder : Path
    estimator : EquivariantNASClassifier or EquivariantNASRegressor
        Not fitted, with the parameters of the fit; its ``fit`` goes on where that one was.
    is_finished : bool
        Whether the fit came to its end.
    n_candidates : int
        Networks of the search that are done.
    in_training : str
        What was being trained when it was last kept: "candidate 3", "the final model" or "nothing".
    epoch : float
        How many epochs of that training are over; where its length is found out as it goes, of its last part.
    seconds : float
        What the fit had taken by then.
    damaged : tuple of str
        Files that cannot be read. What they held will be done again.
    """

    folder: Path
    estimator: BaseEquivariantNAS
    is_finished: bool
    n_candidates: int
    in_training: str
    epoch: float
    seconds: float
    damaged: tuple[str, ...] = ()

    def __str__(self) -> str:
        """In a few lines."""
        state = "finished" if self.is_finished else f"not finished: it was training {self.in_training}"
        if not self.is_finished and self.epoch:
            state += f", of which {self.epoch:.3g} epochs are over"
        lines = [
            f"{self.estimator!r}",
            f"The fit is {state}, after {self.seconds:.0f} s; {self.n_candidates} candidates of the search are done.",
        ]
        if self.damaged:
            lines.append(f"Damaged, and so to be done again: {', '.join(self.damaged)}.")
        if not self.is_finished:
            lines.append("Its estimator's fit, on the same data, goes on from there.")
        return "\n".join(lines)


def resume(folder: str | PathLike[str]) -> KeptFit:
    """What a fit with ``checkpoint=folder`` has kept there, and an estimator that goes on with it.

    Parameters
    ----------
    folder : str or path-like

    Returns
    -------
    KeptFit
        ``resume(folder).estimator.fit(X, y)`` on the same data goes on where the fit was when it was killed.

    Raises
    ------
    FileNotFoundError
        When no fit was kept there.
    FileError
        A ValueError: when the file that tells what fit it is cannot be read.
    ValueError
        When the fit had a parameter that a file cannot hold.

    Examples
    --------
    >>> import skequinas, tempfile
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model = skequinas.EquivariantNASClassifier(search="none", max_epochs=1, checkpoint=folder).fit(X, y)
    ...     kept = skequinas.resume(folder)
    >>> kept.is_finished, kept.n_candidates
    (True, 0)
    """
    place = Path(folder)
    path = place / f"{KEPT_FIT}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"folder={fspath(folder)!r} holds no fit: there is no {path.name} in it.")
    fit, seconds, known = read_part(path)
    with reading(path, "fit"):
        kind = _ESTIMATORS[known["estimator"]]
        texts: dict[str, str] = known["parameters"]
    estimator = kind(**{name: _parameter(name, text, folder) for name, text in texts.items() if name != "callback"})
    estimator.checkpoint = fspath(folder)
    if not isinstance(estimator.random_state, int):
        estimator.random_state = None  # the seed that was drawn is kept too
    n_candidates, training, epoch, finished, damaged = 0, "nothing", 0.0, False, list[str]()
    for part in sorted(place.glob("*.safetensors")):
        if not _OURS.fullmatch(part.stem):
            continue
        try:
            owner, when, value = read_part(part)
        except (FileError, OSError):
            damaged.append(part.name)
            continue
        if owner != fit:
            continue
        seconds = max(seconds, when)
        name, _, number = part.stem.partition("-")
        n_candidates += name == "candidate"
        finished |= name == "measures"
        if name == "training":
            training = f"candidate {number}" if number else "the final model"
            log = value["training"]["progress"]["log"]
            epoch = log[-1]["epoch"] if log else 0.0
    return KeptFit(place, estimator, finished, n_candidates, training, epoch, seconds, tuple(damaged))


def _parameter(name: str, text: str, folder: str | PathLike[str]) -> Any:
    """A parameter of the fit."""
    try:
        return from_plain(json.loads(text))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"folder={fspath(folder)!r} holds a fit with {name}={re.sub(r' at 0x[0-9a-f]+', '', text)}, which a file "
            "cannot hold. Make the estimator as it was, with this checkpoint, and call its fit."
        ) from error
