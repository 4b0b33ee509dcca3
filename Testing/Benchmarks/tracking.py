"""Benchmark of tracking: a run of fluoroscopy frames followed frame by frame, with contrast agent and instruments.

    python3 Testing/run.py bench tracking [--frames 200] [--runs plain disturbed lost]

Each frame the patient moves by 5 mm and turns by 3 degrees in a random direction, within 25 mm and 15 degrees of the
middle. Images are made by plastimatch (exact ray tracing, not our renderer) from the whole CT, 128 x 128 pixels; the
CT that is followed is 15 mm shorter at each cut face. In the run "disturbed" a vessel fills with contrast agent and
empties, and a wire and a tool come in; in "lost" the view is blocked for a while and the patient moves meanwhile.
Every number is printed, and written to out/bench/tracking.json.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from DiffPoseSlicerLib.evaluation.cases import BENCH_CARM, line_integrals, shortened
from DiffPoseSlicerLib.evaluation.metrics import default_points, mtre
from DiffPoseSlicerLib.evaluation.public_ct import cache_folder, public_ct
from DiffPoseSlicerLib.evaluation.stress import CLEAN, expose
from DiffPoseSlicerLib.geometry.pose import Pose, view_rotation
from DiffPoseSlicerLib.geometry.se3 import so3_exp, so3_log
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.imaging.xray import XrayImage
from DiffPoseSlicerLib.registration.register import Registrar
from DiffPoseSlicerLib.registration.tracking import LOST, follow

NEEDS_PEERS = False
CARM = replace(BENCH_CARM.resized((128, 128)), source_to_isocenter=BENCH_CARM.source_to_isocenter)
STEP_MM, STEP_DEGREES = 5.0, 3.0
REACH_MM, REACH_DEGREES = 25.0, 15.0
# The part of the run "lost" in which nothing is seen.
BLOCKED = (0.45, 0.5)


def main(argv: list[str]) -> int:
    """Run and print; see the module's text."""
    parser = argparse.ArgumentParser(prog="bench tracking")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--runs", nargs="+", default=["plain", "disturbed", "lost"], choices=RUNS)
    parser.add_argument("--ct", default="chest")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args(argv)
    ct = CTVolume.read(public_ct(options.ct, say=print))
    poses = walk(ct, options.frames, np.random.default_rng(options.seed))
    integrals = np.stack(list(line_integrals(ct, poses, CARM, cache_folder() / "line-integrals")))
    short = shortened(ct)
    rows = []
    for name in options.runs:
        rows.append(measure(name, short, poses, integrals, options.seed))
        print(line(rows[-1]), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "tracking.json").write_text(json.dumps(rows, indent=1))
    return 0


def walk(ct: CTVolume, count: int, rng: np.random.Generator) -> list[Pose]:
    """Poses a fixed shift and turn apart, in random directions, that stay within reach of the AP view."""
    turn, shift = np.eye(3), np.zeros(3)
    poses = []
    for _ in range(count):
        poses.append(Pose.about(view_rotation("AP"), ct.center, CARM, np.concatenate([so3_log(turn), shift])))
        while True:
            directions = rng.normal(size=(2, 3))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            tried = so3_exp(np.deg2rad(STEP_DEGREES) * directions[0]) @ turn, shift + STEP_MM * directions[1]
            if np.linalg.norm(so3_log(tried[0])) < np.deg2rad(REACH_DEGREES) and np.linalg.norm(tried[1]) < REACH_MM:
                turn, shift = tried
                break
    return poses


def plain(integrals: NDArray, rng: np.random.Generator) -> NDArray:
    """Nothing but the patient."""
    return integrals


