"""From what users call a group to a point group; bridges to other libraries add readers of theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skequinas.groups.points import PointGroup, Subgroup

__all__ = ["is_foreign", "parse_group", "register_group_reader"]

GroupReader = Callable[[Any], PointGroup]

_READERS: dict[str, GroupReader] = {}


def register_group_reader(package: str, reader: GroupReader) -> None:
    """Let objects of another package stand for groups, wherever a group is expected.

    Parameters
    ----------
    package : str
        The name of the top-level package that the objects' classes come from.
    reader : callable
        From such an object to a `PointGroup`; it raises a ValueError where there is none.
    """
    _READERS[package] = reader


def _reader(group: Any) -> GroupReader | None:
    return _READERS.get(type(group).__module__.partition(".")[0])


def is_foreign(group: Any) -> bool:
    """Whether this is an object of another library for which a reader is registered."""
    return _reader(group) is not None


def parse_group(group: Any) -> PointGroup:
    """A point group from its name, from a value that already is one, or from what a registered reader understands.

    Parameters
    ----------
    group : str, PointGroup, Subgroup, or an object of a package that a reader is registered for
        A `Subgroup` becomes a group of its own.

    Raises
    ------
    ValueError
        When it is not a planar point group.

    Examples
    --------
    >>> from skequinas.groups import parse_group
    >>> parse_group("d4").order
    8
    """
    if isinstance(group, Subgroup):
        return group.as_group
    if isinstance(group, PointGroup):
        return group
    reader = _reader(group)
    return PointGroup.from_name(group) if reader is None else reader(group)
