"""Checks Python code against PythonQt's rules, which Slicer's ``qt`` module has and PySide6 has not.

    python Testing/Host/pythonqt_lint.py FILES      # file:line:column: code message; status 1 if anything is found

PQ1  a Qt binding other than ``qt`` is imported (PySide6, PyQt5, shiboken6, ...), or one of its submodules is named:
     ``qt`` is flat, ``qt.QtWidgets.QLabel`` is ``qt.QLabel``
PQ2  a keyword argument in a call of a Qt constructor or method
PQ3  a property is called: ``w.text()`` is ``w.text`` in PythonQt
PQ4  a new attribute is set on a C++ object
PQ5  a scoped enum: ``qt.Qt.Orientation.Horizontal`` is ``qt.Qt.Horizontal``
PQ6  ``qt.Signal``, ``qt.Slot`` or ``qt.Property``: subclasses of C++ classes get none
PQ7  API that Qt 6 removed
PQ8  ``connect`` to a signal that the class does not have (PythonQt only prints a line)
PQ9  a defaulted parameter of a connected lambda or method, which receives the signal's argument
PQ10 ``isinstance`` with ``qt.QWidget`` or ``qt.QObject``, false for wrapped Slicer classes
PQ11 a timer, process or animation that only a local variable holds: it is collected, and stops, when the function ends

Types are inferred from ``x = qt.QLabel()``, ``self.x = ctk.ctkSliderWidget()`` and annotated parameters, and for
``self.ui.x`` from the .ui files in a ``Resources/UI`` folder beside the file or above it. A line with
``# pythonqt: ok`` is left alone.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

_BINDINGS = {"PySide6", "PySide2", "PyQt5", "PyQt6", "shiboken6", "shiboken2", "sip", "qtpy"}
_REMOVED_CLASSES = {"QTextCodec", "QRegExp", "QRegExpValidator", "QDesktopWidget", "QMatrix", "QGLWidget", "QStringRef"}
_REMOVED_ENUMS = {"MidButton", "Background", "Foreground", "ImhExclusiveInputMask"}
_REMOVED_METHODS = {"setMargin", "setTabStopWidth", "tabStopWidth", "setCategorizedSortingEnabled", "toTime_t"}
_REMOVED_SIGNALS = re.compile(
    r"^(currentIndexChanged|activated|highlighted|valueChanged|textActivated)\(\s*(const\s+)?QString\s*&?\s*\)$"
    r"|^button(Clicked|Pressed|Released|Toggled)\(\s*int"
)
_MRML_PROPERTIES = {
    "qMRMLNodeComboBox": "nodeTypes hideChildNodeTypes showHidden showChildNodeTypes baseName noneEnabled noneDisplay "
    "addEnabled removeEnabled editEnabled renameEnabled selectNodeUponCreation currentNodeID",
    "qMRMLSegmentSelectorWidget": "noneEnabled segmentationNodeSelectorVisible multiSelection",
    "qSlicerMarkupsPlaceWidget": "placeModeEnabled placeModePersistency placeMultipleMarkups buttonsVisible",
    "qSlicerSimpleMarkupsWidget": "",
    "qMRMLWidget": "",
    "qSlicerWidget": "",
}
_ALWAYS = {"name", "objectName"}
_SUBMODULES = {"QtCore", "QtGui", "QtWidgets", "QtNetwork", "QtSvg", "QtTest", "QtUiTools", "QtWebEngineWidgets"}
# What goes on after the function that made it has ended, and so must be kept.
_LASTING = {"QTimer", "QProcess", "QPropertyAnimation", "QFileSystemWatcher", "QTcpServer", "QTcpSocket"}


@dataclass(frozen=True)
class Finding:
    """One place that breaks a rule."""

    path: str
    line: int
    column: int
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column + 1}: {self.code} {self.message}"


def lint(source: str, path: str = "<string>", widgets: dict[str, str] | None = None) -> list[Finding]:
    """Check source text. ``widgets``: object name -> class of the .ui file behind ``self.ui``."""
    visitor = _Visitor(path, widgets or {})
    tree = ast.parse(source, path)
    visitor.visit(tree)
    allowed = {number for number, line in enumerate(source.splitlines(), 1) if "# pythonqt: ok" in line}
    return [finding for finding in visitor.findings if finding.line not in allowed]


def lint_file(path: Path) -> list[Finding]:
    """Check a file, with the .ui files found beside it or above it."""
    return lint(path.read_text(encoding="utf-8"), str(path), ui_widgets(path))


def ui_widgets(path: Path) -> dict[str, str]:
    """Object name -> class, of the nearest ``Resources/UI`` folder's files."""
    for folder in path.resolve().parents:
        files = sorted((folder / "Resources" / "UI").glob("*.ui"))
        if files:
            elements = (element for file in files for element in ElementTree.parse(file).iter("widget"))
            return {element.get("name", ""): element.get("class", "") for element in elements}
    return {}


