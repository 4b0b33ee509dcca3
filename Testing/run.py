#!/usr/bin/env python3
"""Everything there is to run, on any machine with Python 3.10 to 3.13 and nothing else:

    python3 Testing/run.py demo            the main job on a real chest CT, with pictures
    python3 Testing/run.py test [ARGS]     lint, then every test; ARGS go to pytest
    python3 Testing/run.py lint            formatting, types, layers, documentation
    python3 Testing/run.py bench [NAME]    one benchmark, or the list of them
    python3 Testing/run.py screenshots     the pictures of the documentation
    python3 Testing/run.py setup           only the environment the others need
    python3 Testing/run.py test-versions   the library's tests with what Slicer 5.10 bundles
    python3 Testing/run.py newcomer        README.md followed to the letter in a clean clone
    python3 Testing/run.py release-check   what must hold before a release

The first run makes a virtual environment in .venv and installs Testing/requirements.txt there; later runs use it, bring
it up to date when the requirements change, and make it anew for another Python. Only the standard library is used here.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
BENCH_VENV = ROOT / ".venv-bench"
VERSIONS_VENV = ROOT / ".venv-versions"
REQUIREMENTS = ROOT / "Testing" / "requirements.txt"
BUNDLED = ROOT / "Testing" / "requirements-slicer-5.10.txt"
BENCHMARKS = ROOT / "Testing" / "Benchmarks"
STAMP = "diffposeslicer.json"
VENV_OPTIONS: list[str] = []  # the tests leave pip out
# Slicer's libraries (slicer-core) come for these.
PYTHONS = ((3, 10), (3, 13))
# The line pytest closes with: "=== 3 failed, 120 passed in 65.43s (0:01:05) ===", with or without the rulers.
SUMMARY = re.compile(
    r"^=* ?(no tests ran|\d+ (passed|failed|errors?|skipped|xfailed|xpassed|deselected|warnings?)\b).* in "
)

# What pip says where there is no network.
OFFLINE = re.compile(r"NewConnectionError|NameResolution|Temporary failure|Connection (broken|refused)|versions: none")


class Failed(Exception):
    """Something that a sentence explains; ends the run with status 1."""


def say(text: str) -> None:
    print(f"[run.py] {text}", flush=True)


# --- The environment -------------------------------------------------------------------------------------------------


def python_of(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def base_python() -> tuple[str, str]:
    """The interpreter to make environments with, and its version "3.N": this one, or one on the path that will do."""
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        # Within a virtual environment: the one it was made from, for the environment may be about to be replaced.
        return getattr(sys, "_base_executable", None) or sys.executable, "{}.{}".format(*sys.version_info[:2])
    for minor in (12, 13, 11, 10):
        found = shutil.which(f"python3.{minor}")
        if found and version_of(Path(found)) == f"3.{minor}":
            say(f"This is Python {sys.version_info[0]}.{sys.version_info[1]}; using {found} instead.")
            return found, f"3.{minor}"
    raise Failed(
        f"Python {sys.version_info[0]}.{sys.version_info[1]} is not supported; run this with Python 3.10 to 3.13 "
        "(for example: python3.12 Testing/run.py ...)."
    )


def version_of(python: Path) -> str | None:
    """ "3.N" of an interpreter, None where it does not run."""
    code = "import sys; print('{}.{}'.format(*sys.version_info[:2]))"
    try:
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def stamp_for(requirements: Path, version: str) -> dict[str, str]:
    """What an environment that fits says of itself."""
    text = requirements.read_text(encoding="utf-8").replace("\r\n", "\n")
    return {"python": version, "requirements": hashlib.sha256(text.encode()).hexdigest()}


def read_stamp(venv: Path) -> dict[str, str]:
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def ensure_environment(venv: Path = VENV, requirements: Path = REQUIREMENTS, below: Path | None = None) -> Path:
    """The Python of an up-to-date virtual environment.

    Args:
        venv, requirements: Where it is and what belongs into it.
        below: Another environment whose packages it shall see too; its own come first.
    """
    base, version = base_python()
    python, wanted = python_of(venv), stamp_for(requirements, version)
    if below is not None:
        wanted["below"] = hashlib.sha256(json.dumps(read_stamp(below), sort_keys=True).encode()).hexdigest()
    stamp = read_stamp(venv)
    if stamp == wanted and python.exists():
        return python
    if venv.exists() and version_of(python) != version:
        say(f"{venv.name} was made with another Python; removing it to make it anew.")
        shutil.rmtree(venv)
    if not venv.exists():
        say(f"Making a virtual environment in {venv.name} with Python {version}.")
        make = subprocess.run(
            [base, "-m", "venv", *VENV_OPTIONS, str(venv)], capture_output=True, text=True, check=False
        )
        if make.returncode:
            shutil.rmtree(venv, ignore_errors=True)
            hint = (
                " (on Debian and Ubuntu: apt install python3-venv)" if "ensurepip" in make.stdout + make.stderr else ""
            )
            raise Failed(f"The virtual environment could not be made{hint}: {last_line(make.stderr or make.stdout)}")
    if below is not None:
        look_into(venv, below)
    name = requirements.relative_to(ROOT).as_posix()
    say(f"Installing what {name} lists into {venv.name} (a few minutes the first time; later runs skip this).")
    install(python, requirements, name)
    (venv / STAMP).write_text(json.dumps(wanted), encoding="utf-8")
    return python


def install(python: Path, requirements: Path, name: str) -> None:
    command: list[str | Path] = [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    lines: list[str] = []

    def show(line: str) -> None:
        lines.append(line)
        if line.startswith(("Collecting ", "Installing collected", "Successfully")):
            print("  " + (line[:110].rstrip() + " ..." if len(line) > 114 else line), flush=True)

    if stream([*command, "-r", requirements], show):
        print("\n".join(lines[-25:]), flush=True)
        log = "\n".join(lines)
        if OFFLINE.search(log):
            raise Failed(
                f"The packages in {name} could not be fetched: this computer seems to be offline. Connect it to the "
                "internet (or set pip's proxy) and run the same command again; nothing is lost."
            )
        errors = [line for line in lines if line.startswith("ERROR")]
        raise Failed(f"pip could not install {name}: {last_line(chr(10).join(errors) or log)}")


def look_into(venv: Path, below: Path) -> None:
    """Let `venv` see the packages of `below`, after its own (a .pth file: works the same on every platform)."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folders = [
        subprocess.run([str(python_of(one)), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        for one in (venv, below)
    ]
    Path(folders[0], "below.pth").write_text(folders[1] + "\n", encoding="utf-8")


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def environment(**extra: str) -> dict[str, str]:
    """The variables that everything runs with: our library on the path, nothing of the user's own packages."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "DiffPoseSlicer"), "PYTHONNOUSERSITE": "1", "PYTHONUTF8": "1"}
    variables.pop("PYTHONHOME", None)
    return {**variables, "PIP_NO_INPUT": "1", **extra}


def run(command: Sequence[str | Path], **extra: str) -> int:
    """Run a command in the repository's root; its exit status (128 + N where signal N ended it, as shells say it)."""
    status = subprocess.run([str(word) for word in command], cwd=ROOT, env=environment(**extra), check=False).returncode
    return 128 - status if status < 0 else status


def stream(command: Sequence[str | Path], line: Callable[[str], object], **extra: str) -> int:
    """As `run`, but with every line that the command prints handed to `line` as it comes."""
    with subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for text in process.stdout:
            line(text.rstrip("\r\n"))
    return 128 - process.returncode if process.returncode < 0 else process.returncode


# --- The tasks -------------------------------------------------------------------------------------------------------


def demo(arguments: list[str]) -> int:
    """The main job on a real chest CT: pretrain, register simulated fluoroscopies, print a table, write pictures."""
    python = ensure_environment()
    status = run([python, "-m", "DiffPoseSlicerLib", "demo", *arguments])
    if status or {"-h", "--help"} & set(arguments):
        return status
    chosen = [number for number, word in enumerate(arguments[:-1]) if word in ("-o", "--output")]
    folder = arguments[chosen[-1] + 1] if chosen else "out/demo"
    return run([python, ROOT / "Testing" / "Host" / "demo_scene.py", folder])


def setup(_: list[str]) -> int:
    """Make or update the environment, and nothing else."""
    say(f"Ready: {ensure_environment()}")
    return 0


LINT = {
    "ruff check": ["-m", "ruff", "check", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "."],
    "mypy": ["-m", "mypy"],
    "import-linter": ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
    "documentation": [
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        "build/docs/doctrees",
        "docs",
        "build/docs/html",
    ],
}


def lint(_: list[str]) -> int:
    """Formatting, common errors, types, the arrows between the layers, and the documentation."""
    python, failed = ensure_environment(), []
    for name, command in LINT.items():
        lines: list[str] = []
        status = stream([python, *command], lines.append)
        say(f"{name}: {'clean' if status == 0 else 'NOT clean'}")
        if status:
            failed.append(name)
            print("\n".join(lines), flush=True)
    if failed:
        say(f"Lint failed: {', '.join(failed)}.")
    return 1 if failed else 0


def test(arguments: list[str]) -> int:
    """Lint, then every test. The last line printed is pytest's summary."""
    return pytest(ensure_environment(), arguments, before=lint([]))


# Need VTK's Slicer build, or test the project rather than the library.
NOT_OF_THE_LIBRARY = ("scene", "host", "panel", "module", "run", "packaging", "wheel", "docs")


def test_versions(arguments: list[str]) -> int:
    """The library's tests with the numpy, pydicom and SimpleITK that Slicer 5.10 bundles."""
    ensure_environment()
    python = ensure_environment(VERSIONS_VENV, BUNDLED, below=VENV)
    ignored = [f"--ignore-glob=*/test_{topic}*.py" for topic in NOT_OF_THE_LIBRARY]
    return pytest(python, [*ignored, *arguments])


def pytest(python: Path, arguments: list[str], before: int = 0) -> int:
    """Run pytest; its status, or `before`'s where that of the tests is 0. Its summary is the last line printed."""
    summary = ""

    def show(line: str) -> None:
        nonlocal summary
        print(line, flush=True)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line).strip()
        summary = plain if SUMMARY.search(plain) else summary

    command: list[str | Path] = [python, "-m", "pytest", *arguments]
    status = stream(command, show, QT_QPA_PLATFORM="offscreen", MPLBACKEND="Agg")
    if status > 128 or not summary:
        say(f"pytest did not end by itself (status {status}).")
    if before:
        say("Lint failed: see above.")
    print(summary or "no tests ran", flush=True)
    return status or before


