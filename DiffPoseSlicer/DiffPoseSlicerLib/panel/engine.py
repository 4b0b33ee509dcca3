"""Engine and settings: which Python computes, what it has, where models are kept."""

from __future__ import annotations

import os
from typing import Any

from slicer.i18n import tr as _

from . import settings, status
from .steps import Step

_LAST_LINES = 12  # of the engine's log, where it has failed


class EngineSection(Step):
    """The section below the steps."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        ui.interpreterEdit.currentPath = settings.interpreter()
        ui.interpreterEdit.connect("currentPathChanged(QString)", self._interpreter_changed)
        ui.modelsFolderButton.directory = str(settings.models_folder())
        ui.modelsFolderButton.connect("directoryChanged(QString)", self._folder_changed)
        self.logic.models_folder = settings.models_folder()
        ui.keepTrainingCheckBox.checked = settings.keep_training()
        ui.keepTrainingCheckBox.connect("toggled(bool)", settings.set_keep_training)
        ui.testEngineButton.connect("clicked()", self.test)
        ui.restartEngineButton.connect("clicked()", self.restart)
        self._testing = False

    def _interpreter_changed(self, path: str) -> None:
        path = path.strip()
        if path == settings.interpreter():
            return
        if path and not (os.path.isfile(path) and os.access(path, os.X_OK)):
            self.say("warn", _("This is no program that can be run; the one before is kept."))
            return
        settings.set_interpreter(path)
        self.restart()
        self.say("idle", _("The interpreter has changed: press Test."))

    def _folder_changed(self, path: str) -> None:
        settings.set_models_folder(path)
        self.logic.models_folder = settings.models_folder()
        self.panel.prepare.list_models()
        self.panel.refresh()

    def test(self) -> None:
        """Start the engine and ask what it has."""
        self._testing = True
        self.say("busy", _("Asking the engine..."))
        self.logic.client.submit("doctor", on_result=self._healthy, on_error=self._ill)
        self.panel.wake()
        self.refresh()

    def _healthy(self, answer: dict[str, Any]) -> None:
        self._testing = False
        self.ui.engineLabel.text = "\n".join(str(line) for line in answer.get("lines", ()))
        self.refresh()

    def _ill(self, error: Exception) -> None:
        self._testing = False
        self.failed(error)
        self.refresh()

    def failed(self, error: Exception) -> None:
        """Show what is known of a failure of the engine: why it cannot be started, or its last words."""
        reason = getattr(self.logic.transport, "start_error", "")
        if reason:
            self.say("bad", _("The engine cannot be started: {reason}").format(reason=reason))
            return
        kind, text = status.of_error(error)
        words = getattr(error, "details", "").strip().splitlines()
        self.say(kind, "\n".join([text, *words[-_LAST_LINES:]]))

    def restart(self) -> None:
        """End the engine's process; the next request starts it again."""
        self.panel.register.close()
        self.logic.restart_engine()
        self._testing = False
        self.panel.refresh()

    def say(self, kind: str, text: str) -> None:
        """Show something about the engine."""
        status.show(self.ui.engineLabel, kind, text)

    def refresh(self) -> None:
        tip = _("Start the engine and ask what it has.") if not self._testing else _("The engine is being asked.")
        status.enable(self.ui.testEngineButton, not self._testing, tip)
