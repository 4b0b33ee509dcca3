"""From many candidate poses to one: coarse to fine, dropping losers, undoing scatter on the way.

All candidates are solved together on a coarse rendering, the best distinct ones go on to the next level, and the last
level settles the pose at the CT's own resolution or near it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..geometry.pose import Pose
from ..geometry.se3 import Array, inverse, rotation_angle
from .evidence import CutPrism
from .intensity import Scatter
from .result import Progress
from .similarity import Terms, noise_map
from .solver import LAST_STEP, LEVER_MM, ROUGH_STEP, Solution, polish, solve
from .starts import spread
from .views import Prior, RigidObjective, View, reduced

if TYPE_CHECKING:
    from ..geometry.carm import CArm
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
        scatter: how often at most the X-ray's scatter is estimated at the best pose and the pose solved anew: while one
            is wrong it spoils the other.
        detail: only detail finer than this many pixels is compared; 0 for everything.
        spread: count, degrees and mm: so many more starts are tried around each solution that is kept.
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
    scatter: int = 0
    detail: float = 0.0
    spread: tuple[int, float, float] | None = None


PLAN = (
    Level(32, 32, 1.25, 12, 4, tolerance=1e-2, margin=4.0, narrow=(4, 10), robust=False),
    Level(48, 12, 1.25, 10, 2, tolerance=5e-3, margin=2.0, narrow=(4, 2), scatter=4),
    Level(96, 12, 1.25, 8, 2, margin=1.5, narrow=(2, 1), scatter=1),
    Level(96, 8, 1.25, 8, 2),
)
# Then the best pose is settled on fine detail: what is left is how pixels average, and what varies smoothly. Where the
# X-ray has the pixels, roughly first and then on finer ones. Detail of a pixel or two alone would be noise, and the
# little by which a rendering is less sharp than an X-ray: it pulls along the beam.
FINISH = Level(128, 16, 0.75, 20, 1, detail=2.0)
ROUGH, FINER = Level(96, 12, 1.25, 20, 1, detail=2.0), Level(192, 24, 1.25, 12, 1, detail=2.0)
# An image with less noise than this, in units of attenuation, tells better at still more pixels: one that was rendered,
# or the mean of many frames.
FINEST, _QUIET = Level(320, 16, 0.75, 12, 1, detail=2.0), 0.004
# Where agreement is measured in the end, whatever was solved at.
WHOLE = Level(128, 8, 0.75, 0, 1)
# One bone among others: the whole image at low resolution says little about it, so start finer and robust. Soft tissue
# and bones that are not rendered vary more smoothly than a bone's own edges: what whole images leave possible is told
# apart by ever finer detail. The noise of a CT rendered sharply counts as change by the pose and shortens every step,
# most of all along a shaft: larger voxels come first.
ISOLATED_PLAN = (
    Level(64, 16, 1.25, 20, 6),
    Level(128, 16, 1.25, 15, 3),
    Level(128, 16, 0.75, 10, 2),
    Level(128, 16, 2.0, 10, 4, detail=6.0),
    Level(128, 16, 2.0, 14, 2, detail=2.0),
    Level(128, 16, 0.75, 10, 1, detail=2.0),
)
# All bones, or all views, at once in the end. Whole images come first where the geometry is to be found as well, for it
# may be far off.
ISOLATED_FINISH = tuple(replace(FINISH, iterations=20, tolerance=1e-4, voxel=voxel) for voxel in (2.0, 0.75))
ISOLATED_GEOMETRY = (ISOLATED_PLAN[2], *ISOLATED_FINISH)
Background = Callable[[int, "CArm", Array, float], NDArray[np.float32]]
# Two solutions closer than this (mm, rotations at the lever) are one; minima reported lie farther apart.
_SAME_MM, DISTINCT_MM = 6.0, 15.0
# Distances from one vertebra to the next, chest and loins, that are tried.
_PITCHES_MM = (24.0, 36.0)
# A pedestal that changes by less than this is settled.
_SETTLED = 0.04


@dataclass
class Pace:
    """Progress, cancellation and time of one registration."""

    on_progress: Callable[[Progress], None] | None = None
    cancel: Callable[[], bool] | None = None
    budget: float | None = None
    history: list[Progress] = field(default_factory=list)
    _began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._began

    def word(self) -> str | None:
        """What the solver asks before each step (see solver.solve)."""
        if self.cancel and self.cancel():
            return "cancelled"
        return "budget" if self.budget is not None and self.seconds > self.budget else None

    def note(self, level: int, poses: Array, terms: Terms) -> None:
        """Record one iteration: the best pose of the batch."""
        best = int(np.argmax(terms.score))
        step = Progress(len(self.history) + 1, level, Pose(inverse(poses[best])), float(terms.ncc[best]), self.seconds)
        self.history.append(step)
        if self.on_progress:
            self.on_progress(step)


@dataclass(frozen=True)
class Found:
    """Where a descent ended: the pose (ras_to_camera of the first view), what is known of it, and other minima.

    `similarities` and `agreements` are each view's: correlation where something can be compared, and what poses are
    ranked by; `scatter` is each view's pedestal.
    """

    ras_to_camera: Array
    similarities: list[float]
    agreements: list[float]
    covariance: Array
    minima: list[tuple[Array, float]]
    reason: str
    scatter: list[Scatter]


@dataclass
class Descent:
    """One registration of one or several views.

    Attributes:
        xrays: as given.
        relative: (4, 4) per view: x_cam(view) = relative @ x_cam(first view).
        plan: the levels.
        center: (3,) RAS mm.
        projector: gives the renderer for a voxel size in mm.
        prisms: see `Registrar.prisms`.
        isolated: see `similarity.LocalCorrelation`.
        pace: progress and cancellation.
        prior: see `views.Prior`.
        settles: whether the best pose is settled on finer images in the end, and its agreement measured at WHOLE.
        neighbours: the level at which the neighbours one vertebra up and down are tried, or None.
        background: line integrals (N,) of what else is known to show, by a view's number, its camera, pixels (N, 2) and
            a voxel size in mm; None: nothing.
    """

    xrays: Sequence[XrayImage]
    relative: Sequence[Array]
    plan: Sequence[Level]
    center: Array
    projector: Callable[[float], Projector]
    prisms: tuple[list[CutPrism], Array]
    isolated: bool
    pace: Pace
    prior: Prior | None = None
    settles: bool = False
    neighbours: int | None = None
    background: Background | None = None

    def __post_init__(self) -> None:
        self._reduced: dict[int, list[XrayImage]] = {}
        self._finishing: list[Level] = []
        finest = max(level.pixels for level in self.plan)
        if self.settles:
            side = max(max(xray.carm.image_size) for xray in self.xrays)
            sharpest = replace(FINEST, pixels=side // -(-side // FINEST.pixels))  # whole pixels averaged
            if sharpest.pixels > FINISH.pixels and all(map(_quiet, self._small(sharpest))):
                self._finishing = [ROUGH, sharpest]
            else:
                self._finishing = [ROUGH, FINER] if side >= FINER.pixels else [FINISH]
            finest = max(FINISH.pixels, self._finishing[-1].pixels)
        # Coarser levels are averaged from the finest: what noise of single pixels is left is blurred the more.
        self.xrays = [reduced(xray, finest) for xray in self.xrays]
        self._reduced = {finest: list(self.xrays)}
        self._scatter = [Scatter() for _ in self.xrays]
        self._fitted = False

    def descend(self, candidates: Array) -> Found:
        """Solve from candidates (B, 4, 4) through all levels.

        Raises:
            Cancelled.
        """
        poses = np.array(candidates, float)
        depth = float(np.median(poses[:, 2, :3] @ self.center + poses[:, 2, 3]))
        minima: list[tuple[Array, float]] = []  # poses, and how much less they agree than the best of their level
        whole: RigidObjective | None = None
        for number, level in enumerate(self.plan):
            small = self._small(level)
            objective, fits = self._objective(level, small, depth), level.scatter
            if self._fitted and fits:  # the best pose of the level before is near enough for one
                fits -= 1
                if self._estimate_scatter(objective, small, poses[0]):
                    objective = self._objective(level, small, depth)
            solution = self._solve(number, level, objective, poses)
            tried = self._minima(solution, len(poses) if number else level.keep)
            for _ in range(fits):
                best = solution.ras_to_camera[int(np.argmax(solution.terms.score))]
                if not self._estimate_scatter(objective, small, best):
                    break
                objective = self._objective(level, small, depth)
                poses = solution.ras_to_camera[_distinct(solution, self.center, level.keep)]
                solution = self._solve(number, level, objective, poses)
            if level.spread:
                near = solution.ras_to_camera[_distinct(solution, self.center, level.keep)]
                around = np.concatenate([spread(pose, self.center, *level.spread) for pose in near])
                solution = self._solve(number, level, objective, around)
            if number == self.neighbours:
                solution, seen = self._beside(solution, objective, level)
                tried = tried + seen
            order = _distinct(solution, self.center, level.keep)
            settled = self._minima(solution, level.keep)
            minima = settled + (tried + minima[len(tried) :])[len(settled) :]
            misfit = 1 - solution.terms.score[order]
            poses = solution.ras_to_camera[np.array(order)[misfit <= level.margin * misfit[0]]]
            last, row = solution, order[0]
            # Agreement is that of whole images, whatever is solved by.
            whole = whole if level.detail and whole else objective
            if self.pace.word() == "budget":
                break
        best, final = last.ras_to_camera[row], float(last.terms.score[row])
        for number, level in enumerate(self._finishing, len(self.plan)):
            if self.pace.word() is None:
                detail = self._objective(level, self._small(level), depth)
                note = partial(self.pace.note, number)
                short = LAST_STEP if level is self._finishing[-1] else ROUGH_STEP
                last, row = polish(detail, best, level.iterations, short, note, self.pace.word), 0
                best = last.ras_to_camera[0]
                minima[0] = best, 0.0
        if self.settles:
            whole = self._objective(WHOLE, self._small(WHOLE), depth)
        assert whole is not None  # a plan has a level
        return Found(
            best,
            *whole.fits(best),
            _covariance(last.terms, row),
            [
                (pose, final - less)
                for n, (pose, less) in enumerate(minima)
                if n == 0 or distance_mm(pose, best, self.center) > DISTINCT_MM
            ],
            "budget" if self.pace.word() == "budget" else last.reasons[row],
            list(self._scatter),
        )

    def seen_as(self, xrays: Sequence[XrayImage], relative: Sequence[Array]) -> Descent:
        """This descent as if the same images had been taken with other cameras, or from other places."""
        other = replace(self, xrays=xrays, relative=relative)
        other._scatter = list(self._scatter)
        return other

    def at(self, pose: Array, level: Level) -> tuple[RigidObjective, list[XrayImage]]:
        """The objective at one resolution about a pose (ras_to_camera), and the X-rays it compares, less no scatter."""
        small = self._small(level)
        return self._objective(level, small, float(pose[2, :3] @ self.center + pose[2, 3])), small

    def _small(self, level: Level) -> list[XrayImage]:
        """The X-rays at a level's resolution."""
        if level.pixels not in self._reduced:
            self._reduced[level.pixels] = [reduced(xray, level.pixels) for xray in self.xrays]
        return self._reduced[level.pixels]

    def _beside(
        self, solution: Solution, objective: RigidObjective, level: Level
    ) -> tuple[Solution, list[tuple[Array, float]]]:
        """The poses one vertebra up and down from the best one, solved.

        Returns:
            The better one of their solution and the one given, and the neighbours as minima.
        """
        score = solution.terms.score
        best = solution.ras_to_camera[int(np.argmax(score))]
        shifts = np.tile(np.eye(4), (2 * len(_PITCHES_MM), 1, 1))
        shifts[:, 2, 3] = [sign * pitch for pitch in _PITCHES_MM for sign in (-1, 1)]  # RAS: along the patient
        found = solve(objective, best @ shifts, level.iterations, level.tolerance, (4, 2), stop=self.pace.word)
        apart = [distance_mm(pose, best, self.center) for pose in found.ras_to_camera]
        less = float(score.max()) - found.terms.score
        seen = [(found.ras_to_camera[n], float(less[n])) for n in np.argsort(less) if apart[n] > DISTINCT_MM][:2]
        return (found if less.min() < 0 else solution), seen

    def _minima(self, solution: Solution, keep: int) -> list[tuple[Array, float]]:
        """The best distinct poses, and how much less each agrees than the first: what is reached differs by level."""
        score = solution.terms.score
        rows = _distinct(solution, self.center, keep)
        return [(solution.ras_to_camera[row], float(score[rows[0]] - score[row])) for row in rows]

    def _solve(self, number: int, level: Level, objective: RigidObjective, poses: Array) -> Solution:
        return solve(
            objective,
            poses,
            level.iterations,
            level.tolerance,
            level.narrow,
            lambda now, terms: self.pace.note(number, now, terms),
            self.pace.word,
        )

    def _objective(self, level: Level, small: Sequence[XrayImage], depth: float) -> RigidObjective:
        views = [
            View.prepare(scatter.removed(xray), level.patch, other, level.robust, self.isolated, level.detail)
            for scatter, xray, other in zip(self._scatter, small, self.relative, strict=True)
        ]
        pixel = max(max(v.carm.pixel_spacing) * depth / v.carm.source_to_detector for v in views)
        voxel = level.voxel * pixel
        behind = None
        if self.background:
            behind = [self.background(n, view.carm, view.patches.pixels, voxel) for n, view in enumerate(views)]
        return RigidObjective(views, self.projector(voxel), *self.prisms, self.center, self.prior, behind)

    def _estimate_scatter(self, objective: RigidObjective, small: Sequence[XrayImage], pose: Array) -> bool:
        """Fit each view's pedestal at a pose; whether that changed anything worth solving for again."""
        first = not self._fitted
        fitted = [
            objective.fitted_scatter(n, xray, pose, None if first else self._scatter[n]) for n, xray in enumerate(small)
        ]
        self._fitted = True
        change = max(
            abs(new.ratio - old.ratio) / (1 + old.ratio) + abs(new.level - old.level)
            for new, old in zip(fitted, self._scatter, strict=True)
        )
        self._scatter = fitted
        return change > _SETTLED


