"""Reading and writing typed values as parameters of a ``vtkMRMLScriptedModuleNode``, in Slicer's notation."""

from __future__ import annotations

import enum
import pathlib
import types
import typing
from collections.abc import Callable, Iterable, MutableSequence
from typing import Any

import slicer

from . import annotations


class Serializer:
    """A value as one text parameter; subclasses differ from that. ``kind`` is what a value must be."""

    def __init__(
        self, kind: Any, default: Any, to_text: Callable[[Any], str] = str, from_text: Callable[[str], Any] = str
    ) -> None:
        self.kind, self.default, self._to_text, self._from_text = kind, default, to_text, from_text
        self.validators: list[annotations.Validator] = []

    def check(self, value: Any) -> None:
        if not isinstance(value, self.kind):
            if value is None:
                raise ValueError("None is not a value of this parameter")
            raise TypeError(f"{value!r} is not of type {self.kind}")
        for validator in self.validators:
            validator.validate(value)

    def is_in(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(name))

    def write(self, node: Any, name: str, value: Any) -> None:
        self.check(value)
        node.SetParameter(name, self._to_text(value))

    def read(self, node: Any, name: str) -> Any:
        return self._from_text(node.GetParameter(name))

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)


class NodeSerializer(Serializer):
    """A node reference; the empty parameter beside it says that it was set, since None is a value."""

    def __init__(self, kinds: tuple[type, ...]) -> None:
        super().__init__((*kinds, type(None)), None)

    def write(self, node: Any, name: str, value: Any) -> None:
        self.check(value)
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node: Any, name: str) -> Any:
        return node.GetNodeReference(name)

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)
        node.RemoveNodeReferenceIDs(name)


class UnionSerializer(Serializer):
    """One of several types, ``Optional`` above all: parameter ``name.index`` of the type that fits."""

    def __init__(self, members: list[Serializer]) -> None:
        super().__init__(object, None if any(isinstance(m, NoneSerializer) for m in members) else members[0].default)
        self._members = members

    def is_in(self, node: Any, name: str) -> bool:
        return any(member.is_in(node, f"{name}.{index}") for index, member in enumerate(self._members))

    def write(self, node: Any, name: str, value: Any) -> None:
        index = self._index(value)
        for validator in self.validators:
            validator.validate(value)
        with slicer.util.NodeModify(node):
            self.remove(node, name)
            self._members[index].write(node, f"{name}.{index}", value)

    def _index(self, value: Any) -> int:
        error: Exception | None = None
        for index, member in enumerate(self._members):
            fits = value is None if isinstance(member, NoneSerializer) else value is not None
            if fits:
                try:
                    member.check(value)
                    return index
                except (TypeError, ValueError) as problem:
                    error = problem
        raise error or TypeError(f"{value!r} is of none of the types")

    def read(self, node: Any, name: str) -> Any:
        for index, member in enumerate(self._members):
            if member.is_in(node, f"{name}.{index}"):
                return member.read(node, f"{name}.{index}")
        raise KeyError(name)

    def remove(self, node: Any, name: str) -> None:
        for index, member in enumerate(self._members):
            member.remove(node, f"{name}.{index}")


class NoneSerializer(Serializer):
    """None, as a member of a union."""

    def __init__(self) -> None:
        super().__init__(type(None), None, lambda _value: "True", lambda _text: None)

    def check(self, value: Any) -> None:
        if value is not None:
            raise ValueError("the value must be None")


class ObservedList(MutableSequence):
    """A list that writes itself back to the parameter node when it changes."""

    def __init__(self, values: list[Any], save: Callable[[list[Any]], None]) -> None:
        self._values, self._save = values, save

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._values[index] = value
        self._save(self._values)

    def __delitem__(self, index: Any) -> None:
        del self._values[index]
        self._save(self._values)

    def insert(self, index: int, value: Any) -> None:
        self._values.insert(index, value)
        self._save(self._values)

    def __eq__(self, other: object) -> bool:
        return self._values == (other._values if isinstance(other, ObservedList) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ObservedList({self._values})"


class ListSerializer(Serializer):
    """A list: parameters ``name.len`` and ``name.index``."""

    def __init__(self, element: Serializer) -> None:
        super().__init__((list, ObservedList), [])
        self._element = element

    def check(self, value: Any) -> None:
        super().check(value)
        for item in value:
            self._element.check(item)

    def is_in(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(f"{name}.len"))

    def _count(self, node: Any, name: str) -> int:
        return int(node.GetParameter(f"{name}.len")) if self.is_in(node, name) else 0

    def write(self, node: Any, name: str, value: Iterable[Any]) -> None:
        values = list(value)
        self.check(values)
        with slicer.util.NodeModify(node):
            for index in range(len(values), self._count(node, name)):
                self._element.remove(node, f"{name}.{index}")
            for index, item in enumerate(values):
                self._element.write(node, f"{name}.{index}", item)
            node.SetParameter(f"{name}.len", str(len(values)))

    def read(self, node: Any, name: str) -> ObservedList:
        values = [self._element.read(node, f"{name}.{index}") for index in range(self._count(node, name))]
        return ObservedList(values, lambda changed: self.write(node, name, changed))

    def remove(self, node: Any, name: str) -> None:
        for index in range(self._count(node, name)):
            self._element.remove(node, f"{name}.{index}")
        node.UnsetParameter(f"{name}.len")


def create(annotated: Any) -> Serializer:
    """The serializer of a type, with the validators of its annotation. Raises TypeError for an unknown type."""
    kind, extra = annotations.split(annotated)
    serializer = _create(kind)
    serializer.validators = [annotation for annotation in extra if isinstance(annotation, annotations.Validator)]
    default = annotations.first(extra, annotations.Default)
    if default is not None:
        serializer.default = default.value
    return serializer


def _create(kind: Any) -> Serializer:
    from . import packs

    if kind is bool:
        return Serializer(bool, False, str, lambda text: text == "True")
    if kind is int:
        return Serializer(int, 0, str, int)
    if kind is float:
        return Serializer((int, float), 0, str, float)
    if kind is str:
        return Serializer(str, "")
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return UnionSerializer([create(member) for member in typing.get_args(kind)])
    if typing.get_origin(kind) is list:
        return ListSerializer(create(typing.get_args(kind)[0]))
    if packs.isParameterPack(kind):
        return packs.PackSerializer(kind)
    if isinstance(kind, type):
        if kind is type(None):
            return NoneSerializer()
        if issubclass(kind, pathlib.PurePath):
            return Serializer(kind, kind(), str, kind)
        if issubclass(kind, enum.Enum):
            return Serializer(kind, next(iter(kind)), lambda value: value.name, lambda text: kind[text])
        if issubclass(kind, slicer.vtkMRMLNode):
            return NodeSerializer((kind,))
    raise TypeError(f"no serializer for {kind}")
