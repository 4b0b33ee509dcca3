"""What the engine's client and worker say to each other: one JSON object a line.

    client -> worker   {"id": 7, "method": "render", "params": {...}}
    worker -> client   {"id": 7, "event": "progress", "data": {...}}       any number of them
                       {"id": 7, "result": {...}}                          then one of these two
                       {"id": 7, "error": {"kind": "input", "message": "..."}}

Error kinds: "input" (the request is at fault, the message is for the user), "cancelled", "defect" (ours). Requests are
worked on in the order they come, except "cancel", which acts at once. Arrays are not in the lines: see `arrays`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

# Changes whenever a message changes its meaning; client and worker must have the same.
VERSION = 1

METHODS = (
    "hello",
    "doctor",
    "read_geometry",
    "load_ct",
    "load_model",
    "render",
    "register",
    "track",
    "report",
    "cancel",
    "shutdown",
)
ERROR_KINDS = ("input", "defect", "cancelled")


class ProtocolError(ValueError):
    """A line that is no valid message. `id` is the request's where it could be read."""

    def __init__(self, message: str, id: int | None = None) -> None:
        super().__init__(message)
        self.id = id


@dataclass(frozen=True)
class Request:
    """The client asks the worker to do something."""

    id: int
    method: str
    params: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "method": self.method, "params": self.params}


@dataclass(frozen=True)
class Progress:
    """How far a request is."""

    id: int
    data: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "event": "progress", "data": self.data}


@dataclass(frozen=True)
class Result:
    """A request is done."""

    id: int
    result: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "result": self.result}


@dataclass(frozen=True)
class Error:
    """A request failed. `id` is None where the request could not be read; `details` of a defect say where it arose."""

    id: int | None
    kind: str
    message: str
    details: str = ""

    def to_json(self) -> dict[str, Any]:
        error = {"kind": self.kind, "message": self.message}
        return {"id": self.id, "error": error | {"details": self.details} if self.details else error}


Reply = Progress | Result | Error


def plain(value: Any) -> Any:
    """`value` in JSON's own types: numpy scalars become numbers, paths text, numbers that are not finite null.

    Raises:
        TypeError: it holds something else, such as an array, which must go through `arrays` or `tolist()`.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    raise TypeError(f"a message cannot hold a {type(value).__name__}")


def encode(message: Request | Reply) -> bytes:
    """One line of ASCII, newline included."""
    return json.dumps(plain(message.to_json()), separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise ProtocolError("The line is not JSON.") from None
    if not isinstance(data, dict):
        raise ProtocolError(f"The line holds a JSON {type(data).__name__}, where an object is expected.")
    return data


def _id(data: dict[str, Any]) -> int:
    id = data.get("id")
    if isinstance(id, bool) or not isinstance(id, int):
        raise ProtocolError("The message has no whole number as its id.")
    return id


def decode_request(line: bytes) -> Request:
    """The request in a line.

    Raises:
        ProtocolError: the line is no request, or names a method that does not exist.
    """
    data = _object(line)
    id = _id(data)
    method, params = data.get("method"), data.get("params", {})
    if not isinstance(method, str) or method not in METHODS:
        raise ProtocolError(f"The method {method!r} does not exist; there are {', '.join(METHODS)}.", id)
    if not isinstance(params, dict):
        raise ProtocolError(f"The params are a JSON {type(params).__name__}, where an object is expected.", id)
    return Request(id, method, params)


def decode_reply(line: bytes) -> Reply:
    """The reply in a line.

    Raises:
        ProtocolError: the line is no reply.
    """
    data = _object(line)
    error = data.get("error")
    if isinstance(error, dict) and error.get("kind") in ERROR_KINDS and isinstance(error.get("message"), str):
        id_ = None if data.get("id") is None else _id(data)
        return Error(id_, error["kind"], error["message"], str(error.get("details", "")))
    id = _id(data)
    if isinstance(data.get("result"), dict):
        return Result(id, data["result"])
    if data.get("event") == "progress" and isinstance(data.get("data"), dict):
        return Progress(id, data["data"])
    raise ProtocolError("The reply is neither progress, result nor error.", id)
