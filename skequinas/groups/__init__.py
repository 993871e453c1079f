"""Planar point groups and their subgroups, in exact arithmetic. No torch here."""

from skequinas.groups.coordinates import irrep_coordinates, irrep_names, move_coordinates
from skequinas.groups.partitions import partition_distance
from skequinas.groups.pixels import fair_offset, group_on_images, pixel_elements, quarter_turns_and_flip
from skequinas.groups.points import PointGroup, Subgroup
from skequinas.groups.reading import is_foreign, parse_group, register_group_reader
from skequinas.groups.representations import Irrep, irreps

__all__ = [
    "Irrep",
    "PointGroup",
    "Subgroup",
    "fair_offset",
    "group_on_images",
    "irrep_coordinates",
    "irrep_names",
    "irreps",
    "is_foreign",
    "move_coordinates",
    "parse_group",
    "partition_distance",
    "pixel_elements",
    "quarter_turns_and_flip",
    "register_group_reader",
]
