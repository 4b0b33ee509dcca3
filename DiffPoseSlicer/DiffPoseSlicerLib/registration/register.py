"""The main call: find the pose of one or several X-rays relative to a CT.

Coarse to fine: all starts are solved together on a coarse rendering, the best distinct ones go on to the next level, and
the last level settles a few of them at the CT's own resolution or near it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..geometry.coordinates import transform_points
from ..geometry.pose import Pose, view_rotation
from ..geometry.se3 import Array, inverse, rotation_angle
from . import starts as start_poses
from .evidence import CutPrism, cut_prisms
from .intensity import Scatter
from .result import NOT_CALIBRATED, Hypothesis, Progress, RegistrationResult
from .similarity import Terms
from .solver import LEVER_MM, solve
from .versions import versions
from .views import RigidObjective, View, reduced, window

if TYPE_CHECKING:
    from ..imaging.ct import CTVolume
    from ..imaging.xray import XrayImage
    from ..rendering.renderer import Projector


@dataclass(frozen=True)
class Level:
    """One resolution of the coarse-to-fine plan.

    Attributes:
        pixels: pixels along the image's longer side.
        patch: side of the compared patches, in pixels.
        voxel: CT voxel size as a multiple of a pixel's size at the isocentre.
        iterations: most steps per start.
        keep: how many distinct solutions go on, at most.
        tolerance: relative gain below which a start has converged.
        margin: solutions whose misfit (1 - score) is larger than this many times the best one's do not go on.
        narrow: see :func:`solver.solve`.
        robust: whether misfits lose their say.
        scatter: whether the X-ray's scatter is estimated at the best pose, for the levels that follow.
    """

    pixels: int
    patch: int
    voxel: float
    iterations: int
    keep: int
    tolerance: float = 1e-3
    margin: float = 3.0
    narrow: tuple[int, int] | None = None
    robust: bool = True
    scatter: bool = False


PLAN = (
    Level(32, 32, 1.25, 12, 4, tolerance=1e-2, margin=4.0, narrow=(4, 10), robust=False),
    Level(64, 16, 1.25, 10, 2, tolerance=5e-3, margin=2.0, narrow=(4, 2), scatter=True),
    Level(128, 16, 1.25, 8, 2, margin=1.5, narrow=(2, 1), scatter=True),
    Level(128, 16, 0.75, 8, 2),
)
# One bone among others: the whole image at low resolution says little about it, so start finer and robust.
ISOLATED_PLAN = (
    Level(64, 16, 1.25, 20, 6),
    Level(128, 16, 1.25, 15, 3),
    Level(128, 16, 0.75, 10, 2),
)
# Two solutions closer than this (mm, rotations at the lever) are one.
_SAME_MM = 6.0
# Starts tried around each given one, and how far: the coarse level costs little, and a second look saves lost starts.
_SPREAD = (24, 15.0, 30.0)
# Starts of a search over a view's whole range.
_SEARCH_COUNT = 192
# A prefix of the search is judged by the coarsest level only this far.
SEARCH_ROTATION = (45.0, 45.0, 45.0)
SEARCH_TRANSLATION = (75.0, 75.0, 75.0)


class Registrar:
    """A CT made ready for registration: rendered levels are built on first use and kept.

    Args:
        ct: the CT.
        device: "auto", "cpu" or "cuda:N".
        center: RAS mm; the point poses turn about. Default: the CT's centre.
    """

    def __init__(self, ct: CTVolume, device: str = "auto", center: ArrayLike | None = None) -> None:
        self.ct, self.device = ct, device
        self.center = np.asarray(ct.center if center is None else center, float)
        hu = ct.hu
        # A bone cut out of its CT has nothing but air around it, where a scan has noise, skin and couch.
        self.isolated = bool((hu <= -1000).mean() > 0.5 and ((hu > -1000) & (hu < -300)).mean() < 0.02)
        self._projectors: dict[tuple[int, ...], Projector] = {}
        self._prisms: tuple[list[CutPrism], Array] | None = None

    def projector(self, spacing_mm: float) -> Projector:
        """The renderer whose voxels are closest to `spacing_mm`."""
        from ..rendering.renderer import Projector

        grid = self.ct.level(spacing_mm)
        key = grid.mu.shape
        if key not in self._projectors:
            self._projectors[key] = Projector(grid, self.device)
        return self._projectors[key]

    def prisms(self) -> tuple[list[CutPrism], Array]:
        """Where the CT cuts anatomy off, and the ras_to_index of the grid that is stated in."""
        if self._prisms is None:
            grid = self.ct.level(8.0)
            self._prisms = cut_prisms(grid), np.linalg.inv(grid.affine)
        return self._prisms

    def _corners(self) -> Array:
        """Corners of the CT's box, RAS mm: (8, 3)."""
        size = np.array(self.ct.hu.shape[::-1]) - 1
        corners = np.array(np.meshgrid(*[(0, 1)] * 3)).reshape(3, -1).T * size
        return transform_points(self.ct.affine, corners)

    def spread(self) -> tuple[int, float, float]:
        """How far around a given start to look: count, degrees, mm. A small structure moves out of itself sooner."""
        count, degrees, mm = _SPREAD
        if self.isolated:
            size = float(np.linalg.norm(np.array(self.ct.hu.shape[::-1]) * self.ct.spacing))
            degrees, mm = 8.0, min(mm, 0.06 * size)
        return count, degrees, mm

    def register(
        self,
        xrays: Sequence[XrayImage],
        candidates: Array,
        *,
        relative: Sequence[Array] | None = None,
        start: str = "pose",
        nominal: Pose | None = None,
        plan: Sequence[Level] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: Callable[[], bool] | None = None,
        budget: float | None = None,
    ) -> RegistrationResult:
        """Register from candidate poses.

        Args:
            xrays: one or several, of the same anatomy.
            candidates: (B, 4, 4) ras_to_camera of the first view, all of which are tried.
            relative: (4, 4) per view: x_cam(view) = relative[view] @ x_cam(first view).
            start: words for the result's "start".
            nominal: where the C-arm stands in the scene (C0); default the first candidate.
            plan: the levels; default PLAN, or ISOLATED_PLAN for a structure cut out of its CT.
            on_progress, cancel, budget: see :func:`register`.

        Raises:
            InputError, Cancelled.
        """
        began = time.perf_counter()
        relative = [np.eye(4)] * len(xrays) if relative is None else list(relative)
        prisms, prism_frame = self.prisms()
        history: list[Progress] = []
        found: list[tuple[Array, float]] = []

        def word() -> str | None:
            if cancel and cancel():
                return "cancelled"
            return "budget" if budget is not None and time.perf_counter() - began > budget else None

        plan = plan or (ISOLATED_PLAN if self.isolated else PLAN)
        poses = np.array(candidates, float)
        corners = self._corners()
        if self.isolated:
            xrays = [window(x, corners, other @ poses) for x, other in zip(xrays, relative, strict=True)]
        depth = float(np.median(poses[:, 2, :3] @ self.center + poses[:, 2, 3]))
        xrays = [reduced(xray, max(level.pixels for level in plan)) for xray in xrays]
        scatter = [Scatter() for _ in xrays]
        for number, level in enumerate(plan):
            small = [reduced(xray, level.pixels) for xray in xrays]
            views = [
                View.prepare(one.removed(xray), level.patch, other, level.robust, self.isolated)
                for one, xray, other in zip(scatter, small, relative, strict=True)
            ]
            pixel = max(max(v.carm.pixel_spacing) * depth / v.carm.source_to_detector for v in views)
            objective = RigidObjective(views, self.projector(level.voxel * pixel), prisms, prism_frame, self.center)

            def on_step(now: Array, terms: Terms, number: int = number) -> None:
                best = int(np.argmax(terms.score))
                step = Progress(
                    len(history) + 1,
                    number,
                    Pose(inverse(now[best])),
                    float(terms.ncc[best]),
                    time.perf_counter() - began,
                )
                history.append(step)
                if on_progress:
                    on_progress(step)

            solution = solve(objective, poses, level.iterations, level.tolerance, level.narrow, on_step, word)
            score = solution.terms.score
            order = _distinct(solution.ras_to_camera, score, self.center, level.keep)
            found = [(solution.ras_to_camera[row], float(score[row])) for row in order] + found[len(order) :]
            misfit = 1 - score[order]
            poses = solution.ras_to_camera[np.array(order)[misfit <= level.margin * misfit[0]]]
            last = solution, int(order[0])
            if level.scatter:
                scatter = [objective.fitted_scatter(n, x, poses[0]) for n, x in enumerate(small)]
            if word() == "budget":
                break

        solution, row = last
        covariance = _covariance(solution.terms, row)
        return RegistrationResult(
            poses=[Pose(inverse(other @ solution.ras_to_camera[row])) for other in relative],
            similarities=objective.correlations(solution.ras_to_camera[row]),
            trust=NOT_CALIBRATED,
            covariance=covariance,
            expected_error_mm=None,
            center=self.center,
            c0=(nominal or Pose(inverse(candidates[0]))).camera_to_ras,
            hypotheses=_hypotheses(
                [
                    (p, score)
                    for n, (p, score) in enumerate(found)
                    if n == 0 or _distance_mm(p, found[0][0], self.center) > 15
                ]
            ),
            iterations=len(history),
            seconds=time.perf_counter() - began,
            start=start,
            reason="budget" if word() == "budget" else solution.reasons[row],
            history=history,
            versions=versions(self.projector(8.0).backend),
        )


