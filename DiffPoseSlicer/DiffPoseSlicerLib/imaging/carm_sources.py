"""The C-arm a command or an image is given: a carm.json, a DICOM X-ray, another program's calibration, or a preset."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.files import number, numbers
from .calibration_files import read_calibration
from .carm_presets import PRESETS, preset_carm
from .dicom import is_dicom
from .dicom_geometry import CArmPart
from .dicom_xray import read_dicom_xray
from .xray import GEOMETRY_NEEDED, geometry_needed, read_pixels, split_frame

PREFIX = "preset:"


def read_carm(source: str | Path, xray: str | Path | None = None) -> CArm:
    """The C-arm that `source` names.

    Args:
        source: A carm.json, a DICOM X-ray, a calibration (see calibration_files), "preset:NAME", or
            "preset:NAME:ROWSxCOLUMNS" where there is no image.
        xray: The image it is for: a preset and most calibrations need its size.

    Raises:
        InputError: missing, not understood, incomplete, or no such preset; or the image's size is needed and not known.
    """
    text = str(source)
    if text.startswith(PREFIX):
        return _preset(text[len(PREFIX) :], xray)
    path, frame = split_frame(Path(source))
    if path.is_file() and is_dicom(path):
        geometry = read_dicom_xray(path, frame).geometry
        if geometry.carm is None:
            raise InputError(f"The DICOM file {path.name} lacks {' and '.join(geometry.missing)}: {GEOMETRY_NEEDED}.")
        return geometry.carm
    if path.suffix.lower() == ".json":
        from ..geometry.files import read_json

        data = read_json(path, "C-arm file")
        if data.keys() and data.keys() <= {"sourceToDetector", "pixelSpacing"} and xray is not None:
            return _completed(data, xray)
        if "sourceToDetector" in data or not {"K", "P"} & data.keys():
            return CArm.from_json(data)
    return read_calibration(path, None if xray is None else camera_size(xray)).carm


def _completed(data: dict[str, Any], xray: str | Path) -> CArm:
    """The geometry of a DICOM X-ray with the numbers it lacks out of a carm.json that holds nothing else.

    Raises:
        InputError: it is no DICOM file, or something is still missing.
    """
    path, frame = split_frame(Path(xray))
    if not path.is_file() or not is_dicom(path):
        return CArm.from_json(data)  # says what else a whole one needs
    spacing = numbers(data, "pixelSpacing", 2, "C-arm file") if "pixelSpacing" in data else None
    distance = number(data, "sourceToDetector", "C-arm file") if "sourceToDetector" in data else None
    geometry = read_dicom_xray(
        path, frame, CArmPart(distance, None if spacing is None else (spacing[0], spacing[1]))
    ).geometry
    if geometry.carm is None:
        raise InputError(f"The X-ray {path.name} lacks {geometry_needed(geometry.missing)}.")
    return geometry.carm


def _preset(text: str, xray: str | Path | None) -> CArm:
    """The C-arm of NAME or NAME:ROWSxCOLUMNS. Raises InputError."""
    name, _, size = text.partition(":")
    if name not in PRESETS:
        raise InputError(f"There is no C-arm preset {name!r}: use one of {', '.join(PRESETS)}.")
    if size:
        stated = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
        if stated is None:
            raise InputError(f"The image size {size!r} is not understood: give ROWSxCOLUMNS, such as 512x512.")
        return preset_carm(name, (int(stated[1]), int(stated[2])))
    if xray is None:
        raise InputError(
            f"The C-arm preset {name} needs the image's size, which gives the pixel spacing: "
            f"{PREFIX}{name}:ROWSxCOLUMNS."
        )
    return preset_carm(name, camera_size(xray))


def camera_size(xray: str | Path) -> tuple[int, int]:
    """(rows, columns) of an image as the camera sees it.

    Raises:
        InputError: it cannot be read.
    """
    path, frame = split_frame(Path(xray))
    if not path.is_file():
        raise InputError(f"The X-ray {path.name} does not exist; check the path.")
    if is_dicom(path):
        image = read_dicom_xray(path, frame)
        rows, columns = image.values.shape
        return (columns, rows) if image.geometry.rotation in (90, 270) else (rows, columns)
    stored, _ = read_pixels(path, frame)
    if stored.ndim != 2:
        raise InputError(f"The X-ray {path.name} is no single image: it has shape {stored.shape}.")
    return stored.shape[0], stored.shape[1]
