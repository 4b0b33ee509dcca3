"""Parameters that belong together: ``@parameterPack`` classes, stored as ``name.member``."""

from __future__ import annotations

import typing
from typing import Any

import slicer

from . import annotations, serializers


def isParameterPack(kind: Any) -> bool:
    return hasattr(kind, "_pack_members")


def parameterPack(cls: Any) -> Any:
    """Class decorator: annotated members with defaults, keyword and positional initialisation, validation, equality."""
    members: dict[str, serializers.Serializer] = {}
    types: dict[str, Any] = {}
    for name, annotated in typing.get_type_hints(cls, include_extras=True).items():
        members[name], types[name] = serializers.create(annotated), annotated
        if hasattr(cls, name):
            members[name].default = getattr(cls, name)
            delattr(cls, name)

    def initialize(self: Any, *positional: Any, **named: Any) -> None:
        object.__setattr__(self, "_save", None)
        values = dict(zip(members, positional, strict=False)) | named
        unknown = set(values) - set(members)
        if unknown:
            raise TypeError(f"{cls.__name__} has no member {', '.join(sorted(unknown))}")
        for name, member in members.items():
            setattr(self, name, values.get(name, member.default))

    def assign(self: Any, name: str, value: Any) -> None:
        if name not in members and not hasattr(cls, name):
            raise AttributeError(f"{cls.__name__} has no member {name}")
        if name in members:
            members[name].check(value)
        object.__setattr__(self, name, value)
        if self._save is not None:
            self._save(self)

    def to_dict(self: Any) -> dict[str, Any]:
        return {name: getattr(self, name) for name in members}

    cls._pack_members, cls._pack_types = members, types
    cls.__setattr__ = assign
    cls.__eq__ = lambda self, other: isinstance(other, cls) and to_dict(self) == to_dict(other)
    cls.__hash__ = None
    cls.__repr__ = lambda self: f"{cls.__name__}({', '.join(f'{k}={v!r}' for k, v in to_dict(self).items())})"
    cls.getValue = lambda self, name: _reach(self, name)
    cls.setValue = lambda self, name, value: setattr(_reach(self, name.rpartition(".")[0]), name.split(".")[-1], value)
    cls.dataType = staticmethod(lambda name: data_type(cls, name))
    cls.__init__ = initialize
    return cls


def _reach(obj: Any, dotted: str) -> Any:
    for name in filter(None, dotted.split(".")):
        obj = getattr(obj, name)
    return obj


def data_type(pack: Any, dotted: str) -> Any:
    """The annotated type of a (dotted) member."""
    name, _, rest = dotted.partition(".")
    if not isParameterPack(pack) or name not in pack._pack_types:
        raise ValueError(f"{pack} has no member {name}")
    annotated = pack._pack_types[name]
    return data_type(annotations.split(annotated)[0], rest) if rest else annotated


class PackSerializer(serializers.Serializer):
    """A parameter pack: each member under ``name.member``; what is read writes its changes back."""

    def __init__(self, kind: Any) -> None:
        super().__init__(kind, None)
        self._pack = kind
        self.default = kind()

    def is_in(self, node: Any, name: str) -> bool:
        return all(member.is_in(node, f"{name}.{key}") for key, member in self._pack._pack_members.items())

    def write(self, node: Any, name: str, value: Any) -> None:
        self.check(value)
        with slicer.util.NodeModify(node):
            for key, member in self._pack._pack_members.items():
                member.write(node, f"{name}.{key}", getattr(value, key))

    def read(self, node: Any, name: str) -> Any:
        members = self._pack._pack_members.items()
        values = {key: member.read(node, f"{name}.{key}") for key, member in members}
        pack = self._pack.__new__(self._pack)
        object.__setattr__(pack, "_save", None)
        for key, value in values.items():
            object.__setattr__(pack, key, value)
        object.__setattr__(pack, "_save", lambda changed: self.write(node, name, changed))
        return pack

    def remove(self, node: Any, name: str) -> None:
        for key, member in self._pack._pack_members.items():
            member.remove(node, f"{name}.{key}")


@parameterPack
class FloatRange:
    """A lower and an upper value (stored under the names of Slicer's FloatRange)."""

    _minimum: float = 0
    _maximum: float = 0

    @property
    def minimum(self) -> float:
        return self._minimum

    @minimum.setter
    def minimum(self, value: float) -> None:
        self._minimum = value

    @property
    def maximum(self) -> float:
        return self._maximum

    @maximum.setter
    def maximum(self, value: float) -> None:
        self._maximum = value
