"""What architectures cannot be."""

from __future__ import annotations

from typing import Any

from skequinas.groups import PointGroup

__all__ = ["check_shortcuts", "check_sizes"]


def check_shortcuts(
    shortcuts: tuple[int, ...], fields: tuple[int, ...], pools: tuple[bool, ...], names: tuple[str, ...]
) -> None:
    """Refuse shortcuts that begin at the image, overlap, pass a pooling or lead to fewer fields."""
    if len(shortcuts) != len(fields):
        raise ValueError(f"shortcuts={shortcuts} must have one entry for each of {len(fields)} layers.")
    free = 1  # the first layer at which the next shortcut may begin: the input of layer 0 is an image
    for last, length in enumerate(shortcuts):
        first = last - length + 1
        if length == 0:
            continue
        if length < 0 or first < free or any(pools[first:last]) or fields[first - 1] > fields[last]:
            raise ValueError(
                f"shortcuts={shortcuts}: the one that ends at {names[last]} must not begin at the image, overlap "
                f"another one, pass a pooling (pools={pools}) or lead to fewer fields (fields={fields})."
            )
        free = last + 1


def check_sizes(values: dict[str, Any], group: PointGroup) -> None:
    """Refuse plain values, which may come from a file, that ask for more than any network has."""
    size = values["image_size"]
    sides = size if isinstance(size, list | tuple) else [size]
    layers = [len(values[name]) for name in ("fields", "kernel_sizes", "pools", "constraints")]
    limits = {
        "elements of the group": (group.order, 1024),
        "pixels on a side": (max(sides), 8192 if values["circular_mask"] else 2**20),
        "pixels on a side of a kernel": (max(values["kernel_sizes"]), 255),
        "layers": (max(layers), 1024),
    }
    for name, (found, limit) in limits.items():
        if not isinstance(found, int) or found > limit:
            raise ValueError(f"an architecture with {found!r} {name} is not read; the limit is {limit}.")
