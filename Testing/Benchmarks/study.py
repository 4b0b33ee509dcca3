"""A small study: 200 X-rays of two CTs by four methods, with its page; killed and started again, it goes on.

    python3 Testing/run.py bench study [--cases 200] [--out out/bench/study] [--fresh]

X-rays by plastimatch from the whole CT, registered with a CT 15 mm shorter where the scan cuts tissue. At most twenty
minutes on two quiet cores. --fresh throws away what an earlier run finished.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from DiffPoseSlicerLib.studies.plan import study_from_toml
from DiffPoseSlicerLib.studies.run import run_study
from DiffPoseSlicerLib.studies.study_page import summary_lines, write_study_page

NEEDS_PEERS = False
STUDY = """
name = "Small study: four methods on two CTs"
seed = 1
cts = ["chest", "pelvis"]
cases = {cases}
pixels = 256

[starts]
near = [20, 40]

[methods.ours]
[methods.no-network]
[methods.search]
[methods.first-order]
pixels = [64]
iterations = 100
"""


def main(argv: list[str]) -> int:
    """Run and print; see the module's text."""
    parser = argparse.ArgumentParser(prog="bench study")
    parser.add_argument("--cases", type=int, default=200, help="X-rays of both CTs together")
    parser.add_argument("--out", type=Path, default=Path("out/bench/study"))
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args(argv)
    if options.fresh:
        shutil.rmtree(options.out, ignore_errors=True)
    began = time.perf_counter()
    study = study_from_toml(STUDY.format(cases=max(1, options.cases // 2)))

    def progress(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            print(f"{done} of {total} cases, {time.perf_counter() - began:.0f} s", flush=True)

    rows = run_study(study, options.out, on_case=progress)
    write_study_page(options.out / "index.html", study, options.out, rows)
    print("\n".join(summary_lines(study, rows)))
    print(f"{len(rows)} registrations, {time.perf_counter() - began:.0f} s; the page is {options.out / 'index.html'}.")
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
