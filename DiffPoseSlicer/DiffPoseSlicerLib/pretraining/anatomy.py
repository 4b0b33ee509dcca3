"""Variants of one CT that a network should not tell apart: bone contrast, and what lies beyond the CT's cut faces."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..imaging.attenuation import BONE_HU, MU_WATER, AttenuationGrid
from ..imaging.ct import CTVolume

# Factors on the attenuation above soft tissue, and how cut faces are continued, for each variant.
VARIANTS = (
    (1.0, "reflect"),
    (1.0, "cut"),
    (1.4, "reflect"),
    (1.0, "edge"),
    (0.8, "reflect"),
    (1.8, "cut"),
    (1.4, "edge"),
)

# What is added at the sides, and the half width of the box that takes the detail out of it, mm.
_SIDE_MM, _DETAIL_MM = 20.0, 15.0


def variants(ct: CTVolume, spacing_mm: float, beyond_mm: float = 120.0) -> list[AttenuationGrid]:
    """The CT at about `spacing_mm`, in every way of :data:`VARIANTS`.

    A fluoroscopy shows anatomy the CT does not have. Rays that leave through a cut face are dark in a plain rendering
    and bright in the real image; a network that saw both, and continuations of two kinds, does not lean on them.
    """
    grid = ct.level(spacing_mm)
    chosen = VARIANTS if any(grid.cut_faces) else tuple(dict.fromkeys((c, "cut") for c, _ in VARIANTS))
    return [continued(with_bone_contrast(grid, contrast), how, beyond_mm) for contrast, how in chosen]


def with_bone_contrast(grid: AttenuationGrid, contrast: float) -> AttenuationGrid:
    """The grid with everything denser than soft tissue made more (or less) dense by a factor."""
    if contrast == 1:
        return grid
    above = np.maximum(grid.mu - np.float32(MU_WATER * (1 + BONE_HU / 1000)), 0)
    return replace(grid, mu=np.ascontiguousarray(grid.mu + np.float32(contrast - 1) * above))


def continued(grid: AttenuationGrid, how: str, beyond_mm: float) -> AttenuationGrid:
    """The grid with each cut face continued: along the body by about `beyond_mm`, to its sides by soft tissue.

    Above and below a scan the body goes on as it is: "reflect" mirrors the anatomy, "edge" repeats the last layer,
    "cut" leaves all faces. A face at the front, back or side is where a scan was cropped within the body: little more
    than muscle and fat is missing there, and a beam through it would see a mirrored spine beside the true one.
    """
    if how == "cut" or not any(grid.cut_faces):
        return grid
    inner = grid.mu[1:-1, 1:-1, 1:-1]
    faces = np.array(grid.cut_faces).reshape(3, 2)
    along = np.argmax(abs(grid.affine[2, :3]) / grid.spacing) == np.arange(3)
    layers = np.rint(np.where(along, beyond_mm, min(beyond_mm, _SIDE_MM)) / grid.spacing).astype(int)[:, None] * faces
    if how == "reflect":
        layers = np.minimum(layers, np.array(inner.shape[::-1])[:, None] - 1)
    mode: Literal["reflect", "edge"] = "reflect" if how == "reflect" else "edge"
    # Axis order of the array is k, j, i; faces come as i, j, k. The sides last, so that all of the body has them.
    padded = np.pad(inner, (layers * along[:, None])[::-1].tolist(), mode=mode)
    for axis in np.flatnonzero(~along):
        before, after = layers[axis]
        ends = [
            np.repeat(_soft(np.take(padded, [end], 2 - axis), grid.spacing), count, 2 - axis)
            for end, count in ((0, before), (-1, after))
        ]
        padded = np.concatenate([ends[0], padded, ends[1]], 2 - axis)
    shift = np.eye(4)
    shift[:3, 3] = -layers[:, 0]
    return replace(grid, mu=np.pad(padded, 1), affine=grid.affine @ shift)


def _soft(layer: NDArray[np.float32], spacing: NDArray[np.float64]) -> NDArray[np.float32]:
    """A layer (one voxel thick along one axis) without its bones and without detail."""
    soft = np.minimum(layer, np.float32(MU_WATER))
    for axis, size in enumerate(spacing[::-1]):
        half = round(_DETAIL_MM / size)
        if layer.shape[axis] == 1 or not half:
            continue
        sums = np.cumsum(np.pad(soft, [(half + 1, half) if a == axis else (0, 0) for a in range(3)], "edge"), axis)
        many = 2 * half + 1
        upper, lower = np.arange(many, sums.shape[axis]), np.arange(sums.shape[axis] - many)
        soft = (np.take(sums, upper, axis) - np.take(sums, lower, axis)) / np.float32(many)
    return soft.astype(np.float32, copy=False)
