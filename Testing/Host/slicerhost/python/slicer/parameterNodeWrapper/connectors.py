"""Binding a typed parameter to a widget: which widgets show which types, and how."""

from __future__ import annotations

import enum
import pathlib
import types
import typing
from collections.abc import Callable
from typing import Any

import ctk
import qt
import slicer

from . import annotations
from .packs import FloatRange

_connectors: list[Any] = []


class GuiConnector:
    """Base of a binding. ``signals`` name the widget's signals that tell of a change by the user."""

    signals: tuple[str, ...] = ()

    @staticmethod
    def canRepresent(widget: Any, datatype: Any) -> bool:
        raise NotImplementedError

    def __init__(self, widget: Any, datatype: Any) -> None:
        self._widget, self._type = widget, datatype
        self._callback: Callable[[], None] | None = None

    @classmethod
    def create(cls, widget: Any, datatype: Any) -> Any:
        return cls(widget, datatype) if cls.canRepresent(widget, datatype) else None

    def widget(self) -> Any:
        return self._widget

    def onChanged(self, callback: Callable[[], None] | None) -> None:
        for name in self.signals:
            signal = getattr(self._widget, name)
            if self._callback is None and callback is not None:
                signal.connect(self.changed)
            elif self._callback is not None and callback is None:
                signal.disconnect(self.changed)
        self._callback = callback

    def changed(self, *_values: Any) -> None:
        if self._callback is not None:
            self._callback()

    def read(self) -> Any:
        raise NotImplementedError

    def write(self, value: Any) -> None:
        raise NotImplementedError


def parameterNodeGuiConnector(cls: Any) -> Any:
    """Class decorator: make a connector known."""
    _connectors.append(cls)
    return cls


def createGuiConnector(widget: Any, datatype: Any) -> GuiConnector:
    """The connector for a widget and a type. Raises RuntimeError if there is none."""
    for cls in _connectors:
        if cls.canRepresent(widget, datatype):
            return cls.create(widget, datatype)
    raise RuntimeError(f"Unable to create GUI connector from datatype '{datatype}' to widget type '{type(widget)}'")


def _bare(datatype: Any) -> Any:
    return annotations.split(datatype)[0]


def _is_a(datatype: Any, base: type) -> bool:
    kind = _bare(datatype)
    return isinstance(kind, type) and issubclass(kind, base)


class _PropertyConnector(GuiConnector):
    """A value that is one property of the widget."""

    property_name = ""

    def read(self) -> Any:
        return getattr(self._widget, self.property_name)

    def write(self, value: Any) -> None:
        setattr(self._widget, self.property_name, value)


@parameterNodeGuiConnector
class BoolConnector(_PropertyConnector):
    """Check boxes and checkable buttons."""

    signals, property_name = ("toggled",), "checked"

    @staticmethod
    def canRepresent(widget: Any, datatype: Any) -> bool:
        return _bare(datatype) is bool and type(widget) in (qt.QCheckBox, ctk.ctkCheckBox, qt.QPushButton)

    def __init__(self, widget: Any, datatype: Any) -> None:
        super().__init__(widget, datatype)
        if type(widget) is qt.QPushButton:
            widget.checkable = True


@parameterNodeGuiConnector
class NumberConnector(_PropertyConnector):
    """Sliders and spin boxes. Sliders need a bounded type."""

    signals, property_name = ("valueChanged",), "value"

    @staticmethod
    def canRepresent(widget: Any, datatype: Any) -> bool:
        whole = (qt.QSlider, qt.QSpinBox)
        floating = (
            qt.QDoubleSpinBox,
            ctk.ctkSliderWidget,
            ctk.ctkDoubleSlider,
            ctk.ctkDoubleSpinBox,
            slicer.qMRMLSliderWidget,
            slicer.qMRMLSpinBox,
        )
        kind = _bare(datatype)
        return (kind is int and type(widget) in whole) or (kind in (int, float) and type(widget) in floating)

    def __init__(self, widget: Any, datatype: Any) -> None:
        super().__init__(widget, datatype)
        kind, extra = annotations.split(datatype)
        self._kind, whole = kind, type(widget) in (qt.QSlider, qt.QSpinBox)
        decimals, step = (
            annotations.first(extra, annotations.Decimals),
            annotations.first(extra, annotations.SingleStep),
        )
        if not whole and type(widget) is not ctk.ctkDoubleSlider and (decimals is not None or kind is int):
            widget.decimals = 0 if kind is int else decimals.value
        if step is not None:
            widget.singleStep = step.value
        within = annotations.first(extra, annotations.WithinRange)
        low = within or annotations.first(extra, annotations.Minimum)
        high = within or annotations.first(extra, annotations.Maximum)
        if type(widget) in (qt.QSlider, ctk.ctkSliderWidget, slicer.qMRMLSliderWidget) and not (low and high):
            raise RuntimeError(f"{type(widget).__name__} needs a bounded type, by WithinRange or Minimum and Maximum")
        widget.minimum = low.minimum if low else (-(2**31) if whole else float("-inf"))
        widget.maximum = high.maximum if high else (2**31 - 1 if whole else float("inf"))

    def read(self) -> Any:
        return self._kind(self._widget.value)


