"""Find the pose of one or several X-rays relative to a CT."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from . import options
from .progress import ProgressLine

if TYPE_CHECKING:
    from ..imaging.ct import CTVolume
    from ..imaging.xray import XrayImage
    from ..registration.result import Progress, RegistrationResult

_STARTS = "model:JOBDIR, pose:FILE, search, dicom or landmarks:FILE"


def add(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("ct", metavar="CT", help="NIfTI, NRRD or MetaImage file, or a DICOM folder")
    parser.add_argument("xrays", metavar="XRAY", nargs="+", help="DICOM, PNG, TIFF, NIfTI, NRRD or .npy")
    parser.add_argument(
        "--carm",
        nargs="+",
        action="extend",
        metavar="F",
        help=f"{options.CARM_SOURCES} or preset:NAME: one for all X-rays, or one for each in order",
    )
    parser.add_argument(
        "--orientation",
        type=_orientation,
        metavar="W",
        help="plain or mirrored, perhaps with a turn (mirrored:90): how the X-rays were stored, where their files are "
        "wrong; what `mirrored` and `rotation` mean in a carm.json",
    )
    parser.add_argument("--start", default="search", metavar="S", help=f"{_STARTS} (default search)")
    parser.add_argument(
        "--method",
        choices=("ours", "first-order"),
        default="ours",
        help="first-order: Adam on multiscale correlation from one start, as in DiffPose, to compare with",
    )
    options.add_view(parser, default=None, unknown=True)
    options.add_range(parser, None, None)
    options.add_crop(parser)
    parser.add_argument("-o", "--output", required=True, metavar="F", help="result.json")
    parser.add_argument("--overlay", metavar="PNG", help="write the X-rays with the edges of the rendered ones")
    parser.add_argument("--report", metavar="HTML", help="write a page of the registration for the patient's file")
    options.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Register, write the result, say it in a line."""
    from ..registration.register import register

    target = options.output_file(args.output, (".json",))
    overlay = options.output_file(args.overlay, (".png",)) if args.overlay else None
    page = options.output_file(args.report, (".html",)) if args.report else None
    kind, file = _split_start(args.start)
    xrays = read_xrays(args.xrays, args.carm)
    if args.orientation:
        xrays = [xray.reoriented(*args.orientation) for xray in xrays]
    whole = options.read_ct(args.ct)
    ct, isocentre = options.cropped(whole, args), whole.center if args.center is None else args.center
    start = _start(kind, file, xrays, isocentre, args.view)
    given = {"view": args.view, "rotation": args.rotation, "translation": args.translation}
    center = start.center if args.center is None and hasattr(start, "hypotheses") else isocentre
    with ProgressLine() as line:
        result = (register if args.method == "ours" else _first_order)(
            ct,
            xrays,
            start,
            lao_rao=args.lao_rao,
            cran_caud=args.cran_caud,
            center=center,
            device=args.device,
            on_progress=lambda step: line(_words(step)),
            **{key: value for key, value in given.items() if value is not None},
        )
    if kind in ("dicom", "landmarks"):
        result = replace(result, start=kind)
    result.write(target)
    if overlay:
        write_overlay(overlay, ct, xrays, result, args.device)
    if page:
        from ..evaluation.report import write_report

        write_report(page, ct, xrays, result, device=args.device)
    print(summary(result))
    for warning in result.warnings:
        print(f"Warning: {warning}", file=sys.stderr)


def _first_order(ct: CTVolume, xrays: list[XrayImage], start: Any, **given: Any) -> RegistrationResult:
    """What `register` does, by the optimiser of others. Raises InputError where there is no one start."""
    from ..registration.comparison.first_order import register_first_order
    from ..registration.register import Registrar

    if hasattr(start, "predict"):
        start = start.predict(xrays[0])
    elif isinstance(start, list):
        start = start[0]
    elif start == "search":
        raise InputError(
            "--method first-order needs one pose to start from: give --start model, pose, dicom or landmarks."
        )
    registrar = Registrar(ct, given["device"], given["center"])
    return register_first_order(registrar, xrays, start, on_progress=given["on_progress"])


