"""What compiled kernels are told of sparse matrices."""

from __future__ import annotations

import ctypes

import numpy as np

from skequinas.nn.filters import OrbitTables

__all__ = ["Sparse", "sparse"]


class Sparse(ctypes.Structure):
    """The same as in ``sparse.h``. It does not keep the arrays."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("starts", "indices", "factors")),
        ("n_rows", ctypes.c_int64),
    )


def sparse(tables: OrbitTables | None) -> tuple[Sparse, object]:
    """A matrix, given its rows and those of its transpose, with what holds its arrays; None is the identity."""
    if tables is None:
        return Sparse(), None
    indices, factors = tables.orbits.numpy(), tables.orbit_factors
    starts = np.append(tables.orbit_starts.numpy(), np.int32(len(indices)))
    own = None if factors is None else factors.numpy().astype(np.float32)
    at = None if own is None else own.ctypes.data
    return Sparse(starts.ctypes.data, indices.ctypes.data, at, len(starts) - 1), (starts, indices, own)
