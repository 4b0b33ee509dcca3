"""What was understood of a file, in words, one line a fact: what `doctor FILE` prints."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..geometry.carm import CArm
from .ct import CTVolume
from .dicom import get, is_dicom, read_dataset, text
from .dicom_pixels import frame_count
from .dicom_xray import Frame, read_dicom_xray
from .xray import ANGLES_NEEDED, GEOMETRY_NEEDED, XrayImage, geometry_needed, read_pixels, split_frame

_VOLUME_ENDINGS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


def describe_file(path: str | Path, carm: CArm | None = None) -> list[str]:
    """What a CT or X-ray file (or DICOM folder) holds, where each number comes from, and what is missing.

    Raises:
        InputError: it does not exist, or is neither.
    """
    path, frame = split_frame(Path(path))
    if not path.exists():
        raise InputError(f"The file {path.name} does not exist; check the path.")
    if path.is_dir() or _is_ct(path):
        return describe_ct(CTVolume.read(path))
    if is_dicom(path) or carm is not None or not path.name.lower().endswith(_VOLUME_ENDINGS):
        return describe_xray(path, carm, frame)
    try:
        return describe_ct(CTVolume.read(path))
    except InputError as no_ct:
        try:
            return describe_xray(path, carm, frame)
        except InputError:
            raise no_ct from None


def _is_ct(path: Path) -> bool:
    if not is_dicom(path):
        return False
    header = read_dataset(path, "file", pixels=False, tags=["Modality", "NumberOfFrames", "ImageType"])
    return text(header, "Modality") == "CT" and frame_count(header) > 1 and get(header, "ImageType") is not None


def describe_ct(ct: CTVolume) -> list[str]:
    """A CT in lines."""
    (nk, nj, ni), spacing = ct.hu.shape, ct.spacing
    axes = ct.affine[:3, :3] / spacing
    oblique = np.rad2deg(np.arccos(np.clip(np.abs(axes).max(0).min(), 0, 1)))
    shear = np.rad2deg(np.arcsin(np.clip(np.abs(axes.T @ axes - np.eye(3)).max(), 0, 1)))
    center = ct.center
    lines = [
        "CT volume",
        f"voxels: {ni} x {nj} x {nk} of {spacing[0]:.4g} x {spacing[1]:.4g} x {spacing[2]:.4g} mm (i, j, k)",
        f"size: {ni * spacing[0]:.0f} x {nj * spacing[1]:.0f} x {nk * spacing[2]:.0f} mm",
        f"centre: R {center[0]:.1f}, A {center[1]:.1f}, S {center[2]:.1f} mm",
        f"axes: {_axis_words(axes)}{f', oblique by {oblique:.1f} degrees' if oblique > 0.1 else ''}"
        f"{f', sheared by {shear:.2f} degrees (tilted gantry)' if shear > 0.05 else ''}",
        f"values: {int(ct.hu.min())} to {int(ct.hu.max())} HU",
        f"memory: {ct.hu.nbytes / 1e6:.0f} MB",
    ]
    faces = [name for name, cut in zip(_FACES, ct.level(4.0).cut_faces) if cut]
    faces = [f"{name} ({_axis_end(axes, n)})" for n, name in enumerate(_FACES) if name in faces]
    lines.append(f"ends in tissue at: {', '.join(faces) if faces else 'no face'}")
    return lines + [f"note: {note}" for note in ct.notes]


_FACES = ("i-", "i+", "j-", "j+", "k-", "k+")
_LETTERS = (("left", "right"), ("posterior", "anterior"), ("feet", "head"))


def _axis_end(axes: np.ndarray, face: int) -> str:
    direction = axes[:, face // 2] * (1 if face % 2 else -1)
    axis = int(np.abs(direction).argmax())
    return _LETTERS[axis][int(direction[axis] > 0)]


def _axis_words(axes: np.ndarray) -> str:
    return ", ".join(f"{letter} towards {_axis_end(axes, 2 * n + 1)}" for n, letter in enumerate("ijk"))


def describe_xray(path: Path, carm: CArm | None = None, frame: Frame = None) -> list[str]:
    """An X-ray, or one frame of it, in lines; what is missing is said last."""
    if not is_dicom(path):
        return _describe_plain(path, carm, frame)
    image = read_dicom_xray(path, frame)
    if carm is None and image.geometry.carm is None:
        lines = ["X-ray image", *(str(fact) for fact in image.facts), *(f"note: {note}" for note in image.notes)]
        missing = geometry_needed(image.geometry.missing)
        return [*lines, *_start_words(image.geometry.positioner is None), f"MISSING: {missing}"]
    xray = XrayImage.read(path, carm, frame)
    lines = ["X-ray image", *(str(fact) for fact in xray.facts), *(f"note: {note}" for note in xray.notes)]
    return [*lines, *_start_words(xray.positioner is None)]


def _start_words(unknown: bool) -> list[str]:
    return [f"MISSING for a start from DICOM: {ANGLES_NEEDED}"] if unknown else []


def _describe_plain(path: Path, carm: CArm | None, frame: Frame) -> list[str]:
    if carm is None:
        stored, notes = read_pixels(path, frame)
        if stored.ndim != 2:
            raise InputError(f"The file {path.name} is neither a CT nor an X-ray image.")
        rows, columns = stored.shape
        return [
            "X-ray image",
            f"image: {rows} rows x {columns} columns, {stored.dtype}, values {stored.min():g} to {stored.max():g}",
            *(f"note: {note}" for note in notes),
            f"MISSING: {GEOMETRY_NEEDED}",
        ]
    xray = XrayImage.read(path, carm, frame)
    rows, columns = xray.pixels.shape
    return [
        "X-ray image",
        f"image: {rows} rows x {columns} columns as the camera sees it",
        *(str(fact) for fact in xray.facts),
        *(f"note: {note}" for note in xray.notes),
    ]
