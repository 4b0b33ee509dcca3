"""The library as a package of its own, without Slicer: complete, typed, honest about what it needs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import DiffPoseSlicerLib

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "DiffPoseSlicer" / "DiffPoseSlicerLib"
# What a package is imported as, where that is not its name.
IMPORTED_AS = {"warp-lang": "warp", "slicer-core": "slicer", "pillow": "PIL"}
# There inside Slicer, or with slicer-core, and nowhere else.
SLICERS_OWN = {"slicer", "vtk", "vtkmodules", "qt", "ctk", "PyTorchUtils", "SampleData", "DICOMLib", "mrml"}


def pip(task: str, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", task, "--quiet", "--no-deps", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources (building leaves files behind)."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE.txt"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "DiffPoseSlicer", source / "DiffPoseSlicer", ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(target),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = target.glob("*.whl")
    return made


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [file for file in LIBRARY.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert found == {file.relative_to(LIBRARY.parent).as_posix() for file in files}
    assert "DiffPoseSlicerLib/py.typed" in found


def test_version_is_the_librarys_own(wheel: Path) -> None:
    assert metadata(wheel)["Version"] == DiffPoseSlicerLib.__version__


def test_installed_wheel_runs_the_command_line(wheel: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(tmp_path / "site"),
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    for arguments in (["--help"], ["doctor"]):
        done = subprocess.run(
            [sys.executable, "-m", "DiffPoseSlicerLib", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def third_party_imports() -> set[str]:
    """Top-level names that the library imports anywhere, except the standard library's, its own and Slicer's."""
    names: set[str] = set()
    for file in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module or "")
    return (
        {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - SLICERS_OWN - {"DiffPoseSlicerLib"}
    )


def test_every_import_is_declared_and_every_declaration_is_used(wheel: Path) -> None:
    declared = {re.split(r"[\s\[<>=;!~]", text)[0] for text in metadata(wheel).get_all("Requires-Dist", [])}
    declared = {IMPORTED_AS.get(name, name) for name in declared} - {"diffposeslicer", "slicer"}
    used = third_party_imports() | {"plastimatch"}  # a program, not a module
    assert used == declared
