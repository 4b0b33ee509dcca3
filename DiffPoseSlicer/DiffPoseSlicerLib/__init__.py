"""DiffPoseSlicer's library: the pose of a C-arm fluoroscopy relative to a CT.

The package is lazy (PEP 562): importing it loads neither torch nor warp; names are looked up on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "CArm": "geometry.carm",
    "CTVolume": "imaging.ct",
    "GeometryPriors": "registration.joint",
    "InputError": "errors",
    "LabelMap": "imaging.labels",
    "Pose": "geometry.pose",
    "PoseModel": "pretraining.model",
    "XrayImage": "imaging.xray",
    "pretrain": "pretraining.pretrain",
    "read_frames": "imaging.frames",
    "register": "registration.register",
    "register_structures": "registration.structures",
    "render": "rendering.renderer",
    "track": "registration.tracking",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
