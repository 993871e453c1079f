"""The state of the process that a fit runs in: threads, gradient mode, default device. All of it is as before after it.

How many threads torch uses is the user's business (``torch.set_num_threads``), or that of joblib, whose process backend
gives every worker its share of the cores. Two cases need care, and there one thread is used:

* a worker thread of joblib (its threading backend), since torch would give every such thread all of the cores;
* a process forked after its parent had used torch's threads, where torch would wait for threads that were not forked.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from joblib.parallel import get_active_backend

__all__ = ["fitting_state", "worker_threads"]


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
    """Gradients on, tensors on the CPU unless said otherwise, threads as in `worker_threads`; afterwards as before."""
    elsewhere = torch.empty(0).device.type != "cpu"  # a device context slows every operation down
    device = torch.device("cpu") if elsewhere else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), device, worker_threads():
        yield


@contextmanager
def worker_threads() -> Iterator[None]:
    """One thread in a worker thread of joblib and in a forked process, elsewhere as many as torch is set to."""
    before = torch.get_num_threads()
    if before == 1 or not (_is_joblib_thread() or os.getpid() != _IMPORTED_IN):
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_joblib_thread() -> bool:
    nested = (get_active_backend()[0].nesting_level or 0) > 0
    return nested and threading.current_thread() is not threading.main_thread()