@parameterNodeGuiConnector
class ComboBoxConnector(GuiConnector):
    """A combo box for an enumeration or for a Choice."""

    signals = ("currentIndexChanged",)

    @staticmethod
    def canRepresent(widget: Any, datatype: Any) -> bool:
        listed = _is_a(datatype, enum.Enum) or _bare(datatype) in (int, float, str, bool)
        return type(widget) in (qt.QComboBox, ctk.ctkComboBox) and listed

    def __init__(self, widget: Any, datatype: Any) -> None:
        super().__init__(widget, datatype)
        kind, extra = annotations.split(datatype)
        if _is_a(datatype, enum.Enum):
            label = getattr(kind, "label", lambda member: member.name)
            self._items = [(label(member), member) for member in kind]
        else:
            choice = annotations.first(extra, annotations.Choice)
            if choice is None:
                raise RuntimeError("a combo box needs an enumeration or a Choice annotation")
            self._items = [(str(value), value) for value in choice.choices]
        selected = widget.currentIndex
        widget.clear()
        for text, _ in self._items:
            widget.addItem(text)
        widget.currentIndex = max(selected, 0)

    def read(self) -> Any:
        return self._items[self._widget.currentIndex][1]

    def write(self, value: Any) -> None:
        self._widget.currentIndex = [item for _, item in self._items].index(value)


@parameterNodeGuiConnector
class TextConnector(_PropertyConnector):
    """Line edits, and labels that show only."""

    property_name = "text"

    @staticmethod
    def canRepresent(widget: Any, datatype: Any) -> bool:
        return _bare(datatype) is str and type(widget) in (qt.QLineEdit, qt.QLabel)

    def __init__(self, widget: Any, datatype: Any) -> None:
        super().__init__(widget, datatype)
        self.signals = ("textChanged",) if type(widget) is qt.QLineEdit else ()

    def write(self, value: str) -> None:
        if value != self._widget.text:  # setting it again would move the cursor
            self._widget.text = value


@parameterNodeGuiConnector
class PlainTextConnector(GuiConnector):
    """Text edits."""

    signals = ("textChanged",)

    @staticmethod
    def canRepresent(widget: Any, datatype: Any) -> bool:
        return _bare(datatype) is str and type(widget) is qt.QTextEdit

    def read(self) -> str:
        return self._widget.toPlainText()

    def write(self, value: str) -> None:
        if self.read() != value:
            self._widget.setPlainText(value)


@parameterNodeGuiConnector
class PathConnector(_PropertyConnector):
    """Path edits and directory buttons."""

    @staticmethod
    def canRepresent(widget: Any, datatype: Any) -> bool:
        return _is_a(datatype, pathlib.PurePath) and type(widget) in (ctk.ctkPathLineEdit, ctk.ctkDirectoryButton)

    def __init__(self, widget: Any, datatype: Any) -> None:
        super().__init__(widget, datatype)
        self.property_name = "currentPath" if type(widget) is ctk.ctkPathLineEdit else "directory"
        self.signals = (f"{self.property_name}Changed",)

    def read(self) -> Any:
        return _bare(self._type)(super().read())

    def write(self, value: Any) -> None:
        super().write(str(value))


@parameterNodeGuiConnector
class RangeConnector(GuiConnector):
    """Range widgets for a FloatRange with RangeBounds."""

    signals = ("valuesChanged",)

    @staticmethod
    def canRepresent(widget: Any, datatype: Any) -> bool:
        ranges = (ctk.ctkRangeWidget, ctk.ctkDoubleRangeSlider, slicer.qMRMLRangeWidget)
        return _bare(datatype) is FloatRange and type(widget) in ranges

    def __init__(self, widget: Any, datatype: Any) -> None:
        super().__init__(widget, datatype)
        bounds = annotations.first(annotations.split(datatype)[1], annotations.RangeBounds)
        if bounds is None:
            raise RuntimeError("a range widget needs a RangeBounds annotation")
        widget.setRange(bounds.minimum, bounds.maximum)

    def read(self) -> FloatRange:
        return FloatRange(self._widget.minimumValue, self._widget.maximumValue)

    def write(self, value: FloatRange) -> None:
        self._widget.setValues(value.minimum, value.maximum)


@parameterNodeGuiConnector
class NodeConnector(GuiConnector):
    """Node selectors; their node types follow the parameter's."""

    signals = ("currentNodeChanged",)

    @staticmethod
    def canRepresent(widget: Any, datatype: Any) -> bool:
        return type(widget) is slicer.qMRMLNodeComboBox and bool(_node_types(datatype))

    def __init__(self, widget: Any, datatype: Any) -> None:
        super().__init__(widget, datatype)
        widget.nodeTypes = _node_types(datatype)

    def read(self) -> Any:
        return self._widget.currentNode()

    def write(self, value: Any) -> None:
        self._widget.setCurrentNode(value)


def _node_types(datatype: Any) -> list[str]:
    kind = _bare(datatype)
    members = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    classes = [_bare(member) for member in members if _bare(member) is not type(None)]
    nodes = [cls.__name__ for cls in classes if isinstance(cls, type) and issubclass(cls, slicer.vtkMRMLNode)]
    return nodes if len(nodes) == len(classes) else []
