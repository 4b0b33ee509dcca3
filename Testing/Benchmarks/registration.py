"""Benchmark of the registration: capture range, stress factors, search without a model, and speed beside others.

    python3 Testing/run.py bench registration [--quick] [--cases 200] [--cts chest chest-metal pelvis]
        [--modes near far search any landmarks network peers] [--factors clean noise ...] [--model CT=JOBDIR ...]

Images are made by plastimatch (exact ray tracing, not our renderer) from the whole CT; the registration gets a copy
that is 15 mm shorter at each face where the scan cuts tissue. Every number is printed and written to
out/bench/registration/registration.json; registration.html beside it shows tables and plots. `--resume` adds to what is
written there, so that a long run can be made in pieces.

    near, far    starts uniform within 20 degrees and 40 mm (35 and 60) on each axis about the true pose, no redraws
    search       no start: true poses within 45 degrees and 75 mm of the view; `any`: of one of four views, unknown
    landmarks    six pairs of points with 3 mm noise, one of them grossly wrong
    network      a prepared model's guess (--model), poses within its range
    peers        Adam on multiscale correlation through nanodrr with plateau stopping, and ours, on the same near cases
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from _registration_page import write_page

from DiffPoseSlicerLib.evaluation.cases import BENCH_CARM, Case, cases, line_integrals, offset_start, random_poses
from DiffPoseSlicerLib.evaluation.changed import bone_moved, largest_bone, random_motion, soft_tissue_deformed
from DiffPoseSlicerLib.evaluation.metrics import mrpd, mtre, wilson_interval
from DiffPoseSlicerLib.evaluation.public_ct import cache_folder, public_ct
from DiffPoseSlicerLib.evaluation.stress import CLEAN, FACTORS, several
from DiffPoseSlicerLib.geometry.coordinates import transform_points
from DiffPoseSlicerLib.geometry.pose import VIEWS, Pose
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.imaging.nifti import read_nifti
from DiffPoseSlicerLib.registration.comparison.first_order import FirstOrder, register_first_order
from DiffPoseSlicerLib.registration.landmarks import LandmarkPairs, pose_from_landmarks
from DiffPoseSlicerLib.registration.register import Registrar, register
from DiffPoseSlicerLib.registration.result import RegistrationResult

NEEDS_PEERS = True
# Half-ranges of the true poses about the AP view.
POSES = ((30, 30, 30), (50, 50, 100))
WIDE = ((45, 45, 45), (75, 75, 75))
# Success on the 3 mm pelvis is 2 mm.
LIMIT_MM = {"pelvis": 2.0}
MODES = {"near": (20.0, 40.0), "far": (35.0, 60.0), "peers": (20.0, 40.0)}
ALL_MODES = ("near", "far", "search", "any", "landmarks", "network", "peers")
# What changes the patient rather than the image; so many different changes are drawn.
CHANGES, VARIANTS = ("tissue", "bone"), 3
EVERY_FACTOR = ("clean", *FACTORS, *CHANGES, "several")
# With these, depth is not to be found or has no one answer; what the image shows of the structure is.
BY_RPD = ("distance", *CHANGES)
# The bone that moves: a label of the mask that comes with the CT, or a box (parts along i, j, k) that holds it.
BONES = {"chest": 71, "chest-metal": ((0, 0, 0.55), (0.24, 1, 1)), "pelvis": ((0, 0, 0), (0.36, 1, 0.6))}
# xvr's recipe for the pelvis, which runs on nanodrr: scales 24, 12 and 6 of DeepFluoro's 1436 pixels are images of 60,
# 120 and 240; Adam of 0.01 rad and 1 mm, a stage's rate cut twice by ten after ten steps without a gain.
RECIPE = FirstOrder(pixels=(60, 120, 240), iterations=500, rate=1.0, plateau=10)
PEER_CASES = 4


def main(argv: list[str]) -> int:
    """Run and print; see the module's text."""
    parser = argparse.ArgumentParser(prog="bench registration")
    parser.add_argument("--quick", action="store_true", help="few cases of the chest only: at most five minutes")
    parser.add_argument("--cases", type=int, default=200, help="clean ones; a fifth of it for each stress factor")
    parser.add_argument("--cts", nargs="+", default=["chest", "chest-metal", "pelvis"])
    parser.add_argument("--modes", nargs="+", choices=ALL_MODES, default=[m for m in ALL_MODES if m != "network"])
    parser.add_argument("--factors", nargs="+", choices=EVERY_FACTOR, default=EVERY_FACTOR, metavar="FACTOR")
    parser.add_argument("--model", nargs="*", default=[], metavar="CT=JOBDIR", help="prepared models, for `network`")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="keep the rows written before")
    parser.add_argument("--out", type=Path, default=Path("out/bench/registration"))
    options = parser.parse_args(argv)
    if options.quick:
        options.cases, options.cts = min(options.cases, 10), ["chest"]
    models = dict(entry.split("=", 1) for entry in options.model)
    if models and "network" not in options.modes:
        options.modes = [*options.modes, "network"]
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "registration.json"
    rows = json.loads(file.read_text()) if options.resume and file.exists() else []
    for name in options.cts:
        ct = CTVolume.read(public_ct(name, say=print))
        for mode in options.modes:
            if mode == "network" and name not in models:
                print(f"{name:11} network: no --model {name}=JOBDIR was given", flush=True)
                continue
            # Every start meets all factors where it is near or none at all; the others say something else.
            factors = options.factors if mode in ("near", "search") else ["clean"]
            if options.quick and mode == "search":
                factors = ["clean", "several"]
            for factor in factors:
                count = options.cases if factor == "clean" else max(options.cases // 5, 6)
                count = min(count, 1 if options.quick else PEER_CASES) if mode == "peers" else count
                for row in measure(name, ct, mode, factor, count, options.seed, models.get(name)):
                    same = [(r["ct"], r["mode"], r["factor"], r["method"]) for r in rows]
                    key = row["ct"], row["mode"], row["factor"], row["method"]
                    rows = [r for r, k in zip(rows, same, strict=True) if k != key] + [row]
                    print(line(row), flush=True)
                file.write_text(json.dumps(rows, indent=1))
                write_page(options.out / "registration.html", rows)
    for text in verdicts(rows):
        print(text)
    return 0


def measure(
    name: str, ct: CTVolume, mode: str, factor: str, count: int, seed: int, model: str | None
) -> Iterator[dict]:
    """Register `count` cases of one kind; a row for each method."""
    rng = np.random.default_rng([seed, sum(map(ord, name + mode))])
    poses = random_poses(ct, count, rng, *(WIDE if mode in ("search", "any") else POSES))
    if mode == "any":
        views = [tuple(VIEWS)[n % len(VIEWS)] for n in range(count)]
        poses = [random_poses(ct, 1, rng, *WIDE, view)[0] for view in views]
    elif mode == "network":
        poses = random_poses(ct, count, rng, *network_range(model))
    draw = {"clean": lambda rng: CLEAN, "several": several, **FACTORS}.get(factor, lambda rng: CLEAN)
    exposures = [draw(np.random.default_rng([seed, n])) for n in range(count)]
    found: dict[str, list[dict]] = {}
    registrar: Registrar | None = None
    for case in all_cases(name, ct, factor, poses, exposures, seed):
        if registrar is None or registrar.ct.affine.tolist() != case.ct.affine.tolist():
            registrar = Registrar(case.ct)
            attempt(case, mode, registrar, model, "ours")  # the first run pays for building the pyramid
        for method in ("ours", "nanodrr") if mode == "peers" else ("ours",):
            found.setdefault(method, []).append(attempt(case, mode, registrar, model, method))
    for method, results in found.items():
        yield row_of(name, mode, factor, method, results)


def all_cases(name: str, ct: CTVolume, factor: str, poses: list, exposures: list, seed: int) -> Iterator[Case]:
    """The cases of one factor, of several changed patients where it changes the patient."""
    cache = cache_folder() / "line-integrals"
    if factor not in CHANGES:
        yield from cases(ct, poses, exposures, seed, cache)
        return
    for variant in range(min(VARIANTS, len(poses))):
        shown = changed(name, factor, variant)
        own = poses[variant::VARIANTS]
        images = line_integrals(shown, own, BENCH_CARM, cache)
        for case in cases(ct, own, exposures[variant::VARIANTS], seed, images=images):
            yield replace(case, number=VARIANTS * case.number + variant)


@lru_cache(maxsize=2)
def changed(name: str, factor: str, variant: int) -> CTVolume:
    """The patient as the X-rays show them."""
    ct, rng = CTVolume.read(public_ct(name)), np.random.default_rng([11, variant])
    if factor == "tissue":
        return soft_tissue_deformed(ct, rng)
    bone = BONES[name]
    if isinstance(bone, int):
        mask = read_nifti(public_ct(name, "mask.nii.gz"), "mask")[0] == bone
    else:
        mask = largest_bone(ct, *map(np.array, bone))
    return bone_moved(ct, mask, random_motion(rng))


def network_range(model: str | None) -> tuple:
    """Half-ranges that a prepared model covers."""
    from DiffPoseSlicerLib.pretraining.model import PoseModel

    loaded = PoseModel.load(model)
    return loaded.rotation, loaded.translation


@lru_cache(maxsize=1)
def _model(folder: str) -> object:
    from DiffPoseSlicerLib.pretraining.model import PoseModel

    return PoseModel.load(folder)


def attempt(case: Case, mode: str, registrar: Registrar, model: str | None, method: str) -> dict:
    """One registration, timed from the start's making to the result."""
    rng = np.random.default_rng([7, case.number])
    start: object = "search"
    if mode in MODES:
        start = offset_start(case.truth, case.points.mean(0), rng, *MODES[mode])
    elif mode == "network":
        start = _model(str(model))
    began = time.perf_counter()
    if mode == "landmarks":
        start = pose_from_landmarks(landmarks(case, rng), case.xray.carm)[0]
    if method == "nanodrr":
        result = recipe(registrar, case, start)
    else:
        view = "any" if mode == "any" else None
        result = register(case.ct, case.xray, start, view=view, registrar=registrar)
    seconds = time.perf_counter() - began
    return {
        "number": case.number,
        "start": mtre(start, case.truth, case.points) if isinstance(start, Pose) else None,
        "mtre": mtre(result.pose, case.truth, case.points),
        "mrpd": mrpd(result.pose, case.truth, case.points, case.xray.carm, case.carm),
        "similarity": result.similarities[0],
        "agreement": result.hypotheses[0].similarity,
        "trusted": result.trust.trusted,
        "seconds": seconds,
        "iterations": result.iterations,
    }


def recipe(registrar: Registrar, case: Case, start: Pose) -> RegistrationResult:
    """nanodrr's renderer under Adam, as xvr registers."""
    from DiffPoseSlicerLib.rendering.torch_nanodrr import nanodrr_projector

    return register_first_order(registrar, case.xray, start, RECIPE, projector=nanodrr_projector)


def landmarks(case: Case, rng: np.random.Generator) -> LandmarkPairs:
    """Six points of the region as seen, 3 mm of noise in the CT, one seen where another place is."""
    points = case.points[rng.choice(len(case.points), 6, replace=False)]
    seen = case.carm.project(transform_points(case.truth.ras_to_camera, points))
    seen[0] += rng.choice([-1, 1], 2) * rng.uniform(30, 80, 2) / case.carm.pixel_spacing[0]
    names = tuple(f"point {n + 1}" for n in range(6))
    return LandmarkPairs(names, points + rng.normal(0, 3 / np.sqrt(3), points.shape), seen)


def row_of(name: str, mode: str, factor: str, method: str, results: list[dict]) -> dict:
    """What is reported of one method's results."""
    found, shown = (np.array([r[key] for r in results]) for key in ("mtre", "mrpd"))
    limit = LIMIT_MM.get(name, 1.0)
    success = (shown if factor in BY_RPD else found) < limit
    good, trusted = int(success.sum()), np.array([r["trusted"] for r in results])
    seconds = [r["seconds"] for r in results]
    starts = [r["start"] for r in results if r["start"] is not None]
    return {
        "ct": name,
        "mode": mode,
        "factor": factor,
        "method": method,
        "limit": limit,
        "cases": len(results),
        "good": good,
        "success": good / len(results),
        "wilson": wilson_interval(good, len(results)),
        "trusted": {"good": int(trusted[success].sum()), "failed": int(trusted[~success].sum())},
        "below5mm": float((found < 5).mean()),
        "mtre": {str(p): float(np.percentile(found, p)) for p in (50, 75, 95)},
        "mrpd": {str(p): float(np.percentile(shown, p)) for p in (50, 95)},
        "start": float(np.median(starts)) if starts else None,
        "seconds": {str(p): float(np.percentile(seconds, p)) for p in (50, 95)},
        "results": results,
    }


def line(row: dict) -> str:
    """One row of the printed table."""
    return (
        f"{row['ct']:11} {row['mode']:9} {row['factor']:11} {row['method']:7} n={row['cases']:3} "
        f"success {100 * row['success']:5.1f} % ({100 * row['wilson'][0]:.1f}-{100 * row['wilson'][1]:.1f})  "
        f"<5mm {100 * row['below5mm']:5.1f} %  mTRE {row['mtre']['50']:.2f}/{row['mtre']['95']:.2f} mm  "
        f"mRPD {row['mrpd']['50']:.2f}/{row['mrpd']['95']:.2f} mm  "
        f"{row['seconds']['50']:.2f}/{row['seconds']['95']:.2f} s  "
        f"trusted {row['trusted']['good']} of {row['good']}, of failures {row['trusted']['failed']}"
    )


def together(mode: str, rows: list[dict]) -> str:
    """Several CTs' clean cases of one mode."""
    results = [result for row in rows for result in row["results"]]
    good, count = sum(row["good"] for row in rows), len(results)
    near = sum(result["mtre"] < 5 for result in results)
    seconds = np.array([result["seconds"] for result in results])
    intervals = [wilson_interval(part, count) for part in (good, near)]
    (low, high), (low_5, high_5) = ((100 * a, 100 * b) for a, b in intervals)
    return (
        f"{mode}, clean, all CTs: {good} of {count} = {100 * good / count:.1f} % ({low:.1f}-{high:.1f}), below 5 mm "
        f"{near} = {100 * near / count:.1f} % ({low_5:.1f}-{high_5:.1f}); {np.median(seconds):.2f} s, 95 % "
        f"{np.percentile(seconds, 95):.2f} s, most {seconds.max():.1f} s, {(seconds > 5).sum()} over 5 s; trusted "
        f"{sum(row['trusted']['good'] for row in rows)} of {good}, of {count - good} failures "
        f"{sum(row['trusted']['failed'] for row in rows)}"
    )


def verdicts(rows: list[dict]) -> Iterator[str]:
    """Success over all CTs, over all stress factors, and how much faster than the peers."""
    for mode in ALL_MODES:
        clean = [r for r in rows if (r["mode"], r["factor"], r["method"]) == (mode, "clean", "ours")]
        if len(clean) > 1:
            yield together(mode, clean)
    for mode in ("near", "search"):
        stressed = [r for r in rows if r["mode"] == mode and r["factor"] != "clean"]
        if stressed:
            good, count = (sum(r[key] for r in stressed) for key in ("good", "cases"))
            low, high = wilson_interval(good, count)
            yield (
                f"{mode}, all stress factors: {good} of {count} = {100 * good / count:.1f} % "
                f"({100 * low:.1f}-{100 * high:.1f})"
            )
    for name in sorted({r["ct"] for r in rows}):
        peers = {r["method"]: r for r in rows if r["ct"] == name and r["mode"] == "peers"}
        if len(peers) == 2:
            ours, theirs = peers["ours"], peers["nanodrr"]
            ratio = sum(r["seconds"] for r in theirs["results"]) / sum(r["seconds"] for r in ours["results"])
            yield (
                f"{name}: {ratio:.0f} times faster than Adam on multiscale correlation through nanodrr, success "
                f"{ours['good']} against {theirs['good']} of {ours['cases']}"
            )


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
