"""The state of the process that a fit runs in: threads, gradient mode, default device. All of it is as before after it.

How many threads torch uses is the user's business (``torch.set_num_threads``), or that of joblib, whose process backend
gives every worker its share of the cores. Two cases need care, and there one thread is used:

* a worker thread of joblib (its threading backend), since torch would give every such thread all of the cores;
* a process forked after its parent had used torch's threads, where torch would wait for threads that were not forked.

One thing of the process is changed for good, by the first fit, and on Linux alone: the thresholds of glibc's memory
allocator, see `kept_memory`.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache

import torch
from joblib.parallel import get_active_backend

__all__ = ["fitting_state", "full_precision", "kept_memory", "no_autocast", "torch_threads", "worker_threads"]


def _is_forked_by_multiprocessing() -> bool:
    """Whether this process was forked; it may have inherited torch before this module was imported."""
    process = multiprocessing.current_process()
    if multiprocessing.parent_process() is None:
        return False
    method = getattr(process, "_start_method", None) or multiprocessing.get_start_method(allow_none=True)
    return method == "fork"


_IMPORTED_IN = None if _is_forked_by_multiprocessing() else os.getpid()


@contextmanager
def fitting_state() -> Iterator[None]:
    """Gradients on, no autocast, tensors on the CPU unless said otherwise, threads as in `worker_threads`.

    On GPUs cuDNN's algorithms are those that give the same results again.

    Afterwards all is as before.
    """
    elsewhere = torch.empty(0).device.type != "cpu"  # a device context slows every operation down
    device = torch.device("cpu") if elsewhere else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), device, no_autocast(), _repeatable(), worker_threads():
        yield


def _repeatable() -> AbstractContextManager[None]:
    return _cudnn("deterministic", True)


@contextmanager
def no_autocast() -> Iterator[None]:
    """No autocast while the context lasts."""
    with ExitStack() as stack:
        for device_type in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 in convolutions on GPUs, while the context lasts: torch allows it there, to three digits."""
    if not torch.cuda.is_available():
        yield
        return
    try:
        _ = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # somebody has set it by torch's newer interface, and so knows what it does
        yield
        return
    with _cudnn("allow_tf32", False):
        yield


_cudnn_lock = threading.Lock()
_cudnn_settings: dict[str, tuple[int, bool]] = {}
"""Of each setting that is changed how many contexts ask for it, and what it was before."""


@contextmanager
def _cudnn(name: str, value: bool) -> Iterator[None]:
    """A setting of cuDNN's for all threads, until the last of the contexts that ask for it ends."""
    with _cudnn_lock:
        n, before = _cudnn_settings.get(name, (0, getattr(torch.backends.cudnn, name)))
        _cudnn_settings[name] = n + 1, before
        setattr(torch.backends.cudnn, name, value)
    try:
        yield
    finally:
        with _cudnn_lock:
            n, before = _cudnn_settings.pop(name)
            if n > 1:
                _cudnn_settings[name] = n - 1, before
            else:
                setattr(torch.backends.cudnn, name, before)


@contextmanager
def worker_threads() -> Iterator[None]:
    """One thread in a worker thread of joblib and in a forked process, elsewhere as many as torch is set to."""
    one = _is_joblib_thread() or os.getpid() != _IMPORTED_IN
    with torch_threads(1 if one else torch.get_num_threads()):
        yield


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """So many threads of torch while the context lasts."""
    before = torch.get_num_threads()
    if n == before:
        yield
        return
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_joblib_thread() -> bool:
    nested = (get_active_backend()[0].nesting_level or 0) > 0
    return nested and threading.current_thread() is not threading.main_thread()


# of malloc.h: what it calls the thresholds, and the values that it comes to by itself when large blocks are freed
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20
_KEEP_ALL = 2**31 - 1

_lock = threading.Lock()
_keeping = 0


def _begin_anew() -> None:
    """In a forked process no fit is under way, whatever its parent was doing."""
    global _lock, _keeping, _cudnn_lock
    _lock, _keeping, _cudnn_lock = threading.Lock(), 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory in the process while the context lasts, for the next mini-batch to use again.

    A training step frees tens of megabytes and needs them again in the next. glibc hands them back to the system in
    between, which has to clear every page anew: up to a fifth of a step. Afterwards what is free is handed back, and
    the thresholds stay at the largest values to which glibc raises them by itself. What the user has set through the
    environment is left alone.
    """
    global _keeping
    libc = _glibc()
    if libc is None:
        yield
        return
    with _lock:
        _keeping += 1
        if _keeping == 1:
            libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
            libc.mallopt(_M_TRIM_THRESHOLD, _KEEP_ALL)
    try:
        yield
    finally:
        with _lock:
            _keeping -= 1
            if _keeping == 0:
                libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)
                libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, if its allocator is glibc's and nobody has set its thresholds."""
    if sys.platform != "linux" or sys.maxsize < 2**32 or "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        return None
    if any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")):
        return None
    try:
        return ctypes.CDLL(None) if os.confstr("CS_GNU_LIBC_VERSION") else None
    except (OSError, ValueError):
        return None
