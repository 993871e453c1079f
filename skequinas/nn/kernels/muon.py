"""A step of Muon with all kernels of a network, in one call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skequinas.nn.blocks import KernelBlocks, kernel_blocks
from skequinas.nn.filters import KernelSpace, OrbitTables
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


class _Sparse(ctypes.Structure):
    """The same as in ``muon.cpp``, as the two below."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("starts", "indices", "factors"))


class _Kernel(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "gradient", "momentum", "norms")),
        *((name, ctypes.c_int64) for name in ("n_free", "n_out", "n_in", "n_parts")),
        ("parts", ctypes.c_void_p),
        ("to_blocks", _Sparse),
        ("from_blocks", _Sparse),
        ("n_shapes", ctypes.c_int64),
        ("shapes", ctypes.c_void_p),
    )


class _Job(ctypes.Structure):
    _fields_ = (
        ("kernels", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("rate", ctypes.c_float),
        ("momentum", ctypes.c_float),
        ("threads", Threads),
    )


class _Tables(NamedTuple):
    """What is told of spaces, and what holds the arrays."""

    to_blocks: _Sparse
    from_blocks: _Sparse
    parts: NDArray[np.int64]
    shapes: NDArray[np.int64]
    kept: Any


@cache
def _tables(spaces: tuple[KernelSpace, ...]) -> _Tables:
    blocks: KernelBlocks = kernel_blocks(spaces)
    kept: list[NDArray[Any]] = []

    def sparse(tables: OrbitTables | None) -> _Sparse:
        if tables is None:
            return _Sparse()
        indices = tables.orbits.numpy()
        starts = np.append(tables.orbit_starts.numpy(), np.int32(len(indices)))
        kept.extend([indices, starts])
        factors = tables.orbit_factors
        if factors is not None:
            kept.append(factors.numpy().astype(np.float32))
        at = None if factors is None else kept[-1].ctypes.data
        return _Sparse(starts.ctypes.data, indices.ctypes.data, at)

    return _Tables(
        sparse(blocks.forward_tables),
        sparse(blocks.backward_tables),
        np.array([space.n_free for space in spaces]),
        np.array(blocks.shapes, dtype=np.int64),
        kept,
    )


def can_turn(kernels: Sequence[TurnedKernel]) -> bool:
    """Whether all is in single precision and in main memory, and no block is large."""
    return all(_is_plain(kernel) and _largest(kernel) <= _LARGEST for kernel in kernels)


def _is_plain(kernel: TurnedKernel) -> bool:
    tensors = kernel.weight, kernel.gradient, kernel.momentum, kernel.norms
    return all(t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors)


def _largest(kernel: TurnedKernel) -> int:
    _, n_out, n_in = kernel.weight.shape
    return max(min(s.rows * n_out, s.columns * n_in) for s in kernel_blocks(kernel.spaces).shapes)


def turn(compiled: Compiled, kernels: Sequence[TurnedKernel], rate: float, momentum: float) -> None:
    """Turn each part of each kernel by a rate, along the polar factors of the blocks of its Nesterov momentum.

    Weights and momenta are changed in place.
    """
    told = (_Kernel * len(kernels))()
    kept = [_tables(kernel.spaces) for kernel in kernels]  # their addresses are all that is told
    for own, kernel, tables in zip(told, kernels, kept, strict=True):
        own.weight, own.gradient = kernel.weight.data_ptr(), kernel.gradient.data_ptr()
        own.momentum, own.norms = kernel.momentum.data_ptr(), kernel.norms.data_ptr()
        own.n_free, own.n_out, own.n_in = kernel.weight.shape
        own.n_parts, own.parts = len(tables.parts), tables.parts.ctypes.data
        own.to_blocks, own.from_blocks = tables.to_blocks, tables.from_blocks
        own.n_shapes, own.shapes = len(tables.shapes), tables.shapes.ctypes.data
    job = _Job(ctypes.addressof(told), len(kernels), rate, momentum, compiled.threads())
    check(compiled.functions.skequinas_muon(ctypes.byref(job)))
    for kernel in kernels:
        torch.autograd.graph.increment_version(kernel.weight)  # as torch's own changes in place do
        torch.autograd.graph.increment_version(kernel.momentum)
