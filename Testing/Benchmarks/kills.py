"""Kill a training again and again with kill -9 at random instants: every resume must go on.

    python3 Testing/run.py bench kills [--kills 20] [--most 12] [--seed 0] [--ct chest]

A `quick` job is started in a process of its own, killed after a random time that counts from its start (the first
seconds, in which it reads its CT and builds its network, included), started again, and so on. After each kill the
folder must be readable as it stands, and what was learnt up to the last checkpoint must be there. Printed for each
kill: the step and the training seconds last reported, those that survived, and so what was lost.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np

from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.evaluation.cases import BENCH_CARM, shortened
from DiffPoseSlicerLib.evaluation.public_ct import public_ct
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.pretraining.job import is_running, read_progress, read_status, request_stop, start_detached
from DiffPoseSlicerLib.pretraining.model import PoseModel
from DiffPoseSlicerLib.pretraining.pretrain import make_job

NEEDS_PEERS = False


def main(argv: list[str]) -> int:
    """Run and print; see the module's text."""
    parser = argparse.ArgumentParser(prog="bench kills")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--most", type=float, default=12.0, help="seconds after its start that a process is killed at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ct", default="chest")
    parser.add_argument("--out", type=Path, default=Path("out/bench/kills"))
    options = parser.parse_args(argv)
    shutil.rmtree(options.out, ignore_errors=True)
    ct = shortened(CTVolume.read(public_ct(options.ct, say=print)))
    make_job(ct, BENCH_CARM, out=options.out, preset="quick")
    rng = np.random.default_rng(options.seed)
    kept, worst = 0.0, 0.0
    for number in range(options.kills):
        after = rng.uniform(0, options.most)
        process = start_detached(options.out)
        time.sleep(after)
        os.kill(process, signal.SIGKILL)
        while is_running(options.out):
            time.sleep(0.02)
        said = read_status(options.out)
        assert said["state"] in ("interrupted", "new"), said["state"]
        step, seconds = survived(options.out)
        assert seconds >= kept, f"the training went back from {kept:.1f} to {seconds:.1f} s"
        assert all("step" in line for line in read_progress(options.out))
        kept = seconds
        lost = max(said.get("seconds", 0.0) - seconds, 0.0)
        worst = max(worst, lost)
        print(
            f"kill {number + 1:2} after {after:4.1f} s: reported step {said.get('step', 0)} at "
            f"{said.get('seconds', 0.0):.1f} s, kept step {step} at {seconds:.1f} s, lost {lost:.1f} s",
            flush=True,
        )
    start_detached(options.out)
    deadline = time.monotonic() + 120
    while read_status(options.out).get("seconds", 0.0) <= kept + 5:
        assert time.monotonic() < deadline, "the training did not go on"
        time.sleep(0.2)
    request_stop(options.out)
    while is_running(options.out):
        time.sleep(0.1)
    log = (options.out / "log.txt").read_text()
    print(
        f"{options.kills} kills, {log.count('Going on from step')} resumes from a checkpoint; the most that one lost "
        f"is {worst:.1f} s of training; the last run went on to step {read_status(options.out)['step']}."
    )
    return 0


def survived(folder: Path) -> tuple[int, float]:
    """Step and training seconds of the checkpoint; zero where none was written yet."""
    try:
        data = PoseModel.load(folder).data
    except InputError as error:
        if "nothing has been learnt yet" not in str(error):
            raise
        return 0, 0.0
    return data["step"], data["seconds"]


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
