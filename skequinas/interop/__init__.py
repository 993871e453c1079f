"""Bridges to other libraries, each in a room of its own that is imported when one of its objects turns up."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from skequinas.groups import PointGroup, register_group_reader

__all__: list[str] = []


def _from_escnn(group: Any) -> PointGroup:
    read: PointGroup = import_module("skequinas.interop.escnn").point_group(group)
    return read


register_group_reader("escnn", _from_escnn)
