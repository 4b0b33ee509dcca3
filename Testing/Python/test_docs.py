"""The documentation does what it says: every code block and every command is run, in order, page by page."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk

from DiffPoseSlicerLib import CArm, Pose, render
from DiffPoseSlicerLib.cli.main import main
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.pretraining import settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
# The design page shows interfaces, CONTRIBUTING.md what a test of the panel looks like (test_host.py is full of them).
NOT_TO_RUN = ("design.md", "CONTRIBUTING.md")
# Shown, and tested elsewhere: the run script's tasks, installing, building with CMake.
ELSEWHERE = (
    "python3 Testing/run.py ",
    "python3 -m venv ",
    ".venv-library/bin/",
    "pip install ",
    "cmake ",
    ".venv/bin/ruff ",
)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of every fenced block."""
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def pages_with(language: str, without: tuple[str, ...] = ()) -> list[Path]:
    return [page for page in PAGES if page.name not in without and language in {one for one, _ in blocks(page)}]


@pytest.fixture
def folder(small_ct: CTVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages take for granted: a CT and a fluoroscopy of it. Training is as short as can be."""
    coarse = CTVolume.from_array(small_ct.hu[:, ::2, ::2], small_ct.affine @ np.diag([2, 2, 1, 1]), "ct")
    coarse.write(tmp_path / "ct.nii.gz")
    carm = CArm(1020.0, (256, 256), (1.17, 1.17))
    image = np.exp(-render(coarse, carm, Pose.from_view("AP", coarse, carm)))
    stored = sitk.GetImageFromArray((image * 60000).astype(np.uint16))
    for name in ("fluoroscopy.png", "xray.png"):
        sitk.WriteImage(stored, str(tmp_path / name))
    for name in ("quick", "standard", "thorough"):
        monkeypatch.setitem(settings.PRESETS, name, settings.PRESETS["tiny"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", pages_with("python", NOT_TO_RUN), ids=lambda page: page.name)
def test_python_blocks_run(page: Path, folder: Path) -> None:
    module = ModuleType("page")
    # Pages about parts take a C-arm and a pose for granted.
    carm = CArm(1020.0, (256, 256), (1.17, 1.17))
    module.__dict__.update(carm=carm, pose=Pose.from_view("AP", CTVolume.read("ct.nii.gz"), carm))
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, page.name, "exec"), module.__dict__)


@pytest.mark.parametrize("page", pages_with("bash"), ids=lambda page: page.name)
def test_commands_run(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for language, text in blocks(page):
        if language == "json" and "sourceToDetector" in text:
            (folder / "carm.json").write_text(text)
        if language == "toml" and "[methods." in text:
            (folder / "study.toml").write_text(text)
        for line in text.splitlines() if language == "bash" else []:
            if line.startswith("python -m DiffPoseSlicerLib "):
                status = main(shlex.split(line)[3:])
                output = capsys.readouterr()
                assert status == 0, f"{line}\n{output.err}"
                ran += 1
            else:
                assert re.sub(r"^(\w+=\S+ )+", "", line).startswith(ELSEWHERE), line
    if page.name == "command-line.md":
        assert ran >= 6
        assert (folder / "overlay.png").stat().st_size > 1000


def test_tasks_that_pages_name_exist() -> None:
    source = (ROOT / "Testing" / "run.py").read_text(encoding="utf-8")
    for page in PAGES:
        for task in re.findall(r"python3 Testing/run\.py ([a-z][a-z-]*)", page.read_text(encoding="utf-8")):
            assert f"def {task.replace('-', '_')}(" in source, f"{page.name} names the task {task}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    for target in targets:
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
