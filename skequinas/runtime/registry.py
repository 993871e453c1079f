"""Things that users may choose by name, and to which they may add their own."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

__all__ = ["Registry"]

Thing = TypeVar("Thing")


class Registry(dict[str, Thing], Generic[Thing]):
    """What stands for an argument's value, by name.

    Parameters
    ----------
    argument : str
        The argument whose values these are.
    hint : str, default=""
        What else may be given, for the error message.
    things : dict
        What is there from the start.
    """

    def __init__(self, argument: str, things: dict[str, Thing], hint: str = "") -> None:
        super().__init__(things)
        self.argument, self.hint = argument, hint

    def register(self, name: str, thing: Thing) -> None:
        """Add a thing under a name of its own.

        The same definition may be registered again, as when a cell of a notebook runs twice.
        """
        if name in self and _origin(self[name]) != _origin(thing):
            raise ValueError(f"{self.argument}={name!r} is taken by {self[name]!r}. Choose another name.")
        self[name] = thing

    def find(self, name: str) -> Thing:
        """The thing of that name, or an error that names all there are."""
        if name not in self:
            raise ValueError(
                f"{self.argument}={name!r} is unknown. Use one of {', '.join(map(repr, self))}{self.hint}."
            )
        return self[name]


def _origin(thing: Any) -> tuple[str, str]:
    """Where a class or a function was defined."""
    return getattr(thing, "__module__", ""), getattr(thing, "__qualname__", repr(thing))
