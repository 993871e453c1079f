"""Where a search begins: the architecture that the parameters ask for, and what they forbid each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from skequinas.estimators.parameters import Parameters
from skequinas.groups import PointGroup, parse_group
from skequinas.nn.architecture import Architecture
from skequinas.nn.presets import default_architecture, paper_architecture, plain_architecture
from skequinas.search import FixedStreams, Search
from skequinas.training import DataPart, TrainingSettings

__all__ = ["check_averaging", "initial_architecture", "training_settings"]


def initial_architecture(
    asked: Parameters,
    data: DataPart,
    group: PointGroup,
    *,
    n_outputs: int,
    n_samples: int,
    least_fields: int = 1,
    light: bool = False,
) -> Architecture:
    """The architecture that parameters ask for, for these images; "auto" has so many fields in each layer at least."""
    found = _shaped(asked, data, group, n_outputs=n_outputs, n_samples=n_samples, light=light)
    if isinstance(asked.architecture, Architecture):
        if asked.coordinates not in ("none", found.coordinates):
            raise ValueError(
                f"coordinates={asked.coordinates!r}, but the architecture has {found.coordinates!r}. Leave "
                "coordinates='none'."
            )
        return found
    if asked.architecture == "auto":
        found = replace(found, fields=tuple(max(n, least_fields) for n in found.fields))
    return replace(found, coordinates=asked.coordinates)


def _shaped(
    asked: Parameters, data: DataPart, group: PointGroup, *, n_outputs: int, n_samples: int, light: bool
) -> Architecture:
    channels = data.images.shape[1]
    height, width = data.images.shape[2:]
    size = height if height == width else (height, width)
    if asked.width is not None and asked.architecture != "auto":
        raise ValueError(f"width={asked.width} goes with architecture='auto' only. Set one of the two.")
    if isinstance(asked.architecture, Architecture):
        given = asked.architecture
        if given.group != group:
            raise ValueError(
                f"architecture has the search group {given.group}, but group={str(asked.group)!r}"
                + (f", of which {group.name} can move these images. " if group != parse_group(asked.group) else ". ")
                + f"Pass group={given.group.name!r} too."
            )
        if (given.image_size, given.in_channels, given.n_outputs) != (size, channels, n_outputs):
            sides = given.image_shape
            raise ValueError(
                f"architecture is for {given.in_channels} channels of {sides[0]}x{sides[1]} pixels and "
                f"{given.n_outputs} outputs; the data need {channels} channels of {height}x{width} pixels and "
                f"{n_outputs} outputs."
            )
        for name, value in (("basis", asked.basis), ("circular_mask", asked.circular_mask)):
            if value not in ("auto", getattr(given, name)):
                raise ValueError(
                    f"{name}={value!r}, but the architecture has {getattr(given, name)!r}. Leave {name}='auto'."
                )
        return given
    mask = None if asked.circular_mask == "auto" else bool(asked.circular_mask)
    options: dict[str, Any] = {"basis": asked.basis, "circular_mask": mask}
    if asked.architecture != "auto":
        make = paper_architecture if asked.architecture == "paper" else plain_architecture
        return make(group, size, channels, n_outputs, **options)
    options |= {"n_samples": n_samples, "device": data.images.device, "width": asked.width, "light": light}
    return default_architecture(group, size, channels, n_outputs, **options)


def training_settings(asked: Parameters) -> TrainingSettings:
    """How a full training is done, as the parameters say."""
    return TrainingSettings(
        asked.learning_rate,
        asked.optimizer,
        batch_size=asked.batch_size,
        weight_decay=asked.weight_decay,
        precision=asked.precision,
        label_smoothing=getattr(asked, "label_smoothing", 0.0),  # a regressor has no labels
    )


def check_averaging(asked: Parameters, search: Search, group: PointGroup) -> None:
    """Refuse an ordinary network where there is no place for one, and to average over what cannot be."""
    symmetric = asked.averaging == "always" or asked.augment == "group"
    given = asked.architecture.coordinates if isinstance(asked.architecture, Architecture) else asked.coordinates
    if symmetric and given == "frame":
        raise ValueError(
            f"coordinates='frame' leaves no symmetry, and averaging={asked.averaging!r} or augment={asked.augment!r} "
            "needs one. Set averaging='none' and augment='none', or coordinates='radius'."
        )
    if symmetric and isinstance(asked.architecture, Architecture) and asked.architecture.head == "free":
        raise ValueError(
            f"architecture has head='free' and so no symmetry, and averaging={asked.averaging!r} or "
            f"augment={asked.augment!r} needs one. Set averaging='none' and augment='none', or head='constrained'."
        )
    streamed = asked.architecture.streams if isinstance(asked.architecture, Architecture) else ()
    if symmetric and (streamed or isinstance(search, FixedStreams)):
        raise ValueError(
            f"averaging={asked.averaging!r}, augment={asked.augment!r}: one of them trains an ordinary network in the "
            "end, in which there are no streams. Set averaging='none' and augment='none'."
        )
    if search.keeps_network and symmetric:
        name = "averaging='always'" if asked.averaging == "always" else "augment='group'"
        raise ValueError(
            f"{name} trains an ordinary network in the end, but {search!r} makes what it trained itself the model. "
            "Set averaging='auto' and augment='auto', or discretize=True or final='retrain' in the search."
        )
    if asked.averaging == "always" and not group.acts_on_pixels:
        raise ValueError(
            f"averaging='always' needs a group that maps pixels to pixels, such as 'D4', and group={group.name!r} "
            "interpolates. Take another group, or averaging='auto'."
        )
