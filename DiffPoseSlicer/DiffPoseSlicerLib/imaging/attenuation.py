"""From Hounsfield units to linear attenuation, and the grid a renderer marches through.

The curve is the definition of the Hounsfield unit, mu = mu_water (1 + HU / 1000), with two deliberate departures:

- At and below -1000 HU, and so in any padding, mu is zero: air and nothing look alike.
- Above :data:`BONE_HU` the slope is multiplied by `bone_contrast`. A CT is taken at a higher mean energy than a
  fluoroscopy, where calcium weighs more against water; 1 keeps the CT's own contrast, about 1.4 is what the tabulated
  mass attenuation of cortical bone and water (NIST, 50 against 70 keV) predicts for an unfiltered 80 kV beam.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Water at about 70 keV, the mean energy of a filtered fluoroscopy beam behind a patient, 1/mm (NIST).
MU_WATER = 0.0193
AIR_HU = -1000
# The top of a 12-bit scan. Extended scans store metal up to 30000 HU: clamped here, so that the same patient renders
# alike from both and one screw does not drown the anatomy.
MAX_HU = 3071
# Where bone starts to differ from contrast-free soft tissue.
BONE_HU = 150
# A CT "ends in tissue" on a face where more than this fraction of the voxels is denser than TISSUE_HU.
CUT_FRACTION = 0.03
TISSUE_HU = -500

FloatArray = NDArray[np.float32]


def hu_to_mu(hu: NDArray[np.integer] | NDArray[np.floating], bone_contrast: float = 1.0) -> FloatArray:
    """Linear attenuation in 1/mm, float32, of Hounsfield units of any shape (see the module's text for the curve)."""
    if hu.dtype == np.int16 and hu.size > 1 << 16:
        # A table of all values that matter: no temporaries the size of the volume.
        table = hu_to_mu(np.arange(AIR_HU, MAX_HU + 1).astype(np.float32), bone_contrast)
        return table.take(np.clip(hu, AIR_HU, MAX_HU) - np.int16(AIR_HU))
    value = np.clip(hu, AIR_HU, MAX_HU).astype(np.float32)
    mu = (value - AIR_HU) * np.float32(MU_WATER / 1000)
    if bone_contrast != 1.0:
        mu += np.float32((bone_contrast - 1) * MU_WATER / 1000) * np.maximum(value - BONE_HU, 0)
    return mu


@dataclass(frozen=True, eq=False)
class AttenuationGrid:
    """What rays are integrated through: attenuation on a regular, possibly oblique or sheared grid.

    Attributes:
        mu: Linear attenuation [k, j, i], 1/mm, float32, C-contiguous, padded by one voxel of air on every face, so that
            the trilinear interpolant falls to zero continuously at the border of the CT.
        affine: 4x4, index (i, j, k, 1) of the padded array to RAS, mm.
        cut_faces: Whether the CT ends in tissue at its (i-, i+, j-, j+, k-, k+) face: anatomy goes on where it stops.
    """

    mu: FloatArray
    affine: NDArray[np.float64]
    cut_faces: tuple[bool, bool, bool, bool, bool, bool]

    @property
    def spacing(self) -> NDArray[Any]:
        """Voxel size along i, j, k, mm: (3,)."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @cached_property
    def ras_to_index(self) -> NDArray[Any]:
        """4x4, RAS mm to (i, j, k, 1) of the padded array."""
        return np.linalg.inv(self.affine)


def block_average(hu: NDArray, affine: NDArray[np.float64], factors: tuple[int, int, int]) -> AttenuationGrid:
    """Attenuation of a CT averaged over blocks of voxels and padded with air.

    Blocks that reach past the CT count what lies outside as air: the total attenuation is exactly that of the CT.

    Args:
        hu: [k, j, i].
        affine: 4x4 (i, j, k, 1) -> RAS.
        factors: Block size along i, j, k.
    """
    fi, fj, fk = factors
    nk, nj, ni = hu.shape
    shape = (-(-nk // fk), -(-nj // fj), -(-ni // fi))
    mu = np.zeros(tuple(n + 2 for n in shape), np.float32)
    scale = np.float32(1 / (fi * fj * fk))
    rows, columns = np.arange(0, nj, fj), np.arange(0, ni, fi)
    for k in range(shape[0]):  # one slab at a time: the only large array is the result
        slab = hu_to_mu(hu[k * fk : (k + 1) * fk])
        plane = slab.sum(0) if fk > 1 else slab[0]
        plane = np.add.reduceat(plane, rows, axis=0) if fj > 1 else plane
        plane = np.add.reduceat(plane, columns, axis=1) if fi > 1 else plane
        np.multiply(plane, scale, out=mu[k + 1, 1:-1, 1:-1])
    # Padded index 1 is block 0, whose centre lies at voxel (f - 1) / 2.
    scaled = np.eye(4)
    for axis, factor in enumerate(factors):
        scaled[axis, axis] = factor
        scaled[axis, 3] = (factor - 1) / 2 - factor
    return AttenuationGrid(mu, affine @ scaled, cut_faces(hu))


def cut_faces(hu: NDArray) -> tuple[bool, bool, bool, bool, bool, bool]:
    """Which faces (i-, i+, j-, j+, k-, k+) of a CT [k, j, i] lie in tissue."""
    faces = (hu[:, :, 0], hu[:, :, -1], hu[:, 0], hu[:, -1], hu[0], hu[-1])
    return tuple(bool((face > TISSUE_HU).mean() > CUT_FRACTION) for face in faces)  # type: ignore[return-value]
