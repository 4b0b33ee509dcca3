"""Stand-ins for the CTK widgets that scripted modules use (module ``ctk``): same names, properties and signals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Qt, Signal

from .ctknumbers import (  # noqa: F401  (the module ctk has them all)
    ctkCoordinatesWidget,
    ctkDoubleRangeSlider,
    ctkDoubleSlider,
    ctkDoubleSpinBox,
    ctkRangeWidget,
    ctkSliderWidget,
)


class _Folding:
    """Mixin: hides and shows the children of a widget, and leaves those hidden that were hidden before."""

    def _fold(self, folded: bool, height: int) -> None:
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget) and not child.isWindow():
                explicit = Qt.WidgetAttribute.WA_WState_ExplicitShowHide
                if folded:
                    child.setProperty("_hidden", child.isHidden())
                    child.setVisible(False)
                    child.setAttribute(explicit, False)  # so that hiding it while folded leaves a trace
                elif not child.testAttribute(explicit):
                    child.setVisible(not child.property("_hidden"))
        self.setMaximumHeight(height if folded else 16777215)
        self.updateGeometry()

    def childEvent(self, event: QtCore.QChildEvent) -> None:
        """A child that comes while folded (a .ui file sets properties first) is hidden too."""
        child, explicit = event.child(), Qt.WidgetAttribute.WA_WState_ExplicitShowHide
        polished = event.type() == QtCore.QEvent.Type.ChildPolished
        inner = isinstance(child, QtWidgets.QWidget) and not child.isWindow()
        if polished and self.collapsed and inner and not (child.isHidden() and child.testAttribute(explicit)):
            child.setVisible(False)  # its owner has not hidden it
            # its layout is about to show what nobody has hidden: drop the mark only after that
            QtCore.QTimer.singleShot(0, child, lambda: child.setAttribute(explicit, False))
        super().childEvent(event)


class ctkCollapsibleButton(_Folding, QtWidgets.QAbstractButton):
    """A header that hides or shows what is laid out below it."""

    contentsCollapsed = Signal(bool)

    def __init__(self, *arguments: Any) -> None:
        text = next((a for a in arguments if isinstance(a, str)), "")
        super().__init__(next((a for a in arguments if isinstance(a, QtWidgets.QWidget)), None))
        self._collapsed = False
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Minimum, QtWidgets.QSizePolicy.Policy.Preferred)
        self.setContentsMargins(0, self._header(), 0, 0)
        self.toggled.connect(lambda opened: self.setCollapsed(not opened))

    def _header(self) -> int:
        return self.fontMetrics().height() + 8

    def _is_collapsed(self) -> bool:
        return self._collapsed

    def setCollapsed(self, collapsed: bool) -> None:
        if bool(collapsed) == self._collapsed:
            return
        self._collapsed = bool(collapsed)
        self.setChecked(not collapsed)
        self._fold(self._collapsed, self._header() + 2)
        self.contentsCollapsed.emit(self._collapsed)

    collapsed = Property(bool, _is_collapsed, setCollapsed, notify=contentsCollapsed)

    def hitButton(self, position: QtCore.QPoint) -> bool:
        return position.y() < self._header()

    def minimumSizeHint(self) -> QtCore.QSize:
        return self._hint(80, lambda layout: layout.totalMinimumSize())

    def sizeHint(self) -> QtCore.QSize:
        return self._hint(120, lambda layout: layout.totalSizeHint()).expandedTo(self.minimumSizeHint())

    def _hint(self, width: int, of: Callable[[QtWidgets.QLayout], QtCore.QSize]) -> QtCore.QSize:
        header = QtCore.QSize(width, self._header())
        layout = self.layout()
        if layout is None or self._collapsed:
            return header
        return of(layout).expandedTo(header)  # the total hints include this widget's margins, so the header

    def paintEvent(self, _event: QtGui.QPaintEvent) -> None:
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width(), self._header())
        option.state |= QtWidgets.QStyle.StateFlag.State_Raised
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(6, self._header() // 2 - 5, 10, 10)
        element = QtWidgets.QStyle.PrimitiveElement
        painter.drawPrimitive(
            element.PE_IndicatorArrowRight if self._collapsed else element.PE_IndicatorArrowDown, arrow
        )
        painter.setPen(self.palette().buttonText().color())
        painter.drawText(
            option.rect.adjusted(22, 0, 0, 0), Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, self.text()
        )


class ctkCollapsibleGroupBox(_Folding, QtWidgets.QGroupBox):
    """A group box whose check mark hides or shows its contents."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.setCheckable(True)
        self.toggled.connect(lambda shown: self._fold(not shown, self.fontMetrics().height() + 4))

    def minimumSizeHint(self) -> QtCore.QSize:
        folded = QtCore.QSize(120, self.fontMetrics().height() + 4)
        return folded if not self.isChecked() else super().minimumSizeHint()

    def _set_collapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    collapsed = Property(bool, lambda self: not self.isChecked(), _set_collapsed)
    setCollapsed = _set_collapsed


