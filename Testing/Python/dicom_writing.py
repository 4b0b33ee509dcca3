"""DICOM files for tests, written with pydicom attribute by attribute: no writer of ours in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage, generate_uid

from DiffPoseSlicerLib.imaging import dicom_export


def xray_dataset(pixels: np.ndarray, **attributes: Any) -> Dataset:
    """A minimal XA image with full plain geometry; attributes given replace or (None) remove those set here."""
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = XRayAngiographicImageStorage
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = generate_uid()
    d.Modality, d.PatientName, d.PatientID = "XA", "Nobody^At^All", "secret-4711"
    d.Rows, d.Columns = pixels.shape[-2:] if pixels.ndim < 4 else pixels.shape[-3:-1]
    if pixels.ndim == 3:
        d.NumberOfFrames = len(pixels)
    bits = pixels.dtype.itemsize * 8
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit = bits, bits, bits - 1
    d.PixelRepresentation = int(pixels.dtype.kind == "i")
    d.PixelIntensityRelationship = "LIN"
    d.DistanceSourceToDetector, d.DistanceSourceToPatient = "1000", "700"
    d.ImagerPixelSpacing = ["0.5", "0.5"]
    d.PositionerPrimaryAngle, d.PositionerSecondaryAngle = "0", "0"
    d.PatientPosition = "HFS"
    d.PixelData = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<")).tobytes()
    d["PixelData"].VR = "OW" if bits > 8 else "OB"
    for keyword, value in attributes.items():
        if value is None:
            if keyword in d:
                delattr(d, keyword)
        else:
            setattr(d, keyword, value)
    return d


def save(dataset: Dataset, path: Path) -> Path:
    dicom_export.save(dataset, path)
    return path


def item(**attributes: Any) -> Dataset:
    """A sequence item."""
    d = Dataset()
    for keyword, value in attributes.items():
        setattr(d, keyword, value)
    return d
