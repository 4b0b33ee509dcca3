"""``@parameterNodeWrapper``: a class of annotated members becomes typed properties over a parameter node."""

from __future__ import annotations

import typing
from typing import Any

import qt
import slicer
import vtk

from . import annotations, packs, serializers
from .connectors import GuiConnector, createGuiConnector

SlicerParameterNamePropertyName = "SlicerParameterName"


def isParameterNodeWrapper(obj: Any) -> bool:
    return getattr(obj, "_is_parameter_node_wrapper", False)


def parameterNodeWrapper(cls: Any = None) -> Any:
    """Class decorator. Defaults come from ``member: type = value``, from ``Default(...)``, or from the type."""
    if cls is None:
        return parameterNodeWrapper
    members: dict[str, serializers.Serializer] = {}
    types: dict[str, Any] = {}
    for name, annotated in typing.get_type_hints(cls, include_extras=True).items():
        members[name], types[name] = serializers.create(annotated), annotated
        if hasattr(cls, name):
            members[name].default = getattr(cls, name)
        setattr(cls, name, _property(name))
    for name, value in vars(_Wrapper).items():
        if not name.startswith("__") or name == "__init__":
            if name in members:
                raise ValueError(f"'{name}' is reserved in a parameterNodeWrapper")
            setattr(cls, name, value)
    cls._members, cls._types = members, types
    cls.dataType = staticmethod(lambda name: _data_type(cls, name))
    return cls


def _property(name: str) -> property:
    return property(
        lambda self: self._members[name].read(self.parameterNode, self._prefix + name),
        lambda self, value: self._members[name].write(self.parameterNode, self._prefix + name, value),
    )


def _data_type(cls: Any, dotted: str) -> Any:
    name, _, rest = dotted.partition(".")
    if name not in cls._types:
        raise ValueError(f"Cannot find a param with the given name: {name}")
    return packs.data_type(annotations.split(cls._types[name])[0], rest) if rest else cls._types[name]


class _Wrapper:
    """The methods every wrapped class gets."""

    _members: dict[str, serializers.Serializer]
    _types: dict[str, Any]
    dataType: Any
    _is_parameter_node_wrapper = True

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        self.parameterNode, self._prefix = parameterNode, prefix or ""
        self._guis: dict[int, tuple[dict[str, GuiConnector], int]] = {}
        self._next_tag = 0
        self._showing = False
        for name, serializer in self._members.items():
            if not serializer.is_in(parameterNode, self._prefix + name):
                serializer.write(parameterNode, self._prefix + name, serializer.default)

    def default(self, name: str) -> annotations.Default:
        return annotations.Default(self._members[name].default)

    def getValue(self, name: str) -> Any:
        self.dataType(name)
        top, _, rest = name.partition(".")
        value = getattr(self, top)
        return value.getValue(rest) if rest else value

    def setValue(self, name: str, value: Any) -> None:
        self.dataType(name)
        top, _, rest = name.partition(".")
        if rest:
            getattr(self, top).setValue(rest, value)
        else:
            setattr(self, top, value)

    # ------------------------------------------------------------------------------------------------ binding to a GUI
    def connectGui(self, gui: Any) -> int:
        """Bind every widget with the dynamic property SlicerParameterName, among a widget's children or an object's
        attributes. Returns a tag for ``disconnectGui``."""
        is_widget = getattr(gui, "isWidgetType", lambda: False)()
        widgets = gui.findChildren(qt.QWidget) if is_widget else vars(gui).values()
        named = {widget.property(SlicerParameterNamePropertyName): widget for widget in widgets}
        return self.connectParametersToGui({name: widget for name, widget in named.items() if name})

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        connectors = {}
        for name, widget in mapping.items():
            kind = self.dataType(name)
            connectors[name] = widget if isinstance(widget, GuiConnector) else createGuiConnector(widget, kind)
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.onChanged(lambda name=name, connector=connector: self._take(name, connector))
        observation = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show())
        self._next_tag += 1
        self._guis[self._next_tag] = (connectors, observation)
        return self._next_tag

    def disconnectGui(self, tag: int) -> None:
        if tag in self._guis:
            connectors, observation = self._guis.pop(tag)
            for connector in connectors.values():
                connector.onChanged(None)
            self.RemoveObserver(observation)

    def _take(self, name: str, connector: GuiConnector) -> None:
        if not self._showing:
            with slicer.util.NodeModify(self):
                self.setValue(name, connector.read())

    def _show(self) -> None:
        if self._showing:
            return
        self._showing = True
        try:
            with slicer.util.NodeModify(self):
                for connectors, _ in list(self._guis.values()):
                    for name, connector in connectors.items():
                        connector.write(self.getValue(name))
        finally:
            self._showing = False

    # -------------------------------------------------------------------------------------- the node's own, for mixins
    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def StartModify(self) -> Any:
        return self.parameterNode.StartModify()

    def EndModify(self, was_modifying: Any) -> Any:
        return self.parameterNode.EndModify(was_modifying)

    def Modified(self) -> None:
        self.parameterNode.Modified()
