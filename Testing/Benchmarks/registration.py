"""Benchmark of the registration: capture range, stress factors, search without a model, and speed.

    python3 Testing/run.py bench registration [--quick] [--cases 200] [--cts chest chest-metal pelvis]
        [--modes near far search]

Images are made by plastimatch (exact ray tracing, not our renderer) from the whole CT; the registration gets a copy
that is 15 mm shorter at each face where the scan cuts tissue. Every number is printed, and written to
out/bench/registration.json and .png.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from DiffPoseSlicerLib.evaluation.cases import Case, cases, offset_start, random_poses
from DiffPoseSlicerLib.evaluation.metrics import mrpd, mtre, wilson_interval
from DiffPoseSlicerLib.evaluation.public_ct import cache_folder, public_ct
from DiffPoseSlicerLib.evaluation.stress import CLEAN, FACTORS, several
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.registration.register import Registrar, register

NEEDS_PEERS = False
# Half-ranges of the true poses about the AP view.
POSES = ((30, 30, 30), (50, 50, 100))
# Success on the 3 mm pelvis is 2 mm.
LIMIT_MM = {"pelvis": 2.0}
MODES = {"near": (20.0, 40.0), "far": (35.0, 60.0)}


def main(argv: list[str]) -> int:
    """Run and print; see the module's text."""
    parser = argparse.ArgumentParser(prog="bench registration")
    parser.add_argument("--quick", action="store_true", help="few cases of the chest only: at most five minutes")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--cts", nargs="+", default=["chest", "chest-metal", "pelvis"])
    parser.add_argument("--modes", nargs="+", default=["near", "far", "search"])
    parser.add_argument("--factors", nargs="+", default=["clean", *FACTORS, "several"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args(argv)
    if options.quick:
        options.cases, options.cts = min(options.cases, 12), ["chest"]
    rows = []
    for name in options.cts:
        ct = CTVolume.read(public_ct(name, say=print))
        for mode in options.modes:
            factors = options.factors if mode != "far" else ["clean"]
            for factor in factors:
                count = options.cases if factor == "clean" else max(options.cases // 5, 6)
                rows.append(measure(name, ct, mode, factor, count, options.seed))
                print(line(rows[-1]), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "registration.json").write_text(json.dumps(rows, indent=1))
    return 0


def measure(name: str, ct: CTVolume, mode: str, factor: str, count: int, seed: int) -> dict:
    """Register `count` cases of one kind."""
    rng = np.random.default_rng([seed, sum(map(ord, name + mode))])
    ranges = POSES if mode in MODES else ((45, 45, 45), (75, 75, 75))
    poses = random_poses(ct, count, rng, *ranges)
    draw = {"clean": lambda rng: CLEAN, "several": several, **FACTORS}[factor]
    exposures = [draw(np.random.default_rng([seed, n])) for n in range(count)]
    registrar: Registrar | None = None
    results = []
    for case in cases(ct, poses, exposures, seed, cache_folder() / "line-integrals"):
        if registrar is None or registrar.ct.affine.tolist() != case.ct.affine.tolist():
            registrar = Registrar(case.ct)
            _run(case, mode, registrar, rng)  # the first run pays for building the pyramid
        results.append(_run(case, mode, registrar, rng))
    found = np.array([r["mtre"] for r in results])
    limit = LIMIT_MM.get(name, 1.0)
    # With a wrong distance, depth is not to be found; what the image shows is.
    judged = np.array([r["mrpd"] for r in results]) if factor == "distance" else found
    good = int((judged < limit).sum())
    low, high = wilson_interval(good, len(results))
    return {
        "ct": name,
        "mode": mode,
        "factor": factor,
        "cases": len(results),
        "success": good / len(results),
        "wilson": [low, high],
        "below5mm": float((found < 5).mean()),
        "mtre": {str(p): float(np.percentile(found, p)) for p in (50, 75, 95)},
        "mrpd": {str(p): float(np.percentile([r["mrpd"] for r in results], p)) for p in (50, 95)},
        "start": float(np.median([r["start"] for r in results])),
        "seconds": {str(p): float(np.percentile([r["seconds"] for r in results], p)) for p in (50, 95)},
        "results": results,
    }


def _run(case: Case, mode: str, registrar: Registrar, rng: np.random.Generator) -> dict:
    began = time.perf_counter()
    if mode == "search":
        start, start_error = "search", float("nan")
    else:
        start = offset_start(case.truth, case.points.mean(0), np.random.default_rng([7, case.number]), *MODES[mode])
        start_error = mtre(start, case.truth, case.points)
    result = register(case.ct, case.xray, start, registrar=registrar)
    return {
        "number": case.number,
        "start": start_error,
        "mtre": mtre(result.pose, case.truth, case.points),
        "mrpd": mrpd(result.pose, case.truth, case.points, case.xray.carm, case.carm),
        "similarity": result.similarities[0],
        "seconds": time.perf_counter() - began,
        "iterations": result.iterations,
    }


def line(row: dict) -> str:
    """One row of the printed table."""
    return (
        f"{row['ct']:11} {row['mode']:6} {row['factor']:12} n={row['cases']:4} success {100 * row['success']:5.1f} % "
        f"({100 * row['wilson'][0]:.1f}-{100 * row['wilson'][1]:.1f})  <5mm {100 * row['below5mm']:5.1f} %  "
        f"mTRE {row['mtre']['50']:.2f}/{row['mtre']['95']:.2f} mm  "
        f"mRPD {row['mrpd']['50']:.2f}/{row['mrpd']['95']:.2f} mm  "
        f"{row['seconds']['50']:.2f}/{row['seconds']['95']:.2f} s"
    )


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