# ------------------------------------------------------------------------------------------- what the Qt classes have
@functools.cache
def _classes() -> dict[str, Any]:
    """Class name -> meta object, of PySide6 and of the host's ctk stand-ins."""
    from PySide6 import QtCore, QtGui, QtNetwork, QtWidgets

    found = {}
    for module in (QtCore, QtGui, QtWidgets, QtNetwork):
        for name in dir(module):
            meta = getattr(getattr(module, name, None), "staticMetaObject", None)
            if name.startswith("Q") and meta is not None:
                found[name] = meta
    sys.path.insert(0, str(Path(__file__).parent))
    from slicerhost import ctkwidgets

    for name, value in vars(ctkwidgets).items():
        if name.startswith("ctk") and hasattr(value, "staticMetaObject"):
            found[name] = value.staticMetaObject
    return found


@functools.cache
def properties(class_name: str) -> frozenset[str] | None:
    """The Q_PROPERTYs of a class; None for a class not known here."""
    if class_name in _MRML_PROPERTIES:
        return frozenset(_MRML_PROPERTIES[class_name].split()) | (properties("QWidget") or frozenset())
    meta = _classes().get(class_name)
    if meta is None:
        return None
    return frozenset(meta.property(index).name() for index in range(meta.propertyCount()))


@functools.cache
def _signals(class_name: str) -> frozenset[str] | None:
    meta = _classes().get(class_name)
    if meta is None:
        return None
    methods = (meta.method(index) for index in range(meta.methodCount()))
    kind = type(meta.method(0).methodType()).Signal
    return frozenset(method.name().data().decode() for method in methods if method.methodType() == kind)


@functools.cache
def _common_properties() -> frozenset[str]:
    """What is taken for a property on a widget of unknown class."""
    classes = ("QLabel", "QCheckBox", "QComboBox", "QLineEdit", "QDoubleSpinBox", "QSlider", "QProgressBar")
    return frozenset().union(*(properties(name) or () for name in classes))


