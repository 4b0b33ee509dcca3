"""Write a pose for other programs: a transform, a matrix, a projection matrix, DICOM angles or a DICOM registration."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry.pose import Pose
from ..geometry.se3 import Array
from . import options

_MATRICES = ("ctToWorld", "cameraToRAS", "projection")


def add(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("result", metavar="RESULT", help="result.json, or a pose or truth file")
    parser.add_argument(
        "--to",
        required=True,
        metavar="FILE",
        help=".tfm or .h5: a transform that Slicer loads; .txt: a matrix; .json: angles as DICOM has them; .dcm: a "
        "Spatial Registration",
    )
    parser.add_argument(
        "--matrix",
        choices=_MATRICES,
        help="which matrix: that of the transform node in Slicer (default, where the file has it), the camera's pose, "
        "or the 3x4 projection matrix (.txt, needs --carm)",
    )
    parser.add_argument("--number", type=options.count, default=1, metavar="N", help="which view (default 1)")
    parser.add_argument("--carm", metavar="F", help=f"{options.CARM_SOURCES}, for the projection matrix")
    parser.add_argument("--ct", metavar="CT", help="the CT's DICOM folder, for .dcm: whose frame of reference is moved")
    parser.add_argument("--xray", metavar="XRAY", help="the DICOM X-ray, for .dcm: into whose frame of reference")


def run(args: argparse.Namespace) -> None:
    """Write the file."""
    from ..geometry.files import read_json, write_json
    from ..geometry.pose import poses_from_json
    from ..imaging import export

    target = options.output_file(args.to, (".tfm", ".h5", ".txt", ".json", ".dcm"))
    data = read_json(args.result, "result")
    poses = poses_from_json(data, "result")
    if args.number > len(poses):
        raise InputError(f"The result has {len(poses)} views: there is no view {args.number}.")
    pose = poses[args.number - 1]
    ending = target.suffix.lower()
    if args.matrix == "projection" and ending != ".txt":
        raise InputError(f"A projection matrix is written as .txt, not as {ending}.")
    if ending == ".dcm" and (args.matrix or "ctToWorld") != "ctToWorld":
        raise InputError(f"A DICOM registration holds ctToWorld, not {args.matrix}.")
    if ending == ".json":
        write_json(target, angles(pose))
    elif ending == ".txt":
        export.write_matrix(target, _matrix(args, data, pose))
    elif ending == ".dcm":
        export.write_spatial_registration(target, _matrix(args, data, pose), *_frames_of_reference(args))
    else:
        export.write_transform(target, _matrix(args, data, pose))


def angles(pose: Pose) -> dict[str, float]:
    """A pose's angles as DICOM names them, degrees."""
    from ..imaging.export import dicom_angles

    primary, secondary, turn = dicom_angles(pose)
    return {"PositionerPrimaryAngle": primary, "PositionerSecondaryAngle": secondary, "turnAboutBeam": turn}


def _matrix(args: argparse.Namespace, data: dict[str, Any], pose: Pose) -> Array:
    """The matrix asked for. Raises InputError: something it needs is missing."""
    from ..imaging.export import projection_matrix

    if args.matrix == "projection":
        if args.carm is None:
            raise InputError("A projection matrix needs the C-arm too; give --carm.")
        return projection_matrix(options.read_carm(args.carm), pose)
    if args.matrix == "cameraToRAS" or (args.matrix is None and "ctToWorld" not in data):
        return pose.camera_to_ras
    if "ctToWorld" not in data:
        raise InputError("The file holds no ctToWorld: give a result.json, or --matrix cameraToRAS.")
    from ..geometry.files import rigid_matrix

    return rigid_matrix(np.asarray(data["ctToWorld"], float), "ctToWorld")


def _frames_of_reference(args: argparse.Namespace) -> tuple[str, str]:
    """UIDs of the CT's and of the X-ray's space. Raises InputError: not given."""
    from ..imaging.dicom import get, read_dataset

    if args.ct is None or args.xray is None:
        raise InputError("A DICOM registration needs the frames of reference of both images; give --ct and --xray.")
    xray = Path(args.xray)
    if not xray.is_file():
        raise InputError(f"The X-ray {xray.name} does not exist; check the path.")
    header = read_dataset(xray, "X-ray", pixels=False, tags=["Modality", "FrameOfReferenceUID"])
    return options.read_ct(args.ct).frame_of_reference, str(get(header, "FrameOfReferenceUID", ""))
