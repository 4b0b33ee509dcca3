"""CT volumes from DICOM: folders of slices as scanners and archives leave them, and enhanced multi-frame files.

Sorted by position, never by file name or instance number. Several series in a folder, localizers, duplicates, missing
or uneven slices, gantry tilt and any orientation are dealt with and said; nothing is rounded to an axis.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.coordinates import flip_ras_lps
from .attenuation import AIR_HU
from .dicom import Lookup, floats, get, is_dicom, read_dataset, text, whole
from .dicom_pixels import frame_count, read_frame

_HEADER = [
    "SOPClassUID", "SeriesInstanceUID", "Modality", "ImageType", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "Rows", "Columns", "NumberOfFrames", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "PixelPaddingValue", "PixelRepresentation", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "FrameOfReferenceUID",
]  # fmt: skip
_MAX_FILES = 20000
# As many kinds of other images are named in a refusal.
_MOST_KINDS = 6
# Slices closer than this are the same slice twice, mm.
_SAME = 1e-3
# Uneven when a gap differs from the usual one by more than this fraction.
_UNEVEN = 0.05


@dataclass(frozen=True)
class Slice:
    """One slice: where it lies (LPS mm) and how to get its pixels."""

    path: Path
    frame: int
    position: NDArray[Any]
    across: NDArray[Any]
    down: NDArray[Any]
    spacing: tuple[float, float]
    size: tuple[int, int]
    slope: float
    intercept: float
    padding: float | None


@dataclass(frozen=True)
class DicomVolume:
    """A volume as read: values [k, j, i], affine (i, j, k, 1) to RAS mm, notes, and FrameOfReferenceUID."""

    values: NDArray[Any]
    affine: NDArray[np.float64]
    notes: tuple[str, ...]
    frame_of_reference: str


def read_dicom_ct(path: Path) -> DicomVolume:
    """Read the CT in a folder (the series with the most slices), or in one enhanced multi-frame file.

    Raises:
        InputError: there is no CT, or one of its slices is damaged.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if file.is_file() and is_dicom(file)]
    if not files and path.is_dir():  # one level down, as on discs
        files = sorted(f for f in path.glob("*/*") if f.is_file() and is_dicom(f))
    if not files:
        raise InputError(f"The folder {path.name} holds no DICOM files; choose the folder with the CT's slices.")
    if len(files) > _MAX_FILES:
        raise InputError(f"The folder {path.name} holds {len(files)} files: choose the folder of one CT.")
    series, notes, others = _collect(files, path)
    chosen = max(series.values(), key=len)
    frame_of_reference = next((key[1] for key, value in series.items() if value is chosen), "")
    if len(chosen) < 2:
        raise InputError(f"The CT in {path.name} has {len(chosen)} slice: a volume is needed, not one image.")
    if len(series) > 1:
        sizes = ", ".join(str(len(one)) for one in sorted(series.values(), key=len, reverse=True)[1:6])
        notes.append(
            f"{len(series)} CT series lie here: the one with {len(chosen)} slices was taken (others: {sizes})."
        )
    if others:
        notes.append(f"{others} other images (localizers, reports, other modalities) were left out.")
    slices, sort_notes = _sorted(chosen)
    values, affine, fill_notes = _volume(slices, path)
    return DicomVolume(values, affine, (*notes, *sort_notes, *fill_notes), frame_of_reference)


def _collect(files: list[Path], path: Path) -> tuple[dict[tuple, list[Slice]], list[str], int]:
    """Slices by series, size and orientation; notes; number of images that are no CT slices."""
    series: dict[tuple, list[Slice]] = defaultdict(list)
    notes: list[str] = []
    others = unreadable = 0
    kinds: set[str] = set()
    for file in files:
        try:
            header = read_dataset(file, "CT", pixels=False, tags=_HEADER)
        except InputError:
            unreadable += 1
            continue
        types = [str(t).upper() for t in _list(get(header, "ImageType", []))]
        if text(header, "Modality") != "CT" or "LOCALIZER" in types:
            others += 1
            # A damaged file may hold anything there; only a code is shown (PS3.5, 6.2).
            modality = text(header, "Modality")
            named = modality if re.fullmatch("[A-Z0-9_ ]{1,16}", modality) else "unknown"
            kinds.add("localizer" if "LOCALIZER" in types else named)
            continue
        for frame in range(min(frame_count(header), _MAX_FILES)):
            one = _slice(header, file, frame)
            if one is None:
                others += 1
                kinds.add("CT without a position")
                continue
            orientation = tuple(np.round([*one.across, *one.down], 3))
            frame_uid = str(get(header, "FrameOfReferenceUID", ""))
            series[(str(get(header, "SeriesInstanceUID", "")), frame_uid, one.size, one.spacing, orientation)].append(
                one
            )
    if unreadable:
        notes.append(f"{unreadable} files could not be read and were left out.")
    if not series:
        found = f" (found: {', '.join(sorted(kinds)[:_MOST_KINDS])})" if kinds else ""
        raise InputError(f"{path.name} holds no CT slices{found}; choose the CT.")
    return series, notes, others


def _list(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value)


