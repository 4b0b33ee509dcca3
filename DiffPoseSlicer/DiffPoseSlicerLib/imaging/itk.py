"""Image files through SimpleITK: the one place where ITK's LPS becomes RAS."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.coordinates import flip_ras_lps
from .quiet import quiet

# More voxels than any scanner gives; a damaged header asks for more than the machine has.
MAX_VOXELS = 1_500_000_000
# No compression in these formats (deflate) does better than this.
_MAX_RATIO = 1032


def check_size(voxels: int, size_bytes: int, path: Path, what: str, compressed: bool = True) -> None:
    """Refuse a header that announces more than the file can hold, before any memory is taken.

    Raises:
        InputError: it does.
    """
    if voxels <= 0 or voxels > MAX_VOXELS:
        raise InputError(f"The {what} {path.name} announces {voxels} voxels: the file is damaged or far too large.")
    if path.stat().st_size * (_MAX_RATIO if compressed else 1) < size_bytes:
        raise InputError(
            f"The {what} {path.name} is truncated: {path.stat().st_size} bytes cannot hold the {size_bytes} it "
            "announces; copy it again."
        )


def reason(error: Exception) -> str:
    """The gist of an ITK exception, without C++ file names, addresses or paths; "" if nothing is left."""
    for line in reversed(str(error).splitlines()):
        text = re.sub(r"^.*?\(0x[0-9a-f]+\)\s*:\s*", "", line).strip()
        if re.fullmatch(r"[\w ,.:'-]{1,120}", text, re.ASCII) and "Error" not in text[:12] and "0x" not in text:
            return text.rstrip(".")
    return ""


def image_affine(image: Any) -> NDArray[np.float64]:
    """(i, j, k, 1) -> RAS, 4x4, of a three-dimensional SimpleITK image."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return flip_ras_lps(affine)


def array_view(image: Any) -> NDArray[Any]:
    """An image's values, slowest axis first, without a copy: keep the image as long as the array."""
    import SimpleITK as sitk

    return sitk.GetArrayViewFromImage(image)


def set_affine(image: Any, affine: NDArray[np.float64]) -> None:
    """The reverse of :func:`image_affine`: spacing, origin and direction of an image from a RAS affine."""
    lps = flip_ras_lps(affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())


def read_image(path: Path, what: str) -> Any:
    """A SimpleITK image from one file.

    Raises:
        InputError: missing, damaged, or of a kind ITK does not know.
    """
    import SimpleITK as sitk

    try:
        with quiet():
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            voxels = int(np.prod(reader.GetSize(), dtype=object))
            if path.suffix.lower() in (".nrrd", ".mha") or voxels > MAX_VOXELS:
                check_size(voxels, voxels * reader.GetNumberOfComponents() * _width(reader.GetPixelID()), path, what)
            return reader.Execute()
    except InputError:
        raise
    except (RuntimeError, MemoryError, OverflowError) as error:
        gist = reason(error)
        raise InputError(
            f"The {what} {path.name} cannot be read: it is damaged, truncated or of an unknown kind"
            + (f" ({gist})." if gist else ".")
        ) from None


def _width(pixel_id: int) -> int:
    """Bytes of one component of a SimpleITK pixel type."""
    import SimpleITK as sitk

    bits = re.findall(r"8|16|32|64", sitk.GetPixelIDValueAsString(pixel_id))
    return int(bits[0]) // 8 if bits else 1
