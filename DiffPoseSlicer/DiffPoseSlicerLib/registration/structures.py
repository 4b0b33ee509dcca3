"""Structures that move each on their own: a femur beside its pelvis, neighbouring vertebrae, radius and ulna.

Each is first registered alone, the rest of the image being what robust weights shut out. Jointly, each is then looked
for again with the others rendered where they were found, so that bones that overlap no longer take each other's edges,
and in the end all are solved for at once. Fine detail decides: soft tissue and bones that are not rendered (the hand)
vary more smoothly than a bone's own edges, and without them several places along a shaft explain whole images alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..geometry.pose import Pose
from ..geometry.se3 import Array, inverse
from . import starts as start_poses
from .descent import ISOLATED_FINISH, ISOLATED_GEOMETRY, ISOLATED_PLAN, Background, Pace
from .joint import GeometryPriors
from .register import Registrar, register
from .relations import NOT_KNOWN, checked_relative, nominal_poses, relative_from_poses
from .result import Progress, RegistrationResult
from .settling import settle

if TYPE_CHECKING:
    from ..geometry.carm import CArm
    from ..imaging.ct import CTVolume
    from ..imaging.xray import XrayImage

# How often each structure is looked for again beside the others.
_ROUNDS = 2


def register_structures(
    structures: Mapping[str, CTVolume | Registrar],
    xrays: XrayImage | Sequence[XrayImage],
    start: Any,
    *,
    whole: CTVolume | Registrar | None = None,
    jointly: bool = True,
    relative: Sequence[ArrayLike] | None = None,
    geometry: GeometryPriors | None = None,
    device: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    **options: Any,
) -> dict[str, RegistrationResult]:
    """Find the pose of each of several structures in one or several X-rays.

    Args:
        structures: by name, each a CT with nothing but that structure in it (`CTVolume.structure`), or its Registrar.
        xrays: as for :func:`register`.
        start: a Pose or a list of Poses (one per view) near which all structures lie, or a dictionary of these by name.
            With `whole`, anything that :func:`register` takes: the whole CT is registered first, and the structures
            are looked for where it was found.
        whole: the CT that the structures were cut from.
        jointly: whether the structures explain the images together; else each is registered by itself.
        relative, geometry: as for :func:`register`.
        device: "auto", "cpu" or "cuda:N".
        on_progress, cancel: as for :func:`register`.
        options: of :func:`register` for the whole CT and how the views lie: view, angles, ranges, center.

    Returns:
        A result for each structure, by name. Poses are in the coordinates of its CT; twists and covariances are about
        its middle.

    Raises:
        InputError: no structure, or a start that does not fit. Cancelled: `cancel` said so.
    """
    xrays = [xrays] if not isinstance(xrays, Sequence) else list(xrays)
    if not structures or not xrays:
        raise InputError("There is nothing to register; give at least one structure and one X-ray.")
    registrars = {
        name: ct if isinstance(ct, Registrar) else Registrar(ct, device, isolated=True)
        for name, ct in structures.items()
    }
    told: dict[str, Any] = {"geometry": geometry, "on_progress": on_progress, "cancel": cancel}
    if not _is_poses(start) and not isinstance(start, Mapping):
        if whole is None:
            raise InputError("Structures start from poses, or from the registration of the whole CT: give one of them.")
        body = whole if isinstance(whole, Registrar) else Registrar(whole, device, options.get("center"))
        start = register(body.ct, xrays, start, relative=relative, registrar=body, **told, **options).poses
    begin = {name: start[name] if isinstance(start, Mapping) else start for name in registrars if _has(start, name)}
    if missing := [name for name in registrars if name not in begin]:
        raise InputError(f"There is no start for the structure {missing[0]}: give a pose for it.")
    found = {
        name: register(
            r.ct, xrays, begin[name], relative=relative, registrar=r, device=device, **told, **_views(options)
        )
        for name, r in registrars.items()
    }
    if not jointly or len(registrars) == 1:
        return found
    others = _relative(xrays, begin, relative, options)
    firsts = {name: poses if isinstance(poses, Pose) else poses[0] for name, poses in begin.items()}
    pace = Pace(on_progress, cancel)
    return _together(registrars, xrays, others, firsts, found, geometry or GeometryPriors(), pace)


def _together(
    registrars: dict[str, Registrar],
    xrays: Sequence[XrayImage],
    relative: Sequence[Array],
    starts: dict[str, Pose],
    found: dict[str, RegistrationResult],
    geometry: GeometryPriors,
    pace: Pace,
) -> dict[str, RegistrationResult]:
    """Each again beside the others, then all at once."""
    names = list(registrars)
    poses = {name: result.pose.ras_to_camera for name, result in found.items()}
    begun = {name: first.ras_to_camera for name, first in starts.items()}
    for _ in range(_ROUNDS):
        for name, registrar in registrars.items():
            rest = [(registrars[other], poses[other]) for other in names if other != name]
            around = start_poses.spread(poses[name], registrar.center, *registrar.spread())
            # The given start comes first: it is what a bone in a single view is held near.
            candidates = np.concatenate([begun[name][None], around])
            found[name] = registrar.register(
                xrays,
                candidates,
                relative=relative,
                background=rendered(rest, relative),
                cancel=pace.cancel,
            )
            poses[name] = found[name].pose.ras_to_camera
    exact = len(xrays) == 1 or geometry.exact
    settled = settle(
        xrays,
        relative,
        list(registrars.values()),
        np.stack([poses[name] for name in names]),
        geometry,
        ISOLATED_FINISH if exact else ISOLATED_GEOMETRY,
        pace,
        len(ISOLATED_PLAN),
        np.stack(list(begun.values())),
    )
    carms = None if exact else settled.carms
    return {
        name: replace(
            found[name],
            poses=settled.poses[row],
            similarities=settled.similarities[row].tolist(),
            covariance=settled.covariances[row],
            carms=carms,
            reason=settled.reason,
            seconds=pace.seconds,
            hypotheses=[replace(found[name].hypotheses[0], pose=settled.poses[row][0]), *found[name].hypotheses[1:]],
        )
        for row, name in enumerate(names)
    }


def rendered(structures: Sequence[tuple[Registrar, Array]], relative: Sequence[Array]) -> Background:
    """What structures at known poses (ras_to_camera of the first view) add to each view's image."""

    def background(index: int, carm: CArm, pixels: Array, voxel: float) -> NDArray[np.float32]:
        return sum(
            registrar.projector(voxel).project(carm, inverse(relative[index] @ pose), pixels=pixels)
            for registrar, pose in structures
        )

    return background


def _relative(
    xrays: Sequence[XrayImage], begin: Mapping[str, Any], relative: Sequence[ArrayLike] | None, options: dict[str, Any]
) -> list[Array]:
    """How the views lie to each other, as :func:`register` decides it."""
    if relative is not None:
        return checked_relative(relative, len(xrays))
    first = next(iter(begin.values()))
    if isinstance(first, (list, tuple)) and len(first) == len(xrays):
        return relative_from_poses(first)
    view, lao_rao, cran_caud = options.get("view"), options.get("lao_rao", 0.0), options.get("cran_caud", 0.0)
    stated = nominal_poses(xrays, view, lao_rao, cran_caud, np.zeros(3))
    if stated is None:
        raise InputError(NOT_KNOWN)
    return relative_from_poses(stated)


def _views(options: dict[str, Any]) -> dict[str, Any]:
    """The options that say how views lie: ranges and the centre are the whole CT's."""
    return {name: value for name, value in options.items() if name in ("view", "lao_rao", "cran_caud")}


def _is_poses(start: Any) -> bool:
    return isinstance(start, (Pose, list, tuple))


def _has(start: Any, name: str) -> bool:
    return not isinstance(start, Mapping) or name in start
