"""The paper's ablations: parameterisations, scores, sparse rendering, pixels, solvers, and losses of the network.

    python3 Testing/run.py bench ablations [--cases 20] [--networks SECONDS] [--out out/bench/ablations]

One study on the chest CT, every method from the same starts on the same X-rays, with its page. --networks trains one
network for each pose loss first, for so many seconds each; without it that part is left out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from DiffPoseSlicerLib.registration.comparison.parameters import PARAMETERISATIONS
from DiffPoseSlicerLib.registration.comparison.scores import SCORES
from DiffPoseSlicerLib.studies.plan import Study
from DiffPoseSlicerLib.studies.run import run_study
from DiffPoseSlicerLib.studies.study_page import summary_lines, write_study_page

NEEDS_PEERS = False
LOSSES = ("landmark", "geodesic_log", "double_geodesic", "geodesic")
# One stage of Adam on twists (se3) and multiscale correlation: the base that each ablation changes in one respect.
ADAM = {"use": "first-order", "pixels": [96], "iterations": 150}


def methods(network_seconds: float = 0.0) -> dict[str, dict]:
    """Name -> settings of everything that is compared."""
    found: dict[str, dict] = {"adam": dict(ADAM)}
    found |= {f"adam, {name}": {**ADAM, "parameterisation": name} for name in PARAMETERISATIONS if name != "se3"}
    found |= {f"adam, score {name}": {**ADAM, "score": name} for name in SCORES if name != "multiscale"}
    found |= {f"adam, {count} patches": {**ADAM, "patches": count} for count in (10, 40)}
    found |= {f"adam, {pixels} px": {**ADAM, "pixels": [pixels]} for pixels in (48, 192)}
    found["ours, start alone"] = {"use": "ours-single"}
    found |= {f"ours, {pixels} px": {"use": "ours", "pixels": pixels} for pixels in (32, 64, 128)}
    if network_seconds:
        found |= {
            f"network, {loss}": {"use": "network", "preset": "quick", "seconds": network_seconds, "loss": loss}
            for loss in LOSSES
        }
    return found


def main(argv: list[str]) -> int:
    """Run and print; see the module's text."""
    parser = argparse.ArgumentParser(prog="bench ablations")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--networks", type=float, default=0.0, metavar="SECONDS", help="of training for each loss")
    parser.add_argument("--out", type=Path, default=Path("out/bench/ablations"))
    options = parser.parse_args(argv)
    began = time.perf_counter()
    study = Study(methods(options.networks), "Ablations", cases=options.cases, starts={"near": (10.0, 20.0)}, seed=1)

    def progress(done: int, total: int) -> None:
        print(f"{done} of {total} cases, {time.perf_counter() - began:.0f} s", flush=True)

    rows = run_study(study, options.out, on_case=progress)
    write_study_page(options.out / "index.html", study, options.out, rows, pictures=False)
    print("\n".join(summary_lines(study, rows)))
    print(f"{time.perf_counter() - began:.0f} s; the page is {options.out / 'index.html'}.")
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