def _orientation(text: str) -> tuple[bool, int]:
    """(mirrored, rotation) of --orientation."""
    word, _, turn = text.partition(":")
    if word not in ("plain", "mirrored") or turn not in ("", "0", "90", "180", "270"):
        raise argparse.ArgumentTypeError(f"{text!r} is no orientation: use plain or mirrored, and :90, :180 or :270")
    return word == "mirrored", int(turn or 0)


def summary(result: RegistrationResult) -> str:
    """A result in one line."""
    similarity = ", ".join(f"{value:.3f}" for value in result.similarities)
    trust = result.trust
    verdict = "trusted" if trust.trusted else "not trusted"
    why = f": {'; '.join(trust.reasons)}" if trust.reasons else ""
    return f"similarity {similarity} after {result.iterations} iterations, {result.seconds:.2f} s; {verdict}{why}"


def read_xrays(files: list[str], carm_files: list[str] | None) -> list[XrayImage]:
    """The X-rays with their geometry.

    Raises:
        InputError: a file is wrong, or the numbers of files do not fit.
    """
    from ..imaging.carm_sources import read_carm
    from ..imaging.xray import XrayImage

    if not carm_files:
        return [XrayImage.read(file) for file in files]
    if len(carm_files) not in (1, len(files)):
        raise InputError(
            f"There are {len(files)} X-rays and {len(carm_files)} C-arm files: give one, or one for each X-ray."
        )
    sources = carm_files * (len(files) // len(carm_files))
    return [XrayImage.read(file, read_carm(carm, file)) for file, carm in zip(files, sources, strict=True)]


def write_overlay(path: Path, ct: CTVolume, xrays: list[XrayImage], result: RegistrationResult, device: str) -> None:
    """Write the X-rays, side by side, each with the edges of what is rendered at its pose."""
    from ..evaluation.images import write_pixels
    from ..evaluation.overlay import overlay_image
    from ..rendering.renderer import render

    pictures = [
        overlay_image(xray.pixels, render(ct, xray.carm, pose, device=device), xray.mask)
        for xray, pose in zip(xrays, result.poses, strict=True)
    ]
    height = max(len(picture) for picture in pictures)
    padded = [np.pad(picture, ((0, height - len(picture)), (0, 0), (0, 0))) for picture in pictures]
    write_pixels(path, np.concatenate(padded, axis=1))


def _split_start(text: str) -> tuple[str, str]:
    kind, colon, file = text.partition(":")
    needs_file = kind in ("model", "pose", "landmarks")
    if (
        kind not in ("model", "pose", "landmarks", "search", "dicom")
        or bool(file) != needs_file
        or (colon and not needs_file)
    ):
        raise InputError(f"--start is {text!r}; use {_STARTS}.")
    return kind, file


def _start(kind: str, file: str, xrays: list[XrayImage], center: ArrayLike, view: str | None) -> Any:
    """What `register` starts from.

    Raises:
        InputError: the file is wrong, or the X-rays do not carry what the start needs.
    """
    if kind == "dicom":
        from ..imaging.xray import ANGLES_NEEDED

        silent = [xray.name for xray in xrays if xray.positioner is None]
        if silent:
            raise InputError(f"The X-ray {silent[0]} lacks {ANGLES_NEEDED}, with --start search --view.")
        return [xray.positioner.pose(center, xray.carm) for xray in xrays if xray.positioner]
    if kind == "landmarks":
        from ..registration.landmarks import LandmarkPairs, pose_from_landmarks

        if len(xrays) != 1:
            raise InputError("Landmarks start one view; for several X-rays start from poses, one for each.")
        return pose_from_landmarks(LandmarkPairs.read(file), xrays[0].carm, view)[0]
    if kind == "pose":
        from ..geometry.pose import read_poses

        return read_poses(file)
    if kind == "model":
        from ..pretraining.model import PoseModel

        return PoseModel.load(file)
    return kind


def _words(step: Progress) -> str:
    return f"level {step.level + 1}, iteration {step.iteration}: similarity {step.similarity:.4f}, {step.seconds:.1f} s"
