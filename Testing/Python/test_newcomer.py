"""The script that follows README.md: it finds every command, runs them in a clean clone, and fails with the first."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing"))

import newcomer  # noqa: E402


def test_every_command_of_the_readme_is_found() -> None:
    found = newcomer.commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found[:2] == ["python3 Testing/run.py demo", "python3 Testing/run.py test"]
    assert any(line.endswith("-m DiffPoseSlicerLib doctor") for line in found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    python = f'"{sys.executable}"'
    (tmp_path / "README.md").write_text(
        f"# A page\n\n```bash\n{python} -c \"open('one', 'w')\"\n```\n\n```text\nnot run\n```\n\n"
        f"```bash\n# said, not run\n{python} -c \"raise SystemExit(3)\"\n{python} -c \"open('two', 'w')\"\n```\n"
    )
    return tmp_path


def test_commands_run_in_order_until_one_fails(folder: Path) -> None:
    assert newcomer.follow(folder) == 3
    assert (folder / "one").exists() and not (folder / "two").exists()


def test_one_command_can_be_chosen(folder: Path) -> None:
    assert newcomer.follow(folder, only="two") == 0
    assert (folder / "two").exists() and not (folder / "one").exists()
    assert newcomer.follow(folder, only="three") == 1


def test_environment_is_that_of_a_new_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{newcomer.os.pathsep}/usr/bin")
    fresh = newcomer.fresh_environment()
    assert "PYTHONPATH" not in fresh and "VIRTUAL_ENV" not in fresh
    assert fresh["PATH"] == "/usr/bin"


def test_clone_holds_what_is_committed_and_nothing_else(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a git checkout")
    newcomer.clone(tmp_path / "clone")
    listed = subprocess.check_output(["git", "ls-tree", "-r", "--name-only", "HEAD"], cwd=ROOT, text=True).splitlines()
    found = [file for file in (tmp_path / "clone").rglob("*") if file.is_file()]
    inside = [file.relative_to(tmp_path / "clone") for file in found]
    assert sorted(file.as_posix() for file in inside if file.parts[0] != ".git") == sorted(listed)
