"""Where the camera is: poses, standard views, and poses sampled about a view.

Views are named as radiography names them, by the beam. AP enters in front (source anterior), PA enters behind,
LEFT_LATERAL has the patient's left side at the detector, RIGHT_LATERAL the reverse; the head is up in the image.
Positioner angles turn from there as in DICOM (PS3.3 C.8.7.5.1.2): LAO positive moves the detector towards the patient's
left, CRA positive towards the head; 0/0 with the source behind is our PA.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from .files import read_json, rigid_matrix, write_json
from .se3 import Array, inverse, rigid, so3_exp, so3_log

if TYPE_CHECKING:
    from .carm import CArm

# Angle of the gantry about the patient's long axis, in degrees of LAO, that each view stands for.
VIEWS = {"PA": 0.0, "AP": 180.0, "LEFT_LATERAL": 90.0, "RIGHT_LATERAL": -90.0}

# PA: columns are the camera axes in RAS. The beam runs from behind to the front, rows from head to feet.
_PA = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])


def view_rotation(view: str = "PA", lao_rao: float = 0.0, cran_caud: float = 0.0) -> Array:
    """R0 (3x3), camera axes in RAS as columns, of a view turned by positioner angles in degrees.

    The gantry turns about the patient's long axis by the primary angle, then tilts towards the head by the secondary.

    Raises:
        InputError: the view is not one of VIEWS.
    """
    if view not in VIEWS:
        raise InputError(f"The view is {view!r}: use one of {', '.join(VIEWS)}.")
    primary, secondary = np.deg2rad(VIEWS[view] + lao_rao), np.deg2rad(cran_caud)
    return so3_exp([0, 0, primary]) @ so3_exp([secondary, 0, 0]) @ _PA


@dataclass(frozen=True)
class Pose:
    """A rigid pose of the C-arm: x_ras = camera_to_ras @ x_cam, 4x4 float64, mm.

    Raises:
        InputError: the matrix is not rigid.
    """

    camera_to_ras: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "camera_to_ras", rigid_matrix(self.camera_to_ras, "pose (cameraToRAS)"))

    @property
    def ras_to_camera(self) -> Array:
        """x_cam = ras_to_camera @ x_ras."""
        return inverse(self.camera_to_ras)

    @classmethod
    def about(cls, rotation: ArrayLike, center: ArrayLike, carm: CArm, offset: ArrayLike = (0, 0, 0, 0, 0, 0)) -> Pose:
        """The pose x_cam = exp(omega) R0^T (x_ras - c) + [0, 0, sourceToIsocenter] + v.

        Args:
            rotation: R0 (3, 3) as from :func:`view_rotation`.
            center: c (3,), the isocentre in RAS mm.
            carm: Gives `source_to_isocenter`.
            offset: (omega, v): rotation vector in radians and shift in mm that turn and move the anatomy in camera axes
                (right, down, depth).
        """
        offset = np.asarray(offset, float)
        turn = so3_exp(offset[:3]) @ np.asarray(rotation, float).T
        shift = np.array([0, 0, carm.source_to_isocenter]) + offset[3:]
        return cls(inverse(rigid(turn, shift - turn @ np.asarray(center, float))))

    def offset_from(self, rotation: ArrayLike, center: ArrayLike, carm: CArm) -> Array:
        """(omega, v) of :meth:`about` that gives this pose."""
        matrix = self.ras_to_camera
        omega = so3_log(matrix[:3, :3] @ np.asarray(rotation, float))
        center_cam = matrix[:3, :3] @ np.asarray(center, float) + matrix[:3, 3]
        return np.concatenate([omega, center_cam - [0, 0, carm.source_to_isocenter]])

    @classmethod
    def from_view(cls, view: str, ct: Any, carm: CArm, lao_rao: float = 0.0, cran_caud: float = 0.0) -> Pose:
        """The nominal pose of a view about the centre of a CT (`ct.center`, or a point in RAS mm)."""
        return cls.about(view_rotation(view, lao_rao, cran_caud), getattr(ct, "center", ct), carm)

    def to_json(self) -> dict[str, Any]:
        """The content of a pose file."""
        return {"cameraToRAS": self.camera_to_ras.tolist()}

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a pose file."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Pose:
        """The (first) pose of a pose, truth or result file. Raises InputError."""
        return read_poses(path)[0]


def poses_from_json(data: dict[str, Any], what: str = "pose file") -> list[Pose]:
    """Poses from `{"cameraToRAS": ...}` or `{"views": [{"cameraToRAS": ...}, ...]}`.

    Raises:
        InputError: neither form, or a matrix that is not rigid.
    """
    views = data.get("views", [data])
    if not isinstance(views, list) or not views:
        raise InputError(f"The {what} has 'views' that is not a list with at least one pose.")
    for view in views:
        if not isinstance(view, dict) or "cameraToRAS" not in view:
            raise InputError(f"The {what} lacks 'cameraToRAS' (a 4x4 matrix); add it.")
    return [Pose(rigid_matrix(view["cameraToRAS"], f"cameraToRAS of the {what}")) for view in views]


def read_poses(path: str | os.PathLike[str]) -> list[Pose]:
    """All poses of a pose, truth or result file, one a view. Raises InputError."""
    return poses_from_json(read_json(path, "pose file"))
