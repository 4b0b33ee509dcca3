"""The PythonQt lint: a seeded example of each rule must be found, clean code must pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HOST = Path(__file__).resolve().parents[1] / "Host"
sys.path.insert(0, str(HOST))

pytest.importorskip("PySide6")
import pythonqt_lint  # noqa: E402

SEEDED = [
    ("PQ1", "from PySide6 import QtWidgets"),
    ("PQ1", "import PyQt5.QtCore"),
    ("PQ1", "label = qt.QtWidgets.QLabel('a')"),
    ("PQ1", "from qt import QtCore"),
    ("PQ2", "timer = qt.QTimer(parent=None)"),
    ("PQ2", "label = qt.QLabel()\nlabel.setText(text='a')"),
    ("PQ2", "qt.QTimer.singleShot(msec=0, slot=f)"),
    ("PQ2", "box = ctk.ctkSliderWidget()\nbox.setRange(0, max=1)"),
    ("PQ3", "label = qt.QLabel()\nprint(label.text())"),
    (
        "PQ3",
        "class W:\n  def setup(self):\n    self.box = qt.QCheckBox()\n  def f(self):\n    return self.box.checked()",
    ),
    ("PQ3", "def f(self):\n  return self.ui.slider.value()"),
    ("PQ3", "def f(self):\n  return self.ui.selector.currentNodeID()"),
    ("PQ3", "def f(process: qt.QProcess):\n  return qt.QLineEdit('a').text()"),
    ("PQ3", "label = qt.QLabel()\nprint(label.objectName())"),
    ("PQ4", "label = qt.QLabel()\nlabel.count = 3"),
    ("PQ4", "class W:\n  def setup(self):\n    self.b = qt.QPushButton()\n    self.b.action = None"),
    ("PQ4", "def f(self):\n  self.ui.selector.volume, x = 1, 2"),
    ("PQ4", "def f(button: qt.QPushButton):\n  button.clicks += 1"),
    ("PQ5", "a = qt.Qt.Orientation.Horizontal"),
    ("PQ5", "if answer == qt.QMessageBox.StandardButton.Ok: pass"),
    ("PQ6", "class W(qt.QWidget):\n  done = qt.Signal(int)"),
    ("PQ6", "class W(qt.QWidget):\n  @qt.Slot()\n  def f(self): pass"),
    ("PQ7", "codec = qt.QTextCodec.codecForUtf8()"),
    ("PQ7", "expression = qt.QRegExp('a')"),
    ("PQ7", "layout = qt.QHBoxLayout()\nlayout.setMargin(0)"),
    ("PQ7", "box = qt.QComboBox()\nbox.connect('currentIndexChanged(QString)', f)"),
    ("PQ7", "group = qt.QButtonGroup()\ngroup.connect('buttonClicked(int)', f)"),
    ("PQ7", "process = qt.QProcess()\nprocess.connect('finished(int)', f)"),
    ("PQ7", "if button == qt.Qt.MidButton: pass"),
    ("PQ7", "w = self.fontMetrics().width('a')"),
    ("PQ8", "button = qt.QPushButton()\nbutton.connect('click(bool)', f)"),
    ("PQ9", "for i in range(3):\n  self.ui.button.connect('clicked(bool)', lambda i=i: f(i))"),
    ("PQ9", "button = qt.QPushButton()\nbutton.clicked.connect(lambda i=1: f(i))"),
    (
        "PQ9",
        "class W:\n  def setup(self):\n    self.ui.button.connect('clicked(bool)', self.f)\n  def f(self, n=1): pass",
    ),
    ("PQ10", "ok = isinstance(w, (str, qt.QWidget))"),
    ("PQ11", "def f(self):\n  timer = qt.QTimer()\n  timer.connect('timeout()', self.g)\n  timer.start(5)"),
    ("PQ11", "def f():\n  process = qt.QProcess()\n  process.start('python', [])"),
]

CLEAN = """
import qt, ctk, slicer, vtk
from functools import partial

