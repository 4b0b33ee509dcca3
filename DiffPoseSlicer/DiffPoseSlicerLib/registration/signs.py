"""Signs of success and failure in a finished registration: what tells a good pose from a bad one without the truth.

Everything is measured at the pose that was found, from one rendering with its derivatives, and most of it in mm of the
anatomy: how far the pose would move if only one half of the image were believed, or patches of another size, or detail
of another fineness. A right pose is confirmed by every part of the image for itself; a wrong one is a compromise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..geometry.se3 import Array, inverse
from .cover import covered_part
from .descent import FINISH, Descent, Found, Level, distance_mm
from .detail import Detail
from .evidence import ray_weights
from .intensity import Scatter
from .shifts import local_shifts
from .similarity import LocalCorrelation, Patches, PatchTerms, noise_map
from .solver import solve
from .views import View

if TYPE_CHECKING:
    from ..imaging.xray import XrayImage

# Where signs are read, and where poses a vertebra away are tried.
_AT = Level(128, 16, 1.0, 0, 1)
_NEIGHBOURS = Level(64, 16, 1.25, 4, 4, tolerance=1e-2)
# Millimetres refer to the points of a cube of this half side about the centre.
REGION_MM = 80.0
# The root of xi^T diag(_METRIC) xi is the root mean square movement of those points under a twist xi.
_METRIC = np.array([2 * REGION_MM**2 / 3] * 3 + [1.0] * 3)
# A part's Gauss-Newton matrix is steadied by this much of the whole's, for a half sees some directions badly.
_STEADY = 0.1
_FARTHEST_MM = 100.0
# Vertebrae lie about this far apart along the CT's third axis, mm.
_VERTEBRAE_MM = (-32.0, -20.0, 20.0, 32.0)
# A neighbour that ends nearer than this has come back, mm.
_BACK_MM = 10.0


def movement_mm(twist: Array) -> float:
    """How far a twist (6,) moves the region's points, root mean square, mm."""
    return float(min(np.sqrt((_METRIC * twist * twist).sum()), _FARTHEST_MM))


def spread_mm(covariance: Array) -> float:
    """How far twists of a covariance (6, 6) move the region's points, root mean square, mm."""
    return float(min(np.sqrt(max((_METRIC * np.diag(covariance)).sum(), 0.0)), _FARTHEST_MM))


def signs(run: Descent, found: Found) -> dict[str, float]:
    """Measure all signs of a finished descent; docs/trust.md lists them."""
    pose = found.ras_to_camera
    objective, small = run.at(pose, _AT)
    looks = []
    for view, xray, scatter in zip(objective.views, small, found.scatter, strict=True):
        camera_to_ras = inverse(view.from_first @ pose)
        image, jacobian = objective.projector.project(view.carm, camera_to_ras, center=objective.center, jacobian=True)
        rows, columns = view.carm.image_size
        missing = None
        if run.prisms[0]:
            rays = view.carm.detector_points(np.stack(np.meshgrid(range(columns), range(rows)), -1).reshape(-1, 2))
            missing = ray_weights(*run.prisms, camera_to_ras[None], rays).reshape(rows, columns)
        depth = float((view.from_first @ pose @ [*run.center, 1])[2])
        mm = max(view.carm.pixel_spacing) * depth / view.carm.source_to_detector
        shaped = image.reshape(rows, columns), jacobian.reshape(rows, columns, 6)
        looks.append(_Look(view, xray, scatter, *shaped, missing, mm))
    fine, whole = [look.compare() for look in looks], [look.compare(sigma=0) for look in looks]
    return _steps(looks, fine, whole) | _pictures(looks, fine, whole) | _rivals(found) | _neighbours(run, found)


