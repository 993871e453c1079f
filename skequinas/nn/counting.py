"""What parameters a convolution has, without building it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from skequinas.groups import Subgroup
from skequinas.nn.filters import kernel_space
from skequinas.nn.residual import kept_by_parts
from skequinas.nn.streams import fields_of_stream

__all__ = ["n_convolution_parameters", "weight_shapes"]


def weight_shapes(
    subgroups: Sequence[Subgroup], shape: dict[str, Any], mixing: str | None, period: int | None
) -> dict[str, tuple[int, int, int]]:
    """The shapes (n_free, out fields, in fields) of its weights, by their names in its state.

    Parameters
    ----------
    subgroups : sequence of Subgroup
        Those of its constraint.
    shape : dict
        As `skequinas.nn.Architecture.layer_shape` tells.
    mixing : str or None
        What several subgroups are; None where the constraint is one.
    period : int or None
        Of the fields that come in, as in `skequinas.nn.StreamedGroupConv2d`.
    """
    regular = shape["regular_in"], shape["regular_out"]
    n_free = [kernel_space(h, shape["kernel_size"], *regular, shape["basis"]).n_free for h in subgroups]
    n_in, n_out, n = shape["in_fields"], shape["out_fields"], len(subgroups)
    if mixing != "streams":
        return {"weights.weight": (sum(n_free), n_out, n_in)}
    return {
        f"streams.{i}.weights.weight": (
            n_free[i],
            len(fields_of_stream(i, n, n_out)) if regular[1] else n_out,
            len(fields_of_stream(i, n, n_in, period)) if regular[0] else n_in,
        )
        for i in range(n)
    }


def n_convolution_parameters(
    subgroups: Sequence[Subgroup], shape: dict[str, Any], mixing: str | None, period: int | None, *, skip: bool
) -> int:
    """How many it has: weights, biases, and what a mixture has beside them; all but ``skip`` as in `weight_shapes`.

    Parameters
    ----------
    subgroups, shape, mixing, period
    skip : bool
        Whether it mixes its input in.
    """
    shapes = weight_shapes(subgroups, shape, mixing, period).values()
    count = sum(map(math.prod, shapes))
    if shape["bias"] and not shape["regular_out"]:
        count += shape["out_fields"]
    elif shape["bias"] and mixing == "streams":
        count += sum(n_out * h.index for h, (_, n_out, _) in zip(subgroups, shapes, strict=True) if h.index > 1)
    elif shape["bias"]:
        count += shape["out_fields"] * sum(h.index for h in subgroups)
    if mixing == "shares":
        count += len(subgroups) + skip
    if mixing == "residual":
        count += len(kept_by_parts(subgroups[0]))
    return count
