"""X-ray images from DICOM files: pixels, meaning, geometry, masks and what is worth telling the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.carm import CArm
from .dicom import Lookup, floats, get, read_dataset, tag_name, text, whole
from .dicom_geometry import CArmPart, DicomGeometry, Fact, read_geometry
from .dicom_intensity import Relation, full_scale, modality_values, optical_density, relation, to_linear
from .dicom_pixels import bits_stored, frame_count, read_frame
from .dicom_shutters import shutter_mask

Frame = int | tuple[int, int] | str | None

# Modalities that are no projection through a C-arm's cone, however their pixels look.
_OTHER_KINDS = {
    "CT": "a CT", "MR": "an MR", "PT": "a PET", "NM": "a nuclear medicine", "US": "an ultrasound",
    "SEG": "a segmentation", "RTDOSE": "an RT dose", "RTSTRUCT": "an RT structure set", "RTPLAN": "an RT plan",
    "SR": "a report", "ECG": "an ECG", "PR": "a presentation state", "KO": "a key object selection",
    "REG": "a registration", "DOC": "a document",
}  # fmt: skip


@dataclass(frozen=True)
class DicomXray:
    """One image of a DICOM X-ray, as stored, with everything understood of it.

    Attributes:
        values: Stored values through the modality LUT [row, column].
        relation: How they relate to the beam's intensity.
        geometry: The C-arm as far as the file states it.
        bits: Bits that hold a value, or None where saturation cannot be told.
        top: The highest value the bits can hold.
        mask: Pixels inside shutters and collimators as stored, or None.
        facts, notes: For the user.
        frame_of_reference: FrameOfReferenceUID, or "".
        frames: How many the file holds.
    """

    values: NDArray[Any]
    relation: Relation
    geometry: DicomGeometry
    bits: int | None
    top: int
    mask: NDArray[np.bool_] | None
    facts: tuple[Fact, ...]
    notes: tuple[str, ...]
    frame_of_reference: str
    frames: int = 1


def read_dicom_xray(path: Path, frame: Frame = None, given: CArmPart | None = None) -> DicomXray:
    """Read one image.

    Args:
        path: The file.
        frame: Counted from 0; or (first, last), whose mean is taken; or "average" of all; default the representative
            frame, else the first.
        given: Numbers of the geometry that the user knows.

    Raises:
        InputError: not an X-ray, damaged, or no such frame.
    """
    dataset = read_dataset(path, "X-ray")
    modality = text(dataset, "Modality")
    if modality in _OTHER_KINDS:
        hint = " Give the folder of its slices as the CT." if modality == "CT" else ""
        raise InputError(
            f"The file {path.name} is {_OTHER_KINDS[modality]} file ({modality}), not an X-ray image.{hint}"
        )
    if get(dataset, "Rows") is None:
        raise InputError(f"The file {path.name} is DICOM without an image: choose the file that holds the X-ray.")
    frames, frame_notes = choose_frames(dataset, frame, path.name)
    stored = _pixels(dataset, frames, path.name)
    notes = list(frame_notes)
    lookup = Lookup(dataset, frames[0])
    colours: tuple[str, ...] = ()
    if stored.ndim == 3:
        from .xray import to_grey

        stored, colours = to_grey(stored, path)
    values, table_notes = modality_values(stored, lookup)
    how = relation(lookup)
    linear = to_linear(values, lookup) if how.kind != "LIN" else None
    density = optical_density(values, lookup)
    if density is not None:
        values, how = density, Relation("EXACT", "attenuation", f"{tag_name('RescaleType')} is OD, optical density")
    if linear is not None:
        values, how = linear, Relation("LIN", "transmission", "its own table makes its values linear")
    rows, columns = values.shape
    geometry = read_geometry(lookup, rows, columns, given)
    mask, shutter_notes = shutter_mask(lookup, rows, columns)
    facts = (
        Fact("kind", _kind(dataset, modality), tag_name("Modality")),
        Fact("image", _image_words(dataset, rows, columns), tag_name("Rows")),
        *geometry.facts,
    )
    notes += [*colours, *table_notes, *shutter_notes, *_warnings(dataset), *geometry.notes]
    if len(frames) > 1:
        last = read_geometry(Lookup(dataset, frames[-1]), rows, columns, given)
        if (last.carm, str(last.positioner)) != (geometry.carm, str(geometry.positioner)):
            notes.append(
                "The C-arm moved between these frames: their mean is blurred, and the first one's place counts."
            )
    plain = table_notes == () and linear is None and values.dtype.kind in "iu" and not colours
    bits = bits_stored(dataset)
    return DicomXray(
        values,
        how,
        geometry,
        bits if plain and whole(dataset, "PixelRepresentation") == 0 else None,
        full_scale(lookup, bits),
        mask,
        facts,
        tuple(notes),
        str(get(dataset, "FrameOfReferenceUID", "")),
        frame_count(dataset),
    )


def with_user_carm(image: DicomXray, carm: CArm) -> CArm:
    """The user's geometry for a DICOM image: its orientation stays as the file states it unless the user's says one."""
    if carm.mirrored or carm.rotation:
        return carm
    return replace(carm, mirrored=image.geometry.mirrored, rotation=image.geometry.rotation)


def choose_frames(dataset: Any, frame: Frame, name: str) -> tuple[Sequence[int], tuple[str, ...]]:
    """Frames counted from 0 and what to tell.

    Raises:
        InputError: there is no such frame.
    """
    count = frame_count(dataset)
    if count == 1 and frame in (None, 0, "average"):
        return [0], ()
    if frame is None:
        chosen = whole(dataset, "RepresentativeFrameNumber", 1) - 1
        chosen = chosen if 0 <= chosen < count else 0
        return [chosen], (f"Frame {chosen} of {count} (counted from 0) was taken; choose another with {name}#N.",)
    if frame == "average":
        return range(count), (f"The mean of all {count} frames was taken.",)
    first, last = (frame, frame) if isinstance(frame, int) else frame if isinstance(frame, tuple) else (-1, -1)
    if not 0 <= first <= last < count:
        raise InputError(f"The X-ray {name} has no frame {frame}: choose 0 to {count - 1}, a range, or 'average'.")
    if first == last:
        return [first], (f"Frame {first} of {count} (counted from 0) was taken.",)
    return range(first, last + 1), (f"The mean of the frames {first} to {last} of {count} was taken.",)


def _pixels(dataset: Any, frames: Sequence[int], name: str) -> NDArray[Any]:
    if len(frames) == 1:
        return read_frame(dataset, frames[0], name)
    total: NDArray[Any] | None = None
    for frame in frames:
        one = read_frame(dataset, frame, name).astype(np.float32)
        total = one if total is None else total + one
    assert total is not None
    return total / len(frames)


def _kind(dataset: Any, modality: str) -> str:
    uid = get(dataset, "SOPClassUID")
    name = getattr(uid, "name", "")
    return f"{name or 'unknown object'} ({modality or 'no modality'})"


def _image_words(dataset: Any, rows: int, columns: int) -> str:
    count = frame_count(dataset)
    frames = f", {count} frames" if count > 1 else ""
    return f"{rows} rows x {columns} columns, {bits_stored(dataset)} bits{frames}"


def _warnings(dataset: Any) -> list[str]:
    notes = []
    if any(0x60000000 <= int(tag) < 0x61000000 for tag in dataset.keys()):  # noqa: SIM118  (iterating decodes)
        notes.append("Overlay planes (60xx) were left out: they may hold names or marks.")
    if text(dataset, "BurnedInAnnotation") == "YES":
        notes.append(f"{tag_name('BurnedInAnnotation')} is YES: there is writing in the image, which may hold names.")
    if text(dataset, "LossyImageCompression") == "01":
        ratio = floats(get(dataset, "LossyImageCompressionRatio", []))
        much = f" {ratio[0]:.0f} to 1" if ratio and 1 < ratio[0] < 1000 else ""
        notes.append(f"The image was compressed{much} with losses.")
    if text(dataset, "ConversionType"):
        notes.append("A secondary capture: its size and grey values may have been changed for display.")
    return notes
