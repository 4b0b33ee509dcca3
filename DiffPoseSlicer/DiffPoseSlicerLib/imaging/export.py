"""Poses and geometry written for other programs: Slicer and ITK transforms, plain matrices, DICOM registrations."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.coordinates import conjugate_ras_lps
from ..geometry.files import rigid_matrix
from ..geometry.pose import Pose
from ..geometry.se3 import Array, inverse
from .positioner import from_patient_angles
from .quiet import quiet

ENDINGS = (".tfm", ".h5", ".txt", ".dcm")


def write_transform(path: str | os.PathLike[str], to_parent: ArrayLike) -> None:
    """Write a transform file that Slicer loads as a linear transform node with the matrix `to_parent` (4x4, RAS mm).

    ITK's files hold the map the other way, from the parent, in LPS.

    Raises:
        InputError: the matrix is not rigid, or the ending is neither .tfm nor .h5.
    """
    import SimpleITK as sitk

    path = Path(path)
    if path.suffix.lower() not in (".tfm", ".h5"):
        raise InputError(f"A transform cannot be written as {path.name}: use .tfm or .h5.")
    matrix = conjugate_ras_lps(inverse(rigid_matrix(to_parent, "transform")))
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    with quiet():
        sitk.WriteTransform(transform, str(path))


def write_matrix(path: str | os.PathLike[str], matrix: ArrayLike) -> None:
    """Write a matrix as plain text, a row a line, with all its digits."""
    np.savetxt(path, np.asarray(matrix, float), fmt="%.17g")


def projection_matrix(carm: CArm, pose: Pose) -> Array:
    """P (3, 4): homogeneous RAS mm to homogeneous pixels (column, row) of the camera's image; w is the depth in mm."""
    return carm.intrinsics @ pose.ras_to_camera[:3]


def dicom_angles(pose: Pose) -> tuple[float, float, float]:
    """Positioner Primary and Secondary Angle of a pose, and the turn about the beam they leave open, degrees.

    The third is the counter-clockwise turn of the image, as the camera sees it, against that of a C-arm at the two
    angles with the head up.
    """
    rotation = pose.camera_to_ras[:3, :3]
    beam = rotation[:, 2]
    primary = float(np.rad2deg(np.arctan2(-beam[0], beam[1])))
    secondary = float(np.rad2deg(np.arcsin(np.clip(beam[2], -1, 1))))
    upright = from_patient_angles(primary, secondary).rotation
    turn = upright.T @ rotation
    return primary, secondary, float(np.rad2deg(np.arctan2(turn[1, 0], turn[0, 0])))


def write_spatial_registration(
    path: str | os.PathLike[str], matrix: ArrayLike, frame_of_reference: str, registered_frame_of_reference: str
) -> None:
    """Write a DICOM Spatial Registration object.

    Args:
        path: The file.
        matrix: 4x4 rigid, RAS mm: from `frame_of_reference` to `registered_frame_of_reference`.
        frame_of_reference: UID of the space that is moved.
        registered_frame_of_reference: UID of the space it is moved into.

    Raises:
        InputError: the matrix is not rigid, or a UID is missing.
    """
    import pydicom
    from pydicom.dataset import Dataset

    from .dicom_export import blank_dataset, save

    if not frame_of_reference or not registered_frame_of_reference:
        raise InputError("A DICOM registration needs the frames of reference of both images; one of them has none.")
    lps = conjugate_ras_lps(rigid_matrix(matrix, "registration"))

    def item(uid: str, transform: Array) -> Dataset:
        entry = Dataset()
        entry.FrameOfReferenceTransformationMatrixType = "RIGID"
        entry.FrameOfReferenceTransformationMatrix = [f"{value:.10g}" for value in transform.ravel()]
        matrices = Dataset()
        matrices.MatrixSequence = [entry]
        registration = Dataset()
        registration.FrameOfReferenceUID = uid
        registration.MatrixRegistrationSequence = [matrices]
        return registration

    dataset = blank_dataset(pydicom.uid.SpatialRegistrationStorage, "REG")
    dataset.FrameOfReferenceUID = registered_frame_of_reference
    dataset.ContentLabel, dataset.ContentDescription = "REGISTRATION", "CT to C-arm"
    dataset.RegistrationSequence = [
        item(registered_frame_of_reference, np.eye(4)),
        item(frame_of_reference, lps),
    ]
    save(dataset, Path(path))
