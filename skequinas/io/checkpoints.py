"""A folder in which a fit keeps what it has done, so that it can be killed at any moment and go on where it was.

Each part stands in a file of its own, which replaces the one before only when it is complete; all of them say which fit
they belong to. What is damaged, or belongs to another fit, counts as not there.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from skequinas.io.files import FileError, read_file, reading, write_file
from skequinas.io.state import joined, taken_apart

__all__ = ["Checkpoint", "Keeper", "read_part"]

_INTERVAL = 5.0
"""Seconds between two files of a training, at least."""

_SHARE = 0.02
"""Of a training's time, what writing them may take."""


def read_part(path: Path) -> tuple[str, float, Any]:
    """Of which fit a file is, after how many seconds of it, and what it holds.

    Raises
    ------
    FileError
        When the file is damaged or foreign.
    OSError
        When there is none, or it cannot be read.
    """
    state, tensors = read_file(path, "checkpoint")
    with reading(path, "checkpoint"):
        return str(state["fit"]), float(state["seconds"]), joined(state["value"], tensors)


class Checkpoint:
    """The folder of one fit.

    Parameters
    ----------
    folder : path-like
        It is made where there is none.
    fit : str
        What tells this fit from others; files of others are not read.
    """

    def __init__(self, folder: str | PathLike[str], fit: str) -> None:
        self.folder, self.fit = Path(folder), fit
        self.is_writable = True
        self._started = time.time()  # a clock that other processes have too
        self._try(lambda: self.folder.mkdir(parents=True, exist_ok=True))

    def path(self, name: str) -> Path:
        """The file of a part."""
        return self.folder / f"{name}.safetensors"

    def read(self, name: str) -> Any:
        """What was kept under a name; None where there is nothing, with a warning where it cannot be read."""
        try:
            fit, _, value = read_part(self.path(name))
        except FileNotFoundError:
            return None
        except (FileError, OSError) as error:
            warnings.warn(f"{error} What it held is done again.", stacklevel=2)
            return None
        return value if fit == self.fit else None

    def write(self, name: str, value: Any) -> None:
        """Keep a value that `taken_apart` takes. Where the folder takes no more, there is a warning, once."""
        plain, tensors = taken_apart(value)
        state = {"fit": self.fit, "seconds": self.seconds, "value": plain}
        self._try(lambda: write_file(self.path(name), "checkpoint", state, tensors))

    def remove(self, name: str) -> None:
        """Keep it no longer."""
        self._try(lambda: self.path(name).unlink(missing_ok=True))

    def once(self, name: str, identity: str, function: Callable[[], Any]) -> Any:
        """What a function returns, which is called only where that was not kept before, of the same thing."""
        known = self.read(name)
        if not isinstance(known, dict) or known.get("identity") != identity:
            known = {"identity": identity, "value": function()}
            self.write(name, known)
        return known["value"]

    @property
    def seconds(self) -> float:
        """How long the fit has taken, with what it took before it was killed."""
        return time.time() - self._started

    def spent(self) -> float:
        """How many seconds the fit had taken when it was killed."""
        spent = 0.0
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                fit, seconds, _ = read_part(path)
            except (FileError, OSError):
                continue
            spent = max(spent, seconds if fit == self.fit else 0.0)
        return spent

    def set_clock(self, seconds: float) -> None:
        """Let the clock of the fit stand at so many seconds."""
        self._started = time.time() - seconds

    def keeper(self, name: str, identity: str, *, to_the_end: bool = False) -> Keeper:
        """What keeps a training, see `Keeper`."""
        return Keeper(self, name, identity, to_the_end=to_the_end)

    def _try(self, action: Callable[[], object]) -> None:
        if not self.is_writable:
            return
        try:
            action()
        except (OSError, MemoryError) as error:
            self.is_writable = False
            warnings.warn(
                f"checkpoint={str(self.folder)!r} cannot be written ({error}). The fit goes on, and nothing more of it "
                "is kept.",
                stacklevel=3,
            )


class Keeper:
    """Keeps the state of a training while it goes on, in one file.

    Each part of the state is known by a function that tells it; all are written together.

    Parameters
    ----------
    checkpoint : Checkpoint
    name : str
        Of the file.
    identity : str
        Of what is trained, and how. What was kept of another training does not count.
    to_the_end : bool, default=False
        Whether the end of the training is kept too, as nothing else tells what came of it.
    """

    def __init__(self, checkpoint: Checkpoint, name: str, identity: str, *, to_the_end: bool = False) -> None:
        self._checkpoint, self._name, self._to_the_end = checkpoint, name, to_the_end
        known: dict[str, Any] = checkpoint.read(name) or {}
        self._known = known if known.get("identity") == identity else {}
        self._parts: dict[str, Callable[[], Any]] = {"identity": lambda: identity}
        self._next = time.perf_counter() + _INTERVAL

    def part(self, name: str, state: Callable[[], Any]) -> Any:
        """What was kept of a part, the first time that it is asked for, else None; from now on a function tells it."""
        self._parts[name] = state
        return self._known.pop(name, None)

    def step(self) -> None:
        """Between two steps of the training: keep it, if that was long ago."""
        if time.perf_counter() >= self._next:
            self.keep()

    def end(self) -> None:
        """After the last step."""
        if self._to_the_end:
            self.keep()

    def keep(self) -> None:
        """Keep it now."""
        started = time.perf_counter()
        self._checkpoint.write(self._name, {name: state() for name, state in self._parts.items()})
        now = time.perf_counter()
        self._next = now + max(_INTERVAL, (now - started) / _SHARE)
