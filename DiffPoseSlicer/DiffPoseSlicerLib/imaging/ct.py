"""CT volumes: Hounsfield units with their place in the world."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..geometry.coordinates import transform_points
from .attenuation import AIR_HU, MU_WATER, AttenuationGrid, FloatArray, block_average, hu_to_mu
from .dicom import is_dicom
from .dicom_ct import read_dicom_ct
from .itk import array_view, image_affine, read_image, set_affine
from .nifti import is_nifti, read_nifti, write_nifti
from .quiet import quiet

# What makes a CT too coarse or too small to be comfortable with, mm.
COARSE_MM, SMALL_MM = 3.5, 40.0


@dataclass(frozen=True, eq=False)
class CTVolume:
    """A CT in its own coordinates. Make one with :meth:`read` or :meth:`from_array`.

    Attributes:
        hu: Hounsfield units [k, j, i], int16 (float32 where the file has fractions); nothing below -1000 (air).
        affine: 4x4, index (i, j, k, 1) -> RAS mm; may be oblique or sheared.
        name: For display: a file's name, never a patient's.
        notes: What was found and decided on reading, in sentences for the user.
        frame_of_reference: DICOM's UID of the space the CT was taken in, or "".
    """

    hu: NDArray[np.int16] | NDArray[np.float32]
    affine: NDArray[np.float64]
    name: str = ""
    notes: tuple[str, ...] = ()
    frame_of_reference: str = ""
    _levels: dict[tuple[int, int, int], AttenuationGrid] = field(default_factory=dict, repr=False, init=False)

    @classmethod
    def from_array(cls, hu: ArrayLike, affine: ArrayLike, name: str = "", notes: tuple[str, ...] = ()) -> CTVolume:
        """A CT from Hounsfield units [k, j, i] and the 4x4 map from (i, j, k, 1) to RAS mm.

        Raises:
            InputError: not three-dimensional, not finite, or the affine has no inverse.
        """
        values = np.asarray(hu)
        what = f"CT {name}".rstrip()
        if values.ndim != 3 or min(values.shape) < 2:
            raise InputError(f"The {what} has shape {values.shape}: a volume of at least 2 x 2 x 2 voxels is needed.")
        matrix = np.array(affine, float)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.allclose(matrix[3], [0, 0, 0, 1]):
            raise InputError(f"The {what} has an affine that is not a finite 4x4 matrix ending in 0 0 0 1.")
        sizes = np.linalg.norm(matrix[:3, :3], axis=0)
        if min(sizes) <= 0 or abs(np.linalg.det(matrix[:3, :3] / np.maximum(sizes, 1e-300))) < 1e-3:
            raise InputError(f"The {what} has an affine without an inverse (voxel axes {sizes.round(4)} mm, coplanar).")
        if not 1e-3 <= min(sizes) <= max(sizes) <= 1e4:
            raise InputError(
                f"The {what} has voxels of {sizes.round(6).tolist()} mm, which cannot be; check its header."
            )
        if values.dtype.kind == "f":
            bad = ~np.isfinite(values)
            if bad.any():
                k, j, i = (int(n) for n in np.argwhere(bad)[0])
                raise InputError(
                    f"The {what} has {int(bad.sum())} voxels that are not finite, the first at i={i}, j={j}, k={k} "
                    f"({values[k, j, i]}); repair or crop the file."
                )
            whole = np.abs(values).max() <= 32767 and np.array_equal(values, np.rint(values))
            values = values.astype(np.int16 if whole else np.float32)
        elif values.dtype.kind in "iu":
            held = np.iinfo(values.dtype)  # numpy 2.0 refuses limits beyond the type's own
            values = np.clip(values, max(held.min, -32768), min(held.max, 32767)).astype(np.int16)
        else:
            raise InputError(f"The {what} holds {values.dtype} values, where Hounsfield units are needed.")
        return cls(np.ascontiguousarray(np.maximum(values, values.dtype.type(AIR_HU))), matrix, name, notes)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> CTVolume:
        """Read NIfTI, NRRD, MetaImage, a DICOM folder, or an enhanced multi-frame DICOM file.

        Raises:
            InputError: the file is missing, damaged, flat, or does not hold Hounsfield units.
        """
        path = Path(path)
        if not path.exists():
            raise InputError(f"The CT {path.name} does not exist; check the path.")
        frame_of_reference = ""
        if path.is_dir() or is_dicom(path):
            dicom = read_dicom_ct(path)
            values, affine, notes, frame_of_reference = (
                dicom.values,
                dicom.affine,
                dicom.notes,
                dicom.frame_of_reference,
            )
        elif is_nifti(path):
            values, affine, notes = read_nifti(path, "CT")
        else:
            image, notes = read_image(path, "CT"), ()
            if image.GetDimension() != 3 or min(image.GetSize()) < 2:
                raise InputError(
                    f"The CT {path.name} has size {list(image.GetSize())}: a volume is needed, not one image."
                )
            if image.GetNumberOfComponentsPerPixel() != 1:
                raise InputError(f"The CT {path.name} holds colours or vectors, where one value a voxel is needed.")
            values, affine = array_view(image), image_affine(image)
        volume = cls.from_array(values, affine, path.name, notes)
        return replace(volume, frame_of_reference=frame_of_reference)._as_hounsfield()._judged()

    def _as_hounsfield(self) -> CTVolume:
        """This volume with a masked background turned into air.

        Raises:
            InputError: the values cannot be Hounsfield units.
        """
        low, high = int(self.hu.min()), int(self.hu.max())
        if low >= 0:
            kind = "a label map" if high < 256 else "another modality, or a CT stored with an offset of 1024"
            raise InputError(
                f"The CT {self.name} holds values from {low} to {high}: these are not Hounsfield units (air would be "
                f"near -1000); it may be {kind}."
            )
        background = self.hu == 0
        if low > -900 and background[:: max(1, self.hu.shape[0] // 16)].mean() > 0.3 and background[0, 0, 0]:
            hu = np.where(background, self.hu.dtype.type(AIR_HU), self.hu)
            note = "The voxels of value 0 around the anatomy (a masked CT) were taken as air."
            return replace(self, hu=hu, notes=(*self.notes, note))
        return self

    def _judged(self) -> CTVolume:
        """With notes on what will limit the accuracy."""
        notes = list(self.notes)
        size = self.spacing * (np.array(self.hu.shape[::-1]) - 1)
        if max(self.spacing) > COARSE_MM:
            notes.append(
                f"The CT is coarse: its voxels are {max(self.spacing):.1f} mm long. Expect errors of that order along "
                "that axis; slices of 1 mm or less are best."
            )
        if min(size) < SMALL_MM:
            notes.append(f"The CT is small: {size.round().astype(int).tolist()} mm. Too little anatomy may be in view.")
        return replace(self, notes=tuple(notes))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write as .nii.gz, .nii, .nrrd or .mha, by ending.

        Raises:
            InputError: another ending, or the file cannot be written.
        """
        path = Path(path)
        if is_nifti(path):
            write_nifti(path, self.hu, self.affine)
            return
        import SimpleITK as sitk

        if path.suffix.lower() not in (".nrrd", ".mha"):
            raise InputError(f"A CT cannot be written as {path.name}: use .nii.gz, .nrrd or .mha.")
        image = sitk.GetImageFromArray(self.hu)
        set_affine(image, self.affine)
        with quiet():
            sitk.WriteImage(image, str(path), useCompression=True)

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Voxel size along i, j, k, mm: (3,)."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def center(self) -> NDArray[np.float64]:
        """Midpoint of this grid's voxel centres, RAS mm: (3,)."""
        nk, nj, ni = self.hu.shape
        return (self.affine @ [(ni - 1) / 2, (nj - 1) / 2, (nk - 1) / 2, 1])[:3]

    def cropped(self, mm: float | ArrayLike) -> CTVolume:
        """Without `mm` on every face, or on (i-, i+, j-, j+, k-, k+): six numbers. No voxel that stays moves.

        Raises:
            InputError: nothing would be left.
        """
        take = np.broadcast_to(np.asarray(mm, float), (6,)).reshape(3, 2)
        count = np.rint(take / self.spacing[:, None]).astype(int).clip(0)
        size = np.array(self.hu.shape[::-1])
        if (size - count.sum(1) < 2).any():
            raise InputError(f"Cropping the CT by {take.ravel().tolist()} mm leaves nothing of its {size} voxels.")
        return self._block(count[:, 0], size - count[:, 1])

    def region(self, low: ArrayLike, high: ArrayLike) -> CTVolume:
        """The voxels within the box from `low` to `high` in RAS mm (the smallest block of the grid that covers it).

        Raises:
            InputError: the box lies outside the CT.
        """
        low, high = np.minimum(low, high), np.maximum(low, high)
        corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
        index = transform_points(np.linalg.inv(self.affine), corners)
        size = np.array(self.hu.shape[::-1])
        start = np.clip(np.floor(index.min(0) + 1e-6), 0, size).astype(int)
        stop = np.clip(np.ceil(index.max(0) - 1e-6) + 1, 0, size).astype(int)
        if (stop - start < 2).any():
            raise InputError(f"The region from {low.tolist()} to {high.tolist()} mm (RAS) lies outside the CT.")
        return self._block(start, stop)

    def without_air(self, margin: float = 10.0) -> CTVolume:
        """Without the air, and the couch where it sticks out, around the body; `margin` mm of it stay.

        For speed: no voxel that stays moves. The body is what is connected at about 8 mm, where a couch's thin shell
        has averaged away: the largest piece of tissue and those of at least a twentieth of it (an arm, the other leg).
        """
        import SimpleITK as sitk

        grid = self.level(8.0)
        tissue = sitk.GetImageFromArray((grid.mu > MU_WATER * 0.6).astype(np.uint8))
        labels = sitk.GetArrayFromImage(sitk.RelabelComponent(sitk.ConnectedComponent(tissue)))
        sizes = np.bincount(labels.ravel())[1:]
        if not sizes.size:
            return self
        kept = np.flatnonzero(sizes >= sizes[0] / 20).max() + 1  # labels go by size
        found = np.argwhere((labels > 0) & (labels <= kept))[:, ::-1]
        ratio = grid.spacing / self.spacing
        size = np.array(self.hu.shape[::-1])
        extra = margin / self.spacing
        start = np.clip(np.floor((found.min(0) - 1) * ratio - extra), 0, size - 2).astype(int)
        stop = np.clip(np.ceil(found.max(0) * ratio + extra), start + 2, size).astype(int)
        return self._block(start, stop)

    def structure(self, mask: ArrayLike, margin: float = 4.0, name: str = "") -> CTVolume:
        """One structure alone: air outside `mask` [k, j, i], cropped to it and `margin` mm around. No voxel moves.

        Raises:
            InputError: a mask of another shape, or with hardly a voxel in it.
        """
        inside = np.asarray(mask).astype(bool)
        what = f"structure {name}".rstrip()
        if inside.shape != self.hu.shape:
            raise InputError(
                f"The mask of the {what} has shape {inside.shape}, the CT {self.hu.shape}: give one of its shape."
            )
        if inside.sum() < 100:
            raise InputError(f"The {what} has {int(inside.sum())} voxels: too little to be registered.")
        where = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in (2, 1, 0)]
        extra = np.ceil(margin / self.spacing).astype(int)
        size = np.array(self.hu.shape[::-1])
        start = np.maximum(np.array([w[0] for w in where]) - extra, 0)
        stop = np.minimum(np.array([w[-1] + 1 for w in where]) + extra, size)
        alone = replace(self, hu=np.where(inside, self.hu, self.hu.dtype.type(AIR_HU)), name=name or self.name)
        return alone._block(start, stop)

    def _block(self, start: NDArray[Any], stop: NDArray[Any]) -> CTVolume:
        """Voxels start to stop (exclusive) along i, j, k, where they are."""
        (i0, j0, k0), (i1, j1, k1) = start, stop
        affine = self.affine.copy()
        affine[:3, 3] = (self.affine @ [i0, j0, k0, 1])[:3]
        hu: Any = np.ascontiguousarray(self.hu[k0:k1, j0:j1, i0:i1])
        return replace(self, hu=hu, affine=affine)

    def attenuation(self, bone_contrast: float = 1.0) -> FloatArray:
        """Linear attenuation [k, j, i] in 1/mm at the CT's own resolution, float32."""
        return hu_to_mu(self.hu, bone_contrast)

    def level(self, spacing_mm: float = 0.0) -> AttenuationGrid:
        """The attenuation at about `spacing_mm` (0: the CT's own): whole voxels averaged; kept for the next call."""
        size = self.hu.shape[::-1]
        factors = tuple(min(max(1, round(spacing_mm / s)), n) for s, n in zip(self.spacing, size))
        if factors not in self._levels:
            self._levels[factors] = block_average(self.hu, self.affine, factors)
        return self._levels[factors]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the voxels, the shape and the affine: the same CT has the same one everywhere."""
        digest = hashlib.sha256(np.array(self.hu.shape, "<i8").tobytes())
        digest.update(self.affine.astype("<f8").tobytes())
        digest.update(self.hu.dtype.str.encode())
        digest.update(self.hu.data)
        return digest.hexdigest()
