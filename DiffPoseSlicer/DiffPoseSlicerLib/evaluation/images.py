"""Image files and pictures as they are written. Row 0 is at the top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..imaging.quiet import quiet

# What :func:`write_line_integrals` writes.
ENDINGS = (".npy", ".nii.gz", ".png")


def write_line_integrals(path: Path, image: NDArray[np.float32], spacing: tuple[float, float]) -> None:
    """Write a rendered image [row, column]: as it is in .npy and .nii.gz, stretched to 16 bits in .png.

    Args:
        path: the file.
        image: line integrals.
        spacing: (row, column) mm, kept in .nii.gz.
    """
    name = path.name.lower()
    if name.endswith(".npy"):
        np.save(path, np.ascontiguousarray(image, np.float32))
    elif name.endswith(".png"):
        low, high = float(image.min()), float(image.max())
        write_pixels(path, np.rint((image - low) * (65535 / max(high - low, 1e-12))).astype(np.uint16), spacing)
    else:
        write_pixels(path, np.asarray(image, np.float32), spacing)


def write_pixels(path: Path, pixels: NDArray[Any], spacing: tuple[float, float] = (1.0, 1.0)) -> None:
    """Write values [row, column], or colours [row, column, 3], by the file's ending (PNG, TIFF, NIfTI).

    Raises:
        OSError: the file cannot be written.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(pixels), isVector=pixels.ndim == 3)
    image.SetSpacing([spacing[1], spacing[0]])
    try:
        with quiet():
            sitk.WriteImage(image, str(path))
    except RuntimeError:
        raise OSError(None, "The image cannot be written", str(path)) from None
