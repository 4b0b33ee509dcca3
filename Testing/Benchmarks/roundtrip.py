"""`simulate` -> DICOM -> `register --start dicom`, nothing given by hand, over every way an X-ray is stored.

    python3 Testing/run.py bench roundtrip [--ct chest] [--images 1] [--noisy]

Square and other pixels, centred and off-centre fields, both flips, all quarter-turns, LIN and LOG, MONOCHROME1 and 2:
128 combinations, through the command line's own entry. Images are free of noise and scatter (--noisy: as `simulate`
makes them), so what is left is what the way through the file costs. Ends with 1 where a pose is more than 0.1 mm off.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from DiffPoseSlicerLib.cli import options as command_options
from DiffPoseSlicerLib.cli.main import main as run_command
from DiffPoseSlicerLib.evaluation.public_ct import public_ct
from DiffPoseSlicerLib.geometry.carm import CArm

NEEDS_PEERS = False
LIMIT_MM = 0.1
FIELDS = {
    "square": CArm(1020, (256, 256), (1.17, 1.17)),
    "square, off centre": CArm(1020, (256, 256), (1.17, 1.17), (150.0, 110.0)),
    "not square": CArm(1020, (240, 300), (1.2, 1.0)),
    "not square, off centre": CArm(1020, (240, 300), (1.2, 1.0), (164.5, 101.5)),
}
WAYS = list(itertools.product((True, False), (0, 90, 180, 270)))
VALUES = [(intensity, photometric) for intensity in ("transmission", "attenuation") for photometric in (1, 2)]
VIEWS = ("AP", "LEFT_LATERAL", "PA", "RIGHT_LATERAL")


def main(argv: list[str]) -> int:
    """Run and print; see the module's text."""
    parser = argparse.ArgumentParser(prog="bench roundtrip")
    parser.add_argument("--ct", default="chest", choices=("chest", "chest-metal", "pelvis"))
    parser.add_argument("--images", type=int, default=1, help="for each combination (default 1)")
    parser.add_argument("--noisy", action="store_true", help="with noise and scatter as `simulate` makes them")
    options = parser.parse_args(argv)
    ct = public_ct(options.ct, say=print)
    command_options.read_ct = lru_cache(command_options.read_ct)  # every command would read the same file again
    worst: list[tuple[float, str]] = []
    kinds = {name: [] for name in FIELDS}
    combinations = list(itertools.product(FIELDS, WAYS, VALUES))
    for number, (field, (mirrored, rotation), (intensity, photometric)) in enumerate(combinations):
        # The views in turn, but each with each combination of the rest in the long run.
        view = VIEWS[(number + number // 4 + number // 32) % 4]
        relation = "LIN" if intensity == "transmission" else "LOG"
        way = f"{'mirrored' if mirrored else 'plain'}:{rotation}"
        name = f"{field:23} {way:12} {relation} MONOCHROME{photometric} {view}"
        with tempfile.TemporaryDirectory() as folder:
            stored = CArm.from_json(
                FIELDS[field].to_json() | {"mirrored": mirrored, "rotation": rotation, "intensity": intensity}
            )
            errors = _errors(Path(folder), ct, stored, view, photometric, number, options)
        kinds[field] += errors
        worst += [(error, name) for error in errors]
        print(f"{number + 1:3} {name:60} {', '.join(f'{error:.3f}' for error in errors)} mm", flush=True)
    for field, found in kinds.items():
        print(f"{field:23} n={len(found)}  median {np.median(found):.3f} mm  worst {max(found):.3f} mm")
    off = sum(error > LIMIT_MM for error, _ in worst)
    print(f"{len(worst)} images, {off} more than {LIMIT_MM} mm off; worst: {max(worst)[0]:.3f} mm, {max(worst)[1]}")
    return 1 if off else 0


def _errors(
    folder: Path, ct: Path, carm: CArm, view: str, photometric: int, seed: int, options: argparse.Namespace
) -> list[float]:
    """mTRE of each image of one combination, mm."""
    carm.write(folder / "carm.json")
    quiet = [] if options.noisy else ["--photons", "1e12", "--scatter", "0"]
    _command(
        "simulate", ct, "--carm", folder / "carm.json", "--view", view, "--lao-rao", 8, "--cran-caud", -6,
        "--rotation", 4, 4, 4, "--translation", 10, 10, 20, "-n", options.images, "--seed", seed,
        "--photometric", f"MONOCHROME{photometric}", *quiet, "-o", folder / "images",
    )  # fmt: skip
    errors = []
    for image in sorted((folder / "images").glob("*.dcm")):
        _command("register", ct, image, "--start", "dicom", "-o", folder / "result.json")
        truth = image.with_name(image.name.replace("xray", "truth")).with_suffix(".json")
        _command("evaluate", folder / "result.json", "--truth", truth, "-o", folder / "errors.json")
        errors.append(json.loads((folder / "errors.json").read_text())["views"][0]["mTRE"])
    return errors


def _command(*words: object) -> None:
    """Run one command of the command line in this process, its prints dropped."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        status = run_command([str(word) for word in words])
    if status:
        raise SystemExit(f"{words[0]} ended with {status}: {said.getvalue()}")


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
