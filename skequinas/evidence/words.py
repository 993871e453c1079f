"""Subgroups in plain words, for readers who do not know their names."""

from __future__ import annotations

from skequinas.groups import Subgroup

__all__ = ["in_words", "not_in_words"]


def in_words(subgroup: Subgroup) -> str:
    """The moves of a subgroup in plain words; empty for the trivial one."""
    turns, mirrors = _turns(subgroup), _mirrors(subgroup)
    return " and ".join(part for part in (turns, mirrors) if part)


def not_in_words(subgroup: Subgroup) -> str:
    """The moves of the whole group that a subgroup lacks, in plain words."""
    whole = subgroup.group.whole
    turns = _turns(whole) if subgroup.n_rotations < whole.n_rotations else ""
    if whole.n_rotations > 2 and subgroup.n_rotations == 1:
        turns = "turns"
    missing = [a for a in _axes(whole) if a not in _axes(subgroup)]
    mirrors = "other mirrors" if len(missing) < len(_axes(whole)) else _mirrors(whole)
    return " or ".join(part for part in (turns, mirrors if missing else "") if part)


def _turns(subgroup: Subgroup) -> str:
    n = subgroup.n_rotations
    return {1: "", 2: "half turns", 4: "quarter turns"}.get(n, f"turns by {360 / n:.5g} degrees")


def _axes(subgroup: Subgroup) -> list[float]:
    group = subgroup.group
    return [float(group.angle(e)) for e in subgroup.elements if group.is_mirror(e)]


def _mirrors(subgroup: Subgroup) -> str:
    axes, possible = _axes(subgroup), _axes(subgroup.group.whole)
    if len(axes) > 2 and axes == possible:
        return "mirrors"
    if len(axes) > 4:
        return f"{len(axes)} mirrors"
    angles = " and ".join(f"{angle:g}" for angle in axes)
    other = (
        f"mirrors about axes at {angles} degrees" if len(axes) > 1 else f"the mirror about the axis at {angles} degrees"
    )
    return _MIRRORS.get(tuple(axes), other) if axes else ""


_MIRRORS = {
    (0.0,): "the up-down mirror",
    (90.0,): "the left-right mirror",
    (0.0, 90.0): "the up-down and left-right mirrors",
    (45.0, 135.0): "both diagonal mirrors",
}