class ctkPathLineEdit(QtWidgets.QWidget):
    """An editable path with a browse button."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    Dirs, Files, Drives, NoSymLinks, Readable, Writable, Executable = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40

    def __init__(self, *arguments: Any) -> None:
        super().__init__(next((a for a in arguments if isinstance(a, QtWidgets.QWidget)), None))
        self._filters, self._name_filters, self._setting_key = self.Files | self.Dirs, [], ""
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._edit = QtWidgets.QComboBox()
        self._edit.setEditable(True)
        self._edit.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._button = QtWidgets.QToolButton()
        self._button.setText("...")
        layout.addWidget(self._edit, 1)
        layout.addWidget(self._button)
        self._edit.editTextChanged.connect(self.currentPathChanged)
        self._button.clicked.connect(self.browse)
        self.setFocusProxy(self._edit)

    def browse(self) -> None:
        dialog = QtWidgets.QFileDialog
        if self._filters & self.Dirs and not self._filters & self.Files:
            path = dialog.getExistingDirectory(self, "Select folder", self._edit.currentText())
        else:
            path = dialog.getOpenFileName(self, "Open", self._edit.currentText(), ";;".join(self._name_filters))[0]
        if path:
            self.setCurrentPath(path)

    def setCurrentPath(self, path: str) -> None:
        self._edit.setEditText(str(path))

    def addCurrentPathToHistory(self) -> None:
        if self._edit.findText(self._edit.currentText()) < 0:
            self._edit.addItem(self._edit.currentText())

    def _set(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    currentPath = Property(str, lambda self: self._edit.currentText(), setCurrentPath, notify=currentPathChanged)
    filters = Property(int, lambda self: self._filters, lambda self, value: self._set("_filters", int(value)))
    nameFilters = Property(
        "QStringList", lambda self: self._name_filters, lambda self, value: self._set("_name_filters", list(value))
    )
    settingKey = Property(str, lambda self: self._setting_key, lambda self, value: self._set("_setting_key", value))
    showHistoryButton = Property(bool, lambda self: False, lambda self, value: None)
    showBrowseButton = Property(
        bool, lambda self: not self._button.isHidden(), lambda self, value: self._button.setVisible(value)
    )


class ctkDirectoryButton(QtWidgets.QPushButton):
    """A button that shows and chooses a folder."""

    directoryChanged = Signal(str)
    directorySelected = Signal(str)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(next((a for a in arguments if isinstance(a, QtWidgets.QWidget)), None))
        self._directory = "."
        self.setText(QtCore.QDir.currentPath())
        self.clicked.connect(self._choose)

    def _choose(self) -> None:
        chosen = QtWidgets.QFileDialog.getExistingDirectory(self, "Select folder", self._directory)
        if chosen:
            self.setDirectory(chosen)
            self.directorySelected.emit(chosen)

    def setDirectory(self, directory: str) -> None:
        directory = QtCore.QDir(str(directory)).absolutePath()
        if directory != QtCore.QDir(self._directory).absolutePath():
            self._directory = directory
            self.setText(directory)
            self.directoryChanged.emit(directory)

    directory = Property(str, lambda self: self._directory, setDirectory, notify=directoryChanged)


class ctkColorPickerButton(QtWidgets.QPushButton):
    """A button that shows and chooses a colour."""

    colorChanged = Signal(QtGui.QColor)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(next((a for a in arguments if isinstance(a, QtWidgets.QWidget)), None))
        self._color = QtGui.QColor(Qt.GlobalColor.black)

    def setColor(self, color: QtGui.QColor) -> None:
        if color != self._color:
            self._color = QtGui.QColor(*color.getRgb())  # a plain one, also of a Python subclass
            self.setText(self._color.name())
            self.colorChanged.emit(self._color)

    color = Property(QtGui.QColor, lambda self: self._color, setColor, notify=colorChanged)
    displayColorName = Property(bool, lambda self: True, lambda self, value: None)


class ctkCheckablePushButton(QtWidgets.QPushButton):
    """A push button that may carry a check box."""

    checkBoxToggled = Signal(bool)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._controls = False

    def _set_controls(self, value: bool) -> None:
        self._controls = value

    checkBoxControlsButtonToggleState = Property(bool, lambda self: self._controls, _set_controls)


class ctkMessageBox(QtWidgets.QMessageBox):
    """A message box that could remember an answer."""

    dontShowAgainSettingsKey = Property(str, lambda self: "", lambda self, value: None)


class ctkCheckBox(QtWidgets.QCheckBox):
    """A check box."""


class ctkComboBox(QtWidgets.QComboBox):
    """A combo box."""


class ctkMenuButton(QtWidgets.QPushButton):
    """A push button with a menu."""


class ctkExpandButton(QtWidgets.QToolButton):
    """A tool button that points right or left."""


class ctkFittedTextBrowser(QtWidgets.QTextBrowser):
    """A text browser."""


class ctkSearchBox(QtWidgets.QLineEdit):
    """A line edit."""


class ctkFlowLayout(QtWidgets.QHBoxLayout):
    """A row."""

    preferredExpandingDirections = Property(int, lambda self: 0, lambda self, value: None)


class ctkWidgetsUtils:
    """Static helpers."""

    @staticmethod
    def grabWidget(widget: QtWidgets.QWidget) -> QtGui.QImage:
        return widget.grab().toImage()
