"""What is installed here, for reports of problems."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version

import torch

from skequinas.runtime.compiled import compiled

__all__ = ["show_versions"]

_EXTRAS = ("matplotlib", "pandas", "polars", "onnx", "onnxscript", "onnxruntime", "escnn")


def show_versions() -> None:
    """Print the versions of Python, skequinas and what it builds on, and what torch can use here.

    Examples
    --------
    >>> import skequinas
    >>> skequinas.show_versions()  # doctest: +ELLIPSIS
    System
    ...
    """
    lines = ["System", f"  python: {sys.version.splitlines()[0]}", f"  executable: {sys.executable}"]
    lines += [f"  machine: {platform.platform()}", "", "Packages"]
    lines += [f"  {name}: {installed_version(name)}" for name in ("skequinas", *_required(), *_EXTRAS)]
    cuda = (
        f"{torch.version.cuda}, {torch.cuda.device_count()} devices" if torch.cuda.is_available() else "not available"
    )
    lines += ["", "torch", f"  threads: {torch.get_num_threads()}", f"  CUDA: {cuda}"]
    lines += [f"  instructions: {torch.backends.cpu.get_cpu_capability()}"]
    kernels = compiled()
    lines += ["", f"Compiled kernels: {'none' if kernels is None else kernels.instructions}"]
    sys.stdout.write("\n".join(lines) + "\n")


def _required() -> list[str]:
    """The packages that skequinas needs, by name."""
    try:
        needed = [r for r in requires("skequinas") or () if "extra ==" not in r]
    except PackageNotFoundError:  # run from a checkout that is not installed
        return ["torch", "scikit-learn", "numpy"]
    return [r.split(">")[0].split("<")[0].split("=")[0].strip() for r in needed]


def installed_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
