"""A patient who is not quite as the CT shows: soft tissue deformed around bones that stay, or one bone displaced.

X-rays are made from the changed CT while the registration gets the CT as it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.se3 import Array, se3_exp
from ..imaging.ct import CTVolume

# Above this bones are told from soft tissue; contrast agent and metal count as bone, which does no harm.
_BONE_HU = 200
_TISSUE_HU = 40.0
# Bones keep still, and what is farther from them than this follows the deformation fully, mm.
_FREE_MM = 15.0
# Points at which the deformation is stated lie this far apart, mm.
_GRID_MM = 6.0


def soft_tissue_deformed(ct: CTVolume, rng: np.random.Generator, mm: float = 8.0) -> CTVolume:
    """The CT with soft tissue shifted smoothly by up to about `mm` mm (root mean square half of it), bones kept."""
    import SimpleITK as sitk

    spacing = np.asarray(ct.spacing, float)
    image = sitk.GetImageFromArray(np.asarray(ct.hu, np.float32))
    image.SetSpacing(spacing.tolist())
    distance = sitk.SignedMaurerDistanceMap(image > _BONE_HU, squaredDistance=False, useImageSpacing=True)
    # The deformation is smooth: a coarse grid holds it.
    shape = [max(int(np.ceil(n * step / _GRID_MM)) + 1, 2) for n, step in zip(image.GetSize(), spacing, strict=True)]
    grid = sitk.Image(shape, sitk.sitkFloat32)
    grid.SetSpacing([_GRID_MM] * 3)
    near = sitk.GetArrayFromImage(sitk.Resample(distance, grid, sitk.Transform(), sitk.sitkLinear, 2 * _FREE_MM))
    k, j, i = (np.arange(n) * _GRID_MM for n in near.shape)
    field = np.zeros((*near.shape, 3))
    for axis in range(3):
        for _ in range(3):  # waves 15 to 30 cm long
            wave = rng.normal(size=3)
            wave *= 2 * np.pi / rng.uniform(150, 300) / np.linalg.norm(wave)
            phase = rng.uniform(0, 2 * np.pi)
            field[..., axis] += np.sin(wave[2] * k[:, None, None] + wave[1] * j[:, None] + wave[0] * i + phase)
    field *= mm / 2 / np.sqrt((field**2).sum(-1).mean()) * np.clip((near - _GRID_MM) / _FREE_MM, 0, 1)[..., None]
    displacement = sitk.GetImageFromArray(field, isVector=True)
    displacement.CopyInformation(grid)
    warp = sitk.DisplacementFieldTransform(displacement)
    moved = sitk.GetArrayFromImage(
        sitk.Resample(image, image, warp, sitk.sitkLinear, -1000.0, sitk.sitkFloat32, True)  # what is cut goes on
    )
    return CTVolume.from_array(moved, ct.affine, "deformed")


def bone_moved(ct: CTVolume, bone: NDArray[np.bool_], motion: Array) -> CTVolume:
    """The CT with one bone moved rigidly; soft tissue takes its old place.

    Args:
        bone: [k, j, i] where the bone is.
        motion: (4, 4) about the bone's centre, in RAS mm and axes.

    Raises:
        InputError: there is no bone.
    """
    import SimpleITK as sitk

    if not bone.any():
        raise InputError("The mask of the bone to move is empty.")
    index = np.argwhere(bone)[:, ::-1]
    center = ct.affine[:3, :3] @ index.mean(0) + ct.affine[:3, 3]
    to_center = np.eye(4)
    to_center[:3, 3] = center
    in_ras = to_center @ motion @ np.linalg.inv(to_center)
    # Where each voxel of the result comes from.
    back = np.linalg.inv(ct.affine) @ np.linalg.inv(in_ras) @ ct.affine
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(back[:3, :3].ravel().tolist())
    transform.SetTranslation(back[:3, 3].tolist())
    grown = sitk.GetArrayFromImage(sitk.BinaryDilate(sitk.GetImageFromArray(bone.astype(np.uint8)), [2, 2, 1])) > 0

    def moved(values: Any, outside: float) -> Any:
        image = sitk.GetImageFromArray(np.asarray(values, np.float32))
        return sitk.GetArrayFromImage(sitk.Resample(image, image, transform, sitk.sitkLinear, outside))

    hu = np.asarray(ct.hu, np.float32)
    emptied = np.where(grown, np.minimum(hu, _TISSUE_HU), hu)
    share = moved(grown, 0.0)
    return CTVolume.from_array(emptied + share * (moved(hu, -1000.0) - emptied), ct.affine, "moved bone")


def random_motion(rng: np.random.Generator, degrees: float = 5.0, mm: float = 5.0) -> Array:
    """(4, 4): a turn by `degrees` about, and a shift by `mm` along, directions drawn at random."""
    directions = rng.normal(size=(2, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return se3_exp(np.concatenate([np.deg2rad(degrees) * directions[0], mm * directions[1]]))


def largest_bone(ct: CTVolume, low: Array, high: Array) -> NDArray[np.bool_]:
    """[k, j, i]: the largest connected bone in a box, given as parts (0..1) of the CT's extent along i, j, k."""
    import SimpleITK as sitk

    size = np.array(ct.hu.shape[::-1])
    (i0, j0, k0), (i1, j1, k1) = (np.rint(np.asarray(part) * size).astype(int) for part in (low, high))
    inside = np.zeros(ct.hu.shape, bool)
    inside[k0:k1, j0:j1, i0:i1] = True
    labels = sitk.RelabelComponent(
        sitk.ConnectedComponent(sitk.GetImageFromArray(((ct.hu > _BONE_HU) & inside).astype(np.uint8)))
    )
    return np.asarray(sitk.GetArrayFromImage(labels) == 1)
