"""Testing/run.py: one environment, kept as long as it fits, and statuses that tell the truth."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "run.py"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """run.py as a module that believes `tmp_path` to be the repository."""
    spec = importlib.util.spec_from_file_location("run_script", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "BENCHMARKS", tmp_path)
    monkeypatch.setattr(module, "LINT", {})
    monkeypatch.setattr(module, "VENV_OPTIONS", ["--without-pip"])  # which takes seconds to lay down
    return module


@pytest.fixture
def this_python(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks use the interpreter that runs the tests."""
    monkeypatch.setattr(run, "ensure_environment", lambda *_, **__: Path(sys.executable))


def test_needs_nothing_but_the_standard_library() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_help_names_every_task() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    for task in ("demo", "test", "bench", "lint", "screenshots"):
        assert f"\n  {task} " in done.stdout


def test_unknown_task_is_an_error() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "dance"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "dance" in done.stderr


def test_environment_is_made_once_updated_and_made_anew(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed: list[str] = []
    monkeypatch.setattr(run, "install", lambda python, requirements, name: installed.append(requirements.read_text()))
    venv, requirements = tmp_path / ".venv", tmp_path / "requirements.txt"
    requirements.write_text("# one\n")
    python = run.ensure_environment(venv, requirements)
    assert run.version_of(python) == "{}.{}".format(*sys.version_info[:2])
    assert "Making a virtual environment" in capsys.readouterr().out
    (venv / "mine").touch()

    assert run.ensure_environment(venv, requirements) == python
    assert (capsys.readouterr().out, installed) == ("", ["# one\n"])  # nothing to say, nothing to do

    requirements.write_text("# two\n")
    run.ensure_environment(venv, requirements)
    assert installed == ["# one\n", "# two\n"]
    assert (venv / "mine").exists()

    (venv / run.STAMP).write_text('{"python": "3.9"}')
    monkeypatch.setattr(run, "version_of", lambda python: "3.9")
    run.ensure_environment(venv, requirements)
    assert "another Python" in capsys.readouterr().out
    assert len(installed) == 3
    assert not (venv / "mine").exists()


def test_interrupted_installation_is_taken_up_again(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# one\n")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "install", fail)
    with pytest.raises(KeyboardInterrupt):
        run.ensure_environment(tmp_path / ".venv", requirements)
    calls: list[object] = []
    monkeypatch.setattr(run, "install", lambda *arguments: calls.append(arguments))
    run.ensure_environment(tmp_path / ".venv", requirements)
    assert len(calls) == 1


def test_offline_is_said_in_one_sentence(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("a-package-that-is-nowhere==1\n")
    with pytest.raises(run.Failed, match="offline") as error:
        run.install(Path(sys.executable), requirements, "requirements.txt")
    assert "\n" not in str(error.value)


def test_unsupported_python_says_which_will_do(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(run.shutil, "which", lambda name: None)
    with pytest.raises(run.Failed, match="3.10 to 3.13"):
        run.base_python()
    monkeypatch.setattr(run.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(run, "version_of", lambda python: "3.12")
    assert run.base_python() == ("/usr/bin/python3.12", "3.12")


@pytest.mark.usefixtures("this_python")
@pytest.mark.parametrize(
    ("code", "status", "summary"),
    [
        ("def test_a(): pass", 0, "1 passed in"),
        ("def test_a(): pass\ndef test_b(): assert 0", 1, "1 failed, 1 passed in"),
        ("import atexit, os\natexit.register(os._exit, 7)\ndef test_a(): pass", 7, "1 passed in"),
        ("x = 1", 5, "no tests ran"),
        ("syntax error", 2, "1 error in"),
    ],
)
def test_status_is_pytests_and_its_summary_comes_last(
    run: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str], code: str, status: int, summary: str
) -> None:
    (tmp_path / "test_sample.py").write_text(code + "\n")
    assert run.test(["-p", "no:cacheprovider", "-q", str(tmp_path / "test_sample.py")]) == status
    assert summary in capfd.readouterr().out.splitlines()[-1]


@pytest.mark.usefixtures("this_python")
def test_lint_that_is_not_clean_fails_the_run_and_the_tests_run_all_the_same(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "LINT", {"spelling": ["-c", "print('teh'); raise SystemExit(3)"], "rest": ["-c", ""]})
    (tmp_path / "test_sample.py").write_text("def test_a(): pass\n")
    assert run.test([str(tmp_path / "test_sample.py")]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert "[run.py] spelling: NOT clean" in lines
    assert "teh" in lines
    assert "[run.py] rest: clean" in lines
    assert "1 passed" in lines[-1]


@pytest.mark.usefixtures("this_python")
def test_benches_are_listed_and_run_by_name(run: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "speed.py").write_text(
        '"""How fast.\n\nMore."""\nNEEDS_PEERS = True\ndef main(argv):\n    print("ran", argv)\n    return 4\n'
    )
    (tmp_path / "helper.py").write_text("x = 1\n")
    assert run.bench([]) == 0
    listed = capfd.readouterr().out
    assert "speed" in listed
    assert "How fast." in listed
    assert "[installs peers first]" in listed
    assert "helper" not in listed
    assert run.bench(["speed", "-n", "3"]) == 4
    assert "ran ['-n', '3']" in capfd.readouterr().out
    with pytest.raises(run.Failed, match="speed"):
        run.bench(["sped"])


def test_bench_environment_sees_the_projects_packages_after_its_own(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "install", lambda *_: None)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("")
    below, above = tmp_path / ".venv", tmp_path / ".venv-bench"
    pythons = [run.ensure_environment(below, requirements)]
    pythons.append(run.ensure_environment(above, requirements, below=below))
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folders = [Path(subprocess.check_output([str(python), "-c", where], text=True).strip()) for python in pythons]
    (folders[0] / "both.py").write_text("where = 'below'")
    (folders[0] / "only_below.py").write_text("")
    (folders[1] / "both.py").write_text("where = 'above'")
    code = "import both, only_below; print(both.where)"
    assert subprocess.check_output([str(pythons[1]), "-c", code], text=True).strip() == "above"
