r"""Constrained convolutions in the Fourier basis of their subgroup, by compiled kernels where there are any.

A subgroup H of D4 acts freely on the channels of a field, so that channels come in orbits (j, h). With the kernel's
first rows :math:`w[o, i, k, t] = K[(o, e), (i, k), t]` and the orbits of what a patch holds,
:math:`z_p[i, s, g] = x_{p + g s}[i, g]`, a constrained convolution is one on the group,

.. math:: y_p[o, h] = \sum_{i, s, k} v[o, i, s, k] \, z_p[i, s, h k], \quad v[o, i, s, k] = w[o, i, k, k s] ,

and so a product of small matrices for each irreducible representation :math:`\rho`: with
:math:`\hat z_\rho = \sum_g z[g] \rho(g)` and :math:`\hat v_\rho` alike, :math:`\hat y_\rho = \sum \hat z_\rho \hat
v_\rho^T`. That takes :math:`\sum d_\rho^3` multiplications for each pair of orbits, where the dense kernel takes
:math:`|H|^2`: 12 for 64 under D4, 4 for 16 under D2, 2 for 4 under C2 and D1; and 6 for 16 under C4, whose pair of
complex conjugates is one matrix, of which one row gives the other. The gradient by the
input is such a convolution too, of the kernel's transpose; the gradient by v is a sum of products in the same basis.

Of a subgroup of a finer group, such as D8, it is the part that permutes pixels whose basis it is; v is then read from
the pixels of the kernel, as it is for other bases of filters.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from skequinas.groups import Subgroup, pixel_elements
from skequinas.nn.bases import HarmonicBasis, PixelBasis, moved_pixels
from skequinas.nn.filters import KernelSpace
from skequinas.nn.kernels.resting import KernelPart
from skequinas.runtime.compiled import Compiled, Threads, can_be_told, check, compiled, load

__all__ = ["FusedConvolution", "fused_convolution"]

_KINDS = {(2, False): 0, (1, True): 0, (2, True): 1, (4, False): 2, (4, True): 3}
"""Of subgroups, by their rotations and whether they have mirrors."""


class _Job(ctypes.Structure):
    """The same as in ``convolution.cpp``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("kind", "images", "height", "width", "taps", "half")),
        *((name, ctypes.c_int64) for name in ("fields_in", "fields_out", "channels_in", "channels_out", "reduced")),
        *((name, ctypes.c_void_p) for name in ("orbits_in", "orbits_out", "steps", "x", "y")),
        *((name, ctypes.c_void_p) for name in ("blocks", "slots", "gradient", "rows")),
        *((name, ctypes.c_int64) for name in ("cosets", "transposed")),
        ("threads", Threads),
    )


class _Tables(NamedTuple):
    """Of a kernel space: where the entries of v, and of the transpose's, stand in weights, and who moves where."""

    kind: int
    sampled: bool  # weights are the pixels of the whole kernel, and not free
    n_rows: int  # of the weights
    rows: Tensor  # (R * R * taps * order,), R cosets: no two alike
    transposed_rows: Tensor
    shape: tuple[int, int, int]  # cosets, taps, order
    orbits: NDArray[np.int32]  # (cosets, order): channels of a field
    steps: NDArray[np.int32]  # (taps, order, 2)


