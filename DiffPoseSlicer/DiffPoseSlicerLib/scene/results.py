"""What a registration leaves in the scene: kept on the fluoroscopy's record, accepted, undone, written to files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from ..errors import InputError
from ..geometry.files import write_json
from ..geometry.se3 import Array, inverse
from .fluoroscopy import browser_of, record
from .nodes import get_data, refer, referenced, set_data
from .placement import find_transform, get_ct_to_world, set_ct_to_world, transform_from_pose

RESULT, HISTORY, ACCEPTED, BEFORE, RESULT_CT = "result", "history", "accepted", "before", "resultCT"
FRAME = "resultFrame"


def frame_of(fluoroscopy: Any) -> int:
    """Which frame of a run is shown; 0 for a single image."""
    browser = browser_of(fluoroscopy)[0]
    return 0 if browser is None else int(browser.GetSelectedItemNumber())


def keep_result(fluoroscopy: Any, ct: Any, result: dict[str, Any], history: list[dict[str, Any]]) -> None:
    """Store a result (the content of result.json) and its iterations on a fluoroscopy."""
    node = record(fluoroscopy)
    set_data(node, RESULT, result)
    set_data(node, HISTORY, history)
    set_data(node, ACCEPTED, None)
    set_data(node, FRAME, frame_of(fluoroscopy))
    refer(node, RESULT_CT, ct)


def get_result(fluoroscopy: Any, ct: Any = None) -> dict[str, Any] | None:
    """The last result of a fluoroscopy (relative to `ct`, where one is given), or None; also for another frame."""
    node = record(fluoroscopy)
    if get_data(node, FRAME) not in (None, frame_of(fluoroscopy)):
        return None
    if ct is not None and referenced(node, RESULT_CT) is not ct:
        return None
    result = get_data(node, RESULT)
    return result if isinstance(result, dict) and result.get("views") else None


def get_history(fluoroscopy: Any) -> list[dict[str, Any]]:
    """The iterations of the last result, as progress events told them."""
    return get_data(record(fluoroscopy), HISTORY) or []


def forget_result(fluoroscopy: Any) -> None:
    """Take the result off a fluoroscopy."""
    node = record(fluoroscopy)
    for key in (RESULT, HISTORY, ACCEPTED, FRAME):
        set_data(node, key, None)
    refer(node, RESULT_CT, None)


def remember_place(transform: Any) -> None:
    """Note where a "CT to C-arm" transform stands, for :func:`undo`."""
    set_data(transform, BEFORE, get_ct_to_world(transform).tolist())


def can_undo(ct: Any) -> bool:
    """Whether there is a place to go back to."""
    transform = find_transform(ct)
    return transform is not None and get_data(transform, BEFORE) is not None


def undo(fluoroscopy: Any, ct: Any) -> Array | None:
    """Put the CT back where it stood before the last registration and forget its result. The matrix, or None."""
    transform = find_transform(ct)
    before = get_data(transform, BEFORE) if transform is not None else None
    if before is None:
        return None
    matrix = np.array(before, float)
    set_ct_to_world(transform, matrix)
    set_data(transform, BEFORE, None)
    forget_result(fluoroscopy)
    return matrix


def take_hypothesis(fluoroscopy: Any, ct: Any, index: int) -> None:
    """Make another of the poses that fit the result; the best one changes places with it.

    Raises:
        InputError: there is no such pose.
    """
    result = get_result(fluoroscopy, ct)
    poses = list(result.get("hypotheses", ())) if result is not None else []
    if result is None or not 0 <= index < len(poses):
        raise InputError("There is no such pose: register first.")
    best = np.array(result["views"][0]["cameraToRAS"], float)
    chosen = np.array(poses[index]["cameraToRAS"], float)
    poses[0], poses[index] = poses[index], poses[0]
    # The views stand to each other as they did.
    views = [
        view | {"cameraToRAS": (chosen @ inverse(best) @ view["cameraToRAS"]).tolist()} for view in result["views"]
    ]
    place = transform_from_pose(chosen, np.array(result["c0"], float))
    set_data(record(fluoroscopy), RESULT, result | {"views": views, "hypotheses": poses, "ctToWorld": place.tolist()})


def accept(fluoroscopy: Any, ct: Any) -> None:
    """Take a result as it is: what was before is forgotten.

    Raises:
        InputError: there is no result.
    """
    if get_result(fluoroscopy, ct) is None:
        raise InputError("There is no result to accept: register first.")
    set_data(record(fluoroscopy), ACCEPTED, True)
    set_data(find_transform(ct), BEFORE, None)


def is_accepted(fluoroscopy: Any) -> bool:
    """Whether the last result was accepted."""
    return bool(get_data(record(fluoroscopy), ACCEPTED))


def export(fluoroscopy: Any, ct: Any, path: str | os.PathLike[str]) -> list[Path]:
    """Write the result: `path` ending in .json as result.json; .h5, .tfm or .mat as an ITK transform. The files.

    The transform maps the CT's own place to where it lies under the C-arm, as the node in the scene does.

    Raises:
        InputError: no result, or a file that cannot be written.
    """
    result, path = get_result(fluoroscopy, ct), Path(path)
    if result is None:
        raise InputError("There is no result to export: register first.")
    try:
        if path.suffix == ".json":
            write_json(path, result)
            return [path]
        if path.suffix not in (".h5", ".tfm", ".mat", ".txt"):
            raise InputError(f"The file {path.name} has an ending that is not known; use .json, .h5 or .tfm.")
        storage = slicer.vtkMRMLTransformStorageNode()
        storage.SetFileName(str(path))
        if not storage.WriteData(find_transform(ct)):
            raise OSError
    except OSError:
        raise InputError(f"The file {path.name} cannot be written; choose another folder.") from None
    return [path]
