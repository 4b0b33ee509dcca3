"""Benchmark of several views and structures: two orthogonal X-rays, wrong geometry, and a real biplane wrist.

    python3 Testing/run.py bench views [--cases 60] [--cts chest chest-metal pelvis] [--rows clean distance ...]
        [--wrist ../shared/data/wrist_biplane/frame0002] [--starts 12]

A frontal and a lateral image of each case are made by plastimatch (exact ray tracing, not our renderer) from the whole
CT; the registration gets a copy that is 15 mm shorter at each cut face, and starts up to 20 degrees and 40 mm off on
each axis. Rows: "clean"; "distance": both source-to-detector distances are told 5 % wrong, one sign a case; "stated":
the same, taken as it is told; "readout": the second view stands beside what its angles say (1 degree and 3 mm about
and along each axis, standard deviations), estimated; "believed": the same, taken as it is told.

The wrist is real: radius and ulna in two calibrated cameras. There is no truth, so cameras are held against each other.
Every number is printed, and written to out/bench/views.json and wrist.png.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from DiffPoseSlicerLib.evaluation.cases import BENCH_CARM, line_integrals, offset_start, shortened
from DiffPoseSlicerLib.evaluation.metrics import default_points, mtre, wilson_interval
from DiffPoseSlicerLib.evaluation.public_ct import cache_folder, public_ct
from DiffPoseSlicerLib.evaluation.stress import Exposure, expose, given_carm
from DiffPoseSlicerLib.geometry.pose import Pose, view_rotation
from DiffPoseSlicerLib.geometry.se3 import Array, inverse, turn_about
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.imaging.xray import XrayImage
from DiffPoseSlicerLib.registration.joint import GeometryPriors
from DiffPoseSlicerLib.registration.register import Registrar, register

NEEDS_PEERS = False
# Half-ranges of the true poses about the frontal view; what leaves one view's field moves the other's depth.
POSES = np.concatenate([np.deg2rad([20, 20, 20]), [30, 30, 30]])
START = (20.0, 40.0)
ERROR = 0.05
READOUT_DEGREES, READOUT_MM = 1.0, 3.0
EXACT = GeometryPriors(0, 0, 0, 0)
ROWS = {
    "clean": GeometryPriors(),
    "distance": GeometryPriors(),
    "stated": EXACT,
    "readout": GeometryPriors(READOUT_DEGREES, READOUT_MM, 0, 0),
    "believed": EXACT,
}


def main(argv: list[str]) -> int:
    """Run and print; see the module's text."""
    parser = argparse.ArgumentParser(prog="bench views")
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--cts", nargs="*", default=["chest"])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--wrist", type=Path, default=Path("../shared/data/wrist_biplane/frame0002"))
    parser.add_argument("--starts", type=int, default=0, help="of the wrist in each camera, farther off")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.cts:
        ct = CTVolume.read(public_ct(name, say=print))
        registrar = Registrar(shortened(ct))
        for kind in options.rows:
            rows.append(measure(name, ct, registrar, kind, options.cases, options.seed))
            print(line(rows[-1]), flush=True)
    found = {"rows": rows}
    if options.wrist.is_dir():
        from _wrist import wrist

        found["wrist"] = wrist(options.wrist, options.out / "wrist.png", options.starts)
    else:
        print(f"The real wrist is left out: {options.wrist} is not here.")
    (options.out / "views.json").write_text(json.dumps(found, indent=1))
    return 0


def measure(name: str, ct: CTVolume, registrar: Registrar, kind: str, count: int, seed: int) -> dict:
    """Register `count` pairs of one kind."""
    frontal, lateral = (
        Pose.about(view_rotation(view), ct.center, BENCH_CARM).ras_to_camera for view in ("AP", "LEFT_LATERAL")
    )
    stated = lateral @ inverse(frontal)
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    offsets = rng.uniform(-1, 1, (count, 6)) * POSES
    first = [Pose.about(view_rotation("AP"), ct.center, BENCH_CARM, offset) for offset in offsets]
    draws = [np.random.default_rng([seed, number]) for number in range(count)]
    off = [_readout(draw) if kind in ("readout", "believed") else np.eye(4) for draw in draws]
    second = [Pose(inverse(error @ stated @ pose.ras_to_camera)) for error, pose in zip(off, first, strict=True)]
    cache = cache_folder() / "line-integrals"
    images = zip(*(line_integrals(ct, poses, BENCH_CARM, cache) for poses in (first, second)), strict=True)
    points = default_points(registrar.ct.center)
    results = []
    for number, (pair, draw) in enumerate(zip(images, draws, strict=True)):
        error = ERROR * draw.choice([-1, 1]) if kind in ("distance", "stated") else 0.0
        exposure = Exposure(distance_error=error)
        xrays = [
            XrayImage.from_array(expose(image, exposure, draw).integers, given_carm(BENCH_CARM, exposure))
            for image in pair
        ]
        start = offset_start(first[number], points.mean(0), draw, *START)
        if number == 0:  # the first run pays for building the pyramid
            register(registrar.ct, xrays, start, relative=[stated], geometry=ROWS[kind], registrar=registrar)
        began = time.perf_counter()
        result = register(registrar.ct, xrays, start, relative=[stated], geometry=ROWS[kind], registrar=registrar)
        seconds = time.perf_counter() - began
        errors = [mtre(p, t, points) for p, t in zip(result.poses, (first[number], second[number]), strict=True)]
        results.append({"mtre": errors, "start": mtre(start, first[number], points), "seconds": seconds})
    worst = np.array([max(result["mtre"]) for result in results])
    good = int((worst < 1).sum())
    return {
        "ct": name,
        "row": kind,
        "cases": count,
        "below1mm": good / count,
        "wilson": list(wilson_interval(good, count)),
        "mtre": {str(p): float(np.percentile(worst, p)) for p in (50, 90, 95, 100)},
        "start": float(np.median([result["start"] for result in results])),
        "seconds": {str(p): float(np.percentile([result["seconds"] for result in results], p)) for p in (50, 95)},
        "results": results,
    }


def _readout(rng: np.random.Generator) -> Array:
    """How far the second view stands beside what its angles say, about its isocentre."""
    sigma = np.repeat([np.deg2rad(READOUT_DEGREES), READOUT_MM], 3)
    return turn_about(rng.normal(size=6) * sigma, [0, 0, BENCH_CARM.source_to_isocenter])


def line(row: dict) -> str:
    """One row of the printed table; errors are those of the worse view."""
    low, high = row["wilson"]
    return (
        f"{row['ct']:11} {row['row']:9} n={row['cases']:3} below 1 mm {100 * row['below1mm']:5.1f} % "
        f"({100 * low:.1f}-{100 * high:.1f})  mTRE 50/90/95/100 %: "
        + "/".join(f"{value:.2f}" for value in row["mtre"].values())
        + f" mm  from {row['start']:.0f} mm  {row['seconds']['50']:.2f}/{row['seconds']['95']:.2f} s"
    )


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
