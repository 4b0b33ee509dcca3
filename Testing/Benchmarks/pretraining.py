"""Benchmark of pretraining: time to quality, certificate, and success on an independent simulator.

    python3 Testing/run.py bench pretraining [--presets quick standard paper] [--cts chest chest-metal]
        [--cases 100] [--seeds 1] [--time-scale 1.0]

For each CT and preset a job runs from nothing. Reported: seconds to a median validation error of 20, 10 and 5 mm,
images a second, the certificate's figures, the network's error and the success rate of the whole pipeline on images by
plastimatch (exact ray tracing, not our renderer) with scatter and noise, made from the whole CT, while training and
registration have one that is 15 mm shorter at each face where the scan cuts tissue. "paper" is DiffPose's recipe on
our images with the same number of seconds as quick. Everything is printed, and written to out/bench/pretraining.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from DiffPoseSlicerLib.evaluation.cases import BENCH_CARM, cases, random_poses, shortened
from DiffPoseSlicerLib.evaluation.metrics import mtre, wilson_interval
from DiffPoseSlicerLib.evaluation.public_ct import cache_folder, public_ct
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.pretraining.certificate import read_certificate
from DiffPoseSlicerLib.pretraining.job import read_progress
from DiffPoseSlicerLib.pretraining.pretrain import pretrain
from DiffPoseSlicerLib.pretraining.settings import preset as preset_named
from DiffPoseSlicerLib.registration.register import Registrar, register

NEEDS_PEERS = False
TRANSLATION = (50.0, 50.0, 100.0)
# Half-range of each component of the rotation, degrees.
ROTATION = {"quick": 30.0, "standard": 45.0, "thorough": 45.0, "paper": 30.0}
LEVELS_MM = (20, 10, 5)


def main(argv: list[str]) -> int:
    """Run and print; see the module's text."""
    parser = argparse.ArgumentParser(prog="bench pretraining")
    parser.add_argument("--presets", nargs="+", default=["quick", "standard", "paper"], choices=list(ROTATION))
    parser.add_argument("--cts", nargs="+", default=["chest", "chest-metal"])
    parser.add_argument("--cases", type=int, default=100, help="plastimatch images a model")
    parser.add_argument("--seeds", type=int, default=1, help="trainings a preset")
    parser.add_argument("--time-scale", type=float, default=1.0, help="factor on all presets' seconds")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.cts:
        ct = CTVolume.read(public_ct(name, say=print))
        for preset in options.presets:
            for seed in range(options.seeds):
                rows.append(measure(name, ct, preset, seed, options))
                print(line(rows[-1]), flush=True)
                (options.out / "pretraining.json").write_text(json.dumps(rows, indent=1))
    return 0


def measure(name: str, ct: CTVolume, preset: str, seed: int, options: argparse.Namespace) -> dict:
    """Train one model and try it."""
    short = shortened(ct)
    folder = options.out / f"job-{name}-{preset}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    settings = preset_named(preset)
    settings = replace(
        settings,
        seconds=settings.seconds * options.time_scale,
        certify_seconds=settings.certify_seconds * options.time_scale,
    )
    rotation = (ROTATION[preset],) * 3
    began, cpu = time.perf_counter(), time.process_time()
    model = pretrain(
        short,
        BENCH_CARM,
        out=folder,
        rotation=rotation,
        translation=TRANSLATION,
        preset=preset,
        settings=settings,
        seed=seed,
    )
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    reports = [r for r in read_progress(folder) if "validationMtreMm" in r]
    reached = {
        level: next((r["seconds"] for r in reports if r["validationMtreMm"] < level), None) for level in LEVELS_MM
    }
    registrar = Registrar(short, center=model.center)
    rng = np.random.default_rng([seed, 41])
    truths = random_poses(short, options.cases, rng, rotation, TRANSLATION)
    network, errors, seconds = [], [], []
    for case in cases(ct, truths, seed=seed, cache=cache_folder() / "line-integrals"):
        start = time.perf_counter()
        network.append(mtre(model.predict(case.xray), case.truth, case.points))
        result = register(short, [case.xray], start=model, registrar=registrar)
        seconds.append(time.perf_counter() - start)
        errors.append(mtre(result.pose, case.truth, case.points))
    good = int((np.array(errors) < 1).sum())
    certificate = read_certificate(folder) or {}
    return {
        "ct": name,
        "preset": preset,
        "seed": seed,
        "wall": wall,
        "cpu": cpu,
        "steps": model.data["step"],
        "imagesPerSecond": model.data["step"] * settings.batch / model.data["seconds"],
        "reached": reached,
        "validationMtreMm": model.data["validationMtreMm"],
        "certificate": {key: certificate.get(key) for key in ("cases", "rate", "interval", "certified")},
        "network": {str(p): float(np.percentile(network, p)) for p in (50, 90, 95, 100)},
        "success": good / len(errors),
        "wilson": list(wilson_interval(good, len(errors))),
        "mtre": {str(p): float(np.percentile(errors, p)) for p in (50, 75, 95)},
        "seconds": float(np.median(seconds)),
        "cases": len(errors),
    }


def line(row: dict) -> str:
    """One row of the printed table."""
    reached = " ".join(f"{mm} mm: {'-' if s is None else f'{s:.0f} s'}" for mm, s in row["reached"].items())
    sure = row["certificate"]
    certificate = f"{100 * sure['rate']:.1f} % of {sure['cases']}" if sure["cases"] else "none"
    return (
        f"{row['ct']:11} {row['preset']:8} seed {row['seed']}: {row['wall']:.0f} s ({row['cpu']:.0f} s CPU), "
        f"{row['steps']} steps, {row['imagesPerSecond']:.0f} images/s; {reached}; certificate {certificate}; network "
        f"{row['network']['50']:.1f}/{row['network']['95']:.1f} mm; success {100 * row['success']:.1f} % "
        f"({100 * row['wilson'][0]:.1f}-{100 * row['wilson'][1]:.1f}) of {row['cases']}, median "
        f"{row['mtre']['50']:.2f} mm in {row['seconds']:.2f} s"
    )


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
