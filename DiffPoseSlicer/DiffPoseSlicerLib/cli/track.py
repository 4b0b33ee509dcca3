"""Follow the CT through the frames of a fluoroscopy run."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Any

from ..geometry.files import write_json
from . import options
from .progress import ProgressLine
from .register import split_start, start_of


def add(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("ct", metavar="CT", help="NIfTI, NRRD or MetaImage file, or a DICOM folder")
    parser.add_argument("file", metavar="RUN", help="multi-frame DICOM, or frames stacked in .npy, TIFF, NIfTI or NRRD")
    parser.add_argument("--carm", metavar="F", help=options.CARM_SOURCES + " or preset:NAME")
    parser.add_argument(
        "--frames", nargs=2, type=int, metavar=("FIRST", "LAST"), help="counted from 0 (default: all of them)"
    )
    parser.add_argument(
        "--start", default="search", metavar="S", help="of the first frame, as for register (default search)"
    )
    options.add_view(parser, default=None)
    options.add_range(parser, None, None)
    parser.add_argument("--labels", metavar="F", help="label map or segmentation of the CT")
    parser.add_argument("--structure", metavar="LABEL", help="follow this structure alone, by label or segment name")
    parser.add_argument("-o", "--output", required=True, metavar="F", help="track.json")
    options.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Follow, write the poses, say it in a line."""
    from ..errors import InputError
    from ..imaging.carm_sources import read_carm
    from ..imaging.frames import read_frames
    from ..imaging.labels import LabelMap
    from ..registration.tracking import FOUND, LOST, track

    target = options.output_file(args.output, (".json",))
    kind, file = split_start(args.start)
    if bool(args.labels) != bool(args.structure):
        raise InputError("--structure and --labels go together: a label, and the file of labels.")
    first, last = args.frames or (0, None)
    carm = read_carm(args.carm, args.file) if args.carm else None
    ct = options.read_ct(args.ct)
    if args.structure:
        ct = ct.structure(LabelMap.read(args.labels).mask(args.structure, ct), name=args.structure)
    xray = next(read_frames(args.file, carm, first, first))
    start = start_of(kind, file, [xray], ct.center if args.center is None else args.center, args.view)
    center = start.center if args.center is None and hasattr(start, "hypotheses") else args.center
    given: dict[str, Any] = {"view": args.view, "rotation": args.rotation, "translation": args.translation}
    with ProgressLine() as line:
        frames = track(
            ct,
            read_frames(args.file, carm, first, last),
            start,
            on_frame=lambda f: line(f"frame {first + f.number}: {f.state}, similarity {f.similarity:.3f}"),
            device=args.device,
            center=center,
            lao_rao=args.lao_rao,
            cran_caud=args.cran_caud,
            **{key: value for key, value in given.items() if value is not None},
        )
    entries = [frame.to_json() | {"frame": first + frame.number} for frame in frames]
    write_json(target, {"frames": entries, "carm": xray.carm.to_json()})
    states, seconds = Counter(frame.state for frame in frames), sum(frame.seconds for frame in frames[1:])
    speed = f", {(len(frames) - 1) / seconds:.1f} frames a second" if len(frames) > 1 and seconds else ""
    print(f"{len(frames)} frames{speed}; searched for in {states[FOUND]}, lost in {states[LOST]}")
    if states[LOST]:
        lost = [str(first + frame.number) for frame in frames if frame.state == LOST]
        print(f"Warning: lost in the frames {', '.join(lost[:20])}{' ...' if len(lost) > 20 else ''}.", file=sys.stderr)
