"""The frames of a run, one X-ray image after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .dicom import is_dicom
from .dicom_xray import read_dicom_xray
from .itk import array_view, read_image
from .nifti import is_nifti, read_nifti
from .xray import XrayImage, to_grey

if TYPE_CHECKING:
    from ..geometry.carm import CArm


def read_frames(
    path: str | os.PathLike[str], carm: CArm | None = None, first: int = 0, last: int | None = None
) -> Iterator[XrayImage]:
    """Frames `first` to `last` (inclusive, counted from 0; default all) of a run, each read when it is its turn.

    Geometry, the meaning of the values and what the collimator leaves are those of the first one taken.

    Args:
        path: A multi-frame DICOM file, or frames stacked in a .npy, TIFF, NIfTI, NRRD or MetaImage file.
        carm: As for :meth:`XrayImage.read`.

    Raises:
        InputError: missing, damaged, no such frames, or no geometry.
    """
    path = Path(path)
    start: XrayImage | None = None
    for number, stored in _stored(path, first, last):
        if start is None:
            start = XrayImage.read(path, carm, number) if number is not None else XrayImage.read(path, carm)
            yield start
        else:
            yield start.next_frame(stored)


def _stored(path: Path, first: int, last: int | None) -> Iterator[tuple[int | None, NDArray[Any]]]:
    """Frame numbers (None where there is one frame alone) and stored values."""
    if not path.is_file():
        raise InputError(f"The run {path.name} does not exist; give one file of frames.")
    if is_dicom(path):
        image = read_dicom_xray(path, first)
        count = image.frames
        for number in _chosen(first, last, count, path.name):
            values = image.values if number == first else read_dicom_xray(path, number).values
            yield number if count > 1 else None, values
        return
    if path.suffix.lower() == ".npy":
        try:
            stack = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception:  # a damaged header raises almost anything: numpy parses it as Python
            raise InputError(f"The run {path.name} is damaged or not a NumPy array of numbers.") from None
    elif is_nifti(path):
        stack = read_nifti(path, "X-ray")[0]
    else:
        image = read_image(path, "X-ray")
        stack = array_view(image).copy()
        if image.GetNumberOfComponentsPerPixel() > 1:
            stack = to_grey(stack, path)[0]
    if stack.ndim < 2 or stack.dtype.kind not in "iuf":
        raise InputError(
            f"The run {path.name} has shape {stack.shape} of {stack.dtype}: [frame, row, column] is needed."
        )
    stack = stack.reshape(-1, *stack.shape[-2:])
    for number in _chosen(first, last, len(stack), path.name):
        yield number if len(stack) > 1 else None, np.asarray(stack[number])


def _chosen(first: int, last: int | None, count: int, name: str) -> range:
    """Raises InputError where there are no such frames."""
    end = count - 1 if last is None else last
    if not 0 <= first <= end < count:
        raise InputError(f"The run {name} has no frames {first} to {end}: choose from 0 to {count - 1}.")
    return range(first, end + 1)
