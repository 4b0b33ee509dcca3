"""What must hold before a release, beside the tests: `python3 Testing/run.py release-check`.

Version and change log agree, everything is committed, and the wheel works in an environment that holds nothing else.
Publishing stays a person's decision.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def version() -> str:
    text = (ROOT / "DiffPoseSlicer" / "DiffPoseSlicerLib" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(\d+\.\d+\.\d+)"$', text, re.MULTILINE)
    return match[1] if match else ""


def output(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
    return done.stdout.strip()


def version_has_three_numbers() -> str:
    return "" if version() else "__version__ in DiffPoseSlicerLib/__init__.py is not of the form 1.2.3"


def change_log_describes_it() -> str:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = re.search(rf"^## {re.escape(version())} \((.*)\)$", text, re.MULTILINE)
    if not heading:
        return f"CHANGELOG.md has no heading '## {version()} (date)'"
    dated = re.fullmatch(r"\d{4}-\d\d-\d\d", heading[1])
    return (
        "" if dated else f"CHANGELOG.md gives '{heading[1]}' where the date belongs: set it on the day of the release"
    )


def address_is_the_repositorys_own() -> str:
    """The address that users and the catalog are given, held against where this clone came from.

    CMake, s4ext, json and pyproject each need it in full (the catalog reads them one by one); a test keeps them alike.
    """
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    found = re.search(r'^set\(EXTENSION_HOMEPAGE "(.*)"\)$', cmake, re.MULTILINE)
    stated = found[1] if found else "nothing"
    where = "CMakeLists.txt, DiffPoseSlicer.s4ext, DiffPoseSlicer.json and pyproject.toml"
    if "origin" not in output("git", "remote").split():
        return f"{where} name {stated}, and no remote 'origin' confirms it: set both to the public repository"
    origin = output("git", "remote", "get-url", "origin").removesuffix(".git")
    same = origin.rpartition("github.com")[2].lstrip(":/") == stated.rpartition("github.com")[2].lstrip(":/")
    return (
        "" if same else f"{where} name {stated}, origin is {origin}: set the public repository's address before release"
    )


def everything_is_committed() -> str:
    changed = output("git", "status", "--porcelain", "--untracked-files=all")
    return f"{len(changed.splitlines())} files are not committed" if changed else ""


def version_is_new() -> str:
    return f"the tag v{version()} exists already" if output("git", "tag", "--list", f"v{version()}") else ""


def wheel_works_alone() -> str:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = folder / "source"  # a copy: building leaves files behind
        shutil.copytree(
            ROOT / "DiffPoseSlicer", source / "DiffPoseSlicer", ignore=shutil.ignore_patterns("__pycache__")
        )
        for name in ("pyproject.toml", "README.md", "LICENSE.txt"):
            shutil.copy(ROOT / name, source)
        output(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)
        (wheel,) = folder.glob("*.whl")
        venv.create(folder / "clean", with_pip=True)
        python = folder / "clean" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        output(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
        said = output(python, "-I", "-m", "DiffPoseSlicerLib", "doctor", cwd=folder)
        return "" if said else "doctor said nothing"


CHECKS: list[Callable[[], str]] = [
    version_has_three_numbers,
    change_log_describes_it,
    address_is_the_repositorys_own,
    everything_is_committed,
    version_is_new,
    wheel_works_alone,
]


def main() -> int:
    failed = 0
    for check in CHECKS:
        try:
            problem = check()
        except RuntimeError as error:
            problem = str(error)
        failed += bool(problem)
        print(
            f"{'NO ' if problem else 'yes'}  {check.__name__.replace('_', ' ')}", problem, sep=": " if problem else ""
        )
    print(f"Version {version()} is {'not ready' if failed else 'ready once the tests pass'}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
