"""The compiled kernels, if the installation built any, and which of them this processor runs."""

from __future__ import annotations

import ctypes
import logging
import os
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["SWITCH", "Compiled", "Threads", "can_be_told", "check", "compiled", "load"]

_logger = logging.getLogger(__name__)

SWITCH = "SKEQUINAS_FUSED"
"""The environment variable that switches compiled kernels off, by the value 0, or names the only ones to use."""

_LAYOUT = 8
"""What both sides know of the jobs that are passed; the same as in ``threads.h``."""

_FOLDER = Path(__file__).parents[1] / "nn" / "kernels"

_CAPABILITIES = {"avx512": {"AVX512"}, "avx2": {"AVX2", "AVX512"}, "portable": None}
"""What torch says of a processor that runs them, the fastest first; None: any."""


class Threads(ctypes.Structure):
    """How many threads work, and who starts them: the same as in ``threads.h``."""

    _fields_ = (
        ("number", ctypes.c_int64),
        ("parallel", ctypes.c_void_p),
        ("next", ctypes.c_int64),
        ("failed", ctypes.c_int64),
    )


class Compiled(NamedTuple):
    """What was loaded.

    Parameters
    ----------
    instructions : str
        "avx512", "avx2" or "portable".
    functions : CDLL
    parallel : int or None
        The address of the function by which torch's own threads work, which would be in the way of others; None where
        it is not known.
    """

    instructions: str
    functions: ctypes.CDLL
    parallel: int | None

    @property
    def has_halves(self) -> bool:
        """Whether this processor has instructions for bfloat16, without which rounded products only take longer."""
        return self.instructions == "avx512" and bool(self.functions.skequinas_reduces())

    def threads(self) -> Threads:
        """As many as torch works with."""
        return Threads(torch.get_num_threads(), self.parallel)


def check(failed: int) -> None:
    """Raise an error where a compiled function could not do its work."""
    if failed:
        raise MemoryError("there is no memory left for a convolution.")


@cache
def compiled() -> Compiled | None:
    """The fastest kernels that were built and that this processor runs; None without any, or if switched off."""
    if os.environ.get(SWITCH) == "0":
        _logger.debug("compiled kernels are switched off by %s=0", SWITCH)
        return None
    wanted = os.environ.get(SWITCH)
    names = [wanted] if wanted in _CAPABILITIES else list(_CAPABILITIES)
    found = next(filter(None, map(load, names)), None)
    if found is None:
        _logger.debug("there are no compiled kernels: all convolutions are those of torch")
    else:
        _logger.debug("compiled kernels for %s", found.instructions)
    return found


@cache
def load(instructions: str) -> Compiled | None:
    """The kernels that were built for some instructions, if they were and this processor has these.

    Parameters
    ----------
    instructions : {"avx512", "avx2", "portable"}
    """
    wanted = _CAPABILITIES[instructions]
    paths = (_FOLDER / f"_{instructions}{suffix}" for suffix in EXTENSION_SUFFIXES)
    path = next((path for path in paths if path.exists()), None)
    if path is None or (wanted is not None and torch.backends.cpu.get_cpu_capability() not in wanted):
        return None
    try:
        functions = ctypes.CDLL(str(path))
        layout = functions.skequinas_layout()
    except (OSError, AttributeError) as error:
        _logger.debug("the compiled kernels %s cannot be loaded: %s", path, error)
        return None
    if layout != _LAYOUT:
        _logger.debug("the compiled kernels %s are of another version: install the package again", path)
        return None
    return Compiled(instructions, functions, _threads_of_torch())


def can_be_told(*tensors: Tensor, reduced: bool = False) -> bool:
    """Whether compiled functions, which are given addresses, can work with these: float32, in main memory, not empty.

    If reduced, they may be of bfloat16 too, and are given in float32 then.

    Not where operations are recorded or transformed and not done (tracing, compilation, `torch.func`).
    """
    dtypes = (torch.float32, torch.bfloat16) if reduced else (torch.float32,)
    return (
        all(
            type(t) in (Tensor, nn.Parameter) and t.dtype in dtypes and t.device.type == "cpu" and t.numel() > 0
            for t in tensors
        )
        and torch._C._get_tracing_state() is None
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def _threads_of_torch() -> int | None:
    """The address of ``GOMP_parallel`` in the library that torch has loaded."""
    try:
        lines = Path("/proc/self/maps").read_bytes().decode(errors="replace").splitlines()
        folder = str(Path(torch.__file__).parent)
        paths = {line.split(maxsplit=5)[-1].strip() for line in lines if "libgomp" in line}
        # a wheel of torch may bring its own, beside or within its folder
        own = sorted(paths, key=lambda path: (not path.startswith(folder), path))
        return ctypes.cast(ctypes.CDLL(own[0]).GOMP_parallel, ctypes.c_void_p).value if own else None
    except (OSError, AttributeError):
        return None
