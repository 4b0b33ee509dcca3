"""Prepare a model for one CT, C-arm and view, in a job folder; go on where one was stopped."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import Cancelled, InputError
from . import options
from .progress import ProgressLine

PRESETS = ("quick", "standard", "thorough")


def add(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("ct", metavar="CT", nargs="?", help="NIfTI, NRRD or MetaImage file, or a DICOM folder")
    options.add_carm(parser, required=False)
    options.add_view(parser)
    options.add_range(parser)
    options.add_crop(parser)
    parser.add_argument("--preset", choices=PRESETS, default="standard", help="how long to train (default standard)")
    parser.add_argument(
        "--warm-start",
        metavar="JOBDIR",
        help="begin with a finished model of the same preset, such as another patient's",
    )
    parser.add_argument("--seed", type=options.seed, default=0, metavar="S", help="of the training (default 0)")
    parser.add_argument("-o", "--output", metavar="JOBDIR", help="the job folder; a stopped job in it is gone on with")
    parser.add_argument("--job", metavar="JOBDIR", help="instead of all these: run the job that this folder describes")
    options.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Train until done or stopped. Ctrl-C saves first; a second one does not wait for that."""
    from ..pretraining.job import run_job

    folder = _job_folder(args)
    with stop_requests() as stop, ProgressLine() as line:
        status = run_job(folder, on_progress=lambda figures: line(words(figures)), cancel=stop)
    if status.get("state") == "stopped":
        raise Cancelled("What was learnt is saved; the same command goes on with it.")


def words(figures: dict[str, Any]) -> str:
    """How far a training is, from a status or report."""
    if figures.get("state") == "certifying" and figures.get("cases"):
        return "trying the model: {cases} of {ofCases} cases, success {successRate:.0%}".format(**figures)
    parts = [f"step {figures['step']}" if "step" in figures else str(figures.get("state", ""))]
    for key, text in (
        ("secondsLeft", "{:.0f} s left"),
        ("loss", "loss {:.3f}"),
        ("validationMtreMm", "validation mTRE {:.1f} mm"),
        ("validationSuccess", "success {:.0%}"),
        ("imagesPerSecond", "{:.0f} images/s"),
    ):
        if isinstance(figures.get(key), (int, float)):
            parts.append(text.format(figures[key]))
    return ", ".join(parts)


def _job_folder(args: argparse.Namespace) -> Path:
    """The folder of --job, or one made of the other options.

    Raises:
        InputError: an option is missing or one too many, or the folder holds something else.
    """
    if args.job is not None:
        if args.ct is not None or args.carm is not None or args.output is not None:
            raise InputError("--job names a folder that says everything; leave CT, --carm and -o out.")
        return Path(args.job)
    missing = [name for name, value in (("CT", args.ct), ("--carm", args.carm), ("-o", args.output)) if value is None]
    if missing:
        raise InputError(f"The following are required: {', '.join(missing)}; or give --job alone.")
    from ..pretraining.pretrain import make_job

    folder = options.output_folder(args.output, own="job.json")
    carm, ct = options.read_carm(args.carm), options.read_ct(args.ct)
    job = make_job(
        options.cropped(ct, args),
        carm,
        args.view,
        out=folder,
        rotation=args.rotation,
        translation=args.translation,
        lao_rao=args.lao_rao,
        cran_caud=args.cran_caud,
        center=ct.center if args.center is None else args.center,
        preset=args.preset,
        seed=args.seed,
        device=args.device,
        warm_start=args.warm_start,
    )
    return job.folder


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C, and a request of the system to end, into an answer to "should I stop?"."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
