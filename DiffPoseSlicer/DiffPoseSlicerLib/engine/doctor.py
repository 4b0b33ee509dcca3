"""What this machine has and lacks, in words."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import platform
import sys

import numpy as np

from .. import __version__
from ..errors import InputError

# package, module, what it is for
_PACKAGES = (
    ("numpy", "numpy", "everything"),
    ("SimpleITK", "SimpleITK", "reading CTs and images"),
    ("pydicom", "pydicom", "reading DICOM"),
    ("warp-lang", "warp", "fast rendering on all cores and on GPUs"),
    ("torch", "torch", "preparing a model and using it"),
    ("safetensors", "safetensors", "storing a model"),
)


def machine() -> list[str]:
    """One line a fact: system, packages, GPUs, and what will render."""
    lines = [
        f"DiffPoseSlicer   {__version__}",
        f"system           {platform.system()} {platform.release()} {platform.machine()}",
        f"Python           {platform.python_version()} ({platform.architecture()[0]})",
        f"cores            {_cores()}",
        f"memory           {_memory()}",
    ]
    lines += [f"{name:<16} {_package(name, module, purpose)}" for name, module, purpose in _PACKAGES]
    lines.append(f"GPU for torch    {_torch_gpus()}")
    lines.append(f"renderer         {_renderer()}")
    return lines


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def _memory() -> str:
    size = _memory_bytes()
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"


def _memory_bytes() -> int | None:
    if sys.platform == "win32":
        status = (ctypes.c_uint64 * 8)()  # MEMORYSTATUSEX: two 32-bit numbers (length, load), then total and others
        ctypes.cast(status, ctypes.POINTER(ctypes.c_uint32))[0] = 64
        return int(status[1]) if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _package(name: str, module: str, purpose: str) -> str:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"missing: needed for {purpose}"
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken installation fails in many ways
        return f"{version}, but it does not load ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
    return version


def _torch_gpus() -> str:
    try:
        torch = importlib.import_module("torch")
        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    except Exception:  # as above
        names = []
    return ", ".join(f"cuda:{n} {name}" for n, name in enumerate(names)) or "none"


def _renderer() -> str:
    """What renders here, found out by making a renderer for a tiny volume."""
    from ..imaging.ct import CTVolume
    from ..rendering.renderer import Projector

    try:
        grid = CTVolume.from_array(np.zeros((4, 4, 4), np.int16), np.eye(4)).level(0.0)
        projector = Projector(grid)
    except ImportError:
        return "none: install warp-lang (or torch, which is slower)"
    except InputError as error:
        return f"none: {error}"
    speed = "" if projector.backend == "warp" else " (slow: install warp-lang to use all of this machine)"
    return f"{projector.backend} on {projector.device}{speed}"