def newcomer(arguments: list[str]) -> int:
    """Every command of README.md, in order, in a clean clone of what is committed."""
    return run([base_python()[0], ROOT / "Testing" / "newcomer.py", *arguments])


def release_check(_: list[str]) -> int:
    """What must hold before a release, beside the tests."""
    return run([ensure_environment(), ROOT / "Testing" / "release_check.py"])


def benches() -> dict[str, tuple[str, bool]]:
    """Name -> (first line of its text, whether it needs peers' packages) of every benchmark."""
    found = {}
    for path in sorted(BENCHMARKS.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if "main" not in functions or path.name.startswith("_"):
            continue
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        text = (ast.get_docstring(tree) or "").partition("\n")[0]
        found[path.stem] = text, bool(constants.get("NEEDS_PEERS", False))
    return found


def bench(arguments: list[str]) -> int:
    """One benchmark by name, or the list of them."""
    known = benches()
    if not arguments:
        print("Benchmarks (python3 Testing/run.py bench NAME [ARGS]):")
        for name, (text, needs_peers) in known.items():
            print(f"  {name:20} {text}{' [installs peers first]' if needs_peers else ''}")
        return 0
    name, *rest = arguments
    if name not in known:
        raise Failed(f"There is no benchmark {name!r}: use one of {', '.join(known) or '(none yet)'}.")
    python = ensure_environment()
    listed = BENCHMARKS / "requirements.txt"
    if known[name][1] and listed.exists():
        python = ensure_environment(BENCH_VENV, listed, below=VENV)
    code = f"import sys; sys.path.insert(0, sys.argv.pop(1)); import {name}; sys.exit({name}.main(sys.argv[1:]))"
    return run([python, "-c", code, BENCHMARKS, *rest])


def screenshots(arguments: list[str]) -> int:
    """Drive the panel through its whole story in the test host and draw it."""
    script = ROOT / "Testing" / "Host" / "screenshots.py"
    return run([ensure_environment(), script, *arguments], QT_QPA_PLATFORM="offscreen")


def pictures(arguments: list[str]) -> int:
    """Renew the documentation's pictures: the product's pages in Chromium, and the panel as `screenshots` drew it."""
    return run([ensure_environment(), ROOT / "Testing" / "pictures.py", *arguments])


TASKS: dict[str, Callable[[list[str]], int]] = {
    task.__name__.replace("_", "-"): task
    for task in (demo, test, bench, lint, screenshots, pictures, setup, test_versions, newcomer, release_check)
}


def main(argv: Sequence[str] | None = None) -> int:
    tasks = "\n".join(f"  {name:13} {(task.__doc__ or '').splitlines()[0]}" for name, task in TASKS.items())
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Runs the project: python3 Testing/run.py TASK [ARGS]",
        epilog=f"tasks:\n{tasks}\n\nARGS go to the task: `demo --help`, `test -k geometry`, `bench NAME --help`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=TASKS, metavar="TASK", help="one of: " + ", ".join(TASKS))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS", help="what the task itself takes")
    options = parser.parse_args(argv)
    try:
        return TASKS[options.task](options.arguments)
    except Failed as error:
        print(f"[run.py] {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
