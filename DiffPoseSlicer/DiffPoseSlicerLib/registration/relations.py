"""How several views lie to each other: from a rig, from poses, from named views, or from the positioner's angles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..geometry.files import read_json, rigid_matrix
from ..geometry.pose import Pose, view_rotation
from ..geometry.se3 import Array, inverse

if TYPE_CHECKING:
    from ..imaging.xray import XrayImage

NOT_KNOWN = (
    "How the X-rays lie to each other is not known: give their relative poses (a rig), a view for each, or a list of "
    "start poses, one for each."
)


def relative_from_poses(poses: Sequence[Pose]) -> list[Array]:
    """(4, 4) per view: x_cam(view) = relative @ x_cam(first view)."""
    return [pose.ras_to_camera @ poses[0].camera_to_ras for pose in poses]


def nominal_poses(
    xrays: Sequence[XrayImage],
    view: str | Sequence[str] | None,
    lao_rao: float | Sequence[float],
    cran_caud: float | Sequence[float],
    center: ArrayLike,
) -> list[Pose] | None:
    """Where each view nominally stands, about one isocentre; None where that is not said for each of several views.

    A single X-ray without a view stands at AP. Several X-rays take a list of views or of angles; without either, the
    angles in their DICOM files.

    Raises:
        InputError: a list has another length than there are X-rays.
    """
    count = len(xrays)
    given = {"views": view, "LAO/RAO angles": lao_rao, "CRA/CAU angles": cran_caud}
    for name, value in given.items():
        if _is_list(value) and len(value) != count:  # type: ignore[arg-type]
            raise InputError(f"There are {len(value)} {name} and {count} X-rays: give one for each.")  # type: ignore[arg-type]
    if count > 1 and not any(map(_is_list, given.values())):
        known = [(xray.positioner, xray.carm) for xray in xrays if xray.positioner is not None]
        return [positioner.pose(center, carm) for positioner, carm in known] if len(known) == count else None
    lists: list[list[Any]] = [list(v) if _is_list(v) else [v] * count for v in given.values()]  # type: ignore[arg-type]
    return [
        Pose.about(view_rotation(name or "AP", first, second), center, xray.carm)
        for name, first, second, xray in zip(*lists, xrays, strict=True)
    ]


def checked_relative(relative: Sequence[ArrayLike], count: int) -> list[Array]:
    """Relative poses as given by a user: one a view, or one for each view but the first.

    Raises:
        InputError: another number, a matrix that is not rigid, or a first one that is not the identity.
    """
    matrices = [rigid_matrix(np.asarray(one, float), "relative pose") for one in relative]
    if len(matrices) == count - 1:
        matrices = [np.eye(4), *matrices]
    if len(matrices) != count or not np.allclose(matrices[0], np.eye(4), atol=1e-6):
        raise InputError(
            f"There are {len(relative)} relative poses and {count} X-rays: give one (4x4, x_cam of the view from x_cam "
            "of the first view) for each X-ray but the first."
        )
    return matrices


def read_rig(path: str | os.PathLike[str]) -> list[Array]:
    """Relative poses from a rig.json: {"camera1ToCamera2": 4x4, "camera1ToCamera3": 4x4, ...}.

    Returns:
        One matrix for each view but the first.

    Raises:
        InputError: none is there, or one is not rigid.
    """
    data = read_json(path, "rig file")
    found: list[Array] = []
    while (key := f"camera1ToCamera{len(found) + 2}") in data:
        found.append(rigid_matrix(data[key], f"{key} of the rig file"))
    if not found:
        raise InputError("The rig file lacks 'camera1ToCamera2' (4x4, x_cam2 = M x_cam1); add it.")
    return found


def poses_of_views(first: Array, relative: Sequence[Array]) -> list[Pose]:
    """Every view's pose from the first one's ras_to_camera (4, 4)."""
    return [Pose(inverse(other @ first)) for other in relative]


def _is_list(value: Any) -> bool:
    return not isinstance(value, str) and isinstance(value, (Sequence, np.ndarray))
