"""No search: a network in streams, each of which keeps a symmetry of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

from skequinas.groups import Subgroup
from skequinas.nn.architecture import Architecture
from skequinas.nn.constraints import parse_constraint, subgroups_of
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

    A head without hidden units gets 64, as streams that met in the outputs alone could only be added up. Nothing is
    learned about the data: `symmetry_evidence` asks them.

    Parameters
    ----------
    streams : sequence of str or Subgroup, default=None
        The subgroups of the search group, two at least; one may stand more than once, for a larger share. None is the
        whole group and C1 (with ``group="C1"`` two streams without any constraint).

    References
    ----------
    Rath and Condurache, Deep Neural Networks with Efficient Guaranteed Invariances, AISTATS 2023.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {"streams": ["array-like", None]}

    def __init__(self, streams: Sequence[str | Subgroup] | None = None) -> None:
        self.streams = streams

    @property
    def least_fields(self) -> int:
        """How many fields each layer needs: one for each stream."""
        self._validate_params()  # it is asked before the search begins
        return 2 if self.streams is None else len(self.streams)

    def check_start(self, architecture: Architecture) -> None:
        """Refuse an architecture with constraints or streams of its own, and a head that is free."""
        plain = architecture.with_constraints(()) if architecture.streams else architecture
        Search.check_start(self, plain)
        if plain.head == "free":
            raise ValueError("architecture has head='free', and streams meet in a constrained one. Set that.")
        if set(plain.chain) != {plain.group.whole}:
            raise ValueError(
                f"architecture has the constraints {architecture}, but search='streams' sets them. Leave them out, or "
                "use search='none'."
            )
        own = self._in_streams(plain)
        if architecture.streams and own != architecture:
            raise ValueError(
                f"architecture has streams ({architecture}, hidden={architecture.hidden}), but search='streams' makes "
                f"its own ({own}, hidden={own.hidden}). Use search='none'."
            )

    def start(self, architecture: Architecture, *args: Any, **options: Any) -> Self:
        """Begin with the streams, as `Search.start`."""
        super().start(architecture, *args, **options)
        self.architecture_ = self._in_streams(architecture)
        return self

    def _in_streams(self, architecture: Architecture) -> Architecture:
        """The same shape in streams, with a head in which they can meet."""
        group = architecture.group
        given = (group.whole, group.trivial) if self.streams is None else tuple(self.streams)
        if len(given) < 2:
            raise ValueError(f"streams={self.streams!r} must name two subgroups at least. For one, set search='none'.")
        try:
            streams = parse_constraint(group, given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"streams={self.streams!r}: {error}") from None
        if not all(isinstance(h, Subgroup) for h in subgroups_of(streams)):
            raise ValueError(f"streams={self.streams!r} must hold one subgroup for each stream.")
        if min(architecture.fields) < len(given):
            raise ValueError(
                f"streams={', '.join(map(str, given))} need a field each, and the network has "
                f"fields={architecture.fields}. Give it more fields, or take fewer streams."
            )
        return replace(
            architecture,
            constraints=(streams,) * architecture.n_layers,
            mixing="streams",
            hidden=architecture.hidden or _HIDDEN,
        )
