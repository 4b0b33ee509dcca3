"""X-rays and DRRs written as DICOM with their full geometry, so that they come back exactly as they were.

X-Ray Angiographic Image objects. Besides the positioner's attributes they carry the detector's: element spacing,
field of view (origin, rotation, flip) and the isocentre's projection, from which the principal point follows.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.pose import Pose
from .orientation import stored_spacing, to_stored
from .quiet import quiet

# Attenuation beyond this would not fit 16 bits of thousandths of optical density.
_MOST = 65535 / 1000 * float(np.log(10))


def blank_dataset(sop_class: str, modality: str) -> Any:
    """A DICOM object without a patient: new UIDs, today's date."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    now = datetime.datetime.now()
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.StudyDate = dataset.ContentDate = dataset.SeriesDate = now.strftime("%Y%m%d")
    dataset.StudyTime = dataset.ContentTime = dataset.SeriesTime = now.strftime("%H%M%S")
    dataset.Modality, dataset.Manufacturer = modality, "DiffPoseSlicer"
    dataset.ManufacturerModelName, dataset.SoftwareVersions = "DiffPoseSlicer", pydicom.__version__
    dataset.DeviceSerialNumber = "0"
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
        setattr(dataset, keyword, "")
    dataset.ReferringPhysicianName = ""
    dataset.PatientIdentityRemoved = "YES"
    dataset.InstanceNumber, dataset.SeriesNumber = 1, 1
    return dataset


def save(dataset: Any, path: Path) -> None:
    """Write a DICOM file, with either generation of pydicom.

    Raises:
        OSError: it cannot be written.
    """
    import pydicom

    with quiet():
        if int(pydicom.__version__.split(".")[0]) >= 3:
            pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        else:
            dataset.is_little_endian, dataset.is_implicit_VR = True, False
            pydicom.dcmwrite(path, dataset, write_like_original=False)


def write_dicom_xray(
    path: str | os.PathLike[str],
    pixels: ArrayLike,
    carm: CArm,
    pose: Pose | None = None,
    *,
    relationship: str = "LOG",
    sign: int | None = None,
    photometric: str = "MONOCHROME2",
    orientation: tuple[bool, int] | None = None,
    patient_position: str = "HFS",
    frame_of_reference: str = "",
    derived: bool = True,
) -> None:
    """Write an X-ray, seen by the camera as attenuation, as a DICOM XA image.

    Args:
        path: The file.
        pixels: Line integrals [row, column] in the camera frame.
        carm: Its geometry.
        pose: Where the C-arm stood: written as positioner angles (a turn about the beam cannot be).
        relationship: "LOG": thousandths of optical density, precise to 0.0012 in the line integral. "LIN": proportional
            to the intensity, as a detector counts: dense areas lose digits.
        sign: PixelIntensityRelationshipSign; default -1 for LOG (bone high), 1 for LIN (bone low).
        photometric: MONOCHROME1 or MONOCHROME2: how it is displayed; changes no value.
        orientation: (mirrored, rotation) of the stored image; default the C-arm's own, and where that is plain, what
            DICOM has by default: seen towards the source.
        patient_position: HFS, HFP, ...
        frame_of_reference: FrameOfReferenceUID, or "".
        derived: Computed (a DRR) rather than taken.

    Raises:
        InputError: sizes disagree, values are not finite, or an option is unknown.
    """
    import pydicom

    image = np.asarray(pixels, float)
    if image.shape != carm.image_size:
        raise InputError(f"The image is {image.shape}, its C-arm says {carm.image_size} (rows, columns).")
    if not np.isfinite(image).all():
        raise InputError("The image holds values that are not finite: it cannot be written as DICOM.")
    if relationship not in ("LIN", "LOG") or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError(f"DICOM {relationship}, {photometric} cannot be written: use LIN or LOG, MONOCHROME1 or 2.")
    if orientation is None:
        orientation = (carm.mirrored, carm.rotation) if carm.mirrored or carm.rotation else (True, 0)
    carm = replace(carm, mirrored=orientation[0], rotation=orientation[1])
    sign = (-1 if relationship == "LOG" else 1) if sign is None else sign
    stored = to_stored(_encoded(image, relationship, sign), carm)

    dataset = blank_dataset(pydicom.uid.XRayAngiographicImageStorage, "XA")
    dataset.ImageType = ["DERIVED" if derived else "ORIGINAL", "PRIMARY", "SINGLE PLANE"]
    dataset.PatientPosition, dataset.PatientOrientation = patient_position, ""
    if frame_of_reference:
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = frame_of_reference, ""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = relationship, sign
    if relationship == "LOG" and sign < 0:
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "OD"
    low, high = (int(n) for n in np.percentile(stored, [1, 99]))
    dataset.WindowCenter, dataset.WindowWidth = str((low + high) // 2), str(max(high - low, 1))
    dataset.BurnedInAnnotation, dataset.LossyImageCompression = "NO", "00"
    _write_geometry(dataset, carm, pose, patient_position)
    dataset.PixelData = np.ascontiguousarray(stored, "<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    save(dataset, Path(path))


def _encoded(image: NDArray[Any], relationship: str, sign: int) -> NDArray[np.uint16]:
    """16-bit values of line integrals."""
    if relationship == "LIN":
        counts = np.rint(np.minimum(60000 * np.exp(-image), 65535))  # noise may be brighter than air
        return (counts if sign > 0 else 65535 - counts).astype(np.uint16)
    density = np.rint(np.clip(image, 0, _MOST) * (1000 / np.log(10)))
    return (density if sign < 0 else density.max() - density).astype(np.uint16)


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters, as precise as fits."""
    for digits in range(16, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    return f"{value:.8g}"


def _write_geometry(dataset: Any, carm: CArm, pose: Pose | None, patient_position: str) -> None:
    """Positioner, distances, spacing, field of view and principal point."""
    from .export import dicom_angles

    row, column = carm.pixel_spacing
    dataset.DistanceSourceToDetector = _decimal(carm.source_to_detector)
    dataset.DistanceSourceToPatient = _decimal(carm.source_to_isocenter)
    dataset.EstimatedRadiographicMagnificationFactor = _decimal(carm.source_to_detector / carm.source_to_isocenter)
    dataset.ImagerPixelSpacing = [_decimal(s) for s in stored_spacing(carm)]
    dataset.PositionerMotion, dataset.PositionerType = "STATIC", "CARM"
    dataset.PositionerPrimaryAngle = dataset.PositionerSecondaryAngle = ""
    if pose is not None:
        primary, secondary, _ = dicom_angles(pose)
        dataset.PositionerPrimaryAngle, dataset.PositionerSecondaryAngle = _decimal(primary), _decimal(secondary)
    # The detector's own image is the camera's mirrored; the field of view is all of it, turned clockwise, then flipped.
    turn, flip = ((360 - carm.rotation) % 360, "NO") if carm.mirrored else (carm.rotation, "YES")
    columns = carm.image_size[1]
    u, v = carm.principal_point
    dataset.DetectorElementSpacing = [_decimal(row), _decimal(column)]
    dataset.DetectorBinning = ["1", "1"]
    dataset.FieldOfViewShape = "RECTANGLE"
    dataset.FieldOfViewOrigin = ["0", "0"]
    dataset.FieldOfViewRotation, dataset.FieldOfViewHorizontalFlip = str(turn), flip
    dataset.PositionOfIsocenterProjection = [v, columns - 1 - u]
