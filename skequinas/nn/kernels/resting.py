"""A stack of blocks at rest, from images to statistics of the last maps, by compiled kernels.

A few images pass through all layers before the next ones begin, so that maps stay in the caches of a processor. Batch
norm is part of the kernels, which are packed once; shortcuts, the rectifier and pooling are done as maps are written.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skequinas.runtime.compiled import Compiled, Threads, can_be_told, check

__all__ = ["KernelPart", "RestingBlock", "RestingBlocks", "dense_part"]

_NO_SYMMETRY = 4
"""The kind of a part that no subgroup constrains."""

_FEW = 32
"""Products for an output, as in a first layer, up to which nothing is rounded."""


class KernelPart(NamedTuple):
    """A convolution that gives some channels of a layer, constrained to a subgroup.

    Parameters
    ----------
    kind : int
        Of the subgroup, as compiled kernels number them.
    kernel : Tensor of shape (fields_out, fields_in, taps, order)
        Its rows that belong to the first channel of each orbit that comes out; fields are orbits of channels here.
    orbits_in, orbits_out : ndarray of shape (fields, order)
        Channels.
    steps : ndarray of shape (taps, order, 2)
        From a position to where each moved tap reads, down and right.
    """

    kind: int
    kernel: Tensor
    orbits_in: NDArray[np.int32]
    orbits_out: NDArray[np.int32]
    steps: NDArray[np.int32]


def dense_part(kernel: Tensor) -> KernelPart:
    """That of an ordinary convolution, given its kernel (out, in, size, size)."""
    n_out, n_in, size = kernel.shape[:3]
    steps = np.indices((size, size), np.int32).reshape(2, -1, 1).T - size // 2
    orbits_in, orbits_out = (np.arange(n, dtype=np.int32)[:, None] for n in (n_in, n_out))
    return KernelPart(_NO_SYMMETRY, kernel.flatten(2)[..., None], orbits_in, orbits_out, steps.transpose(1, 0, 2))


class RestingBlock(NamedTuple):
    """A block: a convolution in parts, an affine map of its outputs, a shortcut, the rectifier and pooling.

    Parameters
    ----------
    parts : list of KernelPart
        Of which each channel belongs to one.
    slope, shift : Tensor of shape (channels,)
        The affine map, of which there is one for the channels of an orbit.
    size : int
        The side of the kernel.
    shortcut : int
        Over how many blocks, this one included, a shortcut reaches that ends here; 0 where there is none.
    pool : bool
    """

    parts: list[KernelPart]
    slope: Tensor
    shift: Tensor
    size: int
    shortcut: int
    pool: bool


class _Part(ctypes.Structure):
    """The same as in ``resting.cpp``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("kind", "taps", "fields_in", "fields_out")),
        *((name, ctypes.c_void_p) for name in ("orbits_in", "orbits_out", "steps", "kernel", "level", "blocks")),
        ("reduced", ctypes.c_int64),
    )


class _Layer(ctypes.Structure):
    """The same as in ``resting.cpp``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("channels", "half", "shortcut", "shortcut_channels", "halve", "n_parts")),
        ("parts", ctypes.POINTER(_Part)),
    )


class _Job(ctypes.Structure):
    """The same as in ``resting.cpp``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "channels", "height", "width")),
        *((name, ctypes.c_int64) for name in ("together", "maximum", "n_layers")),
        ("layers", ctypes.POINTER(_Layer)),
        *((name, ctypes.c_void_p) for name in ("x", "y")),
        ("threads", Threads),
        ("prepared", ctypes.c_void_p),
    )


class RestingBlocks:
    """The function of a stack of blocks, whose kernels are packed once.

    Parameters
    ----------
    kernels : Compiled
    in_channels : int
    blocks : list of RestingBlock
    maximum : bool
        Whether the largest value of every map follows the mean.
    reduced : bool
        Whether what is multiplied is rounded to bfloat16, after the transforms.
    """

    def __init__(
        self,
        kernels: Compiled,
        in_channels: int,
        blocks: list[RestingBlock],
        *,
        maximum: bool = False,
        reduced: bool = False,
    ) -> None:
        self.kernels, self.in_channels, self.maximum, self.reduced = kernels, in_channels, maximum, reduced
        kernels.functions.skequinas_packed_size.restype = ctypes.c_int64
        channels = [in_channels, *(len(block.slope) for block in blocks)]
        self.out_channels = channels[-1]
        self._kept: list[object] = []  # what the structures hold the addresses of
        layers = []
        for number, block in enumerate(blocks):
            parts = (_Part * len(block.parts))(*(self._packed(part, block) for part in block.parts))
            shortcut_channels = channels[number - block.shortcut + 1] if block.shortcut else 0
            shape = channels[number + 1], block.size // 2, block.shortcut, shortcut_channels, block.pool
            layers.append(_Layer(*shape, len(parts), parts))
        self._layers = (_Layer * len(layers))(*layers)

    def _packed(self, part: KernelPart, block: RestingBlock) -> _Part:
        """A part whose kernel, times the slope of each orbit, is packed."""
        first = torch.from_numpy(part.orbits_out[:, 0].astype(np.int64))
        kernel = (part.kernel * block.slope[first].reshape(-1, 1, 1, 1)).float().contiguous()
        level = block.shift[first].float().contiguous()
        tables = [np.ascontiguousarray(table) for table in (part.orbits_in, part.orbits_out, part.steps)]
        n_out, n_in, n_taps, _ = kernel.shape
        told = _Part(part.kind, n_taps, n_in, n_out, *(table.ctypes.data for table in tables))
        functions = self.kernels.functions
        told.reduced = self.reduced and n_in * n_taps > _FEW
        size = functions.skequinas_packed_size(ctypes.byref(told))
        blocks = torch.empty(size, dtype=torch.int32, device=kernel.device)
        told.kernel, told.level, told.blocks = kernel.data_ptr(), level.data_ptr(), blocks.data_ptr()
        functions.skequinas_pack(ctypes.byref(told))
        self._kept += [tables, level, blocks]
        return told

    def takes(self, x: Tensor) -> bool:
        """Whether it can be done here."""
        at_rest = not torch.is_grad_enabled()
        return at_rest and can_be_told(x) and x.dim() == 4 and x.shape[1] == self.in_channels

    def __call__(self, x: Tensor, together: int = 0) -> Tensor:
        """From images (n, channels, height, width) to the means of the last maps (n, channels), or twice as many.

        What is computed for an image does not depend on the others, or on how many are worked on ``together``: a power
        of two, at most as many as a vector has lanes; 0 for as many as suits them.
        """
        x = x.contiguous()
        y = x.new_empty(len(x), self.out_channels * (2 if self.maximum else 1))
        job = _Job(*x.shape, together, self.maximum, len(self._layers), self._layers, x.data_ptr(), y.data_ptr())
        job.threads = self.kernels.threads()
        check(self.kernels.functions.skequinas_rest(ctypes.byref(job)))
        return y