@cache
def _tables(space: KernelSpace) -> _Tables:
    """The tables of a space of kernels between fields, by those of its elements that permute pixels."""
    subgroup, size = on_pixels(space.constraint), space.basis.kernel_size
    group, elements, n_taps = subgroup.group, _sorted_elements(subgroup), size**2
    moved = np.empty((len(elements), n_taps), np.int64)
    for own, h in zip(moved, elements, strict=True):
        own[moved_pixels(size, group, h)] = np.arange(n_taps)
    first = np.array([min(coset) for coset in subgroup.right_cosets])
    sampled = type(space.basis) is not PixelBasis or subgroup != space.constraint
    free = np.arange(group.order**2 * n_taps)  # the place in the weights of each pixel of the kernel
    if not sampled:
        free[:] = -1
        free[space.representatives] = np.arange(space.n_free)
    inverse = [group.inverse(h) for h in elements]
    taps = np.arange(n_taps)

    def numbers(out: NDArray[np.int64], inputs: NDArray[np.int64], tap: NDArray[np.int64]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = free[(out * group.order + inputs) * n_taps + tap]
        assert (found >= 0).all()
        return found

    rows = numbers(first[:, None, None, None], group.table[elements][:, first].T[:, None], moved.T)
    transposed = numbers(
        first[:, None, None], group.table[inverse][:, first].T[:, None, None], (n_taps - 1 - taps)[:, None]
    )
    at = moved.T
    steps = np.stack([at // size - size // 2, at % size - size // 2], -1)
    return _Tables(
        _KINDS[subgroup.n_rotations, subgroup.mirror is not None],
        sampled,
        len(free) if sampled else space.n_free,
        torch.from_numpy(rows.ravel()),
        torch.from_numpy(transposed.ravel()),
        (len(first), n_taps, len(elements)),
        group.table[elements][:, first].T.astype(np.int32).copy(),
        steps.astype(np.int32).copy(),
    )


def on_pixels(subgroup: Subgroup) -> Subgroup:
    """The part of a subgroup that permutes pixels."""
    return subgroup.group.generate(set(pixel_elements(subgroup.group)).intersection(subgroup.elements))


def _sorted_elements(subgroup: Subgroup) -> list[int]:
    """The rotations by their angles, then each of them after one mirror."""
    group = subgroup.group
    turns = sorted((h for h in subgroup.elements if not group.is_mirror(h)), key=group.angle)
    mirror = next((h for h in subgroup.elements if group.is_mirror(h)), None)
    return turns if mirror is None else turns + [int(group.table[h, mirror]) for h in turns]


class FusedConvolution:
    """The convolution of layers whose kernels lie in one space, between fields.

    Parameters
    ----------
    space : KernelSpace
        Of kernels between regular types; its subgroup has an element besides the identity that permutes pixels.
    kernels : Compiled

    Attributes
    ----------
    sampled : bool
        Whether the weights that are told are the pixels of the whole kernel (see `KernelSpace.sampled_rows`), and not
        free ones: for other bases, and where the subgroup has elements that interpolate.
    """

    def __init__(self, space: KernelSpace, kernels: Compiled) -> None:
        self.space, self.kernels, self.tables = space, kernels, _tables(space)
        self.sampled = self.tables.sampled
        others = (load(name) for name in ("avx2", "portable"))  # the processor may know vectors of 16, but no bfloat16
        known = (k for k in (kernels, *others) if k is not None and k.functions.skequinas_reduces())
        self.reducing = next(known, None)
        self._known_orbits: dict[int, NDArray[np.int32]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return fused_convolution, (self.space,)  # elsewhere there may be other kernels, or none

    def takes(self, x: Tensor, weight: Tensor) -> bool:
        """Whether it is done here: in main memory, with weights in single precision, for enough images to fill vectors.

        Under autocast to bfloat16 maps may be of that type.
        Where no gradients are wanted any number will do, so that outputs do not depend on how many there are.
        """
        cosets, _, order = self.tables.shape
        autocast = torch.is_autocast_enabled("cpu")
        return (
            can_be_told(weight)
            and can_be_told(x, reduced=autocast)
            and x.dim() == 4
            and x.shape[1] == weight.shape[2] * cosets * order
            and (len(x) >= _FEWEST or not torch.is_grad_enabled())
            and (not autocast or (self.reducing is not None and torch.get_autocast_dtype("cpu") == torch.bfloat16))
        )

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve (n, in * |G|, height, width), given weights (rows, out, in), with zero padding.

        Under autocast what is multiplied is rounded to bfloat16, after the transforms; sums and maps are not.
        """
        y: Tensor = _Convolution.apply(x.float(), weight, self, torch.is_autocast_enabled("cpu"))
        return y

    def convolve(self, x: Tensor, weight: Tensor, *, transposed: bool = False, reduced: bool = False) -> Tensor:
        """The convolution with a kernel, or with its transpose, of rounded values if reduced."""
        _, n_out, n_in = weight.shape
        if transposed:
            n_out, n_in = n_in, n_out
        cosets, _, order = self.tables.shape
        x, weight = x.contiguous(memory_format=torch.channels_last), weight.contiguous()
        shape = len(x), n_out * cosets * order, *x.shape[2:]
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        job = self._job(x, y, n_in, n_out, transposed, reduced)
        check(self._functions(reduced).skequinas_convolve(ctypes.byref(job), ctypes.c_void_p(weight.data_ptr())))
        return y

    def correlate(self, x: Tensor, grad: Tensor, n_in: int, n_out: int, *, reduced: bool = False) -> Tensor:
        """The gradient by weights, given that by the outputs; of a whole kernel one row of each orbit has it all."""
        x, grad = (v.contiguous(memory_format=torch.channels_last) for v in (x, grad))
        make = x.new_zeros if self.sampled else x.new_empty
        gradient = make(self.tables.n_rows, n_out, n_in)
        job = self._job(x, grad, n_in, n_out, False, reduced)
        job.gradient = gradient.data_ptr()
        check(self._functions(reduced).skequinas_correlate(ctypes.byref(job)))
        return gradient

    def part(self, weight: Tensor) -> KernelPart:
        """The convolution as one of several parts of a layer at rest."""
        _, n_out, n_in = weight.shape
        cosets, n_taps, order = self.tables.shape
        entries = weight.index_select(0, self.tables.rows).view(cosets, cosets, n_taps, order, n_out, n_in)
        kernel = entries.permute(4, 0, 5, 1, 2, 3).reshape(n_out * cosets, n_in * cosets, n_taps, order)
        orbits_in, orbits_out = (self.orbits(n).reshape(-1, order) for n in (n_in, n_out))
        return KernelPart(self.tables.kind, kernel, orbits_in, orbits_out, self.tables.steps)

    def _functions(self, reduced: bool) -> ctypes.CDLL:
        found = self.reducing if reduced else self.kernels
        assert found is not None  # it was asked whether it takes this
        return found.functions

    def orbits(self, n_fields: int) -> NDArray[np.int32]:
        """The channels of each orbit of so many fields."""
        if n_fields not in self._known_orbits:
            cosets, _, order = self.tables.shape
            first = np.arange(n_fields, dtype=np.int32)[:, None, None] * np.int32(cosets * order)
            self._known_orbits[n_fields] = self.tables.orbits + first
        return self._known_orbits[n_fields]

    def _job(self, x: Tensor, y: Tensor, n_in: int, n_out: int, transposed: bool, reduced: bool) -> _Job:
        """What the compiled functions are told. It does not keep the tensors."""
        known = _shape_of_job(self, tuple(x.shape), n_in, n_out, transposed, reduced)
        job = _Job.from_buffer_copy(known)
        job.x, job.y, job.threads = x.data_ptr(), y.data_ptr(), self.kernels.threads()
        job.kept = known  # the addresses of tables are all that it holds
        return job


@lru_cache(maxsize=256)
def _shape_of_job(
    fused: FusedConvolution, shape: tuple[int, ...], n_in: int, n_out: int, transposed: bool, reduced: bool
) -> _Job:
    """What the compiled functions are told but for the maps."""
    n, _, height, width = shape
    cosets, n_taps, order = fused.tables.shape
    steps, orbits_in, orbits_out = fused.tables.steps, fused.orbits(n_in), fused.orbits(n_out)
    job = _Job(
        kind=fused.tables.kind,
        images=n,
        height=height,
        width=width,
        taps=n_taps,
        half=fused.space.basis.kernel_size // 2,
        fields_in=n_in * cosets,
        fields_out=n_out * cosets,
        channels_in=n_in * cosets * order,
        channels_out=n_out * cosets * order,
        reduced=reduced,
        orbits_in=orbits_in.ctypes.data,
        orbits_out=orbits_out.ctypes.data,
        steps=steps.ctypes.data,
        rows=(fused.tables.transposed_rows if transposed else fused.tables.rows).data_ptr(),
        cosets=cosets,
        transposed=transposed,
    )
    job.kept = orbits_in, orbits_out, steps
    return job


_FEWEST = 4
"""Images from which on it pays: eight or sixteen are worked on at once."""


@cache
def fused_convolution(space: KernelSpace) -> FusedConvolution | None:
    """That of a space, if there are compiled kernels and they know it."""
    kernels = compiled()
    known = (
        space.regular_in
        and space.regular_out
        and type(space.basis) in (PixelBasis, HarmonicBasis)
        and on_pixels(space.constraint).order > 1
    )
    return FusedConvolution(space, kernels) if known and kernels is not None else None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, fused: FusedConvolution, reduced: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.fused, ctx.reduced = fused, reduced
        return fused.convolve(x, weight, reduced=reduced)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.fused.convolve(grad, weight, transposed=True, reduced=ctx.reduced)
        if ctx.needs_input_grad[1]:
            grad_weight = ctx.fused.correlate(x, grad, weight.shape[2], weight.shape[1], reduced=ctx.reduced)
        return grad_x, grad_weight, None, None
