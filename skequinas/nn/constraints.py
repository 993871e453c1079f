"""The constraint of a layer: a subgroup, or several that it mixes or has in streams."""

from __future__ import annotations

from typing import Any

from skequinas.groups import PointGroup, Subgroup

__all__ = ["Constraint", "parse_constraint", "subgroups_of"]

Constraint = Subgroup | tuple[Subgroup, ...]
"""The constraint of one layer: a subgroup, or those that a mixed layer mixes, or one for each stream."""


def parse_constraint(group: PointGroup, constraint: Any) -> Constraint:
    """A constraint from names or subgroups of a search group."""
    if isinstance(constraint, str):
        return group.subgroup(constraint)
    if isinstance(constraint, Subgroup):
        if constraint.group != group:
            raise ValueError(f"The constraint {constraint!r} is not a subgroup of the search group {group}.")
        return constraint
    mixture = tuple(parse_constraint(group, h) for h in constraint)
    if not mixture:
        raise ValueError("A mixed layer needs at least one subgroup; one of the constraints is empty.")
    return mixture  # type: ignore[return-value]


def subgroups_of(constraint: Constraint) -> tuple[Subgroup, ...]:
    """Those that a layer mixes or has in streams, or the one that it has."""
    return constraint if isinstance(constraint, tuple) else (constraint,)
