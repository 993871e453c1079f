"""Architectures as values: everything that fixes a network but its weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import and_, index
from typing import Any

from skequinas.groups import PointGroup, Subgroup, group_on_images, parse_group, pixel_elements
from skequinas.nn.bases import filter_basis
from skequinas.nn.checks import check_shortcuts, check_sizes
from skequinas.nn.constraints import Constraint, parse_constraint, subgroups_of
from skequinas.nn.counting import n_convolution_parameters, weight_shapes

__all__ = ["Architecture"]

MIXINGS = "shares", "residual", "pathway", "streams"

_STATISTICS = {"mean": 1, "mean and maximum": 2}
"""How many numbers the head is given of each channel."""


COORDINATES = {"none": 0, "radius": 1, "frame": 2}
"""How many maps stand behind the channels of the image."""


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes a network but its weights. Frozen, hashable, JSON-able.

    Parameters
    ----------
    group : PointGroup
        The search group G. A field of a hidden layer has ``|G|`` channels.
    image_size : int or tuple of int
        The side of the square input in pixels, or (height, width) of one that is not square. Then the group must map
        such a rectangle to itself: half turns, and mirrors about the horizontal and the upright axis.
    in_channels, n_outputs : int
        Channels of the input image, and outputs of the head.
    fields, kernel_sizes, pools : tuple
        For each hidden layer: its fields, the odd side of its kernel, whether it pools.
    constraints : tuple of Subgroup, or of tuples of them
        One for each hidden layer and, last, one for the head; a tuple of subgroups makes a mixed layer, or streams, see
        ``mixing``. Empty (the default) stands for G everywhere, but for a free head. Names such as "C4" are understood.
    hidden : int, default=64
        Units of a dense layer between the head's constrained layer, whose outputs are invariant, and the outputs.
        With 0 the constrained layer gives the outputs itself.
    basis : {"auto", "pixel", "harmonic"}, default="auto"
        What the filters of the hidden layers are made of, see `skequinas.nn.bases`. "auto" is "pixel" where the group
        maps the pixel grid to itself, else "harmonic", and stands as one of the two afterwards.
    circular_mask : bool or None, default=None
        Whether the input is cut to a disc, since the corners of a square cannot turn by any angle. None, the default,
        is True where the group does not map the pixel grid to itself, and stands as one of the two afterwards.
    shortcuts : tuple of int, default=()
        For each hidden layer over how many layers a shortcut reaches that ends there, and 0 where there is none: the
        fields that went into the first of them are added to those of the last one before its rectifier (if these are
        more, to the first of them). Shortcuts do not overlap, do not begin at the image and pass no pooling. They obey
        every constraint, so they have none. Empty stands for no shortcuts.
    statistics : {"mean", "mean and maximum"}, default="mean"
        What the head is given of each channel of the last map.
    averaged : Subgroup, str or None, default=None
        In evaluation the outputs are averaged over the images moved by all elements of this subgroup, so that the
        function is invariant to it whatever the constraints are. It must contain the intersection of these, and map the
        pixel grid to itself. What the constraints have by themselves stands as None afterwards.
    head : {"constrained", "free"}, default="constrained"
        A head that is free is C1 always, takes no part in searches, and with it the function has no symmetry, whatever
        the layers have: so it is in the networks that were published.
    skips : bool, default=False
        Whether mixed layers mix their input in as well, where it has as many fields as come out, or a divisor of that,
        and pixels are the basis.
    mixing : {"shares", "residual", "pathway", "streams"}, default="shares"
        What several subgroups in a constraint are. "shares" mixes kernels constrained to each. "residual" and "pathway"
        take (H, C1): a kernel constrained to H and a residual, normalised or not, see `ResidualGroupConv2d`. "streams"
        deals out the fields of a layer, each share constrained to its own subgroup and apart from the others up to the
        head, see `StreamedGroupConv2d`; then every layer has as many subgroups.
    coordinates : {"none", "radius", "frame"}, default="none"
        Maps that are put behind the channels of the image. "radius", the distance from the centre, looks the same under
        every turn and mirror, and keeps all symmetries. "frame", the two coordinates as scalars, does not move with the
        image: by it a network may tell how an image stands, so that its function has no symmetry whatever the
        constraints are.

    Examples
    --------
    >>> from skequinas.nn import Architecture
    >>> from skequinas.groups import PointGroup
    >>> D4 = PointGroup.from_name("D4")
    >>> a = Architecture(D4, 28, 1, 10, fields=(4, 6), kernel_sizes=(5, 5), pools=(True, False))
    >>> a.relaxed(2, D4.subgroup("C4")).symmetry.name
    'C4'
    """

    group: PointGroup
    image_size: int | tuple[int, int]
    in_channels: int
    n_outputs: int
    fields: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    pools: tuple[bool, ...]
    constraints: tuple[Constraint, ...] = ()
    hidden: int = 64
    basis: str = "auto"
    circular_mask: bool | None = None
    shortcuts: tuple[int, ...] = ()
    statistics: str = "mean"
    averaged: Subgroup | None = None
    head: str = "constrained"
    skips: bool = False
    mixing: str = "shares"
    coordinates: str = "none"

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("group", parse_group(self.group))
        exact = self.group.acts_on_pixels
        if self.basis == "auto":
            put("basis", "pixel" if exact else "harmonic")
        if self.circular_mask not in (None, True, False):
            raise ValueError(f"circular_mask={self.circular_mask!r} must be True, False or None.")
        put("circular_mask", not exact if self.circular_mask is None else bool(self.circular_mask))
        for name in ("in_channels", "n_outputs", "hidden"):
            put(name, index(getattr(self, name)))
        size = self.image_size
        height, width = (index(s) for s in (size if isinstance(size, tuple | list) else (size, size)))
        put("image_size", height if height == width else (height, width))
        if height != width and (self.circular_mask or group_on_images(self.group, height, width) != self.group):
            raise ValueError(
                f"image_size={self.image_size} is no square: circular_mask={self.circular_mask} must be False, and "
                f"group={self.group.name!r} must hold half turns and mirrors about the horizontal and the upright axis "
                f"alone, such as {group_on_images(self.group, height, width).name!r}."
            )
        put("fields", tuple(index(f) for f in self.fields))
        put("kernel_sizes", tuple(index(k) for k in self.kernel_sizes))
        put("pools", tuple(bool(p) for p in self.pools))
        n = len(self.fields)
        if self.head not in ("constrained", "free"):
            raise ValueError(f"head={self.head!r} must be 'constrained' or 'free'.")
        if self.mixing not in MIXINGS:
            raise ValueError(f"mixing={self.mixing!r} must be one of {', '.join(map(repr, MIXINGS))}.")
        if self.coordinates not in COORDINATES:
            raise ValueError(f"coordinates={self.coordinates!r} must be one of {', '.join(map(repr, COORDINATES))}.")
        if self.skips not in (True, False):
            raise ValueError(f"skips={self.skips!r} must be True or False.")
        put("skips", bool(self.skips))
        of_head = self.group.trivial if self.head == "free" else self.group.whole
        constraints = self.constraints or (*(self.group.whole,) * n, of_head)
        put("constraints", tuple(parse_constraint(self.group, c) for c in constraints))
        if not n == len(self.kernel_sizes) == len(self.pools) == len(self.constraints) - 1:
            raise ValueError(
                f"fields={self.fields}, kernel_sizes={self.kernel_sizes} and pools={self.pools} must have one entry "
                f"for each hidden layer, and constraints ({len(self.constraints)} given) one more, for the head."
            )
        if self.head == "free" and self.constraints[-1] != self.group.trivial:
            raise ValueError(f"head='free' is C1 always, and the last of constraints is {self.constraint_names[-1]}.")
        if n == 0 or min(self.fields) < 1 or min(*self.image_shape, self.in_channels, self.n_outputs) < 1:
            raise ValueError(f"{self!r} needs at least one layer, and at least one of everything in it.")
        if not all(k > 0 and k % 2 for k in self.kernel_sizes):
            raise ValueError(f"kernel_sizes={self.kernel_sizes} must be odd, so that a kernel has a central pixel.")
        for size in self.kernel_sizes:
            filter_basis(self.basis, size).check_group(self.group)
        if self.statistics not in _STATISTICS:
            raise ValueError(f"statistics={self.statistics!r} must be one of {', '.join(map(repr, _STATISTICS))}.")
        put("shortcuts", tuple(index(s) for s in self.shortcuts or (0,) * n))
        check_shortcuts(self.shortcuts, self.fields, self.pools, self.layer_names)
        if self.averaged is not None:
            put("averaged", self._checked_average(parse_constraint(self.group, self.averaged)))
        mixtures = [c for c in self.constraints if isinstance(c, tuple)]
        if not mixtures:
            put("mixing", "shares")  # it means nothing
        if self.mixing == "streams":
            self._check_streams()
        for mixture in mixtures:
            if self.mixing in ("residual", "pathway") and (len(mixture) != 2 or mixture[1] != self.group.trivial):
                raise ValueError(
                    f"mixing={self.mixing!r} needs a subgroup and C1 in each layer that has a residual, and one has "
                    f"{', '.join(h.name for h in mixture)}."
                )

    def _check_streams(self) -> None:
        n = {len(c) if isinstance(c, tuple) else 1 for c in self.constraints}
        if len(n) > 1 or max(n) < 2 or self.head == "free":
            raise ValueError(
                f"mixing='streams' needs as many subgroups, two at least, in every layer, the head included, and the "
                f"constraints are {self} (head={self.head!r})."
            )
        if min(self.fields) < max(n):
            raise ValueError(f"fields={self.fields} must be at least {max(n)}, one field for each stream.")
        if self.averaged is not None:
            raise ValueError(f"averaged={self.averaged} is for networks without streams. Leave it out.")
        if self.coordinates == "frame":
            raise ValueError("coordinates='frame' leaves no stream a symmetry. Set coordinates='radius' or 'none'.")

    def _checked_average(self, averaged: Constraint) -> Subgroup | None:
        """The subgroup to average over, or None where the constraints have it all."""
        if isinstance(averaged, tuple) or not self.constrained_to <= averaged:
            raise ValueError(
                f"averaged={self.averaged} must be a subgroup of {self.group} that contains {self.constrained_to}, "
                f"which all constraints ({', '.join(self.constraint_names)}) have in common."
            )
        if not set(averaged.elements) <= set(pixel_elements(self.group)):
            raise ValueError(
                f"averaged={averaged.name} has elements that do not map the pixel grid to itself. Take one of quarter "
                "and half turns, and the mirrors in between."
            )
        return None if averaged == self.constrained_to else averaged

    @property
    def image_shape(self) -> tuple[int, int]:
        """The height and the width of the input."""
        size = self.image_size
        return size if isinstance(size, tuple) else (size, size)

    @property
    def n_layers(self) -> int:
        """The number of constrained layers, the head included."""
        return len(self.constraints)

    @property
    def chain(self) -> tuple[Constraint, ...]:
        """The constraints that a search may change: all, or all but that of a head that is free."""
        return self.constraints[:-1] if self.head == "free" else self.constraints

    @property
    def layer_names(self) -> tuple[str, ...]:
        """A name for each constraint: layer 1, layer 2, ..., head."""
        return (*(f"layer {i + 1}" for i in range(len(self.fields))), "head")

    @property
    def symmetry(self) -> Subgroup:
        """The subgroup to which the network's function is invariant."""
        return self.constrained_to if self.averaged is None else self.averaged

    @property
    def constrained_to(self) -> Subgroup:
        """The intersection of all constraints; C1 with a frame, which no constraint binds."""
        if self.coordinates == "frame":
            return self.group.trivial
        return reduce(and_, (h for c in self.constraints for h in subgroups_of(c)))

    @property
    def is_mixed(self) -> bool:
        """Whether any layer mixes subgroups."""
        return self.mixing != "streams" and any(isinstance(c, tuple) for c in self.constraints)

    @property
    def streams(self) -> tuple[Subgroup, ...]:
        """For each stream the subgroup to which its own features are invariant; empty without streams."""
        if self.mixing != "streams":
            return ()
        return tuple(reduce(and_, own) for own in zip(*map(subgroups_of, self.constraints), strict=True))

    @cached_property
    def n_parameters(self) -> int:
        """The number of free parameters of the network."""
        return sum(self._layer_parameters(i) for i in range(self.n_layers))

    def _layer_parameters(self, layer: int) -> int:
        """Those of a layer and its batch norm, and those behind a head."""
        shape = self.layer_shape(layer)
        count = n_convolution_parameters(*self._layer_weights(layer), skip=self.has_skip(layer))
        if shape["regular_out"] or self.hidden:
            count += 2 * shape["out_fields"]
        return count + (self.hidden + 1) * self.n_outputs * bool(self.hidden and not shape["regular_out"])

    def _layer_weights(self, layer: int) -> tuple[tuple[Subgroup, ...], dict[str, Any], str | None, int | None]:
        """What the weights of a layer's convolution follow from."""
        constraint = self.constraints[layer]
        mixing = self.mixing if isinstance(constraint, tuple) else None
        return subgroups_of(constraint), self.layer_shape(layer), mixing, self.period(layer)

    def weight_shapes(self, layer: int) -> dict[str, tuple[int, int, int]]:
        """The shapes of the weights of a layer's convolution, by their names in its state."""
        return weight_shapes(*self._layer_weights(layer))

    @cached_property
    def n_plain_parameters(self) -> int:
        """The number of parameters of the same function as plain layers, with batch norm folded in."""
        order, shapes = self.group.order, [self.layer_shape(i) for i in range(self.n_layers)]
        widths = [
            (s["in_fields"] * order ** s["regular_in"], s["out_fields"] * order ** s["regular_out"]) for s in shapes
        ]
        counts = (n_out * (n_in * s["kernel_size"] ** 2 + 1) for (n_in, n_out), s in zip(widths, shapes, strict=True))
        return int(sum(counts)) + ((self.hidden + 1) * self.n_outputs if self.hidden else 0)

    def has_skip(self, layer: int) -> bool:
        """Whether a layer, if it is mixed, mixes its input in."""
        shape = self.layer_shape(layer)
        regular = shape["regular_in"] and shape["regular_out"]
        return (
            self.skips
            and self.mixing == "shares"
            and regular
            and shape["out_fields"] % shape["in_fields"] == 0
            and self.basis == "pixel"
        )

    def period(self, layer: int) -> int | None:
        """After how many of the fields that come in these begin again, as at a head with several statistics."""
        return self.fields[-1] if layer % self.n_layers == len(self.fields) else None

    def with_constraints(self, constraints: tuple[Constraint, ...]) -> Architecture:
        """The same shape with other constraints."""
        return replace(self, constraints=tuple(constraints))

    def unconstrained(self, averaged: Subgroup | None = None) -> Architecture:
        """The ordinary network of the same shape, whose outputs are averaged over a subgroup if one is given."""
        return replace(self, constraints=(self.group.trivial,) * self.n_layers, averaged=averaged)

    def ordinary(self, averaged: Subgroup | None = None) -> Architecture:
        """An ordinary network of about the cost of this one, whose outputs may be averaged over a subgroup.

        It has three quarters of the channels where compiled kernels let constrained layers have more for the same time:
        with a group that maps pixels to pixels, in the pixel basis.
        """
        if self.basis == "harmonic" or not self.group.acts_on_pixels:
            return self.unconstrained(averaged)
        fields = tuple(max(1, round(0.75 * n)) for n in self.fields)
        return replace(self.unconstrained(averaged), fields=fields)

    def relaxed(self, layer: int, subgroup: Subgroup) -> Architecture:
        """The architecture with one layer relaxed to a subgroup of its constraint; the head is the last layer."""
        old = self.constraints[layer]
        if isinstance(old, tuple) or not subgroup <= old:
            raise ValueError(f"{self.layer_names[layer]} is constrained to {old}; it cannot be relaxed to {subgroup}.")
        constraints = list(self.constraints)
        constraints[layer] = subgroup
        return self.with_constraints(tuple(constraints))

    def relaxes(self, parent: Architecture) -> bool:
        """Whether every layer is constrained as in the parent or less, so that weights keep the function."""
        pairs = zip(self.constraints, parent.constraints, strict=True)
        return all(
            own == old or (isinstance(own, Subgroup) and isinstance(old, Subgroup) and own <= old) for own, old in pairs
        )

    def layer_shape(self, layer: int) -> dict[str, Any]:
        """The arguments of the layer's convolution, but for its constraint."""
        layer %= self.n_layers
        head = layer == len(self.fields)
        per_field = _STATISTICS[self.statistics] if head else 1
        first = self.in_channels + COORDINATES[self.coordinates]
        return {
            "in_fields": self.fields[layer - 1] * per_field if layer else first,
            "out_fields": (self.hidden or self.n_outputs) if head else self.fields[layer],
            "kernel_size": 1 if head else self.kernel_sizes[layer],
            "regular_in": layer != 0,
            "regular_out": not head,
            # where one shift for each field is all that the constraint allows, batch norm has it already
            "bias": not self.hidden if head else self.constraints[layer] != self.group.whole,
            "basis": self.basis,
        }

    def to_dict(self) -> dict[str, Any]:
        """A dict of plain values, for JSON."""
        return {
            "group": self.group.name,
            "image_size": list(self.image_size) if isinstance(self.image_size, tuple) else self.image_size,
            "in_channels": self.in_channels,
            "n_outputs": self.n_outputs,
            "fields": list(self.fields),
            "kernel_sizes": list(self.kernel_sizes),
            "pools": list(self.pools),
            "constraints": [c.name if isinstance(c, Subgroup) else [h.name for h in c] for c in self.constraints],
            "hidden": self.hidden,
            "basis": self.basis,
            "circular_mask": self.circular_mask,
            "shortcuts": list(self.shortcuts),
            "statistics": self.statistics,
            "averaged": None if self.averaged is None else self.averaged.name,
            "head": self.head,
            "skips": self.skips,
            "mixing": self.mixing,
            "coordinates": self.coordinates,
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Architecture:
        """The inverse of `to_dict`.

        Raises
        ------
        ValueError
            When the values ask for more than any network has: they may come from a file.
        """
        check_sizes(values, PointGroup.from_name(values["group"]))
        return Architecture(**values)

    @property
    def constraint_names(self) -> tuple[str, ...]:
        """The name of every layer's constraint; a mixed layer's names are joined by "+", those of streams by "/"."""
        sign = "/" if self.mixing == "streams" else "+"
        return tuple(sign.join(h.name for h in subgroups_of(c)) for c in self.constraints)

    def __str__(self) -> str:
        *hidden, head = self.constraint_names
        return f"{' '.join(hidden)} | {head}" + (f", averaged over {self.averaged}" if self.averaged else "")
