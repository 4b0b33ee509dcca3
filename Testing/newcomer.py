"""A newcomer's first hour: `python3 Testing/run.py newcomer` follows README.md to the letter in a clean clone.

What is committed is cloned into a temporary folder, and every ```bash block of the clone's README.md is run there in
order, line by line, in an environment that knows nothing of this one. The first line that fails ends the run, with its
exit status.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a shell that was just opened does not have.
NOT_INHERITED = ("PYTHON", "VIRTUAL_ENV", "CONDA", "DIFFPOSESLICER", "QT_", "SLICER", "CTK", "GIT_", "PYTEST")


def commands(readme: str) -> list[str]:
    """Every line of every bash block, in order."""
    return [line for block in BLOCK.findall(readme) for line in block.splitlines() if line and line[0] != "#"]


def fresh_environment() -> dict[str, str]:
    """This process's variables without those that tie it to an environment or a project."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
    inside = os.environ.get("VIRTUAL_ENV")
    if inside:
        folders = variables.get("PATH", "").split(os.pathsep)
        variables["PATH"] = os.pathsep.join(folder for folder in folders if not folder.startswith(inside))
    return variables


def clone(into: Path) -> None:
    """What is committed here, without what lies beside it (hence no hard links and no worktree)."""
    subprocess.run(["git", "clone", "--quiet", "--no-local", str(ROOT), str(into)], check=True)


def follow(folder: Path, only: str = "") -> int:
    """Run the README's commands in a clone; the status of the first that fails, else 0.

    Args:
        folder: The clone.
        only: Run only the commands that contain this.
    """
    listed = [line for line in commands((folder / "README.md").read_text(encoding="utf-8")) if only in line]
    if not listed:
        print(f"README.md has no command{f' with {only!r}' if only else ''}.", file=sys.stderr)
        return 1
    for number, line in enumerate(listed, 1):
        print(f"--- {number} of {len(listed)}: {line}", flush=True)
        started = time.monotonic()
        status = subprocess.run(line, shell=True, cwd=folder, env=fresh_environment(), check=False).returncode
        print(f"--- status {status} after {time.monotonic() - started:.0f} s", flush=True)
        if status:
            return status if status > 0 else 128 - status
    print(f"All {len(listed)} commands of README.md ended with status 0.")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Follow README.md to the letter in a clean clone.")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only the commands that contain TEXT")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="newcomer-") as temporary:
        folder = Path(temporary, "SlicerDiffPoseSlicer")
        clone(folder)
        return follow(folder, options.only)


if __name__ == "__main__":
    sys.exit(main())
