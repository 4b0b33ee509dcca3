"""Installing Python packages: the interface of Slicer 5.12. The host's recorder stands behind ``pip_install``."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import slicer
from packaging.requirements import Requirement


def load_requirements(path: str | Path) -> list[Requirement]:
    """The requirements of a requirements.txt file."""
    lines = map(str.strip, Path(path).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def pip_check(req: Any) -> bool:
    """Whether all requirements are installed, at a version that fits."""
    return all(map(_satisfied, _requirements(req)))


def pip_ensure(
    requirements: Any,
    constraints: Any = None,
    skip_packages: list[str] | None = None,
    prompt_install: bool = True,
    prompt_restart: bool = True,
    requester: str | None = None,
    skip_in_testing: bool = True,
    show_progress: bool = True,
) -> list[str] | None:
    """Install what is missing, after asking. Does nothing in testing mode unless told otherwise."""
    missing = [str(requirement) for requirement in _requirements(requirements) if not _satisfied(requirement)]
    if not missing or (skip_in_testing and slicer.app.testingEnabled()):
        return None
    question = f"{requester or 'This module'} needs to install: {', '.join(missing)}"
    if prompt_install and not slicer.util.confirmOkCancelDisplay(question):
        raise RuntimeError("Installation was cancelled")
    return pip_install(missing, constraints=constraints, skip_packages=skip_packages, requester=requester)


def pip_install(requirements: Any, **options: Any) -> list[str] | None:
    """Replaced by the host's recorder."""
    raise RuntimeError("the host installs nothing")


def pip_uninstall(requirements: Any, **options: Any) -> None:
    """Replaced by the host's recorder."""
    raise RuntimeError("the host uninstalls nothing")


def _requirements(given: Any) -> list[Requirement]:
    items = given.split() if isinstance(given, str) else [given] if isinstance(given, Requirement) else given
    return [item if isinstance(item, Requirement) else Requirement(item) for item in items]


def _satisfied(requirement: Requirement) -> bool:
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)
