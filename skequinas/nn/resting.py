"""Networks at rest: what compiled kernels are told of a stack of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from skequinas.nn.kernels.resting import KernelPart, RestingBlock, RestingBlocks, dense_part
from skequinas.nn.layers import EquivariantConv2d, OrbitConv2d
from skequinas.nn.norm import OrbitBatchNorm2d
from skequinas.nn.pooling import mean_over_moves
from skequinas.nn.streams import StreamedGroupConv2d, fields_of_stream
from skequinas.runtime.compiled import Compiled

__all__ = ["RestingNetwork", "resting_blocks"]


class _Block(Protocol):
    conv: EquivariantConv2d
    norm: OrbitBatchNorm2d
    pool: nn.Module


def resting_blocks(
    kernels: Compiled,
    blocks: Sequence[_Block],
    shortcuts: tuple[int, ...],
    *,
    maximum: bool = False,
    reduced: bool = False,
) -> RestingBlocks:
    """A stack of blocks in eval mode, packed for compiled kernels.

    Parameters
    ----------
    kernels : Compiled
    blocks : sequence of blocks
        Each a convolution, the batch norm behind it and pooling or an identity.
    shortcuts : tuple of int
        As in `skequinas.nn.Architecture`.
    maximum : bool
        Whether the largest value of every map is asked for, beside the mean.
    reduced : bool
        Whether what is multiplied is rounded to bfloat16.
    """
    told = []
    for block, shortcut in zip(blocks, shortcuts, strict=True):
        slope, shift = block.norm.slope_and_shift(block.conv.offset())
        pools = not isinstance(block.pool, nn.Identity)
        told.append(RestingBlock(_parts(block.conv), slope, shift, block.conv.kernel_size, shortcut, pools))
    return RestingBlocks(kernels, blocks[0].conv.in_fields, told, maximum=maximum, reduced=reduced)


def _parts(conv: EquivariantConv2d) -> list[KernelPart]:
    """The parts of a convolution between images or fields and fields."""
    if isinstance(conv, OrbitConv2d):
        return [conv.part()]
    if not isinstance(conv, StreamedGroupConv2d):
        return [dense_part(conv.kernel())]
    n, order, parts = len(conv.each), conv.constraints[0].group.order, []
    for number, stream in enumerate(conv.each):
        of_fields = np.arange(max(conv.in_fields, conv.out_fields) * order, dtype=np.int32).reshape(-1, order)
        channels_in, channels_out = (
            of_fields[fields_of_stream(number, n, fields)].ravel() for fields in (conv.in_fields, conv.out_fields)
        )
        if not conv.regular_in:  # an image is given to all
            channels_in = np.arange(conv.in_fields, dtype=np.int32)
        own = stream.part()
        parts.append(own._replace(orbits_in=channels_in[own.orbits_in], orbits_out=channels_out[own.orbits_out]))
    return parts


class RestingNetwork(nn.Module):
    """A network in eval mode whose blocks compiled kernels do together, see `skequinas.nn.EquivariantNetwork.at_rest`.

    It is for use at once: its blocks have the weights of the time when they were packed, and it can neither be copied
    nor pickled. Hooks on layers are not called.

    Parameters
    ----------
    network : EquivariantNetwork
    blocks : RestingBlocks
        Of this network.
    """

    def __init__(self, network: Any, blocks: RestingBlocks) -> None:
        super().__init__()
        self.network, self.blocks = network, blocks
        self.eval()

    def features(self, x: Tensor) -> Tensor:
        """As those of the network."""
        inputs = self.network.inputs(x)
        takes = not self.network.training and self.blocks.takes(inputs)
        return self.blocks(inputs) if takes else self.network.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to (batch, n_outputs)."""

        def once(x: Tensor) -> Tensor:
            y: Tensor = self.network.head.outputs(self.features(x))
            return y

        averaged = self.network.architecture.averaged
        return once(x) if averaged is None else mean_over_moves(once, x, averaged)