@dataclass
class _Look:
    """One view at the pose: X-ray, rendering and derivatives [row, column], and mm at the anatomy per pixel."""

    view: View
    xray: XrayImage
    scatter: Scatter
    image: NDArray[np.float32]
    jacobian: NDArray[np.float32]
    missing: NDArray[np.float32] | None
    mm: float

    def __post_init__(self) -> None:
        self._kept: dict[float, tuple[NDArray, NDArray, NDArray]] = {}
        self.primary = self.scatter.removed(self.xray).pixels
        mask = self.xray.mask
        self.mask = np.ones(self.image.shape, np.float32) if mask is None else mask.astype(np.float32)
        self.noise = noise_map(self.primary, mask)

    def places(self) -> Array:
        """Centres of the patches of 16 pixels, as parts of the image's size, (column, row): (P, 2)."""
        patches = Patches.tile(self.view.carm.image_size, 16)
        middle = patches.pixels.reshape(patches.count, patches.size, 2).mean(1)
        return np.asarray(middle / np.array(self.view.carm.image_size[::-1]))

    def compare(self, side: int = 16, sigma: float = FINISH.detail) -> PatchTerms:
        """Patch by patch, with patches of another size or another fineness (0: everything)."""
        patches = Patches.tile(self.view.carm.image_size, side)
        v, u = patches.pixels.astype(int).T[::-1]
        primary, image, jacobian = self._fine(sigma)
        correlation = LocalCorrelation(patches.take(primary), patches.take(self.mask), patches.take(self.noise))
        extra = None if self.missing is None else self.missing[v, u][None]
        return correlation.by_patch(image[v, u][None], jacobian[v, u][None], extra)

    def _fine(self, sigma: float) -> tuple[NDArray, NDArray, NDArray]:
        """The X-ray, the rendering and its derivatives, filtered for detail."""
        if sigma not in self._kept:
            three = self.primary, self.image, self.jacobian
            if sigma:
                detail = Detail(Patches.tile(self.image.shape, 1), self.mask.reshape(-1, 1), sigma)
                three = tuple(detail(x.reshape(1, -1, *x.shape[2:])).reshape(x.shape) for x in three)  # type: ignore
            self._kept[sigma] = three
        return self._kept[sigma]


def _joint(looks: Sequence[_Look], parts: Sequence[PatchTerms]) -> tuple[Array, Array]:
    """All views' patches' gradients (P, 6) and matrices (P, 6, 6), in twists of the first view's axes."""
    evidence = np.array([float(part.terms.evidence[0]) for part in parts])
    weights = evidence / max(evidence.sum(), 1e-9)
    gradients, matrices = [], []
    for look, part, weight in zip(looks, parts, weights, strict=True):
        turn = np.kron(np.eye(2), look.view.from_first[:3, :3])
        gradients.append(weight * part.gradient @ turn)
        matrices.append(weight * turn.T @ part.matrix @ turn)
    return np.concatenate(gradients), np.concatenate(matrices)


@dataclass
class _Agreement:
    """How far parts of the images agree on a pose: what their patches ask for, and what follows for all together.

    Attributes:
        matrix, step: (6, 6) Gauss-Newton matrix of all patches, steadied, and (6,) where they would move the pose.
        halves: mm that halves of the images disagree by: left and right, upper and lower, interleaved.
        blocks, patches: mm of the sandwich estimate of the pose's uncertainty, by blocks of patches and by patches.
        curvature: mm of its uncertainty from the matrix alone.
    """

    matrix: Array
    step: Array
    halves: list[float]
    blocks: float
    patches: float
    curvature: float


def _agreement(looks: Sequence[_Look], parts: Sequence[PatchTerms]) -> _Agreement:
    gradients, matrices = _joint(looks, parts)
    matrix = matrices.sum(0)
    matrix = matrix + 1e-6 * np.diag(np.diag(matrix)) + 1e-12 * np.eye(6)
    if np.trace(matrix) < 1e-9:  # nothing is seen: anything may be
        return _Agreement(matrix, np.zeros(6), [_FARTHEST_MM] * 3, *[_FARTHEST_MM] * 3)
    scale = np.sqrt(np.outer(np.diag(matrix), np.diag(matrix)))
    covariance = np.linalg.inv(matrix)

    def step(rows: NDArray[np.bool_]) -> Array:
        """One Gauss-Newton step of some patches, brought to the whole's weight."""
        part = matrices[rows].sum(0)
        size = np.trace(part / scale) / 6
        if size < 1e-6:
            return np.zeros(6)
        return np.asarray(-np.linalg.solve(part / size + _STEADY * matrix, gradients[rows].sum(0) / size))

    place = np.concatenate([look.places() for look in looks])
    one_side = (place[:, 0] < 0.5, place[:, 1] < 0.5, np.floor(place * 8).astype(int).sum(1) % 2 == 0)
    view_of = np.repeat(np.arange(len(looks)), [len(part.share) for part in parts])
    block = np.floor(place * 4).astype(int) @ [4, 1] + 16 * view_of
    scores = np.stack([gradients[block == b].sum(0) for b in np.unique(block)])
    few = len(scores) / max(len(scores) - 1, 1)
    cost = float(np.mean([part.terms.cost[0] for part in parts]))
    evidence = sum(float(part.terms.evidence[0]) for part in parts)
    return _Agreement(
        matrix,
        -covariance @ gradients.sum(0),
        [movement_mm(step(rows) - step(~rows)) / 2 for rows in one_side],
        spread_mm(few * covariance @ (scores.T @ scores) @ covariance),
        spread_mm(covariance @ (gradients.T @ gradients) @ covariance),
        spread_mm(covariance * cost / max(evidence - 6, 1)),
    )


