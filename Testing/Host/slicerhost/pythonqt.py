"""PySide6 with PythonQt's manners, so that code written for Slicer's ``qt`` module runs unchanged.

* a Q_PROPERTY is an attribute (``w.text``, ``w.enabled = True``) and is not callable; setters and slots stay methods
* ``obj.connect("sig(args)", f)``, ``obj.disconnect("sig(args)", f)``, ``obj.className()``, ``obj.delete()``
* ``obj.name`` is the object name; ``findChildren`` and ``findChild`` also take a class name
* ``exec_``; integers where an enum property is set

PySide6's classes are patched in place (a subclass would not be the type that widgets from a .ui file have). Callers
that need plain PySide6 (this package, VTK's Qt module, matplotlib) are told apart by the module of their frame.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtNetwork, QtSvg, QtTest, QtUiTools, QtWidgets, QtXml

QT_MODULES = (QtCore, QtGui, QtWidgets, QtUiTools, QtNetwork, QtSvg, QtTest, QtXml)
_NATIVE = ("vtkmodules.", "matplotlib.", "PySide6", "shibokensupport", "slicerhost.")
_SIGNATURE = re.compile(r"^\s*\d?(\w+)\s*(?:\((.*)\))?\s*$")
_CPP_TYPES = {"bool": bool, "int": int, "double": float, "QString": str}

# (address of the sender, signature, callable) -> the connections made for it
_connections: dict[tuple[Any, str, Any], list[tuple[Any, Callable[..., None]]]] = {}


def install() -> None:
    """Patch PySide6 once; later calls do nothing."""
    if hasattr(QtCore.QObject, "className"):
        return
    _pin_bools()
    _patch_qobject()
    _install_properties()
    colour_name = QtGui.QColor.name
    QtGui.QColor.name = lambda self, form=0: colour_name(self, QtGui.QColor.NameFormat(form))


def members(module: Any) -> Iterator[tuple[str, Any]]:
    """All names of a PySide6 module: its classes are created lazily, so ``vars`` is incomplete."""
    for name in sorted(set(dir(module)) | set(getattr(module, "__all__", ()))):
        yield name, getattr(module, name, None)


def _pin_bools() -> None:
    """Before Python 3.12 bools and None are counted, and patched shiboken types drop too many: finalizing then aborts.

    A surplus of references makes True, False and None as immortal as they are in later versions.
    """
    if sys.version_info < (3, 12):
        import ctypes

        for value in (True, False, None):
            ctypes.c_ssize_t.from_address(id(value)).value += 1 << 40


# ---------------------------------------------------------------------------------------------------------- properties
class PythonQtProperty:
    """Descriptor on a PySide6 class: an attribute for module code, PySide6's getter method for native callers."""

    def __init__(self, name: str, getter: Any) -> None:
        self.name, self.getter = name, getter

    def __get__(self, obj: Any, owner: Any = None) -> Any:
        if obj is None:
            return self.getter if self.getter is not None else self
        if self.getter is not None and _called_natively():
            return self.getter.__get__(obj, owner)
        return QtCore.QObject.property(obj, self.name)

    def __set__(self, obj: Any, value: Any) -> None:
        meta = obj.metaObject().property(obj.metaObject().indexOfProperty(self.name))
        if not meta.isWritable():
            raise AttributeError(f"Property '{self.name}' of {type(obj).__name__} object is not writable")
        if meta.isEnumType() and not isinstance(value, (int, str)):
            value = getattr(value, "value", value)
        if not QtCore.QObject.setProperty(obj, self.name, value):
            raise AttributeError(f"Property '{self.name}' of type '{meta.typeName()}' does not accept {value!r}")


def _called_natively() -> bool:
    frame = sys._getframe(2)
    if frame.f_code.co_name == "_qobject_getattribute":
        frame = frame.f_back
    return frame.f_globals.get("__name__", "").startswith(_NATIVE)


def _install_properties() -> None:
    classes = {
        value: None
        for module in QT_MODULES
        for _, value in members(module)
        if isinstance(value, type) and issubclass(value, QtCore.QObject)
    }
    for cls in classes:
        if "__getattribute__" in cls.__dict__:  # QObject's, and those of a few subclasses
            _route_connect(cls)
    for cls in classes:
        meta = getattr(cls, "staticMetaObject", None)
        if meta is None or meta.className() != cls.__name__:
            continue
        for index in range(meta.propertyOffset(), meta.propertyCount()):
            _install_property(cls, meta.property(index).name())
        for base in cls.__mro__[1:]:  # a getter that a subclass declares again hides the base's property
            for name, value in list(vars(base).items()):
                own = cls.__dict__.get(name)
                if isinstance(value, PythonQtProperty) and own is not None and not isinstance(own, PythonQtProperty):
                    setattr(cls, name, PythonQtProperty(name, own))


def _route_connect(cls: Any) -> None:
    """Make ``connect`` and ``disconnect`` ours. A class's own attribute lookup puts PySide6's ahead of the class dict
    (and serves QtCore.Property): it has to be wrapped, not replaced."""
    lookup = cls.__getattribute__

    def _qobject_getattribute(self: Any, name: str) -> Any:
        if name == "connect":
            return types.MethodType(connect, self)
        if name == "disconnect":
            return types.MethodType(disconnect, self)
        return lookup(self, name)

    cls.__getattribute__ = _qobject_getattribute


