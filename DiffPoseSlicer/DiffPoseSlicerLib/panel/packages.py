"""What the engine needs and whether it is there, found without importing any of it; and how it is installed."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Any

import slicer
import slicer.util
from slicer.i18n import tr as _

from . import settings


@dataclass(frozen=True)
class Need:
    """A Python package that some of the work needs.

    Attributes:
        distribution: Its name for pip.
        size: About how much is fetched, in words.
    """

    distribution: str
    size: str


WARP = Need("warp-lang", "100 MB")
TORCH = Need("torch", "200 MB to 3 GB")
SAFETENSORS = Need("safetensors", "1 MB")


@functools.cache
def has(need: Need) -> bool:
    """Whether a package is installed in Slicer's own Python. Reads its metadata, never the package.

    The answer is kept until :func:`look_again`: the search through all folders takes milliseconds.
    """
    try:
        importlib.metadata.version(need.distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def look_again() -> None:
    """Packages may have come or gone."""
    importlib.invalidate_caches()
    has.cache_clear()


def own_python() -> bool:
    """Whether the engine runs in Slicer's own Python: only that one is looked into and installed into."""
    return not settings.interpreter()


def can_register() -> bool:
    """Whether the engine can render: with Warp, or slower with torch."""
    return not own_python() or has(WARP) or has(TORCH)


def missing_to_prepare() -> list[Need]:
    """What a preparation still needs."""
    return [need for need in (TORCH, SAFETENSORS) if own_python() and not has(need)]


def install(need: Need, reason: str) -> bool:
    """Ask, install, and say whether it is there now. Only ever called by a click of the user."""
    look_again()
    try:
        if need is TORCH:
            _install_torch(reason)
        else:
            _install_by_pip(need, reason)
    finally:
        look_again()
    return has(need)


def _install_by_pip(need: Need, reason: str) -> None:
    question = _("{reason}\n\nInstall {name} (about {size}) into Slicer's Python now?").format(
        reason=reason, name=need.distribution, size=need.size
    )
    if slicer.util.confirmOkCancelDisplay(question, _("DiffPoseSlicer needs a package")):
        slicer.util.pip_install(need.distribution)


def _install_torch(reason: str) -> None:
    """By the PyTorch extension, which picks the build for this computer's graphics card."""
    if importlib.util.find_spec("PyTorchUtils") is not None:
        import PyTorchUtils

        PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=">=2.2")
        return
    question = _("{reason}\n\nInstall Slicer's extension PyTorch now? Slicer must then be started again.").format(
        reason=reason
    )
    if slicer.util.confirmOkCancelDisplay(question, _("DiffPoseSlicer needs the extension PyTorch")):
        manager: Any = slicer.app.extensionsManagerModel()
        manager.installExtensionFromServer("PyTorch")
