"""Which rays are evidence: anatomy that the CT cuts off must neither help nor hurt.

A CT ends somewhere, and where it ends in tissue the X-ray shows more than the CT can explain. A ray that runs through
the continuation of such a cut face is no evidence. The continuation is taken as a prism: the face's tissue (its
bounding box) extended outwards without end.

That holds for faces seen from the side. Where rays leave through a cut face (a small scan of the pelvis, cut in front
and behind) all of them miss some of the body, and what they miss is a layer that varies slowly over the image, which
local correlation forgives; such faces take nothing away.

How far the anatomy goes on is not known. Rays without weight are therefore compared all the same, and count where whole
patches of them agree (see `similarity.LocalCorrelation`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..geometry.se3 import Array

if TYPE_CHECKING:
    from ..imaging.attenuation import AttenuationGrid

# Voxels above this (about -500 HU) are tissue: half the attenuation of water at the energies of interest.
_TISSUE = 0.01
# A ray that misses less tissue than this (mm) keeps part of its weight: the weight falls linearly from 1 to 0.
_TOLERANCE_MM = 12.0
# Cosine between ray and face normal up to which a face is seen from the side, and from which rays leave through it.
_ASIDE, _THROUGH = 0.6, 0.85


@dataclass(frozen=True)
class CutPrism:
    """Continuation of one cut face: the half-space beyond `face` along `axis`, bounded by a box in the other axes.

    Index coordinates (i, j, k) of the grid it was made from.
    """

    axis: int

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


def cut_prisms(grid: AttenuationGrid) -> list[CutPrism]:
    """The prisms of a grid's cut faces (see `AttenuationGrid.cut_faces`)."""
    prisms = []
    shape = np.array(grid.mu.shape[::-1])
    for face, cut in enumerate(grid.cut_faces):
        if not cut:
            continue
        axis, last = divmod(face, 2)
        # The outermost layer is air padding; the one inside it is the CT's end.
        layer = int(shape[axis] - 2 if last else 1)
        tissue = np.take(grid.mu, layer, axis=2 - axis) > _TISSUE
        if not tissue.any():
            continue
        lower, upper = np.full(3, -np.inf), np.full(3, np.inf)
        others = [a for a in (2, 1, 0) if a != axis]  # axes of the layer's array, slowest first
        for array_axis, a in enumerate(others):
            hit = np.flatnonzero(tissue.any(axis=1 - array_axis))
            lower[a], upper[a] = hit[0] - 0.5, hit[-1] + 0.5
        if last:
            lower[axis] = layer + 0.5
        else:
            upper[axis] = layer - 0.5
        prisms.append(CutPrism(axis, lower, upper))
    return prisms


def ray_weights(
    prisms: list[CutPrism], ras_to_index: Array, camera_to_ras: Array, points: Array, least: float = 0.0
) -> NDArray[np.float32]:
    """Weight in [0, 1] of each ray from how much of it runs through missing anatomy.

    Args:
        prisms: from :func:`cut_prisms`.
        ras_to_index: (4, 4) of the same grid.
        camera_to_ras: (B, 4, 4).
        points: (N, 3) detector points in the camera frame, mm.
        least: part of the rays that keep some weight at least, those that miss least; 0 for none.

    Returns:
        (B, N).
    """
    to_index = (ras_to_index @ camera_to_ras).astype(np.float32)
    columns = np.ascontiguousarray(np.asarray(points, np.float32).T)
    length = np.sqrt((columns * columns).sum(0))
    source = to_index[:, :3, 3, None]
    directions = [to_index[:, axis, :3] @ columns for axis in range(3)]  # (B, N) each
    slopes = [1 / np.copysign(np.maximum(np.abs(d), np.float32(1e-6)), d) for d in directions]
    missing = np.zeros((len(to_index), len(points)), np.float32)
    between = np.empty_like(missing)
    for prism in prisms:
        normal = np.float32(np.linalg.norm(ras_to_index[prism.axis, :3]))
        cosine = np.abs(directions[prism.axis]) / (normal * length)
        aside = np.clip((_THROUGH - cosine) / (_THROUGH - _ASIDE), 0, 1)
        if not aside.any():
            continue
        near, far = np.zeros_like(missing), np.ones_like(missing)
        for axis, slope in enumerate(slopes):
            bounds = np.float32(prism.lower[axis]), np.float32(prism.upper[axis])
            if not np.isfinite(bounds).any():
                continue
            t0, t1 = ((bound - source[:, axis]) * slope for bound in bounds)
            np.maximum(near, np.minimum(t0, t1, out=between), out=near)
            np.minimum(far, np.maximum(t0, t1, out=between), out=far)
        missing += np.maximum(far - near, 0, out=between) * aside
    missing *= length
    tolerance = np.full((len(missing), 1), _TOLERANCE_MM, np.float32)
    if least:
        tolerance = np.maximum(tolerance, 2 * np.quantile(missing, least, axis=1, keepdims=True).astype(np.float32))
    return np.clip(1 - missing / tolerance, 0, 1)
