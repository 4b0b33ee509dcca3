"""Camera calibrations from other programs: 3x4 projection matrices, K/R/t, and MayaCam 2.0 files.

All of them map world points in mm to pixels (column, row) with the centre of the first pixel at (0, 0) and rows
running down: x ~ K (R X + t). Their scale is in pixels: a source-to-detector distance is assumed (or given) and the
pixel spacing follows from it; registration does not depend on the choice.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.pose import Pose
from ..geometry.se3 import Array, inverse, nearest_rigid, rigid

NOMINAL_DISTANCE = 1000.0
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class Calibration:
    """A calibrated view.

    Attributes:
        carm: Its intrinsic geometry (the distance nominal, see the module's text).
        pose: Camera to the calibration's world (taken for RAS), or None where only intrinsics are given.
        notes: What was assumed, in sentences.
    """

    carm: CArm
    pose: Pose | None
    notes: tuple[str, ...]


def from_projection_matrix(
    matrix: ArrayLike, image_size: tuple[int, int], source_to_detector: float | None = None
) -> Calibration:
    """The camera of P (3, 4) ~ K [R | t], in any scale and sign.

    Raises:
        InputError: not 3x4, not finite, degenerate, or a camera with skewed pixels.
    """
    p = np.asarray(matrix, float)
    if p.shape != (3, 4) or not np.isfinite(p).all():
        raise InputError(f"A projection matrix is 3x4 numbers; this one has shape {p.shape}.")
    m = p[:, :3]
    scale = np.linalg.norm(m[2])
    if scale == 0 or abs(np.linalg.det(m / scale)) < 1e-9:
        raise InputError("The projection matrix has no inverse: it is not that of a point source.")
    p = p / scale
    mirrored = False
    if np.linalg.det(p[:, :3]) < 0:
        p = -p  # the sign of a projection matrix is free
    # RQ decomposition by QR of the flipped matrix.
    q, r = np.linalg.qr(p[::-1, :3].T)
    k, rotation = r.T[::-1, ::-1], q.T[::-1]
    sign = np.sign(np.diag(k))
    k, rotation = k * sign, sign[:, None] * rotation
    translation = np.linalg.solve(k, p[:, 3])
    k = k / k[2, 2]
    return from_krt(k, rotation, translation, image_size, source_to_detector, mirrored)


def from_krt(
    camera_matrix: ArrayLike,
    rotation: ArrayLike | None,
    translation: ArrayLike | None,
    image_size: tuple[int, int],
    source_to_detector: float | None = None,
    mirrored: bool = False,
) -> Calibration:
    """The camera of K (3, 3), R (3, 3) and t (3,); R and t may be None.

    Raises:
        InputError: shapes are wrong, pixels are skewed, R is no rotation, or what is seen lies behind the source.
    """
    k = np.asarray(camera_matrix, float)
    if k.shape != (3, 3) or not np.isfinite(k).all() or k[2, 2] == 0:
        raise InputError("A camera matrix K is 3x3 numbers ending in 0 0 1.")
    k = k / k[2, 2]
    if abs(k[1, 0]) + abs(k[2, 0]) + abs(k[2, 1]) > 1e-6 * abs(k[0, 0]) or min(abs(k[0, 0]), abs(k[1, 1])) < 1:
        raise InputError("The camera matrix K is not [fx s cx; 0 fy cy; 0 0 1] with focal lengths in pixels.")
    if abs(k[0, 1]) > 2e-3 * abs(k[0, 0]):
        raise InputError(f"The calibration's pixels are skewed by {k[0, 1]:.3g}: calibrate without skew.")
    notes = []
    flips = np.sign(np.diag(k)[:2])
    if flips[0] * flips[1] < 0:
        raise InputError(
            "The calibration mirrors the image (fx and fy differ in sign): calibrate the image unmirrored."
        )
    distance = source_to_detector or NOMINAL_DISTANCE
    if source_to_detector is None:
        notes.append(
            f"The distance to the detector was set to {distance:g} mm; the pixel spacing follows from the focal length."
        )
    spacing = (distance / abs(k[1, 1]), distance / abs(k[0, 0]))
    carm = CArm(distance, image_size, spacing, (k[0, 2], k[1, 2]), mirrored=mirrored)
    if rotation is None or translation is None:
        return Calibration(carm, None, tuple(notes))
    turn, shift = np.asarray(rotation, float), np.asarray(translation, float).ravel()
    if turn.shape != (3, 3) or shift.shape != (3,) or abs(turn @ turn.T - np.eye(3)).max() > 1e-2:
        raise InputError("R must be a 3x3 rotation and t three numbers in mm.")
    if np.linalg.det(turn) < 0:
        raise InputError("R mirrors space (its determinant is -1): the calibration is not that of a camera.")
    flip = np.diag([flips[0], flips[1], 1.0])
    camera = nearest_rigid(rigid(flip @ turn, flip @ shift))
    pose = Pose(inverse(camera))
    return Calibration(replace(carm, source_to_isocenter=_isocenter(camera, distance)), pose, tuple(notes))


def _isocenter(camera: Array, distance: float) -> float:
    """Depth of the world's origin if it lies between source and detector, else the usual fraction."""
    depth = float(camera[2, 3])
    return depth if 0.2 * distance < depth < distance else distance * 700 / 1020


def read_calibration(
    path: str | Path, image_size: tuple[int, int] | None = None, source_to_detector: float | None = None
) -> Calibration:
    """Read a MayaCam 2.0 file, a text file of 12 numbers (P), or JSON with "P" or with "K", "R" and "t".

    Args:
        path: The file.
        image_size: (rows, columns); needed where the file does not state it.
        source_to_detector: mm; default 1000, nominal.

    Raises:
        InputError: missing, not understood, or impossible; or the image size is not known.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"The calibration {path.name} does not exist; check the path.") from None
    except (OSError, UnicodeDecodeError):
        raise InputError(f"The calibration {path.name} cannot be read: it is no text file.") from None
    blocks = _json_blocks(text, path) if text.lstrip().startswith("{") else _mayacam_blocks(text)
    size = blocks.get("size")
    if size is not None:
        stated = (round(size[1]), round(size[0]))  # width, height
        if image_size is not None and tuple(image_size) != stated:
            raise InputError(
                f"The calibration {path.name} is for {stated[0]} x {stated[1]} pixels (rows x columns), the image has "
                f"{image_size[0]} x {image_size[1]}."
            )
        image_size = stated
    if image_size is None:
        raise InputError(f"The calibration {path.name} does not state the image size: give [rows, columns].")
    if "K" in blocks:
        return from_krt(
            _shaped(blocks["K"], (3, 3), "K", path),
            _shaped(blocks["R"], (3, 3), "R", path) if "R" in blocks else None,
            _shaped(blocks["t"], (3,), "t", path) if "t" in blocks else None,
            image_size,
            source_to_detector,
        )
    numbers = blocks.get("P") or [float(n) for n in re.findall(_NUMBER, text)]
    return from_projection_matrix(_shaped(numbers, (3, 4), "P", path), image_size, source_to_detector)


def _shaped(numbers: list[float], shape: tuple[int, ...], name: str, path: Path) -> Array:
    array = np.array(numbers, float)
    if array.size != int(np.prod(shape)) or not np.isfinite(array).all():
        raise InputError(
            f"The calibration {path.name} has {array.size} numbers where {name} needs {int(np.prod(shape))}: use a "
            "3x4 matrix, K/R/t, or a MayaCam 2.0 file."
        )
    return array.reshape(shape)


def _json_blocks(text: str, path: Path) -> dict[str, list[float]]:
    try:
        data: dict[str, Any] = json.loads(text)
        found: dict[str, list[float]] = {
            key: np.asarray(data[key], float).ravel().tolist() for key in ("P", "K", "R", "t") if key in data
        }
        if "imageSize" in data:
            rows, columns = data["imageSize"]
            found["size"] = [float(columns), float(rows)]
    except (ValueError, TypeError):
        raise InputError(f"The calibration {path.name} is not valid JSON with numbers in P or K, R, t.") from None
    if not {"P", "K"} & found.keys():
        raise InputError(f"The calibration {path.name} has neither P nor K.")
    return found


def _mayacam_blocks(text: str) -> dict[str, list[float]]:
    """Blocks of a MayaCam 2.0 file: a heading line, then numbers."""
    names = {"image size": "size", "camera matrix": "K", "rotation": "R", "translation": "t"}
    blocks: dict[str, list[float]] = {}
    current = ""
    for line in text.splitlines():
        heading = line.strip().lower()
        if heading in names:
            current = names[heading]
            blocks[current] = []
        elif current:
            blocks[current] += [float(n) for n in re.findall(_NUMBER, line)]
    if "size" in blocks and len(blocks["size"]) != 2:
        del blocks["size"]
    return blocks
