"""Planar point groups and their subgroups, in exact arithmetic. No torch here."""

from skequinas.groups.pixels import fair_offset, group_on_images, pixel_elements, quarter_turns_and_flip
from skequinas.groups.points import PointGroup, Subgroup
from skequinas.groups.reading import is_foreign, parse_group, register_group_reader

__all__ = [
    "PointGroup",
    "Subgroup",
    "fair_offset",
    "group_on_images",
    "is_foreign",
    "parse_group",
    "pixel_elements",
    "quarter_turns_and_flip",
    "register_group_reader",
]