# --------------------------------------------------------------------------------------------------------- the checks
def _dotted(node: ast.AST) -> str | None:
    """``a.b.c`` as text, None for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def _constructed(node: ast.AST) -> str | None:
    """The class name in ``qt.QLabel(...)``, ``ctk.ctkX(...)``, ``slicer.qMRMLX(...)``."""
    name = _dotted(node.func) if isinstance(node, ast.Call) else None
    match = re.fullmatch(r"qt\.(Q\w+)|ctk\.(ctk\w+)|slicer\.(q(?:MRML|Slicer)\w+)", name or "")
    return next(filter(None, match.groups())) if match else None


class _Visitor(ast.NodeVisitor):
    def __init__(self, path: str, widgets: dict[str, str]) -> None:
        self.path, self.widgets = path, widgets
        self.findings: list[Finding] = []
        self.scopes: list[dict[str, str]] = [{}]
        self.methods: list[dict[str, ast.arguments]] = []

    def report(self, node: Any, code: str, message: str) -> None:
        self.findings.append(Finding(self.path, node.lineno, node.col_offset, code, message))

    # ----------------------------------------------------------------------------------------------------------- types
    def type_of(self, node: ast.AST) -> str | None:
        """The Qt class of an expression; "" for a widget of unknown class, None for anything else."""
        constructed = _constructed(node)
        if constructed:
            return constructed
        name = _dotted(node)
        if name is None:
            return None
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        parts = name.split(".")
        if len(parts) >= 2 and parts[-2] == "ui":
            return self.widgets.get(parts[-1], "")
        return None

    def _collect(self, body: ast.AST, only_self: bool) -> dict[str, str]:
        """Variables assigned from Qt constructors, those of ``self`` for a class, the local ones for a function."""
        found: dict[str, str] = {}
        for name, value in _assignments(body):
            if name.startswith("self.") == only_self:
                kind = _constructed(value)
                if kind and found.get(name, kind) == kind:
                    found[name] = kind
                else:
                    found[name] = "?"
        return {name: kind for name, kind in found.items() if kind != "?"}

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scopes.append(self._collect(node, only_self=True))
        self.methods.append({item.name: item.args for item in node.body if isinstance(item, ast.FunctionDef)})
        self.generic_visit(node)
        self.methods.pop()
        self.scopes.pop()

    def visit_FunctionDef(self, node: Any) -> None:
        scope = self._collect(node, only_self=False)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            annotation = _dotted(argument.annotation) if argument.annotation is not None else None
            match = re.fullmatch(r"(?:qt|ctk)\.(Q\w+|ctk\w+)", annotation or "")
            if match:
                scope[argument.arg] = match.group(1)
        self.scopes.append(scope)
        self._check_kept(node)
        self.generic_visit(node)
        self.scopes.pop()

    def _check_kept(self, function: ast.AST) -> None:
        """Objects that must outlive the function but are held by nothing else: no parent, not handed on anywhere."""
        made: dict[str, ast.Call] = {}
        for name, value in _assignments(function):
            if isinstance(value, ast.Call) and "." not in name and _constructed(value) in _LASTING and not value.args:
                made[name] = value
        used = {node.value for node in ast.walk(function) if isinstance(node, ast.Attribute)}  # x.start(), x.interval
        inner = [f for f in ast.walk(function) if isinstance(f, (ast.Lambda, ast.FunctionDef)) and f is not function]
        inside = {node for f in inner for node in ast.walk(f)}  # a closure holds what it names
        for name in ast.walk(function):
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Load) and (name not in used or name in inside):
                made.pop(name.id, None)
        for name_, call in made.items():
            self.report(call, "PQ11", f"{name_} is collected when the function ends: keep it, for example on self")

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Module(self, node: ast.Module) -> None:
        self.scopes[0].update(self._collect(node, only_self=False))
        self.generic_visit(node)

    # ----------------------------------------------------------------------------------------------------------- rules
    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._binding(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._binding(node, node.module or "")
        for alias in node.names if node.module == "qt" else ():
            self._submodule(node, alias.name)

    def _binding(self, node: ast.stmt, module: str) -> None:
        if module.split(".")[0] in _BINDINGS:
            self.report(node, "PQ1", f"{module} does not exist in Slicer: import qt")
        if module.startswith("qt."):
            self._submodule(node, module.split(".")[1])

    def _submodule(self, node: Any, name: str) -> None:
        if name in _SUBMODULES:
            self.report(node, "PQ1", f"qt has no {name}: everything is in qt itself")

    def visit_Call(self, node: ast.Call) -> None:
        constructed, receiver = _constructed(node), None
        if isinstance(node.func, ast.Attribute):
            receiver = self.type_of(node.func.value)
        function = _dotted(node.func) or ""
        if node.keywords and (constructed or receiver is not None or re.match(r"(qt|ctk)\.", function)):
            names = ", ".join(keyword.arg or "**" for keyword in node.keywords)
            self.report(node, "PQ2", f"PythonQt takes no keyword arguments ({names})")
        if receiver is not None and isinstance(node.func, ast.Attribute):
            self._check_method(node, node.func.attr, receiver)
        elif (
            isinstance(node.func, ast.Attribute) and node.func.attr == "width" and "fontMetrics" in ast.dump(node.func)
        ):
            self.report(node, "PQ7", "QFontMetrics.width was removed in Qt 6: horizontalAdvance")
        if isinstance(node.func, ast.Attribute) and node.func.attr == "connect":
            self._check_connect(node, receiver)
        if function == "isinstance" and len(node.args) == 2:
            for name in ast.walk(node.args[1]):
                if _dotted(name) in ("qt.QWidget", "qt.QObject"):
                    self.report(node, "PQ10", f"isinstance with {_dotted(name)} is false for wrapped Slicer classes")
        self.generic_visit(node)

    def _check_method(self, node: ast.Call, method: str, receiver: str) -> None:
        known = properties(receiver) if receiver else _common_properties()
        if known is not None and method in known:
            self.report(node, "PQ3", f"{method} is a property: drop the parentheses")
        if method in _REMOVED_METHODS:
            self.report(node, "PQ7", f"{method} was removed in Qt 6")

    def _check_connect(self, node: ast.Call, receiver: str | None) -> None:
        text = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        if isinstance(text, str):
            name, _, types = text.partition("(")
            if _REMOVED_SIGNALS.match(text) or (receiver == "QProcess" and text.replace(" ", "") == "finished(int)"):
                self.report(node, "PQ7", f"signal {text} was removed in Qt 6")
            signals = _signals(receiver) if receiver else None
            if signals is not None and name.strip() not in signals:
                self.report(node, "PQ8", f"{receiver} has no signal {text}")
            passes = types.strip() not in ("", ")")
            given = types.count(",") + 1 if passes else 0
        else:
            passes, given = True, 1  # w.clicked.connect(f)
        for argument in node.args:
            method = self._method(argument)
            if method is not None:
                named = len(method.args) - 1 - len(method.defaults)  # self and the defaulted ones left out
                if named < given and method.defaults:
                    name = method.args[named + 1].arg
                    self.report(argument, "PQ9", f"the signal's argument replaces the default of {name}")
            if (
                isinstance(argument, ast.Lambda)
                and passes
                and len(argument.args.defaults) == len(argument.args.args) > 0
            ):
                self.report(
                    argument, "PQ9", "the signal's argument replaces the first default: name a parameter for it"
                )

    def _method(self, argument: ast.AST) -> ast.arguments | None:
        """The parameters of ``self.method`` of the class that is looked at."""
        name = _dotted(argument) or ""
        return self.methods[-1].get(name[5:]) if self.methods and name.startswith("self.") else None

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = _dotted(node)
        parts = name.split(".") if name else []
        if parts[:1] == ["qt"] and len(parts) == 2:
            self._submodule(node, parts[1])
            if parts[1] in ("Signal", "Slot", "Property"):
                self.report(node, "PQ6", f"qt.{parts[1]} does not work in PythonQt: use a Python callback")
            if parts[1] in _REMOVED_CLASSES:
                self.report(node, "PQ7", f"qt.{parts[1]} was removed in Qt 6")
        if (
            parts[:1] == ["qt"]
            and len(parts) == 4
            and parts[1] not in _SUBMODULES
            and all(part[:1].isupper() for part in parts[1:])
        ):
            self.report(node, "PQ5", f"enums are unscoped in PythonQt: qt.{parts[1]}.{parts[3]}")
        if parts[:1] == ["qt"] and len(parts) == 3 and parts[1] in ("Qt", "QPalette") and parts[2] in _REMOVED_ENUMS:
            self.report(node, "PQ7", f"{name} was removed in Qt 6")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._check_target(target)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._check_target(node.target)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._check_target(node.target)
        self.generic_visit(node)

    def _check_target(self, target: ast.AST) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                self._check_target(element)
        elif isinstance(target, ast.Attribute):
            receiver = self.type_of(target.value)
            known = properties(receiver) if receiver else None
            if known is not None and target.attr not in known | _ALWAYS:
                self.report(
                    target, "PQ4", f"{receiver} has no property {target.attr}: C++ objects take no new attributes"
                )


def _assignments(body: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.walk(body):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=False))
                for left, right in pairs:
                    name = _dotted(left)
                    if name:
                        yield name, right
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            name = _dotted(node.target)
            if name:
                yield name, node.value


def main(arguments: list[str]) -> int:
    """Check files and folders; 1 if there are findings, 2 without arguments."""
    if not arguments:
        print(__doc__)
        return 2
    paths = [Path(argument) for argument in arguments]
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    findings = [finding for file in files for finding in lint_file(file)]
    for finding in findings:
        print(finding)
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
