"""Package installation, recorded instead of done: Slicer 5.12's ``slicer.packaging``, or its absence in 5.10."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import slicer


@dataclass
class PipRecorder:
    """What a module asked pip to do. ``on_install`` may pretend success (default), raise, or provide a package."""

    installed: list[str] = field(default_factory=list)
    uninstalled: list[str] = field(default_factory=list)
    on_install: Callable[[str], None] = lambda requirement: None

    def install(self, requirements: Any, *_options: Any, **options: Any) -> list[str] | None:
        texts = requirements if isinstance(requirements, str) else " ".join(map(str, requirements))
        self.installed.append(texts)
        self.on_install(texts)
        if options.get("completedCallback") is not None:
            options["completedCallback"](0)
        return None

    def uninstall(self, requirements: Any, *_options: Any, **_named: Any) -> None:
        self.uninstalled.append(requirements if isinstance(requirements, str) else " ".join(map(str, requirements)))

    def __call__(self, mode: str) -> None:
        """Switch between ``"present"`` and ``"absent"``."""
        if mode == "present":
            sys.modules.pop("slicer.packaging", None)
            import slicer.packaging as packaging

            packaging.pip_install, packaging.pip_uninstall = self.install, self.uninstall
            slicer.packaging = packaging
        elif mode == "absent":
            sys.modules["slicer.packaging"] = None  # type: ignore[assignment]  # an import now raises ImportError
            if hasattr(slicer, "packaging"):
                del slicer.packaging
        else:
            raise ValueError(f"packaging is 'present' or 'absent', not {mode!r}")
        slicer.util.pip_install, slicer.util.pip_uninstall = self.install, self.uninstall
