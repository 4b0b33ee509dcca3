"""The last part of a registration of several views or structures: all of them, and their geometry, settled together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..geometry.coordinates import transform_points
from ..geometry.pose import Pose
from ..geometry.se3 import Array, inverse
from .descent import Level, Pace
from .intensity import Scatter
from .joint import GeometryPriors, JointObjective, State, Structure, calibrated, covariances, solve_jointly
from .similarity import Terms
from .views import Prior, View, reduced, window

if TYPE_CHECKING:
    from ..geometry.carm import CArm
    from ..imaging.xray import XrayImage
    from .register import Registrar


@dataclass(frozen=True)
class Settled:
    """Where S structures in V views ended.

    Attributes:
        poses: of each structure in each view.
        carms: each view's camera, calibrated.
        similarities: (S, V), each over the pixels where the structure shows.
        covariances: (S, 6, 6) of each structure's twist, as `RegistrationResult.covariance`.
        reason: why the solver stopped.
    """

    poses: list[list[Pose]]
    carms: list[CArm]
    similarities: Array
    covariances: Array
    reason: str


def settle(
    xrays: Sequence[XrayImage],
    relative: Sequence[Array],
    registrars: Sequence[Registrar],
    poses: Array,
    priors: GeometryPriors,
    plan: Sequence[Level],
    pace: Pace,
    level: int = 0,
    held: Array | None = None,
) -> Settled:
    """Solve for all structures in all views at once, from poses that are nearly right.

    Args:
        xrays: as given.
        relative: (4, 4) per view: x_cam(view) = relative @ x_cam(first view).
        registrars: one for each structure.
        poses: (S, 4, 4) ras_to_camera of the first view.
        priors: how well the geometry is known.
        plan: the levels gone through.
        pace: progress and cancellation.
        level: number of the first level, for progress.
        held: (S, 4, 4) poses that structures of a single view are held near; default where they start.

    Raises:
        Cancelled.
    """
    isolated = all(registrar.isolated for registrar in registrars)
    state = State.stated(poses, len(xrays))
    given = [xray.carm for xray in xrays]
    if isolated:
        corners = np.concatenate([transform_points(p, r.corners()) for p, r in zip(poses, registrars, strict=True)])
        xrays = [window(x, corners, np.asarray(other)[None]) for x, other in zip(xrays, relative, strict=True)]
    scatter, first = [Scatter() for _ in xrays], True
    seen: JointObjective | None = None

    def at(step: Level, small: Sequence[XrayImage]) -> JointObjective:
        near = poses if held is None else held
        return _objective(step, small, scatter, relative, registrars, state, priors, near)

    for number, step in enumerate(plan, level):
        small = [reduced(xray, step.pixels) for xray in xrays]

        def note(now: State, terms: Terms, number: int = number) -> None:
            pace.note(number, now.poses[:1], terms)

        for again in range(1 + step.scatter):
            if again and seen is not None:
                # What was taken for scatter by a wrong geometry spoils the pose: estimated anew once the geometry fits.
                scatter = [
                    seen.fitted_scatter(n, image, state, None if first else before)
                    for n, (image, before) in enumerate(zip(small, scatter, strict=True))
                ]
                first = False
            objective = at(step, small)
            state, terms, reason = solve_jointly(objective, state, step.iterations, step.tolerance, note, pace.word)
            seen = seen if step.detail else objective
    # Agreement is that of whole images, whatever was solved by.
    seen = seen or at(replace(plan[-1], detail=0.0), small)
    places = [seen.camera(index, state)[1] for index in range(len(xrays))]
    return Settled(
        [[Pose(inverse(place @ pose)) for place in places] for pose in state.poses],
        [calibrated(carm, change) for carm, change in zip(given, state.calibration, strict=True)],
        seen.similarities(state),
        covariances(objective, terms),
        reason,
    )


def _objective(
    level: Level,
    small: Sequence[XrayImage],
    scatter: Sequence[Scatter],
    relative: Sequence[Array],
    registrars: Sequence[Registrar],
    state: State,
    priors: GeometryPriors,
    held: Array,
) -> JointObjective:
    isolated = all(registrar.isolated for registrar in registrars)
    views = [
        View.prepare(one.removed(xray), level.patch, other, level.robust, isolated, level.detail)
        for one, xray, other in zip(scatter, small, relative, strict=True)
    ]
    depth = float(transform_points(state.poses[0], registrars[0].center)[2])
    pixel = max(max(view.carm.pixel_spacing) * depth / view.carm.source_to_detector for view in views)
    structures = [Structure(r.projector(level.voxel * pixel), *r.prisms(), r.center) for r in registrars]
    # A bone in a single view slides along its beam.
    pulls = [Prior(p, r.prior) for p, r in zip(held, registrars, strict=True)] if isolated and len(views) == 1 else []
    return JointObjective(views, structures, priors, state, pulls)
