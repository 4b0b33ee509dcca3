"""Variants of one CT that a network should not tell apart: bone contrast, and what lies beyond the CT's cut faces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

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
    """The grid with each cut face continued by about `beyond_mm`.

    "reflect" mirrors the anatomy, "edge" repeats the last layer, "cut" leaves it.
    """
    if how == "cut" or not any(grid.cut_faces):
        return grid
    inner = grid.mu[1:-1, 1:-1, 1:-1]
    faces = np.array(grid.cut_faces).reshape(3, 2)
    layers = np.rint(beyond_mm / grid.spacing).astype(int)[:, None] * faces
    if how == "reflect":
        layers = np.minimum(layers, np.array(inner.shape[::-1])[:, None] - 1)
    # Axis order of the array is k, j, i; faces come as i, j, k.
    padded = np.pad(inner, layers[::-1].tolist(), mode="reflect" if how == "reflect" else "edge")
    shift = np.eye(4)
    shift[:3, 3] = -layers[:, 0]
    return replace(grid, mu=np.pad(padded, 1), affine=grid.affine @ shift)
