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
    options.add_view(parser, default=None, several=True, unknown=True)
    options.add_range(parser, None, None)
    options.add_crop(parser)
    add_geometry(parser)
    add_structures(parser)
    parser.add_argument("-o", "--output", required=True, metavar="F", help="result.json")
    parser.add_argument("--overlay", metavar="PNG", help="write the X-rays with the edges of the rendered ones")
    parser.add_argument("--report", metavar="HTML", help="write a page of the registration for the patient's file")
    options.add_device(parser)


def add_geometry(parser: argparse.ArgumentParser) -> None:
    """How several views lie to each other, and how well that is known."""
    group = parser.add_argument_group("several X-rays")
    group.add_argument(
        "--rig",
        metavar="F",
        help='how the cameras lie to each other: {"camera1ToCamera2": 4x4, ...}, x_cam2 = M x_cam1',
    )
    group.add_argument(
        "--unsure",
        nargs=2,
        type=float,
        metavar=("DEG", "MM"),
        default=(0.0, 0.0),
        help="standard deviations of the views' turn and place to each other, which are then estimated, too",
    )
    group.add_argument(
        "--calibrated",
        action="store_true",
        help="take distances and principal points as they are stated (default: known to 2 %% and 5 mm, and estimated)",
    )


def add_structures(parser: argparse.ArgumentParser) -> None:
    """Structures that move on their own."""
    group = parser.add_argument_group("structures")
    group.add_argument("--labels", metavar="F", help="label map or segmentation of the CT (NIfTI, NRRD, .seg.nrrd)")
    group.add_argument(
        "--structure",
        nargs="+",
        action="extend",
        metavar="LABEL",
        help="register these alone, by label or segment name; several explain the images together",
    )
    group.add_argument("--separately", action="store_true", help="register several structures each by itself")


def run(args: argparse.Namespace) -> None:
    """Register, write the result, say it in a line."""
    from ..registration.register import register

    target = options.output_file(args.output, (".json",))
    overlay = options.output_file(args.overlay, (".png",)) if args.overlay else None
    page = options.output_file(args.report, (".html",)) if args.report else None
    kind, file = split_start(args.start)
    _check_structures(args)
    xrays = read_xrays(args.xrays, args.carm)
    if args.orientation:
        xrays = [xray.reoriented(*args.orientation) for xray in xrays]
    whole = options.read_ct(args.ct)
    ct, isocentre = options.cropped(whole, args), whole.center if args.center is None else args.center
    start = start_of(kind, file, xrays, isocentre, args.view[0] if isinstance(args.view, list) else args.view)
    with ProgressLine() as line:
        given = _given(args, start, isocentre) | {"on_progress": lambda step: line(_words(step))}
        if args.structure:
            parts, found = _structures(args, ct, xrays, start, given)
        else:
            solve = register if args.method == "ours" else _first_order
            parts, found = [ct], {"": solve(ct, xrays, start, **given)}
    if kind in ("dicom", "landmarks"):
        found = {name: replace(result, start=kind) for name, result in found.items()}
    write_results(target, found)
    if overlay:
        write_overlay(overlay, parts, xrays, list(found.values()), args.device)
    if page:
        from ..evaluation.report import write_report

        write_report(page, parts[0], xrays, next(iter(found.values())), device=args.device)
    for name, result in found.items():
        print((f"{name}: " if name else "") + summary(result))
        for warning in result.warnings:
            print(f"Warning: {warning}", file=sys.stderr)


def write_results(path: Path, found: dict[str, RegistrationResult]) -> None:
    """Write result.json; of several structures the first one's result, and all of them under "structures"."""
    from ..geometry.files import write_json

    entries = [({"structure": name} if name else {}) | result.to_json() for name, result in found.items()]
    write_json(path, entries[0] | ({"structures": entries} if len(entries) > 1 else {}))


def _given(args: argparse.Namespace, start: Any, isocentre: ArrayLike) -> dict[str, Any]:
    """The options of `register` that the command line says."""
    from ..registration.joint import GeometryPriors
    from ..registration.relations import read_rig

    calibration = {"distance": 0.0, "principal_point": 0.0} if args.calibrated else {}
    said = {
        "view": args.view,
        "rotation": args.rotation,
        "translation": args.translation,
        "relative": read_rig(args.rig) if args.rig else None,
        "center": start.center if args.center is None and hasattr(start, "hypotheses") else isocentre,
    }
    return {key: value for key, value in said.items() if value is not None} | {
        "lao_rao": args.lao_rao,
        "cran_caud": args.cran_caud,
        "geometry": GeometryPriors(*args.unsure, **calibration),
        "device": args.device,
    }


def _check_structures(args: argparse.Namespace) -> None:
    """Raises InputError where the options do not fit together."""
    if bool(args.labels) != bool(args.structure):
        raise InputError("--structure and --labels go together: a label, and the file of labels.")
    if args.structure and args.method != "ours":
        raise InputError("--method first-order registers the whole CT; leave out --structure.")
    if args.structure and len(args.structure) > 1 and args.report:
        raise InputError("--report writes the page of one structure; name one, or leave it out.")


def _structures(
    args: argparse.Namespace, ct: CTVolume, xrays: list[XrayImage], start: Any, given: dict[str, Any]
) -> tuple[list[CTVolume], dict[str, RegistrationResult]]:
    """The structures asked for and their results. Raises InputError."""
    from ..imaging.labels import LabelMap
    from ..registration.structures import register_structures

    labels = LabelMap.read(args.labels)
    parts = {name: ct.structure(labels.mask(name, ct), name=name) for name in args.structure}
    found = register_structures(parts, xrays, start, whole=ct, jointly=not args.separately, **given)
    return list(parts.values()), found


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
    from ..registration.result import odds

    similarity = ", ".join(f"{value:.3f}" for value in result.similarities)
    trust = result.trust
    verdict = f"trusted ({odds(trust.probability)})" if trust.trusted else "not trusted"
    why = f": {'; '.join(trust.reasons)}" if trust.reasons else ""
    if trust.trusted and result.expected_error_mm is not None:
        why = f", error below {result.expected_error_mm:.1f} mm in 9 of 10 such images"
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


def write_overlay(
    path: Path, cts: list[CTVolume], xrays: list[XrayImage], results: list[RegistrationResult], device: str
) -> None:
    """Write the X-rays, side by side, each with the edges of what is rendered: each CT at its result's pose."""
    from ..evaluation.images import write_pixels
    from ..evaluation.overlay import overlay_image
    from ..rendering.renderer import render

    pictures = []
    for number, xray in enumerate(xrays):
        carms = [result.carms[number] if result.carms else xray.carm for result in results]
        drr = sum(
            render(ct, carm, result.poses[number], device=device)
            for ct, carm, result in zip(cts, carms, results, strict=True)
        )
        pictures.append(overlay_image(xray.pixels, drr, xray.mask))
    height = max(len(picture) for picture in pictures)
    padded = [np.pad(picture, ((0, height - len(picture)), (0, 0), (0, 0))) for picture in pictures]
    write_pixels(path, np.concatenate(padded, axis=1))


def split_start(text: str) -> tuple[str, str]:
    kind, colon, file = text.partition(":")
    needs_file = kind in ("model", "pose", "landmarks")
    if (
        kind not in ("model", "pose", "landmarks", "search", "dicom")
        or bool(file) != needs_file
        or (colon and not needs_file)
    ):
        raise InputError(f"--start is {text!r}; use {_STARTS}.")
    return kind, file


def start_of(kind: str, file: str, xrays: list[XrayImage], center: ArrayLike, view: str | None) -> Any:
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