def register(
    ct: CTVolume,
    xrays: XrayImage | Sequence[XrayImage],
    start: Any = "search",
    *,
    view: str | None = None,
    lao_rao: float = 0.0,
    cran_caud: float = 0.0,
    rotation: ArrayLike = SEARCH_ROTATION,
    translation: ArrayLike = SEARCH_TRANSLATION,
    center: ArrayLike | None = None,
    device: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    budget: float | None = None,
    registrar: Registrar | None = None,
) -> RegistrationResult:
    """Find the pose of one or several X-rays of the same anatomy relative to a CT.

    Args:
        ct: the CT.
        xrays: attenuation images with their geometry. Several are registered as one rigid body; their relative pose is
            taken from the start, which must then be a list of poses, one per view.
        start: a Pose, a list of Poses (one per view), a PoseModel (anything with `hypotheses(xray)`), or "search": the
            whole range about `view` without any model.
        view, lao_rao, cran_caud: the view a search is centred on; without `view`, AP. Also fixes where the C-arm stands
            in the scene.
        rotation, translation: half-ranges of a search, per camera axis (right, down, depth), degrees and mm.
        center: RAS mm, the point the range turns about; default the CT's centre.
        device: "auto", "cpu" or "cuda:N".
        on_progress: called after every iteration.
        cancel: asked at every iteration; true ends the work with Cancelled.
        budget: seconds after which the best pose so far is returned.
        registrar: a warm :class:`Registrar` of the same CT.

    Raises:
        InputError: the start does not fit the X-rays.
        Cancelled: `cancel` said so.
    """
    xrays = [xrays] if not isinstance(xrays, Sequence) else list(xrays)
    if not xrays:
        raise InputError("There is no X-ray to register; give at least one.")
    registrar = registrar or Registrar(ct, device, center)
    relative: list[Array] | None = None
    carm = xrays[0].carm
    nominal = Pose.about(view_rotation(view or "AP", lao_rao, cran_caud), registrar.center, carm)
    if isinstance(start, Pose):
        start = [start]
    if isinstance(start, (list, tuple)):
        if len(start) != len(xrays):
            raise InputError(
                f"The start has {len(start)} poses and there are {len(xrays)} X-rays: give one pose per X-ray."
            )
        first = start[0].ras_to_camera
        relative = [pose.ras_to_camera @ inverse(first) for pose in start]
        candidates, word = start_poses.spread(first, registrar.center, *registrar.spread()), "pose"
        nominal = nominal if view else start[0]
    elif hasattr(start, "hypotheses"):
        if len(xrays) != 1:
            raise InputError("A prepared model starts one view; for several X-rays start from poses, one per view.")
        guesses = start.hypotheses(xrays[0])
        count, degrees, mm = registrar.spread()
        per_guess = max(count // len(guesses), 1), degrees, mm
        candidates = np.concatenate(
            [start_poses.spread(guess.ras_to_camera, registrar.center, *per_guess) for guess in guesses]
        )
        nominal, word = getattr(start, "nominal", nominal), "model"
    elif start == "search":
        if len(xrays) != 1:
            raise InputError("A search finds one view; for several X-rays start from poses, one per view.")
        candidates = start_poses.search(nominal.ras_to_camera, registrar.center, _SEARCH_COUNT, rotation, translation)
        word = "search"
    else:
        raise InputError(f"The start is {start!r}: give a pose, a prepared model or 'search'.")
    return registrar.register(
        xrays,
        candidates,
        relative=relative,
        start=word,
        nominal=nominal,
        on_progress=on_progress,
        cancel=cancel,
        budget=budget,
    )


def _distance_mm(a: Array, b: Array, center: Array) -> float:
    """How far apart two ras_to_camera are: shift of the centre plus turn at the lever, mm."""
    shift = (a[:3, :3] - b[:3, :3]) @ center + a[:3, 3] - b[:3, 3]
    return float(np.hypot(np.linalg.norm(shift), LEVER_MM * rotation_angle(a[:3, :3] @ b[:3, :3].T)))


def _distinct(poses: Array, score: Array, center: Array, keep: int) -> list[int]:
    """Rows of the best distinct poses, best first."""
    chosen: list[int] = []
    for row in np.argsort(-score):
        if all(_distance_mm(poses[row], poses[other], center) > _SAME_MM for other in chosen):
            chosen.append(int(row))
        if len(chosen) == keep:
            break
    return chosen


def _covariance(terms: Terms, row: int) -> Array:
    """Inverse Gauss-Newton matrix, scaled by the misfit that is left."""
    assert terms.matrix is not None
    matrix = terms.matrix[row] + 1e-12 * np.eye(6)
    evidence = max(float(terms.evidence[row]), 7.0)
    return np.linalg.pinv(matrix, hermitian=True) * float(terms.cost[row]) / (evidence - 6)


def _hypotheses(found: list[tuple[Array, float]]) -> list[Hypothesis]:
    """Distinct minima with a share of belief that falls by e for each 0.02 of correlation lost."""
    scores = np.array([score for _, score in found])
    belief = np.exp((scores - scores.max()) / 0.02)
    belief /= belief.sum()
    return [Hypothesis(Pose(inverse(p)), s, float(b)) for (p, s), b in zip(found, belief, strict=True)]
