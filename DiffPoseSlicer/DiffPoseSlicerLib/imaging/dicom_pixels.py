"""Stored pixel values of DICOM images, one frame at a time, whatever their compression.

Uncompressed frames are cut out of the pixel data directly. Compressed ones are handed, frame by frame and without any
other tag, to GDCM through SimpleITK, which knows every transfer syntax in use (JPEG Lossless, mandatory on cath-lab
discs, included), and then to pydicom's own decoders.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .dicom import _silent, get, text, whole
from .itk import MAX_VOXELS

_FLOATS = {"FloatPixelData": "f4", "DoubleFloatPixelData": "f8"}


def frame_count(dataset: Any) -> int:
    """Number of frames; at least 1."""
    return max(1, whole(dataset, "NumberOfFrames", 1))


def bits_stored(dataset: Any) -> int:
    """Bits that hold the value, 1 to 32; those allocated where the file does not say."""
    allocated = whole(dataset, "BitsAllocated", 16)
    stored = whole(dataset, "BitsStored", allocated)
    return stored if 1 <= stored <= allocated else allocated


def transfer_syntax(dataset: Any) -> Any:
    """The transfer syntax UID; Implicit or Explicit VR Little Endian where the file has no header."""
    import pydicom

    uid = get(getattr(dataset, "file_meta", None), "TransferSyntaxUID")
    if uid is not None:
        return uid
    implicit = getattr(dataset, "is_implicit_VR", True)
    return pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian


def _is_compressed(syntax: Any, data: Any) -> bool:
    """Whether pixel data is compressed. Of a UID that is damaged or newer than pydicom the data's first item tells."""
    try:
        return bool(syntax.is_compressed and not syntax.is_deflated)
    except (AttributeError, ValueError):
        return bytes(data[:4]) == b"\xfe\xff\x00\xe0"


