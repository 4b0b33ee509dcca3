"""Options that several commands share, and the reading and checking of what they name."""

from __future__ import annotations

import argparse
import math
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..geometry.pose import VIEWS

if TYPE_CHECKING:
    from ..geometry.carm import CArm
    from ..imaging.ct import CTVolume

CARM_SOURCES = "carm.json, a DICOM X-ray, a calibration"
# What a prepared model and a simulation cover where nothing else is said: half-ranges per camera axis, degrees and mm.
ROTATION, TRANSLATION = (30.0, 30.0, 30.0), (50.0, 50.0, 100.0)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def _half_range(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; a half-range is 0 or more")
    return value


def count(text: str) -> int:
    """Type of an option: a whole number of at least one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def seed(text: str) -> int:
    """Type of an option: a whole number of at least zero."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def device(text: str) -> str:
    """Type of an option: auto, cpu, cuda or cuda:N."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no device: use auto, cpu or cuda:N")
    return text


class OneOrEach(argparse.Action):
    """One value, or a list of several."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


def _view(text: str) -> str:
    return "any" if text.lower() == "any" else text.upper().replace("-", "_")


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument("--device", type=device, default="auto", metavar="D", help="auto, cpu or cuda:N (default auto)")


def add_carm(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """--carm, for a command that has no image to take a size from."""
    parser.add_argument("--carm", required=required, metavar="F", help=CARM_SOURCES + " or preset:NAME:ROWSxCOLUMNS")


def read_carm(source: str) -> CArm:
    """The C-arm a command names. Raises InputError."""
    from ..imaging.carm_sources import read_carm

    return read_carm(source)


def add_view(
    parser: argparse.ArgumentParser, default: str | None = "AP", several: bool = False, unknown: bool = False
) -> None:
    """--view and the angles that turn it, and the point it turns about.

    `several`: also one of each for every X-ray; `unknown` allows for "any".
    """
    many: dict[str, Any] = {"nargs": "+", "action": OneOrEach} if several else {}
    add = partial(parser.add_argument, **many)
    each = "; for several X-rays one for each, in order" if several else ""
    tried = "; any: a search tries AP, PA and both laterals" if unknown else ""
    views = (*VIEWS, *(["any"] if unknown else []))
    add("--view", type=_view, choices=views, default=default, help=f"the nominal view, by the beam{tried}{each}")
    add("--lao-rao", type=_number, default=0.0, metavar="A", help=f"degrees from the view, LAO positive{each}")
    add("--cran-caud", type=_number, default=0.0, metavar="B", help=f"degrees from the view, CRA positive{each}")
    parser.add_argument(
        "--center",
        type=_number,
        nargs=3,
        metavar=("R", "A", "S"),
        help="point at the isocentre, RAS mm (default: the middle of the CT)",
    )


def add_range(
    parser: argparse.ArgumentParser,
    rotation: tuple[float, float, float] | None = ROTATION,
    translation: tuple[float, float, float] | None = TRANSLATION,
) -> None:
    """--rotation and --translation: half-ranges about the view."""
    axes = ("RIGHT", "DOWN", "DEPTH")
    said = lambda values: "" if values is None else f" (default {' '.join(f'{v:g}' for v in values)})"  # noqa: E731
    parser.add_argument(
        "--rotation",
        type=_half_range,
        nargs=3,
        metavar=axes,
        default=rotation,
        help="half-range of the rotation vector, degrees, per camera axis" + said(rotation),
    )
    parser.add_argument(
        "--translation",
        type=_half_range,
        nargs=3,
        metavar=axes,
        default=translation,
        help="half-range of the shift, mm, per camera axis" + said(translation),
    )


def read_ct(path: str) -> CTVolume:
    """The CT a command names. Raises InputError."""
    from ..imaging.ct import CTVolume

    return CTVolume.read(path)


def add_crop(parser: argparse.ArgumentParser) -> None:
    """--region and --body: what of the CT is used. No coordinate moves, and the default centre stays the whole CT's."""
    parser.add_argument(
        "--region",
        type=_number,
        nargs=6,
        metavar=("R", "A", "S", "R", "A", "S"),
        help="use only what of the CT lies between two corners, RAS mm",
    )
    parser.add_argument(
        "--body", action="store_true", help="leave out the air around the body, and the couch where it sticks out"
    )


def cropped(ct: CTVolume, args: argparse.Namespace) -> CTVolume:
    """What of a CT the options of :func:`add_crop` leave. Raises InputError."""
    if args.region is not None:
        ct = ct.region(args.region[:3], args.region[3:])
    return ct.without_air() if args.body else ct


def output_file(path: str, endings: tuple[str, ...]) -> Path:
    """A file to be written, checked before any work is done: its folder exists, its ending is known.

    Raises:
        InputError: it cannot be written.
    """
    target = Path(path)
    if not target.name.lower().endswith(endings):
        raise InputError(f"The output {target.name} has an unknown ending; use {' or '.join(endings)}.")
    if target.is_dir():
        raise InputError(f"The output {target.name} is a folder; name a file.")
    if not target.absolute().parent.is_dir():
        raise InputError(f"The folder of the output {target.name} does not exist; make it first.")
    return target


def output_folder(path: str, own: str | None = None) -> Path:
    """A folder to be filled and perhaps still to be made: empty, or holding the file `own` that tells it for ours.

    Raises:
        InputError: it holds something else, or is a file.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"The output {folder.name} is a file; name a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (own and (folder / own).exists()):
        raise InputError(f"The folder {folder.name} is not empty; name a new one, so that nothing of yours is touched.")
    return folder
