"""Stand-ins for CTK's widgets for numbers: sliders, spin boxes, ranges, coordinates."""

from __future__ import annotations

from typing import Any

from PySide6 import QtWidgets
from PySide6.QtCore import Property, Qt, Signal

_UNBOUNDED = 1e15  # stands for infinity in a Qt spin box
_SLIDER_STEPS = 10000


class _DoubleValue(QtWidgets.QWidget):
    """A slider and a spin box showing one bounded float; subclasses say which of the two is visible."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    _slider_visible = _spin_box_visible = True

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._low, self._high, self._value = 0.0, 99.0, 0.0
        self._tracking, self._updating = True, False
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._slider = QtWidgets.QSlider(Qt.Orientation.Horizontal)
        self._slider.setRange(0, _SLIDER_STEPS)
        self._box = QtWidgets.QDoubleSpinBox()
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._box)
        self._slider.setVisible(self._slider_visible)
        self._box.setVisible(self._spin_box_visible)
        self._slider.valueChanged.connect(self._slider_moved)
        self._slider.sliderReleased.connect(self._slider_released)
        self._box.valueChanged.connect(lambda value: self._updating or self.setValue(value))
        self.setFocusProxy(self._box)
        self._refresh()

    def _slider_moved(self, position: int) -> None:
        if self._updating:
            return
        value = self._low + (self._high - self._low) * position / _SLIDER_STEPS
        if self._slider.isSliderDown() and not self._tracking:
            self._updating = True
            self._box.setValue(value)
            self._updating = False
            self.valueIsChanging.emit(self._box.value())
        else:
            self.setValue(value)

    def _slider_released(self) -> None:
        if not self._tracking:
            self._slider_moved(self._slider.value())

    def _refresh(self) -> None:
        self._updating = True
        self._box.setRange(max(self._low, -_UNBOUNDED), min(self._high, _UNBOUNDED))
        if self._box.value() != self._value:  # setting it again would rewrite what is being typed
            self._box.setValue(self._value)
        span = self._high - self._low
        if 0 < span < _UNBOUNDED:
            self._slider.setValue(round((self._value - self._low) / span * _SLIDER_STEPS))
        self._updating = False

    def setValue(self, value: float) -> None:
        value = min(max(round(float(value), self._box.decimals()), self._low), self._high)
        changed, self._value = value != self._value, value
        self._refresh()
        if changed:
            self.valueIsChanging.emit(value)
            self.valueChanged.emit(value)

    def setMinimum(self, value: float) -> None:
        self.setRange(value, self._high)

    def setMaximum(self, value: float) -> None:
        self.setRange(self._low, value)

    def setRange(self, low: float, high: float) -> None:
        self._low, self._high = float(low), float(high)
        self.setValue(self._value)

    def setDecimals(self, decimals: int) -> None:
        self._box.setDecimals(decimals)
        self.setValue(self._value)

    def setSingleStep(self, step: float) -> None:
        self._box.setSingleStep(step)

    def setTracking(self, tracking: bool) -> None:
        self._tracking = tracking

    def setSuffix(self, suffix: str) -> None:
        self._box.setSuffix(suffix)

    def setPrefix(self, prefix: str) -> None:
        self._box.setPrefix(prefix)

    def spinBox(self) -> QtWidgets.QDoubleSpinBox:
        return self._box

    def slider(self) -> QtWidgets.QSlider:
        return self._slider

    def _set_spin_box_visible(self, visible: bool) -> None:
        self._box.setVisible(visible)

    value = Property(float, lambda self: self._value, setValue, notify=valueChanged)
    minimum = Property(float, lambda self: self._low, setMinimum)
    maximum = Property(float, lambda self: self._high, setMaximum)
    singleStep = Property(float, lambda self: self._box.singleStep(), setSingleStep)
    pageStep = Property(float, lambda self: 10.0, lambda self, value: None)
    decimals = Property(int, lambda self: self._box.decimals(), setDecimals)
    tracking = Property(bool, lambda self: self._tracking, setTracking)
    suffix = Property(str, lambda self: self._box.suffix(), setSuffix)
    prefix = Property(str, lambda self: self._box.prefix(), setPrefix)
    spinBoxVisible = Property(bool, lambda self: not self._box.isHidden(), _set_spin_box_visible)


class ctkSliderWidget(_DoubleValue):
    """Slider and spin box."""


class ctkDoubleSlider(_DoubleValue):
    """Slider alone."""

    _spin_box_visible = False


class ctkDoubleSpinBox(_DoubleValue):
    """Spin box alone."""

    _slider_visible = False


class ctkRangeWidget(QtWidgets.QWidget):
    """Two spin boxes for a lower and an upper value."""

    valuesChanged = Signal(float, float)
    minimumValueChanged = Signal(float)
    maximumValueChanged = Signal(float)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._low, self._high = QtWidgets.QDoubleSpinBox(), QtWidgets.QDoubleSpinBox()
        self._high.setValue(99)
        self._quiet = False
        for box in (self._low, self._high):
            layout.addWidget(box)
        self._low.valueChanged.connect(lambda value: self._changed(self.minimumValueChanged, value))
        self._high.valueChanged.connect(lambda value: self._changed(self.maximumValueChanged, value))

    def _changed(self, signal: Any, value: float) -> None:
        if self._low.value() > self._high.value():  # the other end is pushed along
            other = self._high if signal is self.minimumValueChanged else self._low
            other.setValue(value)
        signal.emit(value)
        if not self._quiet:
            self.valuesChanged.emit(self._low.value(), self._high.value())

    def setValues(self, low: float, high: float) -> None:
        before = (self._low.value(), self._high.value())
        self._quiet = True
        self._high.setValue(high)
        self._low.setValue(low)
        self._quiet = False
        if (self._low.value(), self._high.value()) != before:
            self.valuesChanged.emit(self._low.value(), self._high.value())

    def setRange(self, low: float, high: float) -> None:
        self._both("setRange", low, high)

    def setMinimumValue(self, value: float) -> None:
        self._low.setValue(value)

    def setMaximumValue(self, value: float) -> None:
        self._high.setValue(value)

    def _both(self, method: str, *arguments: Any) -> None:
        for box in (self._low, self._high):
            getattr(box, method)(*arguments)

    minimumValue = Property(float, lambda self: self._low.value(), setMinimumValue)
    maximumValue = Property(float, lambda self: self._high.value(), setMaximumValue)
    minimum = Property(float, lambda self: self._low.minimum(), lambda self, v: self._both("setMinimum", v))
    maximum = Property(float, lambda self: self._low.maximum(), lambda self, v: self._both("setMaximum", v))
    singleStep = Property(float, lambda self: self._low.singleStep(), lambda self, v: self._both("setSingleStep", v))
    decimals = Property(int, lambda self: self._low.decimals(), lambda self, v: self._both("setDecimals", v))
    suffix = Property(str, lambda self: self._low.suffix(), lambda self, v: self._both("setSuffix", v))


class ctkDoubleRangeSlider(ctkRangeWidget):
    """The same interface as the range widget."""


class ctkCoordinatesWidget(QtWidgets.QWidget):
    """Three spin boxes; the property holds the numbers with commas between."""

    coordinatesChanged = Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._boxes = [QtWidgets.QDoubleSpinBox() for _ in range(3)]
        for box in self._boxes:
            box.setRange(-_UNBOUNDED, _UNBOUNDED)
            layout.addWidget(box)
            box.valueChanged.connect(lambda _value: self.coordinatesChanged.emit(None))

    def setCoordinates(self, text: str) -> None:
        for box, number in zip(self._boxes, text.split(","), strict=True):
            box.setValue(float(number))

    coordinates = Property(str, lambda self: ",".join(f"{box.value():g}" for box in self._boxes), setCoordinates)