def read_frame(dataset: Any, frame: int, name: str, what: str = "X-ray") -> NDArray[Any]:
    """Stored values of one frame: [row, column], or [row, column, 3] for colours. Integers, or float32.

    Args:
        dataset: With its pixel data.
        frame: Counted from 0.
        name: The file's name, for messages.
        what: Names the kind of file in messages.

    Raises:
        InputError: no pixels, truncated, or compressed in a way nothing here reads.
    """
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    samples = whole(dataset, "SamplesPerPixel", 1)
    if min(rows, columns) < 1 or samples not in (1, 3):
        raise InputError(f"The {what} {name} holds no image (Rows {rows}, Columns {columns}, samples {samples}).")
    if rows * columns > MAX_VOXELS // 8:
        raise InputError(f"The {what} {name} announces {rows} x {columns} pixels: the file is damaged.")
    for keyword, code in _FLOATS.items():
        data = get(dataset, keyword)
        if data is not None:
            return _cut(data, frame, (rows, columns), np.dtype("<" + code), name, what).astype(np.float32)
    data = get(dataset, "PixelData")
    if data is None or not isinstance(data, (bytes, bytearray)):
        raise InputError(f"The {what} {name} holds no pixel data (it may be a reference, a report or encrypted).")
    allocated = whole(dataset, "BitsAllocated", 16)
    if allocated not in (8, 16, 32):
        raise InputError(f"The {what} {name} has {allocated} bits a pixel, where 8, 16 or 32 are needed.")
    syntax = transfer_syntax(dataset)
    if _is_compressed(syntax, data):
        return _significant(_decompressed(dataset, data, frame, name, what), dataset)
    subsampled = samples == 3 and "422" in text(dataset, "PhotometricInterpretation")
    if subsampled or text(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
        return _decompressed(dataset, data, frame, name, what)
    order = ">" if str(syntax) == "1.2.840.10008.1.2.2" else "<"
    dtype = np.dtype(f"{order}u{allocated // 8}")
    if samples == 1:
        return _significant(_cut(data, frame, (rows, columns), dtype, name, what), dataset)
    if whole(dataset, "PlanarConfiguration") == 1:
        return np.moveaxis(_cut(data, frame, (3, rows, columns), dtype, name, what), 0, -1)
    return _cut(data, frame, (rows, columns, 3), dtype, name, what)


def _cut(data: Any, frame: int, shape: tuple[int, ...], dtype: np.dtype, name: str, what: str) -> NDArray[Any]:
    """One frame out of uncompressed pixel data."""
    size = int(np.prod(shape)) * dtype.itemsize
    if len(data) < (frame + 1) * size:
        raise InputError(
            f"The {what} {name} is truncated: frame {frame} ends at byte {(frame + 1) * size} of {len(data)}."
        )
    return np.frombuffer(data, dtype, int(np.prod(shape)), frame * size).reshape(shape).astype(dtype.newbyteorder("="))


def _significant(values: NDArray[Any], dataset: Any) -> NDArray[Any]:
    """Only the bits stored: overlays may hide in the others; with the sign where there is one."""
    if values.dtype.kind not in "iu" or values.ndim != 2:
        return values
    bits, signed = bits_stored(dataset), whole(dataset, "PixelRepresentation") == 1
    high = whole(dataset, "HighBit", bits - 1)
    width = values.dtype.itemsize * 8
    if values.dtype.kind == "i" or (bits >= width and not signed):
        return values  # the decoder has done it, or there is nothing to do
    shift = high + 1 - bits if high + 1 - bits > 0 and high < width else 0
    values = values >> shift if shift else values
    wide = values.astype(np.int64) & ((1 << bits) - 1)
    if signed:
        wide = np.where(wide >= 1 << (bits - 1), wide - (1 << bits), wide)
        return wide.astype(np.int16 if bits <= 16 else np.int32)
    return wide.astype(values.dtype)


def _frame_bytes(dataset: Any, data: Any, frame: int) -> bytes:
    """The compressed bytes of one frame."""
    from pydicom import encaps

    count = frame_count(dataset)
    if hasattr(encaps, "get_frame"):  # pydicom 3
        return encaps.get_frame(data, frame, number_of_frames=count)
    for index, one in enumerate(encaps.generate_pixel_data_frame(data, count)):
        if index == frame:
            return one
    raise ValueError("no such frame")


def _decompressed(dataset: Any, data: Any, frame: int, name: str, what: str) -> NDArray[Any]:
    """One frame by GDCM, or else by pydicom, from a file that holds nothing but this frame."""
    import pydicom
    import SimpleITK as sitk

    syntax = transfer_syntax(dataset)
    try:
        with _silent():
            single = _single_frame(dataset, data, frame, syntax)
            with tempfile.TemporaryDirectory(prefix="dicom-") as folder:
                file = Path(folder, "frame.dcm")
                if hasattr(pydicom, "config") and int(pydicom.__version__.split(".")[0]) >= 3:
                    pydicom.dcmwrite(file, single, enforce_file_format=True)
                else:
                    pydicom.dcmwrite(file, single, write_like_original=False)
                try:
                    if str(syntax) == "1.2.840.10008.1.2.5":
                        raise ValueError  # GDCM mixes up the bytes of 16-bit RLE colours
                    image = sitk.ReadImage(str(file))
                    values = sitk.GetArrayFromImage(image)  # a palette's colours, where there is one
                    values = values.reshape(values.shape[-2 - (image.GetNumberOfComponentsPerPixel() > 1) :])
                except (RuntimeError, ValueError):
                    values = _by_pydicom(file)
        return values
    except MemoryError:
        raise InputError(f"The {what} {name} is damaged: its pixels do not fit in memory.") from None
    except Exception:
        label = getattr(syntax, "name", str(syntax))
        raise InputError(
            f"The pixels of the {what} {name} cannot be decoded (transfer syntax {label}): the file is damaged or "
            "truncated, or this compression is not supported; export it uncompressed."
        ) from None


def _by_pydicom(file: Path) -> NDArray[Any]:
    """The pixels of a file of one frame, a palette's as colours."""
    import pydicom

    one = pydicom.dcmread(file)
    if text(one, "PhotometricInterpretation") != "PALETTE COLOR":
        return one.pixel_array
    try:
        from pydicom.pixels import apply_color_lut
    except ImportError:  # pydicom 2
        from pydicom.pixel_data_handlers.util import apply_color_lut
    return apply_color_lut(one.pixel_array, one)


def _single_frame(dataset: Any, data: Any, frame: int, syntax: Any) -> Any:
    """A data set of one frame with nothing but what describes its pixels."""
    import pydicom
    from pydicom.encaps import encapsulate

    single = pydicom.Dataset()
    for keyword in (
        "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated",
        "BitsStored", "HighBit", "PixelRepresentation", "RedPaletteColorLookupTableDescriptor",
        "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
        "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    ):  # fmt: skip
        if keyword in dataset:
            single[keyword] = dataset[keyword]
    single.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    single.SOPInstanceUID = pydicom.uid.generate_uid()
    single.file_meta = pydicom.dataset.FileMetaDataset()
    single.file_meta.MediaStorageSOPClassUID = single.SOPClassUID
    single.file_meta.MediaStorageSOPInstanceUID = single.SOPInstanceUID
    if _is_compressed(syntax, data):
        single.file_meta.TransferSyntaxUID = syntax
        single.PixelData = encapsulate([_frame_bytes(dataset, data, frame)])
        single["PixelData"].VR = "OB"
        single["PixelData"].is_undefined_length = True
    else:
        single.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        size = len(data) // frame_count(dataset)
        single.PixelData = bytes(data[frame * size : (frame + 1) * size])
        single["PixelData"].VR = "OW" if whole(dataset, "BitsAllocated") > 8 else "OB"
    return single