def _steps(looks: Sequence[_Look], fine: Sequence[PatchTerms], everything: Sequence[PatchTerms]) -> dict[str, float]:
    """How far the pose would move, mm, if something else were believed."""
    agreed, broad = _agreement(looks, fine), _agreement(looks, everything)

    def moved(parts: Sequence[PatchTerms]) -> float:
        gradients, matrices = _joint(looks, parts)
        step = -np.linalg.solve(matrices.sum(0) + 0.02 * agreed.matrix, gradients.sum(0))
        return movement_mm(step - agreed.step)

    return {
        "unsettled": movement_mm(agreed.step),
        "halves": float(np.sqrt(np.mean(np.square(agreed.halves)))),
        "worst half": max(agreed.halves),
        "blocks": agreed.blocks,
        "patches": agreed.patches,
        "curvature": agreed.curvature,
        "broad halves": float(np.sqrt(np.mean(np.square(broad.halves)))),
        "broad blocks": broad.blocks,
        "broad patches": broad.patches,
        "small patches": moved([look.compare(8) for look in looks]),
        "large patches": moved([look.compare(32) for look in looks]),
        "finer": moved([look.compare(sigma=FINISH.detail / 2) for look in looks]),
        "everything": moved(everything),
    }


def _pictures(looks: Sequence[_Look], fine: Sequence[PatchTerms], everything: Sequence[PatchTerms]) -> dict[str, float]:
    """What the images and their residuals show; of several views the worst."""
    found: dict[str, float] = {}
    for look, detail, part in zip(looks, fine, everything, strict=True):
        reached = float((part.share * part.correlation).sum())
        attainable = float((part.share * part.attainable).sum())
        visible = part.visible
        side = round(np.sqrt(visible.shape[1]))
        weight = part.terms.weights[0].pixel[0]
        r, w = (x.reshape(-1, side, side) for x in (part.residual, visible * part.share[:, None]))
        power = float((w * r * r).sum()) + 1e-12
        along = (np.sqrt(w[:, 1:] * w[:, :-1]) * r[:, 1:] * r[:, :-1]).sum()
        across = (np.sqrt(w[..., 1:] * w[..., :-1]) * r[..., 1:] * r[..., :-1]).sum()
        seen = float(visible.sum()) + 1e-9
        weight_of_pixels = look.mask if look.missing is None else look.mask * look.missing
        shift, gain = local_shifts(look.image, look.primary, weight_of_pixels)
        air = look.image <= max(0.02 * float(look.image.max()), 1e-3)
        mask = look.mask > 0.5
        values = {
            "misfit": 1 - reached,
            "detail": 1 - float((detail.share * detail.correlation).sum()),
            "bounded detail": 1 - float(detail.terms.score[0]),
            "excess": (1 - reached) / max(1 - attainable, 0.003),
            "worst patches": float(np.sort(1 - part.correlation[part.share >= 0.3 * part.share.max()])[-8:].mean()),
            "structure": float((along + across) / (2 * power)),
            "bounded misfit": 1 - float(part.terms.score[0]),
            "shift": shift * look.mm,
            "shift gain": gain,
            "disbelieved": 1 - float(weight.sum()) / seen,
            "outliers": float(((weight < 0.3) & (visible > 0.5)).sum()) / seen,
            "covered": covered_part(look.xray),
            "masked": 1 - float(look.mask.mean()),
            "cut": 0.0 if look.missing is None else float((1 - look.missing)[mask].mean()) if mask.any() else 1.0,
            "air": float(air[mask].mean()) if mask.any() else 1.0,
        }
        found = {name: max(value, found.get(name, -np.inf)) for name, value in values.items()}
    return found


def _rivals(found: Found) -> dict[str, float]:
    """Other minima that the registration itself met: its misfit over the best one's of theirs."""
    best, *others = (max(1 - score, 1e-4) for _, score in found.minima)
    return {"rival": max([best / other for other in others], default=0.0)}


def _neighbours(run: Descent, found: Found) -> dict[str, float]:
    """Poses one vertebra away, solved for a few steps: the best one's misfit over theirs, 0 where they come back."""
    pose = found.ras_to_camera
    objective, _ = run.at(pose, _NEIGHBOURS)
    axis = inverse(run.prisms[1])[:3, 2]
    axis = pose[:3, :3] @ (axis / np.linalg.norm(axis))
    starts = np.repeat(pose[None], 1 + len(_VERTEBRAE_MM), 0)
    starts[1:, :3, 3] += np.array(_VERTEBRAE_MM)[:, None] * axis
    solution = solve(objective, starts, _NEIGHBOURS.iterations, _NEIGHBOURS.tolerance)
    misfit = np.maximum(1 - solution.terms.score, 1e-4)
    away = [distance_mm(end, solution.ras_to_camera[0], run.center) > _BACK_MM for end in solution.ras_to_camera[1:]]
    ratios = misfit[0] / misfit[1:]
    return {"neighbour": float(max(ratios[away], default=0.0))}
