"""The main call: find the pose of one or several X-rays relative to a CT.

Starts are turned into candidate poses here; `descent` solves them from coarse to fine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..geometry.coordinates import transform_points
from ..geometry.pose import VIEWS, Pose
from ..geometry.se3 import Array, inverse
from . import starts as start_poses
from .descent import (
    FINISH,
    ISOLATED_GEOMETRY,
    ISOLATED_PLAN,
    PLAN,
    Background,
    Descent,
    Level,
    Pace,
)
from .evidence import CutPrism, cut_prisms
from .joint import GeometryPriors
from .orientation import orientation_warnings
from .relations import NOT_KNOWN, checked_relative, nominal_poses, poses_of_views, relative_from_poses
from .result import Progress, RegistrationResult, Trust, hypotheses
from .search import COUNT, in_doubt, search
from .settling import settle
from .signs import signs
from .trust import MIRRORED, STRUCTURE, judge
from .versions import versions
from .views import Prior, window

if TYPE_CHECKING:
    from ..imaging.ct import CTVolume
    from ..imaging.xray import XrayImage
    from ..rendering.renderer import Projector


# Starts tried around each given one, and how far: the coarse level costs little, and a second look saves lost starts.
_SPREAD = (24, 15.0, 30.0)
# How much farther around is searched where that ended in doubt: degrees, mm.
_SECOND_LOOK = (30.0, 60.0)
# A single bone is held near a start that was given: 10 degrees, 10 mm, or 25 mm in depth cost 0.02 of correlation.
_PRIOR = 0.02 / np.array([np.deg2rad(10.0)] * 3 + [10.0, 10.0, 25.0]) ** 2
# The view's name where a search shall try all.
ANY_VIEW = "any"
# Half-ranges of a search where none are given, per camera axis, degrees and mm.
SEARCH_ROTATION = (45.0, 45.0, 45.0)
SEARCH_TRANSLATION = (75.0, 75.0, 75.0)
# Of a registration within a registration.
NOT_JUDGED = Trust(False, 0.0, ("not judged",))


class Registrar:
    """A CT made ready for registration: rendered levels are built on first use and kept.

    Args:
        ct: the CT.
        device: "auto", "cpu" or "cuda:N".
        center: RAS mm; the point poses turn about. Default: the CT's centre.
        isolated: whether the CT holds one structure of several that the X-rays show. Default: seen from the emptiness
            around it.
    """

    def __init__(
        self, ct: CTVolume, device: str = "auto", center: ArrayLike | None = None, isolated: bool | None = None
    ) -> None:
        self.ct, self.device = ct, device
        self.center = np.asarray(ct.center if center is None else center, float)
        hu = ct.hu
        # A bone cut out of its CT has nothing but air around it, where a scan has noise, skin and couch.
        empty = bool((hu <= -1000).mean() > 0.5 and ((hu > -1000) & (hu < -300)).mean() < 0.02)
        self.isolated = empty if isolated is None else isolated
        self.prior = _PRIOR
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
            self._prisms = cut_prisms(grid), np.asarray(np.linalg.inv(grid.affine), float)
        return self._prisms

    def corners(self) -> Array:
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
        geometry: GeometryPriors | None = None,
        start: str = "pose",
        nominal: Pose | None = None,
        plan: Sequence[Level] | None = None,
        background: Background | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: Callable[[], bool] | None = None,
        budget: float | None = None,
        judged: bool = True,
    ) -> RegistrationResult:
        """Register from candidate poses.

        Args:
            xrays: one or several, of the same anatomy.
            candidates: (B, 4, 4) ras_to_camera of the first view, all of which are tried.
            relative: (4, 4) per view: x_cam(view) = relative[view] @ x_cam(first view).
            geometry: how well the geometry of several views is known; None: taken as it is stated.
            start: words for the result's "start".
            nominal: where the C-arm stands in the scene (C0); default the first candidate.
            plan: the levels; default PLAN, or ISOLATED_PLAN for a structure cut out of its CT.
            background: see :class:`descent.Descent`.
            on_progress, cancel, budget: see :func:`register`.
            judged: whether to say how far the result can be trusted (costs a few renderings).

        Raises:
            InputError, Cancelled.
        """
        others = [np.eye(4)] * len(xrays) if relative is None else list(relative)
        candidates = np.asarray(candidates, float)
        settles = not self.isolated and not (plan and plan[-1].pixels < PLAN[-1].pixels)
        neighbours = None if self.isolated or plan else 1
        plan = list(plan or (ISOLATED_PLAN if self.isolated else PLAN))
        given = list(xrays)
        if self.isolated:
            corners = self.corners()
            xrays = [window(x, corners, other @ candidates) for x, other in zip(xrays, others, strict=True)]
        run = Descent(
            xrays,
            others,
            plan,
            self.center,
            self.projector,
            self.prisms(),
            self.isolated,
            Pace(on_progress, cancel, budget),
            Prior(candidates[0], self.prior) if self.isolated and start == "pose" else None,
            settles,
            neighbours,
            background,
        )
        found = run.descend(candidates)
        best = found.ras_to_camera
        poses, similarities, covariance = poses_of_views(best, others), found.similarities, found.covariance
        carms, minima = None, found.minima
        if len(xrays) > 1 and geometry is not None and not geometry.exact and run.pace.word() != "budget":
            last = ISOLATED_GEOMETRY if self.isolated else [*plan[-2:], *([FINISH] if settles else [])]
            settled = settle(given, others, [self], best[None], geometry, last, run.pace, len(plan) + 1)
            poses, carms, covariance = settled.poses[0], settled.carms, settled.covariances[0]
            similarities = settled.similarities[0].tolist()
            minima = [(poses[0].ras_to_camera, minima[0][1]), *minima[1:]]
            found = replace(found, ras_to_camera=poses[0].ras_to_camera)
            run = run.seen_as(
                [replace(x, carm=c) for x, c in zip(given, carms, strict=True)], relative_from_poses(poses)
            )
        measured: dict[str, float] = {}
        trust, bound = NOT_JUDGED, None
        if self.isolated or background:
            trust = Trust(False, 0.0, (STRUCTURE,))
        elif judged:
            measured = signs(run, found)
            trust, bound = judge(measured, self.ct)
        return RegistrationResult(
            poses=poses,
            similarities=similarities,
            trust=trust,
            covariance=covariance,
            expected_error_mm=bound,
            center=self.center,
            c0=(nominal or Pose(inverse(candidates[0]))).camera_to_ras,
            hypotheses=hypotheses([(Pose(inverse(pose)), score) for pose, score in minima]),
            iterations=len(run.pace.history),
            seconds=run.pace.seconds,
            start=start,
            reason=found.reason,
            history=run.pace.history,
            versions=versions(self.projector(8.0).backend),
            carms=carms,
            signs=measured,
            agreements=found.agreements,
        )


def register(
    ct: CTVolume,
    xrays: XrayImage | Sequence[XrayImage],
    start: Any = "search",
    *,
    view: str | Sequence[str] | None = None,
    lao_rao: float | Sequence[float] = 0.0,
    cran_caud: float | Sequence[float] = 0.0,
    relative: Sequence[ArrayLike] | None = None,
    geometry: GeometryPriors | None = None,
    rotation: ArrayLike = SEARCH_ROTATION,
    translation: ArrayLike = SEARCH_TRANSLATION,
    center: ArrayLike | None = None,
    device: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    budget: float | None = None,
    orientations: bool = True,
    registrar: Registrar | None = None,
) -> RegistrationResult:
    """Find the pose of one or several X-rays of the same anatomy relative to a CT.

    Args:
        ct: the CT.
        xrays: attenuation images with their geometry. Several are registered as one rigid body: how they lie to each
            other comes from `relative`, else from a start of one pose for each, else from `view` and angles given one
            for each, else from the angles in their DICOM files.
        start: a Pose, a list of Poses (one per view), a PoseModel (anything with its `hypotheses`, `likely`, ranges; it
            looks at the first X-ray), or "search": the whole range about `view` without any model. Where a result is in
            doubt, more is tried about the pose, or about the model's guess and over the whole of its range.
        view, lao_rao, cran_caud: the view a search is centred on, for several X-rays one for each; without `view`, AP;
            "any" searches around AP, PA and both laterals. Also fixes where the C-arm stands in the scene: for "any",
            as in the view that was found.
        relative: (4, 4) for each X-ray but the first: x_cam(view) = relative @ x_cam(first view).
        geometry: how well the geometry of several views is known. Default: their places to each other exactly,
            distances to 2 %, principal points to 5 mm. A single view's geometry is always taken as it is stated.
        rotation, translation: half-ranges of a search, per camera axis (right, down, depth), degrees and mm.
        center: RAS mm, the point the range turns about; default the CT's centre.
        device: "auto", "cpu" or "cuda:N".
        on_progress: called after every iteration.
        cancel: asked at every iteration; true ends the work with Cancelled.
        budget: seconds after which the best pose so far is returned; with one, a poor result is not looked into.
        orientations: whether an image that fits poorly is tried mirrored and turned.
        registrar: a warm :class:`Registrar` of the same CT.

    Returns:
        The result. Where it fits poorly, its `warnings` say whether an image seems stored mirrored or turned; where it
        started from a model, in which ways the X-ray lies outside what that was certified for.

    Raises:
        InputError: the start does not fit the X-rays.
        Cancelled: `cancel` said so.
    """
    xrays = [xrays] if not isinstance(xrays, Sequence) else list(xrays)
    if not xrays:
        raise InputError("There is no X-ray to register; give at least one.")
    registrar = registrar or Registrar(ct, device, center)
    start = [start] if isinstance(start, Pose) else start
    if view == ANY_VIEW and start != "search":
        raise InputError("The view 'any' is for a search; a start that is given needs none.")
    named = None if view == ANY_VIEW else view
    stated = nominal_poses(xrays, named, lao_rao, cran_caud, registrar.center)
    others = _relations(xrays, start, relative, stated)
    nominals = (
        [nominal_poses(xrays[:1], name, lao_rao, cran_caud, registrar.center) for name in VIEWS]
        if view == ANY_VIEW
        else [stated or nominal_poses(xrays[:1], named, lao_rao, cran_caud, registrar.center)]
    )
    nominal = nominals[0][0]  # type: ignore[index]  # one X-ray's is always known
    if isinstance(start, (list, tuple)):
        first = start[0].ras_to_camera
        candidates, word = start_poses.spread(first, registrar.center, *registrar.spread()), "pose"
        nominal = nominal if view else start[0]
    elif hasattr(start, "hypotheses"):
        guesses = start.hypotheses(xrays[0])
        count, degrees, mm = registrar.spread()
        per_guess = max(count // len(guesses), 1), degrees, mm
        candidates = np.concatenate(
            [start_poses.spread(guess.ras_to_camera, registrar.center, *per_guess) for guess in guesses]
        )
        nominal, word = getattr(start, "nominal", nominal), "model"
    elif start == "search":
        candidates, word = nominal.ras_to_camera[None], "search"
    else:
        raise InputError(f"The start is {start!r}: give a pose, a prepared model or 'search'.")
    began = time.perf_counter()
    settings: dict[str, Any] = {"relative": others, "on_progress": on_progress, "cancel": cancel}
    settings["geometry"] = geometry or GeometryPriors()
    if word == "search":
        first_views = [poses[0] for poses in nominals if poses]
        result = search(registrar, xrays, first_views, rotation, translation, budget, **settings)
        candidates = start_poses.search(inverse(result.c0), registrar.center, COUNT, rotation, translation)
    else:
        own: dict[str, Any] = {"start": word, "nominal": nominal}
        result = registrar.register(xrays, candidates, budget=budget, **own, **settings)
        if budget is None and in_doubt(registrar, result):
            place, ranges, likely = Pose(inverse(candidates[0])), _SECOND_LOOK, None
            if hasattr(start, "likely"):  # a model knows where else the pose may be
                place, ranges, likely = nominal, (start.rotation, start.translation), start.likely(xrays[0])
            result = search(registrar, xrays, [place], *ranges, None, result, likely, **settings)
            result = replace(result, start=word, c0=nominal.camera_to_ras)
    if budget is None:
        warnings: tuple[str, ...] = ()
        if orientations:
            warnings = orientation_warnings(registrar, xrays, candidates, others, result.agreements, cancel)
        if warnings:
            result = replace(result, trust=Trust(False, 0.0, (MIRRORED, *result.trust.reasons)))
        result = replace(result, warnings=warnings, seconds=time.perf_counter() - began)
    if hasattr(start, "warnings"):  # a model says what it was not certified for
        said = start.warnings(xrays[0], result.pose, ct.fingerprint)
        result = replace(result, warnings=(*said, *result.warnings))
    return result


def _relations(
    xrays: Sequence[XrayImage], start: Any, relative: Sequence[ArrayLike] | None, stated: list[Pose] | None
) -> list[Array]:
    """How the views lie to each other; see :func:`register`. Raises InputError where that is not known."""
    count = len(xrays)
    poses = isinstance(start, (list, tuple))
    if relative is not None:
        others = checked_relative(relative, count)
        if poses and len(start) not in (1, count):
            raise InputError(f"There are {len(start)} start poses and {count} X-rays: give one, or one for each.")
        return others
    if poses and len(start) == count:
        return relative_from_poses(start)
    if poses and len(start) != 1:
        raise InputError(f"The start has {len(start)} poses and there are {count} X-rays: give one pose per X-ray.")
    if stated is None:
        raise InputError(NOT_KNOWN)
    return relative_from_poses(stated)
