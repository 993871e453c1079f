"""Weighted sums of kernels that are constrained to several subgroups, and their gradients, in one call each."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skequinas.nn.filters import KernelSpace, orbit_tables
from skequinas.nn.kernels.sparse import Sparse, sparse
from skequinas.runtime.compiled import Compiled, Threads, can_be_told, check

__all__ = ["mix", "takes"]


class _Job(ctypes.Structure):
    """The same as in ``mixing.cpp``."""

    _fields_ = (
        ("forward", Sparse),
        ("backward", Sparse),
        *((name, ctypes.c_void_p) for name in ("sizes", "owner")),
        *((name, ctypes.c_int64) for name in ("n_parts", "width")),
        *((name, ctypes.c_void_p) for name in ("weights", "shares", "norms", "ratios", "factors")),
        *((name, ctypes.c_void_p) for name in ("rows", "gradient", "dweights", "dshares")),
        ("threads", Threads),
        *((name, ctypes.c_void_p) for name in ("along", "shrink")),
    )


class _Tables(NamedTuple):
    """What is told of spaces, and what holds the arrays."""

    job: _Job
    kept: Any


@cache
def _tables(spaces: tuple[KernelSpace, ...]) -> _Tables:
    tables = orbit_tables(spaces)
    sizes = np.array([space.n_free for space in spaces], dtype=np.int64)
    owner = np.repeat(np.arange(len(spaces), dtype=np.int32), sizes)
    (forward, backward), kept = zip(*map(sparse, (tables, tables.transposed())), strict=True)
    job = _Job(forward, backward, sizes.ctypes.data, owner.ctypes.data, len(spaces))
    return _Tables(job, (kept, sizes, owner))


def takes(spaces: tuple[KernelSpace, ...], weights: Tensor, shares: Tensor, norms: Tensor | None) -> bool:
    """Whether all is in single precision, in main memory, without gaps, and of the shapes that `mix` asks for."""
    each = (shares,) if norms is None else (shares, norms)
    return (
        can_be_told(weights, *each)
        and all(t.is_contiguous() for t in (weights, *each))
        and all(t.shape == (len(spaces),) for t in each)
        and weights.dim() == 3
        and weights.shape[0] == _tables(spaces).job.backward.n_rows
    )


def mix(
    kernels: Compiled, spaces: tuple[KernelSpace, ...], weights: Tensor, shares: Tensor, norms: Tensor | None
) -> Tensor:
    """A weighted sum of the coefficients of several spaces, as `skequinas.nn.filters.mix`.

    Parameters
    ----------
    kernels : Compiled
    spaces : tuple of KernelSpace
    weights : Tensor of shape (sum of n_free, out, in)
        The free weights of the spaces, one space after the other.
    shares : Tensor of shape (n_spaces,)
    norms : Tensor of shape (n_spaces,) or None
        To which the weights of each space are scaled; None leaves them as they are.
    """
    rows: Tensor = _Mix.apply(weights, shares, norms, spaces, kernels)
    return rows


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weights: Tensor,
        shares: Tensor,
        norms: Tensor | None,
        spaces: tuple[KernelSpace, ...],
        kernels: Compiled,
    ) -> Tensor:
        ratios, factors = torch.empty_like(shares), torch.empty_like(shares)
        ctx.save_for_backward(weights, shares, norms, ratios, factors)
        ctx.tables, ctx.kernels = _tables(spaces), kernels  # their addresses are all that is told
        job = _job(ctx, ctx.to_save)
        rows = weights.new_empty(job.forward.n_rows, *weights.shape[1:])
        job.rows = rows.data_ptr()
        check(kernels.functions.skequinas_mix(ctypes.byref(job)))
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        grad, dweights, dshares = grad.contiguous(), torch.empty_like(saved[0]), torch.empty_like(saved[1])
        job = _job(ctx, saved)
        job.gradient, job.dweights, job.dshares = grad.data_ptr(), dweights.data_ptr(), dshares.data_ptr()
        check(ctx.kernels.functions.skequinas_mix_backward(ctypes.byref(job)))
        return dweights, dshares, None, None, None


def _job(ctx: Any, tensors: tuple[Tensor | None, ...]) -> _Job:
    """What the compiled functions are told. It does not keep the tensors."""
    weights, shares, norms, ratios, factors = tensors
    assert weights is not None
    assert shares is not None
    assert ratios is not None
    assert factors is not None
    job = _Job.from_buffer_copy(ctx.tables.job)
    job.width = weights.shape[1] * weights.shape[2]
    job.weights, job.shares = weights.data_ptr(), shares.data_ptr()
    job.norms = None if norms is None else norms.data_ptr()
    job.ratios, job.factors = ratios.data_ptr(), factors.data_ptr()
    job.threads = ctx.kernels.threads()
    return job
