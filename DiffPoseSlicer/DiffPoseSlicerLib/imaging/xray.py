"""X-ray images in the camera frame, as attenuation, with their C-arm."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..geometry.carm import CArm
from .attenuation import FloatArray
from .dicom import is_dicom
from .dicom_geometry import Fact
from .dicom_xray import DicomXray, Frame, read_dicom_xray, with_user_carm
from .intensity import Conversion, decide, from_processed, to_attenuation
from .itk import array_view, read_image
from .masking import basic_mask, saturated
from .nifti import is_nifti, read_nifti
from .orientation import camera_point, stored_point, stored_size, stored_spacing, to_camera, to_stored
from .positioner import Positioner
from .resampling import resample

GEOMETRY_NEEDED = (
    "give its C-arm as a carm.json with sourceToDetector (mm), imageSize [rows, columns] and pixelSpacing "
    "[row, column] (mm at the detector)"
)
_EXAMPLES = {
    "sourceToDetector": '"sourceToDetector": mm',
    "pixelSpacing": '"pixelSpacing": [row, column] in mm at the detector',
}


def geometry_needed(missing: Sequence[str]) -> str:
    """What a DICOM file lacks, and how to give it: only that, or a whole C-arm."""
    examples = ", ".join(_EXAMPLES[name] for name in missing)
    pronoun = "it" if len(missing) == 1 else "them"
    return f"{' and '.join(missing)}: give {pronoun} in a carm.json ({{{examples}}}), or a whole C-arm or preset"


ANGLES_NEEDED = "the positioner's angles: give the view instead"


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
        positioner: How the C-arm stood relative to the patient, where the file says so: what a start from DICOM needs.
        facts: Where each number of the geometry comes from.
        frame_of_reference: DICOM's UID of the space the image was taken in, or "".
    """

    pixels: FloatArray
    carm: CArm
    mask: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    conversion: Conversion | None = None
    name: str = ""
    positioner: Positioner | None = None
    facts: tuple[Fact, ...] = ()
    frame_of_reference: str = ""

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
        kind: str = "EXACT",
        top: float | None = None,
        inside: NDArray[np.bool_] | None = None,
    ) -> XrayImage:
        """An X-ray from stored values [row, column], turned into the camera frame as `carm` says.

        Args:
            pixels_as_stored: One value a pixel.
            carm: Geometry of the camera's image; its size after `rotation` must be that of the array.
            intensity: "transmission" or "attenuation"; default what `carm` says, else decided from the image.
            name, notes: For display.
            why: Who states the intensity, for the note.
            bits: Bits stored, to know saturation (default all of an integer type).
            kind: "EXACT": transmission is proportional to the beam's intensity, attenuation a line integral; "LIN":
                both are proportional to the intensity, attenuation reversed at `top`; "LOG": to its logarithm; "DISP":
                processed for display.
            top: The highest value possible.
            inside: Pixels that count as far as is known [row, column], as stored.

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
        if inside is not None:
            mask = inside if mask is None or not (mask & inside).any() else mask & inside
        if kind == "LIN" and intensity == "attenuation" and top is not None:
            # Proportional to the intensity, but reversed: what is missing to full scale came through.
            pixels, conversion = to_attenuation(
                np.maximum(top - stored.astype(np.float32), 0), "transmission", why, mask
            )
            note = f"Treated as reversed transmission (full scale {top:g}) because {why}."
            conversion = replace(conversion, intensity="attenuation", note=note, mirrored_at=top)
        elif kind in ("LIN", "EXACT"):
            pixels, conversion = to_attenuation(stored, intensity, why, mask, aperture is not None)
        else:
            if intensity is None:
                intensity, why = decide(stored, mask, aperture is not None)
            word = "logarithmic" if kind == "LOG" else "display-processed"
            pixels, conversion = from_processed(stored, intensity, f"Treated as {word} {intensity} because {why}.")
        return cls(
            np.ascontiguousarray(to_camera(pixels, carm)),
            replace(carm, intensity=conversion.intensity),
            None if mask is None else np.ascontiguousarray(to_camera(mask, carm)),
            (*notes, conversion.note, *mask_notes),
            conversion,
            name,
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str], carm: CArm | None = None, frame: Frame = None) -> XrayImage:
        """Read DICOM (with its own geometry), TIFF, PNG, JPEG, NIfTI, NRRD, MetaImage or .npy (with `carm`).

        Args:
            path: The image; row 0 is at the top. `name#3`, `name#3-9` and `name#average` choose frames, too.
            carm: Its geometry. For DICOM it replaces what the file says, except how the image is mirrored and turned.
            frame: Counted from 0; or (first, last) or "average" for the mean of several.

        Raises:
            InputError: missing, damaged, no such frame, not an X-ray, or no geometry; the message says what is missing.
        """
        path, chosen = split_frame(Path(path))
        frame = chosen if frame is None else frame
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "does not exist"
            raise InputError(f"The X-ray {path.name} {kind}; give one image file.")
        if is_dicom(path):
            return cls._from_dicom(read_dicom_xray(path, frame), carm, path.name)
        stored, notes = read_pixels(path, frame)
        if carm is None:
            raise InputError(f"The X-ray {path.name} carries no geometry: {GEOMETRY_NEEDED}.")
        xray = cls.from_array(stored, carm, name=path.name, notes=notes, why="the C-arm file says so")
        return replace(xray, facts=tuple(user_facts(carm)))

    @classmethod
    def _from_dicom(cls, image: DicomXray, carm: CArm | None, name: str) -> XrayImage:
        """Raises InputError: the geometry is incomplete and none is given."""
        facts, notes = image.facts, image.notes
        if carm is not None:
            carm = with_user_carm(image, carm)
            facts = (*(f for f in facts if f.name in ("kind", "image", "beam", "stored image")), *user_facts(carm))
        elif image.geometry.carm is None:
            missing = geometry_needed(image.geometry.missing)
            why = " ".join(note for note in image.geometry.notes if "missing" in note or "not taken" in note)
            raise InputError(f"The X-ray {name} lacks {missing}.{' ' + why if why else ''}")
        else:
            carm = image.geometry.carm
        how = image.relation
        intensity = carm.intensity or how.intensity
        why = "the C-arm file says so" if carm.intensity else how.why
        xray = cls.from_array(
            image.values, carm, intensity, name=name, notes=notes, why=why, bits=image.bits,
            kind="EXACT" if carm.intensity else how.kind, top=image.top, inside=image.mask,
        )  # fmt: skip
        return replace(
            xray,
            positioner=image.geometry.positioner,
            facts=(*facts, Fact("values", f"{xray.carm.intensity}", why or "decided from the image")),
            frame_of_reference=image.frame_of_reference,
        )

    @property
    def stored(self) -> FloatArray:
        """The image as it was stored: orientation and intensity turned back, [row, column]."""
        values = self.conversion.to_stored(self.pixels) if self.conversion else self.pixels
        return np.ascontiguousarray(to_stored(values, self.carm))

    def next_frame(self, stored: ArrayLike) -> XrayImage:
        """The next frame of the same run [row, column], as stored: its values mean what this one's do.

        What the collimator leaves is taken as here; only saturation is looked for anew.

        Raises:
            InputError: another size than this frame, or values that are not finite.
        """
        values = np.asarray(stored)
        if values.shape != stored_size(self.carm) or values.dtype.kind not in "iufb":
            raise InputError(
                f"A frame of shape {values.shape} follows one of {stored_size(self.carm)} in the same run."
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InputError("A frame has pixels that are not finite.")
        convert = self.conversion.to_attenuation if self.conversion else (lambda x: np.asarray(x, np.float32))
        pixels, mask = np.ascontiguousarray(to_camera(convert(values), self.carm)), self.mask
        clipped = saturated(values)
        if clipped.any():
            open_ = ~to_camera(clipped, self.carm)
            mask = np.ascontiguousarray(open_ if mask is None else mask & open_)
        return replace(self, pixels=pixels, mask=mask)

    def reoriented(self, mirrored: bool, rotation: int) -> XrayImage:
        """The same stored image, taken to be mirrored and turned in another way: for trying what fits.

        Pixel spacing and principal point stay with the stored pixels they belong to.
        """
        carm, (row, column) = self.carm, stored_spacing(self.carm)
        point = stored_point(carm.principal_point, carm)
        turned = rotation in (90, 270)
        size = stored_size(carm)
        new = replace(
            carm,
            image_size=size[::-1] if turned else size,
            pixel_spacing=(column, row) if turned else (row, column),
            mirrored=mirrored,
            rotation=rotation,
        )
        new = replace(new, principal_point=camera_point(point, new))
        again = lambda image: np.ascontiguousarray(to_camera(to_stored(image, carm), new))  # noqa: E731
        return replace(self, carm=new, pixels=again(self.pixels), mask=None if self.mask is None else again(self.mask))

    def resized(self, rows: int, columns: int) -> XrayImage:
        """The same image on rows x columns pixels: area means when coarser, linear when finer; the mask goes along."""
        pixels, mask = resample(self.pixels, rows, columns, self.mask)
        return replace(self, pixels=np.ascontiguousarray(pixels), mask=mask, carm=self.carm.resized((rows, columns)))


def split_frame(path: Path) -> tuple[Path, Frame]:
    """(`run.dcm#12` or `#3-9` or `#average`) to the file and the frame; a file that is called so is left alone."""
    found = re.fullmatch(r"(.+)#(?:(\d{1,6})(?:-(\d{1,6}))?|(average))", path.name)
    if found is None or path.exists():
        return path, None
    name, first, last, average = found.groups()
    frame: Frame = "average" if average else (int(first), int(last)) if last else int(first)
    return path.with_name(name), frame


def user_facts(carm: CArm) -> list[Fact]:
    """Facts of a geometry the user gave."""
    (row, column), (u, v), source = carm.pixel_spacing, carm.principal_point, "C-arm file"
    return [
        Fact("source to detector", f"{carm.source_to_detector:g} mm", source),
        Fact("source to isocentre", f"{carm.source_to_isocenter:g} mm", source),
        Fact("pixel spacing", f"{row:g} x {column:g} mm (row, column) at the detector", source),
        Fact("principal point", f"column {u:.2f}, row {v:.2f}", source),
    ]


def read_pixels(path: Path, frame: Frame = None) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Stored values [row, column] of an image file other than DICOM, and notes.

    Raises:
        InputError: damaged, of an unknown kind, or several frames and none chosen.
    """
    notes: tuple[str, ...] = ()
    if path.suffix.lower() == ".npy":
        try:
            stored = np.load(path, allow_pickle=False)
        except Exception:  # a damaged header raises almost anything: numpy parses it as Python
            raise InputError(f"The X-ray {path.name} is damaged or not a NumPy array of numbers.") from None
        if not isinstance(stored, np.ndarray):
            stored.close()
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
        stored, colour_notes = to_grey(stored, path)
        notes += colour_notes
    if stored.ndim > 2 and stored.dtype.kind in "iufb" and stored.size:
        stored = stored.reshape(-1, *stored.shape[-2:])
        stored, frame_notes = _one_frame(stored, frame, path.name)
        notes += frame_notes
    return stored, notes


def _one_frame(frames: NDArray[Any], frame: Frame, name: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """One image out of [frame, row, column].

    Raises:
        InputError: several and none chosen (it may be a volume given by mistake), or no such frame.
    """
    count = len(frames)
    if count == 1 and frame in (None, 0, "average"):
        return frames[0], ()
    if frame is None:
        raise InputError(f"The X-ray {name} has {count} frames: choose one, 0 to {count - 1}, as {name}#N.")
    if frame == "average":
        return frames.mean(0, dtype=np.float32), (f"The mean of all {count} frames was taken.",)
    first, last = (frame, frame) if isinstance(frame, int) else frame if isinstance(frame, tuple) else (-1, -1)
    if not 0 <= first <= last < count:
        raise InputError(f"The X-ray {name} has no frame {frame}: choose 0 to {count - 1}.")
    if first == last:
        return frames[first], (f"Frame {first} of {count} (counted from 0) was taken.",)
    mean = frames[first : last + 1].mean(0, dtype=np.float32)
    return mean, (f"The mean of the frames {first} to {last} of {count} was taken.",)


def to_grey(stored: NDArray[Any], path: Path) -> tuple[NDArray[Any], tuple[str, ...]]:
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