class Panel(qt.QWidget):
    def __init__(self, parent=None):
        qt.QWidget.__init__(self, parent)
        self.anything = 3
        self.label = qt.QLabel("a", self)
        self.label.text = "b"
        self.label.name = "label"
        self.label.setText("c")
        self.timer = qt.QTimer()
        self.timer.singleShot = True
        self.timer.connect("timeout()", self.tick)
        qt.QTimer.singleShot(0, self.tick)
        self.button = qt.QPushButton("x")
        self.button.connect("clicked(bool)", lambda _checked, i=3: self.tick(i))
        self.button.clicked.connect(partial(self.tick, 2))
        self.process = qt.QProcess()
        self.process.connect("finished(int,QProcess::ExitStatus)", self.ended)
        if self.process.state() == qt.QProcess.NotRunning:
            self.process.start("python", ["-c", "1"])

    def ended(self, code, status):
        pass

    def kept(self):
        parented, kept, given = qt.QTimer(self), qt.QTimer(), qt.QTimer()
        self.timers = [kept]
        given.connect("timeout()", lambda: given.stop())
        for timer in (parented, kept):
            timer.start(3)
        process = qt.QProcess()
        process.start("python", ["-c", "1"])
        return process

    def tick(self, i=0):
        if self.button.checked and self.button.isEnabled() and self.label.text == "x":
            self.ui.slider.value = 3
            self.ui.selector.setCurrentNode(None)
            self.ui.selector.noneEnabled = True
        box = qt.QMessageBox()
        box.setIcon(qt.QMessageBox.Warning)
        return box.exec_() == qt.QMessageBox.Ok

    def python_only(self, thing):
        thing.text()
        thing.attribute = 1
        slicer.util.infoDisplay("a", windowTitle="b")
        return isinstance(thing, qt.QPushButton)
"""

WIDGETS = {"slider": "ctkSliderWidget", "selector": "qMRMLNodeComboBox", "button": "QPushButton"}


@pytest.mark.parametrize(("code", "source"), SEEDED, ids=lambda value: value[:40].replace("\n", " "))
def test_each_rule_finds_its_seeded_example(code: str, source: str) -> None:
    found = [finding.code for finding in pythonqt_lint.lint(source, widgets=WIDGETS)]
    assert found == [code]


def test_clean_code_passes() -> None:
    assert pythonqt_lint.lint(CLEAN, widgets=WIDGETS) == []


def test_every_rule_has_a_seeded_example() -> None:
    documented = {word for word in (pythonqt_lint.__doc__ or "").split() if word.startswith("PQ")}
    assert documented == {code for code, _ in SEEDED}


def test_a_line_can_be_excused() -> None:
    assert pythonqt_lint.lint("from PySide6 import QtCore  # pythonqt: ok") == []


def test_the_class_behind_self_ui_comes_from_the_ui_file(tmp_path: Path) -> None:
    folder = tmp_path / "Resources" / "UI"
    folder.mkdir(parents=True)
    (folder / "M.ui").write_text(
        '<ui><widget class="QWidget" name="M"><widget class="QLabel" name="state"/></widget></ui>'
    )
    module = tmp_path / "Module" / "Lib" / "panel.py"
    module.parent.mkdir(parents=True)
    module.write_text("def f(self):\n    self.ui.state.progress = 1\n    return self.ui.state.toolTip()\n")
    assert [finding.code for finding in pythonqt_lint.lint_file(module)] == ["PQ4", "PQ3"]


def test_command_line_reports_and_fails(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.py", tmp_path / "good.py"
    bad.write_text("import PySide6\n")
    good.write_text("import qt\n")
    command = [sys.executable, str(HOST / "pythonqt_lint.py")]
    result = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "bad.py:1:1: PQ1" in result.stdout and "good.py" not in result.stdout
    assert subprocess.run([*command, str(good)], check=False).returncode == 0


def test_the_extension_passes() -> None:
    folder = HOST.parents[1] / "DiffPoseSlicer"
    files = sorted(folder.rglob("*.py"))
    assert files
    assert [str(finding) for file in files for finding in pythonqt_lint.lint_file(file)] == []
