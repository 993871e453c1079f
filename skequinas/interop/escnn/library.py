"""The one file that imports escnn; what has to be mended in it (version 1.0.11) is mended here, at the import."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Memory

try:
    import escnn.group._clebsh_gordan as _clebsch_gordan
    import escnn.group._numerical as _numerical
    import escnn.group.irrep as _irrep
    from escnn import gspaces
    from escnn import nn as enn
    from escnn.group import O2, CyclicGroup, DihedralGroup, Group, Representation
    from escnn.nn.modules.conv.r2convolution import _manual_fco1 as highest_frequency
except ImportError as error:
    raise ImportError(
        "skequinas.interop.escnn needs escnn, which needs NumPy 1 and, to be installed, a Fortran compiler: "
        "pip install 'skequinas[escnn]'."
    ) from error

__all__ = [
    "CyclicGroup",
    "DihedralGroup",
    "Group",
    "Representation",
    "enn",
    "gspaces",
    "highest_frequency",
]

# escnn hands scikit-learn's randomized_svd an np.matrix, which current versions refuse: nothing with a dihedral group
# can be built. It also draws from NumPy's global generator, so that kernel bases differ from run to run. Without it
# escnn falls back on scipy.linalg.svd, which takes the matrix and is exact and deterministic.
_numerical.randomized_svd = None


def _private_cache() -> str:
    """A folder of the user's for what escnn computes once."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(root) / "skequinas" / "escnn"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return tempfile.mkdtemp(prefix="skequinas-escnn-")
    return str(folder)


_memory = Memory(_private_cache(), verbose=0)


def _kept(cached: Any) -> Callable[..., Any]:
    """What escnn computes once and keeps: kept elsewhere, and computed with random numbers of its own."""
    own = _memory.cache(cached.func)

    @wraps(cached.func)
    def call(*args: Any, **options: Any) -> Any:
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        try:
            return own(*args, **options)
        finally:
            np.random.set_state(state)  # noqa: NPY002

    return call


# escnn keeps what it computes in its own folder in site-packages, which may be read-only, and where results may lie
# that the random method gave; and it samples groups with NumPy's global generator. From here on the results are kept in
# a folder of the user's, and that generator is left alone.
_clebsch_gordan._clebsh_gordan_tensor = _kept(_clebsch_gordan._clebsh_gordan_tensor)
_clebsch_gordan._find_tensor_decomposition = _kept(_clebsch_gordan._find_tensor_decomposition)
_irrep._restrict_irrep = _kept(_irrep._restrict_irrep)

_process_subgroup_id = O2._process_subgroup_id


def _axis_within_a_turn(group: O2, subgroup: Any) -> Any:
    """The id of a subgroup of O(2) with the angle of its axis in the range that O(2) takes."""
    axis, *rest = _process_subgroup_id(group, subgroup)
    return (axis if axis is None else axis % (2 * np.pi), *rest)


# The space of a dihedral group refuses restrictions to some of its mirrors: it adds angles up to more than 2 pi.
O2._process_subgroup_id = _axis_within_a_turn
