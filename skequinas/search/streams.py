"""No search: a network in streams, each of which keeps a symmetry of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

from skequinas.nn.architecture import Architecture
from skequinas.search.base import Search
from skequinas.search.baselines import NoSearch

__all__ = ["FixedStreams"]

_HIDDEN = 64
"""Units of the head in which streams meet, where the architecture has none."""


class FixedStreams(NoSearch):
    """No search: fields in shares, each constrained to a subgroup of its own in every layer, which meet in the head.

    What each stream makes of an image keeps its own symmetry for certain (`features`, ``architecture_.streams``), and
    the head learns of which there is use. The function itself has the symmetry that all streams have in common: C1
    with "D4" and "C1", so that the network knows what D4 leaves alone and is free all the same. It serves where parts
    of what matters have different symmetries, as channels that are turned and channels that are mirrored.

    Nothing is learned about the data: `symmetry_evidence` asks them.

    Parameters
    ----------
    streams : sequence of str or None, default=None
        The subgroups of the search group, two at least; one may stand more than once, for a larger share. None is the
        whole group and C1.

    References
    ----------
    Rath and Condurache, Deep Neural Networks with Efficient Guaranteed Invariances, AISTATS 2023.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {"streams": ["array-like", None]}

    def __init__(self, streams: Sequence[str] | None = None) -> None:
        self.streams = streams

    def check_start(self, architecture: Architecture) -> None:
        """Refuse an architecture with constraints of its own, and a head that sees no streams."""
        plain = architecture.with_constraints(()) if architecture.streams else architecture
        Search.check_start(self, plain)
        refused = plain.head == "free" or set(plain.chain) != {plain.group.whole}
        if refused or (architecture.streams and self._in_streams(plain) != architecture):
            raise ValueError(
                f"architecture has the constraints {architecture} (head={architecture.head!r}), but search='streams' "
                "sets them. Leave them out, or use search='none'."
            )

    def start(self, architecture: Architecture, *args: Any, **options: Any) -> Self:
        """Begin with the streams, as `Search.start`."""
        super().start(architecture, *args, **options)
        self.architecture_ = self._in_streams(architecture)
        return self

    def _in_streams(self, architecture: Architecture) -> Architecture:
        """The same shape in streams, with a head in which they can meet."""
        group = architecture.group
        names = (group.name, "C1") if self.streams is None else tuple(self.streams)
        if len(names) < 2:
            raise ValueError(f"streams={self.streams!r} must name two subgroups at least. For one, set search='none'.")
        try:
            constraint = tuple(group.subgroup(name) for name in names)
        except ValueError as error:
            raise ValueError(f"streams={self.streams!r}: {error}") from None
        if min(architecture.fields) < len(names):
            raise ValueError(
                f"streams={self.streams!r} need a field each, and the network has fields={architecture.fields}. Give "
                "it more by `width`, or take fewer streams."
            )
        return replace(
            architecture,
            constraints=(constraint,) * architecture.n_layers,
            mixing="streams",
            hidden=architecture.hidden or _HIDDEN,
        )
