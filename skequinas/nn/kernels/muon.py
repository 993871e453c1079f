"""A step of Muon with all kernels of a network, in one call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skequinas.nn.blocks import KernelBlocks, kernel_blocks
from skequinas.nn.filters import KernelSpace
from skequinas.nn.kernels.sparse import Sparse, sparse
from skequinas.runtime.compiled import Compiled, Threads, check

__all__ = ["TurnedKernel", "can_turn", "turn"]

_LARGEST = 256
"""Of the smaller sides of blocks: beyond it the products of torch are faster."""


class TurnedKernel(NamedTuple):
    """A kernel, and what it is turned by.

    Parameters
    ----------
    weight, gradient, momentum : Tensor of shape (n_free, out, in)
    norms : Tensor of shape (n_spaces,)
        Of the part of each space.
    spaces : tuple of KernelSpace
        Whose free weights the weights are, one space after the other.
    """

    weight: Tensor
    gradient: Tensor
    momentum: Tensor
    norms: Tensor
    spaces: tuple[KernelSpace, ...]


class _Part(ctypes.Structure):
    """The same as in ``muon.cpp``, as those below."""

    _fields_ = (
        ("n_free", ctypes.c_int64),
        ("to_blocks", Sparse),
        ("from_blocks", Sparse),
        ("n_shapes", ctypes.c_int64),
        ("shapes", ctypes.c_void_p),
    )


class _Kernel(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "gradient", "momentum", "norms", "parts")),
        *((name, ctypes.c_int64) for name in ("n_parts", "n_out", "n_in")),
    )


class _Job(ctypes.Structure):
    _fields_ = (
        ("kernels", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("rate", ctypes.c_float),
        ("momentum", ctypes.c_float),
        ("threads", Threads),
    )


@cache
def _part(space: KernelSpace) -> tuple[_Part, Any]:
    """What is told of a space, and what holds the arrays."""
    blocks: KernelBlocks = kernel_blocks((space,))
    shapes = np.array(blocks.shapes, dtype=np.int64)
    tables, kept = zip(*map(sparse, (blocks.forward_tables, blocks.backward_tables)), strict=True)
    return _Part(space.n_free, *tables, len(shapes), shapes.ctypes.data), (kept, shapes)


@cache
def _parts(spaces: tuple[KernelSpace, ...]) -> tuple[ctypes.Array[_Part], Any]:
    """That of several spaces."""
    parts, kept = zip(*map(_part, spaces), strict=True)
    return (_Part * len(parts))(*parts), kept


@cache
def _shapes(spaces: tuple[KernelSpace, ...]) -> tuple[tuple[int, int], ...]:
    """Rows and columns, for each pair of fields, of the blocks of several spaces."""
    found = {(shape.rows, shape.columns) for space in spaces for shape in kernel_blocks((space,)).shapes}
    return tuple(sorted(found))


def can_turn(kernels: Sequence[TurnedKernel]) -> bool:
    """Whether all is in single precision and in main memory, and no block is large."""
    return all(_is_plain(kernel) and _largest(kernel) <= _LARGEST for kernel in kernels)


def _is_plain(kernel: TurnedKernel) -> bool:
    tensors = kernel.weight, kernel.gradient, kernel.momentum, kernel.norms
    return all(t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors)


def _largest(kernel: TurnedKernel) -> int:
    _, n_out, n_in = kernel.weight.shape
    return max(min(rows * n_out, columns * n_in) for rows, columns in _shapes(kernel.spaces))


def turn(compiled: Compiled, kernels: Sequence[TurnedKernel], rate: float, momentum: float) -> None:
    """Turn each part of each kernel by a rate, along the polar factors of the blocks of its Nesterov momentum.

    Weights and momenta are changed in place.
    """
    told = (_Kernel * len(kernels))()
    kept = [_parts(kernel.spaces) for kernel in kernels]  # their addresses are all that is told
    for own, kernel, (parts, _) in zip(told, kernels, kept, strict=True):
        own.weight, own.gradient = kernel.weight.data_ptr(), kernel.gradient.data_ptr()
        own.momentum, own.norms = kernel.momentum.data_ptr(), kernel.norms.data_ptr()
        own.parts, own.n_parts = ctypes.addressof(parts), len(parts)
        own.n_out, own.n_in = kernel.weight.shape[1:]
    job = _Job(ctypes.addressof(told), len(kernels), rate, momentum, compiled.threads())
    check(compiled.functions.skequinas_muon(ctypes.byref(job)))
    for kernel in kernels:
        torch.autograd.graph.increment_version(kernel.weight)  # as torch's own changes in place do
        torch.autograd.graph.increment_version(kernel.momentum)
