"""The C-arm as a pinhole camera.

Camera frame (OpenCV's): origin at the X-ray source, +z towards the detector, +x along image columns (right), +y along
image rows (down), in mm. Pixel (column u, row v) has its centre at integer (u, v). Image sizes are [rows, columns] and
pixel spacings [row, column], as in DICOM; points in the image are [column, row].
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from .files import number, numbers, read_json, write_json
from .se3 import Array

# Where a C-arm's isocentre lies when nobody says otherwise: 700 of 1020 mm from the source.
ISOCENTER_FRACTION = 700.0 / 1020.0
INTENSITIES = ("transmission", "attenuation")


@dataclass(frozen=True)
class CArm:
    """Intrinsic geometry of one X-ray image.

    Attributes:
        source_to_detector: Distance from the source to the detector plane, mm.
        image_size: (rows, columns).
        pixel_spacing: (row, column) distance between pixel centres at the detector, mm.
        principal_point: (column, row) where the ray orthogonal to the detector meets it, in pixels; default the centre
            ((columns - 1) / 2, (rows - 1) / 2).
        source_to_isocenter: Distance from the source to the point a nominal view turns about, mm; default 700/1020 of
            `source_to_detector`.
        intensity: What stored pixel values are: "transmission" (air bright), "attenuation" (bone bright) or None where
            unknown.
        mirrored, rotation: How the image *as stored* differs from the one the camera sees: the camera's image mirrored
            left to right (if `mirrored`), then turned counter-clockwise by `rotation` (0, 90, 180, 270 degrees). All
            other attributes describe the camera's image.

    Raises:
        InputError: a value is not possible; the message names it.
    """

    source_to_detector: float
    image_size: tuple[int, int]
    pixel_spacing: tuple[float, float]
    principal_point: tuple[float, float] = None  # type: ignore[assignment]  # filled in on construction
    source_to_isocenter: float = None  # type: ignore[assignment]  # filled in on construction
    intensity: str | None = None
    mirrored: bool = False
    rotation: int = 0

    def __post_init__(self) -> None:
        set_ = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  (frozen dataclass)
        rows, columns = (int(n) for n in self.image_size)
        if (rows, columns) != tuple(self.image_size) or min(rows, columns) < 2:
            raise InputError(f"imageSize is {list(self.image_size)}: two whole numbers of at least 2 are needed.")
        set_("image_size", (rows, columns))
        set_("pixel_spacing", tuple(float(s) for s in self.pixel_spacing))
        if len(self.pixel_spacing) != 2 or not all(np.isfinite(s) and 1e-3 <= s <= 50 for s in self.pixel_spacing):
            raise InputError(
                f"pixelSpacing is {list(self.pixel_spacing)} mm: give [row, column] distances at the detector "
                "between 0.001 and 50 mm."
            )
        set_("source_to_detector", float(self.source_to_detector))
        if not 10 <= self.source_to_detector <= 1e5:
            raise InputError(
                f"sourceToDetector is {self.source_to_detector:g} mm: give the distance from the X-ray source to the "
                "detector, usually 900 to 1300 mm."
            )
        if self.principal_point is None:
            set_("principal_point", ((columns - 1) / 2, (rows - 1) / 2))
        set_("principal_point", tuple(float(p) for p in self.principal_point))
        if len(self.principal_point) != 2 or not np.isfinite(self.principal_point).all():
            raise InputError(f"principalPoint is {self.principal_point!r}: give [column, row] in pixels.")
        if self.source_to_isocenter is None:
            set_("source_to_isocenter", self.source_to_detector * ISOCENTER_FRACTION)
        set_("source_to_isocenter", float(self.source_to_isocenter))
        if not 0 < self.source_to_isocenter <= 1e5:
            raise InputError(
                f"sourceToIsocenter is {self.source_to_isocenter:g} mm: a positive distance is needed; leave it out "
                "to get 700/1020 of sourceToDetector."
            )
        if self.intensity not in (None, *INTENSITIES):
            raise InputError(f"intensity is {self.intensity!r}: use 'transmission' (air bright) or 'attenuation'.")
        if self.rotation not in (0, 90, 180, 270):
            raise InputError(f"rotation is {self.rotation!r}: use 0, 90, 180 or 270 degrees.")

    @property
    def intrinsics(self) -> Array:
        """K (3x3): camera coordinates in mm to homogeneous pixels (column, row)."""
        (row, column), (u0, v0) = self.pixel_spacing, self.principal_point
        return np.array(
            [[self.source_to_detector / column, 0, u0], [0, self.source_to_detector / row, v0], [0, 0, 1.0]]
        )

    @property
    def detector_from_pixel(self) -> Array:
        """D (3x3): (column, row, 1) to the pixel centre on the detector, camera frame, mm."""
        (row, column), (u0, v0) = self.pixel_spacing, self.principal_point
        return np.array([[column, 0, -column * u0], [0, row, -row * v0], [0, 0, self.source_to_detector]])

    def pixel_grid(self) -> Array:
        """All pixels as (column, row), row by row: (rows * columns, 2)."""
        rows, columns = self.image_size
        v, u = np.mgrid[0:rows, 0:columns]
        return np.stack([u.ravel(), v.ravel()], -1).astype(float)

    def detector_points(self, pixels: ArrayLike | None = None) -> Array:
        """Pixel centres on the detector in the camera frame, mm. pixels (..., 2) as (column, row); default all."""
        pixels = self.pixel_grid() if pixels is None else np.asarray(pixels, float)
        return np.concatenate([pixels, np.ones_like(pixels[..., :1])], -1) @ self.detector_from_pixel.T

    def project(self, points: ArrayLike) -> Array:
        """Camera-frame points (..., 3) in mm to pixels (..., 2) as (column, row); points behind the source give NaN."""
        homogeneous = np.asarray(points, float) @ self.intrinsics.T
        depth = homogeneous[..., 2:]
        return np.where(depth > 0, homogeneous[..., :2] / np.where(depth > 0, depth, 1.0), np.nan)

    def resized(self, image_size: tuple[int, int]) -> CArm:
        """The same detector, covered by another number of pixels: outer edges stay where they are."""
        rows, columns = image_size
        fr, fc = self.image_size[0] / rows, self.image_size[1] / columns
        u0, v0 = self.principal_point
        return replace(
            self,
            image_size=(rows, columns),
            pixel_spacing=(self.pixel_spacing[0] * fr, self.pixel_spacing[1] * fc),
            principal_point=((u0 + 0.5) / fc - 0.5, (v0 + 0.5) / fr - 0.5),
        )

    def cropped(self, top: int, left: int, image_size: tuple[int, int]) -> CArm:
        """The window of `image_size` pixels whose first pixel is (left, top)."""
        u0, v0 = self.principal_point
        return replace(self, image_size=image_size, principal_point=(u0 - left, v0 - top))

    def to_json(self) -> dict[str, Any]:
        """The content of a carm.json."""
        data: dict[str, Any] = {
            "sourceToDetector": self.source_to_detector,
            "imageSize": list(self.image_size),
            "pixelSpacing": list(self.pixel_spacing),
            "principalPoint": list(self.principal_point),
            "sourceToIsocenter": self.source_to_isocenter,
        }
        if self.intensity:
            data["intensity"] = self.intensity
        if self.mirrored or self.rotation:
            data |= {"mirrored": self.mirrored, "rotation": self.rotation}
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any], what: str = "C-arm file") -> CArm:
        """A C-arm from the content of a carm.json.

        Raises:
            InputError: something is missing, of the wrong shape or impossible.
        """

        def optional(key: str, value: Callable[[], Any]) -> Any:
            return None if data.get(key) is None else value()

        size = numbers(data, "imageSize", 2, what)
        mirrored = data.get("mirrored", False)
        if not isinstance(mirrored, bool):
            raise InputError(f"The {what} has mirrored = {mirrored!r}, where true or false is expected.")
        return cls(
            source_to_detector=number(data, "sourceToDetector", what),
            image_size=tuple(int(n) if n == int(n) else n for n in size),  # type: ignore[arg-type]
            pixel_spacing=tuple(numbers(data, "pixelSpacing", 2, what)),  # type: ignore[arg-type]
            principal_point=optional("principalPoint", lambda: tuple(numbers(data, "principalPoint", 2, what))),
            source_to_isocenter=optional("sourceToIsocenter", lambda: number(data, "sourceToIsocenter", what)),
            intensity=data.get("intensity"),
            mirrored=mirrored,
            rotation=data.get("rotation", 0),
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> CArm:
        """Read a carm.json. Raises InputError as :meth:`from_json`."""
        return cls.from_json(read_json(path, "C-arm file"))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a carm.json."""
        write_json(path, self.to_json())
