"""JSON files read and written: one sentence when they are wrong, never half a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .se3 import Array, nearest_rigid, rigidity_error


def read_json(path: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """The JSON object in a file. `what` names it in messages ("C-arm file").

    Raises:
        InputError: the file is missing, unreadable, not JSON, or not an object.
    """
    name = Path(path).name
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"The {what} {name} does not exist; check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The {what} {name} cannot be read ({type(error).__name__}); is it a text file?") from None
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"The {what} {name} is not valid JSON (line {error.lineno}: {error.msg}).") from None
    if not isinstance(data, dict):
        raise InputError(f"The {what} {name} holds a JSON {type(data).__name__}, where an object {{...}} is expected.")
    return data


def write_json(path: str | os.PathLike[str], data: dict[str, Any]) -> None:
    """Write a JSON object atomically: readers see the old file or the whole new one."""
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def number(data: dict[str, Any], key: str, what: str) -> float:
    """A finite number out of a JSON object.

    Raises:
        InputError: it is missing or something else.
    """
    if key not in data:
        raise InputError(f"The {what} lacks {key!r}; add it.")
    value = data[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise InputError(f"The {what} has {key} = {value!r}, where a number is expected.")
    return float(value)


def numbers(data: dict[str, Any], key: str, count: int, what: str) -> list[float]:
    """A list of `count` finite numbers out of a JSON object.

    Raises:
        InputError: it is missing or something else.
    """
    if key not in data:
        raise InputError(f"The {what} lacks {key!r}; add it.")
    value = data[key]
    if not isinstance(value, list) or len(value) != count:
        raise InputError(f"The {what} has {key} = {value!r}, where a list of {count} numbers is expected.")
    return [number({key: item}, key, what) for item in value]


def rigid_matrix(value: Any, what: str) -> Array:
    """A rigid 4x4 float64 matrix from anything array-like, made exactly rigid if it is so to 1e-3.

    Raises:
        InputError: wrong shape, not finite, or not rigid (the message says how far off).
    """
    try:
        matrix = np.array(value, float)
    except (TypeError, ValueError):
        raise InputError(f"The {what} is not a 4x4 matrix of numbers.") from None
    if matrix.shape != (4, 4):
        raise InputError(f"The {what} has shape {matrix.shape}, where a 4x4 matrix is expected.")
    if not np.isfinite(matrix).all():
        raise InputError(f"The {what} holds values that are not finite.")
    error = rigidity_error(matrix)
    if error > 1e-3:
        raise InputError(
            f"The {what} is not rigid (rotation part off by {error:.3g}): it must turn and shift only, "
            "without scaling, shearing or mirroring."
        )
    return nearest_rigid(matrix)