def disturbed(integrals: NDArray, rng: np.random.Generator) -> NDArray:
    """A tree of vessels that fills and empties, a wire that is pushed in, a tool laid across from halfway on."""
    count, rows, columns = integrals.shape
    v, u = np.mgrid[0:rows, 0:columns].astype(float)
    tree = np.zeros((rows, columns))
    for _ in range(6):
        steps = np.arange(rows)
        path = columns / 2 + np.cumsum(rng.normal(0, 0.25, rows)) + rng.uniform(-0.6, 0.6) * steps * 0.5
        tree = np.maximum(tree, np.clip(3.5 - np.abs(u - path[:, None]), 0, 2) / 2)
    wire_path = 0.35 * columns + 8 * np.sin(np.arange(rows) / 12)
    wire = np.clip(1.5 - np.abs(u - wire_path[:, None]), 0, 1) * 2.0
    across = np.abs((v - 0.6 * rows) * np.cos(0.5) - (u - 0.5 * columns) * np.sin(0.5))
    tool = 4.0 * np.clip(3.5 - across, 0, 1)
    found = integrals.copy()
    for number in range(count):
        part = number / count
        filled = np.clip(np.sin(np.pi * (part - 0.1) / 0.35), 0, 1) * (v < rows * np.clip((part - 0.1) / 0.15, 0, 1))
        found[number] += 1.5 * filled * tree + wire * (v < rows * np.clip((part - 0.3) / 0.3, 0, 0.9))
        if part > 0.5:
            found[number] += tool
    return found


def lost(integrals: NDArray, rng: np.random.Generator) -> NDArray:
    """The view is blocked for a while."""
    found = integrals.copy()
    first, last = (round(part * len(found)) for part in BLOCKED)
    found[first:last] = 6 + rng.normal(0, 0.05, found[first:last].shape)
    return found


RUNS = {"plain": plain, "disturbed": disturbed, "lost": lost}


def measure(name: str, ct: CTVolume, poses: list[Pose], integrals: NDArray, seed: int) -> dict:
    """Follow one run."""
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    stored = [expose(image, CLEAN, rng).integers for image in RUNS[name](integrals, rng)]
    points = default_points(ct.center)
    times = []

    def frames():
        """Conversion of each frame counts as its time."""
        first = XrayImage.from_array(stored[0], CARM)
        for number, values in enumerate(stored):
            began = time.perf_counter()
            xray = first if number == 0 else first.next_frame(values)
            times.append(time.perf_counter() - began)
            yield xray

    rows = []
    registrar = Registrar(ct)
    for frame in follow(ct, frames(), poses[0], registrar=registrar):
        error = mtre(frame.pose, poses[frame.number], points)
        seconds = frame.seconds + times[frame.number]
        rows.append({"error": error, "state": frame.state, "similarity": frame.similarity, "seconds": seconds})
    seen = np.ones(len(rows), bool)
    if name == "lost":
        first, last = (round(part * len(rows)) for part in BLOCKED)
        seen[first:last] = False
    error = np.array([row["error"] for row in rows])[seen]
    said = np.array([row["state"] != LOST for row in rows])
    seconds = np.array([row["seconds"] for row in rows])[1:]
    return {
        "run": name,
        "frames": len(rows),
        "seen": int(seen.sum()),
        "below1mm": float((error < 1).mean()),
        "mtre": {str(p): float(np.percentile(error, p)) for p in (50, 95, 100)},
        "blockedCalledLost": None if seen.all() else float((~said[~seen]).mean()),
        "seenCalledLost": int((~said[seen]).sum()),
        "searched": sum(row["state"] == "found" for row in rows),
        "framesPerSecond": float(1 / seconds[said[1:] & seen[1:]].mean()),
        "seconds": {str(p): float(np.percentile(seconds, p)) for p in (50, 95, 100)},
        "results": rows,
    }


def line(row: dict) -> str:
    """One row of the printed table."""
    blocked = (
        "" if row["blockedCalledLost"] is None else f"; blocked called lost {100 * row['blockedCalledLost']:.0f} %"
    )
    return (
        f"{row['run']:10} n={row['frames']} seen {row['seen']}: below 1 mm {100 * row['below1mm']:5.1f} %  "
        f"mTRE {row['mtre']['50']:.2f}/{row['mtre']['95']:.2f}/{row['mtre']['100']:.2f} mm  "
        f"{row['framesPerSecond']:.1f} frames/s ({1e3 * row['seconds']['50']:.0f}/{1e3 * row['seconds']['95']:.0f}/"
        f"{1e3 * row['seconds']['100']:.0f} ms)  searched {row['searched']}, seen called lost "
        f"{row['seenCalledLost']}{blocked}"
    )


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