def _slice(header: Any, file: Path, frame: int) -> Slice | None:
    """A slice with its place, or None where the file does not state it."""
    lookup = Lookup(header, frame)
    position = lookup.numbers("ImagePositionPatient", 3, -1e5, 1e5)
    orientation = lookup.numbers("ImageOrientationPatient", 6, -1.001, 1.001)
    spacing = lookup.numbers("PixelSpacing", 2, 1e-3, 50)
    rows, columns = whole(header, "Rows"), whole(header, "Columns")
    if position is None or orientation is None or spacing is None or min(rows, columns) < 2:
        return None
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    if min(np.linalg.norm(across), np.linalg.norm(down)) < 0.9 or abs(across @ down) > 0.01:
        return None
    slope = lookup.number("RescaleSlope", -1e4, 1e4)
    padding = floats(get(header, "PixelPaddingValue", []))
    return Slice(
        file, frame, np.array(position), across / np.linalg.norm(across), down / np.linalg.norm(down),
        (spacing[0], spacing[1]), (rows, columns), slope or 1.0,
        lookup.number("RescaleIntercept", -1e6, 1e6) or 0.0, padding[0] if len(padding) == 1 else None,
    )  # fmt: skip


def _sorted(slices: list[Slice]) -> tuple[list[Slice], list[str]]:
    """Along the slices' normal; of slices at the same place only the first."""
    normal = np.cross(slices[0].across, slices[0].down)
    ordered = sorted(slices, key=lambda one: (float(one.position @ normal), one.path.name, one.frame))
    kept = ordered[:1]
    for one in ordered[1:]:
        if (one.position - kept[-1].position) @ normal > _SAME:
            kept.append(one)
    if len(kept) == len(ordered):
        return kept, []
    return kept, [f"{len(ordered) - len(kept)} slices lie where another one does already and were left out."]


def _volume(slices: list[Slice], path: Path) -> tuple[NDArray[Any], NDArray[np.float64], list[str]]:
    """Values on an even grid, its affine to RAS, and notes."""
    if len(slices) < 2:
        raise InputError(f"The CT in {path.name} has all its slices at one place: a volume is needed.")
    first, notes = slices[0], []
    normal = np.cross(first.across, first.down)
    heights = np.array([one.position @ normal for one in slices])
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    # Slices of a tilted gantry shift sideways as they go up: the third axis of the grid is the line through them.
    positions = np.array([one.position for one in slices])
    step = (positions[-1] - positions[0]) / (heights[-1] - heights[0]) * usual
    off_line = positions - (positions[0] + (heights - heights[0])[:, None] / usual * step)
    if np.abs(off_line).max() > 0.1:
        notes.append(
            f"The slices do not lie on one line (up to {np.abs(off_line).max():.2f} mm off): place approximate."
        )
    tilt = float(np.rad2deg(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1))))
    if tilt > 0.05:
        notes.append(f"The gantry was tilted by {tilt:.2f} degrees: the slices stay where they are (sheared).")
    multiples = gaps / usual
    even = np.abs(multiples - 1).max() <= _UNEVEN
    stack = _stack(slices)
    if not even:
        stack, note = _evened(stack, heights, usual, multiples)
        notes.append(note)
    else:
        step = (positions[-1] - positions[0]) / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3, 0] = first.across * first.spacing[1]
    affine[:3, 1] = first.down * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return stack, flip_ras_lps(affine), notes


def _stack(slices: list[Slice]) -> NDArray[Any]:
    """Hounsfield units [k, j, i]: int16 where they are whole numbers."""
    fractions = any(one.slope != round(one.slope) or one.intercept != round(one.intercept) for one in slices)
    stack = np.empty((len(slices), *slices[0].size), np.float32 if fractions else np.int16)
    held: tuple[Path, Any] | None = None
    for k, one in enumerate(slices):
        if held is None or held[0] != one.path:
            held = (one.path, read_dataset(one.path, "CT"))
        stored = read_frame(held[1], one.frame, one.path.name, "CT slice")
        if stored.shape != one.size:
            raise InputError(f"The CT slice {one.path.name} has the shape {stored.shape}: one value a pixel is needed.")
        plane = stored.astype(np.float32) * one.slope + one.intercept
        if one.padding is not None:
            plane[stored == one.padding] = AIR_HU
        stack[k] = plane if fractions else np.clip(np.rint(plane), -32768, 32767)
    return stack


def _evened(
    stack: NDArray[Any], heights: NDArray[Any], usual: float, multiples: NDArray[Any]
) -> tuple[NDArray[Any], str]:
    """The stack on even heights, `usual` apart: linear between neighbours."""
    count = round((heights[-1] - heights[0]) / usual) + 1
    if count > 4 * len(heights) + 64:
        raise InputError(
            f"The CT's slices span {heights[-1] - heights[0]:.0f} mm with gaps up to {multiples.max() * usual:.1f} "
            "mm: too much is missing to make a volume of it."
        )
    wanted = heights[0] + usual * np.arange(count)
    above = np.clip(np.searchsorted(heights, wanted - 1e-6), 1, len(heights) - 1)
    share = np.clip((wanted - heights[above - 1]) / (heights[above] - heights[above - 1]), 0, 1).astype(np.float32)
    result = np.empty((count, *stack.shape[1:]), stack.dtype)
    for k in range(count):
        lower, upper = stack[above[k] - 1], stack[above[k]]
        plane = lower + share[k] * (upper.astype(np.float32) - lower)
        result[k] = np.rint(plane) if stack.dtype.kind == "i" else plane
    whole_gaps = np.abs(multiples - np.rint(multiples)).max() <= _UNEVEN
    if whole_gaps:
        missing = int(np.rint(multiples).sum() - len(multiples))
        return result, (
            f"{missing} slices are missing (gaps up to {multiples.max() * usual:.1f} mm, usually {usual:.2f} mm): "
            "filled in linearly; anatomy there is not real."
        )
    return result, (
        f"The slices are unevenly spaced ({multiples.min() * usual:.2f} to {multiples.max() * usual:.2f} mm): brought "
        f"to {usual:.2f} mm by linear interpolation."
    )