def _quiet(xray: XrayImage) -> bool:
    """Whether an X-ray has next to no noise where it counts."""
    noise = noise_map(xray.pixels, xray.mask)
    return float(np.median(noise if xray.mask is None else noise[xray.mask])) < _QUIET


def distance_mm(a: Array, b: Array, center: Array) -> float:
    """How far apart two ras_to_camera are: shift of the centre plus turn at the lever, mm."""
    return float(_distances_mm(a, b, center))


def _distances_mm(poses: Array, other: Array, center: Array) -> Array:
    """The same of many poses (..., 4, 4) from one (4, 4)."""
    turn = poses[..., :3, :3] - other[:3, :3]
    shift = turn @ center + poses[..., :3, 3] - other[:3, 3]
    angle = rotation_angle(poses[..., :3, :3] @ other[:3, :3].T)
    return np.hypot(np.linalg.norm(shift, axis=-1), LEVER_MM * angle)


def _distinct(solution: Solution, center: Array, keep: int) -> list[int]:
    """Rows of the best distinct poses, best first."""
    poses, score = solution.ras_to_camera, solution.terms.score
    chosen: list[int] = []
    apart = np.ones(len(poses), bool)
    for row in np.argsort(-score):
        if apart[row]:
            chosen.append(int(row))
            if len(chosen) == keep:
                break
            apart &= _distances_mm(poses, poses[row], center) > _SAME_MM
    return chosen


def _covariance(terms: Terms, row: int) -> Array:
    """Inverse Gauss-Newton matrix, scaled by the misfit that is left."""
    assert terms.matrix is not None
    matrix = terms.matrix[row] + 1e-12 * np.eye(6)
    evidence = max(float(terms.evidence[row]), 7.0)
    return np.linalg.pinv(matrix, hermitian=True) * float(terms.cost[row]) / (evidence - 6)
