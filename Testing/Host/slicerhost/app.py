"""Starting the host: ``host = start([path of a scripted module, ...])``.

    host = start(["DiffPoseSlicer/DiffPoseSlicer.py"])
    widget = host.open("DiffPoseSlicer")           # slicer.util.selectModule, then the module's Python widget
    host.user.click(widget.ui.registerButton)
    host.window.grab().save("panel.png")
    assert not host.errors                         # exceptions raised in slots and observers

Nothing appears on a screen, whether there is one or not; ``QT_QPA_PLATFORM=xcb`` (or windows, cocoa) lets you watch.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

OWN_PYTHON = Path(__file__).parent / "python"
_host: Host | None = None


@dataclass
class Host:
    """The running host."""

    app: Any
    window: Any
    core: Any
    pip: Any
    python: Path  # where Slicer's Python files come from: the host's own, or a checkout
    user: Any
    errors: list[str] = field(default_factory=list)  # tracebacks of exceptions that PythonQt would only print
    qt_warnings: list[str] = field(default_factory=list)  # what Qt complained about

    @property
    def is_slicer_python(self) -> bool:
        """Whether Slicer's own Python files are in use."""
        return self.python != OWN_PYTHON

    def load(self, path: str | Path) -> Any:
        """Load a scripted module file; returns its module object."""
        from .modules import qSlicerScriptedLoadableModule

        module = qSlicerScriptedLoadableModule(path)
        if self.window is not None:
            self.window.moduleSelector().addItem(module.objectName())
        return module

    def open(self, name: str) -> Any:
        """Show a module's panel and return its Python widget."""
        import slicer

        slicer.util.selectModule(name)
        self.app.processEvents()
        return slicer.util.getModuleWidget(name)

    def unload(self, name: str) -> None:
        """Unload a module as Slicer does when it quits: its panel is left and cleaned up, and forgotten."""
        import slicer

        module = self.app.moduleManager().modules.pop(name)
        if self.window is not None and slicer.util.selectedModule() == name:
            slicer.util.selectModule("Volumes")
        module.unload()
        if self.window is not None:
            selector = self.window.moduleSelector()
            selector.removeItem(selector.findText(name))
        panel = module._panel
        if panel is not None:
            panel.setParent(None)
            panel.deleteLater()
        for attribute in (name.lower(), f"{name}Instance", f"{name}Widget"):
            if hasattr(slicer.modules, attribute):
                delattr(slicer.modules, attribute)
        gc.collect()
        self.app.processEvents()

    def quit(self) -> None:
        """What closing Slicer does to modules: ``aboutToQuit``, then every panel's ``cleanup``."""
        from PySide6 import QtCore

        QtCore.QTimer.singleShot(0, self.app.quit)
        self.app.exec()
        for name, module in list(self.app.moduleManager().modules.items()):
            if hasattr(module, "unload"):
                self.unload(name)


def start(
    module_files: Iterable[str | Path] = (),
    slicer_python: str | Path | None = None,
    main_window: bool = True,
    testing: bool = True,
    packaging: str = "present",
) -> Host:
    """Start the host, once per process, and load modules; a later call only loads its modules.

    ``slicer_python``: a Slicer checkout's ``Base/Python``; default the environment variable SLICER_PYTHON, else the
    host's own files. ``testing``: as Slicer's ``--testing``, message boxes are logged and answered by themselves.
    ``packaging``: "present" (Slicer 5.12) or "absent" (5.10). Raises FileNotFoundError for a path that is no checkout.
    """
    global _host
    if _host is None:
        _host = _start(_python_folder(slicer_python), main_window, testing)
    _host.app.setTestingEnabled(testing)
    _host.pip(packaging)
    for path in module_files:
        if _host.app.moduleManager().module(Path(path).stem) is None:
            _host.load(path)
    return _host


def _python_folder(given: str | Path | None) -> Path:
    named = given or os.environ.get("SLICER_PYTHON")
    folder = Path(named).resolve() if named else OWN_PYTHON
    if not (folder / "slicer" / "ScriptedLoadableModule.py").is_file():
        raise FileNotFoundError(f"SLICER_PYTHON: no slicer/ScriptedLoadableModule.py in {folder}")
    return folder


def _start(python: Path, main_window: bool, testing: bool) -> Host:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from . import core, qtmodules

    qtmodules.build_qt()
    qtmodules.build_ctk()
    started = core.start_core()
    import slicer

    slicer.__path__.append(str(python / "slicer"))  # only now: the wheel imports whatever it finds there at its import
    if python != OWN_PYTHON:
        sys.path.append(str(python))
    from . import application, nodewidgets, user
    from .pip import PipRecorder

    app = application.install_application(started, testing, main_window)
    nodewidgets.install()
    from . import modules  # noqa: F401  (names slicer.qSlicerScriptedLoadableModule)

    for name in ("i18n", "cli", "testing"):
        setattr(slicer, name, importlib.import_module(f"slicer.{name}"))
    host = Host(app, None, started, PipRecorder(), python, user)
    _collect_errors(host)
    if main_window:
        _open_window(host)
    app.startupCompleted.emit()
    return host


def _open_window(host: Host) -> None:
    from .layouts import LayoutManager
    from .mainwindow import MainWindow

    host.window = MainWindow()
    host.window.show()
    host.app.setLayoutManager(LayoutManager(host.window.viewport()))
    for name in host.app.moduleManager().modules:
        host.window.moduleSelector().addItem(name)
    host.app.processEvents()


def _collect_errors(host: Host) -> None:
    """PySide6 and VTK hand exceptions of slots and observers to ``sys.excepthook``: keep them for the tests."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        host.errors.append("".join(traceback.format_exception(kind, error, trace)))
        logging.getLogger("slicerhost").error("%s", host.errors[-1])
        previous(kind, error, trace)

    sys.excepthook = hook

    from PySide6 import QtCore

    def message(_kind: Any, _context: Any, text: str) -> None:
        if "propagateSizeHints" not in text:  # the offscreen platform says so at every window
            host.qt_warnings.append(text)
            sys.stderr.write(f"Qt: {text}\n")

    QtCore.qInstallMessageHandler(message)
