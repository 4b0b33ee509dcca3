"""Prepare a model for one CT, C-arm and view, in a job folder; go on where one was stopped."""

from __future__ import annotations

import argparse

from ..errors import InputError
from . import options

PRESETS = ("quick", "standard", "thorough")


def add(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("ct", metavar="CT", nargs="?", help="NIfTI, NRRD or MetaImage file, or a DICOM folder")
    parser.add_argument("--carm", metavar="F", help="carm.json")
    options.add_view(parser)
    options.add_range(parser)
    parser.add_argument("--preset", choices=PRESETS, default="standard", help="how long to train (default standard)")
    parser.add_argument("--seed", type=options.seed, default=0, metavar="S", help="of the training (default 0)")
    parser.add_argument("-o", "--output", metavar="JOBDIR", help="the job folder; a stopped job in it is gone on with")
    parser.add_argument("--job", metavar="JOBDIR", help="run the job that this folder describes; no other options")
    options.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Train until done or stopped."""
    raise InputError("Pretraining is not available yet.")
