"""DICOM files for tests, written with pydicom attribute by attribute: no writer of ours in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
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


def save_raw(dataset: Dataset, path: Path, implicit: bool, little: bool) -> None:
    """Write a data set in an encoding of choice; without file meta information it has no preamble either."""
    has_meta = hasattr(dataset, "file_meta")
    if int(pydicom.__version__.split(".")[0]) >= 3:
        if has_meta:
            pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        else:
            pydicom.dcmwrite(path, dataset, implicit_vr=implicit, little_endian=little)
    else:
        dataset.is_implicit_VR, dataset.is_little_endian = implicit, little
        pydicom.dcmwrite(path, dataset, write_like_original=not has_meta)


def item(**attributes: Any) -> Dataset:
    """A sequence item."""
    d = Dataset()
    for keyword, value in attributes.items():
        setattr(d, keyword, value)
    return d


def rle_frame(pixels: np.ndarray) -> bytes:
    """A grey frame in RLE Lossless (PS3.5 annex G): byte planes, highest first, here in literal runs only."""
    planes = pixels.astype(pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(pixels.size, -1).T
    segments = []
    for plane in planes:
        data = plane.tobytes()
        runs = b"".join(bytes([len(data[n : n + 128]) - 1]) + data[n : n + 128] for n in range(0, len(data), 128))
        segments.append(runs + b"\0" * (len(runs) % 2))
    offsets = [64 + sum(map(len, segments[:n])) for n in range(len(segments))]
    header = np.array([len(segments), *offsets, *[0] * (15 - len(segments))], "<u4").tobytes()
    return header + b"".join(segments)


def set_rle(dataset: Dataset, frames: np.ndarray) -> None:
    """Put frames [frame, row, column] into a data set as RLE Lossless."""
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless
    dataset.PixelData = encapsulate([rle_frame(one) for one in frames])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
