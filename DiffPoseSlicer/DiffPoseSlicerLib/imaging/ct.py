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
from .attenuation import AIR_HU, AttenuationGrid, FloatArray, block_average, hu_to_mu
from .itk import array_view, image_affine, read_image, set_affine
from .nifti import is_nifti, read_nifti, write_nifti
from .quiet import quiet


@dataclass(frozen=True, eq=False)
class CTVolume:
    """A CT in its own coordinates. Make one with :meth:`read` or :meth:`from_array`.

    Attributes:
        hu: Hounsfield units [k, j, i], int16 (float32 where the file has fractions); nothing below -1000 (air).
        affine: 4x4, index (i, j, k, 1) -> RAS mm; may be oblique or sheared.
        name: For display: a file's name, never a patient's.
        notes: What was found and decided on reading, in sentences for the user.
    """

    hu: NDArray[np.int16] | NDArray[np.float32]
    affine: NDArray[np.float64]
    name: str = ""
    notes: tuple[str, ...] = ()
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
            values = np.clip(values, -32768, 32767).astype(np.int16)
        else:
            raise InputError(f"The {what} holds {values.dtype} values, where Hounsfield units are needed.")
        return cls(np.ascontiguousarray(np.maximum(values, values.dtype.type(AIR_HU))), matrix, name, notes)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> CTVolume:
        """Read NIfTI, NRRD, MetaImage or a DICOM folder.

        Raises:
            InputError: the file is missing, damaged, flat, or does not hold Hounsfield units.
        """
        path = Path(path)
        if not path.exists():
            raise InputError(f"The CT {path.name} does not exist; check the path.")
        if path.is_dir():
            return cls._read_folder(path)
        if is_nifti(path):
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
        return volume._as_hounsfield()

    @classmethod
    def _read_folder(cls, path: Path) -> CTVolume:
        import SimpleITK as sitk

        with quiet():
            ids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path))
            series = [sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), one) for one in ids]
            if not series:
                raise InputError(f"The folder {path.name} holds no DICOM series; choose the folder with the slices.")
            image = sitk.ReadImage(max(series, key=len))
        return cls.from_array(array_view(image), image_affine(image), path.name)._as_hounsfield()

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
        (i0, j0, k0), (i1, j1, k1) = count[:, 0], size - count[:, 1]
        affine = self.affine.copy()
        affine[:3, 3] = (self.affine @ [i0, j0, k0, 1])[:3]
        hu: Any = np.ascontiguousarray(self.hu[k0:k1, j0:j1, i0:i1])
        return replace(self, hu=hu, affine=affine)

    def attenuation(self, bone_contrast: float = 1.0) -> FloatArray:
        """Linear attenuation [k, j, i] in 1/mm at the CT's own resolution, float32."""
        return hu_to_mu(self.hu, bone_contrast)

    def level(self, spacing_mm: float = 0.0) -> AttenuationGrid:
        """The attenuation at about `spacing_mm` (0: the CT's own): whole voxels averaged; kept for the next call."""
        factors = tuple(max(1, round(spacing_mm / s)) for s in self.spacing)
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
