"""Simulate fluoroscopies of a CT at random poses, with the true pose of each."""

from __future__ import annotations

import argparse

from ..errors import InputError
from . import options
from .progress import ProgressLine

FORMATS = ("dcm", "png", "tiff")
PHOTOMETRICS = ("MONOCHROME1", "MONOCHROME2")


def add(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("ct", metavar="CT", help="NIfTI, NRRD or MetaImage file, or a DICOM folder")
    options.add_carm(parser)
    options.add_view(parser)
    options.add_range(parser)
    parser.add_argument("-n", type=options.count, default=20, metavar="N", help="how many (default 20)")
    parser.add_argument("--seed", type=options.seed, default=0, metavar="S", help="which poses and noise (default 0)")
    parser.add_argument("--photons", type=float, metavar="P", help="photons a pixel in air (default 20000)")
    parser.add_argument("--scatter", type=float, metavar="S", help="scatter to primary (default 0.3)")
    parser.add_argument(
        "--realistic",
        action="store_true",
        help="instead: all that images for pretraining get, drawn for each (beam hardening, blur, scatter, noise, "
        "display processing, instruments, collimators, limbs)",
    )
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="of the images, 16 bits (default dcm)")
    parser.add_argument(
        "--photometric", choices=PHOTOMETRICS, default=PHOTOMETRICS[1], help="of DICOM images (default MONOCHROME2)"
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="a new or empty folder")
    options.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Simulate and write."""
    from ..evaluation.simulate import simulate, write_simulated
    from ..evaluation.stress import Exposure

    if args.realistic and (args.photons is not None or args.scatter is not None):
        raise InputError("--realistic draws noise and scatter for each image; leave --photons and --scatter out.")
    photons = 2e4 if args.photons is None else args.photons
    scatter = 0.3 if args.scatter is None else args.scatter
    if not 1 <= photons <= 1e12:
        raise InputError(f"--photons is {photons:g}; give the photons a pixel gets in air, such as 20000.")
    if not 0 <= scatter <= 100:
        raise InputError(f"--scatter is {scatter:g}; give the ratio of scattered to primary radiation, such as 0.3.")
    folder = options.output_folder(args.output)
    carm, ct = options.read_carm(args.carm), options.read_ct(args.ct)
    images = simulate(
        ct,
        carm,
        args.view,
        lao_rao=args.lao_rao,
        cran_caud=args.cran_caud,
        rotation=args.rotation,
        translation=args.translation,
        center=args.center,
        n=args.n,
        seed=args.seed,
        exposure=None if args.realistic else Exposure(photons=photons, scatter=scatter),
        device=args.device,
    )
    with ProgressLine() as line:
        for done, _ in enumerate(write_simulated(images, folder, f".{args.format}", args.photometric), 1):
            line(f"{done} of {args.n} images simulated")
