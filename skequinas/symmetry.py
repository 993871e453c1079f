"""What was learned about the symmetry of a task, and what can be measured of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import torch
from torch import Tensor

from skequinas.filters import transform_images
from skequinas.groups import PointGroup

__all__ = ["LearnedSymmetry", "measured_change"]


@dataclass(frozen=True, eq=False)
class LearnedSymmetry:
    """The symmetry that a fitted model is constrained to, layer by layer, and what was measured.

    Parameters
    ----------
    search_group : str
        The group in which the search looked.
    group : str
        The group to which the fitted function is constrained: its value for an image, padded to a square, cannot change
        under the elements of this group.
    constraints : dict
        From the name of each layer ("layer 1", ..., "head") to the name of its constraint.
    measured_change : dict
        From the name of each element of the search group to how much the output changes when the images are moved by
        it, relative to how much it varies between images: root mean square over up to 512 of the images given to
        ``fit``, those of the validation part where there is one. 0 is no change; about 1.4 is as different as another
        image's output; NaN where an interruption left it unmeasured.
    layer_weights : dict or None
        After a differentiable search: from the name of each layer to a dict with the learned share of every subgroup.
    evidence : dict or None
        From the name of every subgroup to the increase of the validation loss, with its standard error, when
        the outputs of a network that is free to break all symmetries are averaged over it. An increase of several
        standard errors says that the task does not have this symmetry. None after searches without such a network.
    """

    search_group: str
    group: str
    constraints: Mapping[str, str]
    measured_change: Mapping[str, float]
    layer_weights: Mapping[str, Mapping[str, float]] | None = None
    evidence: Mapping[str, tuple[float, float]] | None = None

    def __str__(self) -> str:
        layers = ", ".join(f"{layer} {constraint}" for layer, constraint in self.constraints.items())
        changes = ", ".join(
            f"{name} {change:.2g}" for name, change in self.measured_change.items() if name != "identity"
        )
        if any(np.isnan(change) for change in self.measured_change.values()):
            changes = "not measured"
        lines = [
            f"{self.search_group} -> {self.group}: {describe(self.group)}",
            f"  constraints: {layers}",
            f"  measured change of the output: {changes or 'the group has no other element'}",
        ]
        if self.evidence is not None:
            text = ", ".join(f"{name} {mean:+.3f} ± {se:.3f}" for name, (mean, se) in self.evidence.items())
            lines.append(
                f"  rise of the validation loss when averaged over a symmetry (none if the task has it): {text}"
            )
        if self.layer_weights is not None:
            lines.append("  learned shares:")
            for layer, shares in self.layer_weights.items():
                text = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
                lines.append(f"    {layer}: {text}")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        changes = {name: f"{change:.2g}" for name, change in self.measured_change.items()}
        parts = [
            f"<p><b>{escape(self.search_group)} &rarr; {escape(self.group)}</b>: {escape(describe(self.group))}</p>",
            _table("Measured change of the output when the image is moved (0: none)", list(changes), [changes]),
        ]
        if self.evidence is not None:
            rises = {name: f"{mean:+.3f} &plusmn; {se:.3f}" for name, (mean, se) in self.evidence.items()}
            title = "Evidence: rise of the validation loss when averaged over a symmetry (none if the task has it)"
            parts.append(_table(title, list(rises), [rises]))
        rows = [{"layer": escape(layer), "constraint": escape(c)} for layer, c in self.constraints.items()]
        columns = ["layer", "constraint"]
        if self.layer_weights is not None:
            for row, shares in zip(rows, self.layer_weights.values(), strict=True):
                row.update({name: f"{share:.2f}" for name, share in shares.items()})
            columns = list(rows[0])
        title = "Constraint of every layer" + ("" if self.layer_weights is None else ", and the learned shares")
        return "\n".join([*parts, _table(title, columns, rows)])


def _table(title: str, columns: list[str], rows: Sequence[Mapping[str, str]]) -> str:
    """A table of HTML whose cells are HTML already."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{row[column]}</td>" for column in columns) + "</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def describe(name: str) -> str:
    """A symmetry group in a few plain words."""
    group = PointGroup.from_name(name)
    if group.order == 1:
        return "no symmetry is built in"
    turns = {1: "", 2: "half turns", 4: "quarter turns"}.get(
        group.n_rotations, f"turns by 360/{group.n_rotations} degrees"
    )
    if not group.mirrors:
        return f"unchanged by {turns}"
    angles = ", ".join(f"{float(group.angle(e)):g}" for e in group.elements if group.is_mirror(e))
    mirrors = f"mirrors with the axis at {angles} degrees"
    return f"unchanged by {turns} and {mirrors}" if turns else f"unchanged by {mirrors}"


def measured_change(
    function: Callable[[Tensor], Tensor], images: Tensor, group: PointGroup, batch_size: int = 256
) -> dict[str, float]:
    """How much the output of a function changes under every element of a group, relative to its variation.

    Parameters
    ----------
    function : callable
        From square images (n, channels, size, size) to outputs (n, n_outputs).
    images : Tensor of shape (n, channels, size, size)
    group : PointGroup
        One that maps the pixel grid to itself.

    Returns
    -------
    dict
        From element names to the root mean square change over the root mean square deviation from the mean output.
        Where the outputs do not vary it is 0 for no change, else infinity.
    """

    def outputs(element: int) -> Tensor:
        with torch.inference_mode():
            return torch.cat([function(transform_images(x, group, element)) for x in images.split(batch_size)]).double()

    still = outputs(0)
    variation = float((still - still.mean(0)).square().sum(1).mean().sqrt())

    def change(element: int) -> float:
        moved = float((outputs(element) - still).square().sum(1).mean().sqrt()) if element else 0.0
        return moved / variation if variation else (0.0 if moved == 0 else float("inf"))

    return {group.element_name(g): change(g) for g in group.elements}
