"""X-ray images in the camera frame, as attenuation, with their C-arm."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..geometry.carm import CArm
from .attenuation import FloatArray
from .intensity import Conversion, to_attenuation
from .itk import array_view, read_image
from .masking import basic_mask
from .nifti import is_nifti, read_nifti
from .orientation import stored_size, to_camera, to_stored
from .resampling import resample

GEOMETRY_NEEDED = (
    "give its C-arm as a carm.json with sourceToDetector (mm), imageSize [rows, columns] and pixelSpacing "
    "[row, column] (mm at the detector)"
)


@dataclass(frozen=True, eq=False)
class XrayImage:
    """An X-ray image as the camera sees it. Make one with :meth:`read` or :meth:`from_array`.

    Attributes:
        pixels: Attenuation [row, column], float32: bone bright, -log(I / I0) for transmission.
        carm: Its geometry; `image_size` is the shape of `pixels`; `mirrored` and `rotation` tell how it was stored.
        mask: Pixels that count [row, column], or None for all.
        notes: What was decided on reading and why, in sentences for the user.
        conversion: How stored values became attenuation.
        name: For display: a file's name, never a patient's.
    """

    pixels: FloatArray
    carm: CArm
    mask: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    conversion: Conversion | None = None
    name: str = ""

    @classmethod
    def from_array(
        cls,
        pixels_as_stored: ArrayLike,
        carm: CArm,
        intensity: str | None = None,
        *,
        name: str = "",
        notes: tuple[str, ...] = (),
        why: str = "it was stated",
        bits: int | None = None,
    ) -> XrayImage:
        """An X-ray from stored values [row, column], turned into the camera frame as `carm` says.

        Args:
            pixels_as_stored: One value a pixel.
            carm: Geometry of the camera's image; its size after `rotation` must be that of the array.
            intensity: "transmission" or "attenuation"; default what `carm` says, else decided from the image.
            name, notes: For display.
            why: Who states the intensity, for the note.
            bits: Bits stored, to know saturation (default all of an integer type).

        Raises:
            InputError: not one value a pixel, not finite, flat, or not the C-arm's size.
        """
        stored = np.asarray(pixels_as_stored)
        what = f"X-ray {name}".rstrip()
        if stored.ndim != 2 or stored.dtype.kind not in "iufb":
            raise InputError(f"The {what} has shape {stored.shape} of {stored.dtype}: one number a pixel is needed.")
        stored = stored.astype(np.uint8) if stored.dtype.kind == "b" else stored
        if stored.dtype.kind == "f":
            bad = ~np.isfinite(stored)
            if bad.any():
                row, column = (int(n) for n in np.argwhere(bad)[0])
                raise InputError(
                    f"The {what} has {int(bad.sum())} pixels that are not finite, the first at column {column}, "
                    f"row {row}."
                )
        if stored.shape != stored_size(carm):
            turned = f" (turned by {carm.rotation} degrees)" if carm.rotation else ""
            raise InputError(
                f"The {what} is {stored.shape[0]} x {stored.shape[1]} (rows x columns), but its C-arm says imageSize "
                f"{list(carm.image_size)}{turned}: correct the C-arm file or choose the image it belongs to."
            )
        if stored.min() == stored.max():
            raise InputError(f"The {what} is flat: all its pixels are {stored.flat[0]}.")
        intensity = intensity or carm.intensity
        mask, mask_notes, aperture = basic_mask(stored, bits, intensity)
        pixels, conversion = to_attenuation(stored, intensity, why, mask, aperture is not None)
        return cls(
            np.ascontiguousarray(to_camera(pixels, carm)),
            replace(carm, intensity=conversion.intensity),
            None if mask is None else np.ascontiguousarray(to_camera(mask, carm)),
            (*notes, conversion.note, *mask_notes),
            conversion,
            name,
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str], carm: CArm | None = None, frame: int | None = None) -> XrayImage:
        """Read TIFF, PNG, JPEG, NIfTI, NRRD, MetaImage or .npy with the geometry given by `carm`.

        Args:
            path: The image; row 0 is at the top.
            carm: Its geometry.
            frame: Which frame of several, counted from 0.

        Raises:
            InputError: missing, damaged, several frames and none chosen, or no geometry.
        """
        path = Path(path)
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "does not exist"
            raise InputError(f"The X-ray {path.name} {kind}; give one image file.")
        stored, notes = read_pixels(path, frame)
        if carm is None:
            raise InputError(f"The X-ray {path.name} carries no geometry: {GEOMETRY_NEEDED}.")
        return cls.from_array(stored, carm, name=path.name, notes=notes, why="the C-arm file says so")

    @property
    def stored(self) -> FloatArray:
        """The image as it was stored: orientation and intensity turned back, [row, column]."""
        values = self.conversion.to_stored(self.pixels) if self.conversion else self.pixels
        return np.ascontiguousarray(to_stored(values, self.carm))

    def resized(self, rows: int, columns: int) -> XrayImage:
        """The same image on rows x columns pixels: area means when coarser, linear when finer; the mask goes along."""
        pixels, mask = resample(self.pixels, rows, columns, self.mask)
        return replace(self, pixels=np.ascontiguousarray(pixels), mask=mask, carm=self.carm.resized((rows, columns)))


def read_pixels(path: Path, frame: int | None = None) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Stored values [row, column] of an image file other than DICOM, and notes.

    Raises:
        InputError: damaged, of an unknown kind, or several frames and none chosen.
    """
    notes: tuple[str, ...] = ()
    if path.suffix.lower() == ".npy":
        try:
            stored = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError, MemoryError, OverflowError):
            raise InputError(f"The X-ray {path.name} is damaged or not a NumPy array of numbers.") from None
        if not isinstance(stored, np.ndarray):
            raise InputError(f"The X-ray {path.name} is an archive of arrays: save one array as .npy.")
        colours = 0
    elif is_nifti(path):
        stored, _, notes = read_nifti(path, "X-ray")
        colours = 0
    else:
        image = read_image(path, "X-ray")
        stored = array_view(image).copy()
        colours = image.GetNumberOfComponentsPerPixel()
    if colours > 1:
        stored, colour_notes = _to_grey(stored, path)
        notes += colour_notes
    if stored.ndim > 2 and stored.dtype.kind in "iufb":
        stored = stored.reshape(-1, *stored.shape[-2:]) if stored.size else stored
        if len(stored) > 1:
            if frame is None:
                raise InputError(f"The X-ray {path.name} has {len(stored)} frames: choose one, 0 to {len(stored) - 1}.")
            if not 0 <= frame < len(stored):
                raise InputError(f"The X-ray {path.name} has no frame {frame}: choose 0 to {len(stored) - 1}.")
            notes += (f"Frame {frame} of {len(stored)} (counted from 0) was taken.",)
        stored = stored[frame if frame is not None and len(stored) > 1 else 0]
    return stored, notes


def _to_grey(stored: NDArray[Any], path: Path) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Colours [..., components] to one value a pixel."""
    components = stored.shape[-1]
    if components == 2:  # grey and opacity
        return stored[..., 0], ()
    if components not in (3, 4):
        raise InputError(f"The X-ray {path.name} has {components} values a pixel: save it as a grey image.")
    red, green, blue = (stored[..., n] for n in range(3))
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return red, ()
    grey = np.rint(stored[..., :3] @ np.array([0.299, 0.587, 0.114])).astype(stored.dtype)
    share = 100 * float(((red != green) | (green != blue)).mean())
    return grey, (f"The image has colours ({share:.1f} % of its pixels; burnt-in marks?): their brightness was taken.",)
