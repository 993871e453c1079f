"""What images of a training are moved by at random, beyond the group; and which such moves held-out images bear."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from skequinas.groups import PointGroup, Subgroup, pixel_elements
from skequinas.nn.transforms import RandomMoves, RandomShifts, RandomTurns, transform_images
from skequinas.training.data import DataPart, mean_with_error
from skequinas.training.evaluation import evaluate

__all__ = ["Mover", "Moves", "borne_moves", "candidate_moves", "losses_under_moves", "weighted_mover"]

_BORNE_RISE = 0.1
"""By what share of itself the loss may rise on images that are moved; by twice as much where that is within doubt."""

_SIDES_PER_SHIFT = 14
"""Pixels of a side for each pixel of a shift that training images may be moved by."""


@dataclass(frozen=True)
class Moves:
    """Random moves of images.

    Parameters
    ----------
    shift : int
        By up to how many pixels, up or down and left or right.
    turns : bool
        Whether by any angle.
    mirrors : bool
        Whether every other is mirrored where images are turned.
    elements : Subgroup or None
        By which elements besides, one for each image; None or the trivial subgroup leaves them as they are.
    """

    shift: int = 0
    turns: bool = False
    mirrors: bool = False
    elements: Subgroup | None = None

    def start(self, seed: int) -> Mover | None:
        """From a batch to a moved one, if there is anything to do; everything random follows from the seed."""
        steps: list[RandomMoves | RandomTurns | RandomShifts] = []
        if self.elements is not None and self.elements.order > 1:
            steps.append(RandomMoves(self.elements, seed))
        if self.turns:
            steps.append(RandomTurns(self.mirrors, seed))
        if self.shift:
            steps.append(RandomShifts(self.shift, seed))
        return Mover(steps) if steps else None

    def __or__(self, other: Moves) -> Moves:
        turns, mirrors = self.turns or other.turns, self.mirrors or other.mirrors
        return Moves(max(self.shift, other.shift), turns, mirrors, self.elements or other.elements)

    def __str__(self) -> str:
        words = [f"elements of {self.elements}"] if self.elements is not None and self.elements.order > 1 else []
        words += ["turns by any angle" + ", and mirrors" * self.mirrors] * self.turns
        words += [f"shifts by up to {self.shift} pixel{'s' * (self.shift > 1)}"] * bool(self.shift)
        return "; ".join(words) or "nothing"


class Mover:
    """From a batch of images to a moved one, step by step.

    Parameters
    ----------
    steps : sequence of RandomMoves, RandomTurns or RandomShifts
    """

    def __init__(self, steps: Sequence[RandomMoves | RandomTurns | RandomShifts]) -> None:
        self.steps = list(steps)

    def __call__(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) to the same."""
        for step in self.steps:
            images = step(images)
        return images

    def state_dict(self) -> dict[str, list[Tensor]]:
        """Where the generators stand."""
        return {"generators": [step.generator.get_state() for step in self.steps]}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Go on from there."""
        for step, own in zip(self.steps, state["generators"], strict=True):
            step.generator.set_state(own)


def candidate_moves(symmetry: Subgroup, height: int, width: int) -> list[Moves]:
    """Shifts by a few pixels, and turns by any angle if the symmetry has more of them than half a turn."""
    moves = [Moves(shift=int(np.clip(round(min(height, width) / _SIDES_PER_SHIFT), 1, 4)))]
    if symmetry.n_rotations > 2 and height == width:
        moves.append(Moves(turns=True, mirrors=symmetry.mirror is not None))
    return moves


def borne_moves(network: nn.Module, data: DataPart, candidates: Iterable[Moves], seed: int) -> Moves:
    """Of several moves those that the images bear: the loss, once they are moved, hardly rises.

    A network that has never seen moved images is asked. Where it is as good on them, the data hold such moves already
    (objects lie where they happen to lie), and training images may be moved so too; where images are centred or upright
    the loss rises at once. It may rise by a tenth, and by up to a fifth where the standard error of the rise is as
    large as what is beyond a tenth: a few hundred images would otherwise decide by chance.

    Parameters
    ----------
    network : Module
        Trained without such moves.
    data : DataPart
        Images that it was not trained on.
    candidates : iterable of Moves
        Each is tried by itself.
    seed : int
    """
    weights, borne = data.sample_weights(), Moves()
    losses = evaluate(network, data)[0]
    loss = mean_with_error(losses, weights)[0]
    for moves in candidates:
        moved = replace(data, preprocess=_Moved(data.preprocess, moves, seed))
        rise, standard_error = mean_with_error(evaluate(network, moved)[0] - losses, weights, data.units)
        hardly = _BORNE_RISE * abs(loss)
        if rise <= hardly + min(standard_error, hardly):
            borne = borne | moves
    return borne


def weighted_mover(group: PointGroup, probabilities: Sequence[float], seed: int) -> Mover:
    """Moves by the elements that map pixels to pixels, as often as their probabilities say."""
    moving = group.generate(pixel_elements(group))
    return Mover([RandomMoves(moving, seed, probabilities)])


def losses_under_moves(network: nn.Module, data: DataPart, group: PointGroup) -> tuple[tuple[float, ...], float]:
    """The mean loss of images that are all moved by an element, for each that maps pixels to pixels.

    And the standard error of its difference from that of the images as they are, in the median of the elements.
    """
    weights, means, errors, own = data.sample_weights(), [], [], None
    for g in pixel_elements(group):
        moved = replace(data, preprocess=nn.Sequential(data.preprocess, _MovedBy(group, g)))
        losses = evaluate(network, moved)[0]
        own = losses if own is None else own
        means.append(mean_with_error(losses, weights)[0])
        errors.append(mean_with_error(losses - own, weights, data.units)[1])
    return tuple(means), float(np.median(errors[1:])) if len(errors) > 1 else 0.0


class _MovedBy(nn.Module):
    """One element, for all images."""

    def __init__(self, group: PointGroup, element: int) -> None:
        super().__init__()
        self.group, self.element = group, element

    def forward(self, images: Tensor) -> Tensor:
        return transform_images(images, self.group, self.element)


class _Moved(nn.Module):
    """Preprocessing, and a random move of each image."""

    def __init__(self, preprocess: nn.Module, moves: Moves, seed: int) -> None:
        super().__init__()
        self.preprocess, self.move = preprocess, moves.start(seed)

    def forward(self, images: Tensor) -> Tensor:
        inputs: Tensor = self.preprocess(images)
        return inputs if self.move is None else self.move(inputs)
