"""Landmarks that the user has marked in the CT and on the fluoroscopy: two point lists in the scene, paired."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.coordinates import transform_points
from ..geometry.pose import Pose
from ..geometry.se3 import Array, inverse
from ..registration.landmarks import LandmarkPairs, reprojection_errors
from .placement import attach, find_transform, get_ct_to_world, insert_transform


def pairs(ct: Any, points: Any, seen: Any, carm: CArm, c0: Array) -> LandmarkPairs:
    """The landmarks of two point lists, paired by name, or by order where no names agree.

    Args:
        ct: The CT node; `points` moves along with it from now on.
        points: Markups node with the points in the CT.
        seen: Markups node with the points on the fluoroscopy's detector (a slice view puts them there).
        carm, c0: The fluoroscopy's C-arm and where it stands.

    Raises:
        InputError: a list is missing, or there are too few pairs.
    """
    if points is None or seen is None:
        raise InputError("Choose two point lists: the landmarks in the CT, and the same ones on the fluoroscopy.")
    if points is seen:
        raise InputError("The landmarks in the CT and those on the fluoroscopy are one list: choose two.")
    in_ct, on_image = _placed(points), _placed(seen)
    names = [name for name in in_ct if name in on_image]
    if names:
        chosen = [(name, in_ct[name], on_image[name]) for name in names]
    elif len(in_ct) == len(on_image):
        chosen = [(name, in_ct[name], other) for name, other in zip(in_ct, on_image.values(), strict=True)]
    else:
        raise InputError(
            f"The point lists cannot be paired: '{points.GetName()}' has {len(in_ct)} points, '{seen.GetName()}' "
            f"{len(on_image)}, and no names agree. Give pairs the same name."
        )
    transform = insert_transform(ct)
    world = np.array([point for _, point, _ in chosen], float).reshape(-1, 3)
    image = np.array([point for _, _, point in chosen], float).reshape(-1, 3)
    pixels = carm.project(transform_points(inverse(c0), image))
    found = LandmarkPairs(
        tuple(name for name, _, _ in chosen), transform_points(inverse(get_ct_to_world(transform)), world), pixels
    )
    _move_along(points, ct, transform)
    return found


def to_start(found: LandmarkPairs) -> dict[str, Any]:
    """Landmark pairs as the engine takes them for a start."""
    rows = zip(found.names, found.points.tolist(), found.pixels.tolist(), strict=True)
    return {"landmarks": [{"name": name, "ras": point, "pixel": pixel} for name, point, pixel in rows]}


def errors(found: LandmarkPairs, carm: CArm, camera_to_ras: Array) -> dict[str, float]:
    """How far each landmark is seen from where a pose projects it, in mm at the patient's depth."""
    at_detector = reprojection_errors(found, carm, Pose(camera_to_ras))
    depth = transform_points(inverse(camera_to_ras), found.points)[:, 2]
    return dict(zip(found.names, (at_detector * depth / carm.source_to_detector).tolist(), strict=True))


def _placed(node: Any) -> dict[str, Array]:
    """World positions of a list's points by name; points that are not placed yet are left out."""
    result = {}
    for index in range(node.GetNumberOfControlPoints()):
        if node.GetNthControlPointPositionStatus(index) == node.PositionDefined:
            position = [0.0, 0.0, 0.0]
            node.GetNthControlPointPositionWorld(index, position)
            name = node.GetNthControlPointLabel(index) or str(index + 1)
            result[name if name not in result else f"{name} ({index + 1})"] = np.array(position)
    return result


def _move_along(points: Any, ct: Any, transform: Any) -> None:
    """Put a point list under the CT's transform, its points where they are."""
    if find_transform(points) is transform:
        return
    world = [[0.0, 0.0, 0.0] for _ in range(points.GetNumberOfControlPoints())]
    for index, position in enumerate(world):
        points.GetNthControlPointPositionWorld(index, position)
    attach(points, transform)
    for index, position in enumerate(world):
        points.SetNthControlPointPositionWorld(index, *position)
