"""Networks built from architectures, relaxation of a whole network, and export to plain torch.

A network is a stack of blocks (convolution, batch norm, rectifier, sometimes pooling), the mean over space, and a head.
Each convolution and the head has its own constraint, a subgroup of one search group. The function that the network
computes is invariant to the intersection of them all.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skequinas.groups import PointGroup, Subgroup
from skequinas.nn.architecture import Architecture
from skequinas.nn.folding import folded_kernel, plain_convolution, plain_linear, undrawn
from skequinas.nn.layers import EquivariantConv2d, GroupConv2d, MixedGroupConv2d
from skequinas.nn.norm import OrbitBatchNorm2d, normalised
from skequinas.nn.pooling import (
    AveragedOverMoves,
    CircularMask,
    CoordinateMaps,
    MapStatistics,
    Shortcut,
    SymmetricAvgPool2d,
    in_torch_alone,
    mean_over_moves,
)
from skequinas.nn.residual import ResidualGroupConv2d
from skequinas.nn.resting import RestingNetwork, resting_blocks
from skequinas.nn.streams import StreamedGroupConv2d
from skequinas.runtime.compiled import compiled

__all__ = ["EquivariantNetwork", "inherit", "network_from_state", "relax"]


class _Block(nn.Module):
    """Convolution, batch norm, rectifier and, where the architecture says so, pooling. A shortcut may end here."""

    def __init__(self, conv: EquivariantConv2d, group: PointGroup, pool: bool) -> None:
        super().__init__()
        self.conv = conv
        self.norm = OrbitBatchNorm2d(group, conv.out_fields)
        self.pool = SymmetricAvgPool2d() if pool else nn.Identity()

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        # where windows do not overlap, the pass is one
        halve = isinstance(self.pool, SymmetricAvgPool2d) and x.shape[2] % 2 == x.shape[3] % 2 == 0
        if self.conv.regular_in or shortcut is not None:
            y = self.norm.rectified(self.conv.without_offset(x), self.conv.offset(), shortcut, halve=halve)
        else:
            y = self.norm.lifted(x, self.conv.kernel(), self.conv.offset(), halve=halve)
        pooled: Tensor = y if halve else self.pool(y)
        return pooled

    @torch.no_grad()
    def inherit(self, parent: _Block) -> None:
        """Take over weights and statistics. The shift of a field by a bias that is dropped goes to the statistics."""
        self.norm.load_state_dict(parent.norm.state_dict())
        _inherit_conv(self.conv, parent.conv)
        offset = parent.conv.offset()
        if self.conv.offset() is None and offset is not None:
            assert self.norm.running_mean is not None
            self.norm.running_mean -= offset.unflatten(0, (self.conv.out_fields, -1)).mean(1)

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        """The convolution and batch norm, in eval mode, as one plain convolution."""
        return plain_convolution(*folded_kernel(self.conv, self.norm, self.norm.group.order))


class _Head(nn.Module):
    """The constrained layer, which makes invariants of the spatial means, and the dense layer behind it, if any."""

    def __init__(self, conv: EquivariantConv2d, architecture: Architecture, generator: torch.Generator | None) -> None:
        super().__init__()
        hidden, n_outputs = architecture.hidden, architecture.n_outputs
        self.statistics = MapStatistics(architecture.statistics != "mean")
        self.conv = conv
        self.norm = nn.BatchNorm1d(hidden) if hidden else None
        self.dense = undrawn(nn.Linear, hidden, n_outputs, dtype=torch.float32) if hidden else None
        if self.dense is not None:
            nn.init.normal_(self.dense.weight, std=hidden**-0.5, generator=generator)
            nn.init.zeros_(self.dense.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs(self.statistics(x))

    def outputs(self, statistics: Tensor) -> Tensor:
        """What it makes of the statistics of the last maps."""
        y = F.linear(statistics, self.conv.kernel().flatten(1), self.conv.offset())
        return y if self.norm is None or self.dense is None else self.dense(normalised(self.norm, y).relu_())

    @torch.no_grad()
    def inherit(self, parent: _Head) -> None:
        """Take over all weights and statistics."""
        _inherit_conv(self.conv, parent.conv)
        for own, old in ((self.norm, parent.norm), (self.dense, parent.dense)):
            if own is not None and old is not None:
                own.load_state_dict(old.state_dict())

    @torch.no_grad()
    def folded(self) -> list[nn.Module]:
        """Plain layers from the last feature map to the outputs."""
        kernel, bias = folded_kernel(self.conv, self.norm, 1)
        first = (
            [in_torch_alone(self.statistics)] if self.statistics.maximum else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        )
        stack: list[nn.Module] = [*first, plain_linear(kernel.flatten(1), bias)]
        return stack if self.dense is None else [*stack, nn.ReLU(), plain_linear(self.dense.weight, self.dense.bias)]


def _inherit_conv(conv: EquivariantConv2d, parent: EquivariantConv2d) -> None:
    if (type(conv), conv.constraints) == (type(parent), parent.constraints):
        conv.load_state_dict(parent.state_dict())
    elif isinstance(conv, GroupConv2d):
        conv.inherit(parent)
    else:
        raise ValueError(
            f"A layer with several subgroups ({conv.extra_repr()}) cannot take over the weights of one that has "
            f"{parent.extra_repr()}. Give it one subgroup, or those of the other."
        )


class EquivariantNetwork(nn.Module):
    """The network of an `Architecture`.

    Parameters
    ----------
    architecture : Architecture
        What to build.
    generator : torch.Generator, optional
        Draws the initial weights.
    """

    def __init__(self, architecture: Architecture, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.architecture = architecture
        convs = [_conv(architecture, i, generator) for i in range(architecture.n_layers)]
        self.mask = CircularMask(architecture.image_shape[0]) if architecture.circular_mask else nn.Identity()
        has_maps = architecture.coordinates != "none"
        self.coordinates = CoordinateMaps(architecture.coordinates, *architecture.image_shape) if has_maps else None
        self.blocks = nn.ModuleList(
            _Block(conv, architecture.group, pool) for conv, pool in zip(convs[:-1], architecture.pools, strict=True)
        )
        self.head = _Head(convs[-1], architecture, generator)
        self.to(torch.float32)  # whatever the default type is

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As pickled; before there were coordinates a network had none."""
        super().__setstate__(state)
        if "coordinates" not in self._modules:
            self.__dict__.setdefault("coordinates", None)

    @property
    def convolutions(self) -> list[EquivariantConv2d]:
        """The constrained layers in order, the head last."""
        return [part.conv for part in (*self.blocks, self.head)]

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to (batch, n_outputs)."""
        averaged = self.architecture.averaged
        if self.training or averaged is None:
            return self._once(x)
        return mean_over_moves(self._once, x, averaged)

    def _once(self, x: Tensor) -> Tensor:
        """The outputs for images as they are."""
        y: Tensor = self.head(self.maps(x))
        return y

    def features(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to the statistics of the last maps, of which the head makes outputs."""
        y: Tensor = self.head.statistics(self.maps(x))
        return y

    def inputs(self, x: Tensor) -> Tensor:
        """What the first block is given of images."""
        y: Tensor = self.mask(x if self.coordinates is None else self.coordinates(x))
        return y

    def maps(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to the last maps (batch, channels, height, width)."""
        x = self.inputs(x)
        inputs: list[Tensor] = []
        for number, (block, length) in enumerate(zip(self.blocks, self.architecture.shortcuts, strict=True)):
            inputs.append(x)
            x = block(x, inputs[number - length + 1] if length else None)
        return x

    @property
    def is_fused(self) -> bool:
        """Whether compiled kernels do most of its convolutions, so that it is faster as it is than as plain layers."""
        weight = next(self.parameters())
        n = sum(conv.is_fused for conv in self.convolutions)
        return weight.dtype == torch.float32 and weight.device.type == "cpu" and 2 * n >= len(self.blocks)

    @torch.no_grad()
    def at_rest(self, *, reduced: bool = False) -> EquivariantNetwork | RestingNetwork:
        """The same function in eval mode, of the present weights, by compiled kernels if they know most of it.

        Parameters
        ----------
        reduced : bool
            Whether convolutions may round what they multiply to bfloat16, where that is faster.

        Returns
        -------
        RestingNetwork or EquivariantNetwork
            This network itself where compiled kernels do not know it, or not most of it, and in training mode.
        """
        kernels, pools = compiled(), (block.pool for block in self.blocks)
        known = type(self) is EquivariantNetwork and all(type(p) in (nn.Identity, SymmetricAvgPool2d) for p in pools)
        if kernels is None or self.training or not (known and self.is_fused):
            return self
        blocks: list[Any] = list(self.blocks)
        options = {"maximum": self.head.statistics.maximum, "reduced": reduced and kernels.has_halves}
        return RestingNetwork(self, resting_blocks(kernels, blocks, self.architecture.shortcuts, **options))

    @torch.no_grad()
    def with_outputs(self, order: Tensor, signs: Tensor | None = None) -> EquivariantNetwork:
        """A copy whose output j is output ``order[j]`` of this one, times ``signs[j]``: exactly, without arithmetic."""
        network = copy.deepcopy(self)
        order = order.to(next(self.parameters()).device)
        factors = torch.ones(len(order)) if signs is None else signs
        head = network.head
        if head.dense is not None:
            factors = factors.to(head.dense.weight)
            head.dense.weight.copy_(head.dense.weight[order] * factors[:, None])
            head.dense.bias.copy_(head.dense.bias[order] * factors)
            return network
        head.conv.reorder_outputs(order, factors)
        return network

    def shares(self) -> dict[str, dict[str, float]]:
        """The share of every subgroup in every mixed layer, by name, and that of its input if it has one, "skip".

        In layers with a residual these are the shares of its parts in the square of the kernel's norm.
        """
        layers = zip(self.architecture.layer_names, self.convolutions, strict=True)
        return {
            name: {h.name: z for h, z in layer.named_shares().items()}
            | ({"skip": layer.skip_share()} if isinstance(layer, MixedGroupConv2d) and layer.skip else {})
            for name, layer in layers
            if isinstance(layer, MixedGroupConv2d | ResidualGroupConv2d)
        }

    @torch.no_grad()
    def start_mixtures(self, favour: float, generator: torch.Generator | None = None) -> None:
        """Set the logits of mixed layers: the first so far above the others or, with a generator, all from N(0, 1)."""
        for layer in self.convolutions:
            if isinstance(layer, MixedGroupConv2d) and generator is not None:
                layer.logits.normal_(generator=generator)
            elif isinstance(layer, MixedGroupConv2d):
                layer.logits.fill_(-favour)
                layer.logits[0] = 0.0

    @torch.no_grad()
    def to_plain(self) -> nn.Sequential:
        """The same function in eval mode as a stack of plain torch layers, with batch norm folded in."""
        height, width = self.architecture.image_shape
        coordinates = self.coordinates
        stack: list[nn.Module] = [] if coordinates is None else [in_torch_alone(copy.deepcopy(coordinates))]
        stack += [CircularMask(height)] if self.architecture.circular_mask else []
        each = zip(self.blocks, self.architecture.pools, self.architecture.shortcuts, strict=True)
        for number, (block, pool, shortcut) in enumerate(each):
            assert isinstance(block, _Block)
            stack.append(block.folded())
            if shortcut:  # it spans its convolutions, and a rectifier between each and the next
                inner = 2 * shortcut - 1
                fields = self.architecture.fields
                n_more = (fields[number] - fields[number - shortcut]) * self.architecture.group.order
                stack[-inner:] = [in_torch_alone(Shortcut(*stack[-inner:], n_more=n_more))]
            stack.append(nn.ReLU())
            if pool:
                stack.append(SymmetricAvgPool2d.plain(height, width))
                height, width = (height + 1) // 2, (width + 1) // 2
        stack += self.head.folded()
        if self.architecture.averaged is not None:
            stack = [in_torch_alone(AveragedOverMoves(nn.Sequential(*stack), self.architecture.averaged))]
        return nn.Sequential(*stack).to(next(self.parameters()).device).eval().requires_grad_(False)


def _conv(architecture: Architecture, layer: int, generator: torch.Generator | None) -> EquivariantConv2d:
    constraint, shape = architecture.constraints[layer], architecture.layer_shape(layer)
    if isinstance(constraint, tuple) and architecture.mixing == "streams":
        return StreamedGroupConv2d(constraint, **shape, period=architecture.period(layer), generator=generator)
    if isinstance(constraint, tuple) and architecture.mixing != "shares":
        normalised = architecture.mixing == "residual"
        return ResidualGroupConv2d(constraint[0], **shape, normalised=normalised, generator=generator)
    if isinstance(constraint, tuple):
        return MixedGroupConv2d(constraint, **shape, skip=architecture.has_skip(layer), generator=generator)
    return GroupConv2d(constraint, **shape, generator=generator)


def network_from_state(architecture: Architecture, state: Mapping[str, Tensor]) -> EquivariantNetwork:
    """A network with the state of another, whose sizes are compared before anything is built.

    Raises
    ------
    ValueError
        When the state is not that of a network of this architecture.
    """
    names = [*(f"blocks.{i}" for i in range(architecture.n_layers - 1)), "head"]
    for i, name in enumerate(names):
        for own, wanted in architecture.weight_shapes(i).items():
            weight = state.get(f"{name}.conv.{own}")
            if weight is None or tuple(weight.shape) != wanted:
                found = None if weight is None else tuple(weight.shape)
                raise ValueError(f"the weights of {name} have shape {found}, not {wanted} as the architecture says")
    if architecture.hidden:
        dense, wanted_dense = state.get("head.dense.weight"), (architecture.n_outputs, architecture.hidden)
        if dense is None or tuple(dense.shape) != wanted_dense:
            raise ValueError(f"the last layer does not have the shape {wanted_dense}, as the architecture says")
    network = EquivariantNetwork(architecture)
    network.load_state_dict(dict(state))
    return network.eval()


@torch.no_grad()
def inherit(parent: EquivariantNetwork, architecture: Architecture) -> EquivariantNetwork:
    """A child network with other constraints that takes over the parent's weights.

    Each layer is relaxed where its new constraint is contained in the old one, which keeps its function, and
    otherwise projected onto the new constraint.
    """
    free: dict[str, Any] = {"constraints": (), "averaged": None, "skips": False, "mixing": "shares"}
    if replace(architecture, **free) != replace(parent.architecture, **free):
        raise ValueError(
            f"A network of {parent.architecture!r} cannot give its weights to {architecture!r}: other shape."
        )
    parameter = next(parent.parameters())
    child = EquivariantNetwork(architecture, torch.Generator()).to(parameter.device, parameter.dtype)
    for source, target in zip((*parent.blocks, parent.head), (*child.blocks, child.head), strict=True):
        target.inherit(source)
    return child.train(parent.training)


def relax(network: EquivariantNetwork, layer: int, subgroup: Subgroup) -> EquivariantNetwork:
    """The equivariance relaxation morphism: a child with one layer relaxed that computes the same function.

    Parameters
    ----------
    network : EquivariantNetwork
        The parent. It is left as it is.
    layer : int
        Which layer to relax: 0 is the first, -1 the head.
    subgroup : Subgroup
        A subgroup of the layer's constraint.

    References
    ----------
    Maile, Wilson and Forré, Equivariance-aware Architectural Optimization of Neural Networks, ICLR 2023.

    Examples
    --------
    >>> import torch
    >>> from skequinas.groups import PointGroup
    >>> from skequinas.nn import Architecture, EquivariantNetwork, relax
    >>> D4 = PointGroup.from_name("D4")
    >>> parent = EquivariantNetwork(Architecture(D4, 9, 1, 2, (2, 2), (3, 3), (True, False)))
    >>> child = relax(parent, -1, D4.subgroup("C4"))
    >>> x = torch.randn(5, 1, 9, 9)
    >>> torch.allclose(parent(x), child(x))
    True
    """
    return inherit(network, network.architecture.relaxed(layer, subgroup))