def _install_property(cls: Any, name: str) -> None:
    declared = [base.__dict__[name] for base in cls.__mro__ if name in base.__dict__]
    getter = next((value for value in declared if not isinstance(value, PythonQtProperty)), None)
    if not isinstance(getter, (property, QtCore.Signal)):
        setattr(cls, name, PythonQtProperty(name, getter))


# ------------------------------------------------------------------------------------------------ connect / disconnect
def connect(sender: Any, *arguments: Any) -> bool:
    """``sender.connect("signal(types)", callable)`` or ``(..., receiver, "slot(types)")``; False without such a signal.

    The callable gets as many arguments as the signature names, and at most as many as it has positional parameters,
    defaulted ones included.
    """
    text, *target = arguments
    if not isinstance(text, str):
        raise TypeError("use obj.connect('signal(types)', callable)")
    if len(target) >= 2 and isinstance(target[1], str):
        function = getattr(target[0], _parse(target[1])[0])
    else:
        function = target[0]
    signal, count = _signal(sender, text)
    if signal is None:
        sys.stderr.write(f"connect: {type(sender).__name__} has no signal {text}\n")
        return False
    count = min(count, _positional(function))

    def call(*values: Any) -> None:
        function(*values[:count])

    _connections.setdefault(_key(sender, text, function), []).append((signal, call))
    signal.connect(call)
    return True


def disconnect(sender: Any, *arguments: Any) -> bool:
    """Undo ``connect``; True if a connection was there."""
    if not arguments:
        return bool(QtCore.QObject.disconnect(sender))
    text, *target = arguments
    if not target:
        address, name = _key(sender, text, None)[:2]
        keys = [key for key in _connections if key[:2] == (address, name)]
    else:
        function = getattr(target[0], _parse(target[1])[0]) if len(target) >= 2 else target[0]
        keys = [_key(sender, text, function)]
    done = False
    for key in keys:
        for signal, call in _connections.pop(key, []):
            signal.disconnect(call)
            done = True
    return done


def _parse(text: str) -> tuple[str, list[str]]:
    match = _SIGNATURE.match(text)
    if match is None:
        raise ValueError(f"not a signal or slot signature: {text!r}")
    name, arguments = match.groups()
    return name, [argument.strip() for argument in arguments.split(",")] if arguments else []


def _signal(sender: Any, text: str) -> tuple[Any, int]:
    name, cpp_types = _parse(text)
    signal = getattr(sender, name, None)
    if signal is None or not hasattr(signal, "connect"):
        return None, 0
    try:  # pick the overload named, where PySide6 knows it
        python_types = tuple(_CPP_TYPES[cpp_type] for cpp_type in cpp_types)
        return signal[python_types if len(python_types) > 1 else python_types[0]], len(cpp_types)
    except (KeyError, IndexError):
        return signal, len(cpp_types)


def _positional(function: Any) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return sys.maxsize
    if any(parameter.kind == parameter.VAR_POSITIONAL for parameter in parameters):
        return sys.maxsize
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _key(sender: Any, text: str, function: Any) -> tuple[Any, str, Any]:
    if isinstance(function, types.MethodType):
        function = (id(function.__self__), function.__func__)
    return shiboken6.getCppPointer(sender)[0], text.replace(" ", ""), function


# ------------------------------------------------------------------------------------------------------------- QObject
def _patch_qobject() -> None:
    find_all, find_one = QtCore.QObject.findChildren, QtCore.QObject.findChild

    def find_children(self: Any, kind: Any = None, name: str | None = None, *options: Any) -> list[Any]:
        if isinstance(kind, str):
            found = [child for child in find_all(self, QtCore.QObject) if child.inherits(kind)]
            return [child for child in found if not name or QtCore.QObject.property(child, "objectName") == name]
        return find_all(self, kind or QtCore.QObject, *(() if name is None else (name, *options)))

    def find_child(self: Any, kind: Any = None, name: str | None = None, *options: Any) -> Any:
        if isinstance(kind, str):
            return next(iter(find_children(self, kind, name)), None)
        return find_one(self, kind or QtCore.QObject, *(() if name is None else (name, *options)))

    qobject = QtCore.QObject
    qobject.className = lambda self: self.metaObject().className()
    qobject.delete = lambda self: shiboken6.delete(self)
    qobject.name = property(
        lambda self: qobject.property(self, "objectName"),
        lambda self, value: qobject.setProperty(self, "objectName", value),
    )
    qobject.findChildren, qobject.findChild = find_children, find_child
    for cls in (QtWidgets.QMenu, QtCore.QCoreApplication, QtCore.QEventLoop):
        cls.exec_ = cls.exec
    _patch_dialogs()


def _patch_dialogs() -> None:
    """``slicer.util`` calls ``deleteLater`` on a dialog before ``exec_``, which is right inside Slicer's event loop.
    Tests run outside of any: there Qt would delete the dialog as soon as it opens, so that has to wait for its end."""
    delete_later, execute = QtWidgets.QDialog.deleteLater, QtWidgets.QDialog.exec

    def delete_dialog_later(self: Any) -> None:
        if QtCore.QThread.currentThread().loopLevel():
            delete_later(self)
        else:
            self._delete_after_exec = True

    def execute_dialog(self: Any) -> int:
        result = execute(self)
        if getattr(self, "_delete_after_exec", False):
            delete_later(self)
        return result

    QtWidgets.QDialog.deleteLater, QtWidgets.QDialog.exec_ = delete_dialog_later, execute_dialog
