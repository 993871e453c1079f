"""The devices that torch can use here."""

from __future__ import annotations

import torch

from skequinas.runtime.parallel import processes

__all__ = ["is_out_of_memory", "resolve_device"]

_SHORT_OF_MEMORY = "DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"
"""In errors that torch has no class for."""


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of that name, a CPU or CUDA one; "auto" is CUDA when it is available, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        if resolved.type not in ("cpu", "cuda"):
            raise NotImplementedError("only 'cpu' and 'cuda' devices are supported")
        torch.zeros(1, device=resolved).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]  # CUDA's errors go on with advice for programmers
        raise ValueError(f"device={device!r} is not available ({reason}). Use 'auto' or 'cpu'.") from error
    return resolved


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on a CPU or a GPU; then what a GPU's cache holds is freed.

    Inside of `data_parallel` it is an error as others, since the other processes do not know of it.
    """
    if processes() is not None:
        return False
    short = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _SHORT_OF_MEMORY)
    )
    if short and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return short
