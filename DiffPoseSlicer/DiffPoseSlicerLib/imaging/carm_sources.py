"""The C-arm of an image that does not carry its own: from a carm.json, another program's calibration, or a preset."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..geometry.carm import CArm
from .calibration_files import read_calibration
from .carm_presets import PRESETS, preset_carm
from .dicom import is_dicom
from .dicom_xray import read_dicom_xray
from .xray import read_pixels, split_frame

PREFIX = "preset:"


def read_carm(source: str | Path, xray: str | Path | None = None) -> CArm:
    """The C-arm that `source` names.

    Args:
        source: A carm.json, a calibration (see calibration_files), or "preset:NAME".
        xray: The image it is for: a preset and most calibrations need its size.

    Raises:
        InputError: missing, not understood, or no such preset; or the image is needed and is not given.
    """
    text = str(source)
    if text.startswith(PREFIX):
        name = text[len(PREFIX) :]
        if name not in PRESETS:
            raise InputError(f"There is no C-arm preset {name!r}: use one of {', '.join(PRESETS)}.")
        if xray is None:
            raise InputError(f"The C-arm preset {name} needs an image: its size gives the pixel spacing.")
        return preset_carm(name, camera_size(xray))
    path = Path(source)
    if path.suffix.lower() == ".json":
        from ..geometry.files import read_json

        data = read_json(path, "C-arm file")
        if "sourceToDetector" in data or not {"K", "P"} & data.keys():
            return CArm.from_json(data)
    return read_calibration(path, None if xray is None else camera_size(xray)).carm


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
