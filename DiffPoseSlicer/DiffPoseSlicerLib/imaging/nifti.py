"""NIfTI files, read and written directly: ITK refuses sheared affines, which must be kept as they are.

Source: the NIfTI-1 and NIfTI-2 header definitions (nifti1.h, nifti2.h). World coordinates are RAS already.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .itk import check_size

_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
# Where each field lies: (offset, struct code) in NIfTI-1 and NIfTI-2.
_FIELDS = {
    "dim": ((40, "8h"), (16, "8q")),
    "datatype": ((70, "h"), (12, "h")),
    "pixdim": ((76, "8f"), (104, "8d")),
    "vox_offset": ((108, "f"), (168, "q")),
    "scale": ((112, "2f"), (176, "2d")),
    "units": ((123, "b"), (500, "i")),
    "codes": ((252, "2h"), (344, "2i")),
    "quaternion": ((256, "6f"), (352, "6d")),
    "rows": ((280, "12f"), (400, "12d")),
}
_UNIT_MM = {1: 1000.0, 2: 1.0, 3: 0.001}


def is_nifti(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name says NIfTI."""
    return str(path).lower().endswith((".nii", ".nii.gz"))


def read_nifti(path: Path, what: str) -> tuple[NDArray[Any], NDArray[np.float64], tuple[str, ...]]:
    """Values [k, j, i] (rescaled), affine (i, j, k, 1) -> RAS mm, and notes.

    The sform is taken where there is one, else the qform.

    Raises:
        InputError: missing, truncated, not NIfTI, not a single volume, or an affine without an inverse.
    """
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            return _read(file, path, what)
    except FileNotFoundError:
        raise InputError(f"The {what} {path.name} does not exist; check the path.") from None
    except (EOFError, zlib.error):
        raise InputError(f"The {what} {path.name} is truncated or damaged (its compressed data end early).") from None
    except OSError as error:
        raise InputError(f"The {what} {path.name} cannot be read ({type(error).__name__}); is it NIfTI?") from None


def _read(file: Any, path: Path, what: str) -> tuple[NDArray[Any], NDArray[np.float64], tuple[str, ...]]:
    header = file.read(348)
    order, version = _kind(header)
    if version == 1:
        header += file.read(192)
    if version < 0 or len(header) < (348, 540)[version]:
        raise InputError(f"The {what} {path.name} is not a NIfTI file, or its header is damaged.")

    def get(name: str) -> tuple[Any, ...]:
        offset, code = _FIELDS[name][version]
        return struct.unpack_from(order + code, header, offset)

    dim = get("dim")
    if dim[0] == 2:  # one image
        dim = (3, *dim[1:3], 1, *dim[4:])
    if not 3 <= dim[0] <= 7 or any(n > 1 for n in dim[4 : dim[0] + 1]) or min(dim[1:4]) < 1:
        raise InputError(
            f"The {what} {path.name} has dimensions {list(dim[1 : max(dim[0], 0) + 1])}: one volume is needed."
        )
    if get("datatype")[0] not in _TYPES:
        raise InputError(f"The {what} {path.name} holds data of NIfTI type {get('datatype')[0]}: a scalar is needed.")
    dtype = np.dtype(order + _TYPES[get("datatype")[0]])
    ni, nj, nk = dim[1:4]
    offset = get("vox_offset")[0]
    if not len(header) <= offset < 1 << 24:
        raise InputError(f"The {what} {path.name} has a damaged header (its data start at byte {offset:g}).")
    check_size(ni * nj * nk, ni * nj * nk * dtype.itemsize, path, what, path.name.lower().endswith(".gz"))
    file.read(int(offset) - len(header))
    values = np.empty((nk, nj, ni), dtype)
    target, done = values.reshape(-1).view(np.uint8).data, 0
    while done < len(target):
        count = file.readinto(target[done:])
        if not count:
            raise InputError(f"The {what} {path.name} is truncated: {done} of {len(target)} bytes are there.")
        done += count
    if values.dtype.byteorder not in "=|" and order != ("<" if np.little_endian else ">"):
        values = values.astype(values.dtype.newbyteorder("="))
    slope, intercept = get("scale")
    if np.isfinite([slope, intercept]).all() and slope != 0 and (slope, intercept) != (1, 0):
        values = values.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    affine, notes = _affine(get, what, path)
    return values, affine, notes


def _kind(header: bytes) -> tuple[str, int]:
    """Byte order and index into _FIELDS (0: NIfTI-1, 1: NIfTI-2, -1: neither)."""
    for order in "<>":
        if len(header) == 348:
            size = struct.unpack_from(order + "i", header)[0]
            if size == 348 and header[344:348] == b"n+1\0":
                return order, 0
            if size == 540 and header[4:7] == b"n+2":
                return order, 1
    return "<", -1


def _affine(get: Any, what: str, path: Path) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    qform, sform = get("codes")
    unit = _UNIT_MM.get(get("units")[0] & 7, 1.0)
    pixdim = get("pixdim")
    notes: tuple[str, ...] = ()
    affine = np.eye(4)
    if sform > 0:
        affine[:3] = np.reshape(get("rows"), (3, 4))
    elif qform > 0:
        b, c, d, *shift = get("quaternion")
        a = np.sqrt(max(0.0, 1 - (b * b + c * c + d * d)))
        rotation = [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
        affine[:3, :3] = rotation * np.array([pixdim[1], pixdim[2], pixdim[3] * (-1 if pixdim[0] < 0 else 1)])
        affine[:3, 3] = shift
    else:
        affine[:3, :3] = np.diag(pixdim[1:4])
        text = "states no orientation (sform and qform codes are 0): its axes were taken as right, anterior, superior."
        notes = (f"The {what} {path.name} {text}",)
    affine[:3] *= unit
    if not np.isfinite(affine).all():
        raise InputError(f"The {what} {path.name} has an affine that is not finite.")
    return affine, notes


def write_nifti(path: Path, values: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """Write [k, j, i] values (int16, uint8, float32) with an affine to RAS as .nii or .nii.gz (NIfTI-1, sform)."""
    code = {t: c for c, t in _TYPES.items()}[values.dtype.newbyteorder("=").str[1:]]
    header = bytearray(352)

    def put(name: str, *numbers: Any) -> None:
        offset, form = _FIELDS[name][0]
        struct.pack_into("<" + form, header, offset, *numbers)

    struct.pack_into("<i", header, 0, 348)
    put("dim", 3, *values.shape[::-1], 1, 1, 1, 1)
    put("datatype", code)
    struct.pack_into("<h", header, 72, values.dtype.itemsize * 8)
    put("pixdim", 1, *np.linalg.norm(affine[:3, :3], axis=0), 1, 1, 1, 1)
    put("vox_offset", 352)
    put("scale", 1, 0)
    put("units", 2)
    put("codes", 0, 1)
    put("rows", *affine[:3].ravel())
    header[344:348] = b"n+1\0"
    data = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    if path.name.lower().endswith(".gz"):
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(bytes(header))
            file.write(data.data)
    else:
        with open(path, "wb") as raw:
            raw.write(bytes(header))
            raw.write(data.data)
