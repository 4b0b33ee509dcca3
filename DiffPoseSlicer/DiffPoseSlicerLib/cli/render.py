"""Render one synthetic X-ray (DRR) of a CT: line integrals, bone bright."""

from __future__ import annotations

import argparse

from ..evaluation.images import ENDINGS, write_line_integrals
from . import options


def add(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("ct", metavar="CT", help="NIfTI, NRRD or MetaImage file, or a DICOM folder")
    options.add_carm(parser)
    parser.add_argument("--pose", required=True, metavar="F", help="pose.json, or a result or truth file")
    parser.add_argument("-o", "--output", required=True, metavar="IMG", help=f"the image: {', '.join(ENDINGS)} or .dcm")
    options.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Render and write."""
    from ..geometry.pose import Pose
    from ..imaging.dicom_export import write_dicom_xray
    from ..imaging.orientation import stored_spacing, to_stored
    from ..rendering.renderer import render

    target = options.output_file(args.output, (*ENDINGS, ".dcm"))
    carm, pose = options.read_carm(args.carm), Pose.read(args.pose)
    image = render(options.read_ct(args.ct), carm, pose, device=args.device)
    if target.suffix.lower() == ".dcm":
        write_dicom_xray(target, image, carm, pose)
    else:
        write_line_integrals(target, to_stored(image, carm), stored_spacing(carm))
